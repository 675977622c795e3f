"""Training runs: the folder they leave, going on bit for bit, and what they refuse."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scheduler import checkpoint
from scheduler.checkpoint import InvalidCheckpoint
from scheduler.learning import learners
from scheduler.learning.choice import Diverged
from scheduler.learning.run_state import snapshot
from scheduler.learning.sweep import RayUnavailable, run_here, run_on_ray
from scheduler.learning.trainer import EpisodeReport, TrainingRun, arrivals, mean_gap, train
from scheduler.simulator.scenario import Scenario

TINY = Scenario(name="tiny", servers=3, tasks_per_slot_max=5, slots=8)


def planned(folder: Path, **changes: Any) -> TrainingRun:
    values: dict[str, Any] = {
        "policy": "lad_ts_published",
        "scenario": TINY,
        "options": {"pool_min": 15, "batch": 8},
        "seed": 1,
        "episodes": 4,
        "folder": folder,
        "checkpoint_every": 2,
        "tensorboard": False,
    }
    return TrainingRun(**(values | changes))


def silent(report: EpisodeReport) -> None:
    """Wants no reports."""


@pytest.mark.parametrize("policy", learners.names())
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(policy: str, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    reports = train(planned(whole, policy=policy), silent)
    train(planned(halves, policy=policy, episodes=2), silent)
    seen: list[EpisodeReport] = []
    resumed = train(planned(halves, policy=policy, resume=True), seen.append)
    assert [report.episode for report in seen] == [3, 4]
    assert [r.mean_delay_s for r in resumed] == [r.mean_delay_s for r in reports]
    kept = [
        checkpoint.load(folder / "training.safetensors", kind="training").arrays
        for folder in (whole, halves)
    ]
    assert kept[0].keys() == kept[1].keys()
    for name in kept[0].keys() - {"curve/cpu_s"}:
        assert kept[0][name].tobytes() == kept[1][name].tobytes(), name
    assert any(name.endswith("exp_avg") for name in kept[0])


def test_a_run_leaves_its_curve_its_policy_and_scalars(tmp_path: Path) -> None:
    reports = train(planned(tmp_path, tensorboard=True, episodes=3), silent)
    rows = json.loads((tmp_path / "episodes.json").read_text())
    assert [row["episode"] for row in rows] == [1, 2, 3]
    assert rows[2]["gap"] == reports[2].gap
    assert rows[2]["learned"].keys() == {"critic_loss", "actor_loss", "entropy", "alpha"}
    policy = checkpoint.load(tmp_path / "policy.safetensors", kind="policy")
    assert policy.info.metrics["gap_to_opt_ts"] == pytest.approx(mean_gap(reports))
    assert policy.info.scenario["name"] == "tiny"
    assert policy.info.config["pool_min"] == 15
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_opt_ts_is_measured_on_the_same_arrivals_for_every_algorithm(tmp_path: Path) -> None:
    first, second = (
        train(planned(tmp_path / policy, policy=policy, episodes=2), silent)
        for policy in ("dqn", "sac")
    )
    assert [r.opt_ts_s for r in first] == [r.opt_ts_s for r in second]
    again = arrivals(TINY, seed=1, episode=0)
    np.testing.assert_array_equal(again.work_N, arrivals(TINY, seed=1, episode=0).work_N)
    assert len(again.work_N) != len(arrivals(TINY, seed=2, episode=0).work_N)


def test_a_folder_in_use_and_another_runs_checkpoint_are_refused(tmp_path: Path) -> None:
    train(planned(tmp_path, policy="dqn", episodes=1), silent)
    with pytest.raises(InvalidCheckpoint, match="holds a run already"):
        train(planned(tmp_path, policy="dqn"), silent)
    changed = planned(tmp_path, policy="dqn", resume=True, options={"pool_min": 15, "batch": 9})
    with pytest.raises(InvalidCheckpoint, match=r"config is \{'batch': 8\} there and \{'batch': 9"):
        train(changed, silent)
    with pytest.raises(InvalidCheckpoint, match="policy is dqn there and sac here"):
        train(planned(tmp_path, policy="sac", resume=True), silent)
    with pytest.raises(InvalidCheckpoint, match=r"scenario is \{'slots': 8\} there"):
        train(planned(tmp_path, policy="dqn", resume=True, scenario=TINY.replace(slots=9)), silent)


def test_a_damaged_checkpoint_is_refused_and_not_overwritten(tmp_path: Path) -> None:
    train(planned(tmp_path, policy="dqn", episodes=1), silent)
    path = tmp_path / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InvalidCheckpoint, match="truncated"):
        train(planned(tmp_path, policy="dqn", resume=True), silent)
    assert path.stat().st_size > 0


@pytest.mark.parametrize("policy", learners.names())
def test_a_diverged_network_stops_its_run(policy: str) -> None:
    learner = learners.create(policy, TINY, {}, seed=0)
    for name, part in learner.parts().items():
        if name in ("actor", "network"):
            assert isinstance(part, torch.nn.Module)
            with torch.no_grad():
                weights = next(part.parameters())
                weights[(0,) * weights.dim()] = float("nan")
    with pytest.raises(Diverged, match="output nan for server"):
        learner.train_episode(arrivals(TINY, seed=0, episode=0))


def test_evaluation_changes_nothing_and_repeats() -> None:
    episode = arrivals(TINY, seed=0, episode=5)
    for policy in learners.names():
        learner = learners.create(policy, TINY, {"pool_min": 15, "batch": 8}, seed=0)
        learner.train_episode(arrivals(TINY, seed=0, episode=0))
        before = snapshot(learner.parts())
        first, second = (learner.place(episode, np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert first.shape == (episode.tasks,)
        assert set(first) <= set(range(TINY.servers))
        after = snapshot(learner.parts())
        assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_options_are_checked_by_name_type_and_choice() -> None:
    def config(**options: str) -> object:
        return learners.create("lad_ts_published", TINY, options, seed=0).config

    got = config(hidden="8", actor_lr="1e-3", softmax="false", start="zero", state="normal")
    assert (got.hidden, got.actor_lr, got.softmax) == (8, 1e-3, False)  # type: ignore[attr-defined]
    for options, message in (
        ({"hiden": "8"}, "has no option hiden; its options: actor_lr"),
        ({"hidden": "8.5"}, "hidden is '8.5'; it must be int"),
        ({"actor_lr": "nan"}, "actor_lr is nan; it must be finite"),
        ({"softmax": "yes"}, "softmax is 'yes'; choose true or false"),
        ({"start": "one"}, "start is 'one'; choose latent, gaussian, zero"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**options)
    with pytest.raises(
        ValueError, match="unknown algorithm 'ppo'; choose one of lad_ts, lad_ts_published"
    ):
        learners.create("ppo", TINY, {}, seed=0)
    poisson = Scenario(name="p", task_arrivals="poisson", load=0.5)
    with pytest.raises(ValueError, match="'p' has poisson arrivals, not slots"):
        learners.create("dqn", poisson, {}, seed=0)


def test_processes_give_what_one_process_gives(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def runs(folder: Path) -> list[TrainingRun]:
        return [planned(folder / str(s), policy="dqn", seed=s, episodes=2) for s in (0, 1)]

    here = run_here(runs(tmp_path / "one"), silent)
    spawned = run_here(runs(tmp_path / "two"), lambda r: seen.append((r.seed, r.episode)), jobs=2)
    assert sorted(seen) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    for mine, theirs in zip(here, spawned, strict=True):
        assert [r.mean_delay_s for r in mine] == [r.mean_delay_s for r in theirs]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_ray_is_asked_for_by_name_when_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RayUnavailable, match=r"install dedgeai\[ray\]"):
        run_on_ray([planned(tmp_path)], silent)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.filterwarnings("ignore")  # Ray's own, of its own modules
def test_a_local_ray_gives_what_one_process_gives(tmp_path: Path) -> None:
    run = planned(tmp_path / "ray", policy="dqn", episodes=2)
    seen: list[int] = []
    trained = run_on_ray([run], lambda report: seen.append(report.episode))
    here = train(planned(tmp_path / "here", policy="dqn", episodes=2), silent)
    assert seen == [1, 2]
    assert [r.mean_delay_s for r in trained[0]] == [r.mean_delay_s for r in here]
