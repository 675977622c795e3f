"""Errors in OpenAI's shape, but for the paths that are AUTOMATIC1111's.

Owns the mapping of our errors to responses, and the frame around every request: its id, its
count, and the 500 for what nobody foresaw.
"""

from __future__ import annotations

import logging
import math
import re
import secrets
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_node.access.key_use import QuotaUsedUp
from edge_node.errors import DEdgeAIError, IdempotencyConflict, InvalidRequest
from edge_node.telemetry.metrics import NodeMetrics

_log = logging.getLogger(__name__)

# Nobody reads it: the client is gone. The number is nginx's and tells it apart in metrics.
CLIENT_CLOSED_REQUEST = 499

# What is sent is an image, JSON or text, and nothing that a browser should look into or run; but
# for the page, which brings a policy of its own.
_CONTENT_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)

# Of what came over TLS: browsers ask this host in no other way for a year.
_TRANSPORT_SECURITY = (b"strict-transport-security", b"max-age=31536000")

# Where clients look for AUTOMATIC1111's fields; everywhere else for OpenAI's.
_OF_AUTOMATIC1111 = ("/sdapi/", "/internal/")
_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestTooLarge(InvalidRequest):
    """The body exceeds what the node reads."""

    code = "request_too_large"
    http_status = 413


class UnsupportedMediaType(InvalidRequest):
    """The body is of a kind that this address does not take."""

    code = "unsupported_media_type"
    http_status = 415


class UploadTooSlow(InvalidRequest):
    """The body took longer to arrive than the node waits."""

    code = "upload_too_slow"
    http_status = 408


def error_body(error: DEdgeAIError) -> dict[str, Any]:
    """The JSON of an error, also within event streams."""
    return _body(error.message, status=error.http_status, code=error.code, param=error.param)


def error_response(error: DEdgeAIError, *, path: str) -> JSONResponse:
    """The response for an error at an address, in the shape that its clients know."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, IdempotencyConflict | QuotaUsedUp):
        headers["x-should-retry"] = "false"  # SDKs repeat a 409 or a 429 otherwise
    body = _shaped(error_body(error), path)
    return JSONResponse(body, status_code=error.http_status, headers=headers)


def remember_acceptance(request: Request, headers: Mapping[str, str]) -> None:
    """From here on the response says what was accepted, and an error that it is not to be retried.

    SDKs repeat a 5xx; once the tasks are accepted, that would draw everything again.
    """
    request.state.acceptance_headers = dict(headers)


def add_error_handlers(app: FastAPI) -> None:
    """Replaces the framework's own error shapes."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, DEdgeAIError)
        return error_response(error, path=request.url.path)

    async def unroutable(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        messages = {
            404: ("not_found", f"There is nothing at {request.url.path}."),
            405: ("method_not_allowed", f"{request.method} is not allowed at this address."),
        }
        code, message = messages.get(error.status_code, ("http_error", str(error.detail)))
        body = _body(message, status=error.status_code, code=code, param=None)
        body = _shaped(body, request.url.path)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods_at(app, request.url.path))
        return JSONResponse(body, status_code=error.status_code, headers=headers)

    async def hung_up(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    app.add_exception_handler(DEdgeAIError, known)
    app.add_exception_handler(ClientDisconnect, hung_up)
    app.add_exception_handler(HTTPException, unroutable)


def _methods_at(app: FastAPI, path: str) -> list[str]:
    """All that an address takes: each of its routes knows its own alone."""
    routes = [one for one in app.router.routes if isinstance(one, Route)]
    return sorted({m for one in routes if one.path_regex.match(path) for m in one.methods or ()})


class RequestFrame:
    """ASGI middleware: id, acceptance and security headers, count, and the unforeseen as a 500."""

    def __init__(self, app: ASGIApp, metrics: NodeMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Frames one HTTP request; other scopes pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        started = False

        async def framed_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._frame(scope, message, request_id=request_id)
            await send(message)

        try:
            await self._app(scope, receive, framed_send)
        except Exception:
            _log.exception("request %s failed", request_id)
            if started:
                raise
            problem = DEdgeAIError(f"Internal error; the log names request {request_id}.")
            response = error_response(problem, path=scope["path"])
            await response(scope, receive, framed_send)

    def _frame(self, scope: Scope, message: Message, *, request_id: str) -> None:
        headers = MutableHeaders(scope=message)
        headers["x-request-id"] = request_id
        headers.raw.extend(_SECURITY_HEADERS)
        if _CONTENT_POLICY[0].decode() not in headers:
            headers.raw.append(_CONTENT_POLICY)
        if scope["scheme"] == "https":
            headers.raw.append(_TRANSPORT_SECURITY)
        acceptance: dict[str, str] | None = scope.get("state", {}).get("acceptance_headers")
        if acceptance is not None:
            headers.update(acceptance)
            if message["status"] >= 400:
                headers["x-should-retry"] = "false"
        # A template, or nothing: what clients make up must not become labels.
        surface = getattr(scope.get("route"), "path", "none")
        self._metrics.request_answered(surface=surface, status=message["status"])


def _request_id(scope: Scope) -> str:
    """The client's own id, if it is a decent one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _CLIENT_REQUEST_ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    return f"req-{secrets.token_hex(8)}"


def _shaped(body: dict[str, Any], path: str) -> dict[str, Any]:
    if not path.startswith(_OF_AUTOMATIC1111):
        return body
    error = body["error"]
    return {"error": error["code"], "detail": error["message"], "body": "", "errors": ""}


def _body(message: str, *, status: int, code: str, param: str | None) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    if status == 429:
        kind = "rate_limit_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
