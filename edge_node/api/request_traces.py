"""A span for every request but those of operators' tools; a client's own trace goes on with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_node.telemetry.tracing import Tracing
from edge_node.trace_context import TraceContext, current

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Span

# Asked every few seconds, and part of nothing.
_UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})


class RequestTraces:
    """ASGI middleware.

    Args:
        app: what is behind it.
        tracing: makes spans.
    """

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        self._app = app
        self._tracing = tracing
        self._kind = SpanKind.SERVER
        self._error = Status(StatusCode.ERROR)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Traces one HTTP request; other scopes pass."""
        if scope["type"] != "http" or scope["path"] in _UNTRACED:
            await self._app(scope, receive, send)
            return
        headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]]
        span = self._tracing.begin(
            scope["method"],
            parent=TraceContext.told(headers),
            kind=self._kind,
            attributes={"http.request.method": scope["method"], "url.scheme": scope["scheme"]},
        )

        async def heard(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered(span, message)
            await send(message)

        former = current.set(self._tracing.context_of(span))
        try:
            await self._app(scope, receive, heard)
        finally:
            current.reset(former)
            # A template, or nothing: an address may hold what a client made up.
            route = getattr(scope.get("route"), "path", "")
            if route:
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)
            span.end()

    def _answered(self, span: Span, message: Message) -> None:
        status: int = message["status"]
        span.set_attribute("http.response.status_code", status)
        for name, value in message.get("headers", ()):
            if name == b"x-request-id":
                span.set_attribute("dedgeai.request.id", value.decode("latin-1"))
        if status >= 500:
            span.set_status(self._error)
