"""The life of a write-behind: one connection, one task that writes while the store is there.

Owns starting and stopping, waiting for work and for the store, and that only one write is under
way. What is written, and whether anything is left to write, is its caller's business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from edge_node.errors import StoreUnavailable
from edge_node.lasting import Loops
from edge_node.store.connection import StoreConnection


class BackgroundWriter:
    """Calls `write` whenever it was woken, until `write` says that nothing is left."""

    def __init__(
        self,
        connection: StoreConnection,
        write: Callable[[], Awaitable[bool]],
        *,
        name: str,
        loops: Loops | None = None,
        vital: bool = False,
        pause_s: float = 0.0,
    ) -> None:
        """Starts nothing yet.

        Args:
            connection: started and closed with the writer.
            write: writes the next of what waits; returns whether more is left, or raises
                StoreUnavailable and keeps what it had.
            name: of what is written, in the log.
            loops: keeps the writing going, `vital` or not.
            vital: see above.
            pause_s: after each write.
        """
        self._name = name
        self._loops = loops or Loops()
        self._vital = vital
        self._connection = connection
        self._write = write
        self._pause_s = pause_s
        self._work_waits = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts the background work; a store that is away is no error."""
        await self._connection.start()
        self._task = self._loops.start(f"writing {self._name}", self._run, vital=self._vital)

    async def close(self) -> None:
        """Stops the background work; what was not written is lost."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._connection.close()

    def wake(self) -> None:
        """There is something to write."""
        self._work_waits.set()

    async def write_once(self, *, while_needed: Callable[[], bool] = lambda: True) -> None:
        """Writes now, for callers that wait for it; nothing where the write before was enough.

        Raises:
            StoreUnavailable: the store is away.
        """
        async with self._writing:
            if while_needed() and not await self._write():
                self._work_waits.clear()

    async def _run(self) -> None:
        while True:
            await self._work_waits.wait()
            await self._connection.wait_until_available()
            # A failure makes the store unavailable, so the next turn waits for it.
            with contextlib.suppress(StoreUnavailable):
                await self.write_once()
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
