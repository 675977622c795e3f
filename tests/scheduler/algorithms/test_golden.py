"""Golden runs: three short episodes of each algorithm, and what is asked of all of them.

The figures are the same with AVX2, with SSE only and with one or two threads. A change in them is
a change in learning: rerun the training benchmark and the learning curves before accepting it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scheduler.learning import learners
from scheduler.learning.trainer import arrivals
from scheduler.simulator.scenario import Scenario

# Overloaded, so that the queues count.
SCENARIO = Scenario(
    name="golden", servers=4, capacity_range=(4, 10), tasks_per_slot_max=8, slots=20
)
OPTIONS = {"pool_min": 20, "batch": 16}
SEED = 7

# (algorithm, state): mean delay of each episode in seconds, and what was learned in the last.
GOLDEN: dict[tuple[str, str], tuple[tuple[float, ...], dict[str, float]]] = {
    ("lad_ts_published", "raw"): (
        (6.5169, 5.9452, 6.0891),
        {"critic_loss": 79.85, "actor_loss": 5.27, "entropy": 0.1247, "alpha": 0.04932},
    ),
    ("lad_ts_published", "normal"): (
        (6.0825, 6.3222, 6.3298),
        {"critic_loss": 141.2, "actor_loss": 0.3781, "entropy": 0.1315, "alpha": 0.04932},
    ),
    ("sac", "raw"): (
        (7.5861, 3.2912, 3.3644),
        {"critic_loss": 47.92, "actor_loss": 3.949, "entropy": 0.9688, "alpha": 0.04933},
    ),
    ("dqn", "raw"): ((3.6195, 10.9064, 15.2335), {"loss": 193.4}),
    ("lstm_dqn", "normal"): ((5.2816, 5.6040, 3.8998), {"loss": 47.69}),
    ("d2sac", "raw"): (
        (4.3168, 5.9047, 3.2551),
        {"critic_loss": 487.6, "actor_loss": 4.796, "entropy": 1.231},
    ),
    ("fdedge", "raw"): (
        (4.1509, 2.5715, 2.1837),
        {"critic_loss": 2.519, "actor_loss": 3.521, "entropy": 0.1107, "alpha": 0.04932},
    ),
}


@pytest.mark.parametrize(("name", "state"), GOLDEN)
def test_the_golden_run(name: str, state: str) -> None:
    learner = learners.create(name, SCENARIO, OPTIONS | {"state": state}, seed=SEED)
    delays: list[float] = []
    learned: dict[str, Any] = {}
    for index in range(3):
        delay_s_N, learned = learner.train_episode(arrivals(SCENARIO, seed=SEED, episode=index))
        delays.append(float(delay_s_N.mean()))
    wanted_delays, wanted_learned = GOLDEN[name, state]
    assert delays == pytest.approx(wanted_delays, abs=2e-4)
    assert learned == pytest.approx(wanted_learned, rel=2e-3)


def test_the_golden_run_over_sets_of_servers() -> None:
    options = OPTIONS | {"decisions_per_update": 20, "harm": 1.0}
    learner = learners.create("lad_ts", SCENARIO, options, seed=SEED)
    delays = []
    for index in range(3):
        delay_s_N, _ = learner.train_episode(arrivals(SCENARIO, seed=SEED, episode=index))
        delays.append(float(delay_s_N.mean()))
    assert delays == pytest.approx([9.1214, 1.0697, 1.3435], abs=2e-4)


def test_every_algorithm_has_a_golden_run() -> None:
    assert {name for name, _ in GOLDEN} | {"lad_ts"} == set(learners.names())


@pytest.mark.parametrize("name", learners.names())
def test_another_seed_is_another_run(name: str) -> None:
    episode = arrivals(SCENARIO, seed=SEED, episode=0)
    first, second = (
        learners.create(name, SCENARIO, OPTIONS, seed=seed).train_episode(episode)[0]
        for seed in (1, 2)
    )
    assert not np.array_equal(first, second)


DEPARTURES = {
    "pool_latents": "copied",
    "memory": "slot",
    "start": "gaussian",
    "noise": "none",
    "softmax": "false",
    "squared": "true",
    "temperature": "paper",
    "target_entropy": "0.6",
    "next_state": "fixed",
    "evaluation": "argmax",
}


def lad_ts_run(**options: str) -> tuple[list[float], dict[str, float], list[int]]:
    """Delays of two episodes, what was learned in the second, and decisions of an evaluation."""
    learner = learners.create("lad_ts_published", SCENARIO, {**OPTIONS, **options}, seed=SEED)
    delays: list[float] = []
    learned: dict[str, Any] = {}
    for index in range(2):
        delay_s_N, learned = learner.train_episode(arrivals(SCENARIO, seed=SEED, episode=index))
        delays += delay_s_N.tolist()
    evaluated = learner.place(arrivals(SCENARIO, seed=SEED, episode=2), np.random.default_rng(0))
    return delays, learned, evaluated.tolist()


@pytest.fixture(scope="module")
def as_coded() -> tuple[list[float], dict[str, float], list[int]]:
    return lad_ts_run()


@pytest.mark.parametrize(("key", "value"), DEPARTURES.items())
def test_every_departure_of_lad_ts_is_one_and_trains(
    key: str, value: str, as_coded: tuple[list[float], dict[str, float], list[int]]
) -> None:
    departed = lad_ts_run(**{key: value})
    assert departed != as_coded
    assert np.isfinite(departed[0]).all()
    assert np.isfinite(list(departed[1].values())).all()


def test_the_codes_temperature_only_falls_and_a_positive_target_holds_the_entropy() -> None:
    # Untrained, the entropy is near .12 (almost one-hot): a target above it lifts alpha.
    assert lad_ts_run()[1]["alpha"] < 0.05
    assert lad_ts_run(target_entropy="0.6")[1]["alpha"] > 0.05
    # eq. (16) as printed: (-H + 1) alpha falls while H is below 1.
    assert lad_ts_run(temperature="paper")[1]["alpha"] < 0.05
