"""What do checkpoints and half-drawn images on the move cost where every device is always busy?

Five emulated Orins in mixed power modes are each asked for more than they can draw, at once; their
policy is `local`, so that none is done early. What they get done is the work that their queues lose
by the second, as each node says of itself: with checkpoints and `move = running`, and with neither,
by turns. A run is added to the file. What a checkpoint and a move take is real time of this
machine, and so weighs more on devices that run several times faster than what they stand for.

    python -m benchmarks.saturated_moves --pairs 2
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import machine
from benchmarks.cluster_delay import MIXED
from edge_node.console.local_cluster import LocalCluster, free_rest_port

RESULTS = Path(__file__).parent / "results"
TARGET = 0.02
WAYS: dict[str, dict[str, Any]] = {
    "neither": {"move": "none", "checkpoint_steps": 0},
    "both": {"move": "running"},
}
STEPS = 20
# From the last submission on, until queues are told as they are.
SETTLE_S = 2.0
# Of its work a node has so much more than it needs, for the time of submission and for the slowest,
# to which one task more or less is a long time.
SPARE_S = 30.0
LOOK_S = 0.5


async def told(http: httpx.AsyncClient, urls: list[str], what: str) -> list[float]:
    """What each node says of itself: `backlog`, or `capacity`; in work units."""
    answers = await asyncio.gather(*(http.get(f"{url}/v1/cluster") for url in urls))
    return [float(answer.json()["own"][what]) for answer in answers]


async def run(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Work units a second of the whole cluster, and how often something moved."""
    settings = [
        {"engine": "emulated", "emulated_profile": profile, "policy": "local"}
        | {"time_scale": options.time_scale, **WAYS[way]}
        for profile in MIXED.profiles
    ]
    port = free_rest_port(first=options.port, nodes=len(settings))
    limits = httpx.Limits(max_connections=200)
    async with (
        LocalCluster(settings, rest_port=port) as cluster,
        httpx.AsyncClient(trust_env=False, timeout=60.0, limits=limits) as http,
    ):
        urls = cluster.urls
        for url, capacity in zip(urls, await told(http, urls, "capacity"), strict=True):
            for number in range(math.ceil(capacity * (options.seconds + SPARE_S) / STEPS)):
                body = {"prompt": "a cat", "num_inference_steps": STEPS, "seed": number}
                (await http.post(f"{url}/v1/tasks", json=body)).raise_for_status()
        await asyncio.sleep(SETTLE_S)
        at_s, left = [time.monotonic()], [sum(await told(http, urls, "backlog"))]
        until_s = at_s[0] + options.seconds
        while time.monotonic() < until_s:
            await asyncio.sleep(LOOK_S)
            by_node = await told(http, urls, "backlog")
            assert min(by_node) > STEPS, f"one is done too early: {by_node}"
            at_s.append(time.monotonic())
            left.append(sum(by_node))
        moves = 0.0
        for url in urls:
            for line in (await http.get(f"{url}/metrics")).text.splitlines():
                if line.startswith("dedgeai_moves_total"):
                    moves += float(line.split()[-1])
    slope, _ = np.polyfit(np.array(at_s) - at_s[0], left, 1)
    return {"way": way, "work_s": -float(slope), "moves": moves}


def main() -> None:
    """Measures, prints, adds to the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=50.0)
    parser.add_argument("--time-scale", type=float, default=4.0)
    parser.add_argument("--port", type=int, default=21_500)
    parser.add_argument("--out", type=Path, default=RESULTS / "saturated_moves.json")
    options = parser.parse_args()
    described, busy = machine.describe(), os.getloadavg()[0]
    pairs = json.loads(options.out.read_text())["pairs"] if options.out.exists() else []
    for _ in range(options.pairs):
        # The other way round in every second pair: what comes first is not always the same.
        order = list(WAYS) if len(pairs) % 2 == 0 else list(WAYS)[::-1]
        runs = {way: asyncio.run(run(way, options)) for way in order}
        cost = 1.0 - runs["both"]["work_s"] / runs["neither"]["work_s"]
        pairs.append({"cost": cost, "load_average_before": busy, "runs": list(runs.values())})
        print(json.dumps(pairs[-1]), flush=True)
    found = {
        "target_cost": TARGET,
        "mean_cost": float(np.mean([pair["cost"] for pair in pairs])),
        "pairs": pairs,
        "settings": machine.settings_of(options),
        "machine": described,
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
