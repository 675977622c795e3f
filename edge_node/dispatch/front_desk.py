"""What clients of this node are told, wherever the task lives: forwards to whoever owns it.

Owns the bounds of requests and the view of the cluster as clients see it. What happens to tasks
of this node is the dispatcher's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.dispatch.bulk_cancel import ClusterCancel
from edge_node.dispatch.cluster_events import ClusterEvents
from edge_node.dispatch.dead_letters import DeadLetterDesk
from edge_node.dispatch.dispatcher import Dispatcher
from edge_node.dispatch.other_nodes import OtherNodes
from edge_node.dispatch.task_lists import ClusterList
from edge_node.domain import (
    Drawing,
    JobId,
    NodeId,
    TaskEvent,
    TaskId,
    TaskRecord,
    WorkerDescription,
    owner,
)
from edge_node.errors import (
    InvalidRequest,
    NodeAlive,
    NodeAway,
    NodeNotFound,
    OriginUnavailable,
    StoreUnavailable,
    TaskNotFound,
)
from edge_node.happenings import ClusterEvent
from edge_node.listing import Cancelled, ClusterPage, Place, TaskFilter
from edge_node.ports import Ledger, Peer, Peers, Worker
from edge_node.requests import DrawingLimits, Idempotency, NodeAction, Submission
from edge_node.snapshot import ClusterSnapshot, LearnerProgress, PeerView
from edge_node.tasks.cluster_view import ClusterView

# When to ask again for a task of a node that was stopped: after a restart, say.
LEFT_RETRY_S = 30.0
# The same of one that fell silent: it may be back at any moment.
DEAD_RETRY_S = 5.0
# What clocks of the day may differ by before anybody is told: certificates and logs bear that much.
CLOCK_SKEW_S_MAX = 2.0
# Nodes that had a link to a former life of this one say hello to it by then.
MEETING_S = 2.0
# How long it may take to write a removal down.
KEPT_S_MAX = 5.0


async def nothing_to_keep() -> None:
    """Removals are not written down."""


@dataclass(frozen=True, kw_only=True)
class FrontDeskSettings:
    """Bounds of requests; units in the names. Those of a drawing are the own node's."""

    node_id: NodeId
    policy_name: str
    images_per_request_max: int
    deadline_s_max: float

    @classmethod
    def of(cls, config: NodeConfig) -> FrontDeskSettings:
        """From the node's settings."""
        return cls(
            node_id=NodeId(config.node_id),
            policy_name=config.policy,
            images_per_request_max=config.images_per_request_max,
            deadline_s_max=config.deadline_s_max,
        )


class FrontDesk:
    """The REST surface's only counterpart."""

    def __init__(
        self,
        settings: FrontDeskSettings,
        *,
        dispatcher: Dispatcher,
        view: ClusterView,
        peers: Peers,
        worker: Worker,
        ledger: Ledger,
        dead_letters: DeadLetterDesk,
        clock: Clock,
        learner: Callable[[], LearnerProgress | None] = lambda: None,
        given_up: Callable[[], tuple[str, ...]] = lambda: (),
        clock_notes: Callable[[], tuple[str, ...]] = lambda: (),
        removals_kept: Callable[[], Awaitable[None]] = nothing_to_keep,
    ) -> None:
        self._removals_kept = removals_kept
        self._clock_notes = clock_notes
        self._learner = learner
        self._given_up = given_up
        self._dead_letters = dead_letters
        self._settings = settings
        self._dispatcher = dispatcher
        self._view = view
        self._peers = peers
        self._worker = worker
        self._ledger = ledger
        self._clock = clock
        self._began_s = clock.now_s()
        others = OtherNodes(view=view, peers=peers, clock=clock)
        self._list = ClusterList(dispatcher.own_list, own_id=settings.node_id, others=others)
        self._events = ClusterEvents(
            dispatcher.journal, own_id=settings.node_id, view=view, peers=peers, clock=clock
        )
        self._cancel = ClusterCancel(dispatcher.own_cancel, others=others)

    def reconfigure(self, settings: FrontDeskSettings) -> None:
        """Takes other bounds and defaults for requests to come."""
        self._settings = settings

    async def submit(
        self,
        drawings: Sequence[Drawing],
        *,
        durable: bool,
        init_image: bytes = b"",
        deadline_s: float | None = None,
        priority: int = 0,
        idempotency: Idempotency | None = None,
        client: str = "",
        turns: str = "",
    ) -> Submission:
        """Accepts tasks here; as OwnTasks.submit."""
        return await self._dispatcher.own_tasks.submit(
            drawings,
            durable=durable,
            init_image=init_image,
            deadline_s=deadline_s,
            priority=priority,
            idempotency=idempotency,
            client=client,
            turns=turns,
        )

    async def find_submitted(self, idempotency: Idempotency) -> Submission | None:
        """What a key brought in here; as OwnTasks.find_submitted."""
        return await self._dispatcher.own_tasks.find_submitted(idempotency)

    async def client_gone(self, task_ids: Sequence[TaskId]) -> None:
        """A synchronous client hung up: nobody wants what it had asked for."""
        self._dispatcher.own_tasks.client_gone(task_ids)

    async def dead_letters(self) -> list[TaskRecord]:
        """Tasks of this node that were tried and given up."""
        return await self._dead_letters.read()

    async def retry_dead_letter(self, task_id: TaskId) -> TaskRecord:
        """A new task with the drawing of one that was given up here."""
        return await self._dead_letters.retry(task_id)

    def limits(self, model: str | None = None) -> DrawingLimits:
        """What may be asked for of a model that some live node serves; of the default without one.

        Raises:
            ModelNotFound, ModelAway, NodeNotReady: as KnownModels.find.
        """
        served, settings = self._dispatcher.models.find(model), self._settings
        return DrawingLimits(
            model=served.name,
            fingerprint=served.fingerprint,
            size_px_min=served.size_px_min,
            size_px_max=served.size_px_max,
            size_px_multiple=served.size_px_multiple,
            size_px_default=served.work_model.reference_px,
            steps_max=served.steps_max,
            steps_default=served.steps_default,
            guidance_scale_max=served.guidance_scale_max,
            guidance_scale_default=served.guidance_scale_default,
            strength_default=served.strength_default,
            prompt_chars_max=served.prompt_chars_max,
            images_per_request_max=settings.images_per_request_max,
            deadline_s_max=settings.deadline_s_max,
        )

    def models(self) -> tuple[str, ...]:
        """Models that some live node serves."""
        return self._dispatcher.models.names()

    async def read_task(self, task_id: TaskId) -> TaskRecord:
        """Any node's task; raises TaskNotFound or OriginUnavailable."""
        owning = self._owner(task_id)
        if owning is None:
            return await self._dispatcher.own_tasks.read_task(task_id)
        return await owning.read_task(task_id)

    async def read_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        """Any node's job; raises TaskNotFound or OriginUnavailable."""
        owning = self._owner(job_id)
        if owning is None:
            return await self._dispatcher.own_tasks.read_job(job_id)
        return await owning.read_job(job_id)

    async def list_tasks(
        self, wanted: TaskFilter, *, before: Place | None, count: int
    ) -> ClusterPage:
        """Tasks of all nodes, newest first; those that do not answer are named."""
        return await self._list.page(wanted, before=before, count=count)

    async def cancel_tasks(self, wanted: TaskFilter) -> Cancelled:
        """Cancels what is open and wanted at all nodes; those that do not answer are named."""
        return await self._cancel.cancel(wanted)

    async def cancel_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        """Cancels what is open of any node's job; raises TaskNotFound or OriginUnavailable."""
        records = await self.read_job(job_id)
        return tuple(await asyncio.gather(*(self.cancel_task(one.task.id) for one in records)))

    async def cancel_task(self, task_id: TaskId) -> TaskRecord:
        """Cancels any node's task; one that is final stays as it is."""
        owning = self._owner(task_id)
        if owning is None:
            return await self._dispatcher.own_tasks.cancel(task_id)
        return await owning.cancel_task(task_id)

    async def erase_task(self, task_id: TaskId) -> None:
        """Erases any node's task, which ends it; raises TaskNotFound or StoreUnavailable."""
        owning = self._owner(task_id)
        if owning is None:
            await self._dispatcher.eraser.erase(task_id)
        else:
            await owning.erase_task(task_id)

    async def watch_task(
        self, task_id: TaskId, *, after: int = 0
    ) -> AsyncGenerator[TaskEvent, None]:
        """Events of any node's task with a sequence above `after`, to the final one."""
        owning = self._owner(task_id)
        events = (
            self._dispatcher.own_tasks.watch(task_id, after=after)
            if owning is None
            else owning.watch_task(task_id, after=after)
        )
        async with aclosing(events) as open_events:
            async for event in open_events:
                yield event

    def watch_cluster(
        self, *, after: Mapping[NodeId, int], client: str, previews: bool
    ) -> AsyncGenerator[ClusterEvent, None]:
        """What happens to tasks of all nodes, and to the nodes; as ClusterEvents.follow."""
        return self._events.follow(after=after, client=client, previews=previews)

    async def until_final(self, task_id: TaskId) -> TaskRecord:
        """A task of this node, once it is over; raises TaskNotFound."""
        return await self._dispatcher.own_tasks.until_final(task_id)

    async def read_image(self, task_id: TaskId) -> tuple[bytes, str]:
        """Content and media type; raises TaskNotFound, ImageNotReady or ImageGone."""
        owning = self._owner(task_id)
        if owning is None:
            return await self._dispatcher.own_tasks.read_image(task_id)
        return await owning.fetch_image(task_id)

    def cluster(self) -> ClusterSnapshot:
        """All nodes as this one sees them."""
        now_s = self._clock.now_s()
        clocks = self._view.clocks(now_s=now_s, wall_s=self._clock.wall_s())
        views = {view.state.node_id: view for view in self._view.views(now_s=now_s)}
        peers = []
        for address, node_id in self._peers.addresses.items():
            view = None if node_id is None else views.get(node_id)
            peers.append(
                PeerView(
                    address=address,
                    state=None if view is None else view.state,
                    alive=view is not None and view.alive,
                    staleness_s=0.0 if view is None else view.staleness_s,
                    link_s=0.0 if view is None else view.round_trip_s,
                    clock_ahead_s=None if node_id is None else clocks.get(node_id),
                )
            )
        return ClusterSnapshot(
            node_id=self._settings.node_id,
            policy=self._settings.policy_name,
            own=self._dispatcher.own_node.state(),
            peers=tuple(peers),
            tasks_in_flight=self._dispatcher.own_tasks.in_flight,
            guard=self._dispatcher.placer.guard_status(),
            learner=self._learner(),
            removed=tuple(one for one in self._peers.removals if one.removed),
        )

    async def operate(self, node_id: NodeId, action: NodeAction) -> None:
        """Has any node do what an operator says; raises NodeNotFound or NodeAway."""
        if node_id == self._settings.node_id:
            self._dispatcher.operate(action)
            return
        peer = self._peers.client(node_id)
        if peer is None:
            raise NodeNotFound(f"There is no node {node_id} that this one has met.")
        silence_s = self._view.silence_s(node_id, now_s=self._clock.now_s())
        if silence_s is not None:
            raise NodeAway(
                f"Node {node_id} has not been heard for {silence_s:.0f} s, so it cannot be told to "
                f"{action}. It gets no work meanwhile.",
                retry_after_s=DEAD_RETRY_S,
            )
        await peer.operate(action)

    @property
    def node_id(self) -> NodeId:
        """The name of this node."""
        return self._settings.node_id

    async def remove(self, node_id: NodeId) -> None:
        """Takes a node that is dead out of the cluster, with its tasks; it stays out.

        Raises:
            InvalidRequest: it is this node.
            NodeAlive: it is heard, by this node.
            NodeNotFound: it was never met here.
            StoreUnavailable: a restart of this node would forget it.
        """
        if node_id == self._settings.node_id:
            raise InvalidRequest(f"{node_id} is this node, which is alive. Ask another one.")
        if self._peers.client(node_id) is not None:
            silence_s = self._view.silence_s(node_id, now_s=self._clock.now_s())
            if silence_s is None:
                raise NodeAlive(
                    f"Node {node_id} is alive, and would lose what it has accepted. Drain it, stop "
                    "it, and then remove it."
                )
        elif not (self._peers.is_away(node_id) or self._peers.removal_of(node_id)):
            raise NodeNotFound(f"There is no node {node_id} that this one has met.")
        await self._say_removal(node_id, removed=True)

    async def readmit(self, node_id: NodeId) -> None:
        """Lets a node back in that was removed.

        Raises:
            InvalidRequest: it is this node, which would tell only those who do not listen to it.
            NodeNotFound, StoreUnavailable: as of `remove`.
        """
        if node_id == self._settings.node_id:
            raise InvalidRequest(f"{node_id} is this node, whom the others do not hear. Ask one.")
        if self._peers.removal_of(node_id) is None:
            raise NodeNotFound(f"There is no node {node_id} that was removed.")
        await self._say_removal(node_id, removed=False)

    async def _say_removal(self, node_id: NodeId, *, removed: bool) -> None:
        self._peers.remove(node_id, removed=removed)
        try:
            async with asyncio.timeout(KEPT_S_MAX):
                await self._removals_kept()
        except TimeoutError:
            raise StoreUnavailable(
                "It is done and every node is told, but this one cannot write it down: see its "
                "disk, and ask again.",
                retry_after_s=KEPT_S_MAX,
            ) from None

    def liveness(self) -> tuple[str, ...]:
        """What only a restart of the node can mend; empty when nothing is."""
        still_s = self._dispatcher.still_s()
        reasons = [f"{name} keeps failing" for name in self._given_up()]
        if still_s:
            reasons.append(f"nobody has looked at deadlines and leases for {still_s:.0f} s")
        return tuple(reasons)

    def readiness(self) -> tuple[str, ...]:
        """Why requests should go elsewhere at present; empty when they need not."""
        reasons = list(self.liveness())
        if self._dispatcher.own_node.draining:
            reasons.append("the node is draining")
        description = self._worker.description
        if not self._dispatcher.own_node.draws:
            if not self.models():
                reasons.append("no node that draws is heard")
        elif description is not None and description.state == "failed":
            reasons.append(f"the worker failed: {description.detail}")
        elif not self._worker.ready:
            reasons.append(f"the worker is {_state_of(description)}")
        if (refusal := self._dispatcher.own_tasks.refusal()) is not None:
            reasons.append(refusal.message.rstrip("."))
        if not self._ledger.available:
            reasons.append("the store is away")
        return tuple(reasons)

    def notes(self) -> tuple[str, ...]:
        """What the operator should see to, though requests may come; empty when nothing."""
        skews_s = self._view.clocks(now_s=self._clock.now_s(), wall_s=self._clock.wall_s())
        paused = ("paused by an operator",) if self._dispatcher.own_node.paused else ()
        return (
            self._clock_notes()
            + paused
            + self._removal_notes()
            + tuple(
                f"the clock of {node_id} is {abs(skew_s):.0f} s "
                f"{'ahead of' if skew_s > 0.0 else 'behind'} this node's"
                for node_id, skew_s in sorted(skews_s.items())
                if abs(skew_s) > CLOCK_SKEW_S_MAX
            )
        )

    def _removal_notes(self) -> tuple[str, ...]:
        own_id = self._settings.node_id
        if self._peers.removal_of(own_id) is None:
            return ()
        again = f"`dedgeai nodes readmit {own_id}`, asked of another node, lets it in again"
        return (f"removed from the cluster by an operator; {again}",)

    def _owner(self, identifier: TaskId | JobId) -> Peer | None:
        """Who owns a task or job: None for this node, or the peer; raises if it is neither."""
        node_id = owner(identifier)
        if node_id == self._settings.node_id:
            return None
        peer = self._peers.client(node_id)
        if peer is not None:
            silence_s = self._view.silence_s(node_id, now_s=self._clock.now_s())
            if silence_s is None:
                return peer
            raise OriginUnavailable(
                f"{identifier} belongs to node {node_id}, which has not been heard for "
                f"{silence_s:.0f} s. It keeps its tasks: ask again when it is back.",
                retry_after_s=DEAD_RETRY_S,
            )
        if self._peers.removal_of(node_id) is not None:
            raise TaskNotFound(
                f"{identifier} belonged to node {node_id}, which an operator removed from the "
                "cluster, and its tasks with it. Send the request again."
            )
        met_all = None not in self._peers.addresses.values()
        if not met_all or self._clock.now_s() - self._began_s < MEETING_S:
            raise OriginUnavailable(
                f"{identifier} may belong to a node that has not been met yet. Try again soon.",
                retry_after_s=2.0,
            )
        if self._peers.is_away(node_id):
            raise OriginUnavailable(
                f"{identifier} belongs to node {node_id}, which has left the cluster. Try again "
                "when it is back.",
                retry_after_s=LEFT_RETRY_S,
            )
        raise TaskNotFound(
            f"There is no task or job {identifier}: no node of this cluster has that name. "
            "Identifiers look like <node>-<ulid>."
        )


def _state_of(worker: WorkerDescription | None) -> str:
    if worker is None:
        return "starting"
    state = worker.state.replace("_", " ")
    return f"{state}: {worker.detail}" if worker.detail else state
