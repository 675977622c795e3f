"""What is erased leaves the store and its file, whenever the store or the node is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_node.domain import TaskError, TaskRecord, TaskStatus
from edge_node.erasure import is_erased
from edge_node.errors import StoreUnavailable
from edge_node.store import file_rewrite
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.file_rewrite import FileRewrite
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from tests.set_clock import SetClock
from tests.store.records import finished, task, task_id
from tests.store.valkey_process import ValkeyProcess

SECRET = "xyzzy-plugh"
SHA256 = "ab" * 32


def secret(number: int, *, at_unix_s: float = 3000.0) -> TaskRecord:
    """A finished task with words that nobody else has."""
    asked = task(number, prompt=SECRET)
    drawing = replace(asked.drawing, negative_prompt=SECRET, init_image_sha256=SHA256)
    return finished(replace(asked, drawing=drawing), at_unix_s=at_unix_s)


def given_up(number: int) -> TaskRecord:
    error = TaskError(code="attempts_exhausted", message="no")
    return replace(secret(number), status=TaskStatus.FAILED, error=error)


def holding(folder: Path, text: str) -> list[str]:
    """Files under a folder that hold a text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if text.encode() in path.read_bytes()]


def run(
    valkey: ValkeyProcess, story: Callable[[TaskLedger], Awaitable[None]], clock: SetClock
) -> None:
    async def life() -> None:
        settings = LedgerSettings(store=StoreSettings(url=valkey.url))
        ledger = TaskLedger(settings, clock=clock)
        await ledger.connect()
        try:
            async with asyncio.timeout(20):
                await story(ledger)
        finally:
            await ledger.close()

    asyncio.run(life())


def test_an_erased_task_is_only_known_to_have_been(valkey: ValkeyProcess) -> None:
    clock = SetClock()

    async def erase(ledger: TaskLedger) -> None:
        await ledger.append_accepted([task(1, prompt=SECRET)], job_id=None, idempotency=None)
        await ledger.append_final(given_up(1))
        await ledger.append_final(secret(2))
        owed = await ledger.erasures.erase(given_up(1))
        assert (owed.init_image_sha256, owed.whole) == (SHA256, True)

    async def look(ledger: TaskLedger) -> None:
        record = await ledger.read(task_id(1))
        assert record is not None
        assert is_erased(record)
        assert SECRET not in repr(record)
        assert SHA256 not in repr(record)
        assert record.status is TaskStatus.FAILED
        assert await ledger.dead_letters(count_max=9) == []
        assert await ledger.recover(term=2) == []
        (owed,) = await ledger.erasures.owed()
        assert (owed.task_id, owed.init_image_sha256) == (task_id(1), SHA256)
        other = await ledger.read(task_id(2))
        assert other is not None
        assert other.task.drawing.prompt == SECRET
        # It leaves with all others at its time.
        gone = await ledger.expire(finished_before_unix_s=4000.0, count_max=9)
        assert set(gone) == {task_id(1), task_id(2)}
        await ledger.erasures.settled([task_id(1)])
        assert await ledger.erasures.owed() == []

    run(valkey, erase, clock)
    valkey.kill()
    valkey.start()
    run(valkey, look, clock)


def test_old_values_leave_the_file_though_the_node_dies_before(valkey: ValkeyProcess) -> None:
    clock = SetClock()

    async def erase(ledger: TaskLedger) -> None:
        for number in (1, 2):
            await ledger.append_accepted(
                [task(number, prompt=SECRET)], job_id=None, idempotency=None
            )
            await ledger.append_final(secret(number))
            await ledger.erasures.erase(secret(number))

    async def rewrite(ledger: TaskLedger) -> None:
        assert holding(valkey.folder, SECRET), "an append-only file keeps what was"
        await ledger.erasures.rewrite_file()
        assert holding(valkey.folder, SECRET) == []

    async def again(ledger: TaskLedger) -> None:
        before = sorted(path.name for path in (valkey.folder / "appendonlydir").iterdir())
        await ledger.erasures.rewrite_file()
        assert before == sorted(p.name for p in (valkey.folder / "appendonlydir").iterdir())

    run(valkey, erase, clock)
    valkey.kill()
    valkey.start()
    run(valkey, rewrite, clock)
    run(valkey, again, clock)


def test_words_leave_by_age_and_the_rest_stays(valkey: ValkeyProcess) -> None:
    clock = SetClock()

    async def story(ledger: TaskLedger) -> None:
        await ledger.append_final(given_up(1))
        await ledger.append_final(secret(2))
        await ledger.append_final(secret(3, at_unix_s=5000.0))
        await ledger.append_accepted([task(4, prompt=SECRET)], job_id=None, idempotency=None)
        taken = await ledger.erasures.take_words(finished_before_unix_s=4000.0)
        assert set(taken) == {task_id(1), task_id(2)}
        assert await ledger.erasures.take_words(finished_before_unix_s=4000.0) == []
        for number in (1, 2):
            record = await ledger.read(task_id(number))
            assert record is not None
            assert not is_erased(record)
            assert SECRET not in repr(record)
            assert SHA256 not in repr(record)
            assert record.compute_s == 2.25
            assert record.task.drawing.seed
        assert await ledger.dead_letters(count_max=9) == []
        for number in (3, 4):
            record = await ledger.read(task_id(number))
            assert record is not None
            assert record.task.drawing.prompt == SECRET
        owed = await ledger.erasures.owed()
        assert {(one.task_id, one.whole) for one in owed} == {
            (task_id(1), False),
            (task_id(2), False),
        }

    run(valkey, story, clock)


def test_tasks_of_a_version_that_did_not_note_it_lose_their_words_too(
    valkey: ValkeyProcess,
) -> None:
    clock = SetClock()

    async def former(ledger: TaskLedger) -> None:
        await ledger.append_final(secret(1))
        connection = StoreConnection(StoreSettings(url=valkey.url))
        await connection.start()
        await connection.execute([("DEL", "dedgeai:ledger:prompted")], durable=True)
        await connection.close()
        assert await ledger.erasures.take_words(finished_before_unix_s=4000.0) == []
        await ledger.erasures.begin()
        assert await ledger.erasures.take_words(finished_before_unix_s=4000.0) == [task_id(1)]
        await ledger.erasures.begin()  # again at every start: what has none is passed over
        assert await ledger.erasures.take_words(finished_before_unix_s=4000.0) == []

    run(valkey, former, clock)


def test_nothing_is_erased_while_the_store_is_away(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        await ledger.append_final(secret(1))
        valkey.kill()
        with pytest.raises(StoreUnavailable):
            await ledger.erasures.erase(secret(1))
        with pytest.raises(StoreUnavailable):
            await ledger.erasures.rewrite_file()

    run(valkey, story, SetClock())


def test_the_file_is_rewritten_seldom_for_what_leaves_by_age(valkey: ValkeyProcess) -> None:
    clock = SetClock()

    async def count(connection: StoreConnection, key: str) -> None:
        await connection.execute([("INCR", f"p:{key}")], durable=False)

    async def story() -> None:
        connection = StoreConnection(StoreSettings(url=valkey.url))
        await connection.start()
        rewrite = FileRewrite(connection, key_prefix="p:", now_s=clock.now_s)
        assert await rewrite.look(), "nothing is wanted"
        await count(connection, "aged")
        assert await rewrite.look(), "the first at once"
        await count(connection, "aged")
        clock.now += file_rewrite.ON_REQUEST_S
        assert not await rewrite.look()
        await count(connection, "rewrite")
        assert await rewrite.look()
        await count(connection, "rewrite")
        assert not await rewrite.look()
        clock.now += file_rewrite.ON_REQUEST_S
        assert await rewrite.look()
        await connection.close()

    asyncio.run(story())


def test_a_store_that_may_not_rewrite_is_not_away(
    valkey: ValkeyProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        connection = StoreConnection(StoreSettings(url=valkey.url))
        await connection.start()
        await connection.execute(
            [("ACL", "SETUSER", "default", "-bgrewriteaof"), ("INCR", "p:rewrite")], durable=False
        )
        rewrite = FileRewrite(connection, key_prefix="p:", now_s=SetClock().now_s)
        assert not await rewrite.look()
        assert connection.available
        assert (await connection.execute([("GET", "p:rewrite")], durable=False)) == [b"1"]
        await connection.close()

    asyncio.run(story())
    assert "does not rewrite its append-only file" in caplog.text
