"""The ledger against a real Valkey, killed and frozen where it hurts."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import redis

from edge_node.clock import SystemClock
from edge_node.domain import Durability, JobId, TaskStatus
from edge_node.errors import IdempotencyConflict, StoreUnavailable
from edge_node.requests import AlreadyAccepted, Appended, Idempotency
from edge_node.store.connection import StoreSettings
from edge_node.store.redating import Redating
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from tests.store.records import finished, placed, task, task_id
from tests.store.valkey_process import ValkeyProcess

pytestmark = pytest.mark.system

KEY = Idempotency(key="shop-order 7", request_digest="d1")


def run(
    valkey: ValkeyProcess,
    story: Callable[[TaskLedger], Awaitable[None]],
    *,
    command_timeout_s: float = 0.5,
    batch_max: int = 64,
) -> None:
    """Tells one life of a node: connects, runs the story, closes without a flush."""

    async def life() -> None:
        ledger = TaskLedger(
            LedgerSettings(
                store=StoreSettings(
                    url=valkey.url, command_timeout_s=command_timeout_s, probe_interval_s=0.05
                ),
                batch_max=batch_max,
                idempotency_age_s_max=500,
            ),
            clock=SystemClock(),
        )
        await ledger.connect()
        try:
            await story(ledger)
        finally:
            await ledger.close()

    asyncio.run(life())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


def test_incarnations_grow_over_a_kill(valkey: ValkeyProcess) -> None:
    seen: list[int] = []

    async def story(ledger: TaskLedger) -> None:
        seen.append(await ledger.next_incarnation())

    before_unix_s = int(SystemClock().unix_s())
    for _ in range(3):
        run(valkey, story)
        valkey.kill()
        valkey.start()
    # From the time of day on: an empty store in the place of a lost one does not begin below it.
    assert before_unix_s < seen[0]
    assert seen == [seen[0], seen[0] + 1, seen[0] + 2]


def test_an_accepted_task_survives_a_kill_right_after(valkey: ValkeyProcess) -> None:
    async def accept(ledger: TaskLedger) -> None:
        job_id = JobId("orin-a-job")
        tasks = [task(number, job_id=job_id) for number in (3, 1, 2)]
        appended = await ledger.append_accepted(tasks, job_id=job_id, idempotency=KEY)
        valkey.kill()
        assert appended == Appended(task_ids=(task_id(3), task_id(1), task_id(2)), job_id=job_id)

    async def look(ledger: TaskLedger) -> None:
        assert await ledger.read_job(JobId("orin-a-job")) == (task_id(3), task_id(1), task_id(2))
        assert [record.task.id for record in await ledger.recover(term=2)] == [
            task_id(1),
            task_id(2),
            task_id(3),
        ]
        again = await ledger.append_accepted([task(9)], job_id=None, idempotency=KEY)
        assert isinstance(again, AlreadyAccepted)
        assert again.task_ids == (task_id(3), task_id(1), task_id(2))
        assert await ledger.find_accepted(KEY) == again
        assert await ledger.find_accepted(replace(KEY, key="another")) is None
        with pytest.raises(IdempotencyConflict):
            await ledger.find_accepted(replace(KEY, request_digest="another"))

    run(valkey, accept)
    valkey.start()
    run(valkey, look)


def test_recovery_is_in_a_new_term_on_disk_each_time(valkey: ValkeyProcess) -> None:
    async def accept(ledger: TaskLedger) -> None:
        await ledger.append_accepted([task(1)], job_id=None, idempotency=None)
        ledger.note(placed(task(1), attempt=2))
        await ledger.flush()

    terms: list[int] = []

    async def recover(ledger: TaskLedger) -> None:
        (record,) = await ledger.recover(term=await ledger.next_term())
        terms.append(record.task.term)
        assert (await ledger.read(record.task.id)) == record, "on disk"
        assert (record.status, record.executor) == (TaskStatus.QUEUED, None)
        assert record.attempt == 2
        valkey.kill()

    run(valkey, accept)
    for _ in range(3):
        run(valkey, recover)
        valkey.start()
    assert terms == [2, 3, 4], "above the one it was accepted in"


def test_recovery_takes_the_oldest_first_however_many_there_are(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        tasks = [replace(task(n), created_unix_s=1000.0 + (7 * n) % 5) for n in range(5)]
        await ledger.append_accepted(tasks, job_id=None, idempotency=None)
        recovered = await ledger.recover(term=2)
        created = [record.task.created_unix_s for record in recovered]
        assert created == [1000.0, 1001.0, 1002.0, 1003.0, 1004.0]

    run(valkey, story, batch_max=2)


def test_recovery_ends_what_only_a_connection_had_asked_for(valkey: ValkeyProcess) -> None:
    async def accept(ledger: TaskLedger) -> None:
        journalled = Durability.JOURNALLED
        ledger.journal_accepted([task(1, durability=journalled)], job_id=None)
        keyed = task(2, durability=journalled)
        await ledger.append_accepted([keyed], job_id=None, idempotency=KEY)
        ledger.note(placed(keyed))
        ledger.note(finished(task(3)))
        await ledger.flush()

    async def recover(ledger: TaskLedger) -> None:
        assert [record.task.id for record in await ledger.recover(term=2)] == [task_id(2)]
        gone = await ledger.read(task_id(1))
        assert gone is not None
        assert gone.error is not None
        assert (gone.status, gone.error.code) == (TaskStatus.FAILED, "client_gone")
        done = await ledger.read(task_id(3))
        assert done == finished(task(3))

    run(valkey, accept)
    run(valkey, recover)


def test_an_unreadable_record_is_skipped_and_logged(
    valkey: ValkeyProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async def accept(ledger: TaskLedger) -> None:
        await ledger.append_accepted([task(1), task(2)], job_id=None, idempotency=None)

    async def recover(ledger: TaskLedger) -> None:
        assert [record.task.id for record in await ledger.recover(term=2)] == [task_id(2)]
        assert await ledger.read(task_id(1)) is None

    run(valkey, accept)
    with redis.Redis(unix_socket_path=str(valkey.socket_path)) as client:
        client.hset(f"dedgeai:ledger:task:{task_id(1)}", "record", "{half a rec")
    with caplog.at_level(logging.ERROR):
        run(valkey, recover)
    assert f"record of task {task_id(1)} is unreadable" in caplog.text


def test_one_key_of_many_at_once_is_accepted_once(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        answers = await asyncio.gather(
            *(
                ledger.append_accepted([task(number)], job_id=None, idempotency=KEY)
                for number in range(20)
            )
        )
        assert sum(isinstance(answer, Appended) for answer in answers) == 1
        assert len({answer.task_ids for answer in answers}) == 1
        assert len(await ledger.recover(term=2)) == 1
        with redis.Redis(unix_socket_path=str(valkey.socket_path)) as client:
            (key,) = client.keys("dedgeai:ledger:key:*")
            assert 490 * 30 < client.ttl(key) <= 500 * 30
        with pytest.raises(IdempotencyConflict):
            await ledger.append_accepted(
                [task(50)], job_id=None, idempotency=replace(KEY, request_digest="d2")
            )

    run(valkey, story)


def test_away_is_said_at_once_and_held_ends_are_written_later(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        await ledger.append_accepted([task(1), task(2)], job_id=None, idempotency=None)
        valkey.kill()
        await until(lambda: not ledger.available)
        for call in (
            ledger.append_accepted([task(3)], job_id=None, idempotency=None),
            ledger.append_final(finished(task(1))),
            ledger.flush(),
            ledger.recover(term=2),
        ):
            with pytest.raises(StoreUnavailable) as refusal:
                await call
            assert refusal.value.retry_after_s == 2.0
        ledger.note(finished(task(2)))
        held = await ledger.read(task_id(2))
        assert held == finished(task(2))
        await asyncio.to_thread(valkey.start)
        await until(lambda: ledger.available)
        await ledger.flush()
        assert await ledger.recover(term=2) == []
        assert await ledger.read(task_id(1)) == finished(task(1))

    run(valkey, story)


def test_what_was_refused_in_doubt_is_taken_back(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        # Frozen, the server takes the request into its socket buffer and carries it out later.
        valkey.freeze()
        with pytest.raises(StoreUnavailable):
            await ledger.append_accepted([task(1)], job_id=None, idempotency=KEY)
        valkey.thaw()
        await until(lambda: ledger.available)
        again = await ledger.append_accepted([task(2)], job_id=None, idempotency=KEY)
        assert again == Appended(task_ids=(task_id(2),), job_id=None)
        assert await ledger.read(task_id(1)) is None
        assert [record.task.id for record in await ledger.recover(term=2)] == [task_id(2)]

    run(valkey, story)


def test_a_cancelled_accept_leaves_nothing_and_confuses_nobody(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        for number in range(30):
            accepting = asyncio.create_task(
                ledger.append_accepted([task(number)], job_id=None, idempotency=None)
            )
            await asyncio.sleep(0.0001 * (number % 10))
            accepting.cancel()
            await asyncio.wait([accepting])
            if not accepting.cancelled():
                ledger.note(finished(task(number)))
        await ledger.flush()
        assert ledger.available
        assert await ledger.recover(term=2) == []

    run(valkey, story)


def test_a_late_placement_does_not_revive_a_finished_task(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        await ledger.append_accepted([task(1)], job_id=None, idempotency=None)
        await ledger.append_final(finished(task(1)))
        ledger.note(placed(task(1)))
        await ledger.flush()
        assert await ledger.read(task_id(1)) == finished(task(1))
        assert await ledger.recover(term=2) == []

    run(valkey, story)


def test_a_journalled_job_keeps_its_order(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        job_id = JobId("orin-a-job")
        tasks = [task(number, job_id=job_id) for number in (2, 3, 1)]
        ledger.journal_accepted(tasks, job_id=job_id)
        ledger.note(finished(tasks[1]))
        await ledger.flush()
        assert await ledger.read_job(job_id) == (task_id(2), task_id(3), task_id(1))

    run(valkey, story)


def test_expiry_removes_the_oldest_ends_and_empty_jobs(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        job_id = JobId("orin-a-job")
        tasks = [task(number, job_id=job_id) for number in range(4)]
        await ledger.append_accepted(tasks, job_id=job_id, idempotency=None)
        for number, accepted in enumerate(tasks[:3]):
            ledger.note(finished(accepted, at_unix_s=3000.0 + number))
        await ledger.flush()
        expired = await ledger.expire(finished_before_unix_s=3002.0, count_max=1)
        assert expired == [task_id(0)]
        expired = await ledger.expire(finished_before_unix_s=3002.0, count_max=10)
        assert expired == [task_id(1)]
        assert await ledger.read(task_id(1)) is None
        assert await ledger.read_job(job_id) == (task_id(2), task_id(3))
        ledger.note(finished(tasks[3]))
        await ledger.flush()
        assert len(await ledger.expire(finished_before_unix_s=9999.0, count_max=10)) == 2
        assert await ledger.read_job(job_id) is None

    run(valkey, story)


def test_a_jump_of_the_clock_moves_what_is_stored_once(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        day_s = 86_400.0
        owed = replace(task(1), created_unix_s=1_000.0, deadline_unix_s=4_600.0)
        await ledger.append_accepted([owed], job_id=None, idempotency=None)
        for number, ended_s in ((2, 900.0), (3, 950.5)):
            await ledger.append_final(finished(task(number), at_unix_s=ended_s))
        first = await ledger.redate(10 * day_s, jump="this one", term=5)
        assert first == Redating(shift_s=10 * day_s, before_term=5)
        # That life ends before the task is written anew; the next begins with the same jump.
        second = await ledger.redate(10 * day_s + 3.0, jump="this one", term=6)
        assert second.before_term == 5
        (found,) = await ledger.recover(term=6, redating=second)
        assert found.task.created_unix_s == 1_000.0 + 10 * day_s + 3.0
        assert found.task.deadline_unix_s == 4_600.0 + 10 * day_s + 3.0
        # Written with the right times, it moves no more.
        (again,) = await ledger.recover(term=7, redating=second)
        assert again.task.deadline_unix_s == found.task.deadline_unix_s
        # Ends moved by the first jump alone.
        gone = await ledger.expire(finished_before_unix_s=940.0 + 10 * day_s, count_max=9)
        assert gone == [task_id(2)]
        assert await ledger.read(task_id(3)) is not None
        # Back by another jump.
        back = await ledger.redate(-10 * day_s, jump="another", term=8)
        assert back.before_term == 8
        (found,) = await ledger.recover(term=8, redating=back)
        assert found.task.deadline_unix_s == 4_603.0
        assert await ledger.expire(finished_before_unix_s=951.0, count_max=9) == [task_id(3)]

    run(valkey, story)


class SetClock(SystemClock):
    """A node's clock, days later when the test says so."""

    later_s = 0.0

    def unix_s(self) -> float:
        return super().unix_s() + self.later_s


def test_a_key_is_forgotten_by_the_nodes_clock_and_by_no_other(valkey: ValkeyProcess) -> None:
    clock = SetClock()
    client = redis.Redis.from_url(valkey.url)

    async def story() -> None:
        settings = LedgerSettings(
            store=StoreSettings(url=valkey.url), idempotency_age_s_max=500, key_prefix="n:"
        )
        ledger = TaskLedger(settings, clock=clock)
        await ledger.connect()
        await ledger.append_accepted([task(1)], job_id=None, idempotency=KEY)
        (name,) = client.keys("n:key:*")
        # The store's clock may be ten days off for a while, ours is not.
        assert client.ttl(name) > 10 * 500
        clock.later_s = 499.0
        await ledger.forget_keys()
        again = await ledger.append_accepted([task(2)], job_id=None, idempotency=KEY)
        assert isinstance(again, AlreadyAccepted)
        # What is stored moves with a jump between two lives, keys as well.
        await ledger.redate(1_000.0, jump="this one", term=2)
        clock.later_s = 1_499.0
        await ledger.forget_keys()
        assert client.exists(name)
        clock.later_s = 1_501.0
        await ledger.forget_keys()
        assert not client.exists(name)
        assert client.zcard("n:keys") == 0
        new = await ledger.append_accepted([task(3)], job_id=None, idempotency=KEY)
        assert isinstance(new, Appended)
        await ledger.close()

    asyncio.run(story())


def test_many_old_keys_are_forgotten_in_one_round(valkey: ValkeyProcess) -> None:
    client = redis.Redis.from_url(valkey.url)
    names = {f"key:{number}": 1_000.0 + number for number in range(1_201)}

    async def story(ledger: TaskLedger) -> None:
        client.mset(dict.fromkeys(names, "x"))
        client.zadd("dedgeai:ledger:keys", names)
        await ledger.forget_keys()
        assert client.keys("key:*") == []

    run(valkey, story)


def test_of_ends_that_wait_for_one_write_the_next_serves_all(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        write, writes = ledger._writer._write, 0

        async def counted() -> bool:
            nonlocal writes
            writes += 1
            return await write()

        ledger._writer._write = counted
        await asyncio.gather(*(ledger.append_final(finished(task(n))) for n in range(40)))
        assert writes <= 4
        assert await ledger.read(task_id(39)) == finished(task(39))

    run(valkey, story, command_timeout_s=5.0)


def test_an_end_whose_figures_mean_nothing_is_written_as_any_other(valkey: ValkeyProcess) -> None:
    odd = replace(finished(task(1)), compute_s=math.nan, finished_unix_s=math.nan)

    async def story(ledger: TaskLedger) -> None:
        await ledger.append_accepted([task(1), task(2)], job_id=None, idempotency=None)
        ledger.note(finished(task(2)))
        async with asyncio.timeout(5.0):
            await ledger.append_final(odd)
            await ledger.flush()
        read = await ledger.read(task_id(1))
        assert read == replace(odd, compute_s=0.0, finished_unix_s=None)
        assert await ledger.read(task_id(2)) == finished(task(2))
        assert await ledger.recover(term=2) == []

    run(valkey, story, command_timeout_s=5.0)
