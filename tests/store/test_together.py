"""Durable writes of many callers share round trips, on a real Valkey, and fail with each other."""

from __future__ import annotations

import asyncio

import pytest

from edge_node.errors import StoreUnavailable
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.together import UNDER_WAY_MAX, Together
from tests.store.valkey_process import ValkeyProcess


def test_many_callers_share_few_round_trips_and_each_gets_its_reply(
    valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        connection = StoreConnection(StoreSettings(url=valkey.url))
        await connection.start()
        sent: list[int] = []
        execute = connection.execute

        async def counted(commands: list[tuple[str, str, int]], *, durable: bool) -> object:
            assert durable
            sent.append(len(commands))
            return await execute(commands, durable=durable)

        monkeypatch.setattr(connection, "execute", counted)
        together = Together(connection)
        replies = await asyncio.gather(
            *(together.execute(("INCRBY", f"n{number}", number)) for number in range(200))
        )
        assert replies == list(range(200))
        assert sum(sent) == 200
        assert len(sent) <= UNDER_WAY_MAX + 200 // 48
        await connection.close()

    asyncio.run(story())


def test_all_that_were_sent_hear_that_the_store_is_away(valkey: ValkeyProcess) -> None:
    async def story() -> None:
        connection = StoreConnection(StoreSettings(url=valkey.url))
        await connection.start()
        together = Together(connection)
        valkey.kill()
        asked = (together.execute(("INCR", "n")) for _ in range(50))
        heard = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in heard] == [StoreUnavailable] * 50
        await connection.close()

    asyncio.run(story())
