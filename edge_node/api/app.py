"""Builds the REST application around a node."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Collection
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from edge_node.access.key_file import KeyFile
from edge_node.access.key_use import KeyUse
from edge_node.access.keys import ANYBODY, Client
from edge_node.api import (
    automatic1111,
    cluster_events,
    cluster_keys,
    docs_page,
    image_tasks,
    jobs,
    openai_edits,
    openai_images,
    openapi,
    operations,
    page,
    task_lists,
)
from edge_node.api.addressing import Addresses, Addressing
from edge_node.api.callbacks import Callbacks
from edge_node.api.error_responses import RequestFrame, add_error_handlers
from edge_node.api.front_desk_port import FrontDeskPort
from edge_node.api.gate import Gate
from edge_node.api.image_fetch import ImageFetch
from edge_node.api.key_check import KeyCheck
from edge_node.api.openai_request import Habits
from edge_node.api.request_body import BodyLimits
from edge_node.api.request_traces import RequestTraces
from edge_node.api.surface import Surface
from edge_node.api.uploads import UploadLimits, Uploads
from edge_node.config import NodeConfig
from edge_node.telemetry.metrics import NodeMetrics
from edge_node.telemetry.tracing import Tracing

# What a page of another origin may send, and read of an answer besides what every page may.
_CORS_METHODS = ("GET", "HEAD", "POST", "DELETE")
_CORS_REQUEST_HEADERS = (
    *("authorization", "content-type", "idempotency-key", "last-event-id", "x-request-id"),
    *("range", "if-none-match", "mcp-protocol-version", "traceparent", "tracestate"),
)
_CORS_HEADERS = (
    *("location", "retry-after", "x-request-id", "x-should-retry", "idempotent-replayed", "etag"),
    *("x-dedgeai-task-id", "x-dedgeai-job-id", "x-dedgeai-executor", "x-dedgeai-durability"),
    *("x-dedgeai-size", "x-dedgeai-size-asked", "x-dedgeai-emulated-device"),
)
_SURFACES = (
    docs_page,
    *(openai_images, openai_edits, automatic1111, image_tasks, task_lists, jobs, operations),
    cluster_events,
    cluster_keys,
    page,
)


class _Application(FastAPI):
    """Without the layers for which requests have a frame and bodies bounds of their own here."""

    def __init__(
        self,
        *,
        metrics: NodeMetrics,
        hosts: Collection[str],
        addresses: Addresses,
        origins: Collection[str],
        client_of_key: Callable[[str | None], Client | None],
        ask: Callable[[Client], None],
        tracing: Tracing | None,
    ) -> None:
        # Not FastAPI's own pages: they load their scripts from outside, where an edge LAN may not
        # reach. /docs is `docs_page.py`'s.
        super().__init__(
            title="DEdgeAI",
            version=importlib.metadata.version("dedgeai"),
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
        )
        self._metrics = metrics
        self._hosts = (*hosts, *addresses.hosts)
        self._addresses = addresses
        self._origins = tuple(origins)
        self._client_of_key = client_of_key
        self._ask = ask
        self._tracing = tracing

    def openapi(self) -> dict[str, Any]:
        """The document that describes it, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = openapi.completed(super().openapi())
        return self.openapi_schema

    def build_middleware_stack(self) -> ASGIApp:
        """What every request passes, from the outside in."""
        known = ExceptionMiddleware(self.router, handlers=self.exception_handlers)
        checked = KeyCheck(known, client_of_key=self._client_of_key, ask=self._ask)
        gated: ASGIApp = Gate(checked, hosts=self._hosts, origins=self._origins)
        if self._origins:
            gated = CORSMiddleware(
                gated,
                allow_origins=self._origins,
                allow_methods=_CORS_METHODS,
                allow_headers=_CORS_REQUEST_HEADERS,
                expose_headers=_CORS_HEADERS,
            )
        framed: ASGIApp = RequestFrame(gated, metrics=self._metrics)
        if self._tracing is not None:
            framed = RequestTraces(framed, tracing=self._tracing)
        return Addressing(framed, self._addresses)


class _NamedRoute(Route):
    """Says which one it is, as FastAPI's do: metrics and traces go by that."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Route, and itself."""
        match, told = super().matches(scope)
        return match, {**told, "route": self}


def create_app(
    front_desk: FrontDeskPort,
    *,
    metrics: NodeMetrics,
    body_limits: BodyLimits,
    upload_limits: UploadLimits,
    hosts: Collection[str] = (),
    addresses: Addresses | None = None,
    origins: Collection[str] = (),
    image_origins: Collection[str] = (),
    habits: Callable[[], Habits] = lambda: Habits.of(NodeConfig()),
    client_of_key: Callable[[str | None], Client | None] = lambda key: ANYBODY,
    keys: KeyFile | None = None,
    key_use: KeyUse | None = None,
    keep_alive_s: float = 15.0,
    mcp: ASGIApp | None = None,
    callbacks: Callbacks | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application; it starts nothing and needs no lifespan.

    Args:
        front_desk: the node.
        metrics: shown at /metrics, and told of every request.
        body_limits: of requests without an init image; beyond them is 413 or 408.
        upload_limits: of init images.
        hosts: names that the node goes by, beside those that cannot be another's.
        addresses: what stands before the node, and is believed.
        origins: of pages of others that may use it from a browser.
        image_origins: from which images are fetched that requests name by their addresses.
        habits: by which OpenAI's surface is read now.
        client_of_key: who asks with an API key, or with none; None for nobody who may.
        keys: takes a signed list of keys that is handed to the node.
        key_use: refuses what a key may not ask for.
        keep_alive_s: silence on an event stream after which a comment is sent.
        mcp: answers agents at /mcp, if any does.
        callbacks: tells ends to whoever asks for it.
        tracing: makes spans of requests, if they are wanted.
    """
    app = _Application(
        metrics=metrics,
        hosts=hosts,
        addresses=addresses or Addresses(),
        origins=origins,
        client_of_key=client_of_key,
        ask=(lambda client: None) if key_use is None else key_use.ask,
        tracing=tracing,
    )
    app.state.surface = Surface(
        front_desk=front_desk,
        metrics=metrics,
        body_limits=body_limits,
        uploads=Uploads(upload_limits),
        image_fetch=ImageFetch(origins=image_origins, limits=upload_limits),
        habits=habits,
        keep_alive_s=keep_alive_s,
        started_unix_s=int(time.time()),
        keys=keys,
        key_use=key_use,
        callbacks=callbacks,
    )
    # As they are, not included: FastAPI would go by its own way to a function again.
    for module in _SURFACES:
        app.router.routes.extend(module.router.routes)
    if mcp is not None:
        app.router.routes.append(_NamedRoute("/mcp", mcp, methods=["POST"]))
    add_error_handlers(app)
    return app
