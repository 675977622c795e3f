"""Many tasks at once on the REST surface: pages, filters, whose they are."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from edge_node.api.task_lists import _place_in, cursor_of
from edge_node.domain import NodeId, TaskId, TaskStatus
from edge_node.errors import InvalidRequest
from edge_node.listing import Missing, Place, TaskFilter
from edge_node.peering import list_codec
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import Served, served
from tests.api.test_bad_input import check
from tests.api.test_key_check import Site, on_site

TASK = {"prompt": "a boat"}


def on_node(story: Callable[[Served], Awaitable[None]], *, held: bool = False) -> None:
    async def run() -> None:
        async with served(MemoryFrontDesk(held=held)) as node:
            await story(node)

    asyncio.run(run())


async def accepted(node: Served, **body: Any) -> TaskId:
    answer = await node.http.post("/v1/tasks", json={**TASK, **body})
    assert answer.status_code == 202
    return TaskId(answer.json()["id"])


async def listed(node: Served, query: str = "") -> dict[str, Any]:
    answer = await node.http.get(f"/v1/tasks{query}")
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    assert page["object"] == "list"
    return page


def ids(page: dict[str, Any]) -> list[str]:
    return [one["id"] for one in page["data"]]


def test_tasks_are_listed_newest_first_in_pages() -> None:
    async def story(node: Served) -> None:
        assert await listed(node) == {
            "object": "list",
            "data": [],
            "has_more": False,
            "next_cursor": None,
            "missing": [],
        }
        made = [await accepted(node) for _ in range(5)]
        seen, query = [], "?limit=2"
        while True:
            page = await listed(node, query)
            seen.append(ids(page))
            assert page["has_more"] == (page["next_cursor"] is not None)
            if not page["has_more"]:
                break
            query = f"?limit=2&cursor={page['next_cursor']}"
        newest_first = made[::-1]
        assert seen == [newest_first[:2], newest_first[2:4], newest_first[4:]]
        one = (await listed(node, "?limit=1"))["data"][0]
        assert one == (await node.http.get(f"/v1/tasks/{made[-1]}")).json()

    on_node(story)


def test_twenty_are_a_page_unless_another_number_is_asked_for() -> None:
    async def story(node: Served) -> None:
        for _ in range(7):
            await accepted(node, n=3)
        assert len((await listed(node))["data"]) == 20
        assert len((await listed(node, "?limit=200"))["data"]) == 21

    on_node(story)


def test_filters_and_what_they_do_not_know() -> None:
    async def story(node: Served) -> None:
        done, cancelled, waiting = [await accepted(node) for _ in range(3)]
        await node.front_desk.finish(done)
        await node.front_desk.end(cancelled, TaskStatus.CANCELLED)
        for query, expected in (
            ("?status=completed", [done]),
            ("?status=queued,cancelled", [waiting, cancelled]),
            ("?status=", [waiting, cancelled, done]),
            ("?model=tiny-sd3&status=queued", [waiting]),
            ("?model=other", []),
            ("?owner=ab12", []),
        ):
            assert ids(await listed(node, query)) == expected
        for query, param, said in (
            ("?status=done", "status", "queued, in_progress, completed, failed, cancelled"),
            ("?limit=0", "limit", "from 1 to 200"),
            ("?limit=201", "limit", "from 1 to 200"),
            ("?limit=ten", "limit", "from 1 to 200"),
            ("?limit=", "limit", "from 1 to 200"),
            ("?limit=0000000012345", "limit", "from 1 to 200"),
            ("?status=queued,", "status", "with commas between"),
            ("?status=queued&status=failed", "status", "more than once"),
            ("?state=failed", "state", "Did you mean `status`?"),
            ("?prompt=boat", "prompt", "Known are status, model, owner, limit, cursor"),
            (f"?model={'m' * 301}", "model", "at most 300"),
            ("?cursor=abc", "cursor", "next_cursor"),
        ):
            answer = await node.http.get(f"/v1/tasks{query}")
            assert said in check(answer, status=400, code="invalid_request", param=param)

    on_node(story, held=True)


def test_who_is_missing_is_named() -> None:
    async def story(node: Served) -> None:
        node.front_desk.missing = (
            Missing(node_id=NodeId("orin-c"), why="It did not answer."),
            Missing(node_id=None, address="d:1", why="No node has been met there."),
        )
        assert (await listed(node))["missing"] == [
            {"node": "orin-c", "address": None, "reason": "It did not answer."},
            {"node": None, "address": "d:1", "reason": "No node has been met there."},
        ]

    on_node(story)


def test_of_an_erased_task_it_is_told_that_it_was_there() -> None:
    async def story(node: Served) -> None:
        gone, there = [await accepted(node) for _ in range(2)]
        await node.http.post(f"/v1/tasks/{gone}/erase")
        page = await listed(node)
        assert ids(page) == [there, gone]
        assert page["data"][1] == {"id": gone, "object": "image.task", "erased": True}

    on_node(story)


def test_a_key_lists_its_own_and_an_operators_all() -> None:
    async def story(site: Site) -> None:
        made: dict[str, list[str]] = {}
        for who in ("alice", "bob", "alice"):
            answer = await site.ask(who, "POST", "/v1/tasks", json=TASK)
            made.setdefault(who, []).append(answer.json()["id"])

        async def seen(who: str, query: str = "") -> list[str]:
            answer = await site.ask(who, "GET", f"/v1/tasks{query}")
            assert answer.status_code == 200, answer.text
            return ids(answer.json())

        assert await seen("alice") == made["alice"][::-1]
        assert await seen("bob") == made["bob"]
        assert await seen("reader") == []
        assert set(await seen("operator")) == {*made["alice"], *made["bob"]}
        task = (await site.ask("alice", "GET", f"/v1/tasks/{made['alice'][0]}")).json()
        alice = task["owner"]
        assert await seen("operator", f"?owner={alice}") == made["alice"][::-1]
        assert await seen("alice", f"?owner={alice}") == made["alice"][::-1]
        refused = await site.ask("bob", "GET", f"/v1/tasks?owner={alice}")
        check(refused, status=403, code="scope_missing", param="owner")
        # A page of another's list leads on in one's own only.
        cursor = (await site.ask("operator", "GET", "/v1/tasks?limit=1")).json()["next_cursor"]
        assert await seen("bob", f"?cursor={cursor}") == made["bob"]

    on_site(story)


def test_many_are_cancelled_at_once_and_what_is_over_stays() -> None:
    async def story(node: Served) -> None:
        made = [await accepted(node) for _ in range(4)]
        await node.front_desk.finish(made[0])
        node.front_desk.missing = (Missing(node_id=NodeId("orin-c"), why="It did not answer."),)
        answer = await node.http.delete("/v1/tasks?status=queued,in_progress")
        assert answer.status_code == 200
        assert answer.json() == {
            "object": "tasks.cancelled",
            "cancelled": 3,
            "missing": [{"node": "orin-c", "address": None, "reason": "It did not answer."}],
        }
        assert ids(await listed(node, "?status=completed")) == [made[0]]
        assert ids(await listed(node, "?status=cancelled")) == made[:0:-1]
        again = await node.http.delete("/v1/tasks?all=true")
        assert again.json()["cancelled"] == 0

    on_node(story, held=True)


def test_nothing_is_cancelled_by_a_slip() -> None:
    async def story(node: Served) -> None:
        await accepted(node)
        for query, param in (
            ("", "all"),
            ("/", "all"),
            ("?all=false", "all"),
            ("?status=&model=", "all"),
            ("?all=true&model=tiny-sd3", "all"),
            ("?state=queued", "state"),
            ("?limit=5", "limit"),
            ("?status=completed", "status"),
            ("?status=queued,waiting", "status"),
            (f"?model={'m' * 301}", "model"),
        ):
            answer = await node.http.delete(f"/v1/tasks{query}")
            check(answer, status=400, code="invalid_request", param=param)
        assert len(ids(await listed(node, "?status=queued"))) == 1

    on_node(story, held=True)


def test_a_key_cancels_its_own_and_an_operators_all() -> None:
    async def story(site: Site) -> None:
        made: dict[str, list[str]] = {}
        for who in ("alice", "bob", "alice"):
            answer = await site.ask(who, "POST", "/v1/tasks", json=TASK)
            made.setdefault(who, []).append(answer.json()["id"])
        bobs = (await site.ask("bob", "GET", f"/v1/tasks/{made['bob'][0]}")).json()["owner"]
        others = await site.ask("alice", "DELETE", f"/v1/tasks?owner={bobs}")
        check(others, status=403, code="scope_missing", param="owner")
        for who, expected in (("alice", 2), ("operator", 1)):
            answer = await site.ask(who, "DELETE", "/v1/tasks?all=true")
            assert answer.json()["cancelled"] == expected
            seen = await site.ask("bob", "GET", f"/v1/tasks/{made['bob'][0]}")
            assert seen.json()["status"] == ("queued" if who == "alice" else "cancelled")

    on_site(story, front_desk=MemoryFrontDesk(held=True))


def encoded(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        *("!", "abc", "a" * 401, "é", encoded(1), encoded([]), encoded([1.0]), encoded(None)),
        encoded([1.0, "orin-a-1", 2]),
        encoded(["x", "orin-a-1"]),
        encoded([1.0, 5]),
        encoded([1e300, "orin-a-1"]),
        encoded([10**400, "orin-a-1"]),
        encoded([float("nan"), "orin-a-1"]),
        encoded([float("inf"), "orin-a-1"]),
        encoded([1.0, "no id"]),
        encoded([1.0, "../../-1"]),
        encoded([1.0, f"{'n' * 64}-1"]),
    ],
)
def test_no_other_cursor_is_taken(cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        _place_in(cursor)


def test_a_cursor_leads_back_and_no_node_refuses_where() -> None:
    for place in (
        Place(1764448873.0625, TaskId("orin-a-01J5")),
        Place(-1e12, TaskId("n" * 63 + "-1")),
    ):
        assert _place_in(cursor_of(place)) == place
        message = list_codec.request_to_proto(TaskFilter(), before=place, count=1)
        assert list_codec.request_from_proto(message)[1] == place
