"""Learning from lived experience, and what is refused before it is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scheduler import checkpoint
from scheduler.algorithms.equivariant_lad_ts import EquivariantLadTs, EquivariantLadTsConfig
from scheduler.checkpoint import Checkpoint, CheckpointInfo, InvalidCheckpoint, version_of
from scheduler.guard.replay_check import ReplayCheck
from scheduler.learning.choice import Diverged
from scheduler.learning.live_learner import (
    CRITICS_FIRST,
    PATIENCE,
    UPDATES_PER_DECISION,
    LiveLearner,
    shipped,
)
from scheduler.learning.publication import Refused, consider
from tests.scheduler.learning.lived import lived, outcome

QUICK: Mapping[str, str | float | bool] = {"actor_lr": 3e-3, "critic_lr": 1e-2}
# Nodes believe 4, 2 and .5: the last server is as fast as the first.
TRUE_B = np.array([4.0, 2.0, 4.0])


def untrained(*, seed: int = 0) -> Checkpoint:
    """Weights of a network that has learned nothing."""
    agent = EquivariantLadTs(None, EquivariantLadTsConfig(hidden=8, steps=2), seed=seed)
    info = CheckpointInfo(
        kind="policy",
        policy="lad_ts",
        scenario={},
        config={},
        seed=seed,
        episodes=0,
        code_version="test",
    )
    return Checkpoint(info=info, arrays=agent.export())


def made(
    decisions: int = 0,
    *,
    options: Mapping[str, str | float | bool] = QUICK,
    start: Checkpoint | None = None,
) -> LiveLearner:
    learner = LiveLearner(options, start=start or untrained(), outcome_wait_s=1e4, seed=0)
    for entry in lived(decisions, true_B=TRUE_B):
        learner.add(entry)
    return learner


@pytest.fixture(scope="module")
def learner() -> LiveLearner:
    trained = made(900)
    for _ in range(400):
        trained.due = 1.0
        assert trained.update()
    return trained


def test_it_finds_out_that_a_server_is_faster_than_believed(learner: LiveLearner) -> None:
    check = learner.check(learner.checkpoint(generation=1), None)
    assert check.better
    assert check.gain_low_s > 0.0
    assert check.against == version_of(untrained())


def test_checked_weights_carry_their_check_and_are_named_by_their_contents(
    learner: LiveLearner,
) -> None:
    weights = consider(learner, published=None, generation=7)
    assert weights.info.metrics["checked_decisions"] == 900
    assert weights.info.metrics["gain_s"] > 0.0
    assert version_of(weights).startswith("lad_ts-7-")
    assert weights.info.scenario["better_than"] == version_of(untrained())
    again = made(900).checkpoint(generation=7)
    assert version_of(again) != version_of(weights)


def test_weights_that_are_worse_than_the_published_ones_are_refused(
    learner: LiveLearner, tmp_path: Path
) -> None:
    good = learner.checkpoint(generation=1)
    path = tmp_path / "published.safetensors"
    checkpoint.save(path, good)
    with pytest.raises(Refused, match="not significantly better than lad_ts-1-"):
        consider(learner, published=path, generation=2)

    class Poor(LiveLearner):
        """Proposes the server in the middle, half as fast as the others."""

        def __init__(self, proposes: Checkpoint) -> None:
            self.__dict__ = dict(learner.__dict__)
            self._proposes = proposes

        def checkpoint(self, *, generation: int) -> Checkpoint:
            return self._proposes

    worst = {
        name: -array if name in ("skip_F", "out_H") else array
        for name, array in good.arrays.items()
    }
    with pytest.raises(Refused, match="significantly worse than lad_ts-1-"):
        consider(Poor(replace(good, arrays=worst)), published=path, generation=2)
    lost = {name: np.array(array) for name, array in good.arrays.items()}
    lost["second_HH"][0, 1] = np.nan
    with pytest.raises(Refused, match="second_HH is not finite"):
        consider(Poor(replace(good, arrays=lost)), published=path, generation=2)


def test_too_few_decisions_publish_nothing() -> None:
    few = made(70, options={**QUICK, "pool_min": 20})
    few.due = 1.0
    assert few.update()
    with pytest.raises(Refused, match="70 decisions to compare on; 100 are needed"):
        consider(few, published=None, generation=1)


def test_nothing_is_published_where_devices_take_half_drawn_tasks_from_each_other() -> None:
    taking = made(120, options={**QUICK, "pool_min": 20})
    taking.due = 1.0
    assert taking.update()
    for number in range(12):
        taking.add(outcome(number, 5.0, attempt=2))
    with pytest.raises(Refused, match="10% of the tasks went on half drawn"):
        consider(taking, published=None, generation=1)


def test_five_nodes_at_load_point_eight_have_checked_weights_within_ten_minutes() -> None:
    decisions = int(0.23 * 600)
    young = made(decisions, options={}, start=shipped())
    updates = 0
    while young.update():
        updates += 1
    # What has not settled asks for nothing yet.
    assert updates > UPDATES_PER_DECISION * decisions / 2
    assert updates > CRITICS_FIRST
    assert young.actor_updates > 0
    check = young.check(young.checkpoint(generation=1), None)
    assert (check.decisions, check.worse) == (decisions, False)


def test_an_actor_that_stays_worse_goes_back_to_what_decides(learner: LiveLearner) -> None:
    good = learner.checkpoint(generation=1)
    lost = made(900)
    worse = {name: -good.arrays[name] for name in ("skip_F", "out_H")}
    lost._mean |= worse
    lost.updates = PATIENCE - 1
    assert lost.check(lost.checkpoint(generation=2), good).worse
    still = lost.checkpoint(generation=2).arrays
    assert all(np.array_equal(still[name], array) for name, array in worse.items())
    lost.updates = PATIENCE
    assert lost.check(lost.checkpoint(generation=2), good).worse
    back = lost.checkpoint(generation=3).arrays
    assert all(np.array_equal(back[name], array) for name, array in good.arrays.items())


def test_checks_on_the_way_do_not_keep_it_from_getting_there() -> None:
    """At first it is worse: sent back each time, it would never be better."""
    learner = made(700)
    found: list[ReplayCheck] = []
    while learner.update() and not (found and found[-1].better):
        if learner.updates % 50 == 0:
            found.append(learner.check(learner.checkpoint(generation=1), None))
    assert found[0].worse
    assert found[-1].better


def test_the_actor_stays_where_it_starts_until_the_critics_know_something() -> None:
    learner = made(200)
    start = untrained().arrays
    for _ in range(CRITICS_FIRST):
        assert learner.update()
    still = learner.checkpoint(generation=1).arrays
    assert all(np.array_equal(still[name], start[name]) for name in start)
    assert learner.update()
    moved = learner.checkpoint(generation=1).arrays
    assert not np.array_equal(moved["skip_F"], start["skip_F"])


def test_updates_are_due_by_decisions_of_all_nodes_that_are_learned_from() -> None:
    learner = made()
    assert not learner.update()
    for entry in lived(300):
        learner.add(entry)
    judged = learner.hindsight.judged()
    assert learner.due == pytest.approx(UPDATES_PER_DECISION * len(judged), abs=40)


def test_one_that_diverged_begins_anew_where_it_started() -> None:
    learner = made(300)
    learner.due = 2.0
    assert learner.update()
    with np.errstate(all="ignore"):
        for parameter in learner._agent.critic.parameters():
            parameter.data.fill_(float("nan"))
    with pytest.raises(Diverged):
        learner.update()
    fresh = learner.checkpoint(generation=1).arrays
    assert all(np.array_equal(fresh[k], array) for k, array in untrained().arrays.items())
    learner.due = 1.0
    assert learner.update()


def test_weights_of_another_network_are_no_start() -> None:
    arrays = {**untrained().arrays, "skip_F": np.zeros(3, np.float32)}
    with pytest.raises(InvalidCheckpoint, match="skip_F"):
        LiveLearner({}, start=replace(untrained(), arrays=arrays), outcome_wait_s=1.0, seed=0)


@pytest.mark.parametrize("options", [{"nonsense": 1}, {"actor_lr": "fast"}])
def test_options_that_mean_nothing_are_refused(options: dict[str, str | float | bool]) -> None:
    with pytest.raises(ValueError, match=r"no option nonsense|must be a number"):
        made(options=options)
