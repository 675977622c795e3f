"""The training of the weights that ship, in small: what it imitates, keeps and chooses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scheduler import checkpoint
from scheduler.algorithms.equivariant_lad_ts import EquivariantLadTsConfig
from scheduler.learning import pretraining
from scheduler.learning.pretraining import (
    CONFIG,
    LOG_FILE,
    Course,
    Pretraining,
    gaps,
    packed,
    rule_means,
    teachers,
    train,
)
from scheduler.policies.lad_ts_policy import PRETRAINED, Chain, load_weights
from scheduler.simulator.lad_ts_kernel import play
from scheduler.simulator.random_clusters import clusters
from scheduler.simulator.workload import draw

SMALL = EquivariantLadTsConfig(harm=1.0, batch=64, hidden=16, pool=4000, pool_min=200)
SHORT = Course(rounds=4, imitation=3, updates=4, mean_over=2.0, sample=100)


def test_the_best_teacher_is_about_as_good_as_the_best_rule() -> None:
    """Where states are old, too; so imitation is a start, whatever the cluster."""
    run = Pretraining(SMALL, SHORT, seed=3)
    for place, cluster in enumerate(clusters(3, 4, family="validation")):
        episode = draw(cluster, np.random.default_rng(place))
        means = [
            play(
                episode, run.actor(), Chain(), np.random.default_rng(1), cost_V=cost_V
            ).delay_s_N.mean()
            for cost_V in teachers(cluster.servers)
        ]
        assert min(means) < 1.05 * min(rule_means(episode, seed=place).values())


def test_imitation_brings_an_actor_near_the_rules() -> None:
    course = Course(rounds=8, imitation=8, updates=30, mean_over=20.0)
    run = Pretraining(SMALL, course, seed=4)
    measured = []
    for place, cluster in enumerate(clusters(4, 4, family="validation")):
        episode = draw(cluster, np.random.default_rng(place))
        measured.append((cluster, episode, min(rule_means(episode, seed=place).values())))
    before = gaps(run.actor(), Chain(), measured)
    for _ in range(course.rounds):
        run.run_round()
    after = gaps(run.actor(), Chain(), measured)
    assert np.median(after) < 0.1
    assert np.median(before) > 4 * np.median(after)


def test_a_run_leaves_its_checkpoints_and_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "VALIDATION_CLUSTERS", 2)
    monkeypatch.setattr(pretraining, "VALIDATE_EVERY", 2)
    train(SMALL, SHORT, seed=5, folder=tmp_path / "seed-5")
    train(SMALL, SHORT, seed=6, folder=tmp_path / "seed-6")
    best, logs = packed([tmp_path / "seed-5", tmp_path / "seed-6"])
    rounds = {
        (log["seed"], entry["round"]): entry["gap_mean"] for log in logs for entry in log["rounds"]
    }
    assert rounds.keys() == {(5, 2), (5, 4), (6, 2), (6, 4)}
    seed, number = min(rounds, key=lambda key: rounds[key])
    assert best == tmp_path / f"seed-{seed}" / f"{number:05}.safetensors"
    assert load_weights(best).actor.steps == SMALL.steps
    kept = checkpoint.load(best, kind="policy").info
    assert (kept.seed, kept.episodes) == (seed, number)
    assert kept.metrics["gap_mean"] == rounds[seed, number]


def test_a_run_that_is_asked_for_by_hand_takes_hyperparameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "VALIDATION_CLUSTERS", 1)
    asked = ["--out", str(tmp_path), "--seed", "7", "--rounds", "1"]
    pretraining.main([*asked, "--set", "steps=1", "--set", "start=zero", "--set", "noise=none"])
    log = json.loads((tmp_path / "seed-7" / LOG_FILE).read_text())
    assert (log["config"]["steps"], log["config"]["start"]) == (1, "zero")
    assert log["config"]["harm"] == CONFIG.harm
    with pytest.raises(ValueError, match="has no option stepz"):
        pretraining.main([*asked, "--set", "stepz=1"])


def test_what_ships_is_what_its_log_says() -> None:
    results = Path(__file__).parents[3] / "benchmarks" / "results"
    log = json.loads((results / "lad_ts_training.json").read_text())
    info = checkpoint.load(PRETRAINED, kind="policy").info
    entries = [
        entry
        for run in log["runs"]
        if run["seed"] == info.seed
        for entry in run["rounds"]
        if entry["round"] == info.episodes
    ]
    assert [entry["gap_mean"] for entry in entries] == [info.metrics["gap_mean"]]
    least = min(entry["gap_mean"] for run in log["runs"] for entry in run["rounds"])
    assert info.metrics["gap_mean"] == least
