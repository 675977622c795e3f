"""Whatever nodes draw and whoever decides: no task goes to a node that cannot draw it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_node.domain import ModelFingerprint, NodeId, NodeState, Task, TaskId
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.lifecycle_protocol import WaitingAttempt
from edge_node.tasks.moving import task_to_move
from edge_node.tasks.placement import Placement, place
from edge_node.tasks.serving import Offer, offers_of
from edge_node.tasks.slots import SlotMemory, SlotSettings
from scheduler.guard.guard import Guard, GuardSettings
from scheduler.observation import FloatArray
from scheduler.policy import Policy
from scheduler.registry import create, names
from tests.tasks.test_cluster_view import task
from tests.tasks.test_serving import SERVED

NODES = tuple(NodeId(f"node-{index}") for index in range(5))
MODELS = ("a", "b", "c")


@st.composite
def states(draw: st.DrawFn) -> tuple[NodeState, ...]:
    """Nodes with up to three models, of two kinds of weights each; some take nothing."""

    def of(node_id: NodeId) -> NodeState:
        serves = tuple(
            replace(SERVED, name=name, fingerprint=ModelFingerprint(draw(st.sampled_from("fg"))))
            for name in draw(st.sets(st.sampled_from(MODELS)))
        )
        return NodeState(
            node_id=node_id,
            incarnation=1,
            sequence=1,
            serves=serves,
            backlog=draw(st.floats(0.0, 100.0)),
            capacity=draw(st.floats(0.5, 20.0)) if serves else 0.0,
            queued=draw(st.integers(0, 5)),
            accepting=bool(serves) and draw(st.integers(0, 4)) > 0,
        )

    return tuple(of(node_id) for node_id in NODES)


def view_from(own_id: NodeId, cluster: tuple[NodeState, ...]) -> ClusterView:
    view = ClusterView(own_id=own_id, incarnation=1)
    for state in cluster:
        view.state_received(state, now_s=100.0)
    return view


def able(model: str, own_id: NodeId, cluster: tuple[NodeState, ...]) -> set[NodeId]:
    """Nodes that may draw it: said anew, from the states alone."""
    offering: dict[Offer, list[NodeState]] = {}
    for state in cluster:
        for offer in offers_of(state):
            offering.setdefault(offer, []).append(state)
    of_model = [offer for offer in offering if offer[0] == model]
    own = [o for o in of_model if any(state.node_id == own_id for state in offering[o])]
    by_first_node = sorted(of_model, key=lambda offer: offering[offer][0].node_id)
    chosen = own or by_first_node[:1]
    return {state.node_id for offer in chosen for state in offering[offer] if state.accepting}


def deciders() -> Iterator[tuple[str, Policy]]:
    for name in names():
        yield name, create(name, rng=np.random.default_rng(1))


def placed(
    policy: Policy, own_id: NodeId, cluster: tuple[NodeState, ...], models: list[str]
) -> Iterator[tuple[str, Placement | None]]:
    """As a node places one task after the other, with the latents of all of them."""
    view, memory = view_from(own_id, cluster), SlotMemory(SlotSettings(), now_s=100.0)
    for model in models:
        nth = memory.place()

        def recall(node_ids: tuple[str, ...], nth: object = nth) -> FloatArray | None:
            return memory.recall(nth, node_ids)  # type: ignore[arg-type]

        found = place(
            task(model), avoided=frozenset(), view=view, policy=policy, now_s=100.0, recall=recall
        )
        if found is not None:
            memory.decided(nth, found.observation.node_ids, found.decision)
            memory.advance(now_s=101.0, service_s=lambda: 0.1)
        yield model, found


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    cluster=states(),
    own=st.sampled_from(NODES),
    models=st.lists(st.sampled_from((*MODELS, "unknown")), min_size=1, max_size=8),
)
def test_no_task_goes_to_a_node_that_cannot_draw_it(
    cluster: tuple[NodeState, ...], own: NodeId, models: list[str]
) -> None:
    guard = Guard(
        GuardSettings(wanted="lad_ts_plus", rules=("ring",), pinned=True, decision_budget_s=9.0),
        learned=create("lad_ts_plus", rng=np.random.default_rng(2)),
        version="v",
        rules={"ring": create("ring", rng=np.random.default_rng(3))},
        now_s=lambda: 100.0,
        shared_s=lambda: 100.0,
    )
    for name, policy in (*deciders(), ("guard", guard)):
        for model, found in placed(policy, own, cluster, models):
            may = able(model, own, cluster)
            assert (found is None) == (not may), (name, model)
            if found is not None:
                assert found.executor in may, (name, model)
                assert found.policy_failure is None, (name, found.policy_failure)


@settings(deadline=None, max_examples=60)
@given(cluster=states(), own=st.sampled_from(NODES), data=st.data())
def test_a_task_that_waits_is_moved_among_nodes_that_draw_it(
    cluster: tuple[NodeState, ...], own: NodeId, data: st.DataObject
) -> None:
    view = view_from(own, cluster)
    waiting = []
    for number in range(4):
        model = data.draw(st.sampled_from(MODELS))
        executor = data.draw(st.sampled_from(NODES))
        one: Task = replace(task(model), id=TaskId(f"{own}-{number}"))
        waiting.append(WaitingAttempt(task=one, executor=executor, dispatch=number))
    moved = task_to_move(waiting, view=view, now_s=100.0)
    for one_waiting in waiting:
        if one_waiting.task.id == moved:
            others = able(one_waiting.task.drawing.model, own, cluster) - {one_waiting.executor}
            assert others, "there is no other node that draws it"


@pytest.mark.parametrize("name", ["round_robin", "smooth_wrr"])
def test_turns_go_round_each_models_nodes_however_the_models_alternate(name: str) -> None:
    cluster = tuple(
        NodeState(
            node_id=node_id,
            incarnation=1,
            sequence=1,
            serves=(replace(SERVED, name="a" if index < 3 else "b"),),
            capacity=1.0,
            accepting=True,
        )
        for index, node_id in enumerate(NODES)
    )
    policy = create(name, rng=np.random.default_rng(1))
    found = list(placed(policy, NODES[0], cluster, ["a", "b"] * 6))
    for model, nodes in (("a", NODES[:3]), ("b", NODES[3:])):
        chosen = [one.executor for of, one in found if of == model and one is not None]
        assert sorted(chosen) == sorted(nodes * (6 // len(nodes)))


def test_nodes_that_draw_another_model_do_not_all_begin_at_one_candidate() -> None:
    cluster = tuple(
        NodeState(
            node_id=node_id,
            incarnation=1,
            sequence=1,
            serves=(replace(SERVED, name="b"),) if index >= 3 else (),
            capacity=1.0,
            accepting=index >= 3,
        )
        for index, node_id in enumerate(NODES)
    )
    places = []
    for own_id in NODES:
        seen = view_from(own_id, cluster).observation(task("b"), avoided=frozenset(), now_s=100.0)
        assert seen is not None
        places.append(seen.own_place)
    assert places == [0.0, pytest.approx(0.4), pytest.approx(0.8), 0.0, 1.0]
