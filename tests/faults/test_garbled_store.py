"""A real node on a store whose files are garbled: it starts, or says at once how to mend them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from edge_node.cli import main
from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from edge_node.store.append_only import FOLDER
from tests.system.local import EMULATED, on_cluster, submit, wait_for

pytestmark = pytest.mark.system


async def stopped_with_tasks(cluster: LocalCluster, http: httpx.AsyncClient) -> list[str]:
    """Kills a node that has finished some tasks; their ids."""
    tasks = [await submit(http, cluster.urls[0], num_inference_steps=1) for _ in range(4)]
    for task in tasks:
        assert (await wait_for(http, cluster.urls[0], task["id"]))["status"] == "completed"
    cluster.signal_node(0, signal.SIGKILL)
    cluster.wait_node(0)
    return [task["id"] for task in tasks]


def incremental(cluster: LocalCluster) -> Path:
    (path,) = (cluster.folder / "node-0" / "store" / FOLDER).glob("*.incr.aof")
    return path


async def ready_again(cluster: LocalCluster) -> None:
    cluster.start_node(0)
    async with RestClient(timeout_s=5) as client:
        await cluster.wait_ready(client, 0)


def test_zeros_at_the_end_are_cut_off_and_nothing_is_lost(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        ids = await stopped_with_tasks(cluster, http)
        with incremental(cluster).open("ab") as file:
            file.write(bytes(4096))
        await ready_again(cluster)
        for task_id in ids:
            known = (await http.get(f"{cluster.urls[0]}/v1/tasks/{task_id}")).json()
            assert known["status"] == "completed"
        assert "4096 damaged bytes at its end" in (tmp_path / "node-0" / "node.log").read_text()

    on_cluster(tmp_path, EMULATED, test=test)


def test_garbage_in_the_middle_is_a_sentence_whose_command_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        ids = await stopped_with_tasks(cluster, http)
        path = incremental(cluster)
        with path.open("r+b") as file:
            file.seek(path.read_bytes().index(ids[1].encode()))
            file.write(os.urandom(200))
        start_s = time.monotonic()
        cluster.start_node(0)
        assert cluster.wait_node(0) == 2
        assert time.monotonic() - start_s < 20.0  # at rest one; it was thirty before it gave up
        said = (tmp_path / "node-0" / "node.log").read_text().splitlines()[-1]
        assert said.startswith("dedgeai: The task store is damaged: ")
        assert "`dedgeai store-repair`" in said
        command = ("store-repair", "--set", f"data_folder={tmp_path / 'node-0'}")
        assert await asyncio.to_thread(main, command) == 0
        named = capsys.readouterr().out
        assert f"lost: {ids[1]}, or its latest state" in named
        await ready_again(cluster)
        for task_id in (ids[0], ids[3]):
            known = (await http.get(f"{cluster.urls[0]}/v1/tasks/{task_id}")).json()
            assert known["status"] == "completed"

    on_cluster(tmp_path, EMULATED, test=test)
