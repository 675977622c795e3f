"""Settings that cannot be right, with real nodes: each is told in a sentence, and once."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import GRPC_PORT_ABOVE, LocalCluster
from edge_node.console.rest_client import RestClient
from tests.system.local import EMULATED, cluster_of, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
STRANGE = "no-such-node-01ARZ3NDEKTSV4RRFFQ69G5FAV"


def log_of(cluster: LocalCluster, index: int) -> str:
    return (cluster.folder / f"node-{index}" / "node.log").read_text(errors="replace")


@contextmanager
def not_started(folder: Path, *settings: dict[str, Any]) -> Iterator[LocalCluster]:
    cluster = cluster_of(folder, *settings)
    try:
        yield cluster
    finally:
        cluster.stop()


async def started(cluster: LocalCluster, *indices: int) -> None:
    async with RestClient(timeout_s=5) as client:
        for index in indices:
            cluster.start_node(index)
            await cluster.wait_ready(client, index)


async def until(true: Callable[[], Awaitable[bool] | bool], *, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            found = true()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.05)


def test_a_node_among_its_own_peers_says_so_once_and_works(tmp_path: Path) -> None:
    async def story(cluster: LocalCluster) -> None:
        await started(cluster, 0)
        url = cluster.urls[0]
        await until(lambda: "is this node itself" in log_of(cluster, 0))
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            task = await submit(http, url, num_inference_steps=2)
            assert (await wait_for(http, url, task["id"]))["status"] == "completed"
            assert (await http.get(f"{url}/v1/cluster")).json()["peers"] == []

            async def unknown() -> bool:
                return (await http.get(f"{url}/v1/tasks/{STRANGE}")).status_code == 404

            await until(unknown)
        assert log_of(cluster, 0).count("take it out of peers") == 1

    cluster = cluster_of(tmp_path, EMULATED)
    port = int(cluster.urls[0].rpartition(":")[2]) + GRPC_PORT_ABOVE
    peers = f"127.0.0.1:{port},localhost:{port}"
    with not_started(tmp_path, {**EMULATED, "peers": peers, "grpc_port": port}) as node:
        asyncio.run(story(node))


def test_two_nodes_of_one_name_say_so_once_and_work(tmp_path: Path) -> None:
    async def story(cluster: LocalCluster) -> None:
        await started(cluster, 0, 1, 2)
        sentence = "give every node its own node_id"
        await until(lambda: all(sentence in log_of(cluster, index) for index in (0, 1, 2)))
        await asyncio.sleep(2.0)  # ten heartbeats
        assert [log_of(cluster, index).count(sentence) for index in (0, 1)] == [1, 1]
        assert log_of(cluster, 2).count(sentence) == 1
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            for url in cluster.urls:
                task = await submit(http, url, num_inference_steps=2)
                assert (await wait_for(http, url, task["id"]))["status"] == "completed"

    settings = [EMULATED, {**EMULATED, "node_id": "node-0"}, EMULATED]
    folders = [{**one, "data_folder": tmp_path / f"data-{n}"} for n, one in enumerate(settings)]
    with not_started(tmp_path, *folders) as cluster:
        asyncio.run(story(cluster))


@pytest.mark.parametrize(("setting", "above"), [("grpc_port", GRPC_PORT_ABOVE), ("rest_port", 0)])
def test_a_taken_port_is_a_sentence_and_ends_the_node(
    tmp_path: Path, setting: str, above: int
) -> None:
    with not_started(tmp_path, EMULATED) as cluster, socket.socket() as holder:
        port = int(cluster.urls[0].rpartition(":")[2]) + above
        holder.bind(("127.0.0.1", port))
        holder.listen()
        cluster.start_node(0)
        assert cluster.wait_node(0, timeout_s=60.0) != 0
        said = log_of(cluster, 0)
        assert "Traceback" not in said
        (sentence,) = [line for line in said.splitlines() if f"port {port}" in line]
        assert setting in sentence


def test_tasks_of_a_dead_node_are_answered_for_at_once(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first, second = cluster.urls
        task = await submit(http, second, num_inference_steps=2)
        await wait_for(http, first, task["id"])
        cluster.signal_node(1, signal.SIGKILL)
        cluster.wait_node(1)

        async def known_dead() -> bool:
            peers = (await http.get(f"{first}/v1/cluster")).json()["peers"]
            return not any(peer["alive"] for peer in peers)

        await until(known_dead)
        for verb, path in (
            ("GET", f"/v1/tasks/{task['id']}"),
            ("GET", f"/v1/tasks/{task['id']}/image"),
            ("GET", f"/v1/tasks/{task['id']}/events"),
            ("DELETE", f"/v1/tasks/{task['id']}"),
        ):
            began_s = time.monotonic()
            answer = await http.request(verb, f"{first}{path}")
            assert time.monotonic() - began_s < 1.0, path
            assert answer.status_code == 503, path
            assert "has not been heard for" in answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) > 0

    on_cluster(tmp_path, EMULATED, EMULATED, test=test)


@pytest.mark.parametrize("folder", ["/proc/no/folder", "a_file"])
def test_a_data_folder_that_cannot_be_used_is_a_sentence(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a_file").write_text("x")
    named = tmp_path / folder
    with not_started(tmp_path / "nodes", {**EMULATED, "data_folder": named}) as cluster:
        cluster.start_node(0)
        assert cluster.wait_node(0) == 2
        said = log_of(cluster, 0)
        assert f"The data folder {named} cannot be used: " in said
        assert "Traceback" not in said


def test_a_lock_that_cannot_be_had_is_a_sentence_of_the_worker(tmp_path: Path) -> None:
    lock = tmp_path / "no-folder" / "lock"

    async def story() -> None:
        with not_started(tmp_path / "nodes", {**EMULATED, "worker_lock": lock}) as cluster:
            cluster.start_node(0)
            said = f"No such file or directory: '{lock}'): make its folder, or set worker_lock"
            log = cluster.folder / "node-0" / "node.log"
            await until(lambda: log.exists() and said in log_of(cluster, 0), timeout_s=60.0)
            cluster.signal_node(0, signal.SIGTERM)
            assert cluster.wait_node(0) == 0

    asyncio.run(story())
