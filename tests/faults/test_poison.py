"""A task of which workers die: it ends as poisoned, others are drawn, an operator can retry it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from edge_node.cli import main
from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster, submit, wait_for

pytestmark = pytest.mark.system

SLOW = {**EMULATED, "time_scale": 10, "policy": "least_expected_delay", "rows_max": 1}


async def kill_its_workers(
    cluster: LocalCluster, http: httpx.AsyncClient, task_id: str
) -> list[str]:
    """Ends the worker whenever it draws the task, until the task is final; says whose."""
    killed: list[str] = []
    attempt = 0
    while True:
        task = (await http.get(f"{cluster.urls[0]}/v1/tasks/{task_id}")).json()
        if task["status"] not in ("queued", "in_progress"):
            return killed
        if task["status"] == "in_progress" and task["attempt"] > attempt:
            attempt = task["attempt"]
            index = cluster.node_ids.index(task["executor"])
            os.kill(cluster.child_pid(index, "worker"), signal.SIGKILL)
            killed.append(task["executor"])
        await asyncio.sleep(0.02)


def test_poison_ends_after_two_workers_and_can_be_retried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        poison = await submit(http, url, "poison", num_inference_steps=30, seed=7)
        others = [await submit(http, url, f"{i}", num_inference_steps=2) for i in range(4)]
        killed = await kill_its_workers(cluster, http, poison["id"])
        assert sorted(killed) == ["node-0", "node-1"]
        ended = await wait_for(http, url, poison["id"])
        assert ended["error"]["code"] == "poisoned"
        assert "2 workers died" in ended["error"]["message"]
        assert "2 attempts on 2 devices" in ended["error"]["message"]
        for other in others:
            assert (await wait_for(http, url, other["id"]))["status"] == "completed"
        # An operator lists it, and tries it again, once.
        capsys.readouterr()
        run = asyncio.to_thread
        assert await run(main, ("dead-letters", "--node", url)) == 0
        assert poison["id"] in capsys.readouterr().out
        for _ in range(2):
            assert await run(main, ("dead-letters", "--node", url, "--retry", poison["id"])) == 0
        first, second = capsys.readouterr().out.splitlines()
        assert first == second
        again = await wait_for(http, url, first.split()[-1])
        assert (again["status"], again["prompt"], again["seed"]) == ("completed", "poison", 7)
        assert await run(main, ("dead-letters", "--node", url)) == 0
        assert capsys.readouterr().out == ""
        refused = ("dead-letters", "--node", url, "--retry", others[0]["id"])
        assert await run(main, refused) == 2

    on_cluster(tmp_path, SLOW, SLOW, test=test)


def test_a_worker_alone_is_back_at_once_after_each_poison(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        for _ in range(3):
            poison = await submit(http, url, "poison", num_inference_steps=30)
            assert len(await kill_its_workers(cluster, http, poison["id"])) == 2
            assert (await wait_for(http, url, poison["id"]))["error"]["code"] == "poisoned"
        start_s = time.monotonic()
        innocent = await submit(http, url, "innocent", num_inference_steps=1)
        assert (await wait_for(http, url, innocent["id"]))["status"] == "completed"
        assert time.monotonic() - start_s < 5.0  # the sixth wait would be 6.4 s, were each doubled

    on_cluster(tmp_path, SLOW, test=test)


def test_a_worker_that_is_told_to_stop_poisons_nothing(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        task = await submit(http, url, "restarted", num_inference_steps=20)
        for attempt in (1, 2, 3):
            while True:
                seen = (await http.get(f"{url}/v1/tasks/{task['id']}")).json()
                assert seen["status"] in ("queued", "in_progress")
                if seen["status"] == "in_progress" and seen["attempt"] >= attempt:
                    break
                await asyncio.sleep(0.02)
            os.kill(cluster.child_pid(0, "worker"), signal.SIGTERM)
        ended = await wait_for(http, url, task["id"])
        assert ended["status"] == "completed", ended["error"]

    on_cluster(tmp_path, SLOW, test=test)
