"""`dedgeai train`: one algorithm, one scenario, several seeds, with a bar for each.

Owns what is shown and the summary beside the runs' folders; training itself is the scheduler's.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from edge_node.errors import InvalidRequest
from scheduler.learning import learners
from scheduler.learning.choice import Diverged
from scheduler.learning.sweep import RayUnavailable, run_here, run_on_ray
from scheduler.learning.trainer import WINDOW, EpisodeReport, TrainingRun, mean_gap
from scheduler.simulator import scenarios

SUMMARY_FILE = "summary.json"
# A run counts as converged at the first episode up to which a mean over so many is so small.
CONVERGED_GAP = 0.05
CONVERGED_WINDOW = 3


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What the command line asks for; see `TrainingRun` for the fields of the same name.

    Attributes:
        scenario: name, or path of a TOML file.
        seeds: how many, from first_seed on.
        options: "key=value" each.
        out: folder that gets a folder for every seed.
        jobs: processes at once on this machine.
        ray: run on a Ray cluster (RAY_ADDRESS, or a local one).
    """

    policy: str
    scenario: str
    seeds: int
    first_seed: int
    episodes: int
    out: Path
    options: Sequence[str]
    resume: bool
    jobs: int
    ray: bool
    tensorboard: bool


def run_training(request: TrainRequest, *, console: Console) -> int:
    """Trains all seeds; prints and writes the summary.

    Raises:
        InvalidRequest: an argument is wrong, a folder is in use, Ray is not there, or a process was
            killed.
    """
    try:
        runs = _plan(request)
        with _bars(console) as progress:
            bars = {
                run.seed: progress.add_task(
                    f"{run.policy}, seed {run.seed}", total=run.episodes, last=""
                )
                for run in runs
            }

            def show(report: EpisodeReport) -> None:
                _show(progress, bars[report.seed], report)

            if request.ray:
                trained = run_on_ray(runs, show)
            else:
                trained = run_here(runs, show, jobs=request.jobs)
    except (ValueError, RayUnavailable, BrokenExecutor) as error:
        raise InvalidRequest(f"{str(error).rstrip('.')}.") from error
    except Diverged as error:
        console.print(f"A run diverged: {error}. Its last checkpoint stays.")
        return 1
    summary = summarise(request, trained)
    (request.out / SUMMARY_FILE).write_text(json.dumps(summary, indent=1) + "\n")
    console.print(_table(summary))
    return 0


def summarise(request: TrainRequest, trained: Sequence[Sequence[EpisodeReport]]) -> dict[str, Any]:
    """Figures of every seed and their mean; gaps are to Opt-TS on the same arrivals."""
    seeds = [
        {
            "seed": reports[0].seed,
            "episodes": len(reports),
            "gap_last": mean_gap(list(reports)),
            "gap_41_60": mean_gap(list(reports[:60])) if len(reports) >= 60 else None,
            "mean_delay_s_last": statistics.fmean(r.mean_delay_s for r in reports[-WINDOW:]),
            "converged_at": _converged_at(reports),
            "cpu_s_per_episode": statistics.median(r.cpu_s for r in reports),
        }
        for reports in trained
    ]
    gaps = [float(seed["gap_last"] or 0.0) for seed in seeds]
    return {
        "policy": request.policy,
        "scenario": request.scenario,
        "options": list(request.options),
        "window": WINDOW,
        "gap_last_mean": statistics.fmean(gaps),
        "gap_last_sd": statistics.stdev(gaps) if len(gaps) > 1 else None,
        "seeds": seeds,
    }


def _plan(request: TrainRequest) -> list[TrainingRun]:
    for name in ("seeds", "episodes", "jobs"):
        if getattr(request, name) < 1:
            raise ValueError(f"--{name} is {getattr(request, name)}; it must be at least 1")
    named = request.scenario in scenarios.names() or not Path(request.scenario).exists()
    scenario = scenarios.get(request.scenario) if named else scenarios.load(Path(request.scenario))
    options: dict[str, str | float | bool] = {}
    for option in request.options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"--option {option} is not KEY=VALUE")
        options[key] = value
    learners.create(request.policy, scenario, options, seed=0)  # refuses before processes start
    return [
        TrainingRun(
            policy=request.policy,
            scenario=scenario,
            options=options,
            seed=seed,
            episodes=request.episodes,
            folder=request.out.absolute() / f"seed-{seed}",
            tensorboard=request.tensorboard,
            resume=request.resume,
        )
        for seed in range(request.first_seed, request.first_seed + request.seeds)
    ]


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
        console=console,
    )


def _show(progress: Progress, bar: TaskID, report: EpisodeReport) -> None:
    last = f"{report.mean_delay_s:6.2f} s, Opt-TS {report.opt_ts_s:5.2f} s ({report.gap:+.1%})"
    progress.update(bar, completed=report.episode, last=last)


def _converged_at(reports: Sequence[EpisodeReport]) -> int | None:
    for end in range(CONVERGED_WINDOW, len(reports) + 1):
        if mean_gap(list(reports[:end]), CONVERGED_WINDOW) <= CONVERGED_GAP:
            return reports[end - 1].episode
    return None


def _table(summary: dict[str, Any]) -> Table:
    table = Table(title=f"{summary['policy']} on {summary['scenario']}: gap to Opt-TS")
    for column in ("seed", "episodes", f"last {WINDOW}", "delay", "within 5 %", "CPU s/episode"):
        table.add_column(column, justify="right")
    for seed in summary["seeds"]:
        table.add_row(
            str(seed["seed"]),
            str(seed["episodes"]),
            f"{seed['gap_last']:.2%}",
            f"{seed['mean_delay_s_last']:.2f} s",
            "-" if seed["converged_at"] is None else f"episode {seed['converged_at']}",
            f"{seed['cpu_s_per_episode']:.2f}",
        )
    spread = summary["gap_last_sd"]
    table.caption = f"mean {summary['gap_last_mean']:.2%}" + (
        "" if spread is None else f", standard deviation {spread:.2%}"
    )
    return table
