"""What are the latent, the noise, the steps and diffusion itself worth in LAD-TS?

Reads runs of `scheduler.learning.pretraining`, one folder for each way to train the same network,
with a folder for each seed: the same rounds on the same clusters. Of every run the checkpoint that
is best on the validation family plays clusters of the test family whose states are fresh, a second
old, or a slot old. A run is paired with the run of the same seed that keeps its latents, on the
same arrivals, and both are compared with the best rule of each cluster; intervals of 95 % are
bootstrapped over seeds and clusters. Other ways to train are asked for with `--set start=zero` and
the like, in a folder of their own.

    python -m scheduler.learning.pretraining --out out/lad_ts/kept
    python -m benchmarks.latent_worth out/lad_ts
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from scheduler import checkpoint
from scheduler.learning.pretraining import gaps, packed, rule_means
from scheduler.policies.lad_ts_policy import NAME, PRETRAINED, Actor, Chain
from scheduler.simulator.queueing import FloatArray
from scheduler.simulator.random_clusters import clusters, weights_seed
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import Episode, draw

RESULTS = Path(__file__).parent / "results" / "latent_worth.json"
BASE = "kept"
FRESH_S, OLD_S = 0.02, 1.0
RESAMPLES = 10_000
_ARRIVALS = 940_001
Measured = list[tuple[Scenario, Episode, float]]


def regimes(seed: int, count: int) -> dict[str, list[Scenario]]:
    """`count` test clusters each whose states are fresh, a second old and a slot old."""
    drawn = clusters(seed, 8 * count, family="test")
    poisson = [one for one in drawn if one.task_arrivals == "poisson"][:count]
    slotted = [one for one in drawn if one.task_arrivals == "slotted"][:count]
    return {
        f"{FRESH_S:g} s": [one.replace(refresh_s=FRESH_S) for one in poisson],
        f"{OLD_S:g} s": [one.replace(refresh_s=OLD_S) for one in poisson],
        "a slot": slotted,
    }


def measured(scenarios: Sequence[Scenario]) -> Measured:
    """An episode of each cluster and the mean delay of its best rule, seconds."""
    found = []
    for place, cluster in enumerate(scenarios):
        episode = draw(cluster, np.random.default_rng([_ARRIVALS, place]))
        found.append((cluster, episode, min(rule_means(episode, seed=place).values())))
    return found


def chosen(folder: Path) -> tuple[Actor, Chain, dict[str, Any]]:
    """The run's best checkpoint on the validation family, how it is read, and the whole log."""
    best, [log] = packed([folder])
    kept = checkpoint.load(best, kind="policy")
    return (
        Actor.of_arrays(kept.arrays, best),
        Chain(start=log["config"]["start"]),
        {"chosen_round": int(best.stem), "chosen_gap_mean": kept.info.metrics["gap_mean"], **log},
    )


def interval(log_SC: FloatArray) -> dict[str, float]:
    """Mean of logarithms of ratios over seeds and clusters, per cent, with its interval."""
    rng = np.random.default_rng(0)
    seeds, count = log_SC.shape
    seed_RS = rng.integers(seeds, size=(RESAMPLES, seeds, 1))
    cluster_RC = rng.integers(count, size=(RESAMPLES, 1, count))
    means = log_SC[seed_RS, cluster_RC].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    per_cent = 100.0 * np.expm1([log_SC.mean(), low, high])
    return dict(zip(("mean", "low", "high"), per_cent.tolist(), strict=True))


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    names = list(found[0]["regimes"])
    lines = [
        f"| trained | seeds | validation | {' | '.join(names)} | {' | '.join(names)} |",
        "|---" * (3 + 2 * len(names)) + "|",
    ]
    for one in found:
        cells = [_cell(one["regimes"][name]["over_best_rule"]) for name in names]
        cells += [_cell(one["regimes"][name]["over_kept"]) for name in names]
        validation = 100.0 * np.mean([run["chosen_gap_mean"] for run in one["runs"]])
        head = f"| {one['variant']} | {len(one['runs'])} | {validation:+.1f} % | "
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: dict[str, float]) -> str:
    return f"{value['mean']:+.1f} % ({value['low']:+.1f}..{value['high']:+.1f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help=f"folder of folders; one of them is {BASE!r}")
    parser.add_argument("--clusters", type=int, default=20, help="of each age of state")
    parser.add_argument("--seed", type=int, help="of the clusters; default: the shipped weights'")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    variants = sorted(path.name for path in options.runs.iterdir() if path.is_dir())
    if BASE not in variants:
        parser.error(f"{options.runs} has no folder {BASE!r} to compare with")
    seed = weights_seed(PRETRAINED) if options.seed is None else options.seed
    met = {name: measured(drawn) for name, drawn in regimes(seed, options.clusters).items()}
    log: dict[str, dict[int, dict[str, FloatArray]]] = {}
    found = []
    for variant in [BASE, *(name for name in variants if name != BASE)]:
        runs, log[variant] = [], {}
        for folder in sorted((options.runs / variant).glob("seed-*")):
            actor, chain, entry = chosen(folder)
            runs.append(entry)
            log[variant][entry["seed"]] = {
                name: np.log1p(gaps(actor, chain, one)) for name, one in met.items()
            }
        common = sorted(log[variant].keys() & log[BASE].keys())
        at = {
            name: {
                "over_best_rule": interval(np.array([one[name] for one in log[variant].values()])),
                "over_kept": interval(
                    np.array([log[variant][one][name] - log[BASE][one][name] for one in common])
                ),
            }
            for name in met
        }
        found.append({"variant": variant, "runs": runs, "regimes": at})
        print(table(found[-1:]), flush=True)
    print("\n" + table(found))
    result = {
        "question": f"{NAME}: mean delay over the best rule's, and over the run that keeps its "
        "latents, per cent",
        "clusters_seed": seed,
        "clusters": {
            name: [dataclasses.asdict(cluster)["name"] for cluster, _, _ in one]
            for name, one in met.items()
        },
        "variants": found,
        "machine": machine.describe(),
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
