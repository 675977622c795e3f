"""Half-drawn images go on elsewhere: real nodes and drawings, real signals."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, QUICK_LEASE, image_of, kill, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
STEPS, CHECKPOINT_STEPS = 24, 3
# The tiny model, held to a pace at which steps can be met.
PACED = {"pace_s": 0.12, "checkpoint_steps": CHECKPOINT_STEPS, "heartbeat_s": 0.2, "suspect_s": 1.5}
PACED |= QUICK_LEASE
BODY: dict[str, Any] = {"num_inference_steps": STEPS, "seed": 7}


async def shown(http: httpx.AsyncClient, url: str) -> dict[str, float]:
    """A node's metrics without their labels; those that have some are summed."""
    found: dict[str, float] = {}
    for line in (await http.get(f"{url}/metrics")).text.splitlines():
        told = re.fullmatch(r"dedgeai_(\w+)(?:\{.*\})? (\S+)", line)
        if told is not None:
            found[told[1]] = found.get(told[1], 0.0) + float(told[2])
    return found


class Watched:
    """A task whose events are followed; `executor` and `step` are what was told last."""

    def __init__(self, http: httpx.AsyncClient, url: str, task_id: str) -> None:
        self.id = task_id
        self.executor = ""
        self.step = 0
        self._events = http.stream("GET", f"{url}/v1/tasks/{task_id}/events")
        self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async with self._events as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    told = json.loads(line.removeprefix("data: "))
                    self.executor = told["executor"] or self.executor
                    self.step = told["step"]

    async def close(self) -> None:
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)


async def drawn_by(
    http: httpx.AsyncClient, url: str, executor: str, *, step: int, count: int = 1
) -> Watched:
    """A task that a node draws and has come so far with; `count` are submitted."""
    tasks = [Watched(http, url, (await submit(http, url, **BODY))["id"]) for _ in range(count)]
    async with asyncio.timeout(60):
        while True:
            for task in tasks:
                if task.executor == executor and task.step >= step:
                    return task
            await asyncio.sleep(0.02)


async def check_resumed(
    cluster: LocalCluster, http: httpx.AsyncClient, task: Watched, *, told: int
) -> None:
    """It ended with so few further steps, told in order, and as one that nobody disturbed."""
    url = cluster.urls[0]
    ended = await wait_for(http, url, task.id)
    await task.close()
    assert ended["status"] == "completed", ended
    assert ended["attempt"] == 2
    async with asyncio.timeout(10):
        while (await shown(http, url))["steps_resumed_total"] == 0:
            await asyncio.sleep(0.1)  # until gauges are looked at
    counted = await shown(http, url)
    assert STEPS - counted["steps_resumed_total"] <= STEPS - told + CHECKPOINT_STEPS
    assert counted["steps_drawn_again_total"] <= CHECKPOINT_STEPS
    assert counted["checkpoint_bytes_total"] > 0
    events = (await http.get(f"{url}/v1/tasks/{task.id}/events")).text
    steps = [int(step) for step in re.findall(r'"step": ?(\d+)', events)]
    assert steps == sorted(steps)
    again = await submit(http, url, **BODY)
    assert (await wait_for(http, url, again["id"]))["status"] == "completed"
    disturbed, alone = [
        np.asarray(await image_of(http, url, one), dtype=int) for one in (task.id, again["id"])
    ]
    assert np.abs(disturbed - alone).max() <= 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_executor_that_dies_or_freezes_costs_no_more_than_a_few_steps(
    tmp_path: Path, number: signal.Signals
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        task = await drawn_by(http, cluster.urls[0], "node-1", step=8, count=2)
        worker = cluster.child_pid(1, "worker")
        cluster.signal_node(1, number)
        kill(worker, number)
        await check_resumed(cluster, http, task, told=task.step)

    on_cluster(tmp_path, PACED | {"policy": "round_robin"}, PACED, test=test)


def test_a_worker_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        task = await drawn_by(http, cluster.urls[0], "node-0", step=8)
        kill(cluster.child_pid(0, "worker"))
        await check_resumed(cluster, http, task, told=task.step)

    on_cluster(tmp_path, PACED, test=test)


def test_a_node_that_is_told_to_stop_under_load_has_no_step_drawn_twice(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        origins = (cluster.urls[0], cluster.urls[2])
        tasks = []
        for number in range(12):
            url = origins[number % 2]
            task = await submit(http, url, f"circle {number}", num_inference_steps=30)
            tasks.append((url, Watched(http, url, task["id"])))
        async with asyncio.timeout(30):
            while not any(one.executor == "node-1" and 3 <= one.step < 20 for _, one in tasks):
                await asyncio.sleep(0.02)
        cluster.signal_node(1, signal.SIGTERM)
        for url, one in tasks:
            ended = await wait_for(http, url, one.id)
            await one.close()
            assert ended["status"] == "completed", ended
            assert ended["executor"] != "node-1" or ended["attempt"] == 1
        assert await asyncio.to_thread(cluster.wait_node, 1) == 0
        await asyncio.sleep(2 * EMULATED["heartbeat_s"])  # type: ignore[operator]
        counted = [await shown(http, url) for url in origins]
        assert sum(one["steps_resumed_total"] for one in counted) > 0
        assert sum(one["steps_drawn_again_total"] for one in counted) == 0

    node = {**EMULATED, "time_scale": 4, "checkpoint_steps": 4, "policy": "round_robin"}
    on_cluster(tmp_path, node, node, node, test=test)
