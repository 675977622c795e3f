"""An operator has nodes take no work and take it again, at whichever node he asks: real nodes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, QUICK_LEASE, on_cluster, submit, wait_for

pytestmark = pytest.mark.system


async def seen(http: httpx.AsyncClient, url: str, node_id: str, *, paused: bool) -> None:
    """Until the node at `url` sees another one so."""
    async with asyncio.timeout(20):
        while True:
            told = (await http.get(f"{url}/v1/cluster")).json()
            all_of_them = [told["own"], *told["peers"]]
            if [one["paused"] for one in all_of_them if one["node"] == node_id] == [paused]:
                return
            await asyncio.sleep(0.05)


async def drawn_by(http: httpx.AsyncClient, url: str, *, count: int) -> set[str]:
    tasks = [await submit(http, url, num_inference_steps=2) for _ in range(count)]
    ended = [await wait_for(http, url, task["id"]) for task in tasks]
    assert {one["status"] for one in ended} == {"completed"}
    return {one["executor"] for one in ended}


def test_a_paused_node_draws_nothing_and_takes_tasks_for_others(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first, second = cluster.urls
        for asked, paused in ((first, "node-1"), (second, "node-1"), (second, "node-0")):
            answer = await http.post(f"{asked}/v1/nodes/{paused}/pause")
            assert answer.json() == {"object": "node", "node": paused, "paused": True}
            for url in cluster.urls:
                await seen(http, url, paused, paused=True)
            other = {"node-0", "node-1"} - {paused}
            for url in cluster.urls:
                assert await drawn_by(http, url, count=4) == other
            own = cluster.urls[int(paused[-1])]
            ready = (await http.get(f"{own}/readyz")).json()
            assert ready["status"] == "ready"
            assert "paused by an operator" in ready["notes"]
            answer = await http.post(f"{asked}/v1/nodes/{paused}/resume")
            assert answer.json()["paused"] is False
            for url in cluster.urls:
                await seen(http, url, paused, paused=False)
        assert await drawn_by(http, first, count=12) == {"node-0", "node-1"}
        missing = await http.post(f"{first}/v1/nodes/node-7/pause")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "node_not_found")
        cluster.signal_node(1, signal.SIGKILL)
        async with asyncio.timeout(20):
            while (await http.get(f"{first}/v1/cluster")).json()["peers"][0]["alive"]:
                await asyncio.sleep(0.05)
        away = await http.post(f"{first}/v1/nodes/node-1/resume")
        assert (away.status_code, away.json()["error"]["code"]) == (503, "node_away")

    on_cluster(tmp_path, EMULATED, EMULATED, test=test)


def test_a_drained_node_gives_back_what_it_has_of_others(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        tasks = [await submit(http, first, num_inference_steps=20) for _ in range(6)]

        async def executors() -> dict[str, str]:
            shown = [(await http.get(f"{first}/v1/tasks/{task['id']}")).json() for task in tasks]
            return {one["id"]: one["executor"] for one in shown if one["status"] != "completed"}

        async with asyncio.timeout(20):
            while "node-1" not in (await executors()).values():
                await asyncio.sleep(0.02)
        assert (await http.post(f"{first}/v1/nodes/node-1/drain")).status_code == 200
        async with asyncio.timeout(20):
            while "node-1" in (await executors()).values():
                await asyncio.sleep(0.02)
        for task in tasks:
            assert (await wait_for(http, first, task["id"]))["status"] == "completed"

    settings = {**EMULATED, **QUICK_LEASE, "policy": "round_robin"}
    on_cluster(tmp_path, settings, settings, test=test)
