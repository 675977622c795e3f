"""Short paths for sockets, and no process left over by any test."""

from __future__ import annotations

import os
import pathlib
import tempfile
import time
from collections.abc import Iterator

import pytest


@pytest.fixture
def run_dir() -> Iterator[pathlib.Path]:
    """A directory of a short name; at the end no process may have it in its command line."""
    with tempfile.TemporaryDirectory(prefix="dedgeai-", dir="/tmp") as name:
        yield pathlib.Path(name)
        deadline_s = time.monotonic() + 5.0
        while (left := processes_naming(name)) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert not left, f"processes left over: {left}"


def processes_naming(text: str) -> dict[int, str]:
    """Command lines that contain `text`, by process id; zombies have none."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found[int(entry.name)] = line
    return found
