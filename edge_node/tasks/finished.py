"""Tasks of this origin that are over, as far as they are kept in memory. Pure.

Owns their number and bytes; older ones are read from the ledger.
"""

from __future__ import annotations

from collections import OrderedDict

from edge_node.domain import TaskId
from edge_node.tasks.fate import Fate, Phase
from edge_node.tasks.lifecycle_limits import LifecycleLimits
from edge_node.tasks.lifecycle_protocol import TasksForgotten


class Finished:
    """The latest that ended, oldest first."""

    def __init__(self, limits: LifecycleLimits) -> None:
        self._limits = limits
        self._fates: OrderedDict[TaskId, Fate] = OrderedDict()
        self._bytes = 0

    def get(self, task_id: TaskId) -> Fate | None:
        """A task that is kept."""
        return self._fates.get(task_id)

    def fates(self) -> tuple[Fate, ...]:
        """All that are kept."""
        return tuple(self._fates.values())

    def add(self, fate: Fate) -> None:
        """A task is over; the oldest make room."""
        self._fates[fate.task.id] = fate
        self._bytes += fate.kept_bytes
        limits = self._limits
        while (
            len(self._fates) > limits.finished_kept_max or self._bytes > limits.finished_bytes_max
        ):
            _, oldest = self._fates.popitem(last=False)
            self._bytes -= oldest.kept_bytes

    def forget(self, event: TasksForgotten) -> None:
        """Takes out those that are named, and all that ended before."""
        before_unix_s = event.ended_before_unix_s
        ends = ((one, fate.record.finished_unix_s) for one, fate in self._fates.items())
        older = [one for one, end_unix_s in ends if end_unix_s and end_unix_s < before_unix_s]
        for task_id in (*event.task_ids, *older):
            fate = self._fates.pop(task_id, None)
            self._bytes -= 0 if fate is None else fate.kept_bytes

    def validate(self, live: frozenset[TaskId]) -> None:
        """Asserts what holds after every event; for tests, because it looks at every task."""
        assert not live & self._fates.keys(), "a task is live and finished"
        assert self._fates or not self._bytes, "bytes of nobody"
        assert len(self._fates) <= self._limits.finished_kept_max, "too many finished tasks"
        for fate in self._fates.values():
            assert fate.phase is Phase.FINAL, "a finished task is not final"
            assert fate.record.status.is_final, "a finished task has no end"
            assert fate.events[-1].kind.is_final, "nobody was told of an end"
