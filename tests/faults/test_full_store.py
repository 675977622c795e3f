"""Long prompts without end through a real node: its store and its memory stay bounded."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from tests.system.local import EMULATED, on_cluster, submit, wait_for

pytestmark = pytest.mark.system

MIB = 2**20
BOUND = 6 * MIB
LONG = "\N{FOX FACE}" * 32_000
# Two and a half times the bound.
TASKS = 120
AT_ONCE = 12


async def gauge(http: httpx.AsyncClient, url: str, name: str) -> float:
    lines = (await http.get(f"{url}/metrics")).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_a_store_that_would_be_full_takes_on_and_starts_again(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        last: dict[str, Any] = {}

        async def draw(seed: int) -> dict[str, Any]:
            task = await submit(http, url, LONG, num_inference_steps=1, seed=seed)
            return await wait_for(http, url, task["id"])

        for start in range(0, TASKS, AT_ONCE):
            drawn = await asyncio.gather(*map(draw, range(start, start + AT_ONCE)))
            assert {one["status"] for one in drawn} == {"completed"}
            last = drawn[-1]
        await asyncio.sleep(2.0)
        assert await gauge(http, url, 'dedgeai_store_bytes{part="memory"}') < 1.3 * BOUND
        for part in ("memory", "file", "experience", "latents"):
            assert await gauge(http, url, f'dedgeai_store_fill_ratio{{part="{part}"}}') < 1.3
        assert resident_bytes(cluster.pid(0)) < 300 * MIB
        cluster.signal_node(0, signal.SIGKILL)
        cluster.wait_node(0)
        start_s = time.monotonic()
        cluster.start_node(0)
        async with RestClient(timeout_s=5) as client:
            await cluster.wait_ready(client, 0)
        assert time.monotonic() - start_s < 30.0  # three at rest
        assert (await http.get(f"{url}/v1/tasks/{last['id']}")).json()["status"] == "completed"

    settings = {**EMULATED, "time_scale": 1000, "store_bytes_max": BOUND}
    on_cluster(tmp_path, settings, test=test)
