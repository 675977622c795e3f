"""The experience pool and the announcement of weights on a real Valkey that comes and goes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from edge_node.clock import SystemClock
from edge_node.experience_page import ExperiencePage
from edge_node.peering import learning_codec
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.experience_pool import (
    FIRST_ID,
    ExperiencePool,
    PoolReader,
    PoolSettings,
    decoded,
)
from edge_node.store.published_weights import Published, PublishedWeights, UnusableWeights
from scheduler.experience import PooledDecision, RecordedDecision
from scheduler.experience_codec import UnreadableExperience, decode, encode
from scheduler.observation import Observation, Traffic
from scheduler.policy import Decision, Outcome
from tests.store.valkey_process import ValkeyProcess


def recorded(number: int, *, servers: int = 3) -> RecordedDecision:
    some_B = np.arange(1.0, servers + 1.0)
    observation = Observation(
        node_ids=tuple(f"node-{index}" for index in range(servers)),
        local=None if number % 2 else 1,
        work=12.25 + number,
        input_bits=8000,
        backlog_B=some_B * number,
        own_B=some_B / 4,
        capacity_B=some_B,
        link_s_B=some_B / 1024,
        staleness_s_B=some_B / 64,
        alive_B=some_B > 1.0,
        dispatchers=3,
        latent_B=some_B / 8 if number % 2 else None,
        queued_B=some_B if number % 3 else None,
        traffic=Traffic(mean_work=3.5, load=0.8) if number % 2 else None,
    )
    decision = Decision(
        choice=1 + number % (servers - 1),
        policy="lad_ts",
        latent_B=some_B / 16 if number % 2 else None,
        weights_version="lad_ts-1-abc" if number % 2 else None,
        reason="window",
    )
    return RecordedDecision(
        decision_id=f"task-{number}/1",
        node_id="node-1",
        decided_unix_s=1.7e9 + number + 0.123456789,
        slot=number // 4,
        index_in_slot=number % 4,
        steps=15,
        observation=observation,
        decision=decision,
    )


def outcome(number: int) -> Outcome:
    return Outcome(
        decision_id=f"task-{number}/1", service_delay_s=number + 0.1, completed=number % 2 == 0
    )


def same(one: PooledDecision, other: PooledDecision) -> bool:
    return encode(one) == encode(other)


def settings(valkey: ValkeyProcess, **changes: Any) -> PoolSettings:
    store = StoreSettings(url=valkey.url, command_timeout_s=1.0, probe_interval_s=0.05)
    small = PoolSettings(store=store, node_id="node-1", write_every_s=0.01)
    return replace(small, **changes)


async def read_all(pool: PoolSettings) -> tuple[list[PooledDecision | Outcome], int]:
    connection = StoreConnection(pool.store)
    await connection.start()
    try:
        reader, last_id, damaged = PoolReader(pool, connection), FIRST_ID, 0
        found: list[PooledDecision | Outcome] = []
        while (part := await reader.read_since(last_id, 7)).count:
            found += part.entries
            last_id, damaged = part.last_id, damaged + part.damaged
        return found, damaged
    finally:
        await connection.close()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_is_encoded_is_decoded(number: int) -> None:
    entry = PooledDecision(life="0001-a", sequence=number, recorded=recorded(number))
    back = decode(encode(entry))
    assert isinstance(back, PooledDecision)
    assert same(back, entry)
    assert back.recorded.decided_unix_s == entry.recorded.decided_unix_s
    assert back.recorded.decision == entry.recorded.decision
    seen, was = back.recorded.observation, entry.recorded.observation
    assert (seen.work, seen.traffic, seen.local) == (was.work, was.traffic, was.local)
    np.testing.assert_array_equal(seen.backlog_B, was.backlog_B)
    np.testing.assert_array_equal(seen.alive_B, was.alive_B)
    assert (seen.latent_B is None) == (was.latent_B is None)
    assert decode(encode(outcome(number))) == outcome(number)


def test_forty_candidates_take_a_few_kilobytes() -> None:
    entry = PooledDecision(life="0001-a", sequence=0, recorded=recorded(1, servers=40))
    assert sum(map(len, encode(entry).values())) < 2600


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"format", b"2"),
        (b"kind", b"rumour"),
        (b"about", b"{"),
        (b"about", b"[]"),
        (b"rows", b"\0" * 5),
        (b"rows", b"\0" * 24),
        (b"doubles", b""),
        (b"id", None),
        (b"id", b"\xff"),
    ],
)
def test_damage_is_a_typed_error(field: bytes, value: bytes | None) -> None:
    fields = encode(PooledDecision(life="0001-a", sequence=0, recorded=recorded(1)))
    fields |= {field: value} if value is not None else {}
    if value is None:
        del fields[field]
    with pytest.raises(UnreadableExperience):
        decode(fields)


def test_numbers_that_are_none_are_damage() -> None:
    entry = PooledDecision(life="0001-a", sequence=0, recorded=recorded(1))
    fields = encode(entry)
    rows = np.frombuffer(fields[b"rows"], np.float32).copy()
    rows[0] = np.nan
    with pytest.raises(UnreadableExperience, match="not finite"):
        decode(fields | {b"rows": rows.tobytes()})
    for delay in (b"nan", b"-1", b"inf", b"soon"):
        with pytest.raises(UnreadableExperience):
            decode(encode(outcome(1)) | {b"delay_s": delay})


@pytest.mark.parametrize(
    ("ahead_s", "moved_s"), [(864_000.0, 864_000.0), (-60.0, -60.0), (1.5, 0.0), (0.0, 0.0)]
)
def test_what_another_clock_dated_is_dated_by_the_readers(ahead_s: float, moved_s: float) -> None:
    decision = PooledDecision(life="0001-a", sequence=0, recorded=recorded(1))
    entries = tuple(encode(entry) for entry in (decision, outcome(1)))
    page = ExperiencePage(last="1-1", entries=entries, read_unix_s=2e9 + ahead_s)
    sent = learning_codec.page_from_proto(learning_codec.page_to_proto(page))
    first, second = decoded(sent, unix_s=2e9).entries
    assert isinstance(first, PooledDecision)
    was_s = decision.recorded.decided_unix_s
    assert first.recorded.decided_unix_s == pytest.approx(was_s - moved_s, abs=1e-3)
    assert second == outcome(1)
    # A node that does not say, and one's own pool, are believed.
    for told, unix_s in ((replace(page, read_unix_s=0.0), 2e9), (page, None)):
        first, _ = decoded(told, unix_s=unix_s).entries
        assert isinstance(first, PooledDecision)
        assert first.recorded.decided_unix_s == was_s


@pytest.mark.system
def test_entries_come_back_in_order_and_numbered(valkey: ValkeyProcess) -> None:
    async def scenario() -> list[PooledDecision | Outcome]:
        pool = ExperiencePool(settings(valkey), clock=SystemClock())
        await pool.start()
        for number in range(10):
            pool.note_decision(recorded(number))
            pool.note_outcome(outcome(number))
        await pool.flush()
        await pool.close()
        return (await read_all(settings(valkey)))[0]

    found = asyncio.run(scenario())
    decisions = [entry for entry in found if isinstance(entry, PooledDecision)]
    assert [entry.sequence for entry in decisions] == list(range(10))
    assert len({entry.life for entry in decisions}) == 1
    assert [entry for entry in found if isinstance(entry, Outcome)] == [
        outcome(number) for number in range(10)
    ]


@pytest.mark.system
def test_the_stream_is_bounded_and_damaged_entries_are_skipped(valkey: ValkeyProcess) -> None:
    async def scenario() -> tuple[list[PooledDecision | Outcome], int]:
        bounded = settings(valkey, entries_max=200)
        pool = ExperiencePool(bounded, clock=SystemClock())
        await pool.start()
        for number in range(1000):
            pool.note_outcome(outcome(number))
        await pool.flush()
        fill = await pool.fill()
        assert fill.part == "experience"
        assert 1.0 <= fill.share <= 1.5
        assert 200 * 20 < fill.used_bytes < 200_000
        await pool.close()
        with redis.Redis(unix_socket_path=str(valkey.socket_path)) as client:
            client.xadd(bounded.key, {"format": "0"})
            client.xadd(bounded.key, {"noise": "x"})
        return await read_all(bounded)

    found, damaged = asyncio.run(scenario())
    assert damaged == 2
    assert 200 <= len(found) + damaged <= 300
    assert found[-1] == outcome(999)


@pytest.mark.system
def test_without_a_store_the_newest_wait_and_the_rest_is_counted(valkey: ValkeyProcess) -> None:
    async def scenario() -> tuple[int, int, list[PooledDecision | Outcome]]:
        told = 0

        def tell(count: int) -> None:
            nonlocal told
            told += count

        small = settings(valkey, waiting_max=5)
        pool = ExperiencePool(small, clock=SystemClock(), on_dropped=tell)
        valkey.kill()
        await pool.start()
        for number in range(8):
            pool.note_decision(recorded(number))
        await asyncio.to_thread(valkey.start)
        async with asyncio.timeout(10.0):
            while not (found := (await read_all(small))[0]):
                await asyncio.sleep(0.05)
        await pool.close()
        return told, pool.dropped, found

    told, dropped, found = asyncio.run(scenario())
    assert told == dropped == 3
    assert [entry.sequence for entry in found if isinstance(entry, PooledDecision)] == [
        3,
        4,
        5,
        6,
        7,
    ]


@pytest.mark.system
def test_an_announcement_is_read_as_it_was_made(valkey: ValkeyProcess, tmp_path: Path) -> None:
    published = Published(
        policy="lad_ts",
        path=tmp_path / "lad_ts-00000003.safetensors",
        version="lad_ts-3-abc",
        generation=3,
        created_unix_s=1.7e9,
        checks={"gain_s": 0.5},
    )

    async def scenario() -> None:
        connection = StoreConnection(settings(valkey).store)
        await connection.start()
        weights = PublishedWeights(connection, node_id="node-1")
        assert await weights.current() is None
        await weights.announce(published)
        assert await weights.current() == published
        for field, value in (("generation", "0"), ("checks", "x"), ("created", "inf")):
            await weights.announce(published)
            await connection.execute(
                [("HSET", "dedgeai:node-1:published", field, value)], durable=False
            )
            with pytest.raises(UnusableWeights):
                await weights.current()
        valkey.kill()
        assert await weights.current() is None
        await connection.close()

    asyncio.run(scenario())


def test_what_names_a_task_is_forgotten_and_leaves_a_gap(valkey: ValkeyProcess) -> None:
    pooled = settings(valkey)

    async def story() -> None:
        pool = ExperiencePool(pooled, clock=SystemClock())
        await pool.start()
        for number in (1, 2, 11):
            pool.note_decision(recorded(number))
            pool.note_outcome(outcome(number))
        await pool.forget("task-1")
        await pool.close()
        entries, _ = await read_all(pooled)
        decisions = [one for one in entries if isinstance(one, PooledDecision)]
        named = [one.recorded.decision_id for one in decisions]
        assert named == ["task-2/1", "task-11/1"]
        assert [one.sequence for one in decisions] == [1, 2]
        assert len(entries) == 4

    asyncio.run(story())
