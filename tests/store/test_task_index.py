"""The index of finished tasks against a real Valkey: its order, its pages, what leaves it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from edge_node.clock import SystemClock
from edge_node.domain import TaskId, TaskRecord, TaskStatus
from edge_node.listing import Place, TaskFilter, TaskPage
from edge_node.store import task_index
from edge_node.store.connection import StoreSettings
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from tests.store.records import finished, placed, task, task_id
from tests.store.valkey_process import ValkeyProcess

pytestmark = pytest.mark.system
EVERY = TaskFilter()
FAILED = frozenset({TaskStatus.FAILED})


def run(valkey: ValkeyProcess, story: Callable[[TaskLedger], Awaitable[None]]) -> None:
    """Tells one life of a node."""

    async def life() -> None:
        settings = LedgerSettings(store=StoreSettings(url=valkey.url))
        ledger = TaskLedger(settings, clock=SystemClock())
        await ledger.connect()
        try:
            await story(ledger)
        finally:
            await ledger.close()

    asyncio.run(life())


def record(number: int, *, client: str = "", **changes: Any) -> TaskRecord:
    done = finished(replace(task(number), client=client), at_unix_s=9000.0 - number)
    return replace(done, **changes)


async def keep(ledger: TaskLedger, *records: TaskRecord) -> None:
    for one in records:
        ledger.note(one)
    await ledger.flush()


def numbers(page: TaskPage) -> list[int]:
    return [int(one.record.task.id.rpartition("J")[2]) for one in page.listed]


async def all_pages(ledger: TaskLedger, wanted: TaskFilter, *, count: int) -> list[list[int]]:
    before, pages = None, []
    while True:
        page = await ledger.list_finished(wanted, before=before, count=count)
        pages.append(numbers(page))
        if page.until is None:
            return pages
        before = page.until


def test_tasks_are_listed_by_when_they_came_whenever_they_ended(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        await keep(ledger, *(record(number) for number in (3, 1, 5, 2, 4)), placed(task(6)))
        assert await all_pages(ledger, EVERY, count=2) == [[5, 4], [3, 2], [1]]
        page = await ledger.list_finished(EVERY, before=None, count=1)
        assert page.listed[0].record == record(5)
        assert page.until == page.listed[0].place == Place(1005.0, task_id(5))

    run(valkey, story)


def test_tasks_of_one_moment_are_each_listed_once(valkey: ValkeyProcess) -> None:
    def of_one_moment(number: int) -> TaskRecord:
        return replace(record(number), task=replace(task(number), created_unix_s=1234.1))

    async def story(ledger: TaskLedger) -> None:
        await keep(ledger, *(of_one_moment(number) for number in (1, 4, 3, 5, 2)), record(9))
        assert await all_pages(ledger, EVERY, count=2) == [[5, 4], [3, 2], [1, 9], []]

    run(valkey, story)


def test_a_client_has_a_list_of_its_own(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        await keep(ledger, *(record(n, client="ab12" if n % 2 else "cd34") for n in range(8)))
        assert await all_pages(ledger, TaskFilter(client="ab12"), count=3) == [[7, 5, 3], [1]]
        assert await all_pages(ledger, TaskFilter(client="nobody"), count=3) == [[]]

    run(valkey, story)


def test_what_is_rare_is_looked_for_some_way_at_a_time(
    valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_index, "AT_ONCE", 4)
    monkeypatch.setattr(task_index, "LOOKED_AT_MAX", 8)

    async def story(ledger: TaskLedger) -> None:
        for number in range(20):
            drawing = replace(task(number).drawing, model="other" if number in (2, 12) else "tiny")
            await keep(ledger, record(number, task=replace(task(number), drawing=drawing)))
        assert await all_pages(ledger, TaskFilter(model="other"), count=5) == [[12], [], [2]]
        assert await all_pages(ledger, TaskFilter(model="other"), count=1) == [[12], [], [2], []]
        both = TaskFilter(statuses=frozenset({TaskStatus.COMPLETED}), model="none")
        assert await all_pages(ledger, both, count=1) == [[], [], []]

    run(valkey, story)


def test_the_few_that_failed_are_found_at_once(
    valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_index, "LOOKED_AT_MAX", 1)

    async def story(ledger: TaskLedger) -> None:
        await keep(ledger, *(record(number) for number in range(20)))
        await keep(ledger, record(30, status=TaskStatus.FAILED, client="ab12"))
        await keep(ledger, record(5, status=TaskStatus.FAILED, client="cd34"))
        await keep(ledger, record(7, status=TaskStatus.CANCELLED))
        queued = TaskStatus.QUEUED
        for statuses, client, expected in (
            (FAILED, "", [[30, 5]]),
            (FAILED, "cd34", [[5]]),
            (FAILED | {TaskStatus.CANCELLED, queued}, "", [[30, 7, 5]]),
            ({queued}, "", [[]]),
        ):
            wanted = TaskFilter(statuses=frozenset(statuses), client=client)
            assert await all_pages(ledger, wanted, count=5) == expected

    run(valkey, story)


def test_entries_leave_with_their_tasks(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        await keep(ledger, *(record(number, client="ab12") for number in range(4)))
        await ledger.erasures.erase(record(3, client="ab12"))
        assert (await all_pages(ledger, EVERY, count=9)) == [[3, 2, 1, 0]]
        gone = await ledger.expire(finished_before_unix_s=float("inf"), count_max=3)
        assert len(gone) == 3
        for wanted in (EVERY, TaskFilter(client="ab12")):
            assert await all_pages(ledger, wanted, count=9) == [[0]]
        await ledger.expire(finished_before_unix_s=float("inf"), count_max=3)
        with redis.Redis.from_url(valkey.url) as store:
            assert [key for key in store.keys("*") if b"listed" in key] == []

    run(valkey, story)


def test_a_task_that_no_ledger_knew_is_listed_once_it_is_erased(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        await ledger.erasures.erase(record(1))
        assert await all_pages(ledger, EVERY, count=9) == [[1]]

    run(valkey, story)


def test_what_another_version_left_and_removed_is_found_at_the_start(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        await keep(ledger, *(record(number) for number in range(4)))
        with redis.Redis.from_url(valkey.url) as store:
            prefix = "dedgeai:ledger:"
            store.zrem(f"{prefix}listed", task_id(1))
            store.zadd(f"{prefix}listed", {"orin-a-01JGONE": 5.0, "orin-a-01JTOO": 6.0})
            assert await all_pages(ledger, EVERY, count=9) == [[3, 2, 0]]
            assert await ledger.recover(term=2) == []
            # By its end, as nobody has looked into it.
            assert await all_pages(ledger, EVERY, count=9) == [[1, 3, 2, 0]]
            assert store.zscore(f"{prefix}listed", task_id(2)) == 1002.0
            assert store.zcard(f"{prefix}listed") == 4

    run(valkey, story)


def test_an_unreadable_record_takes_no_other_with_it(valkey: ValkeyProcess) -> None:
    async def story(ledger: TaskLedger) -> None:
        await keep(ledger, *(record(number) for number in range(3)))
        with redis.Redis.from_url(valkey.url) as store:
            store.hset(f"dedgeai:ledger:task:{TaskId(task_id(1))}", "record", "{")
        assert await all_pages(ledger, EVERY, count=9) == [[2, 0]]

    run(valkey, story)
