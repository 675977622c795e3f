"""How a node that is told to stop leaves: in which order, and for how long each part may take.

It first goes on to take requests, which others draw, so that whoever sends them has time to see
that it is going; then it takes none, and waits for what is open. Clients that still wait when its
time is over are told so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from edge_node.clock import Clock
from edge_node.dispatch.dispatcher import Dispatcher

log = logging.getLogger(__name__)

# Of its time, what it may go on to take requests for; those are answered in the rest.
TAKING_SHARE = 0.5
LOOK_S = 0.05


class Leaving:
    """The end of a node, for as long as clients are there.

    Args:
        dispatcher: of the node.
        drain_s: for all of it.
        at_once: the node cannot go on, so that nothing is waited for.
        clock: of the node.
        said: called when no client is waited for any more; streams that can be resumed end then.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        drain_s: float,
        at_once: Callable[[], bool],
        clock: Clock,
        said: Callable[[], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._drain_s = drain_s
        self._at_once = at_once
        self._clock = clock
        self._said = said
        self._until_s = 0.0

    async def drain(self) -> None:
        """While clients can still come."""
        if self._at_once():
            return
        log.info("stopping: draws nothing new, %g s for what is under way", self._drain_s)
        self._until_s = self._clock.now_s() + self._drain_s
        await self._dispatcher.drain(timeout_s=TAKING_SHARE * self._drain_s)

    async def finish(self, closed: asyncio.Event) -> None:
        """Once no more can; those that had come may still ask, until `closed`."""
        left_s = max(0.0, self._until_s - self._clock.now_s())
        saying = asyncio.create_task(self._say_when_idle())
        try:
            await self._dispatcher.finish(timeout_s=left_s, closed=closed)
        finally:
            saying.cancel()
        self._said()

    async def _say_when_idle(self) -> None:
        """Streams that never end by themselves would keep connections open."""
        while not self._dispatcher.is_idle:  # noqa: ASYNC110 - of pure machines
            await asyncio.sleep(LOOK_S)
        self._said()
