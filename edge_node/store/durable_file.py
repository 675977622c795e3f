"""Writes a file so that after a crash it is there whole or not at all.

Owns the order of write, sync and rename; what a file means is its caller's.
"""

from __future__ import annotations

import os
from pathlib import Path

# What a crash in mid-write leaves behind; whoever owns the folder removes it at start.
TEMPORARY_SUFFIX = ".partial"


def write_durably(path: Path, content: bytes, *, modified_unix_s: float) -> None:
    """Puts `content` at `path`, on disk when this returns; two writers of one path must not meet.

    Raises:
        OSError: the disk is full or failing; nothing is left at `path` that was not there before.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.utime(file.fileno(), (modified_unix_s, modified_unix_s))
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent, os.O_DIRECTORY)


def touch_durably(path: Path, *, modified_unix_s: float) -> None:
    """Sets a file's time of modification, on disk when this returns.

    Raises:
        OSError: the file is gone, or the disk is failing.
    """
    os.utime(path, (modified_unix_s, modified_unix_s))
    _sync(path)


def _sync(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
