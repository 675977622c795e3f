"""The latent memory on a real Valkey: clean stops, abrupt ends, a store that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis

from edge_node.clock import Moment
from edge_node.domain import NodeId, NodeState, Task
from edge_node.store.connection import StoreSettings
from edge_node.store.stored_latents import StoredLatents, StoredLatentsSettings
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.placement import place
from edge_node.tasks.slots import LatentSnapshot, SlotMemory, SlotSettings
from scheduler.registry import create
from tests.store.valkey_process import ValkeyProcess
from tests.tasks.test_cluster_view import task

PREFIX = "dedgeai:a:latents:"
UNIX_S = 1e9


def latent(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


SNAPSHOT = LatentSnapshot(
    node_ids=("a", "b"),
    version="lad_ts_plus/1",
    slot=7,
    slot_s=0.7,
    began_unix_s=UNIX_S + 0.1,
    decided=2,
    latents={0: latent(0.5, 0.25), 3: latent(0.0, 1.0)},
    open_latents={0: latent(0.75, 0.125)},
)


@asynccontextmanager
async def memory_at(
    valkey: ValkeyProcess, *, prefix: str = PREFIX, keep_s: float = 1000.0
) -> AsyncIterator[StoredLatents]:
    settings = StoredLatentsSettings(
        store=StoreSettings(url=valkey.url, probe_interval_s=0.05, connections_max=2),
        key_prefix=prefix,
        keep_s=keep_s,
    )
    memory = StoredLatents(settings)
    await memory.connect()
    try:
        yield memory
    finally:
        await memory.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.01)


def on(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 30))


def test_what_was_written_is_read_and_expires(valkey: ValkeyProcess) -> None:
    async def story() -> None:
        async with memory_at(valkey) as memory:
            assert await memory.read() is None
            memory.note(SNAPSHOT)
            await memory.flush()
            assert memory.behind_slots == 0
        async with memory_at(valkey) as later, memory_at(valkey, prefix="other:") as other:
            assert await later.read() == SNAPSHOT
            assert await other.read() is None

    on(story)
    client: Any = redis.Redis.from_url(valkey.url)
    keys = client.keys("*")
    assert len(keys) == 2
    assert all(990 < client.ttl(key) <= 1000 for key in keys)


def test_a_slot_costs_one_command_with_what_changed(valkey: ValkeyProcess) -> None:
    client: Any = redis.Redis.from_url(valkey.url)

    async def story() -> None:
        async with memory_at(valkey) as memory:
            memory.note(SNAPSHOT)
            await until(lambda: memory.behind_slots == 0)
            (key,) = [key for key in client.keys("*") if not key.endswith(b"latest")]
            assert key.startswith(PREFIX.encode())
            assert key.endswith(b":lad_ts_plus/1")
            # The store is told of n = 0 only, so what somebody else wrote at n = 3 stays.
            client.hset(key, "n:3", latent(9.0, 9.0))
            later = replace(
                SNAPSHOT, slot=8, latents=SNAPSHOT.latents | {0: latent(1.0, 1.0)}, open_latents={}
            )
            memory.note(later)
            await until(lambda: memory.behind_slots == 0)
            assert client.hget(key, "n:0") == latent(1.0, 1.0)
            assert client.hget(key, "n:3") == latent(9.0, 9.0)
            assert client.hget(key, "open:0") is None
            assert client.info("commandstats")["cmdstat_eval"]["calls"] == 2

    on(story)


def test_another_membership_or_version_replaces_the_former_one(valkey: ValkeyProcess) -> None:
    client: Any = redis.Redis.from_url(valkey.url)
    one = {0: latent(0.5, 0.5, 0.5)}
    grown = replace(SNAPSHOT, node_ids=("a", "b", "c"), latents=one, open_latents={})
    newer = replace(SNAPSHOT, version="lad_ts_plus/2")

    async def story() -> None:
        async with memory_at(valkey) as memory:
            for snapshot in (SNAPSHOT, grown, newer):
                memory.note(snapshot)
                await memory.flush()
                assert len(client.keys("*")) == 2  # this one, and which it is
            assert await memory.read() == newer
            # Back at a key of an earlier time, nothing of that time is left in it.
            memory.note(replace(SNAPSHOT, latents={1: latent(0.5, 0.5)}, open_latents={}))
            await memory.flush()
            again = await memory.read()
            assert again is not None
            assert (again.version, sorted(again.latents)) == (SNAPSHOT.version, [1])

            fill = await memory.fill()
            assert (fill.part, fill.share) == ("latents", 1 / (2 * 64))
            assert fill.used_bytes > 100

    on(story)
    assert len(client.keys("*")) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n:0", latent(0.5)),
        ("n:0", latent(0.5, float("nan"))),
        ("n:x", latent(0.5, 0.5)),
        ("node_ids", b"{"),
        ("slot_s", b"0"),
        ("began_unix_s", b"nan"),
        ("decided", b""),
    ],
)
def test_a_damaged_memory_is_no_memory(valkey: ValkeyProcess, field: str, value: bytes) -> None:
    client: Any = redis.Redis.from_url(valkey.url)

    async def story() -> None:
        async with memory_at(valkey) as memory:
            memory.note(SNAPSHOT)
            await memory.flush()
            client.hset(client.get(f"{PREFIX}latest"), field, value)
            assert await memory.read() is None

    on(story)


def test_a_store_that_comes_back_gets_the_newest(valkey: ValkeyProcess) -> None:
    behind: list[int] = []

    async def story() -> None:
        async with memory_at(valkey) as memory:
            memory._on_behind_changed = behind.append
            memory.note(SNAPSHOT)
            await memory.flush()
            valkey.kill()
            for slot in range(8, 11):
                memory.note(replace(SNAPSHOT, slot=slot, latents={0: latent(slot, slot)}))
                await asyncio.sleep(0.05)
            assert memory.behind_slots == 3
            await asyncio.to_thread(valkey.start)
            await until(lambda: memory.behind_slots == 0)
            snapshot = await memory.read()
            assert snapshot is not None
            assert (snapshot.slot, snapshot.latents) == (10, {0: latent(10, 10)})

    on(story)
    assert max(behind) == 3


# Two lives of one node, driven through the same arrivals by the pure scheduling core.

NODES = tuple(NodeId(f"n{index}") for index in range(5))
CAPACITIES = (8.0, 5.0, 5.0, 2.0, 1.0)
# No arrival falls on the very edge of a slot, which Unix time has to a tenth of a microsecond.
ARRIVAL_S = 0.113


class Life:
    """A node's pure parts: what it knows, what it remembers, and its policy."""

    def __init__(self, now_s: float, unix_offset_s: float) -> None:
        self.view = ClusterView(own_id=NODES[0], incarnation=1)
        self.unix_offset_s = unix_offset_s
        self.choices: list[NodeId] = []
        self.begin(now_s)

    def begin(self, now_s: float) -> None:
        """As a start does: the policy and the memory are new."""
        self.memory = SlotMemory(SlotSettings(slot_s=1.0), now_s=now_s)
        self.policy = create("lad_ts_plus", rng=np.random.default_rng(3))

    def moment(self, now_s: float) -> Moment:
        return Moment(now_s=now_s, unix_s=now_s + self.unix_offset_s)

    def arrive(self, index: int, one: Task) -> LatentSnapshot | None:
        """Places a task; returns what is to be written when a slot ended."""
        now_s = ARRIVAL_S * index
        ended = self.memory.advance(now_s=now_s, service_s=lambda: None)
        snapshot = self.memory.snapshot(self.moment(now_s)) if ended else None
        for place_in_list, node_id in enumerate(NODES):
            seen = {other: (1, index) for other in NODES if other != node_id}
            state = NodeState(
                node_id=node_id,
                incarnation=1,
                sequence=index,
                backlog=4.0 + (7 * index + 3 * place_in_list) % 5,
                capacity=CAPACITIES[place_in_list],
                model="m",
                accepting=True,
                accepted_work_s=4.0,
                dispatches_seen=seen if index % 3 == 0 else {},
            )
            self.view.state_received(state, now_s=now_s)
        self.view.task_accepted(one.work, model=one.drawing.model, now_s=now_s)
        nth = self.memory.place()
        placement = place(
            one,
            avoided=frozenset(),
            view=self.view,
            policy=self.policy,
            now_s=now_s,
            recall=lambda node_ids: self.memory.recall(nth, node_ids),
        )
        assert placement is not None
        assert placement.policy_failure is None
        self.memory.decided(nth, placement.observation.node_ids, placement.decision)
        self.choices.append(placement.executor)
        return snapshot


def arrivals() -> list[Task]:
    rng = np.random.default_rng(11)
    return [task(work=float(rng.uniform(1.0, 20.0))) for _ in range(200)]


async def lived(valkey: ValkeyProcess, *, ends_at: int, clean: bool, warm: bool) -> Life:
    """A life that ends before arrival `ends_at` and goes on from what the store has."""
    life = Life(0.0, UNIX_S)
    async with memory_at(valkey) as memory:
        for index, one in enumerate(arrivals()[:ends_at]):
            snapshot = life.arrive(index, one)
            if snapshot is not None:
                memory.note(snapshot)
                await until(lambda: memory.behind_slots == 0)
        if clean:
            last = life.memory.snapshot(life.moment(ARRIVAL_S * ends_at))
            assert last is not None
            memory.note(last)
            await memory.flush()
    async with memory_at(valkey) as memory:
        snapshot = await memory.read()
        assert snapshot is not None
        now_s = ARRIVAL_S * ends_at
        if not clean:
            assert 0 <= life.memory.slot - snapshot.slot <= 1, "more than a slot old"
        life.begin(now_s)
        if warm:
            life.memory.restore(snapshot, life.moment(now_s))
        for index, one in enumerate(arrivals()[ends_at:], start=ends_at):
            life.arrive(index, one)
    return life


@pytest.mark.parametrize("ends_at", [90, 97])
def test_a_node_that_stopped_decides_like_one_that_never_did(
    valkey: ValkeyProcess, ends_at: int
) -> None:
    never_stopped = Life(0.0, UNIX_S)
    for index, one in enumerate(arrivals()):
        never_stopped.arrive(index, one)

    async def story() -> None:
        stopped = await lived(valkey, ends_at=ends_at, clean=True, warm=True)
        assert stopped.choices == never_stopped.choices
        cold = await lived(valkey, ends_at=ends_at, clean=True, warm=False)
        assert cold.choices != never_stopped.choices, "the memory makes no difference here"

    on(story)


def test_after_an_abrupt_end_the_memory_is_at_most_a_slot_old(valkey: ValkeyProcess) -> None:
    never_stopped = Life(0.0, UNIX_S)
    tables: list[LatentSnapshot] = []
    for index, one in enumerate(arrivals()[:97]):
        snapshot = never_stopped.arrive(index, one)
        if snapshot is not None:
            tables.append(snapshot)

    async def story() -> None:
        await lived(valkey, ends_at=97, clean=False, warm=True)
        async with memory_at(valkey) as memory:
            kept = await memory.read()
            assert kept is not None
            # All that slots left before the one in which it ended, and nothing of that one.
            assert kept == tables[-1]
            assert kept.open_latents == {}

    on(story)
