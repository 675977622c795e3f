"""One stream for a cluster of real nodes: tasks of all, a node that dies, going on from an id."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from tests.system.local import EMULATED, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
Told = tuple[str, dict[str, Any], str]


async def stream(http: httpx.AsyncClient, url: str, last: str = "") -> AsyncGenerator[Told, None]:
    """Events as (name, data, id); a block with an id alone has neither."""
    headers = {"Last-Event-ID": last} if last else {}
    async with http.stream("GET", f"{url}/v1/events", headers=headers) as response:
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                yield (
                    fields.get("event", ""),
                    json.loads(fields.get("data", "{}")),
                    fields.get("id", ""),
                )
                fields = {}


def test_tasks_of_all_nodes_and_the_nodes_are_one_stream(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        last = ""
        async with asyncio.timeout(60), aclosing(stream(http, first)) as events:
            known: set[str] = set()
            while len(known) < 2:  # until both are followed
                name, _, event_id = await anext(events)
                known |= {one.partition(":")[0] for one in event_id.split(",") if event_id}
                last = event_id or last
            tasks = [await submit(http, url, num_inference_steps=2) for url in cluster.urls]
            seen: dict[str, list[str]] = {task["id"]: [] for task in tasks}
            while not all("finished" in kinds for kinds in seen.values()):
                name, told, event_id = await anext(events)
                if name == "task":
                    seen[told["task_id"]].append(told["type"])
        for kinds in seen.values():
            assert kinds[:2] == ["queued", "placed"]
            assert kinds.count("finished") == 1
        # Whoever comes again with what he saw last is told what happened since.
        again: set[str] = set()
        async with asyncio.timeout(20), aclosing(stream(http, first, last)) as events:
            async for name, told, _ in events:
                assert name != "missed"
                if name == "task" and told["type"] == "finished":
                    again.add(told["task_id"])
                if again == set(seen):
                    break
        async with asyncio.timeout(60), aclosing(stream(http, first, last)) as events:
            cluster.signal_node(1, signal.SIGKILL)
            async for name, told, _ in events:
                if name == "node" and told == {
                    "node": "node-1",
                    "alive": False,
                    "accepting": False,
                }:
                    break
            await asyncio.to_thread(cluster.wait_node, 1)
            cluster.start_node(1)
            # What its former life knew is gone: that is said, and lists have it.
            async for name, told, _ in events:
                if name == "missed":
                    assert told == {"node": "node-1"}
                    break
            task = await submit(http, cluster.urls[0], num_inference_steps=1)
            await wait_for(http, first, task["id"])

    on_cluster(tmp_path, EMULATED, EMULATED, test=test)


def test_events_of_a_task_go_on_after_its_origin_was_killed(tmp_path: Path) -> None:
    """Ids go on rising, so that what was seen last is all that a client needs to keep."""
    slow = {**EMULATED, "time_scale": 2}

    async def told_after(
        http: httpx.AsyncClient, url: str, last: str
    ) -> AsyncGenerator[Told, None]:
        headers = {"Last-Event-ID": last} if last else {}
        async with http.stream("GET", url, headers=headers) as response:
            assert response.status_code == 200
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if line and name:
                    fields[name] = value
                elif fields:
                    yield fields["event"], json.loads(fields["data"]), fields["id"]
                    fields = {}

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        task = await submit(http, cluster.urls[0], num_inference_steps=12)
        url = f"{cluster.urls[0]}/v1/tasks/{task['id']}/events"
        seen: list[int] = []
        async with asyncio.timeout(60), aclosing(told_after(http, url, "")) as events:
            async for name, _, event_id in events:
                seen.append(int(event_id))
                if name == "step":
                    break
        cluster.signal_node(0, signal.SIGKILL)
        await asyncio.to_thread(cluster.wait_node, 0)
        cluster.start_node(0)
        async with RestClient(timeout_s=5) as client:
            await cluster.wait_ready(client, 0)
        kinds: list[str] = []
        async with asyncio.timeout(60), aclosing(told_after(http, url, str(seen[-1]))) as events:
            async for name, _, event_id in events:
                seen.append(int(event_id))
                kinds.append(name)
        assert seen == sorted(set(seen)), "no id comes twice, and none is lower than one before"
        assert kinds.count("finished") == 1
        assert kinds[-1] == "finished"
        assert (await http.get(url, headers={"Last-Event-ID": str(seen[-1])})).status_code == 204

    on_cluster(tmp_path, slow, slow, test=test)
