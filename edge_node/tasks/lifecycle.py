"""A task's fate at its origin: events in, instructions out.

Owns every task that this node has accepted, from the request to its end, and is the only place
that changes one. Has no clock, no socket and no storage: the dispatcher feeds it what happened
and carries out what it says, in order; the simulated cluster in tests does the same.

    submitted -> appending -> placing -> attempting -> storing -> recording -> final
                                ^  |         |
                                |  waiting   | lost, lease lapsed, failed but retryable, or moved
                                +------------+

The fence: every placement of a task carries a higher attempt number than all before it, and a
report counts only if it comes from the current attempt.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptHeartbeat,
    AttemptQueued,
    AttemptReport,
    AttemptStarted,
    Durability,
    Image,
    NodeId,
    Offload,
    StepFinished,
    Task,
    TaskError,
    TaskEvent,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
)


@dataclass(frozen=True, kw_only=True)
class LifecycleLimits:
    """Bounds of waiting and trying.

    Attributes:
        attempts_max: placements of one task in one life of its origin, but for moves.
        moves_max: placements that a task gets besides because it would be drawn sooner elsewhere.
        lease_s: silence of an executor after which its attempt is given up.
        placement_retry_s: pause before another try when no node can take the task.
        finished_kept_max: finished tasks kept in memory; older ones are read from the ledger.
    """

    attempts_max: int = 5
    moves_max: int = 3
    lease_s: float = 5.0
    placement_retry_s: float = 0.25
    finished_kept_max: int = 2000

    @property
    def attempt_numbers_max(self) -> int:
        """By how much the attempt number of a task can grow in one life of its origin."""
        return self.attempts_max + self.moves_max


@dataclass(frozen=True, kw_only=True)
class WaitingAttempt:
    """A task in the queue of an executor, which is not known to have begun it."""

    task: Task
    executor: NodeId
    dispatch: int


@dataclass(frozen=True)
class Moment:
    """When an event happened, on both clocks."""

    now_s: float
    unix_s: float


# Events: what happened.


@dataclass(frozen=True, kw_only=True)
class TasksSubmitted:
    """Admission let these tasks of one request in."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, kw_only=True)
class TasksAppended:
    """The ledger holds these tasks as durably as they asked for."""

    task_ids: tuple[TaskId, ...]


@dataclass(frozen=True, kw_only=True)
class AppendFailed:
    """The ledger could not take these tasks: no promise was made."""

    task_ids: tuple[TaskId, ...]


@dataclass(frozen=True, kw_only=True)
class TasksRecovered:
    """Tasks that a former life of this node accepted and did not finish."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, kw_only=True)
class PlacementMade:
    """Placement chose an executor for the attempt; `dispatch` numbers it at that executor."""

    task_id: TaskId
    attempt: int
    executor: NodeId
    incarnation: int
    dispatch: int
    policy: str
    policy_reason: str = ""
    eta_s: float


@dataclass(frozen=True, kw_only=True)
class PlacementImpossible:
    """No node can take the attempt at present."""

    task_id: TaskId
    attempt: int


@dataclass(frozen=True, kw_only=True)
class AttemptReported:
    """An executor reported on an attempt."""

    task_id: TaskId
    attempt: int
    executor: NodeId
    report: AttemptReport


@dataclass(frozen=True, kw_only=True)
class PeerFailed:
    """A node fell silent or went away: whatever it was drawing for us is lost."""

    node_id: NodeId


@dataclass(frozen=True, kw_only=True)
class MoveRequested:
    """A task that waits would be drawn sooner by another node than its executor."""

    task_id: TaskId


@dataclass(frozen=True, kw_only=True)
class CancelRequested:
    """A client no longer wants the image."""

    task_id: TaskId


@dataclass(frozen=True, kw_only=True)
class ImageStored:
    """The image file is on disk."""

    task_id: TaskId
    attempt: int
    image_bytes: int


@dataclass(frozen=True, kw_only=True)
class ImageStoreFailed:
    """The image file could not be written."""

    task_id: TaskId
    attempt: int
    message: str


@dataclass(frozen=True, kw_only=True)
class FinalRecorded:
    """The ledger holds the end of the task, or will as soon as the store is back."""

    task_id: TaskId


@dataclass(frozen=True, kw_only=True)
class ClockAdvanced:
    """Time passed: leases, deadlines and retries are looked at."""


Event = (
    TasksSubmitted
    | TasksAppended
    | AppendFailed
    | TasksRecovered
    | PlacementMade
    | PlacementImpossible
    | AttemptReported
    | PeerFailed
    | MoveRequested
    | CancelRequested
    | ImageStored
    | ImageStoreFailed
    | FinalRecorded
    | ClockAdvanced
)


# Instructions: what the shell is to do.


@dataclass(frozen=True, kw_only=True)
class AppendTasks:
    """Write the tasks to the ledger; answer with TasksAppended or AppendFailed."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, kw_only=True)
class JournalTasks:
    """Write the tasks to the ledger without waiting for it."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, kw_only=True)
class AnswerAccepted:
    """Tell the client yes."""

    task_ids: tuple[TaskId, ...]


@dataclass(frozen=True, kw_only=True)
class AnswerRefused:
    """Tell the client that the ledger cannot promise anything."""

    task_ids: tuple[TaskId, ...]


@dataclass(frozen=True, kw_only=True)
class PlaceTask:
    """Ask placement for an executor, best none of `avoided`; answer with PlacementMade."""

    task: Task
    attempt: int
    avoided: frozenset[NodeId]


@dataclass(frozen=True, kw_only=True)
class StartAttempt:
    """Send the attempt to its executor (which may be this node)."""

    executor: NodeId
    offload: Offload


@dataclass(frozen=True, kw_only=True)
class StopAttempt:
    """Tell an executor that this attempt is not wanted any more."""

    executor: NodeId
    task_id: TaskId
    attempt: int


@dataclass(frozen=True, kw_only=True)
class StoreImage:
    """Write the image file; answer with ImageStored or ImageStoreFailed."""

    task_id: TaskId
    attempt: int
    image: Image


@dataclass(frozen=True, kw_only=True)
class NoteRecord:
    """Write the record behind, in order, when the ledger has time."""

    record: TaskRecord


@dataclass(frozen=True, kw_only=True)
class RecordFinal:
    """Write the end of the task; answer with FinalRecorded."""

    record: TaskRecord


@dataclass(frozen=True, kw_only=True)
class PublishEvent:
    """Tell everyone who watches the task."""

    task_id: TaskId
    event: TaskEvent


@dataclass(frozen=True, kw_only=True)
class AttemptEnded:
    """The executor no longer works on this dispatch: book-keeping and metrics."""

    executor: NodeId
    dispatch: int
    task_id: TaskId
    attempt: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class TaskEnded:
    """The task is final: service delay, experience and metrics.

    `attempts` are those whose placements led here: those that were moved on, and the last.
    """

    record: TaskRecord
    attempts: tuple[int, ...]


Instruction = (
    AppendTasks
    | JournalTasks
    | AnswerAccepted
    | AnswerRefused
    | PlaceTask
    | StartAttempt
    | StopAttempt
    | StoreImage
    | NoteRecord
    | RecordFinal
    | PublishEvent
    | AttemptEnded
    | TaskEnded
)


class Phase(enum.Enum):
    """What a task waits for."""

    APPENDING = enum.auto()
    PLACING = enum.auto()
    WAITING = enum.auto()
    ATTEMPTING = enum.auto()
    STORING = enum.auto()
    RECORDING = enum.auto()
    FINAL = enum.auto()


@dataclass(kw_only=True)
class _Entry:
    """One task; mutable, and touched by Lifecycle alone."""

    record: TaskRecord
    phase: Phase
    attempt: int
    dispatch: int = 0
    lease_until_s: float = 0.0
    retry_at_s: float = 0.0
    avoided: set[NodeId] = field(default_factory=set)
    moved: list[int] = field(default_factory=list)
    events: list[TaskEvent] = field(default_factory=list)

    @property
    def task(self) -> Task:
        return self.record.task


class Lifecycle:
    """All tasks of this origin. `handle` is the one way to change them."""

    def __init__(self, limits: LifecycleLimits) -> None:
        self._limits = limits
        self._live: dict[TaskId, _Entry] = {}
        self._finished: OrderedDict[TaskId, _Entry] = OrderedDict()

    # What can be read.

    @property
    def in_flight(self) -> int:
        """Number of tasks accepted, or about to be, and not final."""
        return len(self._live)

    def record(self, task_id: TaskId) -> TaskRecord | None:
        """The task as it stands; None if it is unknown here or only the ledger knows it."""
        entry = self._find(task_id)
        return None if entry is None or entry.phase is Phase.APPENDING else entry.record

    def waiting(self) -> list[WaitingAttempt]:
        """Every task that may be moved: it waits at an executor, and has moves left."""
        return [
            WaitingAttempt(task=entry.task, executor=executor, dispatch=entry.dispatch)
            for entry in self._live.values()
            if self._may_move(entry) and (executor := entry.record.executor) is not None
        ]

    def events(self, task_id: TaskId, *, after: int = 0) -> list[TaskEvent] | None:
        """Events of the task with a higher sequence number, or None if it is not in memory.

        A number never given out is from before a restart of the node: then all are returned.
        """
        entry = self._find(task_id)
        if entry is None:
            return None
        return entry.events[after if after <= len(entry.events) else 0 :]

    # What can happen.

    def handle(self, event: Event, at: Moment) -> list[Instruction]:
        """Applies one event; returns what is to be done about it, in order."""
        match event:
            case TasksSubmitted():
                return self._submitted(event.tasks, at)
            case TasksAppended():
                return self._appended(event.task_ids, at)
            case AppendFailed():
                for task_id in event.task_ids:
                    self._live.pop(task_id, None)
                return [AnswerRefused(task_ids=event.task_ids)]
            case TasksRecovered():
                return self._recovered(event.tasks, at)
            case PlacementMade():
                return self._placement_made(event, at)
            case PlacementImpossible():
                return self._placement_impossible(event, at)
            case AttemptReported():
                return self._reported(event, at)
            case PeerFailed():
                return self._peer_failed(event.node_id, at)
            case MoveRequested():
                return self._moved(event.task_id)
            case CancelRequested():
                return self._cancelled(event.task_id, at)
            case ImageStored():
                return self._image_stored(event, at)
            case ImageStoreFailed():
                return self._image_store_failed(event, at)
            case FinalRecorded():
                return self._final_recorded(event.task_id, at)
            case ClockAdvanced():
                return self._clock_advanced(at)

    def _submitted(self, tasks: tuple[Task, ...], at: Moment) -> list[Instruction]:
        for task in tasks:
            self._live[task.id] = _Entry(
                record=TaskRecord(task=task), phase=Phase.APPENDING, attempt=task.attempt_floor
            )
        if all(task.durability is Durability.DISK for task in tasks):
            return [AppendTasks(tasks=tasks)]
        # A synchronous client's yes is its image, so nothing waits for the disk.
        journalled = tuple(t for t in tasks if t.durability is not Durability.NONE)
        journal: list[Instruction] = [JournalTasks(tasks=journalled)] if journalled else []
        return journal + self._appended(tuple(task.id for task in tasks), at)

    def _appended(self, task_ids: tuple[TaskId, ...], at: Moment) -> list[Instruction]:
        instructions: list[Instruction] = [AnswerAccepted(task_ids=task_ids)]
        for entry in self._entries(task_ids, Phase.APPENDING):
            instructions += self._publish(entry, TaskEventKind.QUEUED, at)
            instructions += self._place(entry)
        return instructions

    def _recovered(self, tasks: tuple[Task, ...], at: Moment) -> list[Instruction]:
        instructions: list[Instruction] = []
        for task in tasks:
            if self._find(task.id) is not None:
                continue
            entry = _Entry(
                record=TaskRecord(task=task), phase=Phase.APPENDING, attempt=task.attempt_floor
            )
            self._live[task.id] = entry
            instructions += self._publish(entry, TaskEventKind.QUEUED, at)
            instructions += self._place(entry)
        return instructions

    # Placement.

    def _place(self, entry: _Entry, *, leaving: NodeId | None = None) -> list[Instruction]:
        """Asks for the next placement; `leaving` is avoided this once."""
        entry.phase = Phase.PLACING
        entry.attempt += 1
        entry.record = replace(
            entry.record, status=TaskStatus.QUEUED, step=0, attempt=entry.attempt, executor=None
        )
        avoided = frozenset(entry.avoided | ({leaving} if leaving else set()))
        return [PlaceTask(task=entry.task, attempt=entry.attempt, avoided=avoided)]

    def _placement_made(self, event: PlacementMade, at: Moment) -> list[Instruction]:
        entry = self._live.get(event.task_id)
        if entry is None or entry.phase is not Phase.PLACING or entry.attempt != event.attempt:
            # The task ended while placement thought about it.
            return [self._ended(event.executor, event.dispatch, event, "not_wanted")]
        entry.phase = Phase.ATTEMPTING
        entry.dispatch = event.dispatch
        entry.lease_until_s = at.now_s + self._limits.lease_s
        entry.record = replace(
            entry.record,
            executor=event.executor,
            policy=event.policy,
            policy_reason=event.policy_reason,
            eta_s=event.eta_s,
        )
        task = entry.task
        deadline_s = None if task.deadline_unix_s is None else task.deadline_unix_s - at.unix_s
        offload = Offload(
            task_id=task.id,
            attempt=entry.attempt,
            origin=task.origin,
            incarnation=event.incarnation,
            dispatch=event.dispatch,
            drawing=task.drawing,
            work=task.work,
            priority=task.priority,
            deadline_s=deadline_s,
        )
        return [
            *self._publish(entry, TaskEventKind.PLACED, at),
            NoteRecord(record=entry.record),
            StartAttempt(executor=event.executor, offload=offload),
        ]

    def _placement_impossible(self, event: PlacementImpossible, at: Moment) -> list[Instruction]:
        entry = self._live.get(event.task_id)
        if entry is not None and entry.phase is Phase.PLACING and entry.attempt == event.attempt:
            entry.phase = Phase.WAITING
            entry.retry_at_s = at.now_s + self._limits.placement_retry_s
        return []

    # Attempts.

    def _is_current(self, entry: _Entry, attempt: int) -> bool:
        """The fence: whether a report of `attempt` may still change the task."""
        return entry.attempt == attempt

    def _reported(self, event: AttemptReported, at: Moment) -> list[Instruction]:
        entry = self._live.get(event.task_id)
        report = event.report
        if (
            entry is None
            or entry.phase is not Phase.ATTEMPTING
            or not self._is_current(entry, event.attempt)
        ):
            if isinstance(report, AttemptFinished | AttemptFailed):
                return []
            stop = StopAttempt(
                executor=event.executor, task_id=event.task_id, attempt=event.attempt
            )
            return [stop]
        entry.lease_until_s = at.now_s + self._limits.lease_s
        match report:
            case AttemptQueued(position=position) | AttemptHeartbeat(queue_position=position):
                entry.record = replace(entry.record, queue_position=position)
                return []
            case AttemptStarted():
                return self._started(entry, at)
            case StepFinished():
                return self._step_finished(entry, report, at)
            case AttemptFinished():
                return self._finished_drawing(entry, event, report)
            case AttemptFailed():
                return self._attempt_failed(entry, report, at)

    def _started(self, entry: _Entry, at: Moment) -> list[Instruction]:
        entry.record = replace(
            entry.record,
            status=TaskStatus.IN_PROGRESS,
            queue_position=0,
            started_unix_s=entry.record.started_unix_s or at.unix_s,
        )
        return self._publish(entry, TaskEventKind.STARTED, at)

    def _step_finished(self, entry: _Entry, report: StepFinished, at: Moment) -> list[Instruction]:
        if report.step <= entry.record.step:
            return []
        entry.record = replace(entry.record, status=TaskStatus.IN_PROGRESS, step=report.step)
        return self._publish(entry, TaskEventKind.STEP, at, report=report)

    def _finished_drawing(
        self, entry: _Entry, event: AttemptReported, report: AttemptFinished
    ) -> list[Instruction]:
        entry.phase = Phase.STORING
        entry.record = replace(
            entry.record,
            executor=event.executor,
            attempt=event.attempt,
            step=entry.task.drawing.denoising_steps,
            emulated_device=report.image.emulated_device,
            queue_s=report.queue_s,
            compute_s=report.compute_s,
        )
        return [
            self._ended(event.executor, entry.dispatch, event, "finished"),
            StoreImage(task_id=event.task_id, attempt=event.attempt, image=report.image),
        ]

    def _attempt_failed(
        self, entry: _Entry, report: AttemptFailed, at: Moment
    ) -> list[Instruction]:
        if report.retryable:
            return self._give_up_attempt(entry, report.code, report.message, at)
        assert entry.record.executor is not None
        ended = self._ended(entry.record.executor, entry.dispatch, entry, report.code)
        error = TaskError(code=report.code, message=report.message)
        return [ended, *self._end(entry, TaskStatus.FAILED, at, error=error)]

    def _give_up_attempt(
        self, entry: _Entry, reason: str, message: str, at: Moment
    ) -> list[Instruction]:
        """The hop failed: back at the origin, the task is placed again or fails honestly."""
        executor = entry.record.executor
        assert executor is not None
        entry.avoided.add(executor)
        instructions: list[Instruction] = [self._ended(executor, entry.dispatch, entry, reason)]
        failed = entry.attempt - entry.task.attempt_floor - len(entry.moved)
        if failed >= self._limits.attempts_max:
            error = TaskError(
                code="attempts_exhausted",
                message=f"{self._limits.attempts_max} devices in turn failed to draw it; "
                f"the last: {message}. Submit it again when the cluster is healthy.",
            )
            return instructions + self._end(entry, TaskStatus.FAILED, at, error=error)
        return instructions + self._place(entry)

    def _peer_failed(self, node_id: NodeId, at: Moment) -> list[Instruction]:
        instructions: list[Instruction] = []
        for entry in list(self._live.values()):
            if entry.phase is Phase.ATTEMPTING and entry.record.executor == node_id:
                message = f"node {node_id} stopped answering"
                instructions += self._give_up_attempt(entry, "peer_failed", message, at)
        return instructions

    def _may_move(self, entry: _Entry) -> bool:
        return (
            entry.phase is Phase.ATTEMPTING
            and entry.record.status is TaskStatus.QUEUED
            and len(entry.moved) < self._limits.moves_max
        )

    def _moved(self, task_id: TaskId) -> list[Instruction]:
        entry = self._live.get(task_id)
        if entry is None or not self._may_move(entry):
            return []  # it was begun, or ended, in the meantime
        executor = entry.record.executor
        instructions = self._stop(entry, "moved")
        entry.moved.append(entry.attempt)
        return instructions + self._place(entry, leaving=executor)

    def _cancelled(self, task_id: TaskId, at: Moment) -> list[Instruction]:
        entry = self._live.get(task_id)
        if entry is None or entry.phase in (Phase.APPENDING, Phase.STORING, Phase.RECORDING):
            return []
        return [*self._stop(entry, "cancelled"), *self._end(entry, TaskStatus.CANCELLED, at)]

    def _stop(self, entry: _Entry, reason: str) -> list[Instruction]:
        if entry.phase is not Phase.ATTEMPTING:
            return []
        executor = entry.record.executor
        assert executor is not None
        return [
            StopAttempt(executor=executor, task_id=entry.task.id, attempt=entry.attempt),
            self._ended(executor, entry.dispatch, entry, reason),
        ]

    # Time.

    def _clock_advanced(self, at: Moment) -> list[Instruction]:
        instructions: list[Instruction] = []
        for entry in list(self._live.values()):
            if self._deadline_passed(entry, at):
                error = TaskError(
                    code="deadline_exceeded",
                    message="The deadline passed before the image was drawn. Allow a later "
                    "deadline_s, or fewer steps.",
                )
                instructions += self._stop(entry, "deadline_exceeded")
                instructions += self._end(entry, TaskStatus.FAILED, at, error=error)
            elif entry.phase is Phase.WAITING and at.now_s >= entry.retry_at_s:
                entry.attempt -= 1  # nobody was asked, so the number is still unused
                instructions += self._place(entry)
            elif entry.phase is Phase.ATTEMPTING and self._lease_lapsed(entry, at):
                executor = entry.record.executor
                assert executor is not None
                stop = StopAttempt(executor=executor, task_id=entry.task.id, attempt=entry.attempt)
                message = f"node {executor} fell silent"
                instructions.append(stop)
                instructions += self._give_up_attempt(entry, "lease_lapsed", message, at)
        return instructions

    def _deadline_passed(self, entry: _Entry, at: Moment) -> bool:
        deadline_unix_s = entry.task.deadline_unix_s
        waiting = entry.phase in (Phase.PLACING, Phase.WAITING, Phase.ATTEMPTING)
        return waiting and deadline_unix_s is not None and at.unix_s >= deadline_unix_s

    def _lease_lapsed(self, entry: _Entry, at: Moment) -> bool:
        return at.now_s >= entry.lease_until_s

    # Ends.

    def _image_stored(self, event: ImageStored, at: Moment) -> list[Instruction]:
        entry = self._live.get(event.task_id)
        if entry is None or entry.phase is not Phase.STORING:
            return []
        entry.record = replace(entry.record, image_bytes=event.image_bytes)
        return self._end(entry, TaskStatus.COMPLETED, at)

    def _image_store_failed(self, event: ImageStoreFailed, at: Moment) -> list[Instruction]:
        entry = self._live.get(event.task_id)
        if entry is None or entry.phase is not Phase.STORING:
            return []
        error = TaskError(code="image_store_failed", message=event.message)
        return self._end(entry, TaskStatus.FAILED, at, error=error)

    def _end(
        self, entry: _Entry, status: TaskStatus, at: Moment, *, error: TaskError | None = None
    ) -> list[Instruction]:
        entry.record = replace(
            entry.record, status=status, error=error, finished_unix_s=at.unix_s, eta_s=0.0
        )
        if entry.task.durability is Durability.DISK:
            # A client must not see an end that a crash could undo.
            entry.phase = Phase.RECORDING
            return [RecordFinal(record=entry.record)]
        note: list[Instruction] = []
        if entry.task.durability is Durability.JOURNALLED:
            note.append(NoteRecord(record=entry.record))
        return note + self._finalise(entry, at)

    def _final_recorded(self, task_id: TaskId, at: Moment) -> list[Instruction]:
        entry = self._live.get(task_id)
        if entry is None or entry.phase is not Phase.RECORDING:
            return []
        return self._finalise(entry, at)

    def _finalise(self, entry: _Entry, at: Moment) -> list[Instruction]:
        kind = {
            TaskStatus.COMPLETED: TaskEventKind.FINISHED,
            TaskStatus.FAILED: TaskEventKind.FAILED,
            TaskStatus.CANCELLED: TaskEventKind.CANCELLED,
        }[entry.record.status]
        instructions = self._publish(entry, kind, at)
        entry.phase = Phase.FINAL
        # Previews are for those who watched; the image itself is there now.
        entry.events = [replace(event, preview=b"") for event in entry.events]
        del self._live[entry.task.id]
        self._finished[entry.task.id] = entry
        while len(self._finished) > self._limits.finished_kept_max:
            self._finished.popitem(last=False)
        attempts = (*entry.moved, entry.record.attempt)
        return [*instructions, TaskEnded(record=entry.record, attempts=attempts)]

    # Small parts.

    def _find(self, task_id: TaskId) -> _Entry | None:
        return self._live.get(task_id) or self._finished.get(task_id)

    def _entries(self, task_ids: Iterable[TaskId], phase: Phase) -> Sequence[_Entry]:
        entries = (self._live.get(task_id) for task_id in task_ids)
        return [entry for entry in entries if entry is not None and entry.phase is phase]

    def _ended(
        self,
        executor: NodeId,
        dispatch: int,
        subject: AttemptReported | PlacementMade | _Entry,
        reason: str,
    ) -> AttemptEnded:
        task_id = subject.task.id if isinstance(subject, _Entry) else subject.task_id
        return AttemptEnded(
            executor=executor,
            dispatch=dispatch,
            task_id=task_id,
            attempt=subject.attempt,
            reason=reason,
        )

    def _publish(
        self,
        entry: _Entry,
        kind: TaskEventKind,
        at: Moment,
        *,
        report: StepFinished | None = None,
    ) -> list[Instruction]:
        record = entry.record
        event = TaskEvent(
            sequence=len(entry.events) + 1,
            kind=kind,
            unix_s=at.unix_s,
            attempt=record.attempt,
            executor=record.executor,
            step=record.step,
            steps=record.task.drawing.denoising_steps,
            queue_position=record.queue_position,
            error=record.error,
            preview=b"" if report is None else report.preview,
        )
        entry.events.append(event)
        return [PublishEvent(task_id=record.task.id, event=event)]
