"""One thread for all of the scheduler's tests: on small matrices more threads only wait."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """As the trainer sets it."""
    torch.set_num_threads(1)
