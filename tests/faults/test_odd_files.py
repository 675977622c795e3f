"""A real node that finds, where its own files belong, what is none of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from tests.system.local import EMULATED, image_of, on_cluster, submit, wait_for

pytestmark = pytest.mark.system


def a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "something").write_text("somebody's")


def text(said: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.write_text(said)

    return write


@pytest.mark.parametrize(
    "odd",
    [
        {
            "clock.json": text("[" * 100_000),
            "run/store.pid": text("99999999999999999999 5 x"),
            "run/worker.pid": text("-5 5 x"),
            "run/store.sock": text("x"),
            "run/worker.sock": text("x"),
            "images/fifo.png": os.mkfifo,
        },
        {
            "clock.json": text('{"unix_s":1e308,"boot_s":1,"boot_id":"","synchronised":true}'),
            "run/store.pid": a_folder,
            "run/worker.pid": text("\N{FOX FACE}"),
            "run/store.sock": a_folder,
            "run/worker.sock": a_folder,
            "run/store.log": a_folder,
        },
    ],
    ids=["texts", "folders"],
)
def test_a_node_starts_over_what_is_in_the_way(
    tmp_path: Path, odd: dict[str, Callable[[Path], None]]
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url, folder = cluster.urls[0], cluster.folder / "node-0"
        before = await submit(http, url, num_inference_steps=1)
        assert (await wait_for(http, url, before["id"]))["status"] == "completed"
        cluster.signal_node(0, signal.SIGTERM)
        cluster.wait_node(0)
        for name, make in odd.items():
            make(folder / name)
        cluster.start_node(0)
        async with RestClient(timeout_s=5) as client:
            await cluster.wait_ready(client, 0, ready_s_max=30.0)
        await image_of(http, url, before["id"])
        after = await submit(http, url, num_inference_steps=1)
        assert (await wait_for(http, url, after["id"]))["status"] == "completed"
        said = (folder / "node.log").read_text()
        assert "Traceback" not in said
        assert f"{folder / 'run/store.sock'} was in the way" in said

    on_cluster(tmp_path, EMULATED, test=test)
