"""Which callbacks are owed, on disk from before the client's answer until they are delivered.

Owns one key beside the ledger's: a hash of tasks' ids, each with where its end is to be told.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from edge_node.domain import TaskId
from edge_node.json_text import parsed
from edge_node.requests import Callback
from edge_node.store.connection import Command, StoreConnection


class OwedCallbacks:
    """Of one ledger.

    Args:
        connection: the ledger's own.
        key_prefix: of every key.
    """

    def __init__(self, connection: StoreConnection, *, key_prefix: str) -> None:
        self._connection = connection
        self._key = f"{key_prefix}callbacks"

    async def owe(self, task_ids: Sequence[TaskId], callback: Callback) -> None:
        """Notes, durably, that the ends of these tasks are to be told.

        Raises:
            StoreUnavailable: they may have been noted.
        """
        text = json.dumps({"url": callback.url, "base": callback.base})
        pairs = [word for task_id in task_ids for word in (task_id, text)]
        await self._connection.execute([("HSET", self._key, *pairs)], durable=True)

    async def owed(self) -> dict[TaskId, Callback]:
        """All that are not delivered; what cannot be read is told to nobody and left out.

        Raises:
            StoreUnavailable: the store is away.
        """
        (found,) = await self._connection.execute([("HGETALL", self._key)], durable=False)
        read = {TaskId(task_id.decode()): _decode(text) for task_id, text in found.items()}
        return {task_id: callback for task_id, callback in read.items() if callback}

    async def settled(self, task_id: TaskId) -> None:
        """It was delivered, or given up.

        Raises:
            StoreUnavailable: the store is away.
        """
        forget: Command = ("HDEL", self._key, task_id)
        await self._connection.execute([forget], durable=False)


def _decode(text: bytes) -> Callback | None:
    try:
        told = parsed(text)
        return Callback(url=str(told["url"]), base=str(told["base"]))
    except (ValueError, TypeError, KeyError):
        return None
