"""The words of the system as values: what nodes, tasks, images and reports are.

Owns no behaviour beyond arithmetic on its own fields, and knows nothing of transports or storage.
"""

from __future__ import annotations

import enum
import hashlib
import sys
from dataclasses import astuple, dataclass, field, replace
from typing import NamedTuple, NewType

from edge_node.checkpoint import Checkpoint
from edge_node.device_summary import DeviceSummary
from edge_node.learned_weights import LearnedWeights
from edge_node.moves import HeldDrawing, Move
from edge_node.prompt_tokens import NOT_COUNTED, PromptTokens
from edge_node.removal import Removal

NodeId = NewType("NodeId", str)
TaskId = NewType("TaskId", str)
JobId = NewType("JobId", str)
ModelFingerprint = NewType("ModelFingerprint", str)


def origin_of(identifier: str) -> NodeId:
    """Node that accepted a task or job: everything before the last dash of `<origin>-<ulid>`."""
    return NodeId(identifier.rpartition("-")[0])


def owner(subject: Task | TaskId | JobId) -> NodeId:
    """Who decides what becomes of a task or job, and answers for it.

    The one place that says so: a task knows its owner; of an identifier alone it is the origin.
    """
    if isinstance(subject, Task):
        return subject.owner or subject.origin
    return origin_of(subject)


class Fence(NamedTuple):
    """Which placement of a task something belongs to; a later one is greater.

    Attributes:
        term: the life of the owner that placed it; every one is greater than all before it,
            durably. 0 is a node of version 0.1.0, which knew attempts only.
        attempt: placements of the task within the term, from 1.
    """

    term: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.term}.{self.attempt}"

    @property
    def integer(self) -> int:
        """The fence as version 0.1.0 reads it, a 32-bit number in the same order."""
        attempt = min(self.attempt, ATTEMPTS_OF_A_TERM - 1)
        return min(self.term, TERMS_MAX) * ATTEMPTS_OF_A_TERM + attempt

    @staticmethod
    def of_integer(number: int) -> Fence:
        """What a node of version 0.1.0 sent, or kept of what it was sent."""
        return Fence(*divmod(number, ATTEMPTS_OF_A_TERM))


ATTEMPTS_OF_A_TERM = 4096
TERMS_MAX = 2**20 - 1
# Nothing was placed before it.
NO_FENCE = Fence(0, 0)


class TaskStatus(enum.StrEnum):
    """Where a task stands, in the words of the REST surface."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow."""
        return self in (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)


class Durability(enum.StrEnum):
    """What an accepted task survives."""

    DISK = "disk"  # fsynced before it was accepted: survives a crash of its node
    JOURNALLED = "journalled"  # written without waiting: its client's connection is its promise
    NONE = "none"  # the store was away


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What to draw, with every default applied.

    Attributes:
        guidance_scale: classifier-free guidance; at most 1 means unguided (one row per step).
        image_format: png, webp or jpeg.
        image_quality: 0..100, for webp and jpeg.
        previews: how many intermediate images are wanted.
        init_image_sha256: of the PNG to start from, whose bytes travel beside the drawing; empty
            for text-to-image.
        strength: share of the steps that are run when there is an init image; 1 keeps none of it.
        masked: the init image's alpha says what is kept of it; the rest is drawn anew.
    """

    prompt: str
    negative_prompt: str = ""
    width_px: int
    height_px: int
    steps: int
    guidance_scale: float
    seed: int
    model: str
    image_format: str = "png"
    image_quality: int = 90
    previews: int = 0
    init_image_sha256: str = ""
    strength: float = 1.0
    masked: bool = False

    @property
    def prompt_bytes(self) -> int:
        """That its words take in memory."""
        return sys.getsizeof(self.prompt) + sys.getsizeof(self.negative_prompt)

    @property
    def sha256(self) -> str:
        """What tells drawings with other latents apart, and not those with other files."""
        said = replace(self, image_format="", image_quality=0, previews=0)
        return hashlib.sha256(repr(astuple(said)).encode()).hexdigest()

    @property
    def denoising_steps(self) -> int:
        """Steps that are run: the last `strength` of `steps`, rounded as diffusers rounds them."""
        if not self.init_image_sha256:
            return self.steps
        return self.steps - int(max(self.steps - self.steps * self.strength, 0.0))


@dataclass(frozen=True, kw_only=True)
class Image:
    """An encoded image; `emulated_device` names what produced a placeholder, else empty."""

    content: bytes
    format: str
    width_px: int
    height_px: int
    emulated_device: str = ""
    prompt_tokens: PromptTokens = NOT_COUNTED


@dataclass(frozen=True, kw_only=True)
class WorkModel:
    """Work of a drawing in work units: rho (z + c), docs/architecture.md "Words".

    Attributes:
        fixed_steps: c, cost of encoding and decoding in guided steps of the same size.
        unguided_ratio: cost of an unguided step relative to a guided one.
        reference_px: side of the square whose guided step is one work unit.
        size_costs: measured rho as (width_px, height_px, rho); other sizes follow their area.
        init_image_steps: cost of encoding an init image, in guided steps of the same size.
    """

    fixed_steps: float
    unguided_ratio: float
    reference_px: int
    size_costs: tuple[tuple[int, int, float], ...] = ()
    init_image_steps: float = 0.0

    def rho(self, *, width_px: int, height_px: int) -> float:
        """Work units of one guided step at that size."""
        for measured_width_px, measured_height_px, measured_rho in self.size_costs:
            if (measured_width_px, measured_height_px) == (width_px, height_px):
                return measured_rho
        return width_px * height_px / self.reference_px**2

    def work(self, drawing: Drawing) -> float:
        """Work units of `drawing`."""
        rho = self.rho(width_px=drawing.width_px, height_px=drawing.height_px)
        guided = drawing.guidance_scale > 1.0
        steps = drawing.denoising_steps * (1.0 if guided else self.unguided_ratio)
        init_image_steps = self.init_image_steps if drawing.init_image_sha256 else 0.0
        return rho * (steps + self.fixed_steps + init_image_steps)


@dataclass(frozen=True, kw_only=True)
class WorkerDescription:
    """What a worker serves, once it has loaded; `state` is loading, warming_up, ready or failed.

    Or none, where the node has no worker. `order` is the one in which it takes its drawings: fcfs,
    sjf or srpt. `fault` is the kind of a failure that operators are alerted of: gpu_lost, or empty.
    `portable`: it sends checkpoints, and hands drawings over.
    """

    state: str
    detail: str = ""
    fault: str = ""
    engine: str = ""
    model: str = ""
    model_fingerprint: ModelFingerprint = ModelFingerprint("")
    capacity: float = 0.0
    work_model: WorkModel = WorkModel(fixed_steps=0.0, unguided_ratio=0.5, reference_px=64)
    size_px_min: int = 16
    size_px_max: int = 0
    size_px_multiple: int = 16
    steps_max: int = 0
    masks: bool = False
    variants: tuple[tuple[str, ModelFingerprint], ...] = ()
    rows_max: int = 1
    emulated_device: str = ""
    pace_s: float = 0.0
    device: str = ""
    order: str = "fcfs"
    portable: bool = False

    @property
    def work_in_one_go(self) -> float:
        """Most work units between two steps that it counts: of all its rows at its largest size."""
        model = self.work_model
        rho = max(
            [(self.size_px_max / model.reference_px) ** 2] + [rho for _, _, rho in model.size_costs]
        )
        return self.rows_max * rho * max(1.0, model.fixed_steps + model.init_image_steps)


@dataclass(frozen=True, kw_only=True)
class WorkerLoad:
    """A worker's own account of its queue; `backlog` in work units, `capacity` per second."""

    backlog: float
    queued: int
    running: int
    capacity: float
    steps_done: int
    resident_bytes: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """One image to be drawn, as accepted by its origin.

    Attributes:
        work: in work units, from the origin's work model.
        input_bits: size d of what must travel to an executor.
        deadline_unix_s: after which the image is of no use; None when it always is.
        priority: larger is served first.
        durability: what was promised when it was accepted.
        owner: the node that decides what becomes of it; None where it is its origin.
        client: id of the API key that asked for it; empty where none was asked for.
        turns: whose turn at devices it takes: `client`, or without keys a name for the address
            that it was asked from; empty takes none.
        term: the owner's life that took it up last; on disk before anything is placed in it, so a
            recovered task is fenced without a write at every placement.
    """

    id: TaskId
    job_id: JobId | None
    drawing: Drawing
    work: float
    input_bits: int
    created_unix_s: float
    deadline_unix_s: float | None = None
    priority: int = 0
    durability: Durability = Durability.DISK
    owner: NodeId | None = None
    client: str = ""
    turns: str = ""
    term: int = 1

    @property
    def origin(self) -> NodeId:
        """The node that accepted the task."""
        return origin_of(self.id)


@dataclass(frozen=True, kw_only=True)
class TaskError:
    """Why a task failed; `code` is stable, such as deadline_exceeded or client_gone."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """A task and its fate: what the ledger keeps and what clients are shown.

    Attributes:
        attempt: number of the current placement within the task's term.
        step: denoising steps done, the most that any attempt did (never written to the ledger).
        queue_position: place in the executor's queue, 0 when running (never written).
        queue_s, compute_s: measured by the executor.
        policy: the policy that placed the current attempt.
        policy_reason: why it did where another one was wanted, in the words of `scheduler.guard`.
        image_bytes: size of the stored image file.
        moves: that its drawing made, in their order.
    """

    task: Task
    status: TaskStatus = TaskStatus.QUEUED
    executor: NodeId | None = None
    attempt: int = 0
    step: int = 0
    queue_position: int = 0
    eta_s: float = 0.0
    started_unix_s: float | None = None
    finished_unix_s: float | None = None
    error: TaskError | None = None
    image_bytes: int = 0
    emulated_device: str = ""
    queue_s: float = 0.0
    compute_s: float = 0.0
    policy: str = ""
    policy_reason: str = ""
    prompt_tokens: PromptTokens = NOT_COUNTED
    moves: tuple[Move, ...] = ()

    @property
    def fence(self) -> Fence:
        """Of the current attempt."""
        return Fence(self.task.term, self.attempt)

    @property
    def service_delay_s(self) -> float:
        """From acceptance to the end; only of a task that is final."""
        assert self.finished_unix_s is not None, "the task is final"
        return self.finished_unix_s - self.task.created_unix_s


# The largest integer that every JSON reader takes exactly.
SEQUENCE_LAST = 2**53 - 1


class TaskEventKind(enum.StrEnum):
    """Names of the events that clients may watch."""

    QUEUED = "queued"
    PLACED = "placed"
    MOVED = "moved"
    STARTED = "started"
    STEP = "step"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the stream of events ends with it."""
        return self in (TaskEventKind.FINISHED, TaskEventKind.FAILED, TaskEventKind.CANCELLED)


@dataclass(frozen=True, kw_only=True)
class TaskEvent:
    """Something a client may watch.

    `sequence` counts from 1 within the task; after a restart of its node it goes on from a higher
    number. Of a task that only the ledger remembers, the end is `SEQUENCE_LAST`. `eta_s` is what
    is expected when it is told, not when it happened.
    """

    sequence: int
    kind: TaskEventKind
    unix_s: float
    attempt: int = 0
    executor: NodeId | None = None
    step: int = 0
    steps: int = 0
    queue_position: int = 0
    error: TaskError | None = None
    preview: bytes = b""
    eta_s: float = 0.0
    move: Move | None = None


# What an executor tells the origin of an attempt, in the order in which it happens.


@dataclass(frozen=True, kw_only=True)
class AttemptQueued:
    """The executor has taken the attempt into its queue, or still holds it there."""

    position: int


@dataclass(frozen=True, kw_only=True)
class AttemptStarted:
    """The first denoising step begins; `step` are done where it goes on from a checkpoint."""

    step: int = 0


@dataclass(frozen=True, kw_only=True)
class StepFinished:
    """`step` of `steps` is done; `preview` is an encoded intermediate image or empty.

    `checkpoint` is of this step, where one is due.
    """

    step: int
    steps: int
    preview: bytes = b""
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, kw_only=True)
class AttemptHeartbeat:
    """Nothing new, but the executor lives and still owns the attempt."""

    queue_position: int


@dataclass(frozen=True, kw_only=True)
class AttemptFinished:
    """The image, with seconds spent queued and computing at the executor."""

    image: Image
    queue_s: float
    compute_s: float


@dataclass(frozen=True, kw_only=True)
class AttemptFailed:
    """No image from this attempt; `retryable` says whether another device may succeed."""

    code: str
    message: str
    retryable: bool


AttemptReport = (
    AttemptQueued
    | AttemptStarted
    | StepFinished
    | AttemptHeartbeat
    | AttemptFinished
    | AttemptFailed
)


@dataclass(frozen=True, kw_only=True)
class Offload:
    """One attempt of a task, as it is sent to its executor.

    Attributes:
        dispatch: number of this dispatch among all from this origin to this executor.
        incarnation: the origin's, which numbered the dispatch.
        deadline_s: seconds left, None when there is no deadline.
        client: whose turn it takes, `turns` of the task.
        work: of the whole drawing, whatever the checkpoint spares.
        checkpoint_steps: after which the executor sends a checkpoint; 0 for never.
        checkpoint: to go on from.
        age_s: since the task was accepted.
        moves_left: how often it may move once more.
    """

    task_id: TaskId
    fence: Fence
    origin: NodeId
    incarnation: int
    dispatch: int
    drawing: Drawing
    work: float
    priority: int = 0
    deadline_s: float | None = None
    client: str = ""
    checkpoint_steps: int = 0
    checkpoint: Checkpoint | None = None
    age_s: float = 0.0
    moves_left: int = 0


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What another node must know of a model to cost and to admit a task for it.

    Attributes:
        work_model: as the serving node calibrated it.
        steps_default, guidance_scale_default, strength_default: where a request says nothing.
        masks: it draws by masks.
    """

    name: str
    fingerprint: ModelFingerprint
    work_model: WorkModel
    size_px_min: int
    size_px_max: int
    size_px_multiple: int
    steps_max: int
    steps_default: int
    guidance_scale_default: float
    guidance_scale_max: float
    strength_default: float
    prompt_chars_max: int
    masks: bool = False


@dataclass(frozen=True, kw_only=True)
class Learning:
    """A node's part in learning as one cluster.

    Attributes:
        policy: wanted by the operator; nodes of the same one learn as one.
        willing: a learner process is alive beside the node, and the node stays.
        learner: the node that learns, by this one's view; None when nobody does.
        weights: the newest that the node holds and has checked.
    """

    policy: str
    willing: bool = False
    learner: NodeId | None = None
    weights: LearnedWeights | None = None


@dataclass(frozen=True, kw_only=True)
class NodeState:
    """A node's queue as others may count on it.

    Attributes:
        incarnation: grows with every start of the node.
        sequence: grows with every change within an incarnation.
        backlog: work placed on the node and not done, in work units.
        capacity: work units per second, measured.
        accepting: the worker is ready and the node is not draining.
        dispatches_seen: per origin (incarnation, last dispatch) that the backlog includes.
        accepted_work_s: work units that the node accepted per second as an origin, lately.
        changed_s, sent_s: readings of the node's clock when the sequence last grew and when this
            was sent; only differences mean anything elsewhere.
        cluster_name: of the cluster that the node belongs to; empty if it does not say.
        leaving: nothing follows from this incarnation.
        serves: what it draws with, `model` first; empty before it can draw, and from a node of
            version 0.1.0, which does not say.
        learning: None from a node of version 0.1.0, which learns for itself.
        sent_unix_s: what its machine's clock of the day said when this was sent; 0 from a node
            that does not say.
        keys: version and digest of the signed list of API keys that it holds.
        clients: who have tasks there, waiting or drawn, and take turns.
        key_use: of clients with limits: id, day since 1970, images accepted that day, open tasks.
        accepted_by_model: accepted_work_s by the model asked for; empty where all was for `model`.
        paused: an operator has it take no new work.
        summary: how its device is; None where it is none that says.
        held: what it holds that may go on elsewhere, first to be drawn first: the first few.
        removals: nodes that an operator took out of the cluster, or back in.
        helped_by: who computes rows of what it draws now, if anybody does.
    """

    node_id: NodeId
    incarnation: int
    sequence: int
    backlog: float = 0.0
    capacity: float = 0.0
    model: str = ""
    model_fingerprint: ModelFingerprint = ModelFingerprint("")
    accepting: bool = False
    queued: int = 0
    running: int = 0
    dispatches_seen: dict[NodeId, tuple[int, int]] = field(default_factory=dict)
    rest_url: str = ""
    grpc_address: str = ""
    device: str = ""
    emulated_device: str = ""
    accepted_work_s: float = 0.0
    changed_s: float = 0.0
    sent_s: float = 0.0
    cluster_name: str = ""
    leaving: bool = False
    serves: tuple[ServedModel, ...] = ()
    learning: Learning | None = None
    sent_unix_s: float = 0.0
    keys: tuple[int, str] = (0, "")
    clients: int = 0
    key_use: tuple[tuple[str, int, int, int], ...] = ()
    accepted_by_model: tuple[tuple[str, float], ...] = ()
    paused: bool = False
    summary: DeviceSummary | None = None
    held: tuple[HeldDrawing, ...] = ()
    removals: tuple[Removal, ...] = ()
    helped_by: NodeId | None = None
