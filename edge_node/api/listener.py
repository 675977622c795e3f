"""The REST listener of a node: from its first connection to its last.

Owns uvicorn's settings and the end: requests under way are served, then it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from edge_node.config import NodeConfig

# Idle connections are the client's to close: one that the server closes may just be in use again.
# Clients keep theirs for seconds (httpx, and so OpenAI's SDK: 5), proxies for a minute.
KEEP_ALIVE_S = 75


async def listen(
    app: ASGIApp,
    config: NodeConfig,
    *,
    stopping: asyncio.Event,
    drain: Callable[[], Awaitable[None]],
) -> None:
    """Serves `app` until `stopping`, then waits for `drain` and for what is still being answered.

    Returns early when the listener ends by itself, as it does when its port is taken.
    """
    server = _Server(
        uvicorn.Config(
            app,
            host=config.rest_host,
            port=config.rest_port,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(config.drain_s) + 1,
        )
    )
    serving = asyncio.create_task(server.serve())
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
    if stopping.is_set():
        await drain()
    server.should_exit = True
    stopped.cancel()
    await serving


class _Server(uvicorn.Server):
    """Leaves the signals to the node, which drains before it stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield
