"""Real clusters for the system tests, and what the tests ask of them."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from edge_node.console.local_cluster import LocalCluster, free_rest_port

# Emulated devices at this scale draw ten steps in about a second.
EMULATED = {"engine": "emulated", "time_scale": 10, "heartbeat_s": 0.2, "suspect_s": 1.5}
QUICK_LEASE = {"lease_s": 2.0}


def free_port(count: int) -> int:
    """First REST port of `count` nodes; a random one, so that runs keep out of each other's way.

    Below those that the kernel gives to whoever calls out, also with what lies above for gRPC.
    """
    return free_rest_port(first=random.randrange(20_000, 31_000), nodes=count)


def cluster_of(folder: Path, *settings: dict[str, Any]) -> LocalCluster:
    """A cluster with one node per settings, not started."""
    return LocalCluster(settings, rest_port=free_port(len(settings)), folder=folder)


def on_cluster(
    folder: Path,
    *settings: dict[str, Any],
    test: Callable[[LocalCluster, httpx.AsyncClient], Awaitable[None]],
) -> None:
    """Runs `test` on a started cluster and stops it."""

    async def run() -> None:
        timeout = httpx.Timeout(120.0)
        limits = httpx.Limits(max_connections=500)
        async with (
            cluster_of(folder, *settings) as cluster,
            httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as http,
        ):
            await test(cluster, http)

    asyncio.run(run())


async def submit(
    http: httpx.AsyncClient, url: str, prompt: str = "a red circle", **body: Any
) -> dict[str, Any]:
    """POSTs a durable task; returns the task object."""
    response = await http.post(f"{url}/v1/tasks", json={"prompt": prompt, **body})
    assert response.status_code == 202, response.text
    task: dict[str, Any] = response.json()
    return task


async def wait_for(
    http: httpx.AsyncClient, url: str, task_id: str, *statuses: str, timeout_s: float = 60.0
) -> dict[str, Any]:
    """Polls a task until it has one of `statuses` (or is final)."""
    task: dict[str, Any] = {}
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                response = await http.get(f"{url}/v1/tasks/{task_id}")
            except httpx.TransportError:
                await asyncio.sleep(0.1)
                continue
            if response.status_code == 200:
                task = response.json()
                if task["status"] in (*statuses, "completed", "failed", "cancelled"):
                    return task
            await asyncio.sleep(0.05)


async def image_of(http: httpx.AsyncClient, url: str, task_id: str) -> Image.Image:
    """Fetches and decodes a task's image."""
    response = await http.get(f"{url}/v1/tasks/{task_id}/image")
    assert response.status_code == 200, response.text
    return decoded(response.content)


def decoded(content: bytes) -> Image.Image:
    """An image that has really been decoded."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.copy()


def processes_of(folder: Path, words: str) -> list[int]:
    """Processes whose command line names `folder` and `words`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(folder) in command and words in command and state != "Z":
                found.append(int(entry.name))
    return found


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Ends one process that a test started."""
    os.kill(pid, number)
