"""The connection to a real store ends when it is told to, wherever it is."""

from __future__ import annotations

import asyncio
import random

from edge_node.store.connection import StoreConnection, StoreSettings
from tests.store.valkey_process import ValkeyProcess

CLOSED_S_MAX = 2.0


def test_a_connection_that_looks_for_its_store_closes_at_any_moment(valkey: ValkeyProcess) -> None:
    async def story() -> None:
        settings = StoreSettings(url=valkey.url, probe_interval_s=0.0)
        for _ in range(60):
            connection = StoreConnection(settings)
            await connection.start()
            await asyncio.sleep(random.uniform(0.0, 0.004))
            closing = asyncio.create_task(connection.close())
            await asyncio.wait([closing], timeout=CLOSED_S_MAX)
            assert closing.done(), "it looks for its store still"
            assert not connection.available

    asyncio.run(story())


def test_a_command_that_is_cancelled_is_cancelled(valkey: ValkeyProcess) -> None:
    async def ask(connection: StoreConnection) -> None:
        while True:
            await connection.execute([("PING",)], durable=False)

    async def story() -> None:
        connection = StoreConnection(StoreSettings(url=valkey.url))
        await connection.start()
        for _ in range(60):
            asking = asyncio.create_task(ask(connection))
            await asyncio.sleep(random.uniform(0.0, 0.004))
            asking.cancel()
            await asyncio.wait([asking], timeout=CLOSED_S_MAX)
            assert asking.cancelled()
            assert connection.available
        await connection.close()

    asyncio.run(story())
