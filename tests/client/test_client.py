"""Both clients against the REST surface on a real port: what is asked, what is understood."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from dedgeai import client as under_the_name_of_the_distribution

from edge_node import client as package
from edge_node.client import (
    AsyncClient,
    Client,
    Erased,
    Event,
    InvalidRequest,
    NodeUnreachable,
    NotUnderstood,
    Patience,
    RequestRefused,
    Task,
    TaskFailed,
)
from edge_node.client.event_reader import EventReader
from edge_node.client.problems import refusal_in, unreachable
from edge_node.domain import TaskId
from edge_node.errors import AdmissionRefused
from edge_node.listing import Missing
from tests.api.memory_front_desk import PNG, MemoryFrontDesk
from tests.api.served import Served, served

Call = Callable[..., Coroutine[Any, Any, Any]]


def on_both(story: Callable[[Served, Call], Awaitable[None]], **desk: Any) -> None:
    """Runs a story with each client, at a surface of its own; `call` is of a client's method."""

    async def run() -> None:
        async with served(MemoryFrontDesk(**desk)) as node:
            with Client(node.url) as waiting:

                async def called(name: str, *args: Any, **kwargs: Any) -> Any:
                    def ask() -> Any:
                        answer = getattr(waiting, name)(*args, **kwargs)
                        return list(answer) if inspect.isgenerator(answer) else answer

                    return await asyncio.to_thread(ask)

                await story(node, called)
        async with served(MemoryFrontDesk(**desk)) as node, AsyncClient(node.url) as looping:

            async def awaited(name: str, *args: Any, **kwargs: Any) -> Any:
                answer = getattr(looping, name)(*args, **kwargs)
                if inspect.isasyncgen(answer):
                    return [one async for one in answer]
                return await answer

            await story(node, awaited)

    asyncio.run(run())


def test_it_is_one_client_in_two_ways() -> None:
    for name, method in vars(Client).items():
        if name.startswith("_"):
            continue
        other = vars(AsyncClient)[name]
        ours, theirs = inspect.signature(method), inspect.signature(other)
        assert ours.parameters.keys() == theirs.parameters.keys(), name
        for one in ours.parameters:
            assert ours.parameters[one].annotation == theirs.parameters[one].annotation
    public = {one for one in vars(AsyncClient) if not one.startswith("_")}
    assert public == {one for one in vars(Client) if not one.startswith("_")}
    assert under_the_name_of_the_distribution.Client is Client
    assert set(under_the_name_of_the_distribution.__all__) == set(package.__all__)


def test_an_image_is_drawn_and_its_events_are_told(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(PNG)

    async def story(node: Served, call: Call) -> None:
        told: list[Event] = []
        image = await call(
            "generate",
            "a fox",
            on_event=told.append,
            seed=7,
            size="64x64",
            num_inference_steps=3,
            partial_images=1,
        )
        assert (image.content, image.media_type) == (PNG, "image/png")
        assert (image.task.seed, image.task.prompt, image.task.executor) == (7, "a fox", "orin-b")
        assert image.task.is_over
        assert [one.type for one in told] == ["queued", "step", "finished"]
        assert told[1].preview == PNG
        drawings, durable, _, _ = node.front_desk.submitted[0]
        assert durable
        assert (drawings[0].steps, drawings[0].width_px) == (3, 64)
        for picture in (photo, PNG):
            image = await call("generate", "a fox", init_image=picture, strength=0.5)
            assert image.task.strength == 0.5
        with pytest.raises(InvalidRequest, match="init image cannot be read"):
            await call("submit", "a fox", init_image=tmp_path / "none.png")
        with pytest.raises(TaskFailed, match=r"No luck.") as failed:
            await call("generate", "it fails late")
        assert failed.value.code == "deadline_exceeded"

    on_both(story)


def test_tasks_and_jobs_are_read_listed_cancelled_and_erased() -> None:
    async def story(node: Served, call: Call) -> None:
        task = await call("submit", "a fox", priority=2)
        assert (task.status, task.priority, task.is_over) == ("queued", 2, False)
        job = await call("submit_job", "two foxes", 2)
        assert [one.prompt for one in job.tasks] == ["two foxes"] * 2
        assert (await call("job", job.id)).counts["queued"] == 2
        assert {one.id for one in await call("tasks")} == {task.id, *(one.id for one in job.tasks)}
        page = await call("page", limit=2, status="queued")
        assert len(page.tasks) == 2
        assert page.next_cursor
        assert len((await call("page", limit=2, cursor=page.next_cursor)).tasks) == 1
        assert (await call("cancel", task.id)).status == "cancelled"
        with pytest.raises(TaskFailed) as cancelled:
            await call("wait", task.id)
        assert cancelled.value.code == "cancelled"
        await call("erase", task.id)
        with pytest.raises(RequestRefused) as gone:
            await call("task", task.id)
        assert (gone.value.code, gone.value.http_status) == ("task_erased", 410)
        shown = (await call("page")).tasks
        assert [type(one) for one in shown if one.id == task.id] == [Erased]
        assert all(type(one) is Task for one in await call("tasks"))
        node.front_desk.missing = (Missing(node_id=None, address="c:1", why="silent"),)
        done = await call("cancel_all", status="queued")
        assert (done.cancelled, done.missing[0].reason) == (2, "silent")
        assert (await call("cancel_all")).cancelled == 0
        assert (await call("cancel_job", job.id)).status == "cancelled"
        kinds = [one.type for one in await call("job_events", job.id)]
        assert sorted(kinds) == ["cancelled", "cancelled", "queued", "queued"]
        await call("erase_job", job.id)
        with pytest.raises(InvalidRequest, match="two images or more"):
            await call("submit_job", "a fox", 1)

    on_both(story, held=True)


def test_the_cluster_is_told() -> None:
    async def story(node: Served, call: Call) -> None:
        cluster = await call("cluster")
        assert [one.node for one in cluster.nodes] == ["orin-a", "orin-b", None]
        assert [one.alive for one in cluster.nodes] == [True, True, False]
        assert (cluster.peers[0].backlog, cluster.policy) == (2.5, "random")
        assert (await call("models"))[0].id == "tiny-sd3"
        assert (await call("readiness")).ready
        node.front_desk.ready = False
        told = await call("readiness")
        assert not told.ready
        assert told.reasons == ("the worker is loading", "the store is away")
        assert await call("dead_letters") == ()
        node.front_desk.ready = True
        task = await call("submit", "a fox")
        assert (await call("retry_dead_letter", task.id)).id == task.id

    on_both(story)


def test_a_refusal_is_told_as_it_was_said() -> None:
    async def story(node: Served, call: Call) -> None:
        with pytest.raises(RequestRefused, match="`size`") as refused:
            await call("submit", "a fox", size="5x5")
        assert (refused.value.code, refused.value.param) == ("invalid_request", "size")
        assert refused.value.request_id.startswith("req-")
        with pytest.raises(RequestRefused, match="There is no task or job"):
            await call("task", "orin-a-0")

    on_both(story)


def test_it_comes_again_when_it_is_told_to() -> None:
    async def story(node: Served, call: Call) -> None:
        desk = node.front_desk
        desk.refusal = AdmissionRefused("All places are taken.", retry_after_s=1.0)
        asking = asyncio.create_task(call("submit", "a fox", idempotency_key="once"))
        await asyncio.sleep(0.3)
        assert not asking.done()
        desk.refusal = None
        task = await asking
        # It was sent twice, and the key would have had it accepted once.
        assert (await call("submit", "a fox", idempotency_key="once")).id == task.id
        desk.refusal = AdmissionRefused("All places are taken.", retry_after_s=3600.0)
        began_s = time.monotonic()
        with pytest.raises(RequestRefused, match="All places"):
            await call("submit", "a fox")
        assert time.monotonic() - began_s < 5.0

    on_both(story)


def test_patience_ends() -> None:
    patience = Patience(tries_max=3, wait_s_max=10.0)
    busy = AdmissionRefused("Full.", retry_after_s=2.0)
    assert [patience.pause_s(busy, tries=tries) for tries in (1, 2, 3)] == [2.0, 2.0, None]
    assert patience.pause_s(AdmissionRefused("Full.", retry_after_s=11.0), tries=1) is None
    assert patience.pause_s(InvalidRequest("Wrong."), tries=1) is None


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ({}, None),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"Retry-After": "2", "x-should-retry": "false"}, None),
        ({"Retry-After": "2", "x-should-retry": "true"}, 2.0),
    ],
)
def test_when_to_come_again_is_what_the_node_says(
    headers: dict[str, str], expected_s: float | None
) -> None:
    said = {"error": {"message": "Full.", "code": "queue_full", "type": "x", "param": None}}
    refusal = refusal_in(httpx.Response(429, json=said, headers=headers))
    assert isinstance(refusal, RequestRefused)
    assert refusal.retry_after_s == expected_s
    assert (refusal.http_status, refusal.request_id) == (429, "")


def test_a_node_that_was_there_is_waited_for_and_no_other() -> None:
    problem = httpx.ConnectError("refused")
    assert unreachable("http://a", problem, met=True).retry_after_s == 1.0
    assert unreachable("http://a", problem, met=False).retry_after_s is None


def test_an_address_without_a_scheme_is_told_what_it_lacks() -> None:
    with (
        Client("127.0.0.1:8080") as client,
        pytest.raises(NodeUnreachable, match="begins with http://"),
    ):
        client.models()


def test_where_no_node_is_it_says_so_at_once() -> None:
    began_s = time.monotonic()
    with Client("http://127.0.0.1:9") as client, pytest.raises(NodeUnreachable, match=":9"):
        client.cluster()
    assert time.monotonic() - began_s < 5.0
    pages = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>It works!"))
    with Client(transport=pages) as client, pytest.raises(NotUnderstood, match="REST address"):
        client.cluster()
    pages = httpx.MockTransport(lambda request: httpx.Response(404, text="nginx"))
    with Client(transport=pages) as client, pytest.raises(NotUnderstood, match="404"):
        client.task("orin-a-0")
    lists = httpx.MockTransport(lambda request: httpx.Response(200, json=[1]))
    with Client(transport=lists) as client:
        for ask in (client.cluster, client.models, client.readiness, lambda: client.task("x")):
            with pytest.raises(NotUnderstood):
                ask()


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("authorization"))
        return httpx.Response(200, json={"status": "ready"})

    monkeypatch.setenv("DEDGEAI_API_KEY", "dk-env")
    for key in (None, "dk-given", ""):
        with Client(api_key=key, transport=httpx.MockTransport(answer)) as client:
            client.readiness()
    assert sent == ["Bearer dk-env", "Bearer dk-given", None]


def test_a_stream_that_breaks_is_gone_on_with() -> None:
    """Each connection tells two events and breaks; what was told is not told again."""

    async def story() -> None:
        asked: list[str] = []

        async def breaking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            seen = head.partition("last-event-id:")[2].partition("\r\n")[0].strip()
            asked.append(seen)
            first = int(seen or 0) + 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n")
            for number in range(first, first + 2):
                kind = "finished" if number == 5 else "step"
                data = f'{{"sequence": {number}, "type": "{kind}"}}'
                writer.write(f"id: {number}\nevent: {kind}\ndata: {data}\n\n".encode())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(breaking, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, AsyncClient(url) as client:
            told = [one.sequence async for one in client.events("orin-a-1")]
        assert told == [1, 2, 3, 4, 5]
        assert asked == ["", "2", "4"]

    asyncio.run(story())


def test_lines_become_events() -> None:
    reader = EventReader()
    lines = ["id: 4", "event: step", 'data: {"step": 1,', 'data: "steps": 2}', ""]
    (told,) = [one for one in map(reader.feed, lines) if one is not None]
    assert (told.type, told.step, told.steps, reader.last_id) == ("step", 1, 2, "4")
    assert [reader.feed(line) for line in (": keep-alive", "", "id: 9", "")] == [None] * 4
    assert reader.last_id == "9"
    for line in ("event: error", 'data: {"error": {"message": "Gone.", "code": "gone"}}'):
        reader.feed(line)
    with pytest.raises(RequestRefused, match="Gone"):
        reader.feed("")
    reader.feed("data: {")
    with pytest.raises(NotUnderstood, match="no JSON"):
        reader.feed("")


@pytest.mark.parametrize(
    ("kind", "status", "again_s"),
    [("server_error", 500, 1.0), ("invalid_request_error", 400, None)],
)
def test_a_stream_that_cannot_go_on_says_whether_to_come_again(
    kind: str, status: int, again_s: float | None
) -> None:
    error = {"message": "Away.", "code": "origin_unavailable", "type": kind, "param": "x"}
    reader = EventReader()
    reader.feed("event: error")
    reader.feed("data: " + json.dumps({"error": error}))
    with pytest.raises(RequestRefused) as refused:
        reader.feed("")
    assert (refused.value.http_status, refused.value.retry_after_s) == (status, again_s)
    assert (refused.value.code, refused.value.param) == ("origin_unavailable", "x")
    for line in ("event: error", "data: [1]"):
        reader.feed(line)
    with pytest.raises(NotUnderstood, match="ended with"):
        reader.feed("")


def test_names_of_tasks_are_no_paths() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        return httpx.Response(200, json={"id": "x", "status": "queued"})

    with Client(transport=httpx.MockTransport(answer)) as client:
        client.task(TaskId("../cluster?x"))
    assert asked == ["/v1/tasks/..%2Fcluster%3Fx"]
