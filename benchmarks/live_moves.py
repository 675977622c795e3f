"""Do real nodes gain by moves what the simulator says? Five emulated Orins in mixed power modes.

The same requests with `move = none` and `running`, placed by the ring, and both simulated on those
very requests (`benchmarks/running_moves.py`). There a move costs what the nodes measured,
times the scale of time: what this machine takes is real, and so weighs several times
as much on devices that run several times faster. A run of 600 s at scale 4 takes 150 s; each is
added to the file.

    python -m benchmarks.live_moves --seeds 0 --loads .5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.cluster_delay import MIXED, Cell, counted, poisson_requests, run_cell, samples
from benchmarks.running_moves import RULES
from benchmarks.simulated_hours import simulated
from scheduler.simulator.moving_cluster import Moving

RESULTS = Path(__file__).parent / "results"
RULE = "ring"
TOLD = ("moves_total", "takes_asked_total", "steps_resumed_total", "steps_drawn_again_total")


def moves_of(scraped: Sequence[list[Any]]) -> dict[str, float]:
    """What all nodes counted of moves, and the mean of what a move cost them."""
    costs_s = [sample.value for sample in samples(scraped, "move_cost_seconds")]
    return counted(scraped, *TOLD) | {"move_cost_wall_s": float(np.mean(costs_s))}


def measured(options: argparse.Namespace, *, load: float, seed: int, move: str) -> dict[str, Any]:
    """One run, and its twin in the simulator."""
    requests = poisson_requests(MIXED, load=load, seconds=options.seconds, seed=100 * seed + 7)
    busy = os.getloadavg()[0]
    cell = Cell(
        devices=MIXED,
        policy=RULE,
        requests=requests,
        time_scale=options.time_scale,
        settings_more={"move": move},
    )
    found = asyncio.run(run_cell(cell, captions=["a cat"], port=options.port, seed=seed))
    moves = moves_of(found.scraped)
    scale = options.time_scale
    moving = None
    if move == "running":
        age_s = found.staleness_s["mean"] * scale
        moving = Moving(cost_s=moves["move_cost_wall_s"] * scale, age_s=age_s)
    policy = RULES[RULE](rng=np.random.default_rng(0))
    twin = simulated(MIXED, requests, policy=policy, moving=moving)
    told = found.told()
    return {
        "load": load,
        "seed": seed,
        "move": move,
        "time_scale": scale,
        "load_average_before": busy,
        **{name: told[name] for name in ("requests", "errors", "mean_s", "p95_s", "p99_s")},
        "counted": moves,
        "simulated_mean_s": float(twin.delay_s_N.mean()),
        "simulated_p99_s": float(np.quantile(twin.delay_s_N, 0.99)),
        "live_over_simulated": told["mean_s"] / float(twin.delay_s_N.mean()),
    }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By load, over the seeds that ran both ways: running against none, live and simulated."""
    lines = []
    for load in sorted({row["load"] for row in rows}):
        by = {(row["seed"], row["move"]): row for row in rows if row["load"] == load}
        seeds = sorted({s for s, _ in by if (s, "none") in by and (s, "running") in by})
        if not seeds:
            continue

        def against_none(key: str, by: Any = by, seeds: Any = seeds) -> float:
            ratios = [by[s, "running"][key] / by[s, "none"][key] for s in seeds]
            return float(np.mean(ratios))

        keys = ("mean_s", "p99_s", "simulated_mean_s", "simulated_p99_s")
        told = {f"{key} against none": against_none(key) for key in keys}
        lines.append({"load": load, "seeds": seeds, **told})
    return lines


def main() -> None:
    """Measures, prints, adds to the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", default="0.5,0.8")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--moves", default="none,running")
    parser.add_argument("--seconds", type=float, default=600.0, help="emulated, of a run")
    parser.add_argument("--time-scale", type=float, default=4.0)
    parser.add_argument("--port", type=int, default=18280)
    parser.add_argument("--out", type=Path, default=RESULTS / "live_moves.json")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    for load in map(float, options.loads.split(",")):
        for seed in map(int, options.seeds.split(",")):
            for move in options.moves.split(","):
                row = measured(options, load=load, seed=seed, move=move)
                same = (load, seed, move)
                rows = [r for r in rows if (r["load"], r["seed"], r["move"]) != same] + [row]
                print(json.dumps(row), flush=True)
                written = {
                    "question": "delays at the client on five emulated Orins, by what moves",
                    "time": "seconds of the emulated devices unless a name says wall",
                    "rows": rows,
                    "summary": summary(rows),
                    "machine": machine.describe(),
                }
                options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
