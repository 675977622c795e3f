"""The REST application behind the node's own listener, on a real port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from edge_node.access.key_use import KeyUse
from edge_node.access.keys import ANYBODY, Client
from edge_node.api.addressing import Addresses
from edge_node.api.app import create_app
from edge_node.api.callbacks import Callbacks
from edge_node.api.connections import ConnectionLimits, Connections
from edge_node.api.listener import Server, settings
from edge_node.api.openai_request import Habits
from edge_node.api.request_body import BodyLimits
from edge_node.api.uploads import UploadLimits
from edge_node.config import NodeConfig
from edge_node.telemetry.metrics import NodeMetrics
from tests.api.memory_front_desk import MemoryFrontDesk

REQUEST_BYTES_MAX = 20_000
ADDRESSES = Addresses.of(NodeConfig())
HABITS = Habits.of(NodeConfig())
BODIES = BodyLimits(bytes_max=REQUEST_BYTES_MAX, arrival_s_max=15.0)
CONNECTIONS = ConnectionLimits(
    connections_max=50, per_address_max=50, header_s_max=15.0, body_s_max=15.0
)
UPLOADS = UploadLimits(
    bytes_max=300_000,
    pixels_max=2_000_000,
    decoding_bytes_max=8_000_000,
    at_once_max=2,
    held_bytes_max=700_000,
    arrival_s_max=15.0,
)


@dataclass(frozen=True, kw_only=True)
class Served:
    http: httpx.AsyncClient
    front_desk: MemoryFrontDesk
    url: str
    connections: Connections
    app: FastAPI
    server: Server


@contextlib.asynccontextmanager
async def served(
    front_desk: MemoryFrontDesk | None = None,
    *,
    keep_alive_s: float = 15.0,
    upload_limits: UploadLimits = UPLOADS,
    body_limits: BodyLimits = BODIES,
    connection_limits: ConnectionLimits = CONNECTIONS,
    hosts: Collection[str] = (),
    addresses: Addresses = ADDRESSES,
    origins: Collection[str] = (),
    image_origins: Collection[str] = (),
    habits: Habits = HABITS,
    client_of_key: Callable[[str | None], Client | None] = lambda key: ANYBODY,
    key_use: KeyUse | None = None,
    mcp: ASGIApp | None = None,
    callbacks: Callbacks | None = None,
) -> AsyncIterator[Served]:
    front_desk = front_desk or MemoryFrontDesk()
    app = create_app(
        front_desk,
        metrics=NodeMetrics(),
        body_limits=body_limits,
        upload_limits=upload_limits,
        hosts=hosts,
        addresses=addresses,
        origins=origins,
        image_origins=image_origins,
        habits=lambda: habits,
        client_of_key=client_of_key,
        key_use=key_use,
        keep_alive_s=keep_alive_s,
        mcp=mcp,
        callbacks=callbacks,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio sets it on listeners of its own only; without it every answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    connections = Connections(connection_limits)
    server = Server(settings(app, connections, timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    sweeping = asyncio.create_task(connections.sweep())
    try:
        async with httpx.AsyncClient(base_url=url, timeout=5.0, trust_env=False) as http:
            yield Served(
                http=http,
                front_desk=front_desk,
                url=url,
                connections=connections,
                app=app,
                server=server,
            )
    finally:
        server.should_exit = True
        await serving
        sweeping.cancel()
        listener.close()
