"""/mcp of a node: streamable HTTP, without sessions, so that any node behind a balancer answers.

What is called becomes requests to the node's own REST surface in the name of whoever calls: with
his key, from his address, within his limits. The call itself counts as one request of his.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_node.api.error_responses import error_response
from edge_node.api.key_check import PART_OF_ANOTHER
from edge_node.client import AsyncClient, Patience
from edge_node.config import NodeConfig
from edge_node.errors import AdmissionRefused, NodeNotReady
from edge_node.mcp.in_process import InProcess
from edge_node.mcp.server import Context, mcp_server

PATH = "/mcp"
BUSY_RETRY_S = 2.0
# Who has to come again is told so, and holds no place while he waits.
AT_ONCE = Patience(tries_max=1)
# What of the caller's headers says who he is, where he thinks he is, and which trace it belongs to.
_PASSED_ON = frozenset(
    {"authorization", "host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}
    | {"x-forwarded-prefix", "traceparent", "tracestate"}
)


@dataclass(frozen=True, kw_only=True)
class EndpointLimits:
    """Calls under way at once, and bytes of one."""

    calls_max: int
    request_bytes_max: int

    @classmethod
    def of(cls, config: NodeConfig) -> EndpointLimits:
        """From the node's settings."""
        return cls(calls_max=config.mcp_calls_max, request_bytes_max=config.mcp_request_bytes_max)


class McpEndpoint:
    """ASGI application for one path; `run` has to run for it to answer.

    Args:
        limits: of calls.
    """

    def __init__(self, limits: EndpointLimits) -> None:
        self._limits = limits
        self._under_way = 0
        self._manager: StreamableHTTPSessionManager | None = None
        self.rest: ASGIApp | None = None
        self._server = mcp_server(self._client_of, files=False)

    async def run(self) -> None:
        """Until it is cancelled."""
        manager = StreamableHTTPSessionManager(
            self._server,
            stateless=True,
            max_request_body_size=self._limits.request_bytes_max,
        )
        async with manager.run():
            self._manager = manager
            try:
                await asyncio.Event().wait()
            finally:
                self._manager = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or says why not."""
        refusal = self._refusal()
        if refusal is not None:
            await error_response(refusal, path=scope["path"])(scope, receive, send)
            return
        assert self._manager is not None, "it was looked at"
        with self._place() as leave:

            async def send_and_leave(message: Message) -> None:
                if message["type"] == "http.response.body" and not message.get("more_body", False):
                    leave()  # before who hears the end calls again
                await send(message)

            await self._manager.handle_request(scope, receive, send_and_leave)

    @contextlib.contextmanager
    def _place(self) -> Iterator[Callable[[], None]]:
        """One of `calls_max`, left once: when the answer has ended, or the request."""
        places = contextlib.ExitStack()
        self._under_way += 1

        def leave() -> None:
            self._under_way -= 1

        places.callback(leave)
        with places:
            yield places.close

    def _refusal(self) -> AdmissionRefused | NodeNotReady | None:
        if self._manager is None:
            return NodeNotReady("The node is being started.", retry_after_s=BUSY_RETRY_S)
        if self._under_way >= self._limits.calls_max:
            return AdmissionRefused(
                f"{self._under_way} calls of tools are under way, which is the most: come again, "
                "or raise mcp_calls_max.",
                retry_after_s=BUSY_RETRY_S,
            )
        return None

    @contextlib.asynccontextmanager
    async def _client_of(self, context: Context) -> AsyncIterator[AsyncClient]:
        assert self.rest is not None, "it is mounted"
        request: Any = context.request
        headers = {name: value for name, value in request.headers.items() if name in _PASSED_ON}
        transport = InProcess(self.rest, request.scope, state={PART_OF_ANOTHER: True})
        address = "http://" + headers.pop("host", "localhost")
        client = AsyncClient(
            address, api_key="", patience=AT_ONCE, headers=headers, transport=transport
        )
        async with client:
            yield client
