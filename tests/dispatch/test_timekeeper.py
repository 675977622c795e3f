"""What time makes a node do: whom it misses, what it renews, moves and shows, by values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from edge_node.clock import Moment
from edge_node.dispatch.timekeeper import Timekeeper, TimekeeperSettings
from edge_node.domain import NodeId, Task, TaskId, WorkerDescription
from edge_node.lasting import Loops, Patience
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.hosting import Hosting, HostingLimits
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.lifecycle_limits import LifecycleLimits
from edge_node.telemetry.metrics import NodeMetrics
from scheduler.guard.status import GuardStatus
from scheduler.guard.verdict import ReplayVerdict
from tests.dispatch.one_node import OFFLOAD, PEER
from tests.dispatch.parts import HandClock, Heard, SetWorker, a_view, own_node, peer_state, text

THIRD = NodeId("third")
SETTINGS = TimekeeperSettings(tick_s=1.0, heartbeat_s=2.0, lease_s=8.0)


class Slots:
    """In place of the placer."""

    def __init__(self) -> None:
        self.passed_s: list[float] = []
        self.status: GuardStatus | None = None

    def let_slot_pass(self, now_s: float) -> None:
        self.passed_s.append(now_s)

    def guard_status(self) -> GuardStatus | None:
        return self.status


class Looked:
    """In place of the mover."""

    def __init__(self) -> None:
        self.looked_s: list[float] = []

    def look(self, now_s: float) -> None:
        self.looked_s.append(now_s)


class Ledger:
    available = True


class Kept:
    """A timekeeper and what it looks at."""

    def __init__(self, settings: TimekeeperSettings = SETTINGS) -> None:
        self.clock, self.heard, self.slots = HandClock(), Heard(), Slots()
        self.failed: list[str] = []
        self.ledger, self.worker, self.metrics = Ledger(), SetWorker(), NodeMetrics()
        self.view, self.hosting = a_view(self.clock), Hosting(HostingLimits())
        self.lifecycle = Lifecycle(LifecycleLimits(), term=1)
        inbox: Any = self.heard
        self.mover = Looked()
        others: Any = {"placer": self.slots, "ledger": self.ledger, "mover": self.mover}
        self.keeper = Timekeeper(
            settings,
            node=own_node(self.clock, self.worker, view=self.view, hosting=self.hosting),
            inbox=inbox,
            lifecycle=self.lifecycle,
            view=self.view,
            metrics=self.metrics,
            clock=self.clock,
            loops=Loops(on_failed=self.failed.append),
            **others,
        )

    def look(self, at_s: float) -> list[Any]:
        """What is heard of a look at that time."""
        self.heard.clear()
        self.clock.time_s = at_s
        asyncio.run(self._look())  # where a loop can tell the time of its failures
        return list(self.heard)

    async def _look(self) -> None:
        self.keeper.look()

    def gauge(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        return self.metrics.registry.get_sample_value(f"dedgeai_{name}", labels)


TICK = life.ClockAdvanced()


def test_a_peer_that_falls_silent_is_missed_once_before_leases_are_looked_at() -> None:
    kept = Kept()
    for node_id in (THIRD, PEER):
        kept.view.state_received(peer_state(node_id=node_id), now_s=100.0)
    assert TICK in kept.look(102.9)
    lost = [life.PeerFailed(node_id=PEER), life.PeerFailed(node_id=THIRD)]
    assert kept.look(103.0)[:3] == [*lost, TICK]
    assert kept.look(103.5)[0] == TICK
    kept.view.state_received(peer_state(sequence=2), now_s=104.0)
    kept.look(104.1)
    assert kept.look(107.0)[0] == life.PeerFailed(node_id=PEER)


def test_a_peer_that_is_forgotten_is_lost_at_once_and_not_again() -> None:
    kept = Kept()
    kept.view.state_received(peer_state(), now_s=100.0)
    kept.look(100.5)
    kept.heard.clear()
    kept.keeper.peer_forgotten(PEER)
    assert kept.heard == [life.PeerFailed(node_id=PEER)]
    assert PEER not in kept.view.node_ids()
    assert life.PeerFailed(node_id=PEER) not in kept.look(101.0)


def test_origins_hear_four_times_within_a_lease() -> None:
    kept = Kept()
    due = hosted.HeartbeatDue()
    assert [due in kept.look(at_s) for at_s in (100.0, 101.0, 101.9, 102.0, 103.9, 104.0)] == [
        *(True, False, False),
        *(True, False, True),
    ]
    kept.keeper.settings = replace(SETTINGS, lease_s=4.0)
    assert [due in kept.look(at_s) for at_s in (106.0, 106.9, 107.0)] == [True, False, True]


def test_slots_pass_at_every_look() -> None:
    kept = Kept()
    kept.look(100.0)
    kept.look(101.0)
    assert kept.slots.passed_s == [100.0, 101.0]


def test_what_should_go_on_here_is_looked_for_at_every_look() -> None:
    kept = Kept()
    for at_s in (100.0, 101.0):
        kept.look(at_s)
    assert kept.mover.looked_s == [100.0, 101.0]


def test_gauges_are_set_once_a_heartbeat() -> None:
    kept = Kept()
    kept.hosting.handle(hosted.OffloadReceived(offload=OFFLOAD))
    task = waiting_task()
    kept.lifecycle.handle(life.TasksSubmitted(tasks=(task,)), Moment(now_s=100.0, unix_s=0.0))
    kept.view.state_received(peer_state(), now_s=98.5)
    kept.view.round_trip_measured(PEER, 0.5)
    kept.view.state_received(peer_state(node_id=THIRD), now_s=95.0)
    kept.look(100.0)
    shown = {
        "backlog_work_units": 3.0,
        "capacity_work_units_per_second": 10.0,
        "peers_alive": 1.0,
        # Of the one that is alive: half a round trip, and its silence.
        "staleness_seconds": 1.75,
        "tasks_in_flight": 1.0,
        "worker_ready": 1.0,
        "worker_gpu_lost": 0.0,
        "store_available": 1.0,
    }
    assert {name: kept.gauge(name) for name in shown} == pytest.approx(shown)
    kept.worker.ready = kept.ledger.available = False
    kept.worker.description = WorkerDescription(state="failed", detail="no GPU", fault="gpu_lost")
    kept.look(101.9)
    assert kept.gauge("worker_ready") == kept.gauge("store_available") == 1.0
    kept.look(102.0)
    assert kept.gauge("worker_ready") == kept.gauge("store_available") == 0.0
    assert kept.gauge("peers_alive") == kept.gauge("staleness_seconds") == 0.0
    assert kept.gauge("worker_gpu_lost") == 1.0


def test_who_decides_is_shown_where_a_guard_knows() -> None:
    kept = Kept()
    kept.look(100.0)
    assert kept.gauge("learned_share") == 0.0
    verdict = ReplayVerdict(
        version="1",
        rule="r",
        judged_unix_s=1.0,
        tasks=9,
        failed=0,
        learned_mean_s=5.0,
        rule_mean_s=4.0,
        worse_low=0.1,
        worse_high=0.4,
    )
    status = GuardStatus(
        wanted="l",
        rule="r",
        rules=("q", "r"),
        deciding="l",
        reason="",
        version="1",
        pinned=False,
        decisions=4,
        learned_share=0.75,
        learned_share_total=0.75,
        verdict=verdict,
        live_cycles=0,
        live_worse=None,
    )
    kept.slots.status = status
    kept.look(102.0)
    assert kept.gauge("learned_share") == 0.75
    assert kept.gauge("guard_worse_share") == 0.25
    rules = [kept.gauge("guard_rule", {"rule": rule}) for rule in ("q", "r")]
    assert rules == [0.0, 1.0]
    kept.slots.status = replace(status, verdict=None, learned_share=0.5)
    kept.look(104.0)
    assert (kept.gauge("learned_share"), kept.gauge("guard_worse_share")) == (0.5, 0.25)


def test_what_fails_in_a_look_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()

    class Deaf(Heard):
        def apply(self, event: object) -> None:
            if isinstance(event, type(TICK)):
                raise RuntimeError("planted")
            super().apply(event)

    def planted(*_: object) -> None:
        raise RuntimeError("planted")

    heard, keeper = Deaf(), kept.keeper
    for part, value in (("_inbox", heard), ("_move_waiting", planted), ("_observe", planted)):
        monkeypatch.setattr(keeper, part, value)
    with pytest.raises(ExceptionGroup, match="a look at the time failed"):
        kept.look(101.0)
    assert heard == [hosted.HeartbeatDue()]
    assert kept.slots.passed_s == [101.0]
    assert kept.failed == ["moving tasks that wait", "gauges"]


def test_time_stands_still_when_nobody_looks_and_goes_on_when_somebody_does() -> None:
    kept = Kept(replace(SETTINGS, tick_s=0.2))
    kept.look(200.0)
    for at_s, still_s in ((200.0, 0.0), (209.9, 0.0), (211.0, 11.0)):
        kept.clock.time_s = at_s
        assert kept.keeper.still_s() == still_s
    kept.look(212.0)
    assert kept.keeper.still_s() == 0.0


def waiting_task() -> Task:
    return Task(
        id=TaskId("own-1"),
        job_id=None,
        drawing=text(),
        work=5.0,
        input_bits=8,
        created_unix_s=0.0,
    )


def with_a_queue(settings: TimekeeperSettings) -> Kept:
    """A node whose only task waits here behind much, beside a peer that has nothing to do."""
    kept = Kept(settings)
    kept.hosting.handle(hosted.OffloadReceived(offload=replace(OFFLOAD, work=1000.0)))
    kept.keeper._node.changed()
    kept.view.state_received(peer_state(), now_s=100.0)
    at, task = Moment(now_s=100.0, unix_s=0.0), waiting_task()
    kept.lifecycle.handle(life.TasksSubmitted(tasks=(task,)), at)
    told = kept.lifecycle.handle(life.TasksAppended(task_ids=(task.id,)), at)
    (placing,) = [one for one in told if isinstance(one, life.PlaceTask)]
    made = life.PlacementMade(
        task_id=task.id,
        fence=placing.fence,
        executor=kept.keeper._node.id,
        incarnation=1,
        dispatch=1,
        policy="local",
        eta_s=1.0,
    )
    kept.lifecycle.handle(made, at)
    return kept


MOVE = life.MoveRequested(task_id=TaskId("own-1"))


def test_a_task_that_would_be_drawn_sooner_elsewhere_moves_in_this_nodes_turn() -> None:
    kept = with_a_queue(replace(SETTINGS, move_waiting=True))
    # Two nodes by name, and turns of a tick: "own" has the even seconds.
    assert [MOVE in kept.look(at_s) for at_s in (100.0, 101.0, 102.0)] == [True, False, True]


@pytest.mark.parametrize("why", ["not wanted", "nobody else"])
def test_nothing_moves_where_it_is(why: str) -> None:
    kept = with_a_queue(replace(SETTINGS, move_waiting=why != "not wanted"))
    if why == "nobody else":
        kept.view.forget(PEER)
    assert not any(MOVE in kept.look(at_s) for at_s in (100.0, 101.0, 102.0))


def test_a_look_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(replace(SETTINGS, tick_s=0.001))
    looks: list[int] = []

    def fail() -> None:
        looks.append(1)
        raise RuntimeError("a bug")

    monkeypatch.setattr(kept.keeper, "look", fail)
    loops = Loops(patience=Patience(pause_s=0.001))
    keep = partial(loops.keep, "the clock", kept.keeper.run, vital=True)
    until(keep, lambda: len(looks) > 2)
    assert len(looks) > 2


def until(run: Callable[[], Any], enough: Callable[[], bool]) -> None:
    """Runs what never ends by itself, for as long as it takes."""

    async def story() -> None:
        running = asyncio.create_task(run())
        async with asyncio.timeout(5):
            while not enough():
                await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())
