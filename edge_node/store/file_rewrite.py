"""The store's append-only file written anew, so that what left the store leaves the disk, too.

Owns when: soon after something was erased, and seldom for what leaves by age, because the whole
store is written each time. Counters in the store say what is wanted, and so outlive a restart.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from edge_node.store.connection import Command, StoreConnection
from edge_node.store.ledger_scripts import REWRITTEN

_log = logging.getLogger(__name__)

# At most one rewrite in that time, for what was erased on request and for what left by age.
ON_REQUEST_S = 60.0
BY_AGE_S = 3600.0
# That one is waited for; it goes on if it takes longer, and is looked at again.
REWRITE_S_MAX = 30.0
_LOOK_S = 0.1


class FileRewrite:
    """Of one store; nodes that share one see to it one after the other.

    Args:
        connection: to the store.
        key_prefix: of the ledger's keys.
        now_s: a clock that never jumps.
    """

    def __init__(
        self, connection: StoreConnection, *, key_prefix: str, now_s: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._keys = (f"{key_prefix}rewrite", f"{key_prefix}aged")
        self._now_s = now_s
        self._tried_s = -math.inf

    async def look(self) -> bool:
        """Has the file rewritten if it is time to; whether nothing taken out is left in it.

        Raises:
            StoreUnavailable: the store is away.
        """
        counted = (await self._connection.execute([("MGET", *self._keys)], durable=False))[0]
        erased, aged = counted
        if not (erased or aged):
            return True
        since_s = self._now_s() - self._tried_s
        if since_s < (ON_REQUEST_S if erased else BY_AGE_S):
            return False
        if await self._is_under_way():  # what it writes may be older than what was taken out
            return False
        self._tried_s = self._now_s()
        refusal = await self._connection.told(("BGREWRITEAOF",))
        if refusal:
            _log.warning("the store does not rewrite its append-only file: %s", refusal)
            return False
        if not await self._ended_well():
            return False
        arguments = [count or b"" for count in counted]
        done: Command = ("EVAL", REWRITTEN, len(self._keys), *self._keys, *arguments)
        await self._connection.execute([done], durable=False)
        return True

    async def _ended_well(self) -> bool:
        try:
            async with asyncio.timeout(REWRITE_S_MAX):
                while await self._is_under_way():  # noqa: ASYNC110 - the store tells nobody
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            return False
        (said,) = await self._connection.execute([("INFO", "persistence")], durable=False)
        return str(said.get("aof_last_bgrewrite_status")) == "ok"

    async def _is_under_way(self) -> bool:
        (said,) = await self._connection.execute([("INFO", "persistence")], durable=False)
        names = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
        return any(int(said.get(name, 0)) for name in names)
