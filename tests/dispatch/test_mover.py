"""What a node asks others for, and what it gives away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from edge_node.dispatch.mover import REFUSED_S, Mover, MoverSettings
from edge_node.domain import Fence, Offload, TaskId
from edge_node.errors import OriginUnavailable
from edge_node.moves import HeldDrawing, WantedTask
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.hosting import Hosting, HostingLimits, OffloadReceived
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.lifecycle_limits import LifecycleLimits
from edge_node.telemetry.metrics import NodeMetrics
from tests.dispatch.one_node import OWN, PEER
from tests.dispatch.parts import READY, HandClock, Heard, SetWorker, a_view, own_node, peer_state
from tests.tasks.test_hosting import offload

RUNNING = MoverSettings(moving="running", coming_s=6.0)
HELD = HeldDrawing(
    task_id="peer-1",
    fence=(1, 3),
    model="m",
    age_s=20.0,
    work_left=30.0,
    step_work=1.0,
    begun=True,
    moves_left=2,
)


class Asked:
    """In place of the links to PEER, which answers as it is set."""

    def __init__(self) -> None:
        self.wanted: list[WantedTask] = []
        self.answer: bool | Exception = True

    def client(self, node_id: str) -> Any:
        return self if node_id == PEER else None

    async def take_task(self, wanted: WantedTask) -> bool:
        self.wanted.append(wanted)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Made:
    """A mover, and what is around it: this node idles, and PEER draws slowly."""

    def __init__(self, settings: MoverSettings = RUNNING, held: HeldDrawing = HELD) -> None:
        self.clock, self.worker, self.heard = HandClock(), SetWorker(), Heard()
        self.worker.description = READY
        self.view, self.hosting = a_view(self.clock), Hosting(HostingLimits())
        self.lifecycle, self.peers = Lifecycle(LifecycleLimits(), term=1), Asked()
        self.metrics = NodeMetrics()
        node = own_node(self.clock, self.worker, view=self.view, hosting=self.hosting)
        node._described = replace(READY, portable=True)
        node.changed()
        there = peer_state(capacity=1.0, backlog=30.0, held=(held,))
        self.view.state_received(there, now_s=100.0)
        inbox: Any = self.heard
        peers: Any = self.peers
        self.mover = Mover(
            settings,
            node=node,
            inbox=inbox,
            lifecycle=self.lifecycle,
            hosting=self.hosting,
            view=self.view,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.mover.start(peers)

    def look(self, *times_s: float) -> int:
        """Looks at these times; how often the peer was asked."""

        async def looking() -> None:
            for at_s in times_s:
                self.clock.time_s = at_s
                self.mover.look(at_s)
                for _ in range(5):
                    await asyncio.sleep(0)
            await self.mover.stop()

        before = len(self.peers.wanted)
        asyncio.run(looking())
        return len(self.peers.wanted) - before


def test_what_was_promised_is_waited_for_until_it_comes() -> None:
    made = Made()
    assert made.look(100.0, 100.1, 101.0) == 1
    (wanted,) = made.peers.wanted
    assert (wanted.task_id, wanted.taker, wanted.reason) == ("peer-1", OWN, "idle")
    came = Offload(**(vars(offload(1, attempt=4)) | {"task_id": TaskId("peer-1")}))
    made.hosting.handle(OffloadReceived(offload=came, now_s=101.0))
    made.hosting.handle(OffloadReceived(offload=came, now_s=101.0))
    assert made.hosting.came_after(TaskId("peer-1"), Fence(1, 3))
    made.hosting._drop(TaskId("peer-1"))
    assert made.look(101.1) == 1


def test_what_ended_where_it_was_is_not_waited_for() -> None:
    made = Made()
    assert made.look(100.0, 100.1) == 1
    other = replace(HELD, task_id="peer-2")
    there = peer_state(capacity=1.0, backlog=30.0, held=(other,), sequence=9)
    made.view.state_received(there, now_s=100.2)
    assert made.look(100.3) == 0
    assert made.look(100.7) == 1
    assert made.peers.wanted[-1].task_id == "peer-2"


def test_what_does_not_come_is_given_up() -> None:
    made = Made()
    assert made.look(100.0, 102.9) == 1
    made.view.state_received(
        peer_state(capacity=1.0, backlog=30.0, held=(HELD,), sequence=9), now_s=105.5
    )
    assert made.look(105.9) == 0
    assert made.look(106.0) == 1


@pytest.mark.parametrize("answer", [False, OriginUnavailable("it is gone")])
def test_after_a_no_it_asks_again_a_little_later(answer: bool | Exception) -> None:
    made = Made()
    made.peers.answer = answer
    assert made.look(100.0, 100.0 + 0.9 * REFUSED_S) == 1
    assert made.look(100.0 + 1.1 * REFUSED_S) == 1


def test_who_wants_none_and_who_takes_no_work_asks_for_none() -> None:
    for settings in (MoverSettings(), MoverSettings(moving="waiting")):
        assert Made(settings).look(100.0, 101.0) == 0
    made = Made()
    made.worker.ready = False
    assert made.look(100.0) == 0


def test_its_own_task_is_asked_of_itself() -> None:
    made = Made(held=replace(HELD, task_id="own-1"))
    assert made.look(100.0) == 0
    (event,) = made.heard
    assert isinstance(event, life.TakeRequested)
    assert event.wanted.task_id == "own-1"


def test_nothing_is_given_to_who_is_not_known_to_live() -> None:
    made = Made()
    wanted = WantedTask(task_id="own-1", fence=(1, 1), taker="ghost", reason="idle", gain_s=1.0)
    assert not made.mover.give(wanted)
    assert not made.heard
