"""One stream for the cluster on the REST surface: its events, its ids, whose tasks are in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx

from edge_node.access.keys import ANYBODY, Client
from edge_node.domain import NodeId, TaskEvent, TaskEventKind, TaskId
from edge_node.happenings import ClusterEvent, Happened, NodeSeen
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import Served, served
from tests.api.test_bad_input import check
from tests.api.test_key_check import TASK, Site, on_site

A, B = NodeId("orin-a"), NodeId("orin-b")
STARTED = TaskEvent(sequence=3, kind=TaskEventKind.STARTED, unix_s=5.0, steps=4, eta_s=2.5)
HAPPENING = [
    ClusterEvent(node_id=A, what=Happened(number=10)),
    ClusterEvent(node_id=B, what=NodeSeen(alive=True, accepting=False)),
    ClusterEvent(
        node_id=A,
        what=Happened(number=11, task_id=TaskId("orin-a-1"), client="ab12", event=STARTED),
    ),
    ClusterEvent(node_id=B, what=Happened(number=7, missed=True)),
]


async def blocks(http: httpx.AsyncClient, count: int, **how: Any) -> list[dict[str, str]]:
    """The first of a stream that does not end."""
    text = ""
    async with asyncio.timeout(10), http.stream("GET", "/v1/events", **how) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        async for chunk in response.aiter_text():
            text += chunk
            if text.count("\n\n") >= count:
                break
    found = text.split("\n\n")[:count]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in found]


def test_what_happens_is_one_stream_with_ids_to_go_on_from() -> None:
    async def story() -> None:
        front_desk = MemoryFrontDesk()
        front_desk.happening = HAPPENING
        async with served(front_desk) as node:
            here, seen, task, missed = await blocks(node.http, 4)
            assert here == {"id": "orin-a:10"}
            assert seen["event"] == "node"
            told = json.loads(seen["data"])
            assert told == {"node": "orin-b", "alive": True, "accepting": False}
            assert (task["event"], task["id"]) == ("task", "orin-a:11")
            told = json.loads(task["data"])
            assert told["type"] == "started"
            assert (told["node"], told["task_id"], told["owner"]) == ("orin-a", "orin-a-1", "ab12")
            assert (told["sequence"], told["steps"], told["eta_s"]) == (3, 4, 2.5)
            assert (missed["event"], missed["id"]) == ("missed", "orin-a:11,orin-b:7")
            assert json.loads(missed["data"]) == {"node": "orin-b"}
            await blocks(node.http, 1, headers={"Last-Event-ID": missed["id"]})
            await blocks(node.http, 1, params={"previews": "true"})
            assert front_desk.followed == [({}, ""), ({A: 11, B: 7}, ""), ({}, "")]
            assert front_desk.previews_wanted == [False, False, True]
            await let_go(node)

    asyncio.run(story())


async def let_go(node: Served) -> None:
    """Who hangs up leaves nothing behind."""
    async with asyncio.timeout(5):
        while "dedgeai_event_watchers 0.0" not in (await node.http.get("/metrics")).text:
            await asyncio.sleep(0.02)


def test_what_is_no_id_and_no_filter_is_said() -> None:
    async def story() -> None:
        async with served() as node:
            for wrong in ("7", "orin-a", "orin-a:", "orin-a:x", "a:1,", "a:" + "1" * 16, ":1"):
                answer = await node.http.get("/v1/events", headers={"Last-Event-ID": wrong})
                check(answer, status=400, code="invalid_request", param="Last-Event-ID")
            answer = await node.http.get("/v1/events?status=queued")
            check(answer, status=400, code="invalid_request", param="status")
            answer = await node.http.get("/v1/events?previews=yes")
            check(answer, status=400, code="invalid_request", param="previews")
            assert (await node.http.head("/v1/events")).status_code == 200
            assert node.front_desk.followed == []

    asyncio.run(story())


def test_a_key_follows_its_own_tasks_and_an_operators_all() -> None:
    front_desk = MemoryFrontDesk()
    front_desk.happening = HAPPENING[:1]

    async def story(site: Site) -> None:
        made = await site.ask("alice", "POST", "/v1/tasks", json=TASK)
        alice = made.json()["owner"]
        check(await site.ask("", "GET", "/v1/events"), status=401, code="invalid_api_key")
        for who in ("printer", "bob"):
            answer = await site.ask(who, "GET", f"/v1/events?owner={alice}")
            assert check(
                answer, status=403, code="scope_missing", param=answer.json()["error"]["param"]
            )
        for who, query in (("alice", ""), ("operator", ""), ("operator", f"?owner={alice}")):
            async with asyncio.timeout(5):
                async with site.node.http.stream(
                    "GET", f"/v1/events{query}", headers=site.header(who)
                ) as response:
                    await anext(response.aiter_text())
        assert [client for _, client in front_desk.followed] == [alice, "", alice]

    on_site(story, front_desk=front_desk)


def test_a_stream_ends_with_the_key_that_began_it() -> None:
    """Nothing that happens after it was revoked is told, and a silent stream is not kept either."""
    here, _, task, _ = HAPPENING
    revoked = False

    class Desk(MemoryFrontDesk):
        happened = asyncio.Event()

        async def watch_cluster(
            self, *, after: Mapping[NodeId, int], client: str, previews: bool
        ) -> AsyncGenerator[ClusterEvent, None]:
            yield here
            await self.happened.wait()
            yield task

    def client_of_key(key: str | None) -> Client | None:
        return None if revoked or key is None else ANYBODY

    async def story(*, pulse_s: float, happens: bool) -> None:
        nonlocal revoked
        revoked = False
        desk = Desk()
        desk.happened = asyncio.Event()
        headers = {"Authorization": "Bearer x"}
        async with (
            served(desk, client_of_key=client_of_key, keep_alive_s=pulse_s) as node,
            asyncio.timeout(10),
            node.http.stream("GET", "/v1/events", headers=headers) as response,
        ):
            told = response.aiter_text()
            first = await anext(told)
            revoked = True
            if happens:
                desk.happened.set()
            rest = "".join([text async for text in told])
            assert "orin-a:10" in first
            assert "orin-a-1" not in rest
            assert rest.startswith("event: error")
            assert "invalid_api_key" in rest
            await let_go(node)

    asyncio.run(story(pulse_s=15.0, happens=True))
    asyncio.run(story(pulse_s=0.1, happens=False))


def test_a_stream_breaks_off_where_the_node_ends_and_says_nothing_wrong() -> None:
    here = HAPPENING[0]

    class Desk(MemoryFrontDesk):
        async def watch_cluster(
            self, *, after: Mapping[NodeId, int], client: str, previews: bool
        ) -> AsyncGenerator[ClusterEvent, None]:
            yield here
            await asyncio.Event().wait()

    async def story() -> None:
        async with (
            served(Desk()) as node,
            asyncio.timeout(10),
            node.http.stream("GET", "/v1/events") as response,
        ):
            told = response.aiter_text()
            await anext(told)
            node.app.state.surface.leaving.set()
            assert "error" not in "".join([text async for text in told])

    asyncio.run(story())
