"""Init images in a real cluster: they reach whoever draws, and outlive a crash of their node."""

from __future__ import annotations

import base64
import io
import signal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from tests.system.local import (
    EMULATED,
    QUICK_LEASE,
    decoded,
    image_of,
    on_cluster,
    submit,
    wait_for,
)

pytestmark = pytest.mark.system
SLOW = {**EMULATED, "time_scale": 5, **QUICK_LEASE}
HALF_OF_TEN = {"num_inference_steps": 10, "strength": 0.5}


def photo(colour: str, size_px: tuple[int, int] = (512, 256)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size_px, colour).save(content, "PNG")
    return content.getvalue()


def kept_file(cluster: LocalCluster, index: int, sha256: str) -> Path:
    return cluster.folder / cluster.node_ids[index] / "init_images" / f"{sha256}.png"


def test_an_edit_is_offloaded_with_its_image(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        executors = {}
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            for colour in ("red", "blue"):  # one for each node, by turns
                answer = await client.images.with_raw_response.edit(
                    image=("p.png", photo(colour)), prompt="a boat", extra_body=HALF_OF_TEN
                )
                (image,) = answer.parse().data or []
                assert decoded(base64.b64decode(image.b64_json or "")).size == (512, 256)
                executors[answer.headers["x-dedgeai-executor"]] = answer.headers[
                    "x-dedgeai-task-id"
                ]
        assert set(executors) == {"node-0", "node-1"}
        task = (await http.get(f"{cluster.urls[1]}/v1/tasks/{executors['node-1']}")).json()
        assert (task["strength"], task["steps_done"], task["progress"]) == (0.5, 5, 100)
        for index in (0, 1):  # at its origin and where it was drawn
            made = decoded(kept_file(cluster, index, task["init_image_sha256"]).read_bytes())
            assert made.getpixel((256, 128)) == (0, 0, 255)
        events = (await http.get(f"{url}/v1/tasks/{task['id']}/events")).text
        # Steps that end within a moment of each other are told as one.
        assert 1 <= events.count("event: step") <= 5
        assert '"step":5,"steps":5' in events

    on_cluster(tmp_path, EMULATED | {"policy": "round_robin"}, EMULATED, test=test)


def test_init_images_outlive_kill_9_of_their_origin(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        tasks: list[dict[str, Any]] = []
        for colour in ("red", "blue", "green"):
            init_image = base64.b64encode(photo(colour)).decode()
            tasks.append(await submit(http, url, colour, init_image=init_image, **HALF_OF_TEN))
        cluster.signal_node(0, signal.SIGKILL)
        cluster.wait_node(0)
        # The disk lost one of them: its task says so instead of waiting for ever.
        kept_file(cluster, 0, tasks[1]["init_image_sha256"]).unlink()
        cluster.start_node(0)
        async with RestClient(timeout_s=5) as client:
            await cluster.wait_ready(client, 0)
        red, blue, green = [await wait_for(http, url, task["id"]) for task in tasks]
        assert (blue["status"], blue["error"]["code"]) == ("failed", "init_image_gone")
        for task in (red, green):
            assert task["status"] == "completed", task
            assert (await image_of(http, url, task["id"])).size == (512, 256)

    on_cluster(tmp_path, SLOW, test=test)
