from __future__ import annotations

from dataclasses import replace

from edge_node.domain import Durability, TaskRecord
from edge_node.store.pending_writes import Acceptance, PendingWrite, PendingWrites
from tests.store.records import finished, placed, task, task_id


def write(record: TaskRecord, *, acceptance: Acceptance | None = None) -> PendingWrite:
    return PendingWrite(record=record, acceptance=acceptance)


def accepted(number: int) -> PendingWrite:
    journalled = task(number, durability=Durability.JOURNALLED)
    return write(TaskRecord(task=journalled), acceptance=Acceptance(job_index=number))


def test_a_task_waits_once_with_its_latest_state_and_its_acceptance() -> None:
    pending = PendingWrites(10)
    pending.put(accepted(1))
    pending.put(write(placed(task(1))))
    pending.put(write(finished(task(1))))
    (only,) = pending.batch(10)
    assert only.record == finished(task(1))
    assert only.acceptance == Acceptance(job_index=1)


def test_who_waits_for_the_disk_waits_for_it_whatever_comes_after() -> None:
    pending = PendingWrites(10)
    pending.put(replace(write(finished(task(1))), durable=True))
    pending.put(write(finished(task(1))))
    assert pending.batch(10)[0].durable


def test_an_end_stays_the_end() -> None:
    pending = PendingWrites(10)
    pending.put(write(finished(task(1))))
    assert pending.put(write(placed(task(1)))) is None
    assert pending.batch(10)[0].record == finished(task(1))


def test_finals_leave_first_and_confirmed_ones_go() -> None:
    pending = PendingWrites(10)
    for entry in (placed(task(1)), finished(task(2)), placed(task(3)), finished(task(4))):
        pending.put(write(entry))
    batch = pending.batch(3)
    assert [entry.record.task.id for entry in batch] == [task_id(2), task_id(4), task_id(1)]
    pending.put(write(placed(task(1), attempt=2)))  # news while the batch is on its way
    pending.confirm(batch)
    assert [entry.record.attempt for entry in pending.batch(10)] == [2, 1]


def test_overflow_gives_up_placements_then_acceptances_then_unpromised_finals() -> None:
    pending = PendingWrites(4)
    pending.put(write(finished(task(1))))
    pending.put(write(finished(task(2, durability=Durability.NONE))))
    pending.put(accepted(3))
    pending.put(write(placed(task(4))))
    given_up = [pending.put(write(finished(task(number)))) for number in (5, 6, 7, 8)]
    assert [entry.record.task.id for entry in given_up if entry] == [
        task_id(4),
        task_id(3),
        task_id(2),
        task_id(1),
    ]
    late_note = write(placed(task(9)))
    assert pending.put(late_note) is late_note
    assert len(pending) == 4
