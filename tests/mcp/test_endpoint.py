"""What a tool asks of REST, it asks as its caller: from his address, with his key, in his trace."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from edge_node.api.key_check import PART_OF_ANOTHER
from edge_node.mcp.endpoint import EndpointLimits, McpEndpoint
from tests.api.served import served

CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "list_models", "arguments": {}},
}
HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2025-06-18",
}


def test_a_call_is_counted_by_its_address_and_before_it_runs_refused() -> None:
    async def story() -> None:
        endpoint = McpEndpoint(EndpointLimits(calls_max=1, request_bytes_max=1000))
        async with served(mcp=endpoint) as node:
            endpoint.rest = node.app
            early = await node.http.post("/mcp", json=CALL, headers=HEADERS)
            assert (early.status_code, early.json()["error"]["code"]) == (503, "node_not_ready")
            running = asyncio.create_task(endpoint.run())
            try:
                async with asyncio.timeout(10):
                    while early.status_code == 503:
                        early = await node.http.post("/mcp", json=CALL, headers=HEADERS)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            assert "tiny-sd3" in early.text
            counted = (await node.http.get("/metrics")).text
            assert 'dedgeai_http_requests_total{status="200",surface="/mcp"} 1.0' in counted

    asyncio.run(story())


def test_the_caller_is_who_asks_rest() -> None:
    asked: list[Scope] = []

    async def rest(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"object": "list", "data": []}'})

    told = {
        "authorization": "Bearer dk-alice",
        "host": "images.example.com",
        "x-forwarded-for": "10.0.0.7",
        "x-forwarded-host": "images.example.com",
        "x-forwarded-proto": "https",
        "x-forwarded-prefix": "/draw",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    others = {"content-length": "99", "cookie": "x=y", "mcp-protocol-version": "2025-06-18"}
    outer: dict[str, Any] = {
        "type": "http",
        "headers": [(k.encode(), v.encode()) for k, v in {**told, **others}.items()],
        "client": ("127.0.0.1", 4711),
        "scheme": "https",
    }

    async def story() -> None:
        endpoint = McpEndpoint(EndpointLimits(calls_max=1, request_bytes_max=1000))
        endpoint.rest = rest
        context: Any = SimpleNamespace(request=Request(outer))
        async with endpoint._client_of(context) as client:
            assert await client.models() == ()

    asyncio.run(story())
    (scope,) = asked
    sent = {name.decode(): value.decode() for name, value in scope["headers"]}
    assert {name: sent.get(name) for name in told} == told
    assert not others.keys() & sent.keys()
    assert (scope["client"], scope["scheme"]) == (("127.0.0.1", 4711), "https")
    assert scope["state"] == {PART_OF_ANOTHER: True}
