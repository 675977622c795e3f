"""A node answers as its OpenAPI document says, whatever it is asked, without keys and with them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.system.conformance import judged

pytestmark = pytest.mark.system
# Of each; `python -m tests.system.conformance` takes longer.
SECONDS = 15


@pytest.mark.parametrize("with_keys", [False, True])
def test_a_node_answers_as_its_document_says(tmp_path: Path, with_keys: bool) -> None:
    status, said = asyncio.run(judged(tmp_path, with_keys=with_keys, seconds=SECONDS))
    assert status == 0, said
    made = re.search(r"(\d+) generated", said)
    assert made is not None
    assert int(made[1]) > 5, said  # hundreds on a machine with nothing else to do
