"""Who learns and whose weights stand, by what nodes say of themselves."""

from __future__ import annotations

import itertools

import pytest

from edge_node.domain import Learning, NodeId
from edge_node.learned_weights import LearnedWeights
from edge_node.tasks.learnership import Learnership, Member, learnership

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def weights(generation: int, sha256: str = "0") -> LearnedWeights:
    return LearnedWeights(
        policy="lad_ts",
        version=f"lad_ts-{generation}-{sha256}",
        generation=generation,
        sha256=sha256,
        size_bytes=1,
    )


def says(
    *, willing: bool = True, policy: str = "lad_ts", held: LearnedWeights | None = None
) -> Learning:
    return Learning(policy=policy, willing=willing, weights=held)


def member(node_id: NodeId, learning: Learning | None, *, alive: bool = True) -> Member:
    return Member(node_id=node_id, alive=alive, learning=learning)


def test_the_least_name_among_willing_nodes_learns_from_all() -> None:
    for own_id in (A, B, C):
        others = [member(one, says()) for one in (C, A, B) if one != own_id]
        found = learnership(own_id, says(), others)
        assert (found.learner, found.learns) == (A, own_id == A)
        assert found.pools == tuple(sorted({A, B, C} - {own_id}))


@pytest.mark.parametrize(
    "first",
    [
        member(A, says(), alive=False),
        member(A, says(willing=False)),
        member(A, says(policy="lad_ts_plus")),
        member(A, None),
    ],
    ids=["silent", "unwilling", "of another policy", "of the former version"],
)
def test_who_cannot_learn_for_this_node_is_passed_over(first: Member) -> None:
    found = learnership(B, says(), [first, member(C, says())])
    assert (found.learner, found.learns) == (B, True)
    # An unwilling node has experience, too.
    assert found.pools == ((A, C) if first.learning == says(willing=False) else (C,))


def test_nobody_learns_where_nobody_is_willing() -> None:
    found = learnership(A, says(willing=False), [member(B, says(willing=False))])
    assert found == Learnership(learner=None, learns=False, pools=(B,), wanted=None)


def test_a_node_that_comes_learns_once_it_holds_the_newest_weights() -> None:
    others = [member(B, says(held=weights(3))), member(C, says(held=weights(4)))]
    found = learnership(A, says(held=weights(3)), others)
    assert (found.learner, found.learns) == (A, False)
    assert found.wanted is not None
    assert (found.wanted.weights, found.wanted.holders) == (weights(4), (C,))
    assert learnership(A, says(held=weights(4)), others).learns


def test_of_one_generation_the_same_weights_stand_everywhere() -> None:
    held = {A: weights(2, "1"), B: weights(2, "f"), C: weights(2, "7")}
    for order in itertools.permutations(held):
        own_id, *rest = order
        others = [member(one, says(held=held[one])) for one in rest]
        wanted = learnership(own_id, says(held=held[own_id]), others).wanted
        if own_id == B:
            assert wanted is None
        else:
            assert wanted is not None
            assert (wanted.weights, wanted.holders) == (held[B], (B,))


def test_weights_that_were_refused_are_not_wanted_again() -> None:
    others = [member(B, says(held=weights(9, "bad"))), member(C, says(held=weights(2, "good")))]
    wanted = learnership(A, says(), others, refused={"bad"}).wanted
    assert wanted is not None
    assert wanted.weights == weights(2, "good")
    assert learnership(A, says(held=weights(2, "good")), others, refused={"bad"}).learns
