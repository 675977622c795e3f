"""Who draws which model: fingerprints, liveness, nodes that do not tell, figures without sense."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_node.domain import ModelFingerprint, NodeId, NodeState, ServedModel, WorkModel
from edge_node.tasks.serving import ServingNodes, names_of, offers_of, served_by

OWN, A, B, C = (NodeId(name) for name in ("own", "a", "b", "c"))
SERVED = ServedModel(
    name="m",
    fingerprint=ModelFingerprint("f"),
    work_model=WorkModel(fixed_steps=1.0, unguided_ratio=0.5, reference_px=64),
    size_px_min=32,
    size_px_max=128,
    size_px_multiple=16,
    steps_max=50,
    steps_default=4,
    guidance_scale_default=5.0,
    guidance_scale_max=30.0,
    strength_default=0.6,
    prompt_chars_max=1000,
)


def served(name: str = "m", fingerprint: str = "f") -> ServedModel:
    return replace(SERVED, name=name, fingerprint=ModelFingerprint(fingerprint))


def state(node_id: NodeId, *serves: ServedModel, **changes: Any) -> NodeState:
    return NodeState(node_id=node_id, incarnation=1, sequence=1, serves=serves, **changes)


def nodes_of(serving: ServingNodes, model: str, *silent: NodeId) -> tuple[NodeId, ...]:
    found = serving.of(model, is_alive=lambda node_id: node_id not in silent)
    return () if found is None else found.node_ids


def test_nodes_with_one_name_and_one_fingerprint_draw_for_each_other() -> None:
    states = {
        A: state(A, served(fingerprint="g")),
        B: state(B, served()),
        C: state(C, served(), served("other")),
        OWN: state(OWN, served()),
    }
    serving = ServingNodes(OWN, lambda: states)
    assert nodes_of(serving, "m") == (B, C, OWN)
    found = serving.of("m", is_alive=lambda _: True)
    assert found is not None
    assert (found.local, found.told) == (2, (SERVED, SERVED, SERVED))
    assert nodes_of(serving, "other") == (C,)
    assert nodes_of(serving, "unknown") == ()


def test_where_this_node_draws_another_model_the_first_alive_says_which_weights() -> None:
    states = {
        A: state(A, served(fingerprint="g")),
        B: state(B, served()),
        C: state(C, served()),
        OWN: state(OWN),
    }
    serving = ServingNodes(OWN, lambda: states)
    assert nodes_of(serving, "m") == (A,)
    assert nodes_of(serving, "m", A) == (B, C), "whoever is silent holds up no other"
    assert nodes_of(serving, "m", A, B) == (B, C)
    assert nodes_of(serving, "m", A, B, C) == (A,), "they may come back"
    found = serving.of("m", is_alive=lambda _: True)
    assert found is not None
    assert found.local is None


def test_answers_are_kept_until_something_changes() -> None:
    states = {OWN: state(OWN, served())}
    serving = ServingNodes(OWN, lambda: states)
    assert nodes_of(serving, "m") == (OWN,)
    states[A] = state(A, served())
    assert nodes_of(serving, "m") == (OWN,)
    serving.changed()
    assert nodes_of(serving, "m") == (A, OWN)


def test_a_node_that_tells_no_more_than_a_name_draws_it_and_cannot_be_costed() -> None:
    old = state(A, model="m", model_fingerprint=ModelFingerprint("f"))
    assert offers_of(old) == (("m", "f"),)
    assert served_by(old, "m") is None
    assert offers_of(state(A)) == ()
    assert names_of([old, state(B), state(C, served("b"), served("a"))]) == ("a", "b", "m")


@pytest.mark.parametrize(
    "changes",
    [
        {"work_model": WorkModel(fixed_steps=1.0, unguided_ratio=0.5, reference_px=0)},
        {"size_px_multiple": 0},
        {"size_px_min": 0},
        {"size_px_min": 129},
        {"steps_default": 0},
        {"steps_default": 51},
        {"guidance_scale_default": 31.0},
        {"prompt_chars_max": 0},
        {"strength_default": 0.0},
    ],
)
def test_figures_that_leave_nothing_to_ask_for_are_not_used(changes: dict[str, Any]) -> None:
    assert served_by(state(A, SERVED), "m") == SERVED
    assert served_by(state(A, replace(SERVED, **changes)), "m") is None
