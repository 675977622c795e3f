"""Clients without keys take turns: one that sends much does not keep another waiting."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster, wait_for

pytestmark = pytest.mark.system

# Some 50 ms an image: the first client's take 10 s on two devices.
BUSY = {**EMULATED, "time_scale": 60.0}
MUCH = 400


async def send(http: httpx.AsyncClient, url: str, address: str, count: int) -> list[str]:
    ids: list[str] = []
    while len(ids) < count:
        body = {"prompt": "a red circle", "n": min(10, count - len(ids)), "priority": 9}
        answer = await http.post(f"{url}/v1/tasks", json=body, headers={"X-Forwarded-For": address})
        assert answer.status_code == 202, answer.text
        told = answer.json()
        ids += [task["id"] for task in told.get("tasks", [told])]
    return ids


@pytest.mark.parametrize("by_address", [True, False])
def test_one_request_is_not_stuck_behind_those_of_another_address(
    tmp_path: Path, by_address: bool
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        first = await send(http, url, "10.0.0.1", MUCH)
        [second] = await send(http, cluster.urls[1], "10.0.0.2", 1)
        done = await wait_for(http, url, second)
        assert done["status"] == "completed"
        listed = (await http.get(f"{url}/v1/tasks?status=completed&limit=1")).json()["data"]
        assert listed
        left = (await http.get(f"{url}/v1/tasks?status=queued&limit=200")).json()["data"]
        assert (len(left) > 100) is by_address, f"{len(left)} of {len(first)} wait"
        cancelled = await http.delete(f"{url}/v1/tasks?status=queued")
        assert cancelled.status_code == 200

    on_cluster(tmp_path, *[{**BUSY, "turns_by_address": by_address}] * 2, test=test)
