"""What a worker would have others compute is brought to whoever finds them, and what came, back.

Owns the call and the answers under way in it. Who is asked is none of its business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

from edge_node.errors import DEdgeAIError
from edge_node.shared_rows import RowGiven, RowWanted
from edge_node.supervision.worker_client import WorkerClient

LOG = logging.getLogger(__name__)

Ask = Callable[[RowWanted], Awaitable[RowGiven]]


@asynccontextmanager
async def sharing(client: WorkerClient, ask: Ask | None) -> AsyncIterator[None]:
    """Listens to the worker's wishes meanwhile; not at all without `ask`."""
    if ask is None:
        yield
        return
    listening = asyncio.create_task(_share(client, ask), name="sharing rows")
    try:
        yield
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def _share(client: WorkerClient, ask: Ask) -> None:
    answers: asyncio.Queue[RowGiven] = asyncio.Queue()
    asking: dict[asyncio.Task[None], None] = {}

    async def answer(wanted: RowWanted) -> None:
        answers.put_nowait(await ask(wanted))

    async def told() -> AsyncIterator[RowGiven]:
        while True:
            yield await answers.get()

    try:
        async with aclosing(client.share_rows(told())) as wishes:
            async for wanted in wishes:
                task = asyncio.create_task(answer(wanted))
                asking[task] = None
                task.add_done_callback(lambda done: asking.pop(done, None))
    except DEdgeAIError as error:
        # A worker of another version, or one that is gone: it draws alone.
        LOG.info("no steps of the worker are shared: %s", error.message)
    finally:
        for task in list(asking):
            task.cancel()
