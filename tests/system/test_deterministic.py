"""A seed gives the same file, however busy the node is that draws it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import on_cluster, submit, wait_for

pytestmark = pytest.mark.system

SETTINGS = {"torch_threads": 1, "image_task_ids": False, "deterministic": True}


def drawing(number: int) -> dict[str, Any]:
    return {
        "prompt": f"a {('red', 'blue', 'green')[number % 3]} circle, number {number}",
        "seed": number % 7,
        "num_inference_steps": 3 + number % 5,
        "guidance_scale": (1.0, 5.0)[number % 2],
        "output_format": ("png", "webp", "jpeg")[number % 3],
    }


def test_a_busy_node_draws_the_files_of_an_idle_one(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        wanted = [drawing(number) for number in range(24)]

        async def drawn(one: dict[str, Any]) -> bytes:
            task = await submit(http, url, **one)
            assert (await wait_for(http, url, task["id"]))["status"] == "completed"
            image = await http.get(f"{url}/v1/tasks/{task['id']}/image")
            return image.content

        alone = [await drawn(one) for one in wanted]
        busy = await asyncio.gather(*(drawn(one) for one in wanted))
        assert [a == b for a, b in zip(alone, busy, strict=True)] == [True] * len(wanted)
        assert len(set(alone)) == len(wanted)

    on_cluster(tmp_path, SETTINGS, test=test)
