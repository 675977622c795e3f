"""The check of new weights on what was held out: its bounds, its refusals and one run's figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scheduler.checkpoint import Checkpoint
from scheduler.features import StateScale
from scheduler.guard.held_out import (
    BLOCK,
    BLOCKS_MIN,
    WORSE_SHARE,
    HeldOutCheck,
    block_of,
    compare,
    policy_of,
    state_of,
)
from scheduler.learning.live_learner import LiveLearner
from scheduler.learning.transition_assembler import Transition
from tests.scheduler.learning.lived import LIFE, transitions
from tests.scheduler.learning.test_live_learner import always, trained

# Sums in single precision differ a little from one processor to another.
REL = 5e-3


@pytest.fixture(scope="module")
def weights() -> Checkpoint:
    """Of hardly any training: how they decide is no matter here."""
    current: LiveLearner | None = trained(130, updates=1).current
    assert current is not None
    return current.checkpoint(generation=1, metrics={})


@pytest.fixture(scope="module")
def kept() -> list[Transition]:
    return transitions(16 * BLOCK + 1)


def check(**changes: float) -> HeldOutCheck:
    fields = {"gain_s": 0.0, "gain_low_s": -9.0, "gain_high_s": 9.0, "mean_delay_s": 2.0, **changes}
    return HeldOutCheck(transitions=96, against="decided", **fields)


def test_worse_is_what_is_surely_worse_by_a_hundredth_of_the_mean_delay() -> None:
    assert WORSE_SHARE == 0.01
    assert not check(gain_high_s=-0.02).worse
    assert check(gain_high_s=-0.0201).worse
    assert not check(gain_s=-5.0, gain_high_s=0.1).worse


@pytest.mark.parametrize(
    ("new", "published", "gain_s", "low_s", "high_s"),
    [
        # What always asks the slowest, or the fastest, instead of the other.
        (2, 0, -2.5527, -2.8699, -2.2355),
        (0, 2, 5.8478, 5.3212, 6.3744),
        (None, 1, -0.76823, -0.87830, -0.65816),
        (None, None, 0.27595, 0.061237, 0.49065),
    ],
)
def test_the_gain_of_a_run(
    weights: Checkpoint,
    kept: list[Transition],
    new: int | None,
    published: int | None,
    gain_s: float,
    low_s: float,
    high_s: float,
) -> None:
    ours = weights if new is None else always(weights, new)
    theirs = None if published is None else always(weights, published)
    found = compare(kept[::-1], ours, theirs, gamma=0.95, seed=1)
    assert found.transitions == 256
    assert found.mean_delay_s == pytest.approx(
        np.mean([one.outcome.service_delay_s for one in kept])
    )
    assert found.against == ("decided" if theirs is None else policy_of(theirs, seed=1).version)
    assert (found.gain_s, found.gain_low_s, found.gain_high_s) == pytest.approx(
        (gain_s, low_s, high_s), rel=REL
    )


def test_another_seed_draws_other_noise(weights: Checkpoint, kept: list[Transition]) -> None:
    found = compare(kept, weights, None, gamma=0.95, seed=2)
    assert (found.gain_s, found.gain_low_s) == pytest.approx((0.23714, 0.015777), rel=0.02)


def test_blocks_are_of_consecutive_decisions_of_one_life(kept: list[Transition]) -> None:
    assert [block_of(kept[at]) for at in (0, 15, 16, 255)] == [
        *((LIFE, 0), (LIFE, 0), (LIFE, 1), (LIFE, 15)),
    ]
    other = replace(kept[0], life="other")
    assert block_of(other) == ("other", 0)


def test_too_few_blocks_say_nothing(weights: Checkpoint, kept: list[Transition]) -> None:
    assert BLOCKS_MIN == 6
    with pytest.raises(ValueError, match="5 held-out blocks; 6 are needed"):
        compare(kept[: 5 * BLOCK], weights, None, gamma=0.95, seed=1)
    with pytest.raises(ValueError, match="0 held-out blocks; 6 are needed"):
        compare([], weights, None, gamma=0.95, seed=1)
    assert compare(kept[: 5 * BLOCK + 1], weights, None, gamma=0.95, seed=1).transitions == 81


def test_weights_of_other_candidates_are_not_compared(
    weights: Checkpoint, kept: list[Transition]
) -> None:
    def renamed(one: Transition) -> Transition:
        seen = replace(one.decided.observation, node_ids=("a", "b", "x"))
        return replace(one, decided=replace(one.decided, observation=seen))

    with pytest.raises(ValueError, match="are for other candidates"):
        compare([renamed(one) for one in kept], weights, None, gamma=0.95, seed=1)


def test_a_state_is_what_the_policy_is_shown(kept: list[Transition]) -> None:
    scale = StateScale(input_mbit=0.5, work=2.0, backlog_B=(4.0,))
    seen = replace(
        kept[0].decided.observation,
        work=3.0,
        input_bits=2_000_000,
        backlog_B=np.array([1.0, 2.0, 3.0]),
        own_B=np.array([1.0, 0.0, 0.0]),
    )
    assert state_of(seen, scale).tolist() == [[4.0, 1.5, 0.5, 0.5, 0.75]]
