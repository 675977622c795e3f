"""Trains one algorithm on one scenario from one seed, and keeps what it learned.

Owns the run's folder: `training.safetensors` (everything, to go on from), `policy.safetensors`
(what decides), `episodes.json` (the learning curve) and `tensorboard/`. Episode e of seed s has the
same arrivals for every algorithm, and each is compared with Opt-TS on the same arrivals: the
arrivals alone move Opt-TS by .7 s from one episode to the next.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scheduler import checkpoint
from scheduler.checkpoint import Array, Checkpoint, CheckpointInfo, InvalidCheckpoint
from scheduler.learning import learners
from scheduler.learning.learners import Learner
from scheduler.learning.run_state import restore, snapshot
from scheduler.simulator import rules
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, draw

TRAINING_FILE = "training.safetensors"
POLICY_FILE = "policy.safetensors"
CURVE_FILE = "episodes.json"
# Episodes over which a figure of the learning curve is averaged.
WINDOW = 20


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One run.

    Attributes:
        policy: name of the algorithm, see `learners.names`.
        scenario: slotted.
        options: hyperparameters that differ from the algorithm's defaults.
        seed: of the algorithm and of the arrivals.
        episodes: to train in all, those before a resumption included.
        folder: of this run alone.
        checkpoint_every: episodes between two checkpoints; the last episode always has one.
        tensorboard: whether to write scalars for TensorBoard.
        resume: go on from the folder's checkpoint if there is one.
    """

    policy: str
    scenario: Scenario
    options: Mapping[str, str | float | bool]
    seed: int
    episodes: int
    folder: Path
    checkpoint_every: int = 10
    tensorboard: bool = True
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class EpisodeReport:
    """One trained episode.

    Attributes:
        seed: of the run.
        episode: counted from 1.
        mean_delay_s: over the tasks, while learning.
        opt_ts_s: mean delay of Opt-TS on the same arrivals.
        cpu_s: processor time of deciding and learning, simulator included.
        learned: the algorithm's own figures.
    """

    seed: int
    episode: int
    mean_delay_s: float
    opt_ts_s: float
    cpu_s: float
    learned: dict[str, float]

    @property
    def gap(self) -> float:
        """To Opt-TS, as a share of it."""
        return self.mean_delay_s / self.opt_ts_s - 1.0


def train(run: TrainingRun, report: Callable[[EpisodeReport], None]) -> list[EpisodeReport]:
    """Trains up to the run's number of episodes.

    Args:
        run: what to train.
        report: told of every episode as it ends.

    Returns:
        every episode, those before a resumption included; `learned` is empty for those.

    Raises:
        ValueError: unknown names or options.
        InvalidCheckpoint: the folder holds a run already and `resume` is not set, or its
            checkpoint is unusable or of another run.
        Diverged: the agents' networks left the finite numbers; the last checkpoint stays.
    """
    torch.set_num_threads(1)  # matrices of 20 x 20: a second thread costs more than it brings
    learner = learners.create(run.policy, run.scenario, run.options, seed=run.seed)
    reports = _resume(run, learner)
    writer = _writer(run, len(reports)) if run.tensorboard else None
    try:
        for episode in range(len(reports), run.episodes):
            reports.append(_train_episode(run, learner, episode))
            report(reports[-1])
            if writer is not None:
                _write_scalars(writer, reports[-1])
            if (episode + 1) % run.checkpoint_every == 0 or episode + 1 == run.episodes:
                _keep(run, learner, reports)
    finally:
        if writer is not None:
            writer.close()
    return reports


def arrivals(scenario: Scenario, *, seed: int, episode: int) -> Episode:
    """The run's episode of this index, the same for every algorithm."""
    return draw(scenario, np.random.default_rng([seed, episode]))


def mean_gap(reports: list[EpisodeReport], window: int = WINDOW) -> float:
    """Mean gap to Opt-TS over the last episodes, as a share."""
    return float(np.mean([report.gap for report in reports[-window:]]))


def _train_episode(run: TrainingRun, learner: Learner, index: int) -> EpisodeReport:
    episode = arrivals(run.scenario, seed=run.seed, episode=index)
    start_s = time.process_time()
    delay_s_N, learned = learner.train_episode(episode)
    cpu_s = time.process_time() - start_s
    opt_ts_N = rules.create("opt_ts").place(episode, np.random.default_rng(0))
    return EpisodeReport(
        seed=run.seed,
        episode=index + 1,
        mean_delay_s=float(delay_s_N.mean()),
        opt_ts_s=float(service_delay_s(episode, opt_ts_N, Discipline()).mean()),
        cpu_s=cpu_s,
        learned=learned,
    )


# The folder.


def _keep(run: TrainingRun, learner: Learner, reports: list[EpisodeReport]) -> None:
    """Writes the checkpoints and the curve; each file replaces its former self at once."""
    curve = {
        name: np.array([getattr(report, name) for report in reports])
        for name in ("mean_delay_s", "opt_ts_s", "cpu_s")
    }
    metrics = {
        "mean_delay_s": float(curve["mean_delay_s"][-WINDOW:].mean()),
        "gap_to_opt_ts": mean_gap(reports),
    }
    policy = Checkpoint(
        info=_info(run, learner, "policy", len(reports), metrics), arrays=learner.export()
    )
    kept: dict[str, Array] = {f"curve/{name}": values for name, values in curve.items()}
    kept |= {f"learner/{name}": value for name, value in snapshot(learner.parts()).items()}
    training = Checkpoint(info=_info(run, learner, "training", len(reports), metrics), arrays=kept)
    checkpoint.save(run.folder / POLICY_FILE, policy)
    checkpoint.save(run.folder / TRAINING_FILE, training)
    rows = [dataclasses.asdict(report) | {"gap": report.gap} for report in reports]
    (run.folder / CURVE_FILE).write_text(json.dumps(rows, indent=1) + "\n")


def _resume(run: TrainingRun, learner: Learner) -> list[EpisodeReport]:
    """Puts the learner where the folder's checkpoint left it; returns the episodes until then."""
    path = run.folder / TRAINING_FILE
    if not path.exists():
        return []
    if not run.resume:
        raise InvalidCheckpoint(
            f"{run.folder} holds a run already: resume it, or choose another folder"
        )
    kept = checkpoint.load(path, kind="training")
    info = kept.info
    wanted = _info(run, learner, "training", info.episodes, {})
    for name in ("policy", "scenario", "config", "seed"):
        there, here = getattr(info, name), json.loads(json.dumps(getattr(wanted, name)))
        if there != here:
            raise InvalidCheckpoint(f"{path}: {name} is {_difference(there, here)}")
    prefix = "learner/"
    shapes = {f"{prefix}{name}": a.shape for name, a in snapshot(learner.parts()).items()}
    checkpoint.require_shapes(path, kept.arrays, shapes)
    restore(
        learner.parts(),
        {key.removeprefix(prefix): a for key, a in kept.arrays.items() if key.startswith(prefix)},
    )
    return [
        EpisodeReport(
            seed=run.seed,
            episode=index + 1,
            learned={},
            **{
                name: float(kept.arrays[f"curve/{name}"][index])
                for name in ("mean_delay_s", "opt_ts_s", "cpu_s")
            },
        )
        for index in range(info.episodes)
    ]


def _difference(there: Any, here: Any) -> str:
    if isinstance(there, dict):
        keys = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
        there, here = ({key: values.get(key) for key in keys} for values in (there, here))
    return f"{there} there and {here} here"


def _info(
    run: TrainingRun,
    learner: Learner,
    kind: checkpoint.Kind,
    episodes: int,
    metrics: dict[str, float],
) -> CheckpointInfo:
    return CheckpointInfo(
        kind=kind,
        policy=run.policy,
        scenario=dataclasses.asdict(run.scenario),
        config=learners.config_of(learner),
        seed=run.seed,
        episodes=episodes,
        code_version=importlib.metadata.version("dedgeai"),
        metrics=metrics,
    )


# TensorBoard, whose module takes seconds to import.


def _writer(run: TrainingRun, episode: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"TensorBoard is not installed ({error}); install dedgeai[train] or switch it off"
        ) from None
    return SummaryWriter(run.folder / "tensorboard", purge_step=episode + 1)


def _write_scalars(writer: Any, report: EpisodeReport) -> None:
    scalars = {"mean_delay_s": report.mean_delay_s, "gap_to_opt_ts": report.gap}
    scalars |= {f"learned/{name}": value for name, value in report.learned.items()}
    for name, value in (scalars | {"cpu_s": report.cpu_s}).items():
        writer.add_scalar(name, value, report.episode)
