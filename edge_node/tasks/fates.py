"""What can be read of the tasks of one origin: those that are open, and those that ended lately.

Owns where they are found. Nothing here changes one: that is the lifecycle's.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_node.domain import NodeId, TaskEvent, TaskId, TaskRecord
from edge_node.tasks.expectation import NOT_PLACED, Course
from edge_node.tasks.fate import Fate, Phase, StoryLine
from edge_node.tasks.finished import Finished
from edge_node.tasks.lifecycle_limits import LifecycleLimits


class Fates:
    """All tasks of this origin that are in memory."""

    def __init__(self, limits: LifecycleLimits) -> None:
        self._live: dict[TaskId, Fate] = {}
        self._finished = Finished(limits)

    @property
    def in_flight(self) -> int:
        """Number of tasks accepted, or about to be, and not final."""
        return len(self._live)

    def open_ids(self) -> frozenset[TaskId]:
        """Of all that are accepted, or about to be, and not final."""
        return frozenset(self._live)

    def record(self, task_id: TaskId) -> TaskRecord | None:
        """The task as it stands; None if it is unknown here or only the ledger knows it."""
        entry = self._find(task_id)
        return None if entry is None or entry.phase is Phase.APPENDING else entry.record

    def course(self, task_id: TaskId) -> Course:
        """How the task's attempt at hand has gone; of one not in memory nothing is known."""
        entry = self._find(task_id)
        return NOT_PLACED if entry is None else entry.course

    def records(self) -> Iterator[TaskRecord]:
        """Every task as it stands that is open, or over and in memory still."""
        for entry in (*self._live.values(), *self._finished.fates()):
            if entry.phase is not Phase.APPENDING:
                yield entry.record

    def goes_to(self, task_id: TaskId) -> NodeId | None:
        """The device that a drawing was promised to while its executor still has it."""
        entry = self._live.get(task_id)
        return entry.departure.taker if entry is not None and entry.departure else None

    def events(self, task_id: TaskId, *, after: int = 0) -> list[TaskEvent] | None:
        """Events of the task with a higher sequence number, or None if it is not in memory.

        Numbers grow over restarts of the node, too. For one never given out all are returned.
        """
        entry = self._find(task_id)
        if entry is None:
            return None
        seen = max(0, after - entry.sequence_before)
        return entry.events[seen if seen <= len(entry.events) else 0 :]

    def needs(self, init_image_sha256: str) -> bool:
        """Whether a task that is not over starts from that image."""
        fates = self._live.values()
        return any(one.task.drawing.init_image_sha256 == init_image_sha256 for one in fates)

    def story(self, task_id: TaskId) -> tuple[StoryLine, ...]:
        """The latest lines of a task's story, oldest first; none of a task not in memory."""
        entry = self._find(task_id)
        return () if entry is None else tuple(entry.story)

    def _find(self, task_id: TaskId) -> Fate | None:
        return self._live.get(task_id) or self._finished.get(task_id)
