"""The REST listener of a node: from its first connection to its last.

Owns uvicorn's settings and the end: requests under way are served, then it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from edge_node.api.connections import (
    BoundedHttp,
    ConnectionLimits,
    Connections,
    raise_file_limit,
)
from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest
from edge_node.lasting import Loops

log = logging.getLogger(__name__)

# Idle connections are the client's to close: one that the server closes may just be in use again.
# Clients keep theirs for seconds (httpx, and so OpenAI's SDK: 5), proxies for a minute.
KEEP_ALIVE_S = 75


async def listen(
    app: ASGIApp,
    config: NodeConfig,
    *,
    stopping: asyncio.Event,
    drain: Callable[[], Awaitable[None]],
    loops: Loops,
) -> None:
    """Serves `app` until `stopping`, then waits for `drain` and for what is still being answered.

    Raises:
        InvalidRequest: its port cannot be had.
    """
    raise_file_limit()
    connections = Connections(ConnectionLimits.of(config))
    server = Server(
        settings(
            app,
            connections,
            host=config.rest_host,
            port=config.rest_port,
            timeout_graceful_shutdown=int(config.drain_s) + 1,
        )
    )
    asyncio.get_running_loop().set_exception_handler(_TooManyFiles())
    serving = asyncio.create_task(server.serve())
    sweeping = loops.start("closing connections", connections.sweep, vital=False)
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            await drain()
        server.should_exit = True
        await serving
    finally:
        stopped.cancel()
        sweeping.cancel()


def settings(app: ASGIApp, connections: Connections, **more: Any) -> uvicorn.Config:
    """How uvicorn serves `app`; `more` says where."""
    return uvicorn.Config(
        app,
        # uvicorn calls it as it would the class; its annotation knows only classes.
        http=cast(Any, partial(BoundedHttp, among=connections)),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # addressing.py reads them
        server_header=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_S,
        **more,
    )


class Server(uvicorn.Server):
    """Leaves the signals to the node, which drains before it stops."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Binds; raises InvalidRequest where uvicorn would end the process."""
        try:
            await super().startup(sockets)
        except SystemExit:
            host, port = self.config.host, self.config.port
            raise InvalidRequest(
                f"The port {port} on {host} for REST cannot be had: another process uses it, or "
                "the address is not this machine's. Stop it, or set rest_host and rest_port.",
                param="rest_port",
            ) from None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


class _TooManyFiles:
    """Exception handler of the loop: that a connection found no file is logged once a second."""

    def __init__(self) -> None:
        self._logged_s = -1.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        problem = context.get("exception")
        if not isinstance(problem, OSError) or problem.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() - self._logged_s >= 1.0:
            self._logged_s = loop.time()
            log.error("connections are refused: %s; raise the limit of open files", problem)
