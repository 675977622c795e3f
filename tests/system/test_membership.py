"""Nodes that join and leave a running cluster, and settings that change while it runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from edge_node import cli
from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from tests.peering.test_discovery import needs_multicast
from tests.system.local import EMULATED, cluster_of, free_port, on_cluster, submit, wait_for

pytestmark = pytest.mark.system


async def until(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.05)


async def nodes_seen(http: httpx.AsyncClient, url: str) -> set[str]:
    """Other nodes that would draw for this one."""
    view = (await http.get(f"{url}/v1/cluster")).json()
    return {peer["node"] for peer in view["peers"] if peer["alive"] and peer["accepting"]}


async def executors(http: httpx.AsyncClient, url: str, *, tasks: int) -> set[str]:
    """Who drew so many tasks of one node."""
    ids = [(await submit(http, url, num_inference_steps=2))["id"] for _ in range(tasks)]
    drawn = [await wait_for(http, url, task_id) for task_id in ids]
    assert {task["status"] for task in drawn} == {"completed"}
    return {task["executor"] for task in drawn}


def test_a_third_node_joins_a_running_pair_draws_leaves_and_rejoins(tmp_path: Path) -> None:
    async def story(pair: LocalCluster, http: httpx.AsyncClient, third: LocalCluster) -> None:
        first, second = pair.urls

        async def joined() -> bool:
            return all(["newcomer" in await nodes_seen(http, url) for url in pair.urls])

        async def gone() -> bool:
            views = [(await http.get(f"{url}/v1/cluster")).json() for url in pair.urls]
            return all(len(view["peers"]) == 1 for view in views)

        async with third:
            await until(joined)
            assert await executors(http, first, tasks=6) == {"node-0", "node-1", "newcomer"}
            own = await submit(http, third.urls[0], num_inference_steps=2)
            assert (await wait_for(http, second, own["id"]))["status"] == "completed"

            third.signal_node(0, signal.SIGTERM)
            assert third.wait_node(0) == 0
            await until(gone, timeout_s=2.0)
            assert await executors(http, first, tasks=4) == {"node-0", "node-1"}
            away = await http.get(f"{second}/v1/tasks/{own['id']}")
            assert (away.status_code, away.json()["error"]["code"]) == (503, "origin_unavailable")
            assert "retry-after" in away.headers

            third.start_node(0)
            async with RestClient(timeout_s=5.0) as client:
                await third.wait_ready(client, 0)
            await until(joined)
            assert "newcomer" in await executors(http, first, tasks=6)
            assert (await http.get(f"{second}/v1/tasks/{own['id']}")).status_code == 200

    async def test(pair: LocalCluster, http: httpx.AsyncClient) -> None:
        views = [(await http.get(f"{url}/v1/cluster")).json() for url in reversed(pair.urls)]
        addresses = ",".join(view["peers"][0]["address"] for view in views)
        newcomer = EMULATED | {"node_id": "newcomer", "peers": addresses}
        await story(pair, http, cluster_of(tmp_path / "third", newcomer))

    on_cluster(tmp_path / "pair", EMULATED | {"policy": "round_robin"}, EMULATED, test=test)


def test_a_dead_node_is_removed_everywhere_and_stays_out_until_it_is_readmitted(
    tmp_path: Path,
) -> None:
    async def nodes(http: httpx.AsyncClient, url: str) -> tuple[set[str | None], list[str]]:
        told = (await http.get(f"{url}/v1/cluster")).json()
        return {one["node"] for one in told["peers"]}, [one["node"] for one in told["removed"]]

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first, second, third = cluster.urls
        alive = await http.post(f"{first}/v1/nodes/node-2/remove")
        assert (alive.status_code, alive.json()["error"]["code"]) == (409, "node_alive")
        lost = await submit(http, third, num_inference_steps=2)
        await wait_for(http, third, lost["id"])
        cluster.signal_node(2, signal.SIGKILL)
        cluster.wait_node(2)

        async def removed() -> bool:
            answer = await http.post(f"{first}/v1/nodes/node-2/remove")
            return answer.status_code == 200

        async def gone() -> bool:
            seen = [await nodes(http, url) for url in (first, second)]
            return seen == [({"node-1"}, ["node-2"]), ({"node-0"}, ["node-2"])]

        await until(removed)
        await until(gone)
        node = ("--node", first)
        assert await asyncio.to_thread(cli.main, ["nodes", "remove", "node-2", *node]) == 0
        assert await asyncio.to_thread(cli.main, ["nodes", "remove", "node-9", *node]) != 0
        for url in (first, second):
            answer = await http.get(f"{url}/v1/tasks/{lost['id']}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "task_not_found")
            assert "removed" in answer.json()["error"]["message"]
        # Neither its own restart nor another node's lets it in.
        cluster.signal_node(1, signal.SIGTERM)
        cluster.wait_node(1)
        async with RestClient(timeout_s=5.0) as client:
            for index in (1, 2):
                cluster.start_node(index)
                await cluster.wait_ready(client, index)
        await until(gone)

        async def knows() -> bool:
            notes = (await http.get(f"{third}/readyz")).json().get("notes", [])
            return any("nodes readmit node-2" in note for note in notes)

        await until(knows)
        assert await executors(http, first, tasks=6) <= {"node-0", "node-1"}
        node = ("--node", second)
        assert await asyncio.to_thread(cli.main, ["nodes", "readmit", "node-2", *node]) == 0

        async def back() -> bool:
            return all(["node-2" in await nodes_seen(http, url) for url in (first, second)])

        await until(back)
        assert (await http.get(f"{first}/v1/tasks/{lost['id']}")).status_code == 200

    settings = EMULATED | {"policy": "round_robin"}
    on_cluster(tmp_path, settings, settings, settings, test=test)


@needs_multicast
def test_nodes_find_each_other_by_mdns(tmp_path: Path) -> None:
    mdns = EMULATED | {
        "discovery": "mdns",
        "cluster_name": f"lab-{uuid4().hex[:8]}",
        "peers": "",
        "accept_new_peers": False,
    }

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        async def met() -> bool:
            seen = [await nodes_seen(http, url) for url in cluster.urls]
            return seen == [{"node-1"}, {"node-0"}]

        async def alone() -> bool:
            seen = (await http.get(f"{cluster.urls[0]}/v1/cluster")).json()
            return not seen["peers"]

        await until(met)
        assert await executors(http, cluster.urls[0], tasks=4) == {"node-0", "node-1"}
        cluster.signal_node(1, signal.SIGTERM)
        assert cluster.wait_node(1) == 0
        await until(alone)

    on_cluster(tmp_path, mdns | {"policy": "round_robin"}, mdns, test=test)


class ConfiguredNode(LocalCluster):
    """A single node that reads a file."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__([EMULATED | settings], rest_port=free_port(1), folder=folder)
        self.path = folder / "node.toml"
        folder.mkdir()

    def _command(self, index: int) -> list[str]:
        return [*super()._command(index), "--config", str(self.path)]


def test_sighup_reloads_what_may_change(tmp_path: Path) -> None:
    async def run() -> None:
        node = ConfiguredNode(tmp_path / "node")
        node.path.write_text("steps_default = 2\nimages_per_request_max = 3\n")
        async with node, httpx.AsyncClient(timeout=30.0, trust_env=False) as http:
            url = node.urls[0]

            async def steps_become(steps: int) -> bool:
                return bool((await submit(http, url))["num_inference_steps"] == steps)

            assert await steps_become(2)
            node.path.write_text("steps_default = 4\nimages_per_request_max = 1\nattempts_max = 9")
            node.signal_node(0, signal.SIGHUP)
            await until(lambda: steps_become(4))
            refused = await http.post(f"{url}/v1/tasks", json={"prompt": "x", "n": 2})
            assert refused.status_code == 400
            node.path.write_text("steps_default = -1")
            node.signal_node(0, signal.SIGHUP)
            log_path = node.folder / "node-0" / "node.log"

            async def complained() -> bool:
                return "settings stay as they are: steps_default (file)" in log_path.read_text()

            await until(complained)
            assert await steps_become(4)
            assert "attempts_max has changed and needs a restart" in log_path.read_text()

    asyncio.run(run())
