"""The disk below a node's data folder: whether there is room, and whether its folders are there.

Owns the look at both and the sentence for clients. Below low water old images make room first;
where that is not enough, nothing new is taken, so that what was accepted can end.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from edge_node.errors import DEdgeAIError, DiskLow, StoreUnavailable

LOOK_EVERY_S = 1.0
RETRY_AFTER_S = 10.0
# Beyond low water, so that the next image does not go below it again.
ROOM_AGAIN = 1.05
# Of new files, below which there is no room, either: a disk can have many bytes and no more files.
FILES_FREE_MIN = 256


class DiskWatch:
    """Looks once a second.

    Args:
        folder: the node's data.
        parts: folders in it that what was accepted is kept in, there by now.
        free_bytes_min: gives the low water, as configured now.
        make_room: removes so many bytes of old images, or as many as there are; returns how many
            are gone.
        on_looked: told the bytes that are free.
    """

    def __init__(
        self,
        folder: Path,
        *,
        parts: Sequence[Path] = (),
        free_bytes_min: Callable[[], int],
        make_room: Callable[[int], Awaitable[int]],
        on_looked: Callable[[int], None] = lambda free_bytes: None,
    ) -> None:
        self._folder = folder
        self._free_bytes_min = free_bytes_min
        self._make_room = make_room
        self._on_looked = on_looked
        self._identities = {one: _identity(one) for one in (folder, *parts)}
        self._refusal: DEdgeAIError | None = None

    def refusal(self) -> DEdgeAIError | None:
        """Why nothing can be promised at present; None where it can."""
        return self._refusal

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Looks now, and makes room where there is little."""
        wrong = await asyncio.to_thread(self._wrong)
        if wrong:
            self._refusal = StoreUnavailable(
                f"{wrong}, and what is accepted now would be lost.",
                retry_after_s=RETRY_AFTER_S,
            )
            return
        free_bytes, free_files = await self._free()
        low_bytes = self._free_bytes_min()
        if free_bytes < low_bytes:
            await self._make_room(int(low_bytes * ROOM_AGAIN) - free_bytes)
        while free_files < FILES_FREE_MIN and await self._make_room(1):  # one image, one file
            free_files += 1
        free_bytes, free_files = await self._free()
        self._on_looked(free_bytes)
        lacking = ""
        if free_bytes < low_bytes:
            lacking = (
                f"has {free_bytes >> 20} MiB free, less than {low_bytes >> 20} "
                "(disk_free_bytes_min): nothing new is taken. Free space"
            )
        elif free_files < FILES_FREE_MIN:
            lacking = (
                f"takes {free_files:.0f} more files, whatever their size, less than "
                f"{FILES_FREE_MIN}: nothing new is taken. Remove files (df -i counts them)"
            )
        self._refusal = None
        if lacking:
            self._refusal = DiskLow(
                f"The disk of {self._folder} {lacking}, or ask another node.",
                retry_after_s=RETRY_AFTER_S,
            )

    async def _free(self) -> tuple[int, float]:
        """Bytes, and files; infinitely many of these where the file system has no such bound."""
        status = await asyncio.to_thread(os.statvfs, self._folder)
        free_files = status.f_favail if status.f_files else math.inf
        return status.f_bavail * status.f_frsize, free_files

    def _wrong(self) -> str:
        """What is wrong with a folder; empty if nothing is."""
        for folder, identity in self._identities.items():
            if identity is None or _identity(folder) != identity:
                return (
                    f"The data folder {folder} is gone, or is another one than at the start: bring "
                    "it back, and the node goes on, or restart it with what is there"
                )
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                return (
                    f"The data folder {folder} cannot be read and written any more: give it back "
                    f"to user {os.getuid()}, as whom the node runs"
                )
        return ""


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
