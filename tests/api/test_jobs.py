"""Jobs on the REST surface: what their tasks come to, their events as one stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from edge_node.domain import TaskEventKind, TaskId, TaskStatus
from tests.api.served import Served
from tests.api.test_bad_input import check
from tests.api.test_image_tasks import Event, parse_events
from tests.api.test_task_lists import TASK, on_node


async def job_of(node: Served, count: int = 3) -> dict[str, Any]:
    answer = await node.http.post("/v1/tasks", json={**TASK, "n": count})
    assert answer.status_code == 202
    job: dict[str, Any] = answer.json()
    return job


def ids_of(job: dict[str, Any]) -> list[TaskId]:
    return [TaskId(task["id"]) for task in job["tasks"]]


@pytest.mark.parametrize(
    ("ends", "status", "progress"),
    [
        ((None, None), "queued", 0),
        ((None, TaskStatus.COMPLETED), "in_progress", 50),
        ((TaskStatus.COMPLETED, TaskStatus.COMPLETED), "completed", 100),
        ((TaskStatus.COMPLETED, TaskStatus.CANCELLED), "cancelled", 100),
        ((TaskStatus.FAILED, TaskStatus.CANCELLED), "failed", 100),
    ],
)
def test_a_job_is_what_its_tasks_come_to(
    ends: tuple[TaskStatus | None, ...], status: str, progress: int
) -> None:
    async def story(node: Served) -> None:
        job = await job_of(node, len(ends))
        assert (job["status"], job["progress"]) == ("queued", 0)
        for task_id, end in zip(ids_of(job), ends, strict=True):
            if end is not None:
                await node.front_desk.end(task_id, end)
        read = (await node.http.get(f"/v1/jobs/{job['id']}")).json()
        assert (read["status"], read["progress"]) == (status, progress)
        assert read["counts"]["queued"] == ends.count(None)
        assert sum(read["counts"].values()) == len(ends)
        assert set(read["counts"]) == set(TaskStatus)

    on_node(story, held=True)


def test_a_job_is_cancelled_as_one() -> None:
    async def story(node: Served) -> None:
        answer = await node.http.post("/v1/tasks", json={**TASK, "n": 3})
        job = answer.json()
        await node.front_desk.finish(job["tasks"][0]["id"])
        gone = await node.http.delete(f"/v1/jobs/{job['id']}")
        assert gone.status_code == 200
        assert [task["status"] for task in gone.json()["tasks"]] == [
            *("completed", "cancelled", "cancelled")
        ]
        unknown = await node.http.delete("/v1/jobs/orin-a-none")
        check(unknown, status=404, code="task_not_found")

    on_node(story, held=True)


def test_a_job_is_erased_as_one() -> None:
    async def story(node: Served) -> None:
        job = await job_of(node)
        for _ in range(2):
            gone = await node.http.post(f"/v1/jobs/{job['id']}/erase")
            assert gone.json() == {"id": job["id"], "object": "image.job", "erased": True}
        for task_id in ids_of(job):
            answer = await node.http.get(f"/v1/tasks/{task_id}")
            check(answer, status=410, code="task_erased")
        events = await node.http.get(f"/v1/jobs/{job['id']}/events")
        check(events, status=410, code="task_erased")

    on_node(story)


def told(events: list[Event]) -> list[tuple[str, str]]:
    return [(event["event"], json.loads(event["data"])["task_id"]) for event in events]


def test_events_of_all_tasks_come_as_one_stream_that_can_be_gone_on_with() -> None:
    async def story(node: Served) -> None:
        job = await job_of(node, 2)
        first, second = ids_of(job)
        path = f"/v1/jobs/{job['id']}/events"
        seen: list[Event] = []
        async with asyncio.timeout(10), node.http.stream("GET", path) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            text, published = "", False
            async for chunk in response.aiter_text():
                text += chunk
                seen = parse_events(text)
                if len(seen) == 2 and not published:
                    published = True
                    await node.front_desk.publish(second, TaskEventKind.STARTED)
                if len(seen) == 3:
                    break
        assert sorted(told(seen[:2])) == sorted([("queued", first), ("queued", second)])
        assert told(seen[2:]) == [("started", second)]
        assert [event["id"] for event in seen[1:]] == ["1.1", "1.2"]
        await node.front_desk.finish(first)
        await node.front_desk.finish(second)
        rest = await node.http.get(path, headers={"Last-Event-ID": seen[2]["id"]})
        ends = parse_events(rest.text)
        assert sorted(told(ends)) == sorted([("finished", first), ("finished", second)])
        assert ends[-1]["id"] == "2.3"
        over = await node.http.get(path, headers={"Last-Event-ID": "2.3"})
        assert over.status_code == 204
        # Of a job that lost a task since, all is told again.
        again = await node.http.get(path, headers={"Last-Event-ID": "2"})
        assert len(parse_events(again.text)) == 5
        assert (await node.http.head(path)).status_code == 200
        for wrong in ("x", "1.", "1.-2", "1" * 19, "1." * 20_000 + "1"):
            refused = await node.http.get(path, headers={"Last-Event-ID": wrong})
            if refused.status_code != 431:
                check(refused, status=400, code="invalid_request", param="Last-Event-ID")

    on_node(story, held=True)


def test_who_hangs_up_leaves_nothing_watching() -> None:
    async def story(node: Served) -> None:
        job = await job_of(node)
        async with node.http.stream("GET", f"/v1/jobs/{job['id']}/events") as response:
            texts = response.aiter_text()  # kept: what nobody holds is collected, and hangs up
            await anext(texts)
            watched = (await node.http.get("/metrics")).text
            assert "dedgeai_event_watchers 0.0" not in watched, "somebody is watching"
        async with asyncio.timeout(5):
            while "dedgeai_event_watchers 0.0" not in (await node.http.get("/metrics")).text:
                await asyncio.sleep(0.02)

    on_node(story, held=True)
