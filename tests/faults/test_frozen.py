"""A worker or a store that is frozen: found within seconds, killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster, submit, wait_for

pytestmark = pytest.mark.system


@pytest.mark.parametrize("child", ["worker", "store"])
def test_a_child_that_is_frozen_is_killed_and_no_task_is_lost(tmp_path: Path, child: str) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        task = await submit(http, url, num_inference_steps=20)
        await wait_for(http, url, task["id"], "in_progress")
        frozen = cluster.child_pid(0, child)
        os.kill(frozen, signal.SIGSTOP)
        start_s = time.monotonic()
        async with asyncio.timeout(30):
            while Path(f"/proc/{frozen}").exists():
                await asyncio.sleep(0.02)
        # Five seconds beyond its longest operation, and a look or two.
        assert 4.0 < time.monotonic() - start_s < 9.0
        assert (await wait_for(http, url, task["id"]))["status"] == "completed"
        async with asyncio.timeout(20):
            while (await http.get(f"{url}/readyz")).status_code != 200:
                await asyncio.sleep(0.05)
        again = await submit(http, url, num_inference_steps=1)
        assert (await wait_for(http, url, again["id"]))["status"] == "completed"

    on_cluster(tmp_path, {**EMULATED, "time_scale": 20}, test=test)


@pytest.mark.parametrize("child", ["worker", "store"])
def test_one_that_is_frozen_while_it_starts_is_not_taken_to_load(
    tmp_path: Path, child: str
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url, former = cluster.urls[0], cluster.child_pid(0, child)
        os.kill(former, signal.SIGKILL)
        async with asyncio.timeout(20):
            while (frozen := pid_of(cluster, child)) in (None, former):
                await asyncio.sleep(0.005)
        assert frozen is not None
        os.kill(frozen, signal.SIGSTOP)
        start_s = time.monotonic()
        async with asyncio.timeout(30):
            while Path(f"/proc/{frozen}").exists():
                await asyncio.sleep(0.02)
        assert 4.0 < time.monotonic() - start_s < 9.0
        async with asyncio.timeout(30):
            while (await http.get(f"{url}/readyz")).status_code != 200:
                await asyncio.sleep(0.05)
        again = await submit(http, url, num_inference_steps=1)
        assert (await wait_for(http, url, again["id"]))["status"] == "completed"

    on_cluster(tmp_path, EMULATED, test=test)


def pid_of(cluster: LocalCluster, child: str) -> int | None:
    """As its record has it; None while there is none."""
    try:
        return cluster.child_pid(0, child)
    except (FileNotFoundError, IndexError):
        return None
