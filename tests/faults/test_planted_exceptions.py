"""An exception in any loop of a real node: it goes on without, or ends itself and starts anew.

What must never be is a node that says it is ready while an accepted task does not move.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from edge_node.node import EXIT_GIVEN_UP
from tests.faults.planted import PLANTS
from tests.system.local import EMULATED, free_port, kill, submit, wait_for

pytestmark = pytest.mark.system

SETTINGS: dict[str, Any] = {**EMULATED, "time_scale": 100, "peers": "127.0.0.1:1"}
VITAL = (
    "the clock",
    "looking for the store",
    "writing tasks",
    "keeping the store",
    "keeping the worker",
    "following the worker",
    "housekeeping",
    "watching the disk",
    "bounding the store",
    "gRPC health",
)
# The child whose end begins what fails.
KILLED = {"keeping the store": "store", "keeping the learner": "learner"}
# Two are followed into the node's next life; that life is like any other.
FOLLOWED = ("the clock", "looking for the store")
GIVEN_UP_S_MAX = 60.0


class PlantedNode(LocalCluster):
    """One node in which what the file says fails."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__([SETTINGS | settings], rest_port=free_port(1), folder=folder)
        self.named = folder / "planted"

    def _command(self, index: int) -> list[str]:
        *launched, _, _, _, command = super()._command(index)
        return [*launched, sys.executable, "-m", "tests.faults.planted", str(self.named), command]

    async def begin(self) -> None:
        self.start_node(0)
        async with RestClient(timeout_s=5.0) as client:
            await self.wait_ready(client, 0, ready_s_max=60.0)


@asynccontextmanager
async def started(node: PlantedNode) -> AsyncIterator[httpx.AsyncClient]:
    try:
        await node.begin()
        async with httpx.AsyncClient(timeout=30.0, trust_env=False) as http:
            yield http
    finally:
        node.stop()


@pytest.mark.parametrize("loop", VITAL)
def test_a_node_that_cannot_go_on_ends_itself_and_finishes_in_its_next_life(
    tmp_path: Path, loop: str
) -> None:
    async def story() -> None:
        node = PlantedNode(tmp_path)
        async with started(node) as http:
            task = await submit(http, node.urls[0], num_inference_steps=20)
            node.named.write_text(loop)
            if loop in KILLED:
                kill(node.child_pid(0, KILLED[loop]))
            if loop == "writing tasks":  # which waits until there is something to write
                with contextlib.suppress(httpx.HTTPError):
                    await http.post(
                        f"{node.urls[0]}/v1/images/generations", json={"prompt": "x", "n": 9}
                    )
            code = await asyncio.to_thread(node.wait_node, 0, timeout_s=GIVEN_UP_S_MAX)
            assert code == EXIT_GIVEN_UP
            if loop not in FOLLOWED:
                return
            node.named.unlink()
            await node.begin()
            ended = await wait_for(http, node.urls[0], task["id"])
            assert ended["status"] == "completed"

    asyncio.run(story())


async def failures(http: httpx.AsyncClient, url: str, loop: str) -> float:
    """How often the loop failed, as the node's metrics have it."""
    text = (await http.get(f"{url}/metrics")).text
    start = f'dedgeai_loop_failures_total{{loop="{loop}'
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(start))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.05)


def test_a_node_goes_on_without_what_it_can_do_without(tmp_path: Path) -> None:
    others = [loop for loop in PLANTS if loop not in VITAL]

    async def fails_and_goes_on(node: PlantedNode, http: httpx.AsyncClient, loop: str) -> None:
        url = node.urls[0]
        node.named.write_text(loop)
        if loop in KILLED:
            kill(node.child_pid(0, KILLED[loop]))

        async def drawn_although() -> bool:
            task = await submit(http, url, num_inference_steps=1)
            assert (await wait_for(http, url, task["id"]))["status"] == "completed", loop
            return await failures(http, url, loop) >= 2

        await until(drawn_although)
        for path in ("/readyz", "/livez"):
            assert (await http.get(f"{url}{path}")).status_code == 200, loop

    async def story() -> None:
        pinned = {"policy": "lad_ts", "pin_policy": True, "slot_s": 0.1}  # so that it has latents
        node = PlantedNode(tmp_path, learner=True, discovery="mdns", **pinned)
        node.named.write_text("discovery")  # which is looked at once, at the start
        async with started(node) as http:
            for loop in sorted(others, key=lambda loop: loop != "discovery"):
                await fails_and_goes_on(node, http, loop)

    asyncio.run(story())
