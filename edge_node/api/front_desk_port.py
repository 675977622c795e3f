"""What the REST surface asks of the node behind it; the real one is dispatch.front_desk."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from edge_node.domain import Drawing, JobId, NodeId, TaskEvent, TaskId, TaskRecord
from edge_node.happenings import ClusterEvent
from edge_node.listing import Cancelled, ClusterPage, Place, TaskFilter
from edge_node.requests import DrawingLimits, Idempotency, NodeAction, Submission
from edge_node.snapshot import ClusterSnapshot


class FrontDeskPort(Protocol):
    """Tasks, jobs and images of the whole cluster, through one node. Raises DEdgeAIError only."""

    async def submit(
        self,
        drawings: Sequence[Drawing],
        *,
        durable: bool,
        init_image: bytes,
        deadline_s: float | None,
        priority: int,
        idempotency: Idempotency | None,
        client: str,
        turns: str,
    ) -> Submission:
        """Accepts one task per drawing, all or none; on disk before it returns when `durable`.

        `init_image` is the PNG that all drawings name as the one to start from, or empty;
        `client` is the id of the key that asks, or empty; `turns` says whose turn they take.
        """
        ...

    async def find_submitted(self, idempotency: Idempotency) -> Submission | None:
        """What an Idempotency-Key brought in here, if it did."""
        ...

    async def read_task(self, task_id: TaskId) -> TaskRecord:
        """Any node's task; raises TaskNotFound or OriginUnavailable."""
        ...

    async def read_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        """Any node's job; raises TaskNotFound or OriginUnavailable."""
        ...

    async def list_tasks(
        self, wanted: TaskFilter, *, before: Place | None, count: int
    ) -> ClusterPage:
        """Tasks of all nodes, newest first; those that do not answer are named."""
        ...

    async def cancel_tasks(self, wanted: TaskFilter) -> Cancelled:
        """Cancels what is open and wanted at all nodes; those that do not answer are named."""
        ...

    async def cancel_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        """Cancels what is open of any node's job; raises TaskNotFound or OriginUnavailable."""
        ...

    async def cancel_task(self, task_id: TaskId) -> TaskRecord:
        """Cancels any node's task; one that is final stays as it is."""
        ...

    async def erase_task(self, task_id: TaskId) -> None:
        """Erases any node's task, which ends it."""
        ...

    def watch_task(self, task_id: TaskId, *, after: int = 0) -> AsyncGenerator[TaskEvent, None]:
        """Events with a sequence above `after`, to the final one; raises on first use."""
        ...

    def watch_cluster(
        self, *, after: Mapping[NodeId, int], client: str, previews: bool
    ) -> AsyncGenerator[ClusterEvent, None]:
        """What happens to tasks of all nodes, and to the nodes, for as long as it is read.

        `after` is the last number seen of each node; of others it is told what happens from now on.
        `client` is whose tasks are meant, or empty for all. `previews`: with pictures on the way.
        """
        ...

    async def until_final(self, task_id: TaskId) -> TaskRecord:
        """A task that was accepted here, once it is over; raises TaskNotFound."""
        ...

    async def read_image(self, task_id: TaskId) -> tuple[bytes, str]:
        """Content and media type; raises TaskNotFound, ImageNotReady or ImageGone."""
        ...

    async def client_gone(self, task_ids: Sequence[TaskId]) -> None:
        """A synchronous client hung up: its unfinished tasks are cancelled."""
        ...

    async def dead_letters(self) -> list[TaskRecord]:
        """Tasks of this node that were tried and given up; raises StoreUnavailable."""
        ...

    async def retry_dead_letter(self, task_id: TaskId) -> TaskRecord:
        """A new task with the drawing of one that was given up."""
        ...

    def limits(self, model: str | None = None) -> DrawingLimits:
        """What may be asked for of a model that some live node serves; of the default without one.

        Raises:
            ModelNotFound, ModelAway: none serves it, or those that do are silent.
            NodeNotReady: this node's own model is meant, and was never ready.
        """
        ...

    def models(self) -> tuple[str, ...]:
        """Models that some live node serves."""
        ...

    def cluster(self) -> ClusterSnapshot:
        """All nodes as this one sees them."""
        ...

    async def operate(self, node_id: NodeId, action: NodeAction) -> None:
        """Has any node do what an operator says; raises NodeNotFound or NodeAway."""
        ...

    @property
    def node_id(self) -> NodeId:
        """The name of this node."""
        ...

    async def remove(self, node_id: NodeId) -> None:
        """Takes a node that is dead out of the cluster, with its tasks; it stays out.

        Raises:
            InvalidRequest: it is this node.
            NodeAlive: it is heard, by this node.
            NodeNotFound: it was never met here.
            StoreUnavailable: a restart of this node would forget it.
        """
        ...

    async def readmit(self, node_id: NodeId) -> None:
        """Lets a node back in that was removed; raises NodeNotFound or StoreUnavailable."""
        ...

    def liveness(self) -> tuple[str, ...]:
        """What only a restart of the node can mend; empty when nothing is."""
        ...

    def readiness(self) -> tuple[str, ...]:
        """Why requests should go elsewhere; empty when they need not."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What the operator should see to, though requests may come; empty when nothing."""
        ...
