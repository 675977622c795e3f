"""A real node that is sent many large images at once stays small, and is as small after."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.upload_memory import measure, noise, png
from tests.system.local import free_port

pytestmark = pytest.mark.system


def test_large_uploads_are_decoded_within_one_budget_and_leave_nothing(tmp_path: Path) -> None:
    side_px = 3200
    one_mb = 4 * side_px**2 / 1e6
    contents = [png(kind, side_px) for kind in ("RGB", "RGBA", "grey with alpha") * 2]
    found = asyncio.run(measure(tmp_path, port=free_port(1), contents=contents))
    # Beside one decoded image: Pillow, Python and the pieces of an image.
    assert found["peak_mb"] < found["idle_mb"] + one_mb + 60
    assert found["after_mb"] < found["idle_mb"] + 30


def test_large_files_wait_on_disk_beside_the_one_that_is_decoded(tmp_path: Path) -> None:
    side_px, file_bytes = 3200, 12_000_000
    one_mb = 4 * side_px**2 / 1e6
    contents = [png("RGBA", side_px), noise(file_bytes), noise(file_bytes)]
    found = asyncio.run(measure(tmp_path, port=free_port(1), contents=contents, times=2))
    assert found["peak_mb"] < found["idle_mb"] + one_mb + 60
    assert found["after_mb"] < found["idle_mb"] + 30
