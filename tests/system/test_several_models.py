"""Clusters whose nodes draw different models, or none: any node takes any model of them."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster, submit, wait_for

pytestmark = pytest.mark.system

GATEWAY = {**EMULATED, "engine": "none"}
A, B = {**EMULATED, "model_name": "a"}, {**EMULATED, "model_name": "b"}


def test_a_gateway_draws_nothing_and_takes_all_models(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        gateway = cluster.urls[0]
        assert not (cluster.folder / "node-0/run/worker.pid").exists()
        tasks = {
            model: [await submit(http, gateway, model=model) for _ in range(4)]
            for model in ("a", "b")
        }
        for model, sent in tasks.items():
            done = [await wait_for(http, gateway, task["id"]) for task in sent]
            assert {task["status"] for task in done} == {"completed"}
            assert {task["executor"] for task in done} == {{"a": "node-1", "b": "node-2"}[model]}
        unnamed = await submit(http, gateway)
        assert unnamed["model"] == "a", "the first by name"
        told = (await http.get(f"{gateway}/metrics")).text
        assert "dedgeai_worker_ready{" not in told or "NaN" in told
        assert (await http.get(f"{gateway}/readyz")).status_code == 200

    on_cluster(tmp_path, GATEWAY, A, B, test=test)


def test_tasks_wait_for_the_last_node_of_their_model(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        here = cluster.urls[0]
        body: dict[str, Any] = {"model": "b", "num_inference_steps": 15}
        waits = await submit(http, here, **body)
        await wait_for(http, here, waits["id"], "in_progress")
        too_late = await submit(http, here, deadline_s=3.0, **body)
        cluster.signal_node(1, signal.SIGKILL)
        cluster.wait_node(1)
        failed = await wait_for(http, here, too_late["id"])
        assert failed["error"]["code"] == "deadline_exceeded"
        assert "No node that draws 'b'" in failed["error"]["message"]
        away = await http.post(f"{here}/v1/tasks", json={"prompt": "a", "model": "b"})
        assert (away.status_code, away.json()["error"]["code"]) == (503, "model_away")
        own = await wait_for(http, here, (await submit(http, here, model="a"))["id"])
        assert own["status"] == "completed"
        cluster.start_node(1)
        drawn = await wait_for(http, here, waits["id"])
        assert (drawn["status"], drawn["executor"]) == ("completed", "node-1")

    on_cluster(tmp_path, A, B, test=test)


def test_a_node_that_left_takes_its_model_along(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        here = cluster.urls[0]
        cluster.signal_node(1, signal.SIGTERM)
        cluster.wait_node(1)
        async with asyncio.timeout(30.0):
            while "b" in [
                one["id"] for one in (await http.get(f"{here}/v1/models")).json()["data"]
            ]:
                await asyncio.sleep(0.1)
        refused = await http.post(f"{here}/v1/tasks", json={"prompt": "a", "model": "b"})
        assert refused.status_code == 404
        assert refused.json()["error"]["message"].endswith("Served are: a.")

    on_cluster(tmp_path, A, B, test=test)
