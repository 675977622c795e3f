"""A node whose hard limit of open files is low, and more silent connections than that."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
FILES_MAX = 1024
SILENT = 1100


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
            for _ in range(5):
                assert (await http.get(f"{url}/livez", timeout=2.0)).status_code == 200
                task = await submit(http, url, num_inference_steps=1)
                done = await wait_for(http, url, task["id"], timeout_s=10.0)
                assert done["status"] == "completed"
                await asyncio.sleep(0.5)
        assert (tmp_path / "node-0" / "node.log").stat().st_size - log_bytes < 20_000

    on_cluster(tmp_path, {**EMULATED, "connections_max": 700}, test=test)
