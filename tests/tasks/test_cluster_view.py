"""Backlog arithmetic of the cluster view, with hand-worked values."""

from __future__ import annotations

import pytest

from edge_node.domain import Drawing, ModelFingerprint, NodeId, NodeState, Task, TaskId
from edge_node.tasks.cluster_view import ClusterView, ClusterViewLimits

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


def state(node_id: NodeId, **changes: object) -> NodeState:
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
    assert view.dispatched(PEER, 10.0) == 1
    assert view.dispatched(PEER, 4.0) == 2
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
    view.dispatched(PEER, 10.0)
    seen = view.observation(task(), avoided=frozenset(), now_s=100.0)
    assert seen is not None
    assert seen.own_B[1] == 10.0


def test_a_peers_restart_forgets_what_it_was_drawing() -> None:
    view = view_of(state(OWN), state(PEER))
    view.dispatched(PEER, 10.0)
    view.state_received(state(PEER, incarnation=2), now_s=100.0)
    seen = view.observation(task(), avoided=frozenset(), now_s=100.0)
    assert seen is not None
    assert seen.own_B[1] == 0.0


@pytest.mark.parametrize("old", [{"sequence": 0}, {"incarnation": 0, "sequence": 9}])
def test_states_of_the_past_are_ignored(old: dict[str, int]) -> None:
    view = view_of(state(OWN), state(PEER, backlog=5.0))
    assert not view.state_received(state(PEER, backlog=50.0, **old), now_s=100.0)
    assert view.backlog_and_capacity(now_s=100.0) == (5.0, 4.0)


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


def test_link_and_staleness() -> None:
    view = view_of(state(OWN), state(PEER, backlog=1.0), state(OTHER))
    view.round_trip_measured(PEER, 0.01)
    seen = view.observation(task(), avoided=frozenset(), now_s=100.5)
    assert seen is not None
    assert dict(zip(seen.node_ids, seen.link_s_B, strict=True)) == pytest.approx(
        {"own": 0.0, "peer": 0.01 + 0.001, "other": 0.001}
    )
    # An idle peer's old report is not stale.
    assert dict(zip(seen.node_ids, seen.staleness_s_B, strict=True)) == pytest.approx(
        {"own": 0.0, "peer": 0.5, "other": 0.0}
    )


def test_nodes_that_offloaded_lately_count_as_dispatchers() -> None:
    view = view_of(state(OWN), state(PEER))

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
    assert dispatchers(103.1) == 1
