"""Half-drawn images that a device takes from a slower one: real nodes, drawings and signals."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import QUICK_LEASE, image_of, kill, on_cluster, submit, wait_for
from tests.system.test_resumed import shown

pytestmark = pytest.mark.system
# 200 for the whole of it.
DRAWINGS = int(os.environ.get("DRAWINGS", "30"))
STEPS = 16
COMMON: dict[str, Any] = {"policy": "round_robin", "move": "running", "heartbeat_s": 0.2}
COMMON |= {"suspect_s": 1.5, "tick_s": 0.05, "checkpoint_steps": 2, **QUICK_LEASE}
FAST, SLOW = COMMON | {"pace_s": 0.06}, COMMON | {"pace_s": 0.6}


async def moves_of(http: httpx.AsyncClient, url: str, task_id: str) -> list[dict[str, Any]]:
    """What the events of a task that is over tell of its moves."""
    text = (await http.get(f"{url}/v1/tasks/{task_id}/events")).text
    told = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    steps = [event["step"] for event in told]
    assert steps == sorted(steps)
    return [event["move"] for event in told if event["type"] == "moved"]


async def pixels(http: httpx.AsyncClient, url: str, task_id: str) -> Any:
    return np.asarray(await image_of(http, url, task_id), dtype=int)


def test_a_device_that_idles_ends_what_a_slower_one_began(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        body: dict[str, Any] = {"num_inference_steps": STEPS, "seed": 5}
        tasks = [await submit(http, url, **body) for _ in range(2)]
        ended = [await wait_for(http, url, task["id"]) for task in tasks]
        assert [one["status"] for one in ended] == ["completed"] * 2
        moves = [await moves_of(http, url, task["id"]) for task in tasks]
        (move,) = [move for of_task in moves for move in of_task]
        assert (move["from"], move["to"], move["reason"]) == ("node-1", "node-0", "idle")
        assert move["expected_gain_s"] > 0.3
        one, other = [await pixels(http, url, task["id"]) for task in tasks]
        assert np.abs(one - other).max() <= 1
        async with asyncio.timeout(10):
            while not (counted := await shown(http, url))["steps_resumed_total"]:
                await asyncio.sleep(0.1)  # until gauges are looked at
        assert counted["moves_total"] == 1.0
        assert counted["steps_drawn_again_total"] == 0.0

    on_cluster(tmp_path, FAST, SLOW, test=test)


def test_images_that_were_moved_and_whose_workers_died_are_as_if_alone(tmp_path: Path) -> None:
    rng = random.Random(3)
    bodies: list[dict[str, Any]] = [
        {"num_inference_steps": rng.randint(6, STEPS), "seed": seed} for seed in range(DRAWINGS)
    ]
    drawn: dict[str, list[Any]] = {"moved": [], "alone": []}
    reasons: Counter[str] = Counter()

    async def disturbed(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        tasks = []
        for number, body in enumerate(bodies):
            tasks.append((await submit(http, cluster.urls[number % 2], **body))["id"])
            if number % 15 == 2:
                kill(cluster.child_pid(1 + number % 2, "worker"))
            await asyncio.sleep(rng.uniform(0.0, 0.4))
        await draw_all(http, cluster.urls[0], tasks, "moved")
        for task_id in tasks:
            moves = await moves_of(http, cluster.urls[0], task_id)
            reasons.update(move["reason"] for move in moves)

    async def alone(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        tasks = [(await submit(http, cluster.urls[0], **body))["id"] for body in bodies]
        await draw_all(http, cluster.urls[0], tasks, "alone")

    async def draw_all(http: httpx.AsyncClient, url: str, tasks: list[str], how: str) -> None:
        for task_id in tasks:
            ended = await wait_for(http, url, task_id, timeout_s=600)
            assert ended["status"] == "completed", ended
            drawn[how].append(await pixels(http, url, task_id))

    third = COMMON | {"pace_s": 0.2}
    on_cluster(tmp_path / "three", FAST, SLOW, third, test=disturbed)
    on_cluster(tmp_path / "one", COMMON, test=alone)
    for moved, lone, body in zip(drawn["moved"], drawn["alone"], bodies, strict=True):
        assert np.abs(moved - lone).max() <= 1, body
    assert reasons["idle"] > 0, reasons
