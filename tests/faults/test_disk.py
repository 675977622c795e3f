"""A real node on a real file system that fills up, or whose folder vanishes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, image_of, on_cluster, submit, wait_for

pytestmark = pytest.mark.system

QUICK: dict[str, Any] = {**EMULATED, "time_scale": 100}
MIB = 2**20
PARTS = ("images", "init_images", "run", "store", "store/appendonlydir")


def fill(path: Path, *, leaving: int) -> None:
    """Takes all room of a disk but so many bytes."""
    free = shutil.disk_usage(path.parent).free
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while free > leaving:
            free -= file.write(bytes(min(MIB, free - leaving)))


async def readiness(http: httpx.AsyncClient, url: str, *, wanted: int) -> str:
    """Waits five seconds at most until /readyz is so; what it says."""
    async with asyncio.timeout(5):
        while (answer := await http.get(f"{url}/readyz")).status_code != wanted:
            await asyncio.sleep(0.05)
    return answer.text


@pytest.mark.parametrize("small_disk", ["size=32m"], indirect=True)
def test_below_low_water_nothing_new_is_taken(small_disk: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url, ballast = cluster.urls[0], small_disk / "ballast"
        done = await submit(http, url, num_inference_steps=1)
        await wait_for(http, url, done["id"])
        await image_of(http, url, done["id"])
        fill(ballast, leaving=4 * MIB)
        said = await readiness(http, url, wanted=503)
        assert "MiB free, less than 8 (disk_free_bytes_min)" in said
        refused = await http.post(f"{url}/v1/tasks", json={"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "disk_low")
        assert int(refused.headers["retry-after"]) > 0
        await image_of(http, url, done["id"])  # too young to make room
        ballast.unlink()
        await readiness(http, url, wanted=200)
        task = await submit(http, url, num_inference_steps=1)
        assert (await wait_for(http, url, task["id"]))["status"] == "completed"

    settings = {**QUICK, "disk_free_bytes_min": 8 * MIB}
    on_cluster(small_disk / "nodes", settings, test=test)


@pytest.mark.parametrize("small_disk", ["size=32m,nr_inodes=600"], indirect=True)
def test_where_no_more_files_can_be_made_nothing_new_is_taken(small_disk: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url, ballast = cluster.urls[0], small_disk / "ballast"
        ballast.mkdir()
        for number in range(400):
            (ballast / str(number)).touch()
        assert "more files, whatever their size" in await readiness(http, url, wanted=503)
        refused = await http.post(f"{url}/v1/tasks", json={"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "disk_low")
        shutil.rmtree(ballast)
        await readiness(http, url, wanted=200)
        task = await submit(http, url, num_inference_steps=1)
        assert (await wait_for(http, url, task["id"]))["status"] == "completed"

    on_cluster(small_disk / "nodes", {**QUICK, "disk_free_bytes_min": 0}, test=test)


@pytest.mark.parametrize("small_disk", ["size=32m"], indirect=True)
def test_what_was_accepted_before_the_disk_was_full_is_stored_when_there_is_room(
    small_disk: Path,
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url, ballast = cluster.urls[0], small_disk / "ballast"
        tasks = [await submit(http, url, f"{i}", num_inference_steps=20) for i in range(8)]
        fill(ballast, leaving=0)
        await asyncio.sleep(4.0)  # all of them are drawn, and there is no room for any
        ballast.unlink()
        for task in tasks:
            assert (await wait_for(http, url, task["id"]))["status"] == "completed"
            assert (await image_of(http, url, task["id"])).size[0] > 0
        async with asyncio.timeout(20):
            while (await http.get(f"{url}/readyz")).status_code != 200:
                await asyncio.sleep(0.05)

    on_cluster(small_disk / "nodes", {**QUICK, "disk_free_bytes_min": 0}, test=test)


@pytest.mark.parametrize("small_disk", ["size=2m"], indirect=True)
def test_a_first_start_on_a_full_disk_says_that_it_is_full(small_disk: Path) -> None:
    fill(small_disk / "ballast", leaving=0)
    settings = ("engine=emulated", f"data_folder={small_disk / 'node'}", "rest_port=0")
    options = [part for one in (*settings, "grpc_port=0") for part in ("--set", one)]
    command = [sys.executable, "-m", "edge_node.cli", "node", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    said = ended.stderr.splitlines()[-1]
    assert said.startswith("dedgeai: ")
    assert "No space left on device" in said
    assert "If its disk is full, make room" in said
    assert "overcommit" not in said


def test_a_part_of_it_that_vanishes_is_noticed_too(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        for part in PARTS:
            folder = cluster.folder / "node-0" / part
            folder.rename(tmp_path / "elsewhere")
            try:
                said = await readiness(http, url, wanted=503)
                assert f"{folder} is gone, or is another one than at the start" in said
                folder.write_text("in the way")
                await asyncio.sleep(1.5)
                refused = await http.post(f"{url}/v1/tasks", json={"prompt": "x"})
                assert refused.status_code == 503
                folder.unlink()
            finally:
                (tmp_path / "elsewhere").rename(folder)
            await readiness(http, url, wanted=200)

    on_cluster(tmp_path / "nodes", QUICK, test=test)


def test_a_data_folder_that_vanishes_is_noticed_and_nothing_more_is_promised(
    tmp_path: Path,
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url, folder = cluster.urls[0], cluster.folder / "node-0"
        start_s = time.monotonic()
        folder.rename(tmp_path / "elsewhere")
        try:
            assert "is gone, or is another one" in await readiness(http, url, wanted=503)
            assert time.monotonic() - start_s < 5.0
            refused = await http.post(f"{url}/v1/tasks", json={"prompt": "x"})
            assert refused.status_code == 503
            assert "bring it back, and the node goes on" in refused.json()["error"]["message"]
            folder.mkdir()
            await asyncio.sleep(1.5)
            assert (await http.get(f"{url}/readyz")).status_code == 503  # it is another one
            folder.rmdir()
        finally:
            (tmp_path / "elsewhere").rename(folder)
        await readiness(http, url, wanted=200)

    on_cluster(tmp_path / "nodes", QUICK, test=test)
