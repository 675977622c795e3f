"""LAD-TS+ as a node uses it: shipped weights, latents, bad observations, bad files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scheduler import checkpoint, registry
from scheduler.observation import Observation, Traffic
from scheduler.policies.lad_ts_plus_policy import (
    PRETRAINED,
    SHAPES,
    LadTsPlus,
    load_weights,
    unlearned,
)


def observe(**changes: Any) -> Observation:
    observation = Observation(
        node_ids=("a", "b", "c"),
        local=0,
        work=10.0,
        input_bits=0,
        backlog_B=np.array([40.0, 5.0, 40.0]),
        own_B=np.zeros(3),
        capacity_B=np.array([10.0, 10.0, 10.0]),
        link_s_B=np.array([0.0, 0.01, 0.01]),
        staleness_s_B=np.zeros(3),
        alive_B=np.ones(3, bool),
        dispatchers=3,
        traffic=Traffic(mean_work=10.0, load=0.8),
    )
    return dataclasses.replace(observation, **changes)


def policy(**options: Any) -> LadTsPlus:
    made = registry.create("lad_ts_plus", rng=np.random.default_rng(0), **options)
    assert isinstance(made, LadTsPlus)
    return made


def test_shipped_weights_choose_the_short_queue_and_say_who_chose() -> None:
    decision = policy().decide(observe())
    assert decision.choice == 1
    assert decision.policy == "lad_ts_plus"
    assert decision.weights_version == load_weights().version


def test_the_latent_moves_half_way_to_the_choice() -> None:
    first = policy().decide(observe())
    assert first.latent_B is not None
    assert first.latent_B.tolist() == [0.0, 0.5, 0.0]
    second = policy().decide(observe(latent_B=first.latent_B))
    assert second.latent_B is not None
    assert second.latent_B.tolist() == [0.0, 0.75, 0.0]


def test_a_warm_latent_breaks_a_tie_that_the_ring_would_break_otherwise() -> None:
    tie = observe(
        backlog_B=np.zeros(3),
        link_s_B=np.zeros(3),
        traffic=Traffic(mean_work=10.0, load=0.8, report_period_s=60.0),
    )
    assert policy(weights="unlearned").decide(tie).choice == 0
    warm = dataclasses.replace(tie, latent_B=np.array([0.0, 0.0, 3.0]))
    assert policy(weights="unlearned").decide(warm).choice == 2
    assert policy(weights="unlearned", start="ring").decide(warm).choice == 0


def test_at_a_temperature_every_server_is_tried_the_cheapest_most() -> None:
    warm = policy(temperature=3.0)
    choices = [warm.decide(observe()).choice for _ in range(300)]
    counts = np.bincount(choices, minlength=3)
    assert (counts > 0).all()
    assert counts.argmax() == 1


def test_dead_and_unmeasured_servers_are_left_alone() -> None:
    assert policy().decide(observe(alive_B=np.array([True, False, True]))).choice == 0
    assert policy().decide(observe(capacity_B=np.array([10.0, 0.0, 10.0]))).choice == 0
    unmeasured = observe(capacity_B=np.zeros(3), alive_B=np.array([False, True, True]))
    assert policy().decide(unmeasured).choice == 1


@pytest.mark.parametrize("field", ["backlog_B", "own_B", "link_s_B"])
def test_a_state_that_is_not_finite_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="not finite"):
        policy().decide(observe(**{field: np.array([0.0, np.nan, 0.0])}))


@pytest.mark.parametrize("work", [-1.0, np.nan, np.inf])
def test_impossible_work_is_refused(work: float) -> None:
    with pytest.raises(ValueError, match="the work of a task is"):
        observe(work=work)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"price": 1.5}, "price is 1.5"),
        ({"start": "warm"}, "start is 'warm'"),
        ({"temperature": -1.0}, "temperature is -1.0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        policy(**options)


def test_weights_of_another_policy_or_shape_or_half_a_file_are_refused(tmp_path: Path) -> None:
    kept = checkpoint.load(PRETRAINED, kind="policy")
    other = tmp_path / "other.safetensors"
    checkpoint.save(
        other, dataclasses.replace(kept, info=dataclasses.replace(kept.info, policy="sac"))
    )
    with pytest.raises(checkpoint.InvalidCheckpoint, match="holds weights of sac"):
        load_weights(other)
    short = tmp_path / "short.safetensors"
    arrays = kept.arrays | {"price_SM": np.zeros((2, 2))}
    checkpoint.save(short, dataclasses.replace(kept, arrays=arrays))
    with pytest.raises(checkpoint.InvalidCheckpoint, match="price_SM"):
        load_weights(short)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(PRETRAINED.read_bytes()[:200])
    with pytest.raises(checkpoint.InvalidCheckpoint):
        load_weights(torn)


def test_unlearned_weights_are_all_zero() -> None:
    assert all(not getattr(unlearned(), name).any() for name in SHAPES)


def seen_by_chance(seed: int) -> Observation:
    """Anything that a node may see: few and many servers, dead ones, deep queues, no traffic."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 8))
    alive_B = rng.random(count) < 0.8
    alive_B[rng.integers(count)] = True
    depth = 10.0 ** rng.uniform(-1.0, 3.0)
    traffic = Traffic(
        mean_work=float(rng.uniform(1.0, 20.0)),
        load=float(rng.uniform(0.1, 1.5)),
        report_period_s=float(rng.choice([0.0, 0.05, 2.0])),
    )
    return Observation(
        node_ids=tuple(f"n{index}" for index in range(count)),
        local=None if rng.random() < 0.2 else int(rng.integers(count)),
        work=float(rng.uniform(0.5, 30.0)),
        input_bits=int(rng.integers(1_000_000)),
        backlog_B=depth * rng.random(count),
        own_B=depth * rng.random(count) * (rng.random(count) < 0.5),
        capacity_B=rng.uniform(1.0, 50.0, count),
        link_s_B=rng.uniform(0.0, 0.3, count),
        staleness_s_B=rng.uniform(0.0, 0.5, count),
        alive_B=alive_B,
        dispatchers=int(rng.integers(1, 9)),
        latent_B=None if rng.random() < 0.3 else rng.random(count),
        queued_B=None if rng.random() < 0.4 else rng.integers(0, 30, count).astype(float),
        traffic=None if rng.random() < 0.2 else traffic,
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (0.4647185933, 0.4946748634, 1.673333333, 4.349415302)),
        ({"price": 0.35}, (1.083771467, 0.4946748634, 1.833333333, 4.429415302)),
        ({"start": "ring"}, (0.4830108661, 0.4946748634, 1.7, 4.362748635)),
        ({"start": "gaussian"}, (0.4075327332, 0.4946748634, 1.76, 4.392748635)),
        ({"temperature": 0.7}, (0.4647185933, 0.4946748634, 1.88, 4.367945456)),
        ({"weights": "unlearned"}, (0.9493472249, 0.4946748634, 1.793333333, 4.409415302)),
    ],
    ids=str,
)
def test_the_figures_of_what_is_seen_by_chance(
    options: dict[str, Any], expected: tuple[float, ...]
) -> None:
    """Found once: mean logarithm of all costs, mean unit, choices and latents."""
    chooser = policy(**options)
    logs, units, choices, latents = [], [], [], []
    for seed in range(150):
        seen = seen_by_chance(seed)
        cost_B, unit_s = chooser._cost(seen, np.flatnonzero(seen.alive_B))
        decision = chooser.decide(seen)
        assert decision.latent_B is not None
        logs += np.log(np.abs(cost_B)).tolist()
        units.append(unit_s)
        choices.append(decision.choice)
        latents.append(float(decision.latent_B @ np.arange(1, len(seen.node_ids) + 1)))
    figures = [float(np.mean(one)) for one in (logs, units, choices, latents)]
    assert figures == pytest.approx(list(expected), rel=1e-7)
