"""Asynchronous tasks, their events and the operators' endpoints."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from edge_node.domain import TaskEventKind, TaskId
from tests.api.memory_front_desk import PNG, MemoryFrontDesk
from tests.api.served import served
from tests.api.test_bad_input import check

Event = dict[str, str]


def parse_events(text: str) -> list[Event]:
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


def test_a_task_from_202_to_its_image() -> None:
    async def story() -> None:
        async with served(MemoryFrontDesk(held=True)) as node:
            accepted = await node.http.post(
                "/v1/tasks",
                json={
                    "prompt": "a boat",
                    "model": "default",
                    "size": "auto",
                    "seed": 2**60,
                    "deadline_s": 30,
                    "priority": 3,
                },
            )
            task: dict[str, Any] = accepted.json()
            assert accepted.status_code == 202
            assert accepted.headers["location"] == f"/v1/tasks/{task['id']}"
            assert accepted.headers["x-dedgeai-durability"] == "disk"
            assert task["object"] == "image.task"
            assert (task["status"], task["progress"]) == ("queued", 0)
            assert (task["node"], task["durability"]) == ("orin-a", "disk")
            assert (task["size"], task["num_inference_steps"]) == ("64x64", 4)
            assert (task["seed"], task["guidance_scale"]) == (2**60, 5.0)
            assert node.front_desk.submitted[0][1:] == (True, 30, 3)
            await node.front_desk.finish(task["id"])
            done = (await node.http.get(accepted.headers["location"])).json()
            assert (done["status"], done["progress"]) == ("completed", 100)
            assert done["executor"] == "orin-b"
            image = await node.http.get(done["image_url"])
            assert (image.content, image.headers["content-type"]) == (PNG, "image/png")

    asyncio.run(story())


def test_several_images_are_a_job_with_seeds_in_a_row() -> None:
    async def story() -> None:
        async with served() as node:
            accepted = await node.http.post("/v1/tasks", json={"prompt": "a", "n": 3, "seed": 7})
            job = accepted.json()
            assert job["object"] == "image.job"
            assert accepted.headers["location"] == f"/v1/jobs/{job['id']}"
            read = (await node.http.get(accepted.headers["location"])).json()
            assert [task["seed"] for task in read["tasks"]] == [7, 8, 9]
            assert {task["job_id"] for task in read["tasks"]} == {job["id"]}

    asyncio.run(story())


def test_a_cancelled_and_a_failed_task_say_so() -> None:
    async def story() -> None:
        async with served(MemoryFrontDesk(held=True)) as node:
            task = (await node.http.post("/v1/tasks", json={"prompt": "fails"})).json()
            await node.front_desk.finish(task["id"])
            failed = (await node.http.delete(f"/v1/tasks/{task['id']}")).json()
            assert failed["status"] == "failed"
            assert failed["error"] == {"code": "attempts_exhausted", "message": "No luck."}
            other = (await node.http.post("/v1/tasks", json={"prompt": "a"})).json()
            cancelled = await node.http.delete(f"/v1/tasks/{other['id']}")
            assert cancelled.json()["status"] == "cancelled"

    asyncio.run(story())


def test_events_resume_after_the_last_seen_and_end_with_the_final() -> None:
    async def story() -> None:
        async with served(MemoryFrontDesk(held=True)) as node:
            task = await node.http.post("/v1/tasks", json={"prompt": "a\nb", "partial_images": 1})
            task_id = TaskId(task.json()["id"])
            path = f"/v1/tasks/{task_id}/events"
            watching = asyncio.create_task(node.http.get(path))
            resumed = asyncio.create_task(node.http.get(path, headers={"Last-Event-ID": "1"}))
            await asyncio.sleep(0.1)
            await node.front_desk.publish(task_id, TaskEventKind.STARTED)
            await node.front_desk.finish(task_id)
            events = parse_events((await watching).text)
            assert [event["event"] for event in events] == ["queued", "started", "step", "finished"]
            assert [event["id"] for event in events] == ["1", "2", "3", "4"]
            step = json.loads(events[2]["data"])
            assert (step["step"], step["steps"], step["progress"]) == (1, 4, 25)
            assert step["preview_b64_json"]
            response = await resumed
            assert response.headers["content-type"].startswith("text/event-stream")
            assert parse_events(response.text) == events[1:]
            late = await node.http.get(path, headers={"Last-Event-ID": "3"})
            assert parse_events(late.text) == events[3:]
            over = await node.http.get(path, headers={"Last-Event-ID": "4"})
            assert over.status_code == 204
            beyond = await node.http.get(path, headers={"Last-Event-ID": "40"})
            assert beyond.status_code == 204

    asyncio.run(story())


def test_a_silent_stream_is_kept_alive_and_watchers_are_counted() -> None:
    async def story() -> None:
        async with served(MemoryFrontDesk(held=True), keep_alive_s=0.05) as node:
            task = (await node.http.post("/v1/tasks", json={"prompt": "a"})).json()
            path = f"/v1/tasks/{task['id']}/events"
            comments = 0
            async with node.http.stream("GET", path) as response:
                async for line in response.aiter_lines():
                    comments += line == ": keep-alive"
                    if comments == 3:
                        # Before the break, which lets go of the stream.
                        metrics = (await node.http.get("/metrics")).text
                        assert "dedgeai_event_watchers 1.0" in metrics
                        break
            async with asyncio.timeout(3.0):
                while True:
                    metrics = (await node.http.get("/metrics")).text
                    if "dedgeai_event_watchers 0.0" in metrics:
                        break
                    await asyncio.sleep(0.02)

    asyncio.run(story())


def test_operators_see_the_cluster_and_the_metrics() -> None:
    async def story() -> None:
        async with served() as node:
            cluster = (await node.http.get("/v1/cluster")).json()
            assert (cluster["node"], cluster["policy"]) == ("orin-a", "random")
            heard, unheard = cluster["peers"]
            assert (heard["node"], heard["alive"], heard["accepting"]) == ("orin-b", True, True)
            assert (heard["backlog"], heard["link_s"]) == (2.5, 0.002)
            assert (unheard["node"], unheard["alive"]) == (None, False)
            assert (await node.http.get("/readyz")).json() == {"status": "ready"}
            node.front_desk.noted = ("the clock of orin-b is 60 s behind this node's",)
            ready = await node.http.get("/readyz")
            assert ready.status_code == 200
            assert ready.json() == {"status": "ready", "notes": list(node.front_desk.noted)}
            await node.http.get("/v1/tasks/orin-a-01J00000000000000000000009")
            await node.http.get("/made/up")
            metrics = await node.http.get("/metrics")
            assert metrics.headers["content-type"].startswith("text/plain")
            counted = 'dedgeai_http_requests_total{status="404",surface="%s"} 1.0'
            assert counted % "/v1/tasks/{task_id}" in metrics.text
            assert counted % "none" in metrics.text
            assert "01J0" not in metrics.text

    asyncio.run(story())


def test_of_an_erased_task_it_is_said_that_it_was() -> None:
    async def story() -> None:
        async with served() as node:
            body = {"prompt": "a boat", "n": 2}
            key = {"Idempotency-Key": "k"}
            job = (await node.http.post("/v1/tasks", json=body, headers=key)).json()
            one, other = (task["id"] for task in job["tasks"])
            for _ in range(2):
                answer = await node.http.post(f"/v1/tasks/{one}/erase")
                assert answer.json() == {"id": one, "object": "image.task", "erased": True}
            for path in ("", "/image", "/events"):
                gone = await node.http.get(f"/v1/tasks/{one}{path}")
                check(gone, status=410, code="task_erased")
            check(await node.http.delete(f"/v1/tasks/{one}"), status=410, code="task_erased")
            left, whole = (await node.http.get(f"/v1/jobs/{job['id']}")).json()["tasks"]
            assert (left["prompt"], left["image_url"], left["error"]["code"]) == (
                None,
                None,
                "erased",
            )
            assert whole["id"] == other
            assert whole["prompt"] == "a boat"
            check(
                await node.http.post("/v1/tasks/orin-a-none/erase"),
                status=404,
                code="task_not_found",
            )

    asyncio.run(story())
