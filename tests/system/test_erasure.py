"""Erased tasks on real nodes: no file of any node has a word of them, whoever is killed."""

from __future__ import annotations

import asyncio
import base64
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, decoded, on_cluster, submit, wait_for
from tests.system.test_image_to_image import photo

pytestmark = pytest.mark.system
WORDS = "xyzzy-plugh"
ASKED: dict[str, Any] = {
    "negative_prompt": f"not {WORDS}",
    "num_inference_steps": 4,
    "strength": 0.5,
}


def holding(folder: Path) -> list[str]:
    """Files of all nodes that hold the words, and every init image."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = [path for path in files if path.parent.name == "init_images"]
    for path in files:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        if WORDS.encode() in content:
            found.append(path)
    return [str(path.relative_to(folder)) for path in found]


async def nothing_left(cluster: LocalCluster) -> None:
    async with asyncio.timeout(100):  # the store's file is rewritten once a minute at most
        while holding(cluster.folder):
            await asyncio.sleep(0.5)


def test_an_erased_task_leaves_all_nodes_though_they_are_killed(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        tasks = []
        for colour in ("red", "blue"):  # one for each node, by turns
            init_image = base64.b64encode(photo(colour)).decode()
            task = await submit(http, url, WORDS, init_image=init_image, **ASKED)
            tasks.append(await wait_for(http, url, task["id"]))
        assert {task["executor"] for task in tasks} == {"node-0", "node-1"}
        before = holding(cluster.folder)
        assert len([one for one in before if "init_images" in one]) == 3, before
        assert len([one for one in before if "/images/" in one]) == 2, "in the PNG, as configured"
        cluster.signal_node(1, signal.SIGKILL)
        for task in tasks:
            answer = await http.post(f"{url}/v1/tasks/{task['id']}/erase")
            assert answer.json() == {"id": task["id"], "object": "image.task", "erased": True}
        cluster.signal_node(0, signal.SIGKILL)
        for index in (0, 1):
            cluster.wait_node(index)
            cluster.start_node(index)
        await nothing_left(cluster)
        for path in ("", "/image", "/events"):
            for node in cluster.urls:
                async with asyncio.timeout(20):  # nodes that begin anew have to meet first
                    while True:
                        answer = await http.get(f"{node}/v1/tasks/{tasks[0]['id']}{path}")
                        if answer.status_code != 503:
                            break
                        await asyncio.sleep(0.1)
                assert answer.status_code == 410, answer.text
                assert answer.json()["error"]["code"] == "task_erased"
        again = await http.post(f"{cluster.urls[1]}/v1/tasks/{tasks[0]['id']}/erase")
        assert again.json()["erased"], "as often as anybody likes"

    on_cluster(tmp_path, EMULATED | {"policy": "round_robin"}, EMULATED, test=test)


def test_a_task_that_is_being_drawn_elsewhere_is_ended_and_erased(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        init_image = base64.b64encode(photo("red")).decode()
        ids = []
        for _ in range(2):
            task = await submit(
                http, cluster.urls[0], WORDS, init_image=init_image, num_inference_steps=50
            )
            ids.append(task["id"])
            await wait_for(http, cluster.urls[0], task["id"], "in_progress")
        for task_id in ids:  # at the other node: its origin does it
            answer = await http.post(f"{cluster.urls[1]}/v1/tasks/{task_id}/erase")
            assert answer.status_code == 200, answer.text
        cluster_view = (await http.get(f"{cluster.urls[0]}/v1/cluster")).json()
        assert cluster_view["tasks_in_flight"] == 0
        await nothing_left(cluster)

    on_cluster(tmp_path, EMULATED | {"policy": "round_robin", "time_scale": 2}, EMULATED, test=test)


def test_words_leave_after_their_time_and_the_picture_stays(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        task = await submit(http, url, WORDS, num_inference_steps=4)
        await wait_for(http, url, task["id"])
        drawn = (await http.get(f"{url}/v1/tasks/{task['id']}/image")).content
        assert WORDS.encode() in drawn
        async with asyncio.timeout(20):
            while (left := (await http.get(f"{url}/v1/tasks/{task['id']}")).json())["prompt"]:
                await asyncio.sleep(0.2)
        assert (left["status"], left["prompt"]) == ("completed", None)
        await nothing_left(cluster)
        kept = (await http.get(f"{url}/v1/tasks/{task['id']}/image")).content
        assert WORDS.encode() not in kept
        assert b"emulated_device" in kept, "what it says beside stays"
        assert decoded(kept).tobytes() == decoded(drawn).tobytes()

    on_cluster(tmp_path, EMULATED | {"prompt_keep_s": 3.0}, test=test)
