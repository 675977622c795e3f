"""Writes a file so that after a crash it is there whole or not at all.

Owns the order of write, sync and rename; what a file means is its caller's.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

# What a crash in mid-write leaves behind; whoever owns the folder removes it at start.
TEMPORARY_SUFFIX = ".partial"


def write_durably(path: Path, content: bytes, *, modified_unix_s: float) -> None:
    """Puts `content` at `path`, on disk when this returns; two writers of one path must not meet.

    Raises:
        OSError: the disk is full or failing; nothing is left at `path` that was not there before.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    write_synced(temporary, content, modified_unix_s=modified_unix_s)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent, os.O_DIRECTORY)


def write_synced(temporary: Path, content: bytes, *, modified_unix_s: float) -> None:
    """Writes a file whose content is on disk when this returns, though its name may not be.

    Raises:
        OSError: the disk is full or failing; the file is gone.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o600)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.utime(descriptor, (modified_unix_s, modified_unix_s))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


class FolderSync:
    """Puts the names in a folder on disk; threads that ask at the same time share a sync."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asking = threading.Lock()
        self._syncing = threading.Lock()
        self._asked = self._synced = 0

    def sync(self) -> None:
        """Returns when every name that was there at the call is on disk.

        Raises:
            OSError: the disk is failing, or the folder is gone.
        """
        with self._asking:
            self._asked += 1
            mine = self._asked
        with self._syncing:
            if self._synced >= mine:
                return  # a sync that began after this call has ended meanwhile
            asked = self._asked
            _sync(self._folder, os.O_DIRECTORY)
            self._synced = asked


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
