"""A real node whose data folder is no longer its own to read or write, as an ordinary user.

Where the tests are root's, the node runs without the capabilities that put root above permissions.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from tests.system.local import EMULATED, free_port, image_of, submit, wait_for

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        os.getuid() == 0 and shutil.which("setpriv") is None,
        reason="permissions do not bind root, and setpriv is not there to make it ordinary",
    ),
]

PARTS = (("images", 0), ("run", 0), ("store", 0), ("store", 0o500), (".", 0), (".", 0o500))
COMMANDS = "store/appendonlydir/appendonly.aof.1.incr.aof"


class OrdinaryCluster(LocalCluster):
    """One node that permissions bind."""

    def _command(self, index: int) -> list[str]:
        command = super()._command(index)
        if os.getuid() != 0:
            return command
        return ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", *command]


async def reasons(http: httpx.AsyncClient, url: str) -> str:
    answer = (await http.get(f"{url}/readyz")).json()
    return "; ".join(answer.get("reasons", []))


async def while_it_runs(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
    (url,) = cluster.urls
    folder = cluster.folder / "node-0"
    for part, mode in PARTS:
        path = folder / part
        usual = path.stat().st_mode & 0o777
        before = await submit(http, url, num_inference_steps=1)
        path.chmod(mode)
        try:
            async with asyncio.timeout(5.0):
                while f"{path} cannot be read and written" not in await reasons(http, url):
                    await asyncio.sleep(0.05)
            refused = await http.post(f"{url}/v1/tasks", json={"prompt": "a red circle"})
            assert refused.status_code == 503
            told = f"give it back to user {os.getuid()}, as whom the node runs"
            assert told in refused.json()["error"]["message"]
        finally:
            path.chmod(usual)
        async with RestClient(timeout_s=5) as client:
            await cluster.wait_ready(client, 0, ready_s_max=5.0)
        assert (await wait_for(http, url, before["id"]))["status"] == "completed"
        await image_of(http, url, before["id"])


async def at_a_start(cluster: LocalCluster) -> None:
    folder = cluster.folder / "node-0"
    for part, mode in (
        ("images", 0),
        ("run", 0),
        ("store", 0o500),
        (COMMANDS, 0o400),
    ):
        path = folder / part
        usual = path.stat().st_mode & 0o777
        path.chmod(mode)
        begin = (folder / "node.log").stat().st_size
        try:
            began_s = time.monotonic()
            cluster.start_node(0)
            assert cluster.wait_node(0) == 2
            assert time.monotonic() - began_s < 20.0  # at rest one
        finally:
            path.chmod(usual)
        said = (folder / "node.log").read_text()[begin:]
        assert "Traceback" not in said
        last = said.splitlines()[-1]
        assert last.startswith(f"dedgeai: The data folder {folder} cannot be used: user ")
        assert f"may not read and write {path}." in last


def test_a_data_folder_that_is_no_longer_the_nodes_is_told_and_loses_nothing(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        cluster = OrdinaryCluster([EMULATED], rest_port=free_port(1), folder=tmp_path)
        async with cluster, httpx.AsyncClient(timeout=60.0, trust_env=False) as http:
            await while_it_runs(cluster, http)
            last = await submit(http, cluster.urls[0], num_inference_steps=1)
            await wait_for(http, cluster.urls[0], last["id"])
            cluster.signal_node(0, signal.SIGTERM)
            cluster.wait_node(0)
            await at_a_start(cluster)
            cluster.start_node(0)
            async with RestClient(timeout_s=5) as client:
                await cluster.wait_ready(client, 0)
            image = await image_of(http, cluster.urls[0], last["id"])
            assert image.size == (512, 512), "what was drawn before is there"

    asyncio.run(test())
