from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.verdicts import UnreadableVerdict, VerdictStore, decode, encode
from scheduler.guard.verdict import ReplayVerdict
from tests.store.valkey_process import ValkeyProcess

VERDICT = ReplayVerdict(
    version="lad_ts_plus/1",
    rule="slow_server_aware",
    judged_unix_s=1.7e9,
    tasks=2000,
    failed=0,
    learned_mean_s=7.9,
    rule_mean_s=8.0,
    worse_low=-0.02,
    worse_high=-0.005,
    rule_means_s={"slow_server_aware": 8.25, "ring": 8.5},
)


def test_a_verdict_survives_its_encoding() -> None:
    assert decode(encode(VERDICT).encode()) == VERDICT


@pytest.mark.parametrize(
    "change",
    [
        {"version": 3},
        {"tasks": 1.5},
        {"worse_low": "nan"},
        {"worse_low": float("nan")},
        {"rule_mean_s": 0.0},
        {"rule_means_s": [8.0]},
        {"rule_means_s": {"ring": "8"}},
        {"rule_means_s": {"ring": float("inf")}},
        {"unknown": 1},
    ],
)
def test_what_is_no_verdict_is_refused(change: dict[str, object]) -> None:
    document = json.loads(encode(VERDICT)) | change
    with pytest.raises(UnreadableVerdict):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff"])
def test_damage_is_refused(text: bytes) -> None:
    with pytest.raises(UnreadableVerdict):
        decode(text)


def on_store(valkey: ValkeyProcess, act: Callable[[StoreConnection], Awaitable[None]]) -> None:
    async def run() -> None:
        connection = StoreConnection(StoreSettings(url=valkey.url))
        await connection.start()
        try:
            await act(connection)
        finally:
            await connection.close()

    asyncio.run(run())


def test_the_newest_verdict_is_read(valkey: ValkeyProcess) -> None:
    async def act(connection: StoreConnection) -> None:
        verdicts = VerdictStore(connection, node_id="node-0")
        assert await verdicts.read() is None
        await verdicts.write(VERDICT)
        assert await verdicts.read() == VERDICT
        assert await VerdictStore(connection, node_id="node-1").read() is None

    on_store(valkey, act)


def test_a_verdict_of_the_first_version_is_read(valkey: ValkeyProcess) -> None:
    async def act(connection: StoreConnection) -> None:
        document = json.loads(encode(VERDICT))
        del document["rule_means_s"]
        fields = ("format", 1, "verdict", json.dumps(document))
        await connection.execute([("HSET", "dedgeai:node-0:verdict", *fields)], durable=False)
        found = await VerdictStore(connection, node_id="node-0").read()
        assert found == replace(VERDICT, rule_means_s={})

    on_store(valkey, act)


def test_another_format_is_not_guessed_at(valkey: ValkeyProcess) -> None:
    async def act(connection: StoreConnection) -> None:
        await connection.execute(
            [("HSET", "dedgeai:node-0:verdict", "format", 3, "verdict", "{}")], durable=False
        )
        with pytest.raises(UnreadableVerdict, match="format"):
            await VerdictStore(connection, node_id="node-0").read()

    on_store(valkey, act)
