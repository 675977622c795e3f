"""A store that fills: finished tasks leave, the oldest first, and open ones never."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence

from edge_node.clock import SystemClock
from edge_node.domain import TaskId, TaskRecord, TaskStatus
from edge_node.store.connection import StoreSettings
from edge_node.store.fill import PartFill
from edge_node.store.space import LOOKS_PER_PARTS, StoreFill, StoreSpace
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from tests.store.records import task, task_id
from tests.store.valkey_process import ValkeyProcess

MIB = 2**20
LONG = "\N{FOX FACE}" * 32_000  # 125 KiB in the store


def test_the_oldest_that_ended_leave_and_only_open_ones_are_refused_for(
    valkey: ValkeyProcess,
) -> None:
    forgotten: list[TaskId] = []
    fills: list[Sequence[PartFill]] = []
    bound = 8 * MIB

    async def forget(gone: Sequence[TaskId]) -> None:
        forgotten.extend(gone)

    async def story() -> None:
        ledger = TaskLedger(
            LedgerSettings(store=StoreSettings(url=valkey.url)), clock=SystemClock()
        )
        await ledger.connect()
        space = StoreSpace(
            ledger, forget_images=forget, bytes_max=lambda: bound, on_looked=fills.append
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
        memory, file = fills[-1]
        assert (memory.part, file.part) == ("memory", "file")
        assert 0.6 * bound < memory.used_bytes <= bound
        assert memory.share == memory.used_bytes / bound
        assert file.used_bytes > 100 * 128_000
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


def test_removing_is_quicker_than_clients_who_are_refused_while_it_is_not(
    valkey: ValkeyProcess,
) -> None:
    removed_together: list[int] = []
    refused: list[bool] = []
    arriving: Iterator[int] = iter(())
    bound = 4 * MIB

    async def story() -> None:
        nonlocal arriving
        ledger = TaskLedger(
            LedgerSettings(store=StoreSettings(url=valkey.url)), clock=SystemClock()
        )
        await ledger.connect()
        numbers = iter(range(100_000))

        async def end(count: int) -> None:
            for number in itertools.islice(numbers, count):
                ended = TaskRecord(
                    task=task(number, prompt="a fox " * 500),
                    status=TaskStatus.COMPLETED,
                    finished_unix_s=1000.0 + number,
                )
                ledger.note(ended)
            await ledger.flush()

        async def forget(gone: Sequence[TaskId]) -> None:
            removed_together.append(len(gone))
            refused.append(space.refusal() is not None)
            await end(next(arriving, 0))  # clients go on meanwhile

        space = StoreSpace(ledger, forget_images=forget, bytes_max=lambda: bound)
        await end(3_000)
        assert (await ledger.info("memory"))[0]["used_memory"] > 2 * bound
        arriving = itertools.repeat(30)
        await space.look()
        assert removed_together[:4] == [20, 40, 80, 160]
        assert len(removed_together) < 25
        assert not any(refused)
        assert (await ledger.info("memory"))[0]["used_memory"] < bound
        await end(3_000)
        arriving = iter([700] * 9)
        await space.look()
        assert any(refused)
        assert space.refusal() is None
        assert (await ledger.info("memory"))[0]["used_memory"] < bound
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


def test_the_file_is_measured_against_what_the_memory_may_make_of_it() -> None:
    fill = StoreFill(used_bytes=30 * MIB, memory_bytes_max=0, aof_bytes=96 * MIB)
    # Small stores rewrite their file at 64 MiB at the earliest, and it may double before.
    assert [part.share for part in fill.against(20 * MIB)] == [1.5, 0.75]
    assert fill.against(96 * MIB)[1].share == 0.5


def test_parts_are_asked_in_one_look_of_ten(valkey: ValkeyProcess) -> None:
    asked: list[str] = []
    fills: list[Sequence[PartFill]] = []

    async def part() -> PartFill:
        asked.append("experience")
        return PartFill(part="experience", used_bytes=12, share=0.5)

    async def forget(gone: Sequence[TaskId]) -> None:
        raise AssertionError

    async def story() -> None:
        ledger = TaskLedger(
            LedgerSettings(store=StoreSettings(url=valkey.url)), clock=SystemClock()
        )
        await ledger.connect()
        space = StoreSpace(
            ledger,
            forget_images=forget,
            bytes_max=lambda: 64 * MIB,
            parts=(part,),
            on_looked=fills.append,
        )
        for _ in range(LOOKS_PER_PARTS + 1):
            await space.look()
        await ledger.close()

    asyncio.run(story())
    assert len(asked) == 2
    assert [len(fill) for fill in fills] == [3, *[2] * (LOOKS_PER_PARTS - 1), 3]
    assert fills[0][2].share == 0.5
