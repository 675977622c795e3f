"""What outlives the node, from its first connection to the store to its last write there.

Owns the order of both: a part that is opened is flushed, as far as the store lets it in time, and
closed, whatever happens in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from edge_node.clock import Clock
from edge_node.errors import StoreUnavailable
from edge_node.lasting import Loops
from edge_node.store.experience_pool import ExperiencePool, PoolSettings
from edge_node.store.stored_latents import StoredLatents, StoredLatentsSettings
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from edge_node.tasks.slots import LatentSnapshot

log = logging.getLogger(__name__)

FLUSH_S_MAX = 5.0


@asynccontextmanager
async def open_ledger(
    settings: LedgerSettings,
    *,
    clock: Clock,
    on_pending_changed: Callable[[int], None],
    loops: Loops | None = None,
) -> AsyncIterator[TaskLedger]:
    """The ledger, connected.

    Raises:
        StoreUnavailable: without a store that promises to write to disk there is no node.
    """
    ledger = TaskLedger(settings, clock=clock, on_pending_changed=on_pending_changed, loops=loops)
    await ledger.connect()
    async with _flushed_and_closed(ledger):
        if not ledger.available:
            raise StoreUnavailable(
                f"The store at {settings.store.url} does not answer, or cannot promise to write "
                "to disk. Start it, or leave redis_url out to use the embedded one."
            )
        yield ledger


@asynccontextmanager
async def open_latents(
    settings: StoredLatentsSettings,
    *,
    last: Callable[[], LatentSnapshot | None],
    on_behind_changed: Callable[[int], None],
    loops: Loops | None = None,
) -> AsyncIterator[StoredLatents]:
    """The store's latents, connected; `last` gives what is to be written at the end."""
    latents = StoredLatents(settings, on_behind_changed=on_behind_changed, loops=loops)
    await latents.connect()
    async with _flushed_and_closed(latents):
        try:
            yield latents
        finally:
            snapshot = last()
            if snapshot is not None:
                latents.note(snapshot)


@asynccontextmanager
async def open_pool(
    settings: PoolSettings,
    *,
    clock: Clock,
    on_dropped: Callable[[int], None],
    loops: Loops | None = None,
) -> AsyncIterator[ExperiencePool]:
    """The experience pool, connected."""
    pool = ExperiencePool(settings, clock=clock, on_dropped=on_dropped, loops=loops)
    await pool.start()
    async with _flushed_and_closed(pool):
        yield pool


class _WrittenBehind(Protocol):
    async def flush(self) -> None: ...

    async def close(self) -> None: ...


@asynccontextmanager
async def _flushed_and_closed(part: _WrittenBehind) -> AsyncIterator[None]:
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(FLUSH_S_MAX):
                await part.flush()
        except (TimeoutError, StoreUnavailable):
            pass  # what was promised is on disk already
        except Exception:
            log.exception("what waited to be written is lost")
        await part.close()
