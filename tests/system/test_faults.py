"""What happens to accepted tasks when processes die or freeze: real ones, with real signals."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from edge_node.worker_options import WorkerOptions
from tests.system.local import (
    EMULATED,
    QUICK_LEASE,
    image_of,
    kill,
    on_cluster,
    processes_of,
    submit,
    wait_for,
)

pytestmark = pytest.mark.system
SLOW = {**EMULATED, "time_scale": 5, **QUICK_LEASE}


async def offloaded_task(cluster: LocalCluster, http: httpx.AsyncClient) -> list[str]:
    """Tasks accepted by node-0, at least one of which node-1 is drawing."""
    tasks = [
        await submit(http, cluster.urls[0], f"a red circle {i}", num_inference_steps=12)
        for i in range(4)
    ]
    ids = [task["id"] for task in tasks]
    async with asyncio.timeout(20):
        while True:
            seen = [await wait_for(http, cluster.urls[0], i, "queued", "in_progress") for i in ids]
            if any(t["executor"] == "node-1" and t["status"] == "in_progress" for t in seen):
                return ids
            await asyncio.sleep(0.05)


async def check_all_images(
    cluster: LocalCluster, http: httpx.AsyncClient, ids: list[str]
) -> list[str]:
    """Every task ends as an image; returns who drew them."""
    executors = []
    for task_id in ids:
        task = await wait_for(http, cluster.urls[0], task_id)
        assert task["status"] == "completed", task
        image = await image_of(http, cluster.urls[0], task_id)
        assert image.size[0] > 0
        executors.append(task["executor"])
    return executors


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_peer_dies_or_freezes_in_mid_offload(tmp_path: Path, number: signal.Signals) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        ids = await offloaded_task(cluster, http)
        cluster.signal_node(1, number)
        executors = await check_all_images(cluster, http, ids)
        assert "node-0" in executors
        view = (await http.get(f"{cluster.urls[0]}/v1/cluster")).json()
        assert [peer["alive"] for peer in view["peers"]] == [False]

    on_cluster(tmp_path, SLOW | {"policy": "round_robin"}, SLOW, test=test)


def test_a_frozen_peer_that_thaws_is_a_candidate_again(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        ids = await offloaded_task(cluster, http)
        cluster.signal_node(1, signal.SIGSTOP)
        await check_all_images(cluster, http, ids)
        cluster.signal_node(1, signal.SIGCONT)
        async with asyncio.timeout(20):
            executor = ""
            while executor != "node-1":
                task = await submit(http, cluster.urls[0], num_inference_steps=1)
                executor = (await wait_for(http, cluster.urls[0], task["id"]))["executor"]

    on_cluster(tmp_path, SLOW | {"policy": "round_robin"}, SLOW, test=test)


def test_accepted_tasks_survive_kill_9_of_their_origin(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        ids = await offloaded_task(cluster, http)
        cluster.signal_node(0, signal.SIGKILL)
        cluster.wait_node(0)
        away = await http.get(f"{cluster.urls[1]}/v1/tasks/{ids[0]}")
        assert away.status_code == 503, away.text
        assert int(away.headers["retry-after"]) >= 1
        cluster.start_node(0)
        async with RestClient(timeout_s=5) as client:
            await cluster.wait_ready(client, 0)
        await check_all_images(cluster, http, ids)
        # Whoever was asked before and after, the answer is the same.
        there = await wait_for(http, cluster.urls[1], ids[0])
        assert there["status"] == "completed"

    on_cluster(tmp_path, SLOW | {"policy": "round_robin"}, SLOW, test=test)


def test_a_synchronous_request_whose_node_dies_ends_as_client_gone(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        body = {"prompt": "x", "stream": True}
        async with http.stream("POST", f"{url}/v1/images/generations", json=body) as response:
            task_id = response.headers["x-dedgeai-task-id"]
            assert response.headers["x-dedgeai-durability"] == "journalled"
            await wait_for(http, url, task_id, "in_progress")
            await asyncio.sleep(0.3)  # the journal is written behind
            cluster.signal_node(0, signal.SIGKILL)
            cluster.wait_node(0)
        cluster.start_node(0)
        async with RestClient(timeout_s=5) as client:
            await cluster.wait_ready(client, 0)
        ended = await wait_for(http, url, task_id)
        assert (ended["status"], ended["error"]["code"]) == ("failed", "client_gone")

    on_cluster(tmp_path, SLOW, test=test)


def test_a_client_that_hangs_up_frees_the_device(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        body = {"prompt": "x", "num_inference_steps": 50}
        with pytest.raises(httpx.ReadTimeout):
            await http.post(f"{url}/v1/images/generations", json=body, timeout=1.0)
        async with asyncio.timeout(5):
            while (await http.get(f"{url}/v1/cluster")).json()["own"]["backlog"]:
                await asyncio.sleep(0.05)
        assert (await http.get(f"{url}/v1/cluster")).json()["tasks_in_flight"] == 0

    on_cluster(tmp_path, SLOW, test=test)


def test_a_worker_of_somebody_elses_is_attached_and_outlives_the_node(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    options = WorkerOptions.from_json('{"engine": "emulated", "time_scale": 20}')
    with subprocess.Popen(options.command(path)) as worker:

        async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
            task = await submit(http, cluster.urls[0], num_inference_steps=2)
            ended = await wait_for(http, cluster.urls[0], task["id"])
            assert ended["status"] == "completed"

        settings = {key: value for key, value in EMULATED.items() if key.endswith("_s")}
        on_cluster(tmp_path / "data", settings | {"worker_socket": str(path)}, test=test)
        assert worker.poll() is None
        worker.terminate()


def test_a_worker_killed_in_mid_step_costs_no_task(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        task = await submit(http, cluster.urls[0], num_inference_steps=12)
        await wait_for(http, cluster.urls[0], task["id"], "in_progress")
        kill(cluster.child_pid(0, "worker"))
        ended = await wait_for(http, cluster.urls[0], task["id"])
        assert ended["status"] == "completed"
        assert ended["attempt"] > 1
        events = (await http.get(f"{cluster.urls[0]}/v1/tasks/{task['id']}/events")).text
        assert events.count("event: placed") >= 2

    on_cluster(tmp_path, SLOW, test=test)


def test_a_store_killed_comes_back_and_nothing_is_lost(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        task = await submit(http, cluster.urls[0], num_inference_steps=8)
        await wait_for(http, cluster.urls[0], task["id"], "in_progress")
        kill(cluster.child_pid(0, "store"))
        ended = await wait_for(http, cluster.urls[0], task["id"])
        assert ended["status"] == "completed"
        async with asyncio.timeout(20):
            while True:
                response = await http.post(f"{cluster.urls[0]}/v1/tasks", json={"prompt": "again"})
                if response.status_code == 202:
                    break
                assert response.status_code == 503, response.text
                assert "retry-after" in response.headers
                await asyncio.sleep(0.1)
        cluster.signal_node(0, signal.SIGKILL)
        cluster.wait_node(0)
        cluster.start_node(0)
        async with RestClient(timeout_s=5) as client:
            await cluster.wait_ready(client, 0)
        again = await wait_for(http, cluster.urls[0], task["id"])
        assert again["status"] == "completed"

    on_cluster(tmp_path, SLOW, test=test)


def test_kill_9_ten_times_leaves_one_worker_and_one_store(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        folder = cluster.folder / cluster.node_ids[0]
        async with RestClient(timeout_s=5) as client:
            for _ in range(10):
                cluster.signal_node(0, signal.SIGKILL)
                cluster.wait_node(0)
                cluster.start_node(0)
                for _ in range(8):
                    assert len(processes_of(folder, "edge_node.worker")) <= 1
                    assert len(processes_of(folder, "valkey-server")) <= 1
                    await asyncio.sleep(0.05)
            await cluster.wait_ready(client, 0)
        assert len(processes_of(folder, "edge_node.worker")) == 1
        assert len(processes_of(folder, "valkey-server")) == 1

    on_cluster(tmp_path, EMULATED, test=test)


def test_a_clean_stop_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "node-0"

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        assert processes_of(folder, "valkey-server")
        cluster.signal_node(0, signal.SIGTERM)
        assert cluster.wait_node(0) == 0
        assert processes_of(folder, "") == []

    on_cluster(tmp_path, EMULATED, test=test)
