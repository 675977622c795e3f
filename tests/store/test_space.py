"""A store that fills: finished tasks leave, the oldest first, and open ones never."""

from __future__ import annotations

import asyncio

from edge_node.clock import SystemClock
from edge_node.domain import TaskId, TaskRecord, TaskStatus
from edge_node.store.connection import StoreSettings
from edge_node.store.space import StoreFill, StoreSpace
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from tests.store.records import task, task_id
from tests.store.valkey_process import ValkeyProcess

MIB = 2**20
LONG = "\N{FOX FACE}" * 32_000  # 125 KiB in the store


def test_the_oldest_that_ended_leave_and_only_open_ones_are_refused_for(
    valkey: ValkeyProcess,
) -> None:
    forgotten: list[TaskId] = []
    fills: list[StoreFill] = []
    bound = 8 * MIB

    async def forget(gone: TaskId) -> None:
        forgotten.append(gone)

    async def story() -> None:
        ledger = TaskLedger(
            LedgerSettings(store=StoreSettings(url=valkey.url)), clock=SystemClock()
        )
        await ledger.connect()
        space = StoreSpace(
            ledger, forget_image=forget, bytes_max=lambda: bound, on_looked=fills.append
        )
        open_tasks = [task(number, prompt=LONG) for number in range(100, 120)]
        await ledger.append_accepted(open_tasks, job_id=None, idempotency=None)
        for number in range(80):
            one = TaskRecord(
                task=task(number, prompt=LONG),
                status=TaskStatus.COMPLETED,
                finished_unix_s=1000.0 + number,
            )
            ledger.note(one)
        await ledger.flush()
        await space.look()
        assert space.refusal() is None
        assert fills[-1].used_bytes <= bound
        assert fills[-1].aof_bytes > 0
        left = [number for number in range(80) if await ledger.read(task_id(number))]
        assert forgotten == [task_id(number) for number in range(80) if number not in left]
        assert left == list(range(80 - len(left), 80))
        assert len(left) > 10
        # Open ones alone are more than the bound and a fifth.
        more = [task(number, prompt=LONG) for number in range(200, 270)]
        await ledger.append_accepted(more, job_id=None, idempotency=None)
        await space.look()
        refusal = space.refusal()
        assert refusal is not None
        assert (refusal.code, refusal.http_status) == ("store_full", 507)
        assert all([await ledger.read(one.id) for one in open_tasks])
        for ended in more:
            ledger.note(TaskRecord(task=ended, status=TaskStatus.COMPLETED, finished_unix_s=2000.0))
        await ledger.flush()
        await space.look()
        assert space.refusal() is None
        await ledger.close()

    asyncio.run(story())


def test_the_embedded_store_has_room_above_what_is_refused(valkey: ValkeyProcess) -> None:
    async def story() -> None:
        ledger = TaskLedger(
            LedgerSettings(store=StoreSettings(url=valkey.url)), clock=SystemClock()
        )
        await ledger.connect()
        memory, _ = await ledger.info("memory", "persistence")
        # For ends and for lives of the node.
        assert memory["maxmemory"] > 1.2 * 192 * MIB + 64 * MIB
        await ledger.close()

    asyncio.run(story())
