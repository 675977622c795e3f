"""The images that tasks start from, as files named by their content, one folder, bounded in bytes.

Owns `<sha256>.png` in its folder and nothing else there. A file's time of modification is the
moment until which some task may need it, the latest deadline of all that named it: it outlives a
crash, and what it has passed can go. An image that `write` returned from survives a crash; one
that a task may still need is never evicted.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.errors import InitImageGone, InitImagesFull, InvalidRequest, StoreUnavailable
from edge_node.store.durable_file import TEMPORARY_SUFFIX, touch_durably, write_durably

_FILE_NAME = re.compile(r"([0-9a-f]{64})\.png(?:\.partial)?")
_DISK_RETRY_S = 5.0
# Who has just named an image is about to say that he needs it.
JUST_NAMED_S = 2.0


@dataclass(frozen=True, kw_only=True)
class _KeptImage:
    size_bytes: int
    needed_until_unix_s: float


class InitImageBounds(TypedDict):
    """Arguments of InitImages that change with the settings."""

    bytes_max: int
    keep_s_max: float


def init_image_bounds(config: NodeConfig) -> InitImageBounds:
    """What is kept of init images; no task lasts longer than either deadline."""
    return {
        "bytes_max": config.init_image_bytes_total_max,
        "keep_s_max": max(config.deadline_s_max, config.deadline_s_default),
    }


class InitImages:
    """The init images of this node's own tasks and of those that it draws for others.

    Args:
        folder: where they are.
        bytes_max: of all of them.
        keep_s_max: longest that any task may need one, whatever its sender says.
        clock: tells what is no longer needed.
    """

    def __init__(self, folder: Path, *, bytes_max: int, keep_s_max: float, clock: Clock) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._keep_s_max = keep_s_max
        self._clock = clock
        # Changed by worker threads: a cancelled caller must not leave a file uncounted.
        self._kept: dict[str, _KeptImage] = {}
        self._named_s: dict[str, float] = {}
        self._bytes_stored = 0
        self._index_lock = threading.Lock()

    @property
    def bytes_stored(self) -> int:
        """Size of all images kept."""
        return self._bytes_stored

    def set_bounds(self, *, bytes_max: int, keep_s_max: float) -> None:
        """Other bounds, in force from the next write on."""
        self._bytes_max, self._keep_s_max = bytes_max, keep_s_max

    async def start(self, *, shift_s: float = 0.0) -> None:
        """Creates the folder or takes up what an earlier life left.

        `shift_s` is what the clock has jumped by since: images are needed until as much later.
        """
        await asyncio.to_thread(self._take_up, shift_s)

    async def write(
        self, sha256: str, content: bytes, *, needed_until_unix_s: float | None
    ) -> None:
        """Keeps an image durably at least until then; one that is there is not written again.

        Args:
            sha256: of `content`, in hexadecimal digits; its name.
            content: PNG.
            needed_until_unix_s: deadline of the tasks that start from it; None for as long as any
                task may last.

        Raises:
            InvalidRequest: `content` has another hash: it was damaged on its way.
            InitImagesFull: the bound is reached, and all that is kept may still be needed.
            StoreUnavailable: the disk is full or failing.
        """
        await asyncio.to_thread(self._write, sha256, content, needed_until_unix_s)

    async def read(self, sha256: str) -> bytes:
        """The image.

        Raises:
            InitImageGone: it is not here, or no longer whole.
        """
        return await asyncio.to_thread(self._read, sha256)

    async def evict(self) -> None:
        """Removes what no task can need any more."""
        await asyncio.to_thread(self._evict)

    async def forget(self, sha256: str) -> bool:
        """Removes an image before its time; whether it is gone.

        Nobody that is known of needs it, says the caller; one that was named just now stays.
        """
        return await asyncio.to_thread(self._forget, sha256)

    def _take_up(self, shift_s: float) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            ours = _FILE_NAME.fullmatch(path.name)
            if not ours or not path.is_file() or path.is_symlink():
                continue
            if path.name.endswith(TEMPORARY_SUFFIX):  # a write that a crash cut short
                path.unlink(missing_ok=True)
                continue
            status = path.stat()
            until_unix_s = status.st_mtime + shift_s
            if shift_s:
                os.utime(path, (until_unix_s, until_unix_s))
            kept = _KeptImage(size_bytes=status.st_size, needed_until_unix_s=until_unix_s)
            self._kept[ours[1]] = kept
            self._bytes_stored += kept.size_bytes

    def _write(self, sha256: str, content: bytes, needed_until_unix_s: float | None) -> None:
        if hashlib.sha256(content).hexdigest() != sha256:
            raise InvalidRequest(
                "The init image is not the one that its sha256 names. Send it again.",
                param="init_image",
            )
        latest_unix_s = self._clock.unix_s() + self._keep_s_max
        until_unix_s = min(needed_until_unix_s or latest_unix_s, latest_unix_s)
        with self._index_lock:
            try:
                self._keep(sha256, content, until_unix_s)
                self._named_s[sha256] = self._clock.now_s()
            except OSError as problem:
                raise StoreUnavailable(
                    f"The init image could not be stored: {problem}. Free space in {self._folder}, "
                    "or ask another node.",
                    retry_after_s=_DISK_RETRY_S,
                ) from problem

    def _keep(self, sha256: str, content: bytes, until_unix_s: float) -> None:
        earlier = self._kept.get(sha256)
        if earlier is not None and self._is_whole(sha256, content):
            until_unix_s = max(until_unix_s, earlier.needed_until_unix_s)
            touch_durably(self._path(sha256), modified_unix_s=until_unix_s)
        else:
            if earlier is not None:  # somebody removed or damaged it
                self._discard(sha256)
            self._make_room(len(content))
            write_durably(self._path(sha256), content, modified_unix_s=until_unix_s)
            self._bytes_stored += len(content)
        self._kept[sha256] = _KeptImage(size_bytes=len(content), needed_until_unix_s=until_unix_s)

    def _is_whole(self, sha256: str, content: bytes) -> bool:
        try:
            return self._path(sha256).read_bytes() == content
        except OSError:
            return False

    def _make_room(self, size_bytes: int) -> None:
        self._discard_unneeded()
        surplus_bytes = self._bytes_stored + size_bytes - self._bytes_max
        if surplus_bytes <= 0:
            return
        retry_after_s = self._keep_s_max
        for kept in sorted(self._kept.values(), key=lambda one: one.needed_until_unix_s):
            surplus_bytes -= kept.size_bytes
            if surplus_bytes <= 0:
                retry_after_s = kept.needed_until_unix_s - self._clock.unix_s()
                break
        raise InitImagesFull(
            f"This node keeps {self._bytes_stored} bytes of init images of at most "
            f"{self._bytes_max}, and tasks may still need them all. Come back after the time in "
            "Retry-After, ask another node, or raise init_image_bytes_total_max.",
            retry_after_s=retry_after_s,
        )

    def _read(self, sha256: str) -> bytes:
        if sha256 not in self._kept:  # nor may the name of anything else lead out of the folder
            raise _gone(sha256)
        try:
            content = self._path(sha256).read_bytes()
        except OSError as problem:
            raise _gone(sha256) from problem
        if hashlib.sha256(content).hexdigest() != sha256:
            raise _gone(sha256)
        return content

    def _evict(self) -> None:
        with self._index_lock:
            self._discard_unneeded()

    def _discard_unneeded(self) -> None:
        now_unix_s = self._clock.unix_s()
        for sha256, kept in list(self._kept.items()):
            if kept.needed_until_unix_s < now_unix_s:
                self._discard(sha256)

    def _forget(self, sha256: str) -> bool:
        with self._index_lock:
            if sha256 not in self._kept:
                return True
            named_s = self._named_s.get(sha256)
            if named_s is not None and self._clock.now_s() - named_s < JUST_NAMED_S:
                return False
            self._discard(sha256)
            return True

    def _discard(self, sha256: str) -> None:
        self._named_s.pop(sha256, None)
        self._bytes_stored -= self._kept.pop(sha256).size_bytes
        self._path(sha256).unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.png"


def _gone(sha256: str) -> InitImageGone:
    return InitImageGone(
        f"The init image {sha256[:12]}... is no longer kept here, or was damaged on disk. Submit "
        "the task again with its image."
    )
