"""What the ledger asks of the disk, and that the disk's answer counts; on every real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis

from edge_node.clock import SystemClock
from edge_node.domain import JobId
from edge_node.errors import StoreUnavailable
from edge_node.requests import AlreadyAccepted, Appended, Idempotency
from edge_node.store.connection import StoreSettings
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from tests.store.recording_store import RecordingStore
from tests.store.records import finished, placed, task, task_id
from tests.store.test_task_ledger import until
from tests.store.valkey_process import ValkeyProcess

pytestmark = pytest.mark.system

KEY = Idempotency(key="shop-order 7", request_digest="d1")
Story = Callable[[TaskLedger, RecordingStore], Awaitable[None]]


def run(valkey: ValkeyProcess, story: Story, *, hidden: bool = True) -> None:
    """One life of a node, whose store may hide its configuration from it."""
    with redis.Redis(unix_socket_path=str(valkey.socket_path)) as client:
        client.execute_command("ACL", "SETUSER", "default", "-config" if hidden else "+config")

    async def life() -> None:
        socket_path = Path(valkey.folder) / "r"
        async with RecordingStore(valkey.socket_path, socket_path).serving() as store:
            # No look at the store but the first, which would be among what was asked.
            settings = StoreSettings(url=store.url, command_timeout_s=2.0, probe_interval_s=60.0)
            ledger = TaskLedger(LedgerSettings(store=settings), clock=SystemClock())
            await ledger.connect()
            store.begin()
            try:
                await story(ledger, store)
            finally:
                store.disk_may_answer.set()
                await ledger.close()

    asyncio.run(life())


async def incarnate(ledger: TaskLedger) -> None:
    await ledger.next_incarnation()


async def accept(ledger: TaskLedger) -> None:
    await ledger.append_accepted([task(1)], job_id=None, idempotency=None)


async def end(ledger: TaskLedger) -> None:
    await ledger.append_final(finished(task(1)))


async def recover(ledger: TaskLedger) -> None:
    await ledger.recover(term=2)


PROMISES = (incarnate, accept, end, recover)


@pytest.mark.parametrize("promise", PROMISES)
def test_a_promise_is_kept_once_the_disk_has_answered(
    valkey: ValkeyProcess, promise: Callable[[TaskLedger], Awaitable[None]]
) -> None:
    async def story(ledger: TaskLedger, store: RecordingStore) -> None:
        if promise is recover:
            await accept(ledger)
            store.begin()
        store.disk_may_answer.clear()
        promised = asyncio.ensure_future(promise(ledger))
        asked = asyncio.create_task(store.disk_asked.wait())
        await asyncio.wait([promised, asked], return_when=asyncio.FIRST_COMPLETED)
        assert not promised.done(), "it did not ask the disk"
        # One disk, this one's, within less than a command may take.
        assert store.asked[-1][:3] == (b"WAITAOF", b"1", b"0")
        assert 0 < int(store.asked[-1][3]) < 2000
        assert store.names_asked[-2] in ("EVAL", "INCR"), "what was written before"
        store.disk_may_answer.set()
        await promised

    run(valkey, story)


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("replicas", [0, 1])
def test_what_the_disk_does_not_confirm_is_no_promise(
    valkey: ValkeyProcess, promise: Callable[[TaskLedger], Awaitable[None]], replicas: int
) -> None:
    async def story(ledger: TaskLedger, store: RecordingStore) -> None:
        if promise is recover:
            await accept(ledger)
        # Also where a replica's disk has it: it may be gone when this device comes back.
        store.disk_says = b"*2\r\n:0\r\n:%d\r\n" % replicas
        with pytest.raises(StoreUnavailable, match="did not confirm a write within 1600 ms"):
            await promise(ledger)
        assert not ledger.available
        with pytest.raises(StoreUnavailable, match="did not confirm"):
            await ledger.append_accepted([task(2)], job_id=None, idempotency=None)

    run(valkey, story)


def test_what_nobody_waits_for_asks_no_disk(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger, store: RecordingStore) -> None:
        ledger.note(placed(task(1)))
        ledger.journal_accepted([task(2)], job_id=None)
        await ledger.flush()
        assert await ledger.read(task_id(1)) == placed(task(1))
        await ledger.expire(finished_before_unix_s=1.0, count_max=9)
        assert set(store.names_asked) == {"EVAL", "HGET", "ZRANGEBYSCORE"}

    run(valkey, story)


@pytest.mark.parametrize("retraction", ["after", "before"])
def test_a_no_is_taken_back_on_disk_whichever_arrives_first(
    valkey: ValkeyProcess, retraction: str
) -> None:
    async def story(ledger: TaskLedger, store: RecordingStore) -> None:
        store.holds_next_script = True
        accepting = asyncio.create_task(
            ledger.append_accepted([task(1), task(2)], job_id=JobId("j"), idempotency=KEY)
        )
        await until(lambda: store.asked != [] and not store.holds_next_script)
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        # The two go over connections of their own.
        if retraction == "after":
            store.held_may_pass.set()
            await store.held_passed.wait()
        await ledger.flush()
        assert store.names_asked[-2:] == ["EVAL", "WAITAOF"]
        store.held_may_pass.set()
        await store.held_passed.wait()
        with redis.Redis(unix_socket_path=str(valkey.socket_path)) as client:
            assert client.keys() == [f"dedgeai:ledger:refused:{task_id(1)}".encode()]
            assert client.ttl(client.keys()[0]) > 3000
        again = await ledger.append_accepted([task(3)], job_id=None, idempotency=KEY)
        assert again == Appended(task_ids=(task_id(3),), job_id=None)

    run(valkey, story)


def test_who_asks_again_at_once_is_not_answered_with_what_is_taken_back(
    valkey: ValkeyProcess,
) -> None:
    async def story(ledger: TaskLedger, store: RecordingStore) -> None:
        store.disk_may_answer.clear()
        accepting = asyncio.create_task(
            ledger.append_accepted([task(1)], job_id=None, idempotency=KEY)
        )
        await store.disk_asked.wait()
        store.holds_next_script = True
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        store.disk_may_answer.set()
        await until(lambda: not store.holds_next_script)
        # The retraction is on its way: as yet the task is in the store, and its key with it.
        asking = asyncio.create_task(
            ledger.append_accepted([task(2)], job_id=None, idempotency=KEY)
        )
        for _ in range(5):
            assert await ledger.read(task_id(1)) is not None
        store.held_may_pass.set()
        assert await asking == Appended(task_ids=(task_id(2),), job_id=None)
        assert [record.task.id for record in await ledger.recover(term=2)] == [task_id(2)]

    run(valkey, story)


def test_what_is_taken_back_takes_no_other_requests_key_with_it(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger, store: RecordingStore) -> None:
        store.holds_next_script = True
        first = asyncio.create_task(ledger.append_accepted([task(1)], job_id=None, idempotency=KEY))
        await until(lambda: store.asked != [] and not store.holds_next_script)
        await ledger.append_accepted([task(2)], job_id=None, idempotency=KEY)
        first.cancel()
        await asyncio.wait([first])
        await ledger.flush()
        again = await ledger.append_accepted([task(3)], job_id=None, idempotency=KEY)
        assert again == AlreadyAccepted(task_ids=(task_id(2),), job_id=None)
        store.held_may_pass.set()

    run(valkey, story)


def test_a_store_that_syncs_before_it_replies_is_not_asked_again(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger, store: RecordingStore) -> None:
        for promise in (incarnate, accept, end):
            await promise(ledger)
        assert "WAITAOF" not in store.names_asked

    run(valkey, story, hidden=False)


@pytest.mark.parametrize(
    "setting",
    ["appendfsync everysec", "appendfsync no", "appendonly no", "no-appendfsync-on-rewrite yes"],
)
def test_a_store_that_may_reply_before_it_syncs_promises_nothing(
    valkey: ValkeyProcess, setting: str
) -> None:
    name, value = setting.split()
    valkey.kill()
    valkey.start(f"--{name}", value)

    async def story(ledger: TaskLedger, store: RecordingStore) -> None:
        assert not ledger.available
        said = f"`appendonly yes` and `appendfsync always`.*{name} is {value}"
        for promise in PROMISES:
            with pytest.raises(StoreUnavailable, match=said):
                await promise(ledger)
        assert store.asked == []

    run(valkey, story, hidden=False)


def test_a_store_without_append_only_file_promises_nothing_though_it_hides_that(
    valkey: ValkeyProcess,
) -> None:
    valkey.kill()
    valkey.start("--appendonly", "no")

    async def story(ledger: TaskLedger, store: RecordingStore) -> None:
        assert not ledger.available
        with pytest.raises(StoreUnavailable, match="appendonly is disabled"):
            await ledger.next_incarnation()

    run(valkey, story)
