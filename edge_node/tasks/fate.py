"""One task on its way: what it waits for, what can follow, and the story so far. Pure."""

from __future__ import annotations

import enum
import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_node.changing import changed
from edge_node.checkpoint import Checkpoint
from edge_node.clock import Moment
from edge_node.domain import (
    Fence,
    NodeId,
    Offload,
    Task,
    TaskError,
    TaskEvent,
    TaskEventKind,
    TaskRecord,
    TaskStatus,
    owner,
)
from edge_node.moves import Move
from edge_node.tasks.departure import Departure
from edge_node.tasks.expectation import NOT_PLACED, Course
from edge_node.tasks.lifecycle_limits import GIVEN_BACK_MAX
from edge_node.tasks.lifecycle_protocol import AttemptEnded, AttemptReported, PlacementMade

# The last lines of a task's story; enough for several attempts.
STORY_LINES_MAX = 40
# Of a fate without its prompts, and of an event or a line of its story.
FATE_BYTES = 2000
TOLD_BYTES = 400
# The latest pictures on the way of a task, for who comes late: each may have a megabyte.
PICTURES_KEPT_MAX = 3
# How watchers are told of an end.
END_KINDS = {
    TaskStatus.COMPLETED: TaskEventKind.FINISHED,
    TaskStatus.FAILED: TaskEventKind.FAILED,
    TaskStatus.CANCELLED: TaskEventKind.CANCELLED,
}
# Workers that may die while they draw one task.
DEATHS_MAX = 2


class Phase(enum.Enum):
    """What a task waits for."""

    APPENDING = enum.auto()
    PLACING = enum.auto()
    WAITING = enum.auto()
    ATTEMPTING = enum.auto()
    # As before, and its executor was asked to hand the drawing over.
    EXPORTING = enum.auto()
    STORING = enum.auto()
    RECORDING = enum.auto()
    FINAL = enum.auto()


# Which phase can follow which. An end may come wherever a task waits for something.
_CAN_FOLLOW: dict[Phase, frozenset[Phase]] = {
    Phase.APPENDING: frozenset({Phase.PLACING}),
    # Again, where nobody answered.
    Phase.PLACING: frozenset(
        {Phase.PLACING, Phase.WAITING, Phase.ATTEMPTING, Phase.RECORDING, Phase.FINAL}
    ),
    Phase.WAITING: frozenset({Phase.PLACING, Phase.RECORDING, Phase.FINAL}),
    Phase.ATTEMPTING: frozenset(
        {Phase.EXPORTING, Phase.PLACING, Phase.STORING, Phase.RECORDING, Phase.FINAL}
    ),
    Phase.EXPORTING: frozenset(
        {Phase.ATTEMPTING, Phase.PLACING, Phase.STORING, Phase.RECORDING, Phase.FINAL}
    ),
    Phase.STORING: frozenset({Phase.RECORDING, Phase.FINAL}),
    Phase.RECORDING: frozenset({Phase.FINAL}),
    Phase.FINAL: frozenset(),
}


class ImpossibleTransition(AssertionError):
    """A bug of ours: a task is in a phase that cannot follow the one before; tells its story."""


class StoryLine(NamedTuple):
    """What happened to a task, and how it stood then: for whoever looks for a fault."""

    now_s: float
    event: str
    phase: Phase
    attempt: int
    executor: NodeId | None


@dataclass(kw_only=True)
class Fate:
    """One task of this origin; mutable, and touched by Lifecycle alone."""

    record: TaskRecord
    phase: Phase
    attempt: int
    dispatch: int = 0
    lease_until_s: float = 0.0
    overdue_at_s: float = math.inf
    retry_at_s: float = 0.0
    course: Course = NOT_PLACED
    avoided: set[NodeId] = field(default_factory=set)
    # Devices whose attempts failed, in their order, and of the workers that died while they drew
    # this task, whether it was alone.
    failed_on: list[NodeId] = field(default_factory=list)
    deaths_alone: list[bool] = field(default_factory=list)
    # Placements from which it went on elsewhere, and how many of them an executor gave back that
    # was told to stop.
    moved: list[Fence] = field(default_factory=list)
    given_back: int = 0
    # The move under way, and when its drawing stood still.
    departure: Departure | None = None
    left_s: float | None = None
    # Steps done in the attempt at hand; clients are told of the most that any attempt did.
    steps_done: int = 0
    # Events of this life count from here; those of a former life have lower numbers.
    sequence_before: int = 0
    events: list[TaskEvent] = field(default_factory=list)
    story: deque[StoryLine] = field(default_factory=lambda: deque(maxlen=STORY_LINES_MAX))

    @property
    def task(self) -> Task:
        """What is to be drawn."""
        return self.record.task

    @property
    def is_drawn(self) -> bool:
        """Whether an executor has it."""
        return self.phase in (Phase.ATTEMPTING, Phase.EXPORTING)

    @property
    def moves(self) -> int:
        """That count as such: because it would be done sooner elsewhere."""
        return len(self.moved) - self.given_back

    @property
    def fence(self) -> Fence:
        """Of the placement at hand."""
        return Fence(self.task.term, self.attempt)

    @property
    def kept_bytes(self) -> int:
        """That it takes in memory once it is over, about."""
        told = len(self.events) + len(self.story)
        return FATE_BYTES + TOLD_BYTES * told + self.task.drawing.prompt_bytes

    @property
    def is_poison(self) -> bool:
        """Whether workers die of it: two did, the last of nothing else, or three.

        Of what was drawn together one may be at fault and the others not.
        """
        deaths = self.deaths_alone
        return len(deaths) > DEATHS_MAX or (len(deaths) == DEATHS_MAX and deaths[-1])

    @property
    def tried_on(self) -> str:
        """The attempts that failed, and where, as in "3 attempts on 2 devices (a, b)"."""
        devices = list(dict.fromkeys(self.failed_on))
        attempts, on = _counted(len(self.failed_on), "attempt"), _counted(len(devices), "device")
        return f"{attempts} on {on} ({', '.join(devices)})"

    def enter(self, phase: Phase, at: Moment, why: str) -> None:
        """Changes the phase, and tells of it."""
        if phase not in _CAN_FOLLOW[self.phase]:
            told = "\n  ".join(map(str, self.story))
            raise ImpossibleTransition(
                f"{self.task.id} cannot go from {self.phase.name} to {phase.name}:\n  {told}"
            )
        self.phase = phase
        self.tell(at, why)

    def tell(self, at: Moment, what: str) -> None:
        """Adds a line to the story."""
        line = StoryLine(at.now_s, what, self.phase, self.attempt, self.record.executor)
        self.story.append(line)

    def happened(
        self, kind: TaskEventKind, at: Moment, *, preview: bytes = b"", move: Move | None = None
    ) -> TaskEvent:
        """Adds an event to those that watchers are told."""
        record = self.record
        event = TaskEvent(
            sequence=self.sequence_before + len(self.events) + 1,
            kind=kind,
            unix_s=at.unix_s,
            attempt=record.attempt,
            executor=record.executor,
            step=record.step,
            steps=record.task.drawing.denoising_steps,
            queue_position=record.queue_position,
            error=record.error,
            preview=preview,
            move=move,
        )
        self.events.append(event)
        if preview:
            self._let_old_pictures_go()
        return event

    def _let_old_pictures_go(self) -> None:
        shown = [index for index, event in enumerate(self.events) if event.preview]
        for index in shown[:-PICTURES_KEPT_MAX]:
            self.events[index] = changed(self.events[index], preview=b"")

    def what_is_wrong(self, *, moves_max: int, term: int) -> str:
        """What a task that is not over may not be; empty if nothing is."""
        record, phase = self.record, self.phase
        drawn = self.is_drawn or phase is Phase.STORING
        placed = phase not in (Phase.PLACING, Phase.WAITING)
        wrong = {
            "a final task is live": phase is Phase.FINAL,
            "placed in another life": self.task.term != term,
            "moved too often": self.moves > moves_max or self.given_back > GIVEN_BACK_MAX,
            "its status is not its phase": record.status.is_final != (phase is Phase.RECORDING),
            "nobody draws it": drawn and record.executor is None,
            "another attempt is shown": drawn and record.attempt != self.attempt,
            "placed already": not placed and record.executor is not None,
            "more steps than were told": self.steps_done > record.step,
            "it leaves for nobody": phase is Phase.EXPORTING and self.departure is None,
        }
        return ", ".join(what for what, is_so in wrong.items() if is_so)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def too_late(fate: Fate) -> TaskError:
    """What a client is told of a task whose deadline has passed."""
    if fate.phase is Phase.WAITING:
        said = (
            f"No node that draws {fate.task.drawing.model!r} could take the task before its "
            "deadline passed. /v1/models lists what is served now."
        )
    else:
        said = (
            "The deadline passed before the image was drawn. Allow a later deadline_s, or fewer "
            "steps."
        )
    return TaskError(code="deadline_exceeded", message=said)


def why_no_more(fate: Fate, message: str, *, attempts_max: int) -> TaskError | None:
    """What a client is told of a task that is not placed again; None while it is.

    `message` is of the attempt that failed last.
    """
    if fate.is_poison:
        return TaskError(
            code="poisoned",
            message=f"{len(fate.deaths_alone)} workers died while they drew it; "
            f"{fate.tried_on}, the last: {message}. It is kept among the dead letters.",
        )
    if fate.attempt - len(fate.moved) >= attempts_max:
        return TaskError(
            code="attempts_exhausted",
            message=f"{fate.tried_on} failed to draw it; the last: {message}. Submit it "
            "again when the cluster is healthy; it is kept among the dead letters.",
        )
    return None


def attempt_ended(
    executor: NodeId,
    dispatch: int,
    subject: AttemptReported | PlacementMade | Fate,
    reason: str,
) -> AttemptEnded:
    """That an executor no longer works on an attempt."""
    task_id = subject.task.id if isinstance(subject, Fate) else subject.task_id
    return AttemptEnded(
        executor=executor, dispatch=dispatch, task_id=task_id, fence=subject.fence, reason=reason
    )


def offload_of(
    fate: Fate,
    placed: PlacementMade,
    *,
    deadline_s: float | None,
    checkpoint: Checkpoint | None,
    age_s: float,
    moves_left: int,
) -> Offload:
    """The attempt at hand as it is sent to the executor that was chosen for it."""
    task = fate.task
    return Offload(
        task_id=task.id,
        fence=fate.fence,
        origin=owner(task),
        incarnation=placed.incarnation,
        dispatch=placed.dispatch,
        drawing=task.drawing,
        work=task.work,
        priority=task.priority,
        deadline_s=deadline_s,
        client=task.turns,
        checkpoint_steps=placed.checkpoint_steps,
        checkpoint=checkpoint,
        age_s=age_s,
        moves_left=moves_left,
    )
