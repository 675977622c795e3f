"""A node's own REST surface as an httpx transport: nothing leaves the process.

Bodies are streamed both ways as over a network, which httpx's own ASGITransport does not do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import unquote

import httpx
from starlette.types import ASGIApp, Message

# Parts of an answer that wait until they are read.
_WAITING_MAX = 16


class InProcess(httpx.AsyncBaseTransport):
    """Asks `app`.

    Args:
        app: an ASGI application.
        scope: of the request for which it is asked: who sent it, and over what.
        state: what the application is told of every request.
    """

    def __init__(self, app: ASGIApp, scope: Mapping[str, Any], *, state: Mapping[str, Any]) -> None:
        self._app = app
        self._outer = scope
        self._state = state

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request and returns once the answer has begun."""
        body = await request.aread()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": self._outer.get("scheme", "http"),
            "path": unquote(request.url.path),
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": self._outer.get("client"),
            "server": self._outer.get("server"),
            "state": dict(self._state),
        }
        answer = _Answer(self._app, scope, body)
        start = await answer.begun()
        return httpx.Response(
            start["status"], headers=start.get("headers", []), stream=answer, request=request
        )


class _Answer(httpx.AsyncByteStream):
    """One request under way; closing it is hanging up."""

    def __init__(self, app: ASGIApp, scope: dict[str, Any], body: bytes) -> None:
        self._body: bytes | None = body
        self._gone = asyncio.Event()
        self._said: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=_WAITING_MAX)
        self._answering = asyncio.create_task(self._answer(app, scope))

    async def begun(self) -> Message:
        """The beginning of the answer; raises what the application raised instead."""
        try:
            start = await self._said.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if start is None:
            await self._answering
            raise httpx.RemoteProtocolError("There was no answer.")
        return start

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The parts of the answer's body as they come."""
        while (message := await self._said.get()) is not None:
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body", False):
                return

    async def aclose(self) -> None:
        """Hangs up, and waits until the application has seen that."""
        self._gone.set()
        if not self._answering.done():
            self._answering.cancel()
        await asyncio.wait([self._answering])

    async def _answer(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._said.put)
        finally:
            # Also where nobody reads any more: then there is no room, and no need.
            if not self._said.full():
                self._said.put_nowait(None)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}
