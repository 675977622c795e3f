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
