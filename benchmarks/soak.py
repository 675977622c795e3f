"""Does a node that works for very long stay as small as it was, and start again as soon?

One real node with an emulated worker is given many tasks with long prompts, over REST, by clients
that each have some under way. Its resident memory, what each part of its store takes, its images
and every answer but 202 are recorded as it goes; then it is killed and timed until it is ready.

    python -m benchmarks.soak --tasks 200000 --seconds 3600
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from benchmarks import machine
from benchmarks.node_footprint import rss_mb
from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient

RESULTS = Path(__file__).parent / "results"
SAMPLE_S = 10.0
BATCH = 10
RESTART_S_MAX = 5.0
# Every tenth prompt is as long as one may be; the others are long for a prompt.
LONG_CHARS, LONGEST_CHARS, LONGEST_EVERY = 1_000, 32_000, 10
PARTS = ("memory", "file", "experience", "latents")
# What is written down, by the gauge that says it.
GAUGES = {
    **{f"{part}_bytes": f'store_bytes{{part="{part}"}}' for part in PARTS},
    **{f"{part}_fill": f'store_fill_ratio{{part="{part}"}}' for part in PARTS},
    "image_bytes": "image_stored_bytes",
    "in_flight": "tasks_in_flight",
}


class Soak:
    """One node, and what is seen of it."""

    def __init__(
        self, cluster: LocalCluster, http: httpx.AsyncClient, *, tasks: int, seconds_max: float
    ) -> None:
        self.cluster, self.http, self.seconds_max = cluster, http, seconds_max
        self.url = cluster.urls[0]
        self.jobs = iter(range(tasks // BATCH))
        self.answers: Counter[int] = Counter()
        self.samples: list[dict[str, float]] = []
        self.began_s = time.monotonic()
        self.done = asyncio.Event()

    async def client(self) -> None:
        """Submits jobs until there are no more, or no more time; waits whenever it is told to."""
        for job in self.jobs:
            if time.monotonic() - self.began_s > self.seconds_max:
                return
            chars = LONGEST_CHARS if job % LONGEST_EVERY == 0 else LONG_CHARS
            prompt = ("\N{FOX FACE}" if chars == LONGEST_CHARS else "a fox ") * chars
            body = {"prompt": prompt[:chars], "n": BATCH, "num_inference_steps": 1, "seed": job}
            while True:
                answer = await self.http.post(f"{self.url}/v1/tasks", json=body)
                self.answers[answer.status_code] += 1
                if answer.status_code == 202:
                    break
                if answer.status_code != 429:  # which is a queue's, and honest
                    raise RuntimeError(f"{answer.status_code}: {answer.text}")
                await asyncio.sleep(0.5)

    async def watch(self) -> None:
        """Samples until the clients are done."""
        while not self.done.is_set():
            self.samples.append(await self.sample())
            await asyncio.wait([asyncio.ensure_future(self.done.wait())], timeout=SAMPLE_S)

    async def sample(self) -> dict[str, float]:
        """What is seen now."""
        lines = (await self.http.get(f"{self.url}/metrics")).text.splitlines()
        shown = {line.split()[0]: float(line.split()[1]) for line in lines if line[0] != "#"}
        finished = sum(v for k, v in shown.items() if k.startswith("dedgeai_tasks_finished_total{"))
        seen = {name: shown.get(f"dedgeai_{gauge}", 0.0) for name, gauge in GAUGES.items()}
        return {
            "at_s": round(time.monotonic() - self.began_s, 1),
            "finished": finished,
            "rss_mb": round(rss_mb(self.cluster.pid(0)), 1),
            **seen,
        }

    async def run(self, clients: int) -> dict[str, Any]:
        """All of it; what to write down."""
        watching = asyncio.create_task(self.watch())
        await asyncio.gather(*(self.client() for _ in range(clients)))
        while (await self.sample())["in_flight"]:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        self.done.set()
        await watching
        last = await self.sample()
        text = (await self.http.get(f"{self.url}/metrics")).text
        ends = {
            line.split()[0]: float(line.split()[1])
            for line in text.splitlines()
            if line.startswith("dedgeai_tasks_finished_total{")
        }
        restart_s = await self.restarted(with_store=False)
        restart_with_store_s = await self.restarted(with_store=True)
        return {
            "seconds": last["at_s"],
            "ends": ends,
            "answers": {str(code): count for code, count in self.answers.items()},
            "rss_mb_max": max(one["rss_mb"] for one in self.samples),
            "rss_mb_last": last["rss_mb"],
            **{f"{name}_max": max(one[name] for one in self.samples) for name in GAUGES},
            "restart_s": restart_s,
            "restart_with_store_s": restart_with_store_s,
            "samples": self.samples[:: max(1, len(self.samples) // 60)],
        }

    async def restarted(self, *, with_store: bool) -> float:
        """Kills the node, and its store as a power cut would; seconds until it is ready again."""
        store = self.cluster.child_pid(0, "store")
        self.cluster.signal_node(0, signal.SIGKILL)
        if with_store:
            os.kill(store, signal.SIGKILL)
        self.cluster.wait_node(0)
        start_s = time.monotonic()
        self.cluster.start_node(0)
        async with RestClient(timeout_s=5) as client:
            await self.cluster.wait_ready(client, 0)
        return round(time.monotonic() - start_s, 2)


async def soak(
    tasks: int, *, clients: int, port: int, folder: Path, seconds_max: float
) -> dict[str, Any]:
    """Runs one node through `tasks` tasks, or as many as there is time for."""
    settings = {"engine": "emulated", "time_scale": 1000, "image_bytes_total_max": 2**28}
    timeout = httpx.Timeout(120.0)
    async with (
        LocalCluster([settings], rest_port=port, folder=folder) as cluster,
        httpx.AsyncClient(timeout=timeout, trust_env=False) as http,
    ):
        return await Soak(cluster, http, tasks=tasks, seconds_max=seconds_max).run(clients)


def main() -> None:
    """Runs, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="that it may take")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--port", type=int, default=18900)
    parser.add_argument("--folder", type=Path, default=Path("out/soak"))
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json")
    options = parser.parse_args()
    described = machine.describe()
    found = asyncio.run(
        soak(
            options.tasks,
            clients=options.clients,
            port=options.port,
            folder=options.folder,
            seconds_max=options.seconds,
        )
    )
    for key in ("seconds", "answers", "ends", "rss_mb_max", "memory_bytes_max", "restart_s"):
        print(f"{key}: {found[key]}")
    written = {
        "question": "does a node stay bounded through very many tasks with long prompts?",
        "tasks_wanted": options.tasks,
        "tasks": int(sum(found["ends"].values())),
        "clients": options.clients,
        "goal": {"refused_507_or_503": 0, "restart_s_max": RESTART_S_MAX},
        "reached": set(found["answers"]) <= {"202", "429"}
        and max(found["restart_s"], found["restart_with_store_s"]) < RESTART_S_MAX,
        "results": found,
        "machine": described,
    }
    options.out.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
