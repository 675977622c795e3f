"""Finished images as files, one folder, bounded in bytes and age.

Owns `<task id>.<format>` in its folder and nothing else there. An image that `write` returned
from survives a crash. What a write or a read costs does not depend on how many are kept, and writes
do not wait for each other's syncs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypedDict, TypeVar

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.domain import Image, TaskId
from edge_node.errors import ImageGone
from edge_node.image_words import without_parameters
from edge_node.store.durable_file import TEMPORARY_SUFFIX, FolderSync, write_synced

# For which an image stays that was just stored, though the disk is full.
FETCH_S_MIN = 60.0
MEDIA_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}

# `<origin>-<ulid>`: no separator, no leading dot, so that an id cannot name anything elsewhere.
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}-[0-9A-Za-z]{26}")
# Of the images written last, which are asked for next: some ten of SD3-medium's.
_RECENT_BYTES_MAX = 4 << 20
# Writes under way. A thread waits for the disk, mostly, and a disk that is asked for several syncs
# at once does them together.
_THREADS_MAX = 16
# Between the name of a file and the number of its writing, while it is not whole.
_TEMPORARY_MARK = ".writing-"

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


class _StoredImage(NamedTuple):
    format: str
    size_bytes: int
    written_unix_s: float


class ImageBounds(TypedDict):
    """Arguments of ImageFiles that change with the settings."""

    bytes_max: int
    age_s_max: float


def image_bounds(config: NodeConfig) -> ImageBounds:
    """What is kept of finished images."""
    return {"bytes_max": config.image_bytes_total_max, "age_s_max": config.image_keep_s}


class ImageFiles:
    """The images of finished tasks, the oldest of which go when there are too many."""

    def __init__(self, folder: Path, *, bytes_max: int, age_s_max: float, clock: Clock) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._age_s_max = age_s_max
        self._clock = clock
        # Oldest first. Changed by worker threads: a cancelled caller must not leave a file
        # uncounted.
        self._stored: dict[TaskId, _StoredImage] = {}
        self._bytes_stored = 0
        self._recent: OrderedDict[TaskId, tuple[bytes, str]] = OrderedDict()
        self._recent_bytes = 0
        self._index_lock = threading.Lock()
        self._folder_sync = FolderSync(folder)
        self._temporaries = itertools.count()
        self._threads = ThreadPoolExecutor(_THREADS_MAX, thread_name_prefix="images")

    @property
    def bytes_stored(self) -> int:
        """Size of all images kept."""
        return self._bytes_stored

    def set_bounds(self, *, bytes_max: int, age_s_max: float) -> None:
        """Other bounds, in force from the next eviction on."""
        self._bytes_max, self._age_s_max = bytes_max, age_s_max

    async def start(self, *, shift_s: float = 0.0) -> tuple[TaskId, ...]:
        """Creates the folder or takes up what an earlier life left; returns what was evicted.

        `shift_s` is what the clock has jumped by since: what was written is dated anew.
        """
        await self._in_thread(self._take_up, shift_s)
        return await self.evict()

    async def write(self, task_id: TaskId, image: Image) -> tuple[TaskId, ...]:
        """Stores an image durably, in place of an earlier one; returns the tasks evicted for it.

        The image itself is never evicted for its own sake.

        Raises:
            ValueError: the id or the format cannot name an image file.
        """
        if not _TASK_ID.fullmatch(task_id):
            raise ValueError(f"{task_id!r} is no task id")
        if image.format not in MEDIA_TYPES:
            raise ValueError(f"{image.format!r} is none of {', '.join(MEDIA_TYPES)}")
        return await self._in_thread(self._write, task_id, image)

    async def read(self, task_id: TaskId) -> tuple[bytes, str]:
        """Content and media type.

        Raises:
            ImageGone: it was evicted, or never stored here.
        """
        recent = self._recent.get(task_id)
        if recent is not None:
            return recent
        stored = self._stored.get(task_id)
        if stored is None:
            raise _gone(task_id)
        path = self._path(task_id, stored.format)
        try:
            content = await self._in_thread(path.read_bytes)
        except FileNotFoundError as problem:
            raise _gone(task_id) from problem
        return content, MEDIA_TYPES[stored.format]

    async def evict(self) -> tuple[TaskId, ...]:
        """Removes what is beyond the caps on bytes and age; returns the tasks that lost theirs."""
        return await self._in_thread(self._evict, None)

    async def shed(self, bytes_wanted: int) -> int:
        """Removes the oldest until so many bytes are gone; returns how many are.

        Images that nobody has had time to fetch stay.
        """
        return await self._in_thread(self._shed, bytes_wanted)

    async def remove(self, task_ids: Sequence[TaskId]) -> None:
        """Removes the images that are there of these tasks.

        Raises:
            OSError: one cannot be removed, or the folder is away; it can be asked for again.
        """
        await self._in_thread(self._remove, task_ids)

    async def forget_words(self, task_ids: Sequence[TaskId]) -> None:
        """Takes the prompts out of the images that are there of these tasks, durably.

        Raises:
            OSError: the disk is full or failing.
        """
        await self._in_thread(self._forget_words, task_ids)

    async def _in_thread(
        self,
        function: Callable[Arguments, Returned],
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Returned:
        work = self._threads.submit(function, *arguments, **options)
        return await asyncio.wrap_future(work)

    def _take_up(self, shift_s: float) -> None:
        # What a clock that was ahead once dated in the future is as old as this life.
        now_unix_s = self._clock.unix_s()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: list[tuple[TaskId, _StoredImage]] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                name = entry.name.removesuffix(TEMPORARY_SUFFIX).partition(_TEMPORARY_MARK)[0]
                stem, _, image_format = name.rpartition(".")
                ours = _TASK_ID.fullmatch(stem) and image_format in MEDIA_TYPES
                if not ours or not entry.is_file(follow_symlinks=False):
                    continue
                if name != entry.name:  # a write that a crash cut short
                    Path(entry.path).unlink(missing_ok=True)
                    continue
                status = entry.stat(follow_symlinks=False)
                written_unix_s = min(status.st_mtime + shift_s, now_unix_s)
                if written_unix_s != status.st_mtime:
                    os.utime(entry.path, (written_unix_s, written_unix_s))
                stored = _StoredImage(
                    format=image_format, size_bytes=status.st_size, written_unix_s=written_unix_s
                )
                found.append((TaskId(stem), stored))
        for task_id, stored in sorted(found, key=lambda item: item[1].written_unix_s):
            self._count(task_id, stored)

    def _write(self, task_id: TaskId, image: Image) -> tuple[TaskId, ...]:
        path = self._path(task_id, image.format)
        now_unix_s = self._clock.unix_s()
        stored = _StoredImage(
            format=image.format, size_bytes=len(image.content), written_unix_s=now_unix_s
        )
        temporary = self._temporary(path)
        write_synced(temporary, image.content, modified_unix_s=now_unix_s)
        try:
            with self._index_lock:
                temporary.replace(path)
                self._count(task_id, stored)
                self._remember(task_id, image)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._folder_sync.sync()
        return self._evict(task_id)

    def _count(self, task_id: TaskId, stored: _StoredImage) -> None:
        earlier = self._stored.pop(task_id, None)
        if earlier is not None:
            self._bytes_stored -= earlier.size_bytes
            if earlier.format != stored.format:
                self._path(task_id, earlier.format).unlink(missing_ok=True)
        self._stored[task_id] = stored
        self._bytes_stored += stored.size_bytes

    def _remember(self, task_id: TaskId, image: Image) -> None:
        self._forget(task_id)
        self._recent[task_id] = image.content, MEDIA_TYPES[image.format]
        self._recent_bytes += len(image.content)
        while self._recent_bytes > _RECENT_BYTES_MAX:
            self._forget(next(iter(self._recent)))

    def _forget(self, task_id: TaskId) -> None:
        earlier = self._recent.pop(task_id, None)
        if earlier is not None:
            self._recent_bytes -= len(earlier[0])

    def _evict(self, kept: TaskId | None) -> tuple[TaskId, ...]:
        evicted: list[TaskId] = []
        written_before_unix_s = self._clock.unix_s() - self._age_s_max
        with self._index_lock:
            while (task_id := self._oldest_but(kept)) is not None:
                expired = self._stored[task_id].written_unix_s < written_before_unix_s
                if not expired and self._bytes_stored <= self._bytes_max:
                    break
                self._discard(task_id)
                evicted.append(task_id)
        return tuple(evicted)

    def _oldest_but(self, kept: TaskId | None) -> TaskId | None:
        return next((task_id for task_id in self._stored if task_id != kept), None)

    def _shed(self, bytes_wanted: int) -> int:
        written_before_unix_s = self._clock.unix_s() - FETCH_S_MIN
        with self._index_lock:
            before = self._bytes_stored
            while (task_id := self._oldest_but(None)) is not None:
                enough = before - self._bytes_stored >= bytes_wanted
                if enough or self._stored[task_id].written_unix_s > written_before_unix_s:
                    break
                self._discard(task_id)
            return before - self._bytes_stored

    def _remove(self, task_ids: Sequence[TaskId]) -> None:
        for task_id in task_ids:
            with self._index_lock:
                if task_id in self._stored:
                    self._unlink(task_id)
                    self._discard(task_id)

    def _unlink(self, task_id: TaskId) -> None:
        """Removes the file; where that cannot be, it stays counted, and who asks again finds it."""
        self._forget(task_id)
        try:
            self._path(task_id, self._stored[task_id].format).unlink()
        except FileNotFoundError:
            if not self._folder.is_dir():  # away with all that is in it, and may come back
                raise

    def _forget_words(self, task_ids: Sequence[TaskId]) -> None:
        for task_id in task_ids:
            stored = self._stored.get(task_id)
            if stored is None:
                continue
            path = self._path(task_id, stored.format)
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            without = without_parameters(content)
            if without == content:
                continue
            temporary = self._temporary(path)
            write_synced(temporary, without, modified_unix_s=stored.written_unix_s)
            with self._index_lock:
                if self._stored.get(task_id) is not stored:  # evicted or erased meanwhile
                    temporary.unlink(missing_ok=True)
                    continue
                temporary.replace(path)
                self._forget(task_id)
                self._bytes_stored += len(without) - stored.size_bytes
                # In its place, for the order is that of age.
                self._stored[task_id] = stored._replace(size_bytes=len(without))
        self._folder_sync.sync()

    def _temporary(self, path: Path) -> Path:
        """Numbered, so that two attempts of one task cannot share the temporary file."""
        mark = f"{_TEMPORARY_MARK}{next(self._temporaries)}{TEMPORARY_SUFFIX}"
        return path.with_name(path.name + mark)

    def _discard(self, task_id: TaskId) -> None:
        stored = self._stored.pop(task_id)
        self._forget(task_id)
        self._bytes_stored -= stored.size_bytes
        self._path(task_id, stored.format).unlink(missing_ok=True)

    def _path(self, task_id: TaskId, image_format: str) -> Path:
        return self._folder / f"{task_id}.{image_format}"


def _gone(task_id: TaskId) -> ImageGone:
    return ImageGone(f"The image of task {task_id} is no longer kept.")
