"""What can happen to a task of this origin, and what is to be done about it: lifecycle's words."""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.domain import (
    AttemptReport,
    Fence,
    Image,
    NodeId,
    Offload,
    Task,
    TaskEvent,
    TaskId,
    TaskRecord,
)
from edge_node.moves import WantedTask

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
    """Placement chose an executor for the attempt; `dispatch` numbers it at that executor.

    After every `checkpoint_steps` it is to send a checkpoint; 0 for never.
    `others` is whether another node could draw it, too.
    """

    task_id: TaskId
    fence: Fence
    executor: NodeId
    incarnation: int
    dispatch: int
    policy: str
    policy_reason: str = ""
    eta_s: float
    checkpoint_steps: int = 0
    others: bool = True


@dataclass(frozen=True, kw_only=True)
class PlacementImpossible:
    """No node can take the attempt at present."""

    task_id: TaskId
    fence: Fence


@dataclass(frozen=True, kw_only=True)
class AttemptReported:
    """An executor reported on an attempt."""

    task_id: TaskId
    fence: Fence
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
class TakeRequested:
    """A device would go on with what an attempt draws, or holds."""

    wanted: WantedTask


@dataclass(frozen=True, kw_only=True)
class CancelRequested:
    """A client no longer wants the image."""

    task_id: TaskId


@dataclass(frozen=True, kw_only=True)
class TasksForgotten:
    """What is left of these finished tasks, and of all that ended earlier, the ledger tells."""

    task_ids: tuple[TaskId, ...] = ()
    ended_before_unix_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ImageStored:
    """The image file is on disk."""

    task_id: TaskId
    fence: Fence
    image_bytes: int


@dataclass(frozen=True, kw_only=True)
class ImageStoreFailed:
    """The image file could not be written, or may not be; `code` is what the task ends with."""

    task_id: TaskId
    fence: Fence
    message: str
    code: str = "image_store_failed"


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
    | TakeRequested
    | CancelRequested
    | ImageStored
    | ImageStoreFailed
    | FinalRecorded
    | TasksForgotten
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
    """Ask placement for an executor, best none of `avoided`; answer with PlacementMade.

    The task's work is that of the `steps_left`, and of what follows them. `wanted_by` is the node
    that asked for it, and gets it if it can take it.
    """

    task: Task
    fence: Fence
    avoided: frozenset[NodeId]
    steps_left: int
    wanted_by: NodeId | None = None


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
    fence: Fence


@dataclass(frozen=True, kw_only=True)
class HandOverAttempt:
    """Tell an executor that this attempt is to go on elsewhere after the step under way."""

    executor: NodeId
    task_id: TaskId
    fence: Fence


@dataclass(frozen=True, kw_only=True)
class StoreImage:
    """Write the image file; answer with ImageStored or ImageStoreFailed."""

    task_id: TaskId
    fence: Fence
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
    fence: Fence
    reason: str


@dataclass(frozen=True, kw_only=True)
class TaskEnded:
    """The task is final: service delay, experience and metrics.

    `fences` are of those placements that led here: those that were moved on, and the last.
    """

    record: TaskRecord
    fences: tuple[Fence, ...]


# What can be read of it.


@dataclass(frozen=True, kw_only=True)
class WaitingAttempt:
    """A task in the queue of an executor, which is not known to have begun it."""

    task: Task
    executor: NodeId
    dispatch: int


Instruction = (
    AppendTasks
    | JournalTasks
    | AnswerAccepted
    | AnswerRefused
    | PlaceTask
    | StartAttempt
    | StopAttempt
    | HandOverAttempt
    | StoreImage
    | NoteRecord
    | RecordFinal
    | PublishEvent
    | AttemptEnded
    | TaskEnded
)
