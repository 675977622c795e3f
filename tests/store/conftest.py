from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.valkey_process import ValkeyProcess


@pytest.fixture
def valkey() -> Iterator[ValkeyProcess]:
    # Not tmp_path: its name would exceed what a Unix socket allows.
    with tempfile.TemporaryDirectory(prefix="vk") as folder:
        process = ValkeyProcess(Path(folder))
        process.start()
        yield process
        process.kill()
