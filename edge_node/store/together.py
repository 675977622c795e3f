"""Durable commands of many callers, sent together: one sync and one round trip for all that wait.

Owns who waits for which reply. What a command says and what an unknown fate means is its caller's.
"""

from __future__ import annotations

import asyncio
from typing import Any

from edge_node.store.connection import Command, StoreConnection

# A command holds a task or more; a reply waits for all that are sent with it.
TOGETHER_MAX = 64
# So that one that hangs does not hold up those behind it.
UNDER_WAY_MAX = 4


class Together:
    """Sends at once while few are under way, else with all that wait for one of them to end.

    Each command is atomic; those that are sent together are not as one.
    """

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def execute(self, command: Command) -> Any:
        """The reply to `command`, whose writes are on disk then.

        Raises:
            StoreUnavailable: nothing is known of it; it may have been carried out. So it is when
                this call is cancelled.
        """
        reply = asyncio.get_running_loop().create_future()
        self._waiting.append((command, reply))
        if len(self._under_way) < UNDER_WAY_MAX:
            sending = asyncio.create_task(self._send(), name="durable writes")
            self._under_way.add(sending)
            sending.add_done_callback(self._under_way.discard)
        return await reply

    async def _send(self) -> None:
        while self._waiting:
            sent = self._waiting[:TOGETHER_MAX]
            del self._waiting[:TOGETHER_MAX]
            wanted = [(command, reply) for command, reply in sent if not reply.done()]
            if wanted:
                await self._send_together(wanted)

    async def _send_together(self, sent: list[tuple[Command, asyncio.Future[Any]]]) -> None:
        try:
            replies = await self._connection.execute([one for one, _ in sent], durable=True)
        except Exception as problem:
            for _, reply in sent:
                if not reply.done():
                    reply.set_exception(problem)
            return
        except asyncio.CancelledError:
            for _, reply in (*sent, *self._waiting):
                reply.cancel()
            raise
        for (_, reply), said in zip(sent, replies, strict=True):
            if not reply.done():
                reply.set_result(said)
