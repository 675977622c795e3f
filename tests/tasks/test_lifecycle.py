"""Single paths of the lifecycle that the simulated cluster meets seldom or cannot judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edge_node.clock import Moment
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Drawing,
    Durability,
    Image,
    NodeId,
    StepFinished,
    Task,
    TaskEventKind,
    TaskId,
    TaskStatus,
)
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.lifecycle import Lifecycle, LifecycleLimits

TASK_ID = TaskId("a-1")
B = NodeId("b")
DRAWING = Drawing(
    prompt="p",
    width_px=64,
    height_px=64,
    steps=3,
    guidance_scale=5.0,
    seed=1,
    model="m",
    previews=1,
)
IMAGE = Image(content=b"png", format="png", width_px=64, height_px=64)


def at(now_s: float) -> Moment:
    return Moment(now_s=now_s, unix_s=1000.0 + now_s)


def task(**changes: Any) -> Task:
    fields: dict[str, object] = {
        "id": TASK_ID,
        "job_id": None,
        "drawing": DRAWING,
        "work": 4.0,
        "input_bits": 8,
        "created_unix_s": 1000.0,
    }
    return Task(**(fields | changes))  # type: ignore[arg-type]


def placed(machine: Lifecycle, *, attempt: int = 1, now_s: float = 0.0) -> list[life.Instruction]:
    event = life.PlacementMade(
        task_id=TASK_ID,
        attempt=attempt,
        executor=B,
        incarnation=1,
        dispatch=attempt,
        policy="local",
        eta_s=1.0,
    )
    return machine.handle(event, at(now_s))


def report(machine: Lifecycle, what: object, *, attempt: int = 1) -> list[life.Instruction]:
    event = life.AttemptReported(task_id=TASK_ID, attempt=attempt, executor=B, report=what)  # type: ignore[arg-type]
    return machine.handle(event, at(1.0))


def submitted(**changes: Any) -> Lifecycle:
    machine = Lifecycle(LifecycleLimits(attempts_max=2, lease_s=5.0), incarnation=1)
    machine.handle(life.TasksSubmitted(tasks=(task(**changes),)), at(0.0))
    if machine.record(TASK_ID) is None:
        machine.handle(life.TasksAppended(task_ids=(TASK_ID,)), at(0.0))
    return machine


def test_a_task_is_unknown_until_it_is_on_disk() -> None:
    machine = Lifecycle(LifecycleLimits(), incarnation=1)
    told = machine.handle(life.TasksSubmitted(tasks=(task(),)), at(0.0))
    assert told == [life.AppendTasks(tasks=(task(),))]
    assert machine.record(TASK_ID) is None
    told = machine.handle(life.AppendFailed(task_ids=(TASK_ID,)), at(0.0))
    assert told == [life.AnswerRefused(task_ids=(TASK_ID,))]
    assert machine.in_flight == 0


def test_a_synchronous_task_does_not_wait_for_the_disk() -> None:
    machine = Lifecycle(LifecycleLimits(), incarnation=1)
    one = task(durability=Durability.JOURNALLED)
    kinds = [type(i) for i in machine.handle(life.TasksSubmitted(tasks=(one,)), at(0.0))]
    assert kinds == [life.JournalTasks, life.AnswerAccepted, life.PublishEvent, life.PlaceTask]


def test_the_whole_way_to_an_image() -> None:
    machine = submitted()
    placed(machine)
    report(machine, AttemptStarted())
    report(machine, StepFinished(step=2, steps=3, preview=b"half"))
    report(machine, StepFinished(step=1, steps=3))  # late: no way back
    told = report(machine, AttemptFinished(image=IMAGE, queue_s=0.5, compute_s=2.0))
    assert [type(i) for i in told] == [life.AttemptEnded, life.StoreImage]
    told = machine.handle(life.ImageStored(task_id=TASK_ID, attempt=1, image_bytes=3), at(2.0))
    assert [type(i) for i in told] == [life.RecordFinal]
    events = machine.events(TASK_ID)
    assert events is not None
    assert events[-1].preview == b"half"
    machine.handle(life.FinalRecorded(task_id=TASK_ID), at(2.0))
    events = machine.events(TASK_ID)
    assert events is not None
    kinds = [event.kind.value for event in events]
    assert kinds == ["queued", "placed", "started", "step", "finished"]
    assert all(event.preview == b"" for event in events)
    assert machine.events(TASK_ID, after=4) == events[4:]
    assert machine.events(TASK_ID, after=99) == events  # a number from before a restart
    record = machine.record(TASK_ID)
    assert record is not None
    assert (record.status, record.executor, record.image_bytes) == (TaskStatus.COMPLETED, B, 3)


def test_an_init_image_shortens_what_is_counted() -> None:
    machine = submitted(drawing=replace(DRAWING, init_image_sha256="ab" * 32, strength=0.4))
    placed(machine)
    report(machine, StepFinished(step=1, steps=2))
    report(machine, AttemptFinished(image=IMAGE, queue_s=0.5, compute_s=2.0))
    record = machine.record(TASK_ID)
    events = machine.events(TASK_ID)
    assert record is not None
    assert events is not None
    assert record.step == 2
    assert {event.steps for event in events} == {2}


def test_a_waiting_task_moves_a_few_times_and_no_failure_is_counted() -> None:
    machine = submitted()
    for attempt in (1, 2, 3):
        placed(machine, attempt=attempt)
        assert [one.executor for one in machine.waiting()] == [B]
        told = machine.handle(life.MoveRequested(task_id=TASK_ID), at(1.0))
        assert [type(i) for i in told] == [life.StopAttempt, life.AttemptEnded, life.PlaceTask]
        # Away from where it waits, this once.
        assert isinstance(told[2], life.PlaceTask)
        assert (told[2].attempt, told[2].avoided) == (attempt + 1, {B})
    placed(machine, attempt=4)
    assert machine.waiting() == []
    assert machine.handle(life.MoveRequested(task_id=TASK_ID), at(1.0)) == []
    # Two attempts may fail besides.
    failure = AttemptFailed(code="worker_lost", message="it crashed", retryable=True)
    told = report(machine, failure, attempt=4)
    assert isinstance(told[-1], life.PlaceTask)
    placed(machine, attempt=5)
    told = report(machine, failure, attempt=5)
    assert isinstance(told[-1], life.RecordFinal)
    told = machine.handle(life.FinalRecorded(task_id=TASK_ID), at(2.0))
    ended = told[-1]
    assert isinstance(ended, life.TaskEnded)
    assert ended.attempts == (1, 2, 3, 5)


def test_what_has_begun_stays_where_it_is() -> None:
    machine = submitted()
    placed(machine)
    report(machine, AttemptStarted())
    assert machine.waiting() == []
    assert machine.handle(life.MoveRequested(task_id=TASK_ID), at(1.0)) == []


def test_attempts_are_bounded_and_the_failure_is_honest() -> None:
    machine = submitted()
    placed(machine)
    failure = AttemptFailed(code="worker_lost", message="it crashed", retryable=True)
    told = report(machine, failure)
    again = told[-1]
    assert isinstance(again, life.PlaceTask)
    assert (again.attempt, again.avoided) == (2, {B})
    placed(machine, attempt=2)
    told = report(machine, failure, attempt=2)
    final = told[-1]
    assert isinstance(final, life.RecordFinal)
    assert final.record.error is not None
    assert final.record.error.code == "attempts_exhausted"
    assert "it crashed" in final.record.error.message


def test_what_no_device_can_draw_fails_at_once() -> None:
    machine = submitted()
    placed(machine)
    told = report(machine, AttemptFailed(code="bad", message="never", retryable=False))
    assert isinstance(told[-1], life.RecordFinal)


def test_deadline_stops_the_attempt() -> None:
    machine = submitted(deadline_unix_s=1003.0)
    placed(machine)
    report(machine, AttemptStarted())
    assert machine.handle(life.ClockAdvanced(), at(2.9)) == []
    told = machine.handle(life.ClockAdvanced(), at(3.0))
    assert isinstance(told[0], life.StopAttempt)
    final = told[-1]
    assert isinstance(final, life.RecordFinal)
    assert final.record.error is not None
    assert final.record.error.code == "deadline_exceeded"


def test_nobody_to_ask_costs_no_attempt() -> None:
    machine = submitted()
    for _ in range(10):
        machine.handle(life.PlacementImpossible(task_id=TASK_ID, attempt=1), at(0.0))
        told = machine.handle(life.ClockAdvanced(), at(1.0))
        assert [i.attempt for i in told if isinstance(i, life.PlaceTask)] == [1]


def test_an_image_that_cannot_be_stored_is_a_failure_with_the_reason() -> None:
    machine = submitted(durability=Durability.NONE)
    placed(machine)
    report(machine, AttemptFinished(image=IMAGE, queue_s=0.0, compute_s=1.0))
    machine.handle(life.ImageStoreFailed(task_id=TASK_ID, attempt=1, message="disk full"), at(2.0))
    record = machine.record(TASK_ID)
    assert record is not None
    assert record.error is not None
    assert record.error.code == "image_store_failed"
    events = machine.events(TASK_ID)
    assert events is not None
    assert events[-1].kind is TaskEventKind.FAILED


def test_recovered_attempts_stand_above_the_former_lifes() -> None:
    machine = Lifecycle(LifecycleLimits(attempts_max=2), incarnation=1)
    told = machine.handle(life.TasksRecovered(tasks=(task(attempt_floor=2),)), at(0.0))
    place = told[-1]
    assert isinstance(place, life.PlaceTask)
    assert place.attempt == 3


def test_finished_tasks_in_memory_are_bounded() -> None:
    machine = Lifecycle(LifecycleLimits(finished_kept_max=3), incarnation=1)
    for index in range(5):
        one = task(id=TaskId(f"a-{index}"), durability=Durability.NONE)
        machine.handle(life.TasksSubmitted(tasks=(one,)), at(0.0))
        machine.handle(life.CancelRequested(task_id=one.id), at(0.0))
    known = [machine.record(TaskId(f"a-{index}")) is not None for index in range(5)]
    assert known == [False, False, True, True, True]
