"""What the dispatcher needs of the world, and what it offers to it.

The dispatcher knows these shapes only; node.py wires the real store, peers and worker to them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_node.domain import (
    AttemptReport,
    Drawing,
    Fence,
    Image,
    JobId,
    NodeId,
    NodeState,
    Offload,
    Task,
    TaskEvent,
    TaskId,
    TaskRecord,
    WorkerDescription,
    WorkerLoad,
)
from scheduler.experience import RecordedDecision
from scheduler.guard.status import GuardStatus
from scheduler.policy import Outcome


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """An Idempotency-Key and what it stands for.

    Attributes:
        key: as the client sent it.
        request_digest: of everything that must agree when the key is used again.
    """

    key: str
    request_digest: str


@dataclass(frozen=True, kw_only=True)
class Appended:
    """The tasks are new, and in the ledger."""

    task_ids: tuple[TaskId, ...]
    job_id: JobId | None


@dataclass(frozen=True, kw_only=True)
class AlreadyAccepted:
    """The same request came before; these are the tasks it got then."""

    task_ids: tuple[TaskId, ...]
    job_id: JobId | None


class Ledger(Protocol):
    """Durable memory of accepted tasks: store.task_ledger."""

    @property
    def available(self) -> bool:
        """Whether a task could be accepted durably now."""
        ...

    async def append_accepted(
        self, tasks: Sequence[Task], *, job_id: JobId | None, idempotency: Idempotency | None
    ) -> Appended | AlreadyAccepted:
        """Writes new tasks and returns when they are on disk, or raises StoreUnavailable."""
        ...

    def journal_accepted(self, tasks: Sequence[Task], *, job_id: JobId | None) -> None:
        """Writes new tasks without waiting."""
        ...

    def note(self, record: TaskRecord) -> None:
        """Writes a record without waiting."""
        ...

    async def append_final(self, record: TaskRecord) -> None:
        """Writes an end; when it raises StoreUnavailable, the end is held and written later."""
        ...

    async def read(self, task_id: TaskId) -> TaskRecord | None:
        """What the ledger knows of a task."""
        ...

    async def read_job(self, job_id: JobId) -> tuple[TaskId, ...] | None:
        """The tasks of a job."""
        ...


class Images(Protocol):
    """Image files: store.image_files."""

    async def write(self, task_id: TaskId, image: Image) -> tuple[TaskId, ...]:
        """Stores an image durably; returns the tasks evicted for it."""
        ...

    async def read(self, task_id: TaskId) -> tuple[bytes, str]:
        """Content and media type, or raises ImageGone."""
        ...


class InitImages(Protocol):
    """The images that tasks start from: store.init_images."""

    async def write(
        self, sha256: str, content: bytes, *, needed_until_unix_s: float | None
    ) -> None:
        """Keeps an image durably; raises InvalidRequest, InitImagesFull or StoreUnavailable."""
        ...

    async def read(self, sha256: str) -> bytes:
        """The image, or raises InitImageGone."""
        ...


class Worker(Protocol):
    """This node's worker process: supervision.worker_process."""

    @property
    def description(self) -> WorkerDescription | None:
        """What it serves; None before it ever answered."""
        ...

    @property
    def ready(self) -> bool:
        """Whether it would draw now."""
        ...

    @property
    def load(self) -> WorkerLoad | None:
        """Its queue and its measured capacity; None while it is away."""
        ...

    def draw(
        self,
        *,
        task_id: TaskId,
        fence: Fence,
        drawing: Drawing,
        priority: int,
        init_image: bytes,
        deadline_s: float | None,
    ) -> AsyncGenerator[AttemptReport, None]:
        """Draws one image; raises WorkerUnavailable when the process is gone."""
        ...


class Peer(Protocol):
    """Calls to one other node: peering.client."""

    def offload(
        self, offload: Offload, *, init_image: bytes
    ) -> AsyncGenerator[AttemptReport, None]:
        """Places an attempt there, with the image it starts from, and yields what it reports."""
        ...

    async def cancel_offload(self, task_id: TaskId, fence: Fence) -> None:
        """Ends an attempt there."""
        ...

    async def read_task(self, task_id: TaskId) -> TaskRecord:
        """A task of that origin."""
        ...

    async def read_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        """A job of that origin."""
        ...

    async def cancel_task(self, task_id: TaskId) -> TaskRecord:
        """Cancels a task of that origin."""
        ...

    def watch_task(self, task_id: TaskId, *, after: int) -> AsyncGenerator[TaskEvent, None]:
        """Events of a task of that origin."""
        ...

    async def fetch_image(self, task_id: TaskId) -> tuple[bytes, str]:
        """The image of a task of that origin."""
        ...


class Peers(Protocol):
    """The links to all other nodes: peering.peer_links."""

    @property
    def addresses(self) -> dict[str, NodeId | None]:
        """Every address that leads to a node of the cluster, and the node met there."""
        ...

    def client(self, node_id: NodeId) -> Peer | None:
        """Who reaches the node."""
        ...

    def is_away(self, node_id: NodeId) -> bool:
        """Whether the node left the cluster a while ago and may come back."""
        ...

    def push_state(self) -> None:
        """Sends this node's state to everyone now."""
        ...


@dataclass(frozen=True, kw_only=True)
class LatentSnapshot:
    """X_b[n] of one node as it is written down: tasks.slots makes and takes it.

    Attributes:
        node_ids: the candidates, in the order of a latent's values.
        version: of the weights that left the latents.
        slot: number of the slot at hand.
        slot_s: how long it lasts.
        began_unix_s: when it began.
        decided: decisions made in it.
        latents: by n, float32 bytes in the machine's order, of slots that are over.
        open_latents: by n, of the slot at hand; they are read from the next one on.
    """

    node_ids: tuple[str, ...]
    version: str
    slot: int
    slot_s: float
    began_unix_s: float
    decided: int
    latents: dict[int, bytes]
    open_latents: dict[int, bytes]


class LatentStore(Protocol):
    """Where X_b[n] outlives the node: store.stored_latents."""

    def note(self, snapshot: LatentSnapshot) -> None:
        """Writes it without waiting; a later one replaces what was not written yet."""
        ...


class ExperiencePool(Protocol):
    """What the learner reads: store.experience_pool. Neither method waits or raises."""

    def note_decision(self, recorded: RecordedDecision) -> None:
        """Takes a decision that was just made."""
        ...

    def note_outcome(self, outcome: Outcome) -> None:
        """Takes what became of an earlier decision, joined by its id."""
        ...


@dataclass(frozen=True, kw_only=True)
class DrawingLimits:
    """What may be asked for, and what is taken where nothing is said."""

    model: str
    size_px_min: int
    size_px_max: int
    size_px_multiple: int
    size_px_default: int
    steps_max: int
    steps_default: int
    guidance_scale_max: float
    guidance_scale_default: float
    strength_default: float
    prompt_chars_max: int
    images_per_request_max: int
    deadline_s_max: float
    priority_min: int = -100
    priority_max: int = 100


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Accepted tasks; `replayed` when an Idempotency-Key had brought them in before."""

    job_id: JobId | None
    records: tuple[TaskRecord, ...]
    replayed: bool


@dataclass(frozen=True, kw_only=True)
class PeerView:
    """One other node as this node sees it; None where nothing was heard of an address yet."""

    address: str
    state: NodeState | None
    alive: bool
    staleness_s: float
    link_s: float


@dataclass(frozen=True, kw_only=True)
class ClusterSnapshot:
    """The cluster as one node sees it; `guard` only where a learned policy is wanted."""

    node_id: NodeId
    policy: str
    own: NodeState
    peers: tuple[PeerView, ...]
    tasks_in_flight: int
    guard: GuardStatus | None = None
