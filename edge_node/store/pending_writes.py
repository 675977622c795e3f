"""What waits to be written to the ledger, and what is given up when too much waits.

Pure. One entry per task: a later state of a task replaces an earlier one, so the order within a
task holds by construction, and a task that runs to its end while the store is away costs one
write. Entries leave finals first, oldest first among equals.

Overflow: the entry that costs least is given up, the oldest of its kind: first placements (a
recovered task is placed anew anyway), then journalled acceptances (a final carries everything),
then finals of tasks that promised nothing, then finals of durable tasks (such a task would be
drawn again after a restart; its client has its answer).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice

from edge_node.changing import changed
from edge_node.domain import Durability, TaskId, TaskRecord


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """What only the acceptance of a task knows: its place in its job."""

    job_index: int


@dataclass(frozen=True, kw_only=True)
class PendingWrite:
    """The latest state of one task that the store has not confirmed.

    Attributes:
        acceptance: None once the ledger knows of the task.
        durable: somebody waits for it to be on disk.
    """

    record: TaskRecord
    acceptance: Acceptance | None = None
    durable: bool = False

    @property
    def value_rank(self) -> int:
        """Larger is given up later."""
        if not self.record.status.is_final:
            return 0 if self.acceptance is None else 1
        return 3 if self.record.task.durability is Durability.DISK else 2


class PendingWrites:
    """At most `count_max` pending writes."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._by_rank: tuple[dict[TaskId, PendingWrite], ...] = ({}, {}, {}, {})

    def __len__(self) -> int:
        return sum(len(writes) for writes in self._by_rank)

    def get(self, task_id: TaskId) -> PendingWrite | None:
        """The write that waits for this task."""
        for writes in self._by_rank:
            if task_id in writes:
                return writes[task_id]
        return None

    def put(self, write: PendingWrite) -> PendingWrite | None:
        """Adds a write and returns the one given up for it, which may be itself.

        A task's end stays its end: a state that arrives after it is ignored.
        """
        task_id = write.record.task.id
        earlier = self.get(task_id)
        if earlier is not None:
            if earlier.record.status.is_final and not write.record.status.is_final:
                return None
            write = changed(
                write,
                acceptance=write.acceptance or earlier.acceptance,
                durable=write.durable or earlier.durable,
            )
            if earlier.value_rank != write.value_rank:
                del self._by_rank[earlier.value_rank][task_id]
        self._by_rank[write.value_rank][task_id] = write
        return self._give_up_one() if len(self) > self._count_max else None

    def batch(self, count_max: int) -> tuple[PendingWrite, ...]:
        """The next writes, which stay pending until `confirm`."""
        waiting = chain.from_iterable(writes.values() for writes in reversed(self._by_rank))
        return tuple(islice(waiting, count_max))

    def confirm(self, writes: Iterable[PendingWrite]) -> None:
        """Forgets what the store has; a state that arrived meanwhile stays pending."""
        for write in writes:
            pending = self._by_rank[write.value_rank]
            if pending.get(write.record.task.id) is write:
                del pending[write.record.task.id]

    def _give_up_one(self) -> PendingWrite:
        cheapest = next(writes for writes in self._by_rank if writes)
        return cheapest.pop(next(iter(cheapest)))
