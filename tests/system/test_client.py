"""The typed client on real nodes: an image although the node that was asked is killed meanwhile."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from edge_node.client import AsyncClient, Client, Event, Image
from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, decoded, on_cluster

pytestmark = pytest.mark.system


def test_an_image_comes_though_the_node_that_was_asked_is_killed(tmp_path: Path) -> None:
    async def drawn(cluster: LocalCluster, *, waiting: bool) -> tuple[Image, list[Event]]:
        told: list[Event] = []
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def happened(event: Event) -> None:
            told.append(event)
            if event.type == "step":
                loop.call_soon_threadsafe(begun.set)

        async def draw() -> Image:
            if waiting:
                with Client(cluster.urls[0]) as client:
                    return await asyncio.to_thread(
                        client.generate, "a fox", num_inference_steps=20, on_event=happened
                    )
            async with AsyncClient(cluster.urls[0]) as client:
                return await client.generate("a fox", num_inference_steps=20, on_event=happened)

        drawing = asyncio.create_task(draw())
        async with asyncio.timeout(60):
            await begun.wait()
            cluster.signal_node(0, signal.SIGKILL)
            await asyncio.to_thread(cluster.wait_node, 0)
            cluster.start_node(0)
            return await drawing, told

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        for waiting in (False, True):
            image, told = await drawn(cluster, waiting=waiting)
            assert decoded(image.content).size == (512, 512)
            assert image.task.status == "completed"
            assert told[-1].type == "finished"
            numbers = [one.sequence for one in told]
            assert numbers == sorted(set(numbers))

    on_cluster(tmp_path, EMULATED, test=test)
