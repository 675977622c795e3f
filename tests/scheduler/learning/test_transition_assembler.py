"""Late, out of order, twice, never: what the assembler makes of a pool's entries."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.experience import PooledDecision, RecordedDecision
from scheduler.learning.transition_assembler import LIVES_MAX, Transition, TransitionAssembler
from scheduler.observation import Observation
from scheduler.policy import Decision, Outcome

LIFE = "00000000000001-a"


def decision(sequence: int, *, life: str = LIFE, nodes: int = 2) -> PooledDecision:
    observation = Observation(
        node_ids=tuple(f"n{index}" for index in range(nodes)),
        local=0,
        work=float(sequence),
        input_bits=8,
        backlog_B=np.zeros(nodes),
        own_B=np.zeros(nodes),
        capacity_B=np.ones(nodes),
        link_s_B=np.zeros(nodes),
        staleness_s_B=np.zeros(nodes),
        alive_B=np.ones(nodes, np.bool_),
    )
    recorded = RecordedDecision(
        decision_id=f"{life}/{sequence}",
        node_id="n0",
        decided_unix_s=float(sequence),
        slot=sequence // 3,
        index_in_slot=sequence % 3,
        steps=10,
        observation=observation,
        decision=Decision(choice=sequence % nodes, policy="random"),
    )
    return PooledDecision(life=life, sequence=sequence, recorded=recorded)


def outcome(sequence: int, *, life: str = LIFE) -> Outcome:
    return Outcome(decision_id=f"{life}/{sequence}", service_delay_s=sequence + 0.5, completed=True)


def assembler(*, outcome_wait_s: float = 100.0, waiting_max: int = 1000) -> TransitionAssembler:
    return TransitionAssembler(outcome_wait_s=outcome_wait_s, waiting_max=waiting_max)


def numbers(transitions: list[Transition]) -> list[int]:
    return [transition.sequence for transition in transitions]


def test_a_transition_is_whole_with_its_outcome_and_the_next_decision() -> None:
    joined = assembler()
    joined.add(decision(0), now_s=0.0)
    joined.add(outcome(0), now_s=1.0)
    assert joined.take() == []
    joined.add(decision(1), now_s=2.0)
    (transition,) = joined.take()
    assert transition.decided.observation.work == 0.0
    assert transition.outcome.service_delay_s == 0.5
    assert transition.following.observation.work == 1.0
    assert joined.take() == []


def test_a_slots_last_task_is_followed_by_the_next_slots_first() -> None:
    joined = assembler()
    for entry in (decision(2), decision(3), outcome(2)):
        joined.add(entry, now_s=0.0)
    (transition,) = joined.take()
    assert (transition.decided.slot, transition.following.slot) == (0, 1)


def test_a_lost_decision_breaks_the_chain_instead_of_being_skipped() -> None:
    joined = assembler(outcome_wait_s=10.0)
    for entry in (decision(0), decision(2), outcome(0), outcome(1), outcome(2), decision(3)):
        joined.add(entry, now_s=0.0)
    assert numbers(joined.take()) == [2]
    joined.add(decision(100), now_s=11.0)
    assert joined.counts.unfollowed == 1
    assert joined.counts.expired_outcomes == 1
    assert joined.counts.expired_decisions == 1


def test_other_candidates_end_a_chain() -> None:
    joined = assembler()
    entries = (decision(0), decision(1, nodes=3), decision(2, nodes=3), outcome(0), outcome(1))
    for entry in entries:
        joined.add(entry, now_s=0.0)
    assert numbers(joined.take()) == [1]
    assert joined.counts.other_candidates == 1


def test_an_outcome_that_is_waited_for_in_vain_is_late_when_it_comes() -> None:
    joined = assembler(outcome_wait_s=10.0)
    joined.add(decision(0), now_s=0.0)
    joined.add(decision(1), now_s=0.0)
    joined.add(decision(2), now_s=11.0)
    assert joined.counts.expired_decisions == 2
    joined.add(outcome(0), now_s=11.0)
    joined.add(decision(0), now_s=11.0)  # even with its decision once more
    assert joined.take() == []
    assert (joined.counts.late_outcomes, joined.counts.late_decisions) == (1, 1)


def test_memory_is_bounded() -> None:
    joined = assembler(waiting_max=10)
    for sequence in range(100):
        joined.add(decision(sequence), now_s=0.0)
        joined.add(outcome(sequence + 1000), now_s=0.0)
    assert joined.waiting <= 20
    assert joined.counts.expired_decisions == 90
    assert joined.counts.expired_outcomes == 90


def test_former_lives_are_told_apart_up_to_a_number() -> None:
    joined = assembler(waiting_max=1)
    lives = [f"{number:014d}-x" for number in range(LIVES_MAX + 3)]
    for life in lives:
        joined.add(decision(0, life=life), now_s=0.0)
    joined.add(decision(5, life=lives[0]), now_s=0.0)
    assert joined.counts.late_decisions == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_each_transition_at_most_once_and_never_a_wrong_join(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    lives = (LIFE, "00000000000002-b")
    entries: list[PooledDecision | Outcome] = []
    for life in lives:
        for sequence in range(count):
            entries += [decision(sequence, life=life)] * data.draw(st.integers(0, 2))
            entries += [outcome(sequence, life=life)] * data.draw(st.integers(0, 2))
    random.Random(data.draw(st.integers(0, 2**32))).shuffle(entries)
    step_s = data.draw(st.sampled_from((0.0, 1.0)))
    joined = assembler(
        outcome_wait_s=data.draw(st.sampled_from((5.0, 1000.0))),
        waiting_max=data.draw(st.sampled_from((3, 1000))),
    )
    taken: list[Transition] = []
    for index, entry in enumerate(entries):
        joined.add(entry, now_s=index * step_s)
        taken += joined.take()
    keys = [(transition.life, transition.sequence) for transition in taken]
    assert len(keys) == len(set(keys))
    for transition in taken:
        life, sequence = transition.life, transition.sequence
        assert transition.decided.decision_id == f"{life}/{sequence}"
        assert transition.outcome == outcome(sequence, life=life)
        assert transition.following.decision_id == f"{life}/{sequence + 1}"
    assert joined.counts.transitions == len(taken)


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(16)))
def test_without_losses_nothing_is_missed_whatever_the_order(order: list[int]) -> None:
    entries = [make(sequence) for sequence in range(8) for make in (decision, outcome)]
    joined = assembler()
    for index in order:
        joined.add(entries[index], now_s=0.0)
    assert sorted(numbers(joined.take())) == list(range(7))
    assert joined.counts.joined == 8


def test_the_first_outcome_counts() -> None:
    joined = assembler()
    joined.add(decision(0), now_s=0.0)
    joined.add(outcome(0), now_s=0.0)
    second = Outcome(decision_id=f"{LIFE}/0", service_delay_s=60.0, completed=False)
    joined.add(second, now_s=0.0)
    joined.add(decision(1), now_s=0.0)
    (transition,) = joined.take()
    assert transition.outcome.service_delay_s == pytest.approx(0.5)
    assert joined.counts.duplicate_outcomes == 1
