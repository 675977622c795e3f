"""Learning from lived experience, and what is refused before it is published."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scheduler import checkpoint
from scheduler.checkpoint import Checkpoint
from scheduler.experience import PooledDecision
from scheduler.guard.held_out import compare, policy_of
from scheduler.learning import live_learner
from scheduler.learning.choice import Diverged
from scheduler.learning.live_learner import LiveLearner, PoolTrainer
from scheduler.learning.publication import Refused, consider, version_of
from scheduler.learning.transition_assembler import Transition, TransitionAssembler
from scheduler.policy import UnknownMembership
from tests.scheduler.learning.lived import CAPACITY_B, NODE_IDS, lived

QUICK: Mapping[str, str | float | bool] = {
    "pool_min": 60,
    "actor_lr": 3e-3,
    "critic_lr": 3e-3,
    "noise": "none",
    "start": "zero",
}


def trained(decisions: int, *, updates: int) -> PoolTrainer:
    assembler = TransitionAssembler(outcome_wait_s=1e4, waiting_max=5000)
    trainer = PoolTrainer(QUICK, seed=0, assembler=assembler)
    for entry in lived(decisions):
        trainer.add(entry)
    for _ in range(updates):
        trainer.due = 1
        assert trainer.update()
    return trainer


@pytest.fixture(scope="module")
def learner() -> LiveLearner:
    current = trained(1200, updates=400).current
    assert current is not None
    return current


def always(weights: Checkpoint, server: int) -> Checkpoint:
    """The same weights, but one server gets every task."""
    arrays = {name: np.array(array) for name, array in weights.arrays.items()}
    # The chain takes the predicted noise away from x: the one with the least gets the task.
    arrays["third.weight_AOI"][:] = 0.0
    arrays["third.bias_AO1"][:] = 50.0
    arrays["third.bias_AO1"][0, server] = -50.0
    info = replace(weights.info, config={**weights.info.config, "softmax": False})
    return Checkpoint(info=info, arrays=arrays | {"softmax": np.array(False)})


def test_it_learns_to_avoid_the_slow_server(learner: LiveLearner) -> None:
    chooser = policy_of(learner.checkpoint(generation=1, metrics={}), seed=3)
    chance_B = np.mean([chooser.chances(o.decided.observation) for o in learner.held_out], axis=0)
    assert chance_B[2] < 0.2  # an eighth of the fastest one's capacity
    assert CAPACITY_B[2] == CAPACITY_B.min()


def test_what_is_held_out_is_not_learned_from(learner: LiveLearner) -> None:
    numbers = {transition.sequence // 16 % 4 for transition in learner.held_out}
    assert numbers == {3}
    assert len(learner.held_out) == pytest.approx(300, abs=16)


def test_checked_weights_are_for_these_candidates_and_carry_their_check(
    learner: LiveLearner,
) -> None:
    weights = consider(learner, published=None, generation=7)
    assert weights.info.metrics["held_out_transitions"] == len(learner.held_out)
    assert weights.info.metrics["gain_s"] > 0.0  # better than chance
    assert version_of(weights).startswith("lad_ts-7-")
    chooser = policy_of(weights, seed=0)
    seen = learner.held_out[0].decided.observation
    assert chooser.decide(seen).choice in range(3)
    with pytest.raises(UnknownMembership, match="weights lad_ts-7"):
        chooser.decide(replace(seen, node_ids=("a", "b", "x")))


def test_weights_that_are_worse_than_the_published_ones_are_refused(
    learner: LiveLearner, tmp_path: Path
) -> None:
    good = learner.checkpoint(generation=1, metrics={})
    held_out = list(learner.held_out)
    bad, best = always(good, 2), always(good, 0)
    assert compare(held_out, bad, best, gamma=0.95, seed=1).worse
    assert not compare(held_out, best, bad, gamma=0.95, seed=1).worse
    same = compare(held_out, good, good, gamma=0.95, seed=1)
    assert (same.gain_s, same.worse) == (0.0, False)
    assert same.against == version_of(good)

    path = tmp_path / "published.safetensors"
    checkpoint.save(path, best)
    poor = Poor(learner)
    with pytest.raises(Refused, match="significantly worse than lad_ts-1-"):
        consider(poor, published=path, generation=2)


class Poor(LiveLearner):
    """Always proposes the slowest server."""

    def __init__(self, learner: LiveLearner) -> None:
        self.__dict__ = dict(learner.__dict__)

    def checkpoint(self, *, generation: int, metrics: Mapping[str, float]) -> Checkpoint:
        return always(super().checkpoint(generation=generation, metrics=metrics), 2)


def test_weights_that_are_no_numbers_are_refused(learner: LiveLearner) -> None:
    class Lost(Poor):
        def checkpoint(self, *, generation: int, metrics: Mapping[str, float]) -> Checkpoint:
            weights = super().checkpoint(generation=generation, metrics=metrics)
            weights.arrays["second.weight_AOI"][0, 1, 1] = np.nan
            return weights

    with pytest.raises(Refused, match=r"second.weight_AOI is not finite"):
        consider(Lost(learner), published=None, generation=1)


def test_too_little_held_out_publishes_nothing() -> None:
    current = trained(200, updates=1).current
    assert current is not None
    with pytest.raises(Refused, match="held-out blocks"):
        consider(current, published=None, generation=1)


def test_learning_goes_on_from_published_weights(learner: LiveLearner) -> None:
    weights = learner.checkpoint(generation=1, metrics={})
    other = LiveLearner(NODE_IDS, QUICK, seed=5)
    other.resume(weights)
    again = other.checkpoint(generation=1, metrics={})
    for name, array in weights.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_one_update_a_slot_once_the_pool_is_full_enough() -> None:
    assembler = TransitionAssembler(outcome_wait_s=1e4, waiting_max=5000)
    trainer = PoolTrainer(QUICK, seed=0, assembler=assembler)
    assert not trainer.update()
    entries = lived(300)
    for entry in entries:
        trainer.add(entry)
    decided = [entry for entry in entries if isinstance(entry, PooledDecision)]
    assert 0 < trainer.due <= len({entry.recorded.slot for entry in decided})


def test_a_diverged_learner_is_given_up() -> None:
    trainer = trained(200, updates=1)
    first = trainer.current
    assert first is not None
    first._agent.log_alpha_A.fill_(float("nan"))
    trainer.due = 1
    with pytest.raises(Diverged):
        trainer.update()
    assert trainer.current is None
    assert not trainer.update()


def test_memberships_have_learners_of_their_own_up_to_a_number() -> None:
    assembler = TransitionAssembler(outcome_wait_s=1e4, waiting_max=5000)
    trainer = PoolTrainer(QUICK, seed=0, assembler=assembler)
    first = trainer.learner(("a", "b"))
    assert trainer.learner(("a", "b")) is first
    for number in range(live_learner.MEMBERSHIPS_MAX):
        trainer.learner(("a", f"n{number}"))
    assert trainer.learner(("a", "b")) is not first


def test_no_queue_and_no_input_still_have_units() -> None:
    entries = lived(300)
    current = LiveLearner(NODE_IDS, QUICK, seed=0)
    decided = [entry for entry in entries if isinstance(entry, PooledDecision)]
    outcomes = {
        entry.decision_id: entry for entry in entries if not isinstance(entry, PooledDecision)
    }
    idle = [
        replace(
            entry.recorded,
            observation=replace(entry.recorded.observation, backlog_B=np.zeros(3), input_bits=0),
        )
        for entry in decided
    ]
    for sequence, (one, after) in enumerate(itertools.pairwise(idle)):
        current.add(
            Transition(
                life="x",
                sequence=sequence,
                decided=one,
                outcome=outcomes[one.decision_id],
                following=after,
            )
        )
    current.update()
    assert current.can_update
