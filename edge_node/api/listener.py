"""The REST listener of a node: from its first connection to its last.

Owns uvicorn's settings and the end: requests under way are served, then it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
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
from edge_node.rest_tls import LOOK_EVERY_S, RestTls

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
    finish: Callable[[asyncio.Event], Awaitable[None]],
    loops: Loops,
    tls: RestTls | None = None,
) -> None:
    """Serves `app` until `stopping`, and on for `drain`; then it lets nobody in.

    What was let in is answered meanwhile, and has been after `finish`, or is cut off; `finish` is
    given what says that no connection is left.

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
            timeout_graceful_shutdown=math.ceil(config.drain_s) + 1,
        ),
        tls=tls,
        greeting_s_max=config.request_header_s_max,
    )
    asyncio.get_running_loop().set_exception_handler(_TooManyFiles())
    serving = asyncio.create_task(server.serve())
    sweeping = loops.start("closing connections", connections.sweep, vital=False)
    renewing = None if tls is None else loops.start("REST's TLS", partial(_look, tls), vital=False)
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            await drain()
        server.should_exit = True
        if stopping.is_set():
            closed = asyncio.Event()
            serving.add_done_callback(lambda _: closed.set())
            await finish(closed)
        await serving
    finally:
        stopped.cancel()
        sweeping.cancel()
        if renewing is not None:
            renewing.cancel()


async def _look(tls: RestTls) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        await asyncio.to_thread(tls.look)


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
    """Leaves the signals to the node, which drains before it stops.

    Args:
        config: as `settings` makes it.
        tls: what it proves with who it is; in clear if not given.
        greeting_s_max: that a connection's handshake may take.
    """

    def __init__(
        self, config: uvicorn.Config, *, tls: RestTls | None = None, greeting_s_max: float = 10.0
    ) -> None:
        super().__init__(config)
        self._tls = tls
        self._greeting_s_max = greeting_s_max

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Binds; raises InvalidRequest where uvicorn would end the process."""
        try:
            if self._tls is None:
                await super().startup(sockets)
            else:
                await self._startup_over_tls(self._tls)
        except (SystemExit, OSError):
            host, port = self.config.host, self.config.port
            raise InvalidRequest(
                f"The port {port} on {host} for REST cannot be had: another process uses it, or "
                "the address is not this machine's. Stop it, or set rest_host and rest_port.",
                param="rest_port",
            ) from None

    async def _startup_over_tls(self, tls: RestTls) -> None:
        """As uvicorn does it, but with a context of ours, and with patience of ours."""
        await self.lifespan.startup()
        config = self.config
        made: Any = config.http_protocol_class

        def protocol() -> asyncio.Protocol:
            return cast(
                asyncio.Protocol,
                made(config=config, server_state=self.server_state, app_state=self.lifespan.state),
            )

        listening = await asyncio.get_running_loop().create_server(
            protocol,
            host=config.host,
            port=config.port,
            backlog=config.backlog,
            ssl=tls.context,
            ssl_handshake_timeout=self._greeting_s_max,
        )
        self.servers = [listening]
        self.started = True

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
