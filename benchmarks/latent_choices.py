"""Which share of LAD-TS+'s choices does its latent change?

Five mixed Orins (Poisson) where states are 50 ms, 1 and 5 s old. Live policies place every task,
and each choice is made again from the same observation without the latent. The latents are those
of a run that keeps them: what differs is what the average of past choices does to that one choice.

    python -m benchmarks.latent_choices
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.recorded_cluster import run_cluster
from scheduler.policies.lad_ts_plus_policy import LadTsPlus, load_weights
from scheduler.simulator import scenarios
from scheduler.simulator.dispatchers import measuring_rng
from scheduler.simulator.workload import draw

RESULTS = Path(__file__).parent / "results"
SCENARIOS = ("orins_0.5", "orins_0.8", "orins_0.95")
AGES_S = (0.05, 1.0, 5.0)


def changed(scenario: str, age_s: float, episodes: int) -> dict[str, Any]:
    """Choices of some episodes, and how many of them the latent changed."""
    weights, rng = load_weights(), np.random.default_rng(0)
    free = LadTsPlus(rng=rng, weights=weights)
    choices = differ = 0
    for number in range(episodes):
        episode = draw(scenarios.get(scenario), measuring_rng(0, number))
        records, _ = run_cluster(
            episode, lambda station: LadTsPlus(rng=rng, weights=weights), age_s=age_s
        )
        for record in records:
            without = dataclasses.replace(record.observation, latent_B=None)
            differ += free.decide(without).choice != record.decision.choice
        choices += len(records)
    return {
        "scenario": scenario,
        "state_age_s": age_s,
        "choices": choices,
        "changed": int(differ),
        "changed_percent": 100.0 * differ / choices,
    }


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=3, help="of an hour each")
    parser.add_argument("--out", type=Path, default=RESULTS / "latent_choices.json")
    options = parser.parse_args()
    rows = []
    for scenario in SCENARIOS:
        for age_s in AGES_S:
            rows.append(changed(scenario, age_s, options.episodes))
            print(f"{scenario}, state {age_s:g} s old: {rows[-1]['changed_percent']:.2f} %")
    written = {
        "question": "share of LAD-TS+'s choices that its latent changes",
        "episodes": options.episodes,
        "rows": rows,
        "machine": machine.describe(),
    }
    options.out.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
