"""A simulated node's store and files: what was synced survives a crash, what was not may not.

The ledger keeps the promises of `edge_node.store.task_ledger`, whose own tests hold them against a
real Valkey; here they meet crashes at every moment.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edge_node.clock import Clock
from edge_node.domain import (
    Durability,
    Image,
    JobId,
    Task,
    TaskError,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.errors import (
    IdempotencyConflict,
    ImageGone,
    InitImageGone,
    InitImagesFull,
    StoreUnavailable,
)
from edge_node.listing import Place, TaskFilter, TaskPage, newest
from edge_node.requests import AlreadyAccepted, Appended, Idempotency


class PlantedBug(Exception):
    """An exception that no port is meant to raise."""


@dataclass
class Disk:
    """What outlives a process of one node, and how well it works; times are virtual seconds."""

    records: dict[TaskId, TaskRecord] = field(default_factory=dict)
    jobs: dict[JobId, tuple[TaskId, ...]] = field(default_factory=dict)
    keys: dict[str, tuple[str, AlreadyAccepted]] = field(default_factory=dict)
    images: dict[TaskId, Image] = field(default_factory=dict)
    init_images: dict[str, bytes] = field(default_factory=dict)
    incarnation: int = 0
    full_until_s: float = 0.0
    slow_until_s: float = 0.0
    no_sync_until_s: float = 0.0
    store_away_until_s: float = 0.0
    buggy_until_s: float = 0.0
    # Ends that clients heard of while the store was away; a crash undoes them.
    held: set[TaskId] = field(default_factory=set)


class Mount:
    """One life's access to its disk; a crash ends it."""

    def __init__(
        self, disk: Disk, *, clock: Clock, now_s: Callable[[], float], rng: np.random.Generator
    ) -> None:
        self.disk = disk
        self.clock = clock
        self.now_s = now_s
        self._rng = rng

    async def work(self) -> None:
        """Takes the time of a synced write."""
        slow = self.now_s() < self.disk.slow_until_s
        await asyncio.sleep(float(self._rng.uniform(0.2, 2.0) if slow else 0.004))

    def strike(self) -> None:
        """Raises what nobody expects, while the disk is buggy."""
        if self.now_s() < self.disk.buggy_until_s and self._rng.random() < 0.8:
            raise PlantedBug("planted")

    def coin(self, probability: float) -> bool:
        """Whether it falls."""
        return bool(self._rng.random() < probability)


class SimulatedLedger:
    """The ledger port."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._disk = mount.disk
        self._behind: list[TaskRecord] = []
        self._wanted_back: list[tuple[Task, ...]] = []
        self._wake = asyncio.Event()

    @property
    def available(self) -> bool:
        return not self._away()

    def _away(self) -> bool:
        now_s = self._mount.now_s()
        return now_s < max(self._disk.store_away_until_s, self._disk.no_sync_until_s)

    @property
    def flushed(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._behind and not self._wanted_back

    async def write_behind(self) -> None:
        """The background writer: in order, whenever the store is there."""
        while True:
            await self._wake.wait()
            await self._mount.work()
            if self._away():
                await asyncio.sleep(0.1)
                continue
            self._write_all()
            self._wake.clear()

    def _write_all(self) -> None:
        for tasks in self._wanted_back:
            for task in tasks:
                self._disk.records.pop(task.id, None)
        self._wanted_back.clear()
        for record in self._behind:
            self._keep(record)
        self._behind.clear()

    def _keep(self, record: TaskRecord) -> None:
        former = self._disk.records.get(record.task.id)
        if record.status.is_final or former is None or not former.status.is_final:
            self._disk.records[record.task.id] = record
            if record.status.is_final:
                self._disk.held.discard(record.task.id)

    async def find_accepted(self, idempotency: Idempotency) -> AlreadyAccepted | None:
        await self._mount.work()
        if self._away():
            raise StoreUnavailable("The store is away.")
        known = self._disk.keys.get(idempotency.key)
        if known is not None and known[0] != idempotency.request_digest:
            raise IdempotencyConflict("This Idempotency-Key was used before.")
        return None if known is None else known[1]

    async def append_accepted(
        self, tasks: Sequence[Task], *, job_id: JobId | None, idempotency: Idempotency | None
    ) -> Appended | AlreadyAccepted:
        self._mount.strike()
        task_ids = tuple(task.id for task in tasks)
        try:
            await self._mount.work()
            if self._away():
                raise StoreUnavailable("The store is away.")
        except (StoreUnavailable, asyncio.CancelledError):
            if self._mount.coin(0.5) and idempotency is None:
                # It got there, and nobody was told: taken back before anything else is accepted.
                for task in tasks:
                    self._disk.records[task.id] = TaskRecord(task=task)
                self._wanted_back.append(tuple(tasks))
                self._wake.set()
            raise
        self._write_all()
        if idempotency is not None:
            known = self._disk.keys.get(idempotency.key)
            if known is not None and known[0] != idempotency.request_digest:
                raise IdempotencyConflict("This Idempotency-Key was used before.")
            if known is not None:
                return known[1]
            accepted = AlreadyAccepted(task_ids=task_ids, job_id=job_id)
            self._disk.keys[idempotency.key] = (idempotency.request_digest, accepted)
        for task in tasks:
            self._disk.records[task.id] = TaskRecord(task=task)
        if job_id is not None:
            self._disk.jobs[job_id] = task_ids
        return Appended(task_ids=task_ids, job_id=job_id)

    def journal_accepted(self, tasks: Sequence[Task], *, job_id: JobId | None) -> None:
        self._mount.strike()
        self._behind += [TaskRecord(task=task) for task in tasks]
        if job_id is not None:
            self._disk.jobs[job_id] = tuple(task.id for task in tasks)
        self._wake.set()

    def note(self, record: TaskRecord) -> None:
        self._mount.strike()
        self._behind.append(record)
        self._wake.set()

    async def append_final(self, record: TaskRecord) -> None:
        self._mount.strike()
        self._behind.append(record)
        self._disk.held.add(record.task.id)
        self._wake.set()
        await self._mount.work()
        if self._away():
            raise StoreUnavailable("The store is away.")
        self._write_all()

    async def written(self, task_id: TaskId) -> None:
        while any(record.task.id == task_id for record in self._behind):
            await asyncio.sleep(0.01)

    async def read(self, task_id: TaskId) -> TaskRecord | None:
        for record in reversed(self._behind):
            if record.task.id == task_id:
                return record
        if self._mount.now_s() < self._disk.store_away_until_s:
            raise StoreUnavailable("The store is away.")
        return self._disk.records.get(task_id)

    async def read_job(self, job_id: JobId) -> tuple[TaskId, ...] | None:
        return self._disk.jobs.get(job_id)

    async def list_finished(
        self, wanted: TaskFilter, *, before: Place | None, count: int
    ) -> TaskPage:
        await self._mount.work()
        if self._mount.now_s() < self._disk.store_away_until_s:
            raise StoreUnavailable("The store is away.")
        over = (record for record in self._disk.records.values() if record.status.is_final)
        return newest(over, wanted, before=before, count=count)

    async def dead_letters(self, *, count_max: int) -> list[TaskRecord]:
        return []

    async def strike_dead_letter(self, task_id: TaskId) -> None:
        pass

    def recover(self, *, term: int) -> list[TaskRecord]:
        """What this life owes, in its term; as TaskLedger.recover."""
        owed = []
        keyed = {task_id for _, known in self._disk.keys.values() for task_id in known.task_ids}
        for task_id, record in self._disk.records.items():
            if record.status.is_final:
                continue
            if record.task.durability is Durability.DISK or task_id in keyed:
                record = TaskRecord(task=replace(record.task, term=term))
                owed.append(record)
            else:
                error = TaskError(code="client_gone", message="The node restarted.")
                record = replace(
                    record,
                    status=TaskStatus.FAILED,
                    error=error,
                    finished_unix_s=self._mount.clock.unix_s(),
                )
            self._disk.records[task_id] = record
        return owed


class SimulatedImages:
    """The port of image files."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._disk = mount.disk

    async def write(self, task_id: TaskId, image: Image) -> tuple[TaskId, ...]:
        self._mount.strike()
        await self._mount.work()
        if self._mount.now_s() < self._disk.full_until_s:
            raise OSError(errno.ENOSPC, "no space left")
        if self._mount.now_s() < self._disk.no_sync_until_s:
            raise OSError(errno.EIO, "fsync refused")
        self._disk.images[task_id] = image
        return ()

    async def shed(self, bytes_wanted: int) -> int:
        return 0

    async def remove(self, task_ids: Sequence[TaskId]) -> None:
        for task_id in task_ids:
            self._disk.images.pop(task_id, None)

    async def forget_words(self, task_ids: Sequence[TaskId]) -> None:
        """What is drawn here has none."""

    async def read(self, task_id: TaskId) -> tuple[bytes, str]:
        await self._mount.work()
        if task_id not in self._disk.images:
            raise ImageGone("removed")
        return self._disk.images[task_id].content, "image/png"


class SimulatedInitImages:
    """The port of init images."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._disk = mount.disk

    async def write(
        self, sha256: str, content: bytes, *, needed_until_unix_s: float | None
    ) -> None:
        await self._mount.work()
        if self._mount.now_s() < self._disk.full_until_s:
            raise InitImagesFull("No room.", retry_after_s=1.0)
        if self._mount.now_s() < self._disk.no_sync_until_s:
            raise StoreUnavailable("The disk refuses.")
        self._disk.init_images[sha256] = content

    async def read(self, sha256: str) -> bytes:
        self._mount.strike()
        await asyncio.sleep(0.001)
        if sha256 not in self._disk.init_images:
            raise InitImageGone("It is not kept here. Submit the task again.")
        return self._disk.init_images[sha256]

    async def forget(self, sha256: str) -> bool:
        self._disk.init_images.pop(sha256, None)
        return True
