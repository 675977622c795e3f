"""What parts of the shell are put between in tests: a hand-set clock, a scripted world."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from edge_node.dispatch.own_node import Identity, OwnNode
from edge_node.domain import (
    AttemptReport,
    Drawing,
    Fence,
    ModelFingerprint,
    NodeId,
    NodeState,
    Offload,
    TaskId,
    WorkerDescription,
    WorkerLoad,
    WorkModel,
)
from edge_node.errors import WorkerUnavailable
from edge_node.removal import Removal
from edge_node.shared_rows import RowGiven, RowWanted
from edge_node.tasks.cluster_view import ClusterView, ClusterViewLimits
from edge_node.tasks.hosting import Hosting, HostingLimits
from edge_node.tasks.removals import Removals
from tests.dispatch.one_node import DEFAULTS, OWN, PEER

READY = WorkerDescription(
    state="ready",
    model="m",
    model_fingerprint=ModelFingerprint("f"),
    capacity=10.0,
    work_model=WorkModel(fixed_steps=1.0, unguided_ratio=0.5, reference_px=64),
    size_px_min=32,
    size_px_max=128,
    size_px_multiple=16,
    steps_max=20,
    device="orin",
    emulated_device="nano",
)


class HandClock:
    """Both clocks, set by hand."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def now_s(self) -> float:
        return self.time_s

    def unix_s(self) -> float:
        return 5000.0 + self.time_s

    def wall_s(self) -> float:
        return self.unix_s()


class Heard(list[Any]):
    """In place of the inbox: events as they came."""

    def apply(self, event: object) -> None:
        self.append(event)


class SetWorker:
    """A worker that is as it is set, and reports what it is told to, then raises or ends."""

    def __init__(self) -> None:
        self.description: WorkerDescription | None = READY
        self.ready = True
        self.load: WorkerLoad | None = None
        self.reports: list[AttemptReport | Exception] = []
        self.asked: list[dict[str, Any]] = []
        self.closed = 0
        self.handed_over: list[tuple[TaskId, Fence]] = []

    async def draw(self, **asked: Any) -> AsyncGenerator[AttemptReport, None]:
        self.asked.append(asked)
        async for report in self._said():
            yield report

    def hand_over(self, task_id: TaskId, fence: Fence) -> None:
        self.handed_over.append((task_id, fence))

    def share_rows(self, ask: Callable[[RowWanted], Awaitable[RowGiven]]) -> None:
        self.shares = ask

    async def give_row(self, wanted: RowWanted) -> RowGiven:
        raise WorkerUnavailable("this worker computes nothing for others")

    async def _said(self) -> AsyncGenerator[AttemptReport, None]:
        try:
            for one in self.reports:
                await asyncio.sleep(0)
                if isinstance(one, Exception):
                    raise one
                yield one
        finally:
            self.closed += 1


class SetPeers:
    """Links to PEER, which reports what it is told to; nobody else is reached."""

    def __init__(self) -> None:
        self.addresses: dict[str, NodeId | None] = {"10.0.0.2:9080": PEER}
        self.away: set[NodeId] = set()
        self.there = True
        self.reports: list[AttemptReport | Exception] = []
        self.offloads: list[tuple[Offload, bytes]] = []
        self.cancelled: list[tuple[TaskId, int]] = []
        self.answers: dict[str, Any] = {}
        self.before_report: Callable[[], None] = lambda: None
        self.stays = False
        self.pushes = 0
        self.account = Removals()

    def client(self, node_id: NodeId) -> Any:
        return self if self.there and node_id == PEER else None

    def is_away(self, node_id: NodeId) -> bool:
        return node_id in self.away

    def push_state(self) -> None:
        self.pushes += 1

    @property
    def removals(self) -> tuple[Removal, ...]:
        return self.account.known

    def removal_of(self, node_id: NodeId) -> Removal | None:
        return self.account.of(node_id)

    def remove(self, node_id: NodeId, *, removed: bool) -> None:
        self.there = self.there and not removed
        self.account.say(node_id, removed=removed, address="10.0.0.2:9080", unix_s=1e9)

    async def offload(
        self, offload: Offload, *, init_image: bytes
    ) -> AsyncGenerator[AttemptReport, None]:
        self.offloads.append((offload, init_image))
        for one in self.reports:
            await asyncio.sleep(0)
            self.before_report()
            if isinstance(one, Exception):
                raise one
            yield one
        while self.stays:
            await asyncio.sleep(0.001)

    async def cancel_offload(self, task_id: TaskId, attempt: int) -> None:
        self.cancelled.append((task_id, attempt))


def own_node(clock: HandClock, worker: SetWorker, **parts: Any) -> OwnNode:
    """This node, over a hosting account and a view of its own where none is given."""
    given: dict[str, Any] = {"hosting": Hosting(HostingLimits()), "view": a_view(clock), **parts}
    identity = Identity(
        node_id=OWN, incarnation=7, term=1, rest_url="http://own", grpc_address="own:9080"
    )
    node = OwnNode(identity, DEFAULTS, worker=worker, clock=clock, **given)
    node.worker_changed()
    return node


def a_view(clock: HandClock) -> ClusterView:
    limits = ClusterViewLimits(suspect_s=3.0)
    return ClusterView(own_id=OWN, incarnation=7, limits=limits, began_s=clock.now_s())


def peer_state(**changes: Any) -> NodeState:
    fields: dict[str, Any] = {
        "node_id": PEER,
        "incarnation": 1,
        "sequence": 1,
        "capacity": 10.0,
        "model": "m",
        "model_fingerprint": ModelFingerprint("f"),
        "accepting": True,
    }
    return NodeState(**{**fields, **changes})


def text(steps: int = 4) -> Drawing:
    """A drawing that starts from nothing, of steps + 1 work units."""
    return Drawing(
        prompt="boat",
        width_px=64,
        height_px=64,
        steps=steps,
        guidance_scale=5.0,
        seed=1,
        model="m",
    )


async def turns(count: int = 20) -> None:
    """Lets everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)
