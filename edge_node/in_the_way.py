"""What lies where a file of ours belongs and is none: put aside, so that a start does not fail."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

log = logging.getLogger(__name__)


def put_aside(path: Path) -> None:
    """Renames it; nothing that is not ours is removed."""
    aside = path.with_name(f"{path.name}.in-the-way-{time.monotonic_ns()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        log.warning("%s was in the way and is %s now", path, aside.name)
