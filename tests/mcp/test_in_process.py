"""A node asked by itself: parts come as they are said, and who hangs up is heard."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from edge_node.client import AsyncClient
from edge_node.mcp.in_process import InProcess
from tests.api.served import served


def asked(app: Any, **state: Any) -> httpx.AsyncClient:
    scope = {"scheme": "https", "client": ("10.0.0.9", 4711), "server": ("orin-a", 8080)}
    transport = InProcess(app, scope, state=state)
    return httpx.AsyncClient(transport=transport, base_url="http://orin-a:8080")


def test_a_request_arrives_as_over_a_network() -> None:
    heard: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append((scope, await receive()))
        await send({"type": "http.response.start", "status": 418, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"tea", "more_body": False})

    async def story() -> None:
        async with asked(app, counted=True) as http:
            answer = await http.post("/v1/ta%20sks?x=1", content=b"body", headers={"Key": "v"})
        assert (answer.status_code, answer.text, answer.headers["a"]) == (418, "tea", "b")
        scope, message = heard[0]
        assert (scope["method"], scope["path"], scope["query_string"]) == (
            "POST",
            "/v1/ta sks",
            b"x=1",
        )
        assert scope["raw_path"] == b"/v1/ta%20sks"
        assert (b"key", b"v") in scope["headers"]
        assert (b"host", b"orin-a:8080") in scope["headers"]
        assert scope["scheme"] == "https"
        assert scope["client"] == ("10.0.0.9", 4711)
        assert scope["state"] == {"counted": True}
        assert message == {"type": "http.request", "body": b"body", "more_body": False}

    asyncio.run(story())


def test_parts_come_as_they_are_said_and_hanging_up_ends_it() -> None:
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for number in range(1_000_000):
                body = str(number).encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            ended.append("hung up")

    async def story() -> None:
        async with asyncio.timeout(10), asked(app) as http:
            async with http.stream("GET", "/") as answer:
                parts = answer.aiter_raw()
                assert [await anext(parts) for _ in range(3)] == [b"0", b"1", b"2"]
                assert not ended
            assert ended == ["hung up"]
            # Nor does it go on where who asks is cancelled before it has begun.
            begun = asyncio.create_task(http.get("/"))
            await asyncio.sleep(0)
            begun.cancel()
            await asyncio.gather(begun, return_exceptions=True)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(story())


def test_what_the_application_raises_is_raised() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        async with asked(app) as http:
            with pytest.raises(ZeroDivisionError):
                await http.get("/")

    asyncio.run(story())


def test_the_typed_client_follows_events_in_process() -> None:
    async def story() -> None:
        async with served() as node:
            transport = InProcess(node.app, {}, state={})
            async with AsyncClient("http://localhost", transport=transport) as client:
                image = await client.generate("a fox")
                assert image.task.status == "completed"

    asyncio.run(story())
