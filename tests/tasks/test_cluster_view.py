"""Backlog arithmetic of the cluster view, with hand-worked values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_node.domain import Drawing, ModelFingerprint, NodeId, NodeState, Task, TaskId
from edge_node.tasks.cluster_view import ClusterView, ClusterViewLimits
from scheduler.observation import FloatArray, Observation
from tests.tasks.test_serving import SERVED

OWN, PEER, OTHER = NodeId("own"), NodeId("peer"), NodeId("other")


def task(model: str = "m", work: float = 10.0, input_bits: int = 1000) -> Task:
    drawing = Drawing(
        prompt="p",
        width_px=64,
        height_px=64,
        steps=10,
        guidance_scale=5.0,
        seed=1,
        model=model,
    )
    return Task(
        id=TaskId("own-1"),
        job_id=None,
        drawing=drawing,
        work=work,
        input_bits=input_bits,
        created_unix_s=0.0,
    )


def state(node_id: NodeId, **changes: Any) -> NodeState:
    fields: dict[str, object] = {
        "node_id": node_id,
        "incarnation": 1,
        "sequence": 1,
        "backlog": 0.0,
        "capacity": 2.0,
        "model": "m",
        "model_fingerprint": ModelFingerprint("f"),
        "accepting": True,
    }
    return NodeState(**(fields | changes))  # type: ignore[arg-type]


def view_of(*states: NodeState) -> ClusterView:
    view = ClusterView(
        own_id=OWN, incarnation=7, limits=ClusterViewLimits(suspect_s=3.0, link_bits_s=1e6)
    )
    for one in states:
        view.state_received(one, now_s=100.0)
    return view


def test_clients_who_take_turns_are_those_of_the_node_with_most() -> None:
    assert view_of().clients("m", now_s=100.0) == 0
    view = view_of(state(OWN, clients=1), state(PEER, clients=3), state(OTHER, clients=2))
    assert view.clients("m", now_s=100.0) == 3
    view = view_of(state(OWN, clients=1), state(PEER, clients=9, accepting=False))
    assert view.clients("m", now_s=100.0) == 1


def test_backlog_is_extrapolated_at_capacity_and_never_negative() -> None:
    view = view_of(state(OWN), state(PEER, backlog=5.0))
    seen = view.observation(task(), avoided=frozenset(), now_s=101.0)
    assert seen is not None
    assert seen.node_ids == ("own", "peer")
    assert list(seen.backlog_B) == [0.0, 3.0]
    late = view.observation(task(), avoided=frozenset(), now_s=102.9)
    assert late is not None
    assert late.backlog_B[1] == 0.0


def test_own_dispatches_count_until_the_peer_echoes_them() -> None:
    view = view_of(state(OWN), state(PEER))
    assert view.dispatched(PEER, 10.0, now_s=100.0) == 1
    assert view.dispatched(PEER, 4.0, now_s=100.0) == 2
    seen = view.observation(task(), avoided=frozenset(), now_s=100.0)
    assert seen is not None
    assert seen.own_B[1] == 14.0
    echo = state(PEER, sequence=2, backlog=10.0, dispatches_seen={OWN: (7, 1)})
    view.state_received(echo, now_s=100.0)
    seen = view.observation(task(), avoided=frozenset(), now_s=100.0)
    assert seen is not None
    assert (seen.backlog_B[1], seen.own_B[1]) == (10.0, 4.0)
    view.dispatch_ended(PEER, 2)
    seen = view.observation(task(), avoided=frozenset(), now_s=100.0)
    assert seen is not None
    assert seen.own_B[1] == 0.0


def test_an_echo_of_a_former_life_counts_nothing() -> None:
    view = view_of(state(OWN), state(PEER, dispatches_seen={OWN: (6, 99)}))
    view.dispatched(PEER, 10.0, now_s=100.0)
    seen = view.observation(task(), avoided=frozenset(), now_s=100.0)
    assert seen is not None
    assert seen.own_B[1] == 10.0


def test_a_peers_restart_forgets_what_it_was_drawing() -> None:
    view = view_of(state(OWN), state(PEER))
    view.dispatched(PEER, 10.0, now_s=100.0)
    view.state_received(state(PEER, incarnation=2), now_s=100.0)
    seen = view.observation(task(), avoided=frozenset(), now_s=100.0)
    assert seen is not None
    assert seen.own_B[1] == 0.0


@pytest.mark.parametrize("old", [{"sequence": 0}, {"incarnation": 0, "sequence": 9}])
def test_states_of_the_past_are_ignored(old: dict[str, int]) -> None:
    view = view_of(state(OWN), state(PEER, backlog=5.0))
    assert not view.state_received(state(PEER, backlog=50.0, **old), now_s=100.0)
    assert view.backlog_and_capacity("m", now_s=100.0) == (5.0, 4.0)


def test_silence_ends_a_candidate_and_only_avoided_ones_are_a_last_resort() -> None:
    view = view_of(state(OWN, accepting=False), state(PEER))
    avoided = view.observation(task(), avoided=frozenset({PEER}), now_s=100.0)
    assert avoided is not None
    assert list(avoided.alive_B) == [False, True]
    assert view.observation(task(), avoided=frozenset(), now_s=103.0) is None


def test_only_the_same_model_with_the_same_fingerprint_is_a_candidate() -> None:
    strange = state(OTHER, model_fingerprint=ModelFingerprint("g"))
    view = view_of(state(OWN), state(PEER, model="other"), strange)
    seen = view.observation(task(), avoided=frozenset(), now_s=100.0)
    assert seen is not None
    assert seen.node_ids == ("own",)
    elsewhere = view.observation(task("other"), avoided=frozenset(), now_s=100.0)
    assert elsewhere is not None
    assert (elsewhere.node_ids, elsewhere.local) == (("peer",), None)


def test_models_that_share_a_queue_are_those_of_the_nodes_that_may_draw_one() -> None:
    ink, other = replace(SERVED, name="m+ink"), replace(SERVED, name="other")
    view = view_of(
        state(OWN, serves=(SERVED, ink)),
        state(PEER, serves=(SERVED,)),
        state(OTHER, serves=(other, SERVED), accepting=False),
    )
    assert view.models_beside("m", now_s=100.0) == ("m", "m+ink")
    assert view.models_beside("m+ink", now_s=100.0) == ("m", "m+ink")
    assert view.models_beside("other", now_s=100.0) == ("other",), "nobody draws it now"


def test_masks_are_for_nodes_that_draw_by_them() -> None:
    able = replace(SERVED, masks=True)
    view = view_of(state(OWN, serves=(SERVED,)), state(PEER, serves=(able,)), state(OTHER))
    plain, masked = task(), replace(task(), drawing=replace(task().drawing, masked=True))
    for one, expected in ((plain, {"own", "peer", "other"}), (masked, {"peer"})):
        seen = view.observation(one, avoided=frozenset(), now_s=100.0)
        assert seen is not None
        assert set(np.array(seen.node_ids)[seen.alive_B]) == expected
    old = view_of(state(OWN, serves=(SERVED,)), state(OTHER))
    assert old.observation(masked, avoided=frozenset(), now_s=100.0) is None


def observed(view: ClusterView, *, now_s: float, bits: int = 1000, model: str = "m") -> Observation:
    one = task(model, input_bits=bits)
    seen = view.observation(one, avoided=frozenset(), now_s=now_s)
    assert seen is not None
    return seen


def by_node(seen: Observation, values_B: FloatArray) -> dict[str, float]:
    return dict(zip(seen.node_ids, values_B.tolist(), strict=True))


def test_a_link_is_its_round_trip_and_the_bits_over_its_throughput() -> None:
    view = view_of(state(OWN), state(PEER), state(OTHER))
    view.round_trip_measured(PEER, 0.01)
    seen = observed(view, now_s=100.0)
    assert by_node(seen, seen.link_s_B) == pytest.approx({"own": 0, "peer": 0.011, "other": 0.001})
    # 2e6 bits took .11 s, of which .01 s is the round trip: 2e7 bits per second.
    view.offload_answered(PEER, input_bits=2e6, seconds=0.11)
    seen = observed(view, now_s=100.0, bits=1_000_000)
    assert by_node(seen, seen.link_s_B) == pytest.approx({"own": 0, "peer": 0.06, "other": 1.0})


def test_nothing_is_stale_while_a_peer_would_have_pushed_a_change() -> None:
    busy = state(PEER, backlog=50.0, changed_s=7.0, sent_s=7.0)
    view = view_of(state(OWN), busy)
    view.round_trip_measured(PEER, 0.01)
    # Whether it is busy or idle: what is not known is on its way, for half a round trip.
    assert observed(view, now_s=100.4).staleness_s_B == pytest.approx([0.0, 0.005])
    # A heartbeat is overdue after .75 s: what happened since may be as old as the silence.
    assert observed(view, now_s=100.8).staleness_s_B == pytest.approx([0.0, 0.805])
    view.state_received(replace(busy, sent_s=7.9), now_s=100.9)
    assert observed(view, now_s=101.0).staleness_s_B == pytest.approx([0.0, 0.005])


def test_changes_that_come_late_make_a_peer_stale() -> None:
    view = view_of(state(OWN), state(PEER, changed_s=7.0, sent_s=7.0))
    for sequence in range(2, 40):
        at_s = 7.0 + 0.1 * sequence
        # The clocks are 93 s apart; every change was held up for .03 s before it was sent.
        late = state(PEER, sequence=sequence, changed_s=at_s, sent_s=at_s + 0.03)
        view.state_received(late, now_s=93.0 + at_s + 0.03)
    assert observed(view, now_s=104.0).staleness_s_B[1] == pytest.approx(0.03, rel=0.01)
    (own, peer) = view.views(now_s=104.0)
    assert (own.staleness_s, peer.staleness_s) == (0.0, pytest.approx(0.03, rel=0.01))


def test_queued_tasks_are_as_reported() -> None:
    view = view_of(state(OWN, queued=1), state(PEER, queued=3, running=2))
    view.dispatched(PEER, 10.0, now_s=100.0)
    assert observed(view, now_s=101.0).queued_B == pytest.approx([1.0, 5.0])


def test_load_is_what_all_live_nodes_accepted_over_what_all_candidates_do() -> None:
    view = view_of(state(OWN), state(PEER, accepted_work_s=1.5))
    # Since 0: long enough for the average, and for the prior of 10 services of 5 s to fade.
    for second in range(1, 101):
        view.task_accepted(10.0 if second % 2 else 0.0, model="m", now_s=float(second))
    traffic = observed(view, now_s=100.0).traffic
    assert traffic is not None
    assert traffic.mean_work == pytest.approx(5.0, rel=0.02)
    measured = (5.0 + 1.5) / 4.0
    prior_s = traffic.report_period_s + 10 * traffic.mean_work * 2 / 4.0
    expected = (measured * 100 + prior_s) / (100 + prior_s)
    assert traffic.load == pytest.approx(expected, rel=0.02)
    silent = observed(view, now_s=103.5).traffic
    assert silent is not None
    assert silent.load < 0.97 * 2 * expected, "a silent peer accepts nothing that we could know"


def test_a_node_that_has_just_begun_believes_in_full_load() -> None:
    view = ClusterView(own_id=OWN, incarnation=7, began_s=100.0)
    view.state_received(state(OWN), now_s=100.0)
    view.task_accepted(10.0, model="m", now_s=100.0)
    traffic = observed(view, now_s=100.001).traffic
    assert traffic is not None
    assert (traffic.mean_work, traffic.load) == (10.0, pytest.approx(1.0, abs=0.01))


def test_the_report_period_is_how_long_own_dispatches_stay_unseen() -> None:
    view = view_of(state(OWN), state(PEER))
    for number in range(1, 60):
        sent_s = 100.0 + number
        assert view.dispatched(PEER, 10.0, now_s=sent_s) == number
        echo = state(PEER, sequence=number + 1, dispatches_seen={OWN: (7, number)})
        view.state_received(echo, now_s=sent_s + 0.004)
    traffic = observed(view, now_s=160.0).traffic
    assert traffic is not None
    assert traffic.report_period_s == pytest.approx(0.008, rel=0.02)


def test_what_is_recalled_is_for_the_candidates_in_their_order() -> None:
    view = view_of(state(OWN), state(PEER), state(OTHER, model="other"))
    asked: list[tuple[str, ...]] = []

    def recall(node_ids: tuple[str, ...]) -> FloatArray:
        asked.append(node_ids)
        return np.array([0.25, 0.75])

    seen = view.observation(task(), avoided=frozenset(), now_s=100.0, recall=recall)
    assert seen is not None
    assert seen.latent_B is not None
    assert (asked, seen.latent_B.tolist()) == ([("own", "peer")], [0.25, 0.75])


def test_a_service_is_that_of_a_mean_task_on_a_mean_live_node() -> None:
    view = view_of(state(OWN), state(PEER, capacity=6.0), state(OTHER, accepting=False))
    assert view.service_s(now_s=100.0) is None
    view.task_accepted(12.0, model="m", now_s=100.0)
    assert view.service_s(now_s=100.0) == pytest.approx(3.0)


def test_nodes_that_offloaded_lately_count_as_dispatchers() -> None:
    view = view_of(state(OWN), state(PEER), state(OTHER))

    def dispatchers(now_s: float) -> int:
        seen = view.observation(task(), avoided=frozenset(), now_s=now_s)
        assert seen is not None
        return seen.dispatchers

    assert dispatchers(100.0) == 1
    # A node's own tasks, and what this node itself sends, are no sign of another dispatcher.
    echo = {PEER: (1, 3), OWN: (7, 1)}
    view.state_received(state(PEER, sequence=2, dispatches_seen=echo), now_s=101.0)
    assert dispatchers(101.0) == 1
    view.state_received(
        state(PEER, sequence=3, dispatches_seen=echo | {OTHER: (1, 1)}), now_s=101.0
    )
    assert dispatchers(102.9) == 2
    assert dispatchers(103.0) == 1


def test_a_forgotten_node_is_no_candidate_and_whatever_it_says_next_is_news() -> None:
    view = view_of(state(OWN), state(PEER, incarnation=5))
    view.dispatched(PEER, 3.0, now_s=100.0)
    assert view.observation(task(), avoided=frozenset(), now_s=100.0) is not None
    view.forget(PEER)
    view.forget(PEER)
    view.dispatch_ended(PEER, 1)
    seen = view.observation(task(), avoided=frozenset(), now_s=100.0)
    assert seen is not None
    assert seen.node_ids == (OWN,)
    assert not view.is_alive(PEER, now_s=100.0)
    # A device in the place of a lost one may count its lives anew.
    assert view.state_received(state(PEER, incarnation=1), now_s=101.0)
    assert view.is_alive(PEER, now_s=101.0)


@pytest.mark.parametrize("incarnation", [6, 8])
def test_what_another_life_of_this_node_sent_is_no_echo_of_ours(incarnation: int) -> None:
    view = view_of(state(OWN), state(PEER))
    assert view.dispatched(PEER, 10.0, now_s=100.0) == 1
    echo = state(PEER, sequence=2, dispatches_seen={OWN: (incarnation, 99)})
    view.state_received(echo, now_s=100.0)
    assert by_node(*own_work(view)) == {"own": 0.0, "peer": 10.0}
    view.state_received(replace(echo, sequence=3, dispatches_seen={OWN: (7, 1)}), now_s=100.0)
    assert by_node(*own_work(view)) == {"own": 0.0, "peer": 0.0}


def own_work(view: ClusterView) -> tuple[Observation, FloatArray]:
    seen = observed(view, now_s=100.0)
    return seen, seen.own_B


def test_no_nodes_idleness_takes_from_anothers_backlog() -> None:
    view = view_of(state(OWN, backlog=3.0), state(PEER, backlog=1.0), state(OTHER, backlog=9.0))
    # A second at 2 work units each; this node's own state is always of now.
    assert view.backlog_and_capacity("m", now_s=101.0) == (3.0 + 0.0 + 7.0, 6.0)
    view.dispatched(PEER, 4.0, now_s=101.0)
    assert view.backlog_and_capacity("m", now_s=101.0) == (14.0, 6.0)
    assert view.backlog_and_capacity("m", now_s=103.0) == (3.0, 2.0), "the others are silent"


def test_a_report_from_the_future_adds_no_backlog() -> None:
    view = view_of(state(OWN), state(PEER, backlog=5.0))
    assert list(observed(view, now_s=99.0).backlog_B) == [0.0, 5.0]
    assert view.backlog_and_capacity("m", now_s=99.0) == (5.0, 4.0)


def test_a_restarted_peers_clock_begins_anew() -> None:
    view = view_of(state(OWN), state(PEER, changed_s=507.0, sent_s=507.0))
    # Its first state is from the beginning of its new life, not a change that came so late.
    reborn = state(PEER, incarnation=2, changed_s=1.0, sent_s=4.0)
    assert view.state_received(reborn, now_s=110.0)
    assert observed(view, now_s=110.0).staleness_s_B[1] == 0.0
    changed = replace(reborn, sequence=2, changed_s=6.0, sent_s=6.0)
    view.state_received(changed, now_s=112.5)
    # Half a second later than the message before, of which a fifth counts.
    assert observed(view, now_s=112.5).staleness_s_B[1] == pytest.approx(0.1, abs=1e-3)


def test_a_heartbeat_is_late_by_itself_alone() -> None:
    view = view_of(state(OWN), state(PEER, changed_s=7.0, sent_s=7.0))
    # Nothing changed for a minute: that is no delay.
    heartbeat = state(PEER, changed_s=7.0, sent_s=67.0)
    assert not view.state_received(heartbeat, now_s=160.0)
    assert observed(view, now_s=160.0).staleness_s_B[1] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"model_fingerprint": ModelFingerprint("g")}]
)
def test_a_peer_that_serves_something_else_is_a_candidate_no_more(
    change: dict[str, object],
) -> None:
    view = view_of(state(OWN), state(PEER))
    assert observed(view, now_s=100.0).node_ids == ("own", "peer")
    assert view.observation(task("other"), avoided=frozenset(), now_s=100.0) is None
    view.state_received(state(PEER, sequence=2, **change), now_s=100.0)
    assert observed(view, now_s=100.0).node_ids == ("own",)
    elsewhere = view.observation(task("other"), avoided=frozenset(), now_s=100.0)
    assert (elsewhere is not None) == ("model" in change)
    assert view.models(now_s=100.0) == (("m", "other") if "model" in change else ("m",))
    view.state_received(state(PEER, sequence=3), now_s=100.0)
    assert observed(view, now_s=100.0).node_ids == ("own", "peer")


def test_a_node_that_comes_is_a_candidate_at_once() -> None:
    view = view_of(state(OWN))
    assert observed(view, now_s=100.0).node_ids == ("own",)
    assert view.state_received(state(PEER), now_s=100.0)
    assert observed(view, now_s=100.0).node_ids == ("own", "peer")


def test_what_silent_peers_had_accepted_and_own_work_twice_are_no_traffic() -> None:
    def load(now_s: float, **accepted_work_s: float) -> float:
        view = view_of(
            *(
                state(node_id, accepted_work_s=accepted_work_s.get(node_id, 0.0))
                for node_id in (OWN, PEER)
            )
        )
        view.task_accepted(10.0, model="m", now_s=100.0)
        traffic = observed(view, now_s=now_s).traffic
        assert traffic is not None
        return traffic.load

    assert load(102.9, peer=4.0) > load(102.9) + 0.6
    assert load(103.0, peer=4.0) == load(103.0)
    assert load(102.9, own=4.0) == load(102.9)


def test_a_node_that_takes_nothing_has_no_backlog_to_wait_for() -> None:
    idle = {"accepting": False, "backlog": 50.0}
    view = view_of(state(OWN, backlog=1.0), state(PEER, **idle), state(OTHER, capacity=0.0))
    assert view.backlog_and_capacity("m", now_s=100.0) == (1.0, 2.0)
    view.task_accepted(12.0, model="m", now_s=100.0)
    assert view.service_s(now_s=100.0) == 6.0


def test_of_the_nodes_that_may_take_it_those_that_failed_it_are_the_last() -> None:
    view = view_of(state(OWN), state(PEER), state(OTHER, accepting=False))
    seen = view.observation(task(), avoided=frozenset({PEER}), now_s=100.0)
    assert seen is not None
    assert by_node(seen, seen.alive_B.astype(float)) == {"own": True, "peer": False, "other": False}
    seen = view.observation(task(), avoided=frozenset({PEER, OWN}), now_s=100.0)
    assert seen is not None
    assert by_node(seen, seen.alive_B.astype(float)) == {"own": True, "peer": True, "other": False}


def test_models_that_nobody_serves_fill_no_memory() -> None:
    view = view_of(state(OWN), state(PEER))
    held = []
    for number in range(7):
        assert view.observation(task(f"x{number}"), avoided=frozenset(), now_s=100.0) is None
        held.append(view._serving.remembered)
    assert held == [1, 2, 3, 1, 2, 3, 1]


def test_a_node_that_does_not_say_when_it_sent_is_not_late() -> None:
    view = view_of(state(OWN), state(PEER, changed_s=7.0, sent_s=7.0))
    view.state_received(state(PEER, sequence=2), now_s=101.0)
    assert observed(view, now_s=101.0).staleness_s_B[1] == 0.0


def test_what_is_news_is_said_and_what_is_not_too() -> None:
    view = view_of(state(OWN))
    assert view.state_received(state(PEER, incarnation=2, sequence=5), now_s=100.0) is True
    assert view.state_received(state(PEER, incarnation=2, sequence=5), now_s=100.0) is False
    assert view.state_received(state(PEER, incarnation=2, sequence=4), now_s=100.0) is False
    assert view.state_received(state(PEER, incarnation=3, sequence=1), now_s=100.0) is True


def test_a_node_whose_beginning_is_not_told_began_with_its_clock() -> None:
    view = ClusterView(own_id=OWN, incarnation=7)
    view.state_received(state(OWN), now_s=1.0)
    view.task_accepted(10.0, model="m", now_s=1.0)
    traffic = observed(view, now_s=1.0).traffic
    assert traffic is not None
    # A second of 10 units in 6 s (the least it is taken over) at 2 a second; 50.05 s of belief.
    assert traffic.load == pytest.approx((10 / 6 / 2 + 50.05) / 51.05, rel=1e-4)


def test_the_first_report_period_is_the_limits() -> None:
    limits = ClusterViewLimits(report_period_s=0.5, traffic_s=10.0)
    view = ClusterView(own_id=OWN, incarnation=7, limits=limits)
    view.state_received(state(OWN), now_s=100.0)
    traffic = observed(view, now_s=100.0).traffic
    assert traffic is not None
    assert traffic.report_period_s == 0.5
    # Nothing accepted: the mean is the task's at hand; and one without work is taken for 1.
    assert traffic.mean_work == 10.0
    seen = view.observation(task(work=0.0), avoided=frozenset(), now_s=100.0)
    assert seen is not None
    assert seen.traffic is not None
    assert seen.traffic.mean_work == 1.0


def test_own_dispatches_that_the_own_state_shows_say_nothing_of_reports() -> None:
    view = view_of(state(OWN))
    view.dispatched(OWN, 10.0, now_s=100.0)
    before = observed(view, now_s=101.0).traffic
    view.state_received(state(OWN, sequence=2, dispatches_seen={OWN: (7, 1)}), now_s=109.0)
    after = observed(view, now_s=109.0).traffic
    assert before is not None
    assert after is not None
    assert before.report_period_s == after.report_period_s == 0.05
    assert observed(view, now_s=109.0).own_B.tolist() == [0.0]


def test_a_forgotten_node_dispatches_no_more() -> None:
    view = view_of(state(OWN), state(PEER), state(OTHER))
    view.state_received(state(PEER, sequence=2, dispatches_seen={OTHER: (1, 1)}), now_s=101.0)
    assert observed(view, now_s=101.0).dispatchers == 2
    view.forget(OTHER)
    assert observed(view, now_s=101.0).dispatchers == 1
    assert view.node_ids() == (OWN, PEER)


def test_views_tell_of_every_node_in_the_order_of_names() -> None:
    view = view_of(state(PEER), state(OWN, backlog=1.0), state(OTHER))
    view.round_trip_measured(PEER, 0.02)
    view.dispatched(PEER, 4.0, now_s=100.0)
    other, own, peer = view.views(now_s=102.0)
    assert [one.state.node_id for one in (other, own, peer)] == [OTHER, OWN, PEER]
    assert (peer.alive, peer.round_trip_s, peer.own_unseen_work) == (True, 0.02, 4.0)
    assert peer.staleness_s == pytest.approx(0.01 + 2.0)
    assert (own.alive, own.staleness_s, own.own_unseen_work) == (True, 0.0, 0.0)
    silent, own, _ = view.views(now_s=103.0)
    assert (silent.alive, own.alive) == (False, True)


@pytest.mark.parametrize(("age_s", "staleness_s"), [(0.75, 0.0), (0.76, 0.76), (-1.0, 0.0)])
def test_silence_counts_once_a_heartbeat_and_a_half_is_missing(
    age_s: float, staleness_s: float
) -> None:
    view = view_of(state(OWN), state(PEER))
    seen = observed(view, now_s=100.0 + age_s)
    assert by_node(seen, seen.staleness_s_B)["peer"] == pytest.approx(staleness_s)
    (_, peer) = view.views(now_s=100.0 + age_s)
    assert peer.staleness_s == pytest.approx(staleness_s)


def test_what_is_told_of_strangers_is_forgotten() -> None:
    view = view_of(state(OWN))
    view.round_trip_measured(PEER, 0.5)
    view.offload_answered(PEER, input_bits=1e7, seconds=1.0)
    view.dispatch_ended(PEER, 1)
    assert view.node_ids() == (OWN,)
    assert not view.is_alive(PEER, now_s=100.0)
    view.state_received(state(PEER), now_s=100.0)
    assert by_node(*links_of(view)) == pytest.approx({"own": 0.0, "peer": 0.001})


def links_of(view: ClusterView) -> tuple[Observation, FloatArray]:
    seen = observed(view, now_s=100.0)
    return seen, seen.link_s_B


def test_what_a_peer_echoes_again_was_not_offloaded_again() -> None:
    view = view_of(state(OWN), state(PEER), state(OTHER))
    echo = {OTHER: (1, 3)}
    view.state_received(state(PEER, sequence=2, dispatches_seen=echo), now_s=101.0)
    view.state_received(state(PEER, sequence=3, dispatches_seen=echo), now_s=102.5)
    assert observed(view, now_s=102.9).dispatchers == 2
    assert observed(view, now_s=103.1).dispatchers == 1


# Clocks that differ: by how much each machine's clock that never jumps, and that of the day, are
# ahead of the test's own time.
FIRST, SECOND, THIRD = NodeId("a"), NodeId("b"), NodeId("c")
MONOTONIC_S = {FIRST: 50_000.0, SECOND: 200.0, THIRD: 7_000_000.0}
DAY_S = {FIRST: 1.7e9, SECOND: 1.7e9 + 864_000.0, THIRD: 0.0}
ONE_WAY_S = 0.004


def sent(node_id: NodeId, at_s: float, sequence: int) -> NodeState:
    return state(
        node_id,
        sequence=sequence,
        sent_s=MONOTONIC_S[node_id] + at_s,
        changed_s=MONOTONIC_S[node_id] + at_s,
        sent_unix_s=DAY_S[node_id] + at_s,
    )


def seen_by(own_id: NodeId, *others: NodeId, until_s: float = 10.0) -> ClusterView:
    """A view that heard the others' states, some of them late, and measured round trips."""
    view = ClusterView(own_id=own_id, incarnation=7, limits=ClusterViewLimits(suspect_s=3.0))
    own_s = MONOTONIC_S[own_id]
    at_s, sequence = 0.0, 1
    while at_s < until_s:
        view.state_received(sent(own_id, at_s, sequence), now_s=own_s + at_s)
        for other in others:
            late_s = 0.3 if sequence % 3 else 0.0
            arrived_s = at_s + ONE_WAY_S + late_s
            view.state_received(sent(other, at_s, sequence), now_s=own_s + arrived_s)
            view.round_trip_measured(other, 2 * ONE_WAY_S)
        at_s, sequence = at_s + 0.5, sequence + 1
    return view


def test_all_nodes_share_one_reading_whatever_their_clocks_say() -> None:
    readings = []
    for own_id in (FIRST, SECOND, THIRD):
        others = [one for one in (FIRST, SECOND, THIRD) if one != own_id]
        view = seen_by(own_id, *others)
        readings.append(view.shared_s(now_s=MONOTONIC_S[own_id] + 10.0))
    assert readings == pytest.approx([MONOTONIC_S[FIRST] + 10.0] * 3, abs=2e-3)


def test_the_next_name_is_gone_by_when_the_first_falls_silent() -> None:
    view = seen_by(THIRD, FIRST, SECOND)
    now_s = MONOTONIC_S[THIRD] + 11.0
    assert view.shared_s(now_s=now_s) == pytest.approx(MONOTONIC_S[FIRST] + 11.0, abs=2e-3)
    view.state_received(sent(SECOND, 14.0, 99), now_s=MONOTONIC_S[THIRD] + 14.0 + ONE_WAY_S)
    now_s = MONOTONIC_S[THIRD] + 15.0  # the first has been silent for too long
    assert view.shared_s(now_s=now_s) == pytest.approx(MONOTONIC_S[SECOND] + 15.0, abs=2e-3)
    assert seen_by(SECOND).shared_s(now_s=123.0) == 123.0  # alone


def test_a_node_that_tells_no_readings_is_not_gone_by() -> None:
    view = view_of(state(OWN), state(OTHER))
    assert view.shared_s(now_s=100.0) == 100.0
    assert view.clocks(now_s=100.0, wall_s=5.0) == {}


def test_clocks_of_the_day_are_compared_whatever_the_others_are() -> None:
    view = seen_by(FIRST, SECOND, THIRD)
    now_s, wall_s = MONOTONIC_S[FIRST] + 10.0, DAY_S[FIRST] + 10.0
    skews_s = view.clocks(now_s=now_s, wall_s=wall_s)
    assert skews_s == pytest.approx({SECOND: 864_000.0, THIRD: -1.7e9}, abs=2e-3)
    # Own steps count at once; those who are silent are not compared.
    assert view.clocks(now_s=now_s, wall_s=wall_s + 60.0)[SECOND] == pytest.approx(863_940.0)
    assert view.clocks(now_s=now_s + 5.0, wall_s=wall_s + 5.0) == {}


# What a peer may say of itself without harm to all.


def test_no_peer_shuts_the_cluster_by_its_backlog() -> None:
    view = view_of(state(OWN, capacity=2.0), state(PEER, capacity=2.0, backlog=1e12))
    backlog, capacity = view.backlog_and_capacity("m", now_s=100.0)
    assert (backlog, capacity) == (120.0, 4.0)
    # All of them are behind: then so is the cluster.
    behind = view_of(state(OWN, backlog=400.0), state(PEER, backlog=420.0))
    assert behind.backlog_and_capacity("m", now_s=100.0) == (820.0, 4.0)


def test_no_peer_makes_the_load_more_than_policies_know() -> None:
    view = view_of(state(OWN), state(PEER, accepted_work_s=1e9))
    seen = view.observation(task(), avoided=frozenset(), now_s=102.0)
    assert seen is not None
    assert seen.traffic is not None
    assert seen.traffic.load <= 10.0


def test_a_capacity_of_next_to_nothing_leaves_the_load_a_number() -> None:
    view = view_of(state(OWN, accepting=False), state(PEER, capacity=5e-324, accepted_work_s=1.0))
    seen = view.observation(task(), avoided=frozenset(), now_s=100.0)
    assert seen is not None
    assert seen.traffic is not None
    assert 0.0 <= seen.traffic.load <= 10.0


def test_invented_origins_are_not_remembered() -> None:
    view = view_of(state(OWN), state(PEER))
    invented = {NodeId(f"n{number}"): (1, 1) for number in range(100)}
    view.state_received(state(PEER, sequence=2, dispatches_seen=invented), now_s=101.0)
    assert observed(view, now_s=101.0).dispatchers == 1


def test_a_claim_is_believed_as_far_as_work_has_shown() -> None:
    view = view_of(state(OWN), state(PEER, capacity=1e8, backlog=0.0))
    assert observed(view, now_s=100.0).capacity_B.tolist() == [2.0, 8.0]  # four times its own
    now_s = 100.0
    for number in range(1, 4):
        assert view.dispatched(PEER, 10.0, now_s=now_s) == number
        now_s += 10.25
        view.state_received(
            state(PEER, sequence=number + 1, capacity=1e8, dispatches_seen={OWN: (7, number)}),
            now_s=now_s,
        )
        view.work_shown(PEER, number, drawn=True, now_s=now_s)
        view.dispatch_ended(PEER, number)
    seen = observed(view, now_s=now_s)
    assert seen.capacity_B.tolist() == pytest.approx([2.0, 4.0])
    assert view.backlog_and_capacity("m", now_s=now_s)[1] == pytest.approx(6.0)
    assert view.service_s(now_s=now_s) is None


def test_a_former_life_and_another_dispatch_show_nothing() -> None:
    view = view_of(state(OWN), state(PEER, capacity=6.0))
    view.dispatched(PEER, 10.0, now_s=100.0)
    view.state_received(state(PEER, incarnation=2, capacity=6.0), now_s=101.0)
    for dispatch in (1, 2, 3, 4):
        view.work_shown(PEER, dispatch, drawn=False, now_s=200.0)
        view.work_shown(OWN, dispatch, drawn=False, now_s=200.0)
    view.state_received(state(PEER, incarnation=2, sequence=2, capacity=6.0), now_s=200.0)
    assert observed(view, now_s=200.0).capacity_B.tolist() == [2.0, 6.0]


def two_models() -> ClusterView:
    """This node draws m with one peer; the other one draws another model, ten times as quickly."""
    return view_of(
        state(OWN, backlog=2.0, clients=1),
        state(PEER, backlog=3.0, clients=2),
        state(OTHER, model="other", capacity=20.0, backlog=50.0, clients=9),
    )


def test_what_waits_and_what_is_done_are_told_of_each_model_alone() -> None:
    view = two_models()
    assert view.backlog_and_capacity("m", now_s=100.0) == (5.0, 4.0)
    assert view.backlog_and_capacity("other", now_s=100.0) == (50.0, 20.0)
    assert view.backlog_and_capacity("unknown", now_s=100.0) == (0.0, 0.0)
    assert [view.clients(name, now_s=100.0) for name in ("m", "other", "none")] == [2, 9, 0]
    assert view.servers("other", now_s=100.0) == (OTHER,)
    assert view.servers("other", now_s=200.0) == (OTHER,), "it said so last"


def test_a_nodes_pace_with_one_model_says_nothing_of_anothers() -> None:
    same = view_of(state(OWN), state(OTHER, capacity=1000.0))
    seen = observed(same, now_s=100.0)
    # Four times what is known of the model.
    assert by_node(seen, seen.capacity_B) == {"own": 2.0, "other": 8.0}
    another = view_of(state(OWN), state(OTHER, capacity=1000.0, model="other"))
    seen = observed(another, now_s=100.0, model="other")
    assert by_node(seen, seen.capacity_B) == {"other": 1000.0}, "of which nothing is known"


def test_work_for_another_model_is_no_load_but_on_nodes_that_draw_both() -> None:
    def load(model: str, *states: NodeState) -> float:
        view = ClusterView(own_id=OWN, incarnation=7)
        for one in states:
            view.state_received(one, now_s=1e6)
        traffic = observed(view, now_s=1e6, model=model).traffic
        assert traffic is not None
        return traffic.load

    def serving(*names: str) -> dict[str, Any]:
        return {"serves": tuple(replace(SERVED, name=name) for name in names)}

    for_both = {"accepted_work_s": 4.0, "accepted_by_model": (("m", 1.0), ("other", 3.0))}
    apart = (state(OWN), state(OTHER, model="other", capacity=6.0, **for_both))
    assert load("m", *apart) == pytest.approx(1.0 / 2.0, rel=1e-3)
    assert load("other", *apart) == pytest.approx(3.0 / 6.0, rel=1e-3)
    both = (
        state(OWN, capacity=2.0, **serving("m")),
        state(OTHER, capacity=6.0, **serving("m", "other"), **for_both),
    )
    assert load("m", *both) == pytest.approx((1.0 + 3.0) / 8.0, rel=1e-3)
    # A quarter of what comes for m goes to this node, as its capacity is a quarter.
    assert load("other", *both) == pytest.approx((3.0 + 0.75 * 1.0) / 6.0, rel=1e-3)
    old = (state(OWN), state(OTHER, model="other", capacity=6.0, accepted_work_s=3.0))
    assert load("m", *old) == pytest.approx(0.0, abs=1e-3), "it accepts for its own model alone"


def test_a_mean_service_counts_each_model_by_its_tasks() -> None:
    view = two_models()
    for _ in range(3):
        view.task_accepted(4.0, model="m", now_s=100.0)
    view.task_accepted(40.0, model="other", now_s=100.0)
    view.task_accepted(1e9, model="nobody draws it", now_s=100.0)
    assert view.service_s(now_s=100.0) == pytest.approx((3 * 2.0 + 2.0) / 4)
    traffic = observed(view, now_s=100.0).traffic
    assert traffic is not None
    assert traffic.mean_work == 4.0


def test_limits_and_costs_are_those_of_a_live_node_that_tells_them() -> None:
    told = replace(SERVED, steps_max=9, steps_default=9)
    view = view_of(
        state(OWN, model="own"),
        state(PEER, model="m"),
        state(OTHER, serves=(told,)),
    )
    assert view.served("m", now_s=100.0) == told, "the first one is of version 0.1.0"
    assert view.served("own", now_s=100.0) is None
    assert view.served("unknown", now_s=100.0) is None
    assert view.served("m", now_s=103.0) is None, "all who serve it are silent"
    view.state_received(state(OTHER, sequence=2, serves=(SERVED,)), now_s=103.0)
    assert view.served("m", now_s=103.0) == SERVED


def test_a_node_that_cannot_be_reached_is_no_candidate_until_it_is_heard_again() -> None:
    view = view_of(state(OWN, accepting=False), state(PEER))
    view.unreachable(PEER)
    assert view.observation(task(), avoided=frozenset(), now_s=100.0) is None
    assert not view.state_received(state(PEER), now_s=100.5), "a heartbeat"
    assert observed(view, now_s=100.5).alive_B.tolist() == [False, True]
    view = view_of(state(OWN))
    view.unreachable(OWN)
    assert observed(view, now_s=100.0).alive_B.tolist() == [True]
