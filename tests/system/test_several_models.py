"""Clusters whose nodes draw different models, or none: any node takes any model of them."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from edge_node.console.local_cluster import LocalCluster
from edge_node.worker.tiny_sd3.perturbed import model_settings
from tests.system.local import EMULATED, image_of, on_cluster, submit, wait_for

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


def test_two_tiny_models_draw_what_each_would_alone(tmp_path: Path) -> None:
    other = "tiny-sd3-perturbed-1"
    quick = {"torch_threads": 1, "rows_max": 1, "heartbeat_s": 0.2}
    copy = {**quick, **model_settings(1, folder=tmp_path / "models")}
    assert copy["model_name"] == other

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        listed = (await http.get(f"{cluster.urls[1]}/v1/models")).json()["data"]
        served = {one["id"]: one for one in listed if "alias_of" not in one}
        assert set(served) == {"tiny-sd3", other}
        assert served["tiny-sd3"]["fingerprint"] != served[other]["fingerprint"]
        pictures: dict[str, set[bytes]] = {"tiny-sd3": set(), other: set()}
        for url in cluster.urls:
            for model, drawn in pictures.items():
                body: dict[str, Any] = {"model": model, "num_inference_steps": 4, "seed": 3}
                task = await submit(http, url, **body)
                done = await wait_for(http, url, task["id"])
                assert done["executor"] == {"tiny-sd3": "node-0", other: "node-1"}[model]
                drawn.add((await image_of(http, url, task["id"])).tobytes())
        assert [len(drawn) for drawn in pictures.values()] == [1, 1], "the same by either node"
        assert not pictures["tiny-sd3"] & pictures[other]
        await check_client(cluster.urls[0], other)

    on_cluster(tmp_path, quick, copy, test=test)


async def check_client(url: str, model: str) -> None:
    """OpenAI's own client names a model of another node, and the default by an alias."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as client:
        for asked, drawn in ((model, model), ("gpt-image-1", "tiny-sd3")):
            raw = await client.images.with_raw_response.generate(
                prompt="a red circle", model=asked, extra_body={"num_inference_steps": 2}
            )
            assert raw.http_response.json()["model"] == drawn


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

        async def draw() -> httpx.Response:
            body = {"prompt": "a", "model": "b", "num_inference_steps": 2}
            key = {"Idempotency-Key": "k"}
            return await http.post(f"{here}/v1/images/generations", json=body, headers=key)

        drawn = await draw()
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
        again = await draw()
        assert (again.status_code, again.json()) == (200, drawn.json())

    on_cluster(tmp_path, A, B, test=test)
