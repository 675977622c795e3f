"""Who is out of a cluster by an operator's word, by values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_node.domain import NodeId
from edge_node.removal import REMOVALS_MAX
from edge_node.tasks.membership import Membership
from edge_node.tasks.membership_protocol import (
    CloseLink,
    ForgetNode,
    HearState,
    KeepRemovals,
    NoteMeeting,
    NoteStranger,
    OpenLink,
    Started,
    StateAnswered,
)
from edge_node.tasks.removals import Removals
from tests.tasks.test_membership import A, B, C, Story, X, Y, kinds, removal, said, settings, state


def test_a_removed_node_is_forgotten_and_stays_out_in_every_life() -> None:
    story = Story(X)
    story.answer(X, state())
    told = story.told(said())
    assert kinds(told) == [ForgetNode, KeepRemovals]
    assert story.machine.removals == (removal(),)
    # Its address is called again and again, as the operator names it, and nobody waits for it.
    assert (story.leads_to(B), story.machine.addresses) == (None, {})
    for life in (1, 2):
        assert kinds(story.answer(X, state(life=life))) == ([NoteStranger] if life == 1 else [])
        assert story.hello(state(life=life), host="10.0.0.2") == []
    assert story.leads_to(B) is None


def test_a_removed_node_that_was_found_is_called_no_more_and_another_may_take_its_place() -> None:
    story = Story()
    story.found(X)
    story.answer(X, state())
    assert kinds(story.told(said())) == [CloseLink, ForgetNode, KeepRemovals]
    story.found(X)
    assert kinds(story.answer(X, state(C))) == [NoteMeeting, HearState]
    assert story.machine.addresses == {X: C}


def test_a_node_that_left_is_expected_no_more_once_it_is_removed() -> None:
    story = Story(X)
    story.answer(X, state())
    story.answer(X, state(leaving=True))
    assert story.machine.away(now_s=0.0) == (B,)
    assert kinds(story.told(said())) == [KeepRemovals]
    assert story.machine.away(now_s=0.0) == ()


def test_a_readmitted_node_is_met_again() -> None:
    story = Story(X)
    story.answer(X, state())
    story.told(said())
    story.answer(X, state())
    assert kinds(story.told(said(removed=False, unix_s=0.0))) == [KeepRemovals]
    # Later than what it takes back, though the clock has gone back.
    assert story.machine.removals[0].at_unix_s > 1e9
    assert kinds(story.answer(X, state())) == [NoteMeeting, HearState]


def test_removals_are_heard_of_those_who_are_heard_and_of_nobody_else() -> None:
    story = Story(X, Y)
    story.answer(X, state())
    story.answer(Y, state(C))
    stranger = replace(state(NodeId("z"), cluster_name="other"), removals=(removal(),))
    story.hello(stranger)
    story.hello(replace(state(C), removals=(removal(),)), host="10.0.0.66", proven=False)
    assert story.leads_to(B) == X
    told = story.answer(Y, replace(state(C), removals=(removal(),)))
    assert kinds(told) == [HearState, ForgetNode, KeepRemovals]
    # What is known already is no news.
    assert kinds(story.answer(Y, replace(state(C), removals=(removal(),)))) == [HearState]
    later = removal(removed=False, at_unix_s=1e9 + 1)
    assert kinds(story.answer(Y, replace(state(C), removals=(later,)))) == [HearState, KeepRemovals]
    assert kinds(story.answer(Y, replace(state(C), removals=(removal(),)))) == [HearState]
    assert story.machine.removal_of(B) is None


def test_a_former_life_knew_who_was_removed() -> None:
    machine = Membership(settings(X), own_id=A, removals=[removal()])
    (opened,) = machine.handle(Started(), now_s=0.0)
    assert isinstance(opened, OpenLink)
    answer = StateAnswered(link=opened.link, state=state())
    assert kinds(machine.handle(answer, now_s=0.0)) == [NoteStranger]
    assert machine.removal_of(B) == removal()


@pytest.mark.parametrize("seed", range(5))
def test_nodes_that_hear_each_other_agree_in_whatever_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = [
        removal(
            NodeId(f"n{rng.integers(80)}"),
            removed=bool(rng.random() < 0.7),
            at_unix_s=float(rng.integers(50)),
        )
        for _ in range(300)
    ]
    first, second = Removals(words), Removals()
    for one in rng.permutation(len(words)):
        second.take([words[one]])
    for _ in range(3):  # as states go to and fro
        first.take(second.known)
        second.take(first.known)
    assert first.known == second.known
    assert len(first.known) == REMOVALS_MAX
    assert not first.take(second.known)
