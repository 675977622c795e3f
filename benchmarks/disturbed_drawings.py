"""Is an image that was killed, moved and drained on its way the one that nobody disturbed?

Three nodes of the tiny model, of unequal pace, draw images for two of them, with half-drawn ones on
the move. Meanwhile, at random: workers are killed, nodes are killed and started again, are stopped
and started again, or drained by an operator for a while. Then one node draws the same alone, and
all pixels are compared.

    python -m benchmarks.disturbed_drawings --drawings 200
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks import machine
from edge_node.console.local_cluster import LocalCluster, free_rest_port
from edge_node.console.rest_client import RestClient

RESULTS = Path(__file__).parent / "results"
STEPS_MIN, STEPS_MAX = 6, 16
COMMON: dict[str, Any] = {"policy": "round_robin", "move": "running", "heartbeat_s": 0.2}
COMMON |= {"suspect_s": 1.5, "tick_s": 0.05, "checkpoint_steps": 2, "lease_s": 2.0}
PACES_S = (0.06, 0.6, 0.2)
# Who asks: the other node is stopped whole, and asks for nothing.
ORIGINS, WHOLE = (0, 1), 2
KINDS = ("worker killed", "node killed", "node stopped", "drained")
BETWEEN_S = (0.1, 0.6)
DRAINED_S = 1.5
DRAWS_S_MAX = 5.0
END_S_MAX = 600.0


class Disturbed:
    """One run: who is asked for what, and what is done to the nodes meanwhile."""

    def __init__(self, cluster: LocalCluster, http: httpx.AsyncClient, *, seed: int) -> None:
        self._cluster = cluster
        self._http = http
        self._rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    async def draw(self, bodies: list[dict[str, Any]]) -> list[Any]:
        """The images of all, in order."""
        tasks = []
        over = asyncio.Event()
        disturbing = asyncio.create_task(self._disturb_until(over))
        for number, body in enumerate(bodies):
            url = self._cluster.urls[ORIGINS[number % len(ORIGINS)]]
            tasks.append(await submitted(self._http, url, body))
            await asyncio.sleep(self._rng.uniform(0.0, 0.4))
        images = [await image_of(self._http, self._cluster.urls[0], task) for task in tasks]
        over.set()
        await disturbing
        for task in tasks:
            await self._read_moves(task)
        return images

    async def _disturb_until(self, over: asyncio.Event) -> None:
        """One thing after another, in rounds of all kinds."""
        round_of: list[str] = []
        while not over.is_set():
            if not round_of:
                round_of = self._rng.sample(KINDS, len(KINDS))
            kind = round_of.pop()
            await self._disturb(kind)
            self.done[kind] += 1
            await asyncio.sleep(self._rng.uniform(*BETWEEN_S))

    async def _disturb(self, kind: str) -> None:
        cluster, node = self._cluster, self._rng.choice((ORIGINS[1], WHOLE))
        if kind == "worker killed":
            # That of one that is being started again has no process yet.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                os.kill(cluster.child_pid(node, "worker"), signal.SIGKILL)
        elif kind == "drained":
            await self._until_it_draws(node)
            at = f"{cluster.urls[0]}/v1/nodes/node-{node}"
            (await self._http.post(f"{at}/drain")).raise_for_status()
            await asyncio.sleep(DRAINED_S)
            (await self._http.post(f"{at}/resume")).raise_for_status()
        else:
            async with RestClient(timeout_s=5.0) as client:
                await cluster.wait_ready(client, WHOLE)
            number = signal.SIGKILL if kind == "node killed" else signal.SIGTERM
            cluster.signal_node(WHOLE, number)
            await asyncio.to_thread(cluster.wait_node, WHOLE)
            cluster.start_node(WHOLE)

    async def _until_it_draws(self, node: int) -> None:
        """As the first node sees it, for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAWS_S_MAX):
                while True:
                    told = (await self._http.get(f"{self._cluster.urls[0]}/v1/cluster")).json()
                    seen = {one["node"]: one for one in told["peers"]}
                    if seen[f"node-{node}"]["alive"] and seen[f"node-{node}"]["running"]:
                        return
                    await asyncio.sleep(0.05)

    async def _read_moves(self, task_id: str) -> None:
        events = f"{self._cluster.urls[0]}/v1/tasks/{task_id}/events"
        lines = (await self._http.get(events)).text.splitlines()
        told = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        steps = [event["step"] for event in told]
        assert steps == sorted(steps), f"the steps of {task_id} went back: {steps}"
        moves = (event["move"] for event in told if event["type"] == "moved")
        self.reasons.update(move["reason"] for move in moves)


async def submitted(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> str:
    """Asks for a durable task; its id."""
    answer = await http.post(f"{url}/v1/tasks", json={"prompt": "a red circle", **body})
    answer.raise_for_status()
    task_id: str = answer.json()["id"]
    return task_id


async def image_of(http: httpx.AsyncClient, url: str, task_id: str) -> Any:
    """Waits for a task; its pixels."""
    async with asyncio.timeout(END_S_MAX):
        while True:
            task = (await http.get(f"{url}/v1/tasks/{task_id}")).json()
            if task.get("status") in ("completed", "failed", "cancelled"):
                break
            await asyncio.sleep(0.1)
    assert task["status"] == "completed", task
    content = (await http.get(f"{url}/v1/tasks/{task_id}/image")).content
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image, dtype=int)


async def compared(folder: Path, *, drawings: int, seed: int) -> dict[str, Any]:
    """Draws all with disturbances, then alone, and says how far apart the pictures are."""
    rng = random.Random(seed)
    bodies: list[dict[str, Any]] = [
        {"num_inference_steps": rng.randint(STEPS_MIN, STEPS_MAX), "seed": number}
        for number in range(drawings)
    ]
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(trust_env=False, timeout=120.0, limits=limits) as http:
        settings = [COMMON | {"pace_s": pace_s} for pace_s in PACES_S]
        port = free_rest_port(first=rng.randrange(21_000, 29_000), nodes=len(settings))
        async with LocalCluster(settings, rest_port=port, folder=folder / "three") as cluster:
            run = Disturbed(cluster, http, seed=seed)
            disturbed = await run.draw(bodies)
        async with LocalCluster([COMMON], rest_port=port, folder=folder / "one") as cluster:
            url = cluster.urls[0]
            tasks = [await submitted(http, url, body) for body in bodies]
            alone = [await image_of(http, url, task) for task in tasks]
    apart = [int(np.abs(a - b).max()) for a, b in zip(disturbed, alone, strict=True)]
    return {
        "drawings": drawings,
        "disturbances": dict(run.done),
        "moves": dict(run.reasons),
        "levels_apart_max": max(apart),
        "drawings_that_differ": sum(levels > 0 for levels in apart),
    }


def main() -> None:
    """Draws, compares, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drawings", type=int, default=200)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "disturbed_drawings.json")
    options = parser.parse_args()
    described = machine.describe()
    with tempfile.TemporaryDirectory(prefix="dedgeai-") as folder:
        found = asyncio.run(compared(Path(folder), drawings=options.drawings, seed=options.seed))
    settings = machine.settings_of(options)
    written = {"machine": described, "settings": settings, "results": found}
    options.out.write_text(json.dumps(written, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
