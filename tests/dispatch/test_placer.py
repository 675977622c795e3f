"""What is remembered of a decision, and a policy that fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node.dispatch.placer import Placer
from edge_node.domain import Fence, NodeId, Task, TaskId, TaskRecord, TaskStatus
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.in_flight import InFlight
from edge_node.tasks.slots import SlotMemory, SlotSettings
from edge_node.telemetry.metrics import NodeMetrics
from scheduler.experience import RecordedDecision
from scheduler.guard.guard import Guard, GuardSettings
from scheduler.observation import Observation
from scheduler.policy import Decision, Outcome
from tests.dispatch.one_node import OWN, PEER, Node, Pool, Snapshots, run
from tests.dispatch.parts import HandClock, Heard, SetWorker, a_view, own_node, peer_state, text


def test_decisions_and_outcomes_are_for_the_pool_and_latents_for_the_store(tmp_path: Path) -> None:
    node = Node(tmp_path, policy="lad_ts_plus")

    async def story() -> None:
        await node.start()
        first = await node.submit()
        await node.ended(first)
        # The slot ends by itself: nobody has to decide again for the latents to be written.
        while not node.snapshots:
            await asyncio.sleep(0.01)
        second = await node.submit()
        await node.ended(second)
        while len(node.pool.outcomes) < 2:
            await asyncio.sleep(0.01)
        cold, warm = node.pool.decisions
        assert (cold.decision_id, cold.steps, cold.index_in_slot) == (f"{first}/1.1", 2, 0)
        assert cold.observation.latent_B is None
        assert warm.slot > cold.slot
        kept = np.frombuffer(node.snapshots[0].latents[0], np.float32)
        assert warm.observation.latent_B is not None
        assert warm.observation.latent_B.tolist() == kept.tolist()
        assert kept.tolist() == pytest.approx(cold.decision.latent_B)
        assert [o.decision_id for o in node.pool.outcomes] == [f"{first}/1.1", f"{second}/1.1"]
        assert all(outcome.completed for outcome in node.pool.outcomes)
        assert warm.observation.traffic is not None
        assert warm.observation.traffic.mean_work == pytest.approx(warm.observation.work)
        shown = node.metrics.render().decode()
        assert 'dedgeai_latent_reads_total{found="no"} 1.0' in shown
        assert 'dedgeai_latent_reads_total{found="yes"} 1.0' in shown

    run(node, story)


def test_a_failing_policy_is_logged_once_and_costs_no_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path, policy="lad_ts_plus")

    def fail(observation: object) -> None:
        raise RuntimeError("out of weights")

    monkeypatch.setattr(node.policy, "decide", fail)

    async def story() -> None:
        await node.start()
        for _ in range(2):
            record = await node.ended(await node.submit())
            assert (record.status.value, record.policy) == ("completed", "slow_server_aware")

    run(node, story)
    assert [d.decision.reason for d in node.pool.decisions] == ["error", "error"]
    assert len([r for r in caplog.records if "the policy failed" in r.message]) == 1


DECIDED = Decision(choice=0, policy="p", reason="why", latent_B=None)


class Chosen:
    """A placer over a view of two nodes, and a policy that chooses as it is told."""

    def __init__(self, *, store: bool = True) -> None:
        self.clock, self.heard = HandClock(), Heard()
        self.view, self.metrics = a_view(self.clock), NodeMetrics()
        self.memory = SlotMemory(SlotSettings(slot_s=2.0), now_s=100.0)
        self.load = InFlight()
        self.pool, self.snapshots = Pool(), Snapshots()
        self.outcomes: list[Outcome] = []
        self.decision = DECIDED
        self.decision_s = 0.0
        inbox: Any = self.heard
        policy: Any = self
        self.node = own_node(self.clock, SetWorker(), view=self.view)
        self.placer = Placer(
            node=self.node,
            inbox=inbox,
            view=self.view,
            policy=policy,
            memory=self.memory,
            metrics=self.metrics,
            clock=self.clock,
            load=self.load,
            latent_store=self.snapshots if store else None,
            pool=self.pool if store else None,
        )

    # As a policy.

    name = "p"

    def decide(self, observation: Observation) -> Decision:
        self.clock.time_s += self.decision_s
        return self.decision

    def record(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def shown(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"dedgeai_{name}", labels)


def wanted(avoided: frozenset[NodeId] = frozenset()) -> life.PlaceTask:
    task = Task(
        id=TaskId("own-1"),
        job_id=None,
        drawing=text(),
        work=5.0,
        input_bits=8,
        created_unix_s=0.0,
    )
    return life.PlaceTask(task=task, fence=Fence(1, 2), avoided=avoided, steps_left=4)


def test_a_decision_is_told_booked_counted_and_recorded() -> None:
    chosen = Chosen()
    chosen.view.state_received(peer_state(), now_s=99.0)
    chosen.view.round_trip_measured(PEER, 0.5)
    chosen.decision, chosen.decision_s = replace(DECIDED, choice=1), 0.25
    chosen.placer.checkpoint_steps = 2
    chosen.placer.place(wanted())
    assert chosen.heard == [
        life.PlacementMade(
            task_id=TaskId("own-1"),
            fence=Fence(1, 2),
            executor=PEER,
            incarnation=7,
            dispatch=1,
            policy="p",
            policy_reason="why",
            eta_s=chosen.heard[0].eta_s,
            checkpoint_steps=2,
        )
    ]
    peer = {v.state.node_id: v for v in chosen.view.views(now_s=100.0)}[PEER]
    assert peer.own_unseen_work == 5.0
    (recorded,) = chosen.pool.decisions
    assert (recorded.decision_id, recorded.node_id) == ("own-1/1.2", OWN)
    assert (recorded.slot, recorded.index_in_slot, recorded.steps) == (0, 0, 4)
    assert recorded.decided_unix_s == 5100.25
    assert recorded.decision is chosen.decision
    assert recorded.observation.node_ids == (OWN, PEER)
    assert chosen.shown("decision_seconds_sum") == 0.25
    staleness_s = recorded.observation.staleness_s_B.max()
    assert chosen.shown("placement_staleness_seconds_sum") == pytest.approx(staleness_s)
    assert staleness_s > 1.0
    # No latent, no read.
    assert chosen.shown("latent_reads_total", found="no") is None
    chosen.placer.place(wanted())
    assert chosen.heard[1].dispatch == 2
    assert chosen.pool.decisions[1].index_in_slot == 1


def test_whose_worker_just_went_is_not_chosen() -> None:
    """The view is brought up to date before every decision."""
    chosen = Chosen()
    chosen.node.doubt_worker()
    chosen.placer.place(wanted())
    impossible = life.PlacementImpossible(task_id=TaskId("own-1"), fence=Fence(1, 2))
    assert chosen.heard == [impossible]
    assert chosen.pool.decisions == []
    chosen.clock.time_s += 1.0
    chosen.placer.place(wanted())
    assert chosen.heard[1].executor == OWN
    assert chosen.pool.decisions[0].index_in_slot == 0


def test_a_decision_that_cannot_be_recorded_is_a_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = Chosen()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(chosen.metrics, "decided", fail)
    chosen.placer.place(wanted())
    assert [type(one) for one in chosen.heard] == [life.PlacementMade]


@pytest.mark.parametrize(("remote", "executor"), [(True, PEER), (False, OWN)])
def test_what_an_attempt_leaves_behind(remote: bool, executor: NodeId) -> None:
    chosen = Chosen()
    chosen.view.state_received(peer_state(), now_s=100.0)
    chosen.decision = replace(DECIDED, choice=int(remote))
    chosen.placer.place(wanted())
    ended = life.AttemptEnded(
        executor=executor,
        dispatch=1,
        task_id=TaskId("own-1"),
        fence=Fence(1, 2),
        reason="worker_lost",
    )
    chosen.placer.attempt_ended(ended)
    assert all(view.own_unseen_work == 0.0 for view in chosen.view.views(now_s=100.0))
    where = "remote" if remote else "local"
    assert chosen.shown("attempts_ended_total", executor=where, outcome="worker_lost") == 1.0


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize(
    ("status", "delay_s"), [(TaskStatus.COMPLETED, 12.0), (TaskStatus.FAILED, 60.0)]
)
def test_every_placement_that_led_to_an_end_hears_of_it(
    status: TaskStatus, delay_s: float, store: bool
) -> None:
    chosen = Chosen(store=store)
    task = replace(wanted().task, created_unix_s=50.0)
    record = TaskRecord(task=task, status=status, finished_unix_s=62.0)
    chosen.placer.task_ended(record, (Fence(1, 1), Fence(1, 3)))
    completed = status is TaskStatus.COMPLETED
    assert chosen.outcomes == [
        Outcome(decision_id=f"own-1/1.{attempt}", service_delay_s=delay_s, completed=completed)
        for attempt in (1, 3)
    ]
    assert chosen.pool.outcomes == (chosen.outcomes if store else [])


def test_nothing_is_learned_of_what_was_cancelled() -> None:
    chosen = Chosen()
    record = TaskRecord(task=wanted().task, status=TaskStatus.CANCELLED, finished_unix_s=9.0)
    chosen.placer.task_ended(record, (Fence(1, 1),))
    assert chosen.outcomes == chosen.pool.outcomes == []


@pytest.mark.parametrize("store", [True, False])
def test_a_slot_that_left_latents_is_written_and_counted(store: bool) -> None:
    chosen = Chosen(store=store)
    chosen.placer.let_slot_pass(102.0)  # nothing was decided in it
    assert chosen.snapshots == []
    chosen.decision = replace(DECIDED, latent_B=np.array([0.5]), weights_version="1")
    chosen.clock.time_s = 102.5
    chosen.placer.place(wanted())
    assert chosen.shown("latent_reads_total", found="no") == 1.0
    chosen.clock.time_s = 108.0
    chosen.placer.let_slot_pass(108.0)
    assert chosen.shown("slots_total") == 4.0
    assert [one.slot for one in chosen.snapshots] == ([4] if store else [])
    # A decision looks for itself whether its slot is the next one.
    chosen.clock.time_s = 110.0
    chosen.placer.place(wanted())
    assert chosen.shown("slots_total") == 5.0
    assert chosen.shown("latent_reads_total", found="yes") == 1.0


def test_each_kind_of_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    chosen = Chosen()
    problems: list[Exception] = [ValueError("a"), ValueError("b"), KeyError("c")]

    def fail(observation: Observation) -> Decision:
        raise problems.pop(0)

    chosen.decide = fail  # type: ignore[method-assign]
    for _ in range(3):
        chosen.placer.place(wanted())
    logged = [type(r.exc_info[1]) for r in caplog.records if r.exc_info]
    assert logged == [ValueError, KeyError]


def test_a_rule_needs_no_guard_and_a_guard_is_told_and_shown() -> None:
    chosen = Chosen()
    assert chosen.placer.guard_status() is None
    learned: Any = chosen
    guard = Guard(
        GuardSettings(wanted="l", rules=("r",)),
        learned=learned,
        version="1",
        rules={"r": learned},
        now_s=chosen.clock.now_s,
        shared_s=chosen.clock.unix_s,
    )
    chosen.placer._policy = guard
    noted: list[RecordedDecision] = []
    guard.note_decision = noted.append  # type: ignore[method-assign, assignment]
    chosen.placer.place(wanted())
    assert [one.decision_id for one in noted] == ["own-1/1.2"]
    status = chosen.placer.guard_status()
    assert status is not None
    assert status.decisions == 1


def test_who_takes_turns_expects_his_own_and_as_much_of_each_other() -> None:
    chosen = Chosen()
    busy = replace(chosen.node.state(), sequence=9, backlog=1000.0, clients=2)
    chosen.view.state_received(busy, now_s=100.0)
    capacity = busy.capacity
    anybody = wanted()
    known = replace(anybody, task=replace(anybody.task, turns="alice"))
    asked = (anybody, known)
    chosen.node.look = lambda: None  # type: ignore[method-assign]
    for one in asked:
        chosen.placer.place(one)
    chosen.load.add(replace(known.task, id=TaskId("own-2"), work=45.0))
    chosen.load.add(known.task)
    chosen.placer.place(known)
    alone = replace(busy, sequence=10, clients=1)
    chosen.view.state_received(alone, now_s=100.0)
    chosen.placer.place(known)
    expected_s = [event.eta_s * capacity for event in chosen.heard]
    assert min(expected_s[0], expected_s[3]) > 1000.0, "his own may wait there, from other nodes"
    assert expected_s[1:3] == pytest.approx([5.0 * 3, 50.0 * 2], rel=0.01)
