"""A healthy cluster as its users meet it: any node answers, and images are one's own."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from pathlib import Path

import grpc
import grpc.aio
import httpx
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, decoded, image_of, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
ROUND_ROBIN = {**EMULATED, "policy": "round_robin"}


def test_any_node_answers_for_any_task(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        here, there = cluster.urls
        tasks = [
            await submit(http, here, f"prompt {i}", num_inference_steps=3, seed=i) for i in range(4)
        ]
        executors = set()
        for task in tasks:
            seen = await wait_for(http, there, task["id"])
            assert (seen["status"], seen["node"]) == ("completed", "node-0")
            executors.add(seen["executor"])
            from_there = await image_of(http, there, task["id"])
            from_here = await image_of(http, here, task["id"])
            assert from_there.tobytes() == from_here.tobytes()

            assert task["prompt"] in from_there.info["parameters"]
        assert executors == {"node-0", "node-1"}
        await check_events(http, there, tasks[0]["id"])
        await check_job(http, here, there)
        await check_cancel(http, here, there)
        unknown = await http.get(f"{there}/v1/tasks/node-0-01ARZ3NDEKTSV4RRFFQ69G5FAV")
        assert unknown.status_code == 404
        assert unknown.json()["error"]["code"] == "task_not_found"

    on_cluster(tmp_path, ROUND_ROBIN, EMULATED, test=test)


async def check_events(http: httpx.AsyncClient, url: str, task_id: str) -> None:
    text = (await http.get(f"{url}/v1/tasks/{task_id}/events")).text
    kinds = [line.split()[1] for line in text.splitlines() if line.startswith("event:")]
    # Steps that end within a moment of each other are told as one.
    assert kinds in [
        ["queued", "placed", "started", *["step"] * steps, "finished"] for steps in (1, 2, 3)
    ]
    assert '"step":3,"steps":3' in text
    after = {"Last-Event-ID": str(len(kinds) - 2)}
    resumed = await http.get(f"{url}/v1/tasks/{task_id}/events", headers=after)
    kinds = [line.split()[1] for line in resumed.text.splitlines() if line.startswith("event:")]
    assert kinds == ["step", "finished"]


async def check_job(http: httpx.AsyncClient, here: str, there: str) -> None:
    job = await submit(http, here, "several", n=3, num_inference_steps=2)
    assert (job["object"], len(job["tasks"])) == ("image.job", 3)
    drawn = [await wait_for(http, here, task["id"]) for task in job["tasks"]]
    assert {task["executor"] for task in drawn} == {"node-0", "node-1"}
    read = (await http.get(f"{there}/v1/jobs/{job['id']}")).json()
    assert [task["status"] for task in read["tasks"]] == ["completed"] * 3
    assert [task["id"] for task in read["tasks"]] == [task["id"] for task in job["tasks"]]


async def check_cancel(http: httpx.AsyncClient, here: str, there: str) -> None:
    task = await submit(http, here, "never mind", num_inference_steps=50)
    await wait_for(http, here, task["id"], "in_progress")
    cancelled = await http.delete(f"{there}/v1/tasks/{task['id']}")
    assert cancelled.json()["status"] == "cancelled"
    image = await http.get(f"{there}/v1/tasks/{task['id']}/image")
    assert image.status_code == 409
    async with asyncio.timeout(10):
        while True:
            view = (await http.get(f"{here}/v1/cluster")).json()
            nodes = [view["own"], *view["peers"]]
            if all(node["backlog"] == 0 for node in nodes):
                break
            await asyncio.sleep(0.1)


def test_idempotency_and_deadline(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = f"{cluster.urls[0]}/v1/tasks"
        headers = {"Idempotency-Key": "k1"}
        first = await http.post(
            url, json={"prompt": "a", "num_inference_steps": 2, "seed": 1}, headers=headers
        )
        again = await http.post(
            url, json={"prompt": "a", "num_inference_steps": 2, "seed": 1}, headers=headers
        )
        other = await http.post(
            url, json={"prompt": "b", "num_inference_steps": 2, "seed": 1}, headers=headers
        )
        assert first.json()["id"] == again.json()["id"]
        assert other.status_code == 409
        late = await submit(http, cluster.urls[0], num_inference_steps=50, deadline_s=0.5)
        ended = await wait_for(http, cluster.urls[0], late["id"])
        assert (ended["status"], ended["error"]["code"]) == ("failed", "deadline_exceeded")

    on_cluster(tmp_path, EMULATED, test=test)


@pytest.mark.model
def test_the_openai_sdk_on_a_real_model(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        client = openai.AsyncOpenAI(base_url=f"{cluster.urls[0]}/v1", api_key="none")
        answer = await client.images.generate(
            prompt="a large red circle on the left on a white background",
            n=2,
            response_format="b64_json",
            extra_body={"num_inference_steps": 10, "seed": 3},
        )
        assert answer.data is not None
        images = [decoded(base64.b64decode(item.b64_json or "")) for item in answer.data]
        assert images[0].size == (64, 64)
        assert images[0].tobytes() != images[1].tobytes()
        linked = await client.images.generate(prompt="a red circle", response_format="url")
        assert linked.data is not None
        fetched = await http.get(linked.data[0].url or "")
        assert decoded(fetched.content).size == (64, 64)
        events = []
        stream = await client.images.generate(prompt="a red circle", stream=True, partial_images=2)
        async for event in stream:
            assert decoded(base64.b64decode(event.b64_json)).size == (64, 64)
            events.append(event.type)
        assert events == [
            "image_generation.partial_image",
            "image_generation.partial_image",
            "image_generation.completed",
        ]
        models = await client.models.list()
        listed = [model.id for model in models.data]
        assert listed.index("tiny-sd3") == 0  # others' names for it follow
        with pytest.raises(openai.BadRequestError, match="size"):
            await client.images.generate(prompt="x", size="large")
        await client.close()

    on_cluster(tmp_path, {"torch_threads": 1}, test=test)


@pytest.mark.model
def test_200_concurrent_requests_end_as_their_own_image_or_a_429(tmp_path: Path) -> None:
    settings = {"torch_threads": 1, "tasks_in_flight_max": 30}

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        async def one(index: int) -> tuple[int, str, httpx.Response]:
            prompt = f"request number {index}"
            body = {"prompt": prompt, "num_inference_steps": 1, "seed": index}
            url = f"{cluster.urls[index % 2]}/v1/images/generations"
            return index, prompt, await http.post(url, json=body)

        # Twice 100, but a node holds 30.
        answers = await asyncio.gather(*(one(index) for index in range(200)))
        codes = Counter(response.status_code for *_, response in answers)
        assert set(codes) == {200, 429}, codes
        assert codes[200] >= 60
        for index, prompt, response in answers:
            if response.status_code == 429:
                assert int(response.headers["retry-after"]) >= 1
                continue
            image = decoded(base64.b64decode(response.json()["data"][0]["b64_json"]))
            assert image.info["parameters"].startswith(f"{prompt}\n")
            assert f"Seed: {index}," in image.info["parameters"]
            task_id = response.headers["x-dedgeai-task-id"]
            task = (await http.get(f"{cluster.urls[0]}/v1/tasks/{task_id}")).json()
            assert (task["status"], task["prompt"]) == ("completed", prompt)
            stored = await image_of(http, cluster.urls[0], task_id)
            assert stored.tobytes() == image.tobytes()
        files = sum(
            len(list((cluster.folder / node / "images").glob("*.png"))) for node in cluster.node_ids
        )
        assert files == codes[200]

    on_cluster(tmp_path, settings, settings, test=test)


def test_health_and_reflection_on_every_grpc_server(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        node = cluster.urls[0].removeprefix("http://")
        host, port = node.split(":")
        worker = cluster.folder / "node-0" / "run" / "worker.sock"
        for target, service in (
            (f"{host}:{int(port) + 1000}", "dedgeai.v1.NodeService"),
            (f"unix:{worker}", "dedgeai.v1.WorkerService"),
        ):
            async with grpc.aio.insecure_channel(target) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                for name in ("", service):
                    request = health_pb2.HealthCheckRequest(service=name)
                    answer = await health.Check(request, timeout=5)
                    assert answer.status == health_pb2.HealthCheckResponse.SERVING
                stub = reflection_pb2_grpc.ServerReflectionStub(channel)
                question = reflection_pb2.ServerReflectionRequest(list_services="")
                async for reply in stub.ServerReflectionInfo(iter([question]), timeout=5):
                    names = {s.name for s in reply.list_services_response.service}
                    assert service in names
                    break

    on_cluster(tmp_path, EMULATED, test=test)
