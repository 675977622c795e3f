"""How far is `eta_s` from what comes?

Nodes on this machine draw a burst and then arrivals at half their capacity, sent to the first node.
Each open task is read again and again; once it is over, each reading is compared with the seconds
that were left: |eta - left| / left, of all readings with at least LEFT_S_MIN seconds left. Beside
it the same of the first reading, kept as if nothing were known afterwards; and where half-drawn
ones move, of those readings that follow the last move of a task: nobody is told of one to come.

    python -m benchmarks.expected_ends
    python -m benchmarks.expected_ends --clusters move --burst 6 --arrivals 60 --out ...
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import machine
from edge_node.console.local_cluster import LocalCluster, free_rest_port

RESULTS = Path(__file__).parent / "results"
TARGET = 0.2
LEFT_S_MIN = 0.5
LOOK_S = 0.25
# Settings of the nodes, what is asked for, and seconds between two arrivals after the burst.
CLUSTERS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], float]] = {
    "three emulated Orins, ten times as fast": (
        [{"engine": "emulated", "time_scale": 10.0}] * 3,
        {"num_inference_steps": 20},
        LOOK_S,
    ),
    "two nodes of the tiny model, one at half the other's pace": (
        [{"torch_threads": 1, "rows_max": 1, "pace_s": pace_s} for pace_s in (0.05, 0.1)],
        {"num_inference_steps": 20},
        LOOK_S,
    ),
    "three emulated Orins in mixed modes, four times as fast, with half-drawn ones on the move": (
        [
            {"engine": "emulated", "time_scale": 4.0, "move": "running", "policy": "ring"}
            | {"emulated_profile": f"orin-64gb-{mode}"}
            for mode in ("maxn", "30w", "15w")
        ],
        {"num_inference_steps": 20},
        1.3,
    ),
}


class Readings:
    """What was said of each open task, and when it was over."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url
        self.said: defaultdict[str, list[tuple[float, float, str]]] = defaultdict(list)
        self.over: dict[str, float] = {}
        self.moved: dict[str, float] = {}

    async def look(self) -> bool:
        """Reads all that is open; whether anything is."""
        answer = await self._http.get(f"{self._url}/v1/tasks?limit=200")
        now_s = time.monotonic()
        open_ones = 0
        for task in answer.json()["data"]:
            if task["status"] in ("queued", "in_progress"):
                self.said[task["id"]].append((now_s, task["eta_s"], task["status"]))
                open_ones += 1
        return open_ones > 0

    async def wait(self, task_id: str) -> None:
        """Notes when a task moved last, and when it ends."""
        events = f"{self._url}/v1/tasks/{task_id}/events"
        async with self._http.stream("GET", events) as response:
            async for line in response.aiter_lines():
                if line == "event: moved":
                    self.moved[task_id] = time.monotonic()
        self.over[task_id] = time.monotonic()


def errors(readings: Readings) -> dict[str, Any]:
    """Of all readings, and of the first of each task kept to its end."""
    now: defaultdict[str, list[float]] = defaultdict(list)
    kept: list[float] = []
    after: list[float] = []
    for task_id, said in readings.said.items():
        for at_s, eta_s, status in said:
            left_s = readings.over[task_id] - at_s
            if left_s >= LEFT_S_MIN:
                now[status].append(abs(eta_s - left_s) / left_s)
                kept.append(abs(said[0][1] - left_s) / left_s)
                if at_s > readings.moved.get(task_id, math.inf):
                    after.append(now[status][-1])
    every = [error for found in now.values() for error in found]
    return {
        "readings": len(every),
        "median_error": float(np.median(every)),
        "p90_error": float(np.quantile(every, 0.9)),
        "median_error_by_status": {name: float(np.median(found)) for name, found in now.items()},
        "median_error_if_frozen": float(np.median(kept)),
        "tasks_moved": len(readings.moved),
        "readings_after_a_move": len(after),
        "median_error_after_a_move": float(np.median(after)) if after else None,
    }


async def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One cluster."""
    settings, body, gap_s = CLUSTERS[name]
    port = free_rest_port(first=23_000, nodes=len(settings))
    limits = httpx.Limits(max_connections=500)
    async with (
        LocalCluster(settings, rest_port=port) as cluster,
        httpx.AsyncClient(trust_env=False, timeout=120.0, limits=limits) as http,
    ):
        readings = Readings(http, cluster.urls[0])
        waiting: list[asyncio.Task[None]] = []

        async def submit() -> None:
            answer = await http.post(
                f"{cluster.urls[0]}/v1/tasks", json={"prompt": "a red circle", **body}
            )
            assert answer.status_code == 202, answer.text
            waiting.append(asyncio.create_task(readings.wait(answer.json()["id"])))

        for _ in range(options.burst):
            await submit()
        start_s, arrived = time.monotonic(), 0
        while await readings.look() or arrived < options.arrivals:
            if arrived < min(options.arrivals, (time.monotonic() - start_s) / gap_s):
                await submit()
                arrived += 1
            await asyncio.sleep(LOOK_S)
        await asyncio.gather(*waiting)
        seconds = time.monotonic() - start_s
    found = {"nodes": len(settings), "tasks": len(waiting), "seconds": seconds, **errors(readings)}
    print(f"{name}: {json.dumps(found)}", flush=True)
    return found


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--burst", type=int, default=30)
    parser.add_argument("--arrivals", type=int, default=20)
    parser.add_argument("--clusters", default="", help="words in the names of those measured")
    parser.add_argument("--out", type=Path, default=RESULTS / "expected_ends.json")
    options = parser.parse_args()
    described = machine.describe()
    found = {
        name: asyncio.run(measure(name, options)) for name in CLUSTERS if options.clusters in name
    }
    result = {
        "machine": described,
        "settings": machine.settings_of(options),
        "target_median_error": TARGET,
        "clusters": found,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
