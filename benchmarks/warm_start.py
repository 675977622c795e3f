"""What is the latent memory worth to users? LAD-TS+ and LAD-TS live, each with three starts.

Real nodes on emulated Orins serve the same requests under each policy, pinned, whose reverse
process starts at the latents that each node keeps in its store (on), at no latent (off: LAD-TS+
at its ring, LAD-TS at zero) or at Gaussian noise; both decide with the weights that ship. Beside
them the best rule. Delays are measured at the client, in seconds of the emulated devices.

    python -m benchmarks.warm_start --captions FILE
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.cluster_delay import MIXED, RESULTS, Cell, poisson_requests, run
from benchmarks.cluster_twin import Request

STARTS = ("on", "off", "gaussian")
NAMES = {
    "lad_ts_plus": {"on": "memory", "off": "ring", "gaussian": "gaussian"},
    "lad_ts": {"on": "latent", "off": "zero", "gaussian": "gaussian"},
}
ARMS = tuple((policy, start) for policy in ("lad_ts_plus", "lad_ts") for start in STARTS)
RULE = "slow_server_aware"
LOAD = 0.8


def measure(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Every arm and the rule on each seed's requests."""
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        requests = poisson_requests(MIXED, load=LOAD, seconds=options.seconds, seed=100 * seed + 7)
        for policy, start in (*ARMS, (RULE, "")):
            found = run(_cell(policy, start, requests, options), options, seed=seed)
            rows.append({"seed": seed, "policy": policy, "start": start, **found.told()})
            shown = ("seed", "policy", "start", "mean_s", "failed")
            console.print({key: rows[-1][key] for key in shown})
    return rows


def _cell(
    policy: str,
    start: str,
    requests: tuple[Request, ...],
    options: argparse.Namespace,
) -> Cell:
    more: dict[str, Any] = {}
    if policy != RULE:
        more = {"pin_policy": True, "policy_options": f"start={NAMES[policy][start]}"}
    return Cell(
        devices=MIXED,
        policy=policy,
        requests=requests,
        time_scale=options.time_scale,
        settings_more=more,
    )


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Mean over seeds of every arm, and against the rule."""
    table = Table(title=f"Live at load {LOAD:g}: delay at the client, emulated seconds")
    for column in ("policy", "start", "mean", "p99", f"against {RULE}"):
        table.add_column(column)
    rule_s = np.mean([row["mean_s"] for row in rows if row["policy"] == RULE])
    for policy, start in (*ARMS, (RULE, "")):
        own = [row for row in rows if (row["policy"], row["start"]) == (policy, start)]
        mean_s = np.mean([row["mean_s"] for row in own])
        p99_s = np.mean([row["p99_s"] for row in own])
        table.add_row(policy, start, f"{mean_s:.2f}", f"{p99_s:.1f}", f"{mean_s / rule_s - 1:+.1%}")
    return table


def main() -> None:
    """Trains, measures, prints, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=Path, help="Flickr8k file; a small sample without it")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=600.0, help="emulated, of a run")
    parser.add_argument("--time-scale", type=float, default=10.0)
    parser.add_argument("--port", type=int, default=18180)
    parser.add_argument("--out", type=Path, default=RESULTS / "warm_start.json")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    console = Console(width=120)
    rows = measure(options, console)
    console.print(table_of(rows))
    written = {
        "question": "delay live with a warm start, without one, and with a Gaussian one",
        "time": "seconds of the emulated devices",
        "time_scale": options.time_scale,
        "load": LOAD,
        "machine": machine.describe(),
        "rows": rows,
    }
    options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    console.print(f"written: {options.out}")


if __name__ == "__main__":
    main()
