"""A real node whose worker ends at its start again and again: everyone is told why."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.cli import main
from edge_node.console.deploy import DeployFailed, _await_ready
from edge_node.console.rest_client import RestClient
from tests.system.local import EMULATED, cluster_of, submit, wait_for

pytestmark = pytest.mark.system

WHY = "in a row at its start, with code 75: the lock of the accelerator cannot be had"


async def reasons_of(http: httpx.AsyncClient, url: str) -> list[Any]:
    try:
        answer = (await http.get(f"{url}/readyz")).json()
    except httpx.TransportError:
        return []
    reasons: list[Any] = answer.get("reasons", [])
    return reasons


def test_why_a_worker_ends_at_its_start_goes_to_everyone_until_it_comes_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    settings = {**EMULATED, "worker_lock": missing / "lock"}

    async def test() -> None:
        cluster, http = cluster_of(tmp_path, settings), httpx.AsyncClient(trust_env=False)
        (url,) = cluster.urls
        port = url.rpartition(":")[2]
        try:
            cluster.start_node(0)
            async with asyncio.timeout(30.0):
                while not any("failed" in one for one in await reasons_of(http, url)):
                    await asyncio.sleep(0.05)
            (reason,) = await reasons_of(http, url)
            assert reason.startswith("the worker failed: it ended ")
            assert WHY in reason
            refused = await http.post(f"{url}/v1/tasks", json={"prompt": "a red circle"})
            assert refused.status_code == 503
            assert WHY in refused.json()["error"]["message"]
            with pytest.raises(DeployFailed, match=WHY):
                await _await_ready(url, 30.0)
            command = ("health", "--ready", "--set", f"rest_port={port}")
            assert await asyncio.to_thread(main, command) == 1
            assert WHY in capsys.readouterr().out
            missing.mkdir()
            async with RestClient(timeout_s=5) as client:
                await cluster.wait_ready(client, 0, ready_s_max=40.0)
            task = await submit(http, url, num_inference_steps=1)
            assert (await wait_for(http, url, task["id"]))["status"] == "completed"
        finally:
            await http.aclose()
            cluster.stop()

    asyncio.run(test())
