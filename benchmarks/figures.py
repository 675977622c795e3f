"""The figures of the paper's simulation section (5 to 8), measured here, with its printed points.

Measures into JSON files and draws from them; files that are there already are only drawn.

    make figures                                            # quick: small samples, in out/figures
    python -m benchmarks.figures --out benchmarks/results --episodes 60 --seeds 5 --jobs 8

Only the delays at the paper's default setting are known to us in print; they are marked where a
figure passes through that setting. Which of panels 6a to 8b varies what is our reading of the
paper's list of parameters. differs: learned policies are trained for `--episodes` and then measured
without learning on arrivals that all policies share; the paper shows delays while learning, on
arrivals that differ by method.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks import machine
from benchmarks.compare_policies import written
from benchmarks.published import FIGURE_5
from scheduler.learning.sweep import run_here
from scheduler.learning.trainer import EpisodeReport, TrainingRun
from scheduler.simulator import scenarios
from scheduler.simulator.comparison import Plan, compare
from scheduler.simulator.dispatchers import parse_policies
from scheduler.simulator.scenario import Scenario

LEARNED = ("dqn", "sac", "d2sac", "lad_ts_published")
RULES = "opt_ts,lad_ts_plus,capacity_random,power_of_two:sample=capacity,own=B"
LABELS = {
    "opt_ts": "Opt-TS",
    "dqn": "DQN-TS",
    "sac": "SAC-TS",
    "d2sac": "D2SAC-TS",
    "lad_ts_published": "LAD-TS as published",
    "lad_ts_plus": "LAD-TS+",
    "capacity_random": "capacity random",
    "power_of_two": "power of two, B x own",
    "shadow_price": "shadow price, kappa 1",
}
COLOURS = {name: f"C{index}" for index, name in enumerate(LABELS)}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What one panel varies.

    Attributes:
        panel: of the paper.
        label: of the x axis.
        default: the paper's value, at which its delays are printed.
        values: measured ones.
    """

    panel: str
    label: str
    default: float
    values: tuple[float, ...]


# Of the scenario; names as in `scheduler.simulator.scenarios`.
SCENARIO_AXES = {
    "B": Axis(panel="6a", label="servers B", default=20, values=(10, 20, 30, 40)),
    "N": Axis(
        panel="6b", label="tasks per slot, at most N", default=50, values=(30, 40, 50, 60, 70)
    ),
    "f_max": Axis(
        panel="7a", label="fastest server f, Gcycles/s", default=50, values=(30, 40, 50, 60, 70)
    ),
    "z_max": Axis(panel="7b", label="denoising steps z below", default=15, values=(10, 15, 20)),
}
# Of LAD-TS; names as in its configuration.
OPTION_AXES = {
    "denoising_steps": Axis(
        panel="8a", label="denoising steps I of the policy", default=5, values=(1, 3, 5, 7, 10)
    ),
    "alpha": Axis(
        panel="8b",
        label="first entropy temperature alpha",
        default=0.05,
        values=(0.01, 0.05, 0.1, 0.5),
    ),
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/figures"))
    parser.add_argument("--episodes", type=int, default=20, help="of training")
    parser.add_argument("--measured", type=int, default=30, help="episodes for each point")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--learned", default=",".join(LEARNED), help="trained for figures 6 to 8, with commas"
    )
    parser.add_argument("--shadow-price", action="store_true", help="show it in figures 6 and 7")
    parser.add_argument("--again", action="store_true", help="measure what is there already")
    return parser.parse_args()


# Measuring.


def learning_curves(options: argparse.Namespace) -> dict[str, Any]:
    """Mean delay of every training episode, and of Opt-TS on the same arrivals."""
    with tempfile.TemporaryDirectory(prefix="dedgeai-figures-") as folder:
        runs = [
            TrainingRun(
                policy=policy,
                scenario=scenarios.DEFAULT,
                options={},
                seed=seed,
                episodes=options.episodes,
                folder=Path(folder) / f"{policy}-{seed}",
                checkpoint_every=options.episodes,
                tensorboard=False,
            )
            for policy in LEARNED
            for seed in range(options.seeds)
        ]
        trained = run_here(runs, say, jobs=options.jobs)
    curves: dict[str, list[list[float]]] = {name: [] for name in (*LEARNED, "opt_ts")}
    for run, reports in zip(runs, trained, strict=True):
        curves[run.policy].append([report.mean_delay_s for report in reports])
        if run.policy == LEARNED[0]:
            curves["opt_ts"].append([report.opt_ts_s for report in reports])
    return {
        "question": "mean delay per episode while learning, default scenario; a row for each seed",
        "settings": machine.settings_of(options),
        "mean_delay_s": curves,
        "machine": machine.describe(),
    }


def say(report: EpisodeReport) -> None:
    """Nothing; the figures show it."""


def sweep_scenarios(options: argparse.Namespace) -> dict[str, Any]:
    """All policies over the scenario's parameters, in the format of `compare_policies`."""
    learned = [f"{name}:episodes={options.episodes}" for name in options.learned.split(",") if name]
    price = ["shadow_price:kappa=1"] if options.shadow_price else []
    points = [
        varied(name, value)
        for name, axis in SCENARIO_AXES.items()
        for value in axis.values
        if value != axis.default
    ]
    return measured(options, ",".join([RULES, *price, *learned]), [scenarios.DEFAULT, *points])


def sweep_options(options: argparse.Namespace) -> dict[str, Any]:
    """LAD-TS over its own parameters, in the format of `compare_policies`."""
    policies = [
        f"lad_ts_published:episodes={options.episodes},{name}={value}"
        for name, axis in OPTION_AXES.items()
        for value in axis.values
    ]
    return measured(options, ",".join(["opt_ts", *policies]), [scenarios.DEFAULT])


def measured(
    options: argparse.Namespace, policies: str, wanted: Sequence[Scenario]
) -> dict[str, Any]:
    """One comparison as its JSON."""
    plan = Plan(
        policies=tuple(parse_policies(policies)), episodes=options.measured, seeds=options.seeds
    )
    return written(compare(plan, wanted, jobs=options.jobs), plan, machine.settings_of(options))


def varied(name: str, value: float) -> Scenario:
    """The default with one parameter changed."""
    whole = int(value)
    field, changed = {
        "B": ("servers", whole),
        "N": ("tasks_per_slot_max", whole),
        "f_max": ("capacity_range", (scenarios.DEFAULT.capacity_range[0], whole)),
        "z_max": ("steps_range", (1, whole)),
    }[name]
    return scenarios.DEFAULT.replace(name=f"{name}={whole}", **{field: changed})


# Drawing.


def draw_learning_curves(result: dict[str, Any], path: Path) -> None:
    """Figure 5: mean over the seeds, shaded from the least to the greatest."""
    axes = panel()
    for name in (*LEARNED, "opt_ts"):
        delay_s_SE = np.array(result["mean_delay_s"][name])
        episodes = np.arange(1, delay_s_SE.shape[1] + 1)
        axes.plot(episodes, delay_s_SE.mean(0), color=COLOURS[name], label=LABELS[name])
        if len(delay_s_SE) > 1:
            low, high = delay_s_SE.min(0), delay_s_SE.max(0)
            axes.fill_between(episodes, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        axes.axhline(FIGURE_5[name], color=COLOURS[name], linestyle=":", linewidth=1)
    axes.set(xlabel="episode", ylabel="mean service delay in s", yscale="log")
    seeds = len(result["mean_delay_s"]["opt_ts"])
    finish(axes, path, f"Figure 5: while learning, {seeds} seeds. Dotted: what the paper prints")


def draw_scenario_axis(result: dict[str, Any], name: str, path: Path) -> None:
    """Figures 6 and 7: one line for each policy, bars for the 95 % interval of its mean."""
    axis = SCENARIO_AXES[name]
    by_name = {one["scenario"]["name"]: one for one in result["scenarios"]}
    points = [
        by_name["default" if value == axis.default else f"{name}={int(value)}"]
        for value in axis.values
    ]
    axes = panel()
    for index, entry in enumerate(points[0]["policies"]):
        kind = entry["policy"].partition(":")[0]
        rows = [point["policies"][index] for point in points]
        draw_line(axes, axis.values, rows, kind, LABELS[kind])
    bounds = [point["bound_s"] for point in points]
    axes.plot(axis.values, bounds, color="0.5", linestyle="--", label="no policy is below")
    mark_published(axes, axis.default, [entry["policy"] for entry in points[0]["policies"]])
    axes.set(xlabel=axis.label, ylabel="mean service delay in s", yscale="log")
    finish(axes, path, f"Figure {axis.panel}: {sample(result)}")


def draw_option_axis(result: dict[str, Any], name: str, path: Path) -> None:
    """Figure 8: LAD-TS over one of its own parameters, and Opt-TS on the same arrivals."""
    axis = OPTION_AXES[name]
    (only,) = result["scenarios"]
    rows = [
        entry
        for entry in only["policies"]
        if entry["policy"].startswith("lad_ts_published:") and f",{name}=" in entry["policy"]
    ]
    values = [float(entry["policy"].rpartition("=")[2]) for entry in rows]
    axes = panel()
    draw_line(axes, values, rows, "lad_ts_published", LABELS["lad_ts_published"])
    reference_s = only["reference"]["delays"]["mean_s"]
    axes.axhline(reference_s, color=COLOURS["opt_ts"], label=LABELS["opt_ts"])
    mark_published(axes, axis.default, ["lad_ts_published", "opt_ts"])
    axes.set(xlabel=axis.label, ylabel="mean service delay in s")
    if name == "alpha":
        axes.set_xscale("log")
    finish(axes, path, f"Figure {axis.panel}: {sample(result)}")


def draw_line(
    axes: Axes, values: Sequence[float], rows: Sequence[dict[str, Any]], kind: str, label: str
) -> None:
    """Means with their intervals; an interval that is not known has no bar."""
    means = [row["delays"]["mean_s"] for row in rows]
    halves = [row["mean_half_s"] or 0.0 for row in rows]
    axes.errorbar(values, means, halves, color=COLOURS[kind], marker="o", capsize=2, label=label)


def mark_published(axes: Axes, default: float, policies: Sequence[str]) -> None:
    """The paper's delays at its default setting, of those policies that are shown."""
    shown = {policy.partition(":")[0] for policy in policies} & FIGURE_5.keys()
    for name in sorted(shown):
        axes.plot(default, FIGURE_5[name], marker="*", markersize=11, color=COLOURS[name], zorder=5)
    axes.plot([], [], marker="*", markersize=11, color="0.4", linestyle="", label="paper, default")


def panel() -> Axes:
    """An empty figure's axes."""
    axes: Axes = plt.subplots(figsize=(7, 4.2), layout="constrained")[1]
    return axes


def sample(result: dict[str, Any]) -> str:
    """From how much a figure was made."""
    settings = result["settings"]
    return (
        f"learned policies after {settings['episodes']} episodes; "
        f"{settings['seeds']} x {settings['measured']} episodes measured, 95 % intervals"
    )


def finish(axes: Axes, path: Path, title: str) -> None:
    """Title, ticks, grid, legend; writes the file."""
    axes.set_title(title, fontsize=9)
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)
    figure = plt.gcf()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measures what is not there yet, draws everything."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name, measure in (
        ("learning_curves", learning_curves),
        ("scenarios", sweep_scenarios),
        ("options", sweep_options),
    ):
        path = options.out / f"figures_{name}.json"
        if options.again or not path.exists():
            print(f"measuring {path.name} ...", flush=True)
            path.write_text(json.dumps(measure(options), indent=1) + "\n")
        results[name] = json.loads(path.read_text())
    draw_learning_curves(results["learning_curves"], options.out / "figure_5_learning_curves.png")
    for name, axis in SCENARIO_AXES.items():
        path = options.out / f"figure_{axis.panel}_{name}.png"
        draw_scenario_axis(results["scenarios"], name, path)
    for name, axis in OPTION_AXES.items():
        path = options.out / f"figure_{axis.panel}_{name}.png"
        draw_option_axis(results["options"], name, path)
    print(f"drawn in {options.out}")


if __name__ == "__main__":
    main()
