"""Lists over real nodes: of all of them, each key's own, whole over restarts, honest about gaps."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster, submit, wait_for
from tests.system.test_keys import bearer, command, ready

pytestmark = pytest.mark.system


async def page(http: httpx.AsyncClient, url: str, query: str = "", key: str = "") -> dict[str, Any]:
    answer = await http.get(f"{url}/v1/tasks{query}", headers=bearer(key))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ids(http: httpx.AsyncClient, url: str, query: str = "?", key: str = "") -> list[str]:
    """To the end, two at a time; nobody is missing."""
    seen, cursor = [], ""
    while True:
        one = await page(http, url, f"{query}&limit=2{cursor}", key)
        assert one["missing"] == []
        seen += [task["id"] for task in one["data"]]
        if not one["has_more"]:
            return seen
        cursor = f"&cursor={one['next_cursor']}"


def test_a_list_is_of_all_nodes_and_each_keys_own(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "keys.json"
    where = ("--set", f"keys_file={file}")
    settings = {**EMULATED, "keys_file": str(file)}

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        alice, bob, operator = (
            command(capsys, "add", who, *scopes, *where)
            for who, scopes in (("alice", ()), ("bob", ()), ("eve", ("--scopes", "operate")))
        )
        made: dict[str, list[str]] = {alice: [], bob: []}
        async with asyncio.timeout(5):
            for url in cluster.urls:
                while (await http.get(f"{url}/v1/models")).status_code != 401:
                    await asyncio.sleep(0.1)
        body = {"prompt": "a fox", "num_inference_steps": 1}
        for number in range(6):
            key, url = (alice, bob)[number % 2], cluster.urls[number % 3 % 2]
            answer = await http.post(f"{url}/v1/tasks", json=body, headers=bearer(key))
            made[key].append(answer.json()["id"])
            http.headers.update(bearer(key))
            await wait_for(http, url, made[key][-1])
            del http.headers["Authorization"]
        every = [task for pair in zip(made[alice], made[bob], strict=True) for task in pair]
        for _ in range(2):
            for url in cluster.urls:
                assert await ids(http, url, key=alice) == made[alice][::-1]
                assert await ids(http, url, key=bob) == made[bob][::-1]
                assert await ids(http, url, key=operator) == every[::-1]
            # From the store, too, which is all that a new life has of them.
            cluster.signal_node(0, signal.SIGKILL)
            await asyncio.to_thread(cluster.wait_node, 0)
            cluster.start_node(0)
            await ready(http, cluster.urls[0])
            async with asyncio.timeout(20):  # until the nodes have met again
                while any([(await page(http, url, "", alice))["missing"] for url in cluster.urls]):
                    await asyncio.sleep(0.1)

    on_cluster(tmp_path, settings, settings, test=test)


def test_a_node_that_is_frozen_or_gone_is_named_and_the_rest_is_listed(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        tasks = [await submit(http, url, num_inference_steps=1) for url in cluster.urls]
        for task, url in zip(tasks, cluster.urls, strict=True):
            await wait_for(http, url, task["id"])
        cluster.signal_node(1, signal.SIGSTOP)
        try:
            frozen = await page(http, first)
        finally:
            cluster.signal_node(1, signal.SIGCONT)
        assert [task["id"] for task in frozen["data"]] == [tasks[0]["id"]]
        assert [one["node"] for one in frozen["missing"]] == ["node-1"]
        assert frozen["missing"][0]["reason"]
        cluster.signal_node(1, signal.SIGTERM)
        await asyncio.to_thread(cluster.wait_node, 1)
        gone = await page(http, first)
        assert [task["id"] for task in gone["data"]] == [tasks[0]["id"]]
        assert "node-1" in {one["node"] for one in gone["missing"]}

    on_cluster(tmp_path, EMULATED, EMULATED, test=test)


def test_many_are_cancelled_at_once_wherever_they_wait(tmp_path: Path) -> None:
    slow = {**EMULATED, "time_scale": 1.0}

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        jobs = [await submit(http, url, n=8, num_inference_steps=50) for url in cluster.urls]
        kept = await submit(http, cluster.urls[1], n=2, num_inference_steps=50, priority=5)
        one = await http.delete(f"{cluster.urls[0]}/v1/jobs/{kept['id']}")
        assert {task["status"] for task in one.json()["tasks"]} == {"cancelled"}
        answer = await http.delete(f"{cluster.urls[0]}/v1/tasks?all=true")
        assert answer.json() == {"object": "tasks.cancelled", "cancelled": 16, "missing": []}
        for job, url in zip(jobs, cluster.urls, strict=True):
            read = (await http.get(f"{url}/v1/jobs/{job['id']}")).json()
            assert {task["status"] for task in read["tasks"]} == {"cancelled"}
        assert (await page(http, cluster.urls[1], "?status=queued,in_progress"))["data"] == []
        async with asyncio.timeout(20):  # nobody draws on for nobody
            while True:
                own = [(await http.get(f"{url}/v1/cluster")).json()["own"] for url in cluster.urls]
                if not any(node["queued"] + node["running"] for node in own):
                    break
                await asyncio.sleep(0.1)

    on_cluster(tmp_path, slow, slow, test=test)
