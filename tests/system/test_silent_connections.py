"""A node whose hard limit of open files is low, and more silent connections than that."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import GRPC_PORT_ABOVE, LocalCluster
from tests.system.local import EMULATED, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
FILES_MAX = 1024
SILENT = 1100


def test_who_says_nothing_to_the_port_for_nodes_neither_stays_nor_takes_the_files(
    tmp_path: Path,
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url, rest_port = cluster.urls[0], httpx.URL(cluster.urls[0]).port
        assert rest_port is not None
        resource.prlimit(cluster.pid(0), resource.RLIMIT_NOFILE, (FILES_MAX, FILES_MAX))
        with contextlib.ExitStack() as silent:
            opened = [
                silent.enter_context(
                    socket.create_connection(("127.0.0.1", rest_port + GRPC_PORT_ABOVE))
                )
                for _ in range(SILENT)
            ]
            await goes_on(http, url)
            async with asyncio.timeout(60.0):
                while not all([is_closed(one) for one in opened]):  # noqa: C419 - reads them all
                    await asyncio.sleep(0.5)
        cluster.signal_node(1, signal.SIGKILL)
        cluster.wait_node(1)
        cluster.start_node(1)
        async with asyncio.timeout(60.0):
            while not await sees_the_other(http, cluster.urls):
                await asyncio.sleep(0.1)

    on_cluster(tmp_path, {**EMULATED, "connections_max": 600}, EMULATED, test=test)


async def goes_on(http: httpx.AsyncClient, url: str) -> None:
    """For some seconds the node answers and draws."""
    for _ in range(5):
        assert (await http.get(f"{url}/livez", timeout=2.0)).status_code == 200
        task = await submit(http, url, num_inference_steps=1)
        done = await wait_for(http, url, task["id"], timeout_s=10.0)
        assert done["status"] == "completed"
        await asyncio.sleep(0.5)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended it."""
    connection.setblocking(False)
    try:
        return not connection.recv(4096)
    except BlockingIOError:
        return False
    except OSError:
        return True


async def sees_the_other(http: httpx.AsyncClient, urls: list[str]) -> bool:
    """Whether each of two nodes hears the other."""
    try:
        seen = [(await http.get(f"{url}/v1/cluster")).json()["peers"][0]["alive"] for url in urls]
    except httpx.TransportError:
        return False
    return all(seen)


def test_a_node_answers_beside_more_silent_connections_than_it_may_have_files(
    tmp_path: Path,
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url, port = cluster.urls[0], httpx.URL(cluster.urls[0]).port
        assert port is not None
        resource.prlimit(cluster.pid(0), resource.RLIMIT_NOFILE, (FILES_MAX, FILES_MAX))
        log_bytes = (tmp_path / "node-0" / "node.log").stat().st_size
        with contextlib.ExitStack() as silent:
            for _ in range(SILENT):
                silent.enter_context(socket.create_connection(("127.0.0.1", port)))
            await goes_on(http, url)
        assert (tmp_path / "node-0" / "node.log").stat().st_size - log_bytes < 20_000

    on_cluster(tmp_path, {**EMULATED, "connections_max": 700}, test=test)
