"""A task's fate at its origin: events in, instructions out.

Owns every task that this node has accepted, and alone changes one. Has no clock, no socket and no
storage: the dispatcher feeds it what happened and carries out what it says; so do the simulations.

    submitted -> appending -> placing -> attempting -> storing -> recording -> final
                                ^  |        |  |
                                |  waiting  |  exporting: another device goes on with it
                                +-----------+--+
                                lost, lease lapsed, failed but retryable, moved or handed over

The fence: every placement of a task carries a greater one than all before it, those of the node's
former lives included, and a report counts only if it comes from the current one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edge_node.attempt_codes import HANDED_OVER, WORKER_DIED, WORKER_DIED_SHARED
from edge_node.changing import changed
from edge_node.clock import Moment
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptHeartbeat,
    AttemptQueued,
    AttemptStarted,
    Durability,
    NodeId,
    StepFinished,
    Task,
    TaskError,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
    owner,
)
from edge_node.errors import NotFinite
from edge_node.moves import WantedTask
from edge_node.tasks.checkpoints import Checkpoints
from edge_node.tasks.departure import Departure, MoveCost
from edge_node.tasks.expectation import Course
from edge_node.tasks.fate import (
    END_KINDS,
    Fate,
    Phase,
    attempt_ended,
    offload_of,
    too_late,
    why_no_more,
)
from edge_node.tasks.fates import Fates
from edge_node.tasks.in_flight import InFlight
from edge_node.tasks.lifecycle_limits import (
    EVENTS_OF_A_LIFE_MAX,
    GIVEN_BACK_MAX,
    PLACEMENT_LOST_S,
    LifecycleLimits,
)
from edge_node.tasks.lifecycle_protocol import (
    AnswerAccepted,
    AnswerRefused,
    AppendFailed,
    AppendTasks,
    AttemptReported,
    CancelRequested,
    ClockAdvanced,
    Event,
    FinalRecorded,
    HandOverAttempt,
    ImageStored,
    ImageStoreFailed,
    Instruction,
    JournalTasks,
    MoveRequested,
    NoteRecord,
    PeerFailed,
    PlacementImpossible,
    PlacementMade,
    PlaceTask,
    PublishEvent,
    RecordFinal,
    StartAttempt,
    StopAttempt,
    StoreImage,
    TakeRequested,
    TaskEnded,
    TasksAppended,
    TasksForgotten,
    TasksRecovered,
    TasksSubmitted,
    WaitingAttempt,
)

# Codes of attempts that failed of what was drawn, and not of who drew it.
OF_THE_DRAWING = frozenset({"draw_failed", NotFinite.code})


class Lifecycle(Fates):
    """All tasks of this origin. `handle` is the one way to change them."""

    def __init__(self, limits: LifecycleLimits, *, term: int) -> None:
        """`term` is this life of the node, in which all tasks here are placed."""
        super().__init__(limits)
        self._limits = limits
        self._term = term
        # Read by all, and changed here alone.
        self.checkpoints = Checkpoints(limits.checkpoint_bytes_max)
        # Sums over `_live`; read by all, and changed here alone.
        self.load = InFlight()
        self.move_cost = MoveCost()

    def waiting(self) -> list[WaitingAttempt]:
        """Every task that may be moved: it waits at an executor, and has moves left."""
        return [
            WaitingAttempt(task=entry.task, executor=executor, dispatch=entry.dispatch)
            for entry in self._live.values()
            if self._may_move(entry) and (executor := entry.record.executor) is not None
        ]

    def validate(self) -> None:
        """Asserts what holds after every event; for tests, because it looks at every task."""
        self._finished.validate(frozenset(self._live))
        live = sum(entry.task.drawing.prompt_bytes for entry in self._live.values())
        assert self.load.prompt_bytes == live, "bytes in flight are miscounted"
        assert self._live.keys() >= set(self.checkpoints.task_ids()), "checkpoints of nobody"
        for task_id, entry in self._live.items():
            assert self.checkpoints.step(task_id) <= entry.record.step, "steps that nobody heard of"
            wrong = entry.what_is_wrong(moves_max=self._limits.moves_max, term=self._term)
            assert task_id == entry.task.id, "a task goes by another's name"
            assert not wrong, "\n  ".join([f"{task_id}: {wrong}", *map(str, entry.story)])

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
                    self._drop_live(task_id)
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
                return self._moved(event.task_id, at)
            case TakeRequested(wanted=wanted):
                return self._taken(wanted, at)
            case CancelRequested():
                return self._cancelled(event.task_id, at)
            case ImageStored():
                return self._image_stored(event, at)
            case ImageStoreFailed():
                return self._image_store_failed(event, at)
            case FinalRecorded():
                return self._final_recorded(event.task_id, at)
            case TasksForgotten():
                self._finished.forget(event)
                return []
            case ClockAdvanced():
                return self._clock_advanced(at)

    def _submitted(self, tasks: tuple[Task, ...], at: Moment) -> list[Instruction]:
        for task in tasks:
            self._take_up(task, at)
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
            instructions += self._place(entry, at, "accepted")
        return instructions

    def _recovered(self, tasks: tuple[Task, ...], at: Moment) -> list[Instruction]:
        instructions: list[Instruction] = []
        for task in tasks:
            if self._find(task.id) is not None:
                continue
            entry = self._take_up(task, at)
            entry.sequence_before = self._term * EVENTS_OF_A_LIFE_MAX
            instructions += self._publish(entry, TaskEventKind.QUEUED, at)
            instructions += self._place(entry, at, "recovered")
        return instructions

    def _take_up(self, task: Task, at: Moment) -> Fate:
        entry = Fate(record=TaskRecord(task=task), phase=Phase.APPENDING, attempt=0)
        self._live[task.id] = entry
        self.load.add(task)
        entry.tell(at, "taken up")
        return entry

    # Placement.

    def _place(self, entry: Fate, at: Moment, why: str) -> list[Instruction]:
        """Asks for the next placement; a node that the task leaves is avoided this once."""
        entry.attempt += 1
        entry.enter(Phase.PLACING, at, why)
        entry.retry_at_s = at.now_s + PLACEMENT_LOST_S
        entry.steps_done = 0
        entry.record = changed(
            entry.record, status=TaskStatus.QUEUED, attempt=entry.attempt, executor=None
        )
        leaves = entry.departure
        avoided = frozenset(entry.avoided | ({leaves.source} if leaves else set()))
        left, steps_left = self.checkpoints.left(entry.task)
        return [
            PlaceTask(
                task=left,
                fence=entry.fence,
                avoided=avoided,
                steps_left=steps_left,
                wanted_by=leaves.taker if leaves else None,
            )
        ]

    def _placement_made(self, event: PlacementMade, at: Moment) -> list[Instruction]:
        entry = self._live.get(event.task_id)
        if entry is None or entry.phase is not Phase.PLACING or entry.fence != event.fence:
            # The task ended while placement thought about it.
            return [attempt_ended(event.executor, event.dispatch, event, "not_wanted")]
        entry.dispatch = event.dispatch
        step = self.checkpoints.step(event.task_id)
        entry.course = Course(due_s=at.now_s + event.eta_s, went_on_from=step, step=step)
        entry.lease_until_s = at.now_s + self._limits.lease_s
        entry.record = changed(
            entry.record,
            executor=event.executor,
            policy=event.policy,
            policy_reason=event.policy_reason,
            eta_s=event.eta_s,
        )
        entry.enter(Phase.ATTEMPTING, at, "placed")
        unix_s = entry.task.deadline_unix_s
        deadline_s = None if unix_s is None else unix_s - at.unix_s
        # Time is left for another node where there is one.
        patience_s = self._limits.until_overdue_s(event.eta_s, deadline_s if event.others else None)
        entry.overdue_at_s = at.now_s + patience_s
        checkpoint = self.checkpoints.of(event.task_id)
        offload = offload_of(
            entry,
            event,
            deadline_s=deadline_s,
            checkpoint=checkpoint,
            age_s=max(0.0, at.unix_s - entry.task.created_unix_s),
            moves_left=self._moves_left(entry) if self._limits.takeable else 0,
        )
        return [
            *self._moved_to(entry, event.executor, at),
            *self._publish(entry, TaskEventKind.PLACED, at),
            *self._note(entry),
            StartAttempt(executor=event.executor, offload=offload),
        ]

    def _placement_impossible(self, event: PlacementImpossible, at: Moment) -> list[Instruction]:
        entry = self._live.get(event.task_id)
        if entry is not None and entry.phase is Phase.PLACING and entry.fence == event.fence:
            entry.enter(Phase.WAITING, at, "nobody can take it")
            entry.retry_at_s = at.now_s + self._limits.placement_retry_s
        return []

    # Attempts.

    def _is_current(self, entry: Fate, event: AttemptReported) -> bool:
        return (entry.fence, entry.record.executor) == (event.fence, event.executor)

    def _reported(self, event: AttemptReported, at: Moment) -> list[Instruction]:
        entry = self._live.get(event.task_id)
        report = event.report
        drawn = entry is not None and entry.is_drawn
        if entry is None or not (drawn and self._is_current(entry, event)):
            if isinstance(report, AttemptFinished | AttemptFailed):
                return []
            stop = StopAttempt(executor=event.executor, task_id=event.task_id, fence=event.fence)
            return [stop]
        entry.lease_until_s = at.now_s + self._limits.lease_s
        match report:
            case AttemptQueued(position=position) | AttemptHeartbeat(queue_position=position):
                entry.record = changed(entry.record, queue_position=position)
                return []
            case AttemptStarted(step=step):
                return self._started(entry, step, at)
            case StepFinished():
                return self._step_finished(entry, report, at)
            case AttemptFinished():
                return self._finished_drawing(entry, event, report, at)
            case AttemptFailed():
                return self._attempt_failed(entry, report, at)

    def _started(self, entry: Fate, step: int, at: Moment) -> list[Instruction]:
        if entry.record.status is TaskStatus.IN_PROGRESS:
            return []  # one beginning is enough, whatever an executor says
        entry.course = entry.course._replace(began_s=at.now_s, went_on_from=step, step=step)
        if entry.left_s is not None and step:
            self.move_cost.measured(at.now_s - entry.left_s)
        entry.left_s = None
        if step == self.checkpoints.step(entry.task.id):
            entry.steps_done = step
            self.checkpoints.steps_resumed += step
        entry.record = changed(
            entry.record,
            status=TaskStatus.IN_PROGRESS,
            queue_position=0,
            started_unix_s=entry.record.started_unix_s or at.unix_s,
        )
        return self._publish(entry, TaskEventKind.STARTED, at)

    def _step_finished(self, entry: Fate, report: StepFinished, at: Moment) -> list[Instruction]:
        again = min(report.step, entry.record.step) - entry.steps_done
        self.checkpoints.steps_again += max(0, again)
        entry.steps_done = max(entry.steps_done, report.step)
        entry.course = entry.course._replace(stepped_s=at.now_s, step=report.step)
        if report.checkpoint is not None and report.checkpoint.step <= report.step:
            self.checkpoints.keep(entry.task, report.checkpoint)
        if report.step <= entry.record.step:
            return []  # a client sees no steps go back
        entry.record = changed(entry.record, status=TaskStatus.IN_PROGRESS, step=report.step)
        return self._publish(entry, TaskEventKind.STEP, at, report=report)

    def _finished_drawing(
        self, entry: Fate, event: AttemptReported, report: AttemptFinished, at: Moment
    ) -> list[Instruction]:
        entry.enter(Phase.STORING, at, "drawn")
        self.checkpoints.forget(event.task_id)
        entry.record = changed(
            entry.record,
            executor=event.executor,
            attempt=event.fence.attempt,
            step=entry.task.drawing.denoising_steps,
            emulated_device=report.image.emulated_device,
            prompt_tokens=report.image.prompt_tokens,
            queue_s=report.queue_s,
            compute_s=report.compute_s,
        )
        return [
            attempt_ended(event.executor, entry.dispatch, event, "finished"),
            StoreImage(task_id=event.task_id, fence=event.fence, image=report.image),
        ]

    def _attempt_failed(self, entry: Fate, report: AttemptFailed, at: Moment) -> list[Instruction]:
        if report.code in OF_THE_DRAWING:
            # Its checkpoint may be why: the next attempt has to do without.
            self.checkpoints.forget(entry.task.id)
        if report.code == HANDED_OVER and (entry.departure or entry.given_back < GIVEN_BACK_MAX):
            return self._handed_over(entry, at)
        if report.retryable:
            return self._give_up_attempt(entry, report.code, report.message, at)
        assert entry.record.executor is not None
        ended = attempt_ended(entry.record.executor, entry.dispatch, entry, report.code)
        error = TaskError(code=report.code, message=report.message)
        return [ended, *self._end(entry, TaskStatus.FAILED, at, error=error)]

    def _give_up_attempt(
        self, entry: Fate, reason: str, message: str, at: Moment
    ) -> list[Instruction]:
        """The hop failed: back at the origin, the task is placed again or fails honestly."""
        executor = entry.record.executor
        assert executor is not None
        entry.avoided.add(executor)
        entry.departure = entry.left_s = None
        entry.failed_on.append(executor)
        if reason in (WORKER_DIED, WORKER_DIED_SHARED):
            entry.deaths_alone.append(reason == WORKER_DIED)
        instructions: list[Instruction] = [attempt_ended(executor, entry.dispatch, entry, reason)]
        error = why_no_more(entry, message, attempts_max=self._limits.attempts_max)
        if error is not None:
            return instructions + self._end(entry, TaskStatus.FAILED, at, error=error)
        return instructions + self._place(entry, at, reason)

    def _peer_failed(self, node_id: NodeId, at: Moment) -> list[Instruction]:
        instructions: list[Instruction] = []
        for entry in list(self._live.values()):
            if entry.is_drawn and entry.record.executor == node_id:
                message = f"node {node_id} stopped answering"
                instructions += self._give_up_attempt(entry, "peer_failed", message, at)
        return instructions

    # Moves.

    def _moves_left(self, entry: Fate) -> int:
        return max(0, self._limits.moves_max - entry.moves)

    def _may_move(self, entry: Fate) -> bool:
        waits = entry.record.status is TaskStatus.QUEUED
        return entry.phase is Phase.ATTEMPTING and waits and self._moves_left(entry) > 0

    def _moved(self, task_id: TaskId, at: Moment) -> list[Instruction]:
        entry = self._live.get(task_id)
        if entry is None or not self._may_move(entry) or entry.record.executor is None:
            return []  # it was begun, or ended, in the meantime
        entry.departure = Departure(source=entry.record.executor, reason="waiting")
        return self._leaves(entry, at, self._stop(entry, "moved"))

    def _taken(self, wanted: WantedTask, at: Moment) -> list[Instruction]:
        """A device would go on with it: its executor is asked to hand it over."""
        entry = self._live.get(TaskId(wanted.task_id))
        if entry is None or entry.phase is not Phase.ATTEMPTING or entry.fence != wanted.fence:
            return []  # it ended, or goes elsewhere, in the meantime
        executor = entry.record.executor
        may = self._limits.takeable and self._moves_left(entry) > 0
        if executor is None or executor == wanted.taker or not may:
            return []
        until_s = at.now_s + self._limits.export_s
        entry.departure = Departure.wanted(wanted, source=executor, until_s=until_s)
        entry.enter(Phase.EXPORTING, at, f"wanted by {wanted.taker}")
        return [HandOverAttempt(executor=executor, task_id=entry.task.id, fence=entry.fence)]

    def _handed_over(self, entry: Fate, at: Moment) -> list[Instruction]:
        """Its executor is about to stop, or another one takes it: a failure of nobody."""
        executor = entry.record.executor
        assert executor is not None
        if entry.departure is None:
            entry.departure = Departure(source=executor, reason="draining")
            entry.given_back += 1
        entry.left_s = at.now_s
        return self._leaves(
            entry, at, [attempt_ended(executor, entry.dispatch, entry, HANDED_OVER)]
        )

    def _not_handed_over(self, entry: Fate, at: Moment) -> list[Instruction]:
        """For too long: it goes on elsewhere from its last checkpoint, or stays without any."""
        if self.checkpoints.step(entry.task.id):
            return self._leaves(entry, at, self._stop(entry, "moved"))
        entry.departure = None
        entry.enter(Phase.ATTEMPTING, at, "not handed over")
        return []

    def _leaves(self, entry: Fate, at: Moment, told: list[Instruction]) -> list[Instruction]:
        assert entry.departure is not None, "it goes nowhere"
        entry.moved.append(entry.fence)
        return told + self._place(entry, at, f"moves: {entry.departure.reason}")

    def _moved_to(self, entry: Fate, executor: NodeId, at: Moment) -> list[Instruction]:
        """What watchers are told of a move that was made."""
        move = entry.departure.made(executor) if entry.departure else None
        entry.departure = None
        if move is None:
            return []
        entry.record = changed(entry.record, moves=(*entry.record.moves, move))
        event = entry.happened(TaskEventKind.MOVED, at, move=move)
        return [PublishEvent(task_id=entry.task.id, event=event)]

    def _cancelled(self, task_id: TaskId, at: Moment) -> list[Instruction]:
        entry = self._live.get(task_id)
        if entry is None or entry.phase in (Phase.APPENDING, Phase.STORING, Phase.RECORDING):
            return []
        return [*self._stop(entry, "cancelled"), *self._end(entry, TaskStatus.CANCELLED, at)]

    def _stop(self, entry: Fate, reason: str) -> list[Instruction]:
        if not entry.is_drawn:
            return []
        executor = entry.record.executor
        assert executor is not None
        return [
            StopAttempt(executor=executor, task_id=entry.task.id, fence=entry.fence),
            attempt_ended(executor, entry.dispatch, entry, reason),
        ]

    # Time.

    def _clock_advanced(self, at: Moment) -> list[Instruction]:
        instructions: list[Instruction] = []
        for entry in list(self._live.values()):
            if self._deadline_passed(entry, at):
                instructions += self._stop(entry, "deadline_exceeded")
                late = too_late(entry)
                instructions += self._end(entry, TaskStatus.FAILED, at, error=late)
            elif entry.phase is Phase.WAITING and at.now_s >= entry.retry_at_s:
                entry.attempt -= 1  # nobody was asked, so the number is still unused
                instructions += self._place(entry, at, "tried again")
            elif entry.phase is Phase.PLACING and at.now_s >= entry.retry_at_s:
                instructions += self._place(entry, at, "placement lost")
            elif entry.is_drawn and self._lease_lapsed(entry, at):
                instructions += self._take_back(entry, "lease_lapsed", "fell silent", at)
            elif entry.is_drawn and self._is_overdue(entry, at):
                instructions += self._take_back(entry, "overdue", "did not draw it in time", at)
            elif entry.phase is Phase.EXPORTING and self._export_lapsed(entry, at):
                instructions += self._not_handed_over(entry, at)
        return instructions

    def _take_back(self, entry: Fate, reason: str, why: str, at: Moment) -> list[Instruction]:
        executor = entry.record.executor
        assert executor is not None
        stop = StopAttempt(executor=executor, task_id=entry.task.id, fence=entry.fence)
        return [stop, *self._give_up_attempt(entry, reason, f"node {executor} {why}", at)]

    def _is_overdue(self, entry: Fate, at: Moment) -> bool:
        """Whether another node holds a task in vain; the last attempt is left to its deadline."""
        is_last = entry.attempt - len(entry.moved) >= self._limits.attempts_max
        elsewhere = entry.record.executor != owner(entry.task)
        return elsewhere and not is_last and at.now_s >= entry.overdue_at_s

    def _deadline_passed(self, entry: Fate, at: Moment) -> bool:
        deadline_unix_s = entry.task.deadline_unix_s
        waiting = entry.is_drawn or entry.phase in (Phase.PLACING, Phase.WAITING)
        return waiting and deadline_unix_s is not None and at.unix_s >= deadline_unix_s

    def _lease_lapsed(self, entry: Fate, at: Moment) -> bool:
        return at.now_s >= entry.lease_until_s

    def _export_lapsed(self, entry: Fate, at: Moment) -> bool:
        return entry.departure is not None and at.now_s >= entry.departure.until_s

    # Ends.

    def _image_stored(self, event: ImageStored, at: Moment) -> list[Instruction]:
        entry = self._live.get(event.task_id)
        if entry is None or entry.phase is not Phase.STORING:
            return []
        entry.record = changed(entry.record, image_bytes=event.image_bytes)
        return self._end(entry, TaskStatus.COMPLETED, at)

    def _image_store_failed(self, event: ImageStoreFailed, at: Moment) -> list[Instruction]:
        entry = self._live.get(event.task_id)
        if entry is None or entry.phase is not Phase.STORING:
            return []
        error = TaskError(code=event.code, message=event.message)
        return self._end(entry, TaskStatus.FAILED, at, error=error)

    def _end(
        self, entry: Fate, status: TaskStatus, at: Moment, *, error: TaskError | None = None
    ) -> list[Instruction]:
        entry.record = changed(
            entry.record, status=status, error=error, finished_unix_s=at.unix_s, eta_s=0.0
        )
        if entry.task.durability is Durability.DISK:
            # A client must not see an end that a crash could undo.
            entry.enter(Phase.RECORDING, at, status.value)
            return [RecordFinal(record=entry.record)]
        return self._note(entry) + self._finalise(entry, at)

    def _note(self, entry: Fate) -> list[Instruction]:
        """Writes behind how a task stands, unless the ledger knows nothing of it."""
        if entry.task.durability is Durability.NONE:
            return []
        return [NoteRecord(record=entry.record)]

    def _final_recorded(self, task_id: TaskId, at: Moment) -> list[Instruction]:
        entry = self._live.get(task_id)
        if entry is None or entry.phase is not Phase.RECORDING:
            return []
        return self._finalise(entry, at)

    def _finalise(self, entry: Fate, at: Moment) -> list[Instruction]:
        instructions = self._publish(entry, END_KINDS[entry.record.status], at)
        entry.enter(Phase.FINAL, at, entry.record.status.value)
        # Previews are for those who watched; the image itself is there now.
        entry.events = [changed(e, preview=b"") if e.preview else e for e in entry.events]
        self._drop_live(entry.task.id)
        self._finished.add(entry)
        fences = (*entry.moved, entry.record.fence)
        return [*instructions, TaskEnded(record=entry.record, fences=fences)]

    # Small parts.

    def _drop_live(self, task_id: TaskId) -> None:
        dropped = self._live.pop(task_id, None)
        if dropped is not None:
            self.load.remove(dropped.task)
            self.checkpoints.forget(task_id)

    def _entries(self, task_ids: Iterable[TaskId], phase: Phase) -> Sequence[Fate]:
        entries = (self._live.get(task_id) for task_id in task_ids)
        return [entry for entry in entries if entry is not None and entry.phase is phase]

    def _publish(
        self,
        entry: Fate,
        kind: TaskEventKind,
        at: Moment,
        *,
        report: StepFinished | None = None,
    ) -> list[Instruction]:
        event = entry.happened(kind, at, preview=b"" if report is None else report.preview)
        return [PublishEvent(task_id=entry.task.id, event=event)]
