"""What the dispatcher needs of the world, and what it offers to it.

The dispatcher knows these shapes only; node.py wires the real store, peers and worker to them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Protocol

from edge_node.checkpoint import Checkpoint
from edge_node.domain import (
    AttemptReport,
    Drawing,
    Fence,
    Image,
    JobId,
    NodeId,
    Offload,
    Task,
    TaskEvent,
    TaskId,
    TaskRecord,
    WorkerDescription,
    WorkerLoad,
)
from edge_node.erasure import Owed
from edge_node.experience_page import ExperiencePage
from edge_node.happenings import Happened
from edge_node.learned_weights import LearnedWeights
from edge_node.listing import Place, TaskFilter, TaskPage
from edge_node.moves import WantedTask
from edge_node.removal import Removal
from edge_node.requests import AlreadyAccepted, Appended, Idempotency, NodeAction
from edge_node.shared_rows import RowGiven, RowWanted
from edge_node.tasks.slots import LatentSnapshot
from scheduler.experience import RecordedDecision
from scheduler.policy import Outcome


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

    async def find_accepted(self, idempotency: Idempotency) -> AlreadyAccepted | None:
        """What a key brought in, if it did; raises StoreUnavailable or IdempotencyConflict."""
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

    async def written(self, task_id: TaskId) -> None:
        """Returns when what waits of a task is written, or raises StoreUnavailable."""
        ...

    async def read(self, task_id: TaskId) -> TaskRecord | None:
        """What the ledger knows of a task."""
        ...

    async def read_job(self, job_id: JobId) -> tuple[TaskId, ...] | None:
        """The tasks of a job."""
        ...

    async def list_finished(
        self, wanted: TaskFilter, *, before: Place | None, count: int
    ) -> TaskPage:
        """Tasks that are over, newest first, or raises StoreUnavailable."""
        ...


class Erasures(Protocol):
    """What has to leave the store, and is owed elsewhere: store.erasures; StoreUnavailable."""

    async def begin(self) -> None:
        """Takes in what a former version left."""
        ...

    async def erase(self, record: TaskRecord) -> Owed:
        """Leaves of a task that is over only that it was there, durably; what is owed beside."""
        ...

    async def take_words(self, *, finished_before_unix_s: float) -> list[TaskId]:
        """Takes the words out of the oldest records that ended earlier; some of them at a time."""
        ...

    async def owed(self) -> list[Owed]:
        """All that is still owed."""
        ...

    async def settled(self, task_ids: Sequence[TaskId]) -> None:
        """Nothing is owed of these any more."""
        ...

    async def rewrite_file(self) -> None:
        """Sees to it that what was taken out leaves the store's file, too, when it is time."""
        ...


class DeadLetters(Protocol):
    """Tasks that were tried and given up: store.task_ledger."""

    async def dead_letters(self, *, count_max: int) -> list[TaskRecord]:
        """The latest that nobody retried, or raises StoreUnavailable."""
        ...

    async def strike_dead_letter(self, task_id: TaskId) -> None:
        """Lists it no more, or raises StoreUnavailable."""
        ...


class Images(Protocol):
    """Image files: store.image_files."""

    async def write(self, task_id: TaskId, image: Image) -> tuple[TaskId, ...]:
        """Stores an image durably; returns the tasks evicted for it."""
        ...

    async def shed(self, bytes_wanted: int) -> int:
        """Removes the oldest until so many bytes are gone; returns how many are."""
        ...

    async def read(self, task_id: TaskId) -> tuple[bytes, str]:
        """Content and media type, or raises ImageGone."""
        ...

    async def remove(self, task_ids: Sequence[TaskId]) -> None:
        """Removes the images that are there of these tasks."""
        ...

    async def forget_words(self, task_ids: Sequence[TaskId]) -> None:
        """Takes the prompts out of the images that are there of these tasks."""
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

    async def forget(self, sha256: str) -> bool:
        """Removes an image that nobody needs; whether it is gone."""
        ...


class Moderation(Protocol):
    """The operator's judge: moderation.moderator. Refusals and failures are raised."""

    async def judge_request(
        self, drawings: Sequence[Drawing], *, init_image: bytes, client: str
    ) -> None:
        """Whether a request may be drawn: else ModerationBlocked or ModerationUnavailable."""
        ...

    async def judge_image(
        self, image: Image, *, task_id: TaskId, drawing: Drawing, client: str
    ) -> None:
        """Whether an image may be delivered: else ModerationBlocked or ModerationUnavailable."""
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
        client: str,
        checkpoint_steps: int,
        checkpoint: Checkpoint | None,
        age_s: float,
    ) -> AsyncGenerator[AttemptReport, None]:
        """Draws one image; raises WorkerUnavailable when the process is gone."""
        ...

    def hand_over(self, task_id: TaskId, fence: Fence) -> None:
        """Ends a drawing after the step under way, with a checkpoint, to go on elsewhere."""
        ...

    def share_rows(self, ask: Callable[[RowWanted], Awaitable[RowGiven]]) -> None:
        """From now on `ask` is called for rows of its steps that another device may compute."""
        ...

    async def give_row(self, wanted: RowWanted) -> RowGiven:
        """Computes a row for another device if it has nothing else to do; WorkerUnavailable."""
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

    async def hand_over(self, task_id: TaskId, fence: Fence) -> None:
        """Has it end an attempt after the step under way, to go on elsewhere."""
        ...

    async def compute_row(self, wanted: RowWanted, *, timeout_s: float) -> RowGiven:
        """Has it compute a row of a step that is drawn here, if it has nothing else to do."""
        ...

    async def take_task(self, wanted: WantedTask) -> bool:
        """Asks it for a task of its own, to go on with it here; whether it comes."""
        ...

    async def read_task(self, task_id: TaskId) -> TaskRecord:
        """A task of that origin."""
        ...

    async def read_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        """A job of that origin."""
        ...

    async def list_tasks(
        self, wanted: TaskFilter, *, before: Place | None, count: int, owner: NodeId
    ) -> TaskPage:
        """Tasks of that node, which is `owner`, newest first."""
        ...

    async def cancel_tasks(self, wanted: TaskFilter) -> int:
        """Cancels what is open and wanted of that node; how many tasks that were."""
        ...

    async def cancel_task(self, task_id: TaskId) -> TaskRecord:
        """Cancels a task of that origin."""
        ...

    async def erase_task(self, task_id: TaskId) -> None:
        """Erases a task of that origin."""
        ...

    async def forget_task(self, task_id: TaskId, *, init_image_sha256: str) -> bool:
        """Has it forget what it drew a task of this node from; whether nothing is left there."""
        ...

    def watch_task(self, task_id: TaskId, *, after: int) -> AsyncGenerator[TaskEvent, None]:
        """Events of a task of that origin."""
        ...

    def watch_events(
        self, *, after: int | None, client: str, previews: bool, owner: NodeId
    ) -> AsyncGenerator[Happened, None]:
        """What happens to tasks of that node, which is `owner`; as Journal.read."""
        ...

    async def fetch_image(self, task_id: TaskId) -> tuple[bytes, str]:
        """The image of a task of that origin."""
        ...

    async def operate(self, action: NodeAction) -> None:
        """Has that node do what an operator says."""
        ...

    async def fetch_weights(self, sha256: str, *, bytes_max: int) -> tuple[LearnedWeights, bytes]:
        """Learned weights that it holds; raises WeightsGone, or InvalidRequest above the bound."""
        ...

    async def fetch_keys(self) -> bytes:
        """The signed list of API keys that it holds, not looked into; empty without one."""
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

    @property
    def away(self) -> Collection[NodeId]:
        """All of these."""
        ...

    @property
    def removals(self) -> Collection[Removal]:
        """Who was removed by an operator, or readmitted after that."""
        ...

    def removal_of(self, node_id: NodeId) -> Removal | None:
        """That the node was removed; None where it was not, or is back."""
        ...

    def remove(self, node_id: NodeId, *, removed: bool) -> None:
        """An operator takes the node out of the cluster, or back in."""
        ...

    def push_state(self) -> None:
        """Sends this node's state to everyone now."""
        ...


class LatentStore(Protocol):
    """Where X_b[n] outlives the node: store.stored_latents."""

    def note(self, snapshot: LatentSnapshot) -> None:
        """Writes it without waiting; a later one replaces what was not written yet."""
        ...


class ExperiencePool(Protocol):
    """What the learner reads: store.experience_pool. To note neither waits nor raises."""

    def note_decision(self, recorded: RecordedDecision) -> None:
        """Takes a decision that was just made."""
        ...

    def note_outcome(self, outcome: Outcome) -> None:
        """Takes what became of an earlier decision, joined by its id."""
        ...

    async def forget(self, task_id: str) -> None:
        """Removes what names a task, or raises StoreUnavailable."""
        ...


class LearningDesk(Protocol):
    """This node's part in learning as one cluster: learning.sharing."""

    @property
    def weights_bytes_max(self) -> int:
        """Most bytes of a file of weights that it takes."""
        ...

    async def read_experience(self, after: str, *, entries_max: int) -> ExperiencePage:
        """Entries of this node's pool after a cursor; raises InvalidRequest or StoreUnavailable."""
        ...

    def weights(self, sha256: str) -> tuple[LearnedWeights, bytes]:
        """The newest weights held, if they have this digest or any will do; or WeightsGone."""
        ...

    async def take_weights(self, weights: LearnedWeights, content: bytes) -> None:
        """Takes weights that a learner brings; raises InvalidRequest or StoreUnavailable."""
        ...

    async def take_verdict(self, form: str, verdict: bytes) -> None:
        """Takes a replay of this node's decisions; raises InvalidRequest or StoreUnavailable."""
        ...
