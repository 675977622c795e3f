"""Single paths of the lifecycle that the simulated cluster meets seldom or cannot judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_node.clock import Moment
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptHeartbeat,
    AttemptQueued,
    AttemptStarted,
    Drawing,
    Durability,
    Fence,
    Image,
    NodeId,
    Offload,
    StepFinished,
    Task,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.fate import ImpossibleTransition, Phase
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.lifecycle_limits import LifecycleLimits

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


def nth(attempt: int) -> Fence:
    return Fence(1, attempt)


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


def placed(
    machine: Lifecycle, *, attempt: int = 1, now_s: float = 0.0, others: bool = True
) -> list[life.Instruction]:
    event = life.PlacementMade(
        task_id=TASK_ID,
        fence=nth(attempt),
        executor=B,
        incarnation=1,
        dispatch=attempt,
        policy="local",
        eta_s=1.0,
        others=others,
    )
    return machine.handle(event, at(now_s))


def report(machine: Lifecycle, what: object, *, attempt: int = 1) -> list[life.Instruction]:
    event = life.AttemptReported(task_id=TASK_ID, fence=nth(attempt), executor=B, report=what)  # type: ignore[arg-type]
    return machine.handle(event, at(1.0))


def submitted(**changes: Any) -> Lifecycle:
    machine = Lifecycle(LifecycleLimits(attempts_max=2, lease_s=5.0), term=1)
    machine.handle(life.TasksSubmitted(tasks=(task(**changes),)), at(0.0))
    if machine.record(TASK_ID) is None:
        machine.handle(life.TasksAppended(task_ids=(TASK_ID,)), at(0.0))
    return machine


def test_a_task_is_unknown_until_it_is_on_disk() -> None:
    machine = Lifecycle(LifecycleLimits(), term=1)
    told = machine.handle(life.TasksSubmitted(tasks=(task(),)), at(0.0))
    assert told == [life.AppendTasks(tasks=(task(),))]
    assert machine.record(TASK_ID) is None
    told = machine.handle(life.AppendFailed(task_ids=(TASK_ID,)), at(0.0))
    assert told == [life.AnswerRefused(task_ids=(TASK_ID,))]
    assert machine.in_flight == 0


def test_who_comes_late_finds_the_latest_pictures_and_not_all_of_them() -> None:
    machine = submitted(drawing=replace(DRAWING, steps=9, previews=8))
    placed(machine)
    for step in range(1, 7):
        report(machine, StepFinished(step=step, steps=9, preview=b"%d" % step))
    events = machine.events(TASK_ID)
    assert events is not None
    assert [event.preview for event in events if event.preview] == [b"4", b"5", b"6"]
    assert [event.step for event in events][-6:] == [1, 2, 3, 4, 5, 6]


def test_a_synchronous_task_does_not_wait_for_the_disk() -> None:
    machine = Lifecycle(LifecycleLimits(), term=1)
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
    told = machine.handle(life.ImageStored(task_id=TASK_ID, fence=nth(1), image_bytes=3), at(2.0))
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


def test_what_is_kept_of_finished_tasks_is_bounded_in_bytes() -> None:
    limits = LifecycleLimits(finished_bytes_max=300_000)
    machine = Lifecycle(limits, term=1)
    long = replace(DRAWING, prompt="\N{FOX FACE}" * 16_000)
    ids = [TaskId(f"a-{number}") for number in range(9)]
    for task_id in ids:
        one = task(id=task_id, drawing=long, durability=Durability.NONE)
        machine.handle(life.TasksSubmitted(tasks=(one,)), at(0.0))
        assert machine.load.prompt_bytes > 64_000
        machine.handle(life.PlacementImpossible(task_id=task_id, fence=nth(1)), at(0.0))
        machine.handle(life.CancelRequested(task_id=task_id), at(1.0))
        assert machine.load.prompt_bytes == 0
        machine.validate()
    assert [task_id for task_id in ids if machine.record(task_id)] == ids[-4:]


def test_a_placement_that_never_answers_is_asked_for_again() -> None:
    machine = submitted()
    assert machine.handle(life.ClockAdvanced(), at(4.9)) == []
    (asked,) = machine.handle(life.ClockAdvanced(), at(5.0))
    assert isinstance(asked, life.PlaceTask)
    assert asked.fence == nth(2)
    (late,) = placed(machine, attempt=1, now_s=5.1)  # it was only slow: nobody waits for it
    assert isinstance(late, life.AttemptEnded)
    assert life.StartAttempt in [type(told) for told in placed(machine, attempt=2, now_s=5.2)]


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
        assert (told[2].fence.attempt, told[2].avoided) == (attempt + 1, {B})
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
    assert [fence.attempt for fence in ended.fences] == [1, 2, 3, 5]


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
    assert (again.fence.attempt, again.avoided) == (2, {B})
    placed(machine, attempt=2)
    told = report(machine, failure, attempt=2)
    final = told[-1]
    assert isinstance(final, life.RecordFinal)
    assert final.record.error is not None
    assert final.record.error.code == "attempts_exhausted"
    assert "it crashed" in final.record.error.message


@pytest.mark.parametrize(
    ("codes", "deaths"),
    [
        (["worker_died", "worker_died"], 2),
        (["worker_died_shared", "worker_died"], 2),
        # Beside others it may be innocent, twice, but not thrice.
        (["worker_died_shared", "worker_died_shared", "worker_died_shared"], 3),
        (["worker_died", "worker_died_shared", "worker_died_shared"], 3),
        (["worker_lost", "worker_died", "peer_failed", "worker_died"], 2),
    ],
)
def test_a_task_of_which_workers_die_is_poisoned(codes: list[str], deaths: int) -> None:
    machine = Lifecycle(LifecycleLimits(attempts_max=9, lease_s=5.0), term=1)
    machine.handle(life.TasksSubmitted(tasks=(task(),)), at(0.0))
    machine.handle(life.TasksAppended(task_ids=(TASK_ID,)), at(0.0))
    for attempt, code in enumerate(codes, start=1):
        placed(machine, attempt=attempt)
        failure = AttemptFailed(code=code, message="gone", retryable=True)
        told = report(machine, failure, attempt=attempt)
        assert isinstance(told[-1], life.PlaceTask) is (attempt < len(codes))
    final = told[-1]
    assert isinstance(final, life.RecordFinal)
    assert final.record.error is not None
    assert final.record.error.code == "poisoned"
    times = f"{len(codes)} attempts on 1 device ({B}), the last: gone."
    assert f"{deaths} workers died while they drew it; {times}" in final.record.error.message


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
        machine.handle(life.PlacementImpossible(task_id=TASK_ID, fence=nth(1)), at(0.0))
        told = machine.handle(life.ClockAdvanced(), at(1.0))
        assert [i.fence.attempt for i in told if isinstance(i, life.PlaceTask)] == [1]


def test_an_image_that_cannot_be_stored_is_a_failure_with_the_reason() -> None:
    machine = submitted(durability=Durability.NONE)
    placed(machine)
    report(machine, AttemptFinished(image=IMAGE, queue_s=0.0, compute_s=1.0))
    machine.handle(
        life.ImageStoreFailed(task_id=TASK_ID, fence=nth(1), message="disk full"), at(2.0)
    )
    record = machine.record(TASK_ID)
    assert record is not None
    assert record.error is not None
    assert record.error.code == "image_store_failed"
    events = machine.events(TASK_ID)
    assert events is not None
    assert events[-1].kind is TaskEventKind.FAILED


def test_recovered_attempts_stand_above_the_former_lifes() -> None:
    machine = Lifecycle(LifecycleLimits(attempts_max=2), term=3)
    told = machine.handle(life.TasksRecovered(tasks=(task(term=3),)), at(0.0))
    place = told[-1]
    assert isinstance(place, life.PlaceTask)
    assert place.fence == Fence(3, 1) > Fence(2, 99)


def test_finished_tasks_in_memory_are_bounded() -> None:
    machine = Lifecycle(LifecycleLimits(finished_kept_max=3), term=1)
    for index in range(5):
        one = task(id=TaskId(f"a-{index}"), durability=Durability.NONE)
        machine.handle(life.TasksSubmitted(tasks=(one,)), at(0.0))
        machine.handle(life.CancelRequested(task_id=one.id), at(0.0))
    known = [machine.record(TaskId(f"a-{index}")) is not None for index in range(5)]
    assert known == [False, False, True, True, True]


def record_of(machine: Lifecycle) -> TaskRecord:
    record = machine.record(TASK_ID)
    assert record is not None
    return record


def kinds_of(machine: Lifecycle) -> list[str]:
    return [event.kind.value for event in machine.events(TASK_ID) or []]


LOST = AttemptFailed(code="worker_lost", message="it crashed", retryable=True)


def test_an_image_that_is_being_stored_is_no_longer_cancelled() -> None:
    machine = submitted(deadline_unix_s=1003.0)
    placed(machine)
    report(machine, AttemptFinished(image=IMAGE, queue_s=0.5, compute_s=2.0))
    assert machine.handle(life.ClockAdvanced(), at(9e9)) == [], "nor is it too late"
    assert machine.handle(life.CancelRequested(task_id=TASK_ID), at(2.0)) == []
    told = machine.handle(life.ImageStored(task_id=TASK_ID, fence=nth(1), image_bytes=3), at(2.0))
    assert isinstance(told[0], life.RecordFinal)
    assert told[0].record.status is TaskStatus.COMPLETED
    # Nor while its end is being written: that would be a second end.
    assert machine.handle(life.CancelRequested(task_id=TASK_ID), at(2.0)) == []
    assert machine.handle(life.ClockAdvanced(), at(9e9)) == []
    machine.handle(life.FinalRecorded(task_id=TASK_ID), at(2.0))
    assert record_of(machine).status is TaskStatus.COMPLETED
    assert machine.handle(life.CancelRequested(task_id=TASK_ID), at(3.0)) == []
    assert machine.handle(life.FinalRecorded(task_id=TASK_ID), at(3.0)) == []


def test_a_task_is_not_cancelled_before_its_client_can_know_of_it() -> None:
    machine = Lifecycle(LifecycleLimits(), term=1)
    machine.handle(life.TasksSubmitted(tasks=(task(),)), at(0.0))
    assert machine.handle(life.CancelRequested(task_id=TASK_ID), at(0.0)) == []
    told = machine.handle(life.TasksAppended(task_ids=(TASK_ID,)), at(0.0))
    assert [type(i) for i in told] == [life.AnswerAccepted, life.PublishEvent, life.PlaceTask]


def test_cancelling_stops_the_executor_and_accounts_for_its_dispatch() -> None:
    machine = submitted()
    placed(machine)
    told = machine.handle(life.CancelRequested(task_id=TASK_ID), at(1.0))
    ended = life.AttemptEnded(
        executor=B, dispatch=1, task_id=TASK_ID, fence=nth(1), reason="cancelled"
    )
    assert told[:2] == [life.StopAttempt(executor=B, task_id=TASK_ID, fence=nth(1)), ended]
    assert isinstance(told[2], life.RecordFinal)
    assert told[2].record.status is TaskStatus.CANCELLED
    assert told[2].record.finished_unix_s == 1001.0


@pytest.mark.parametrize("impossible", [True, False])
def test_the_deadline_passes_while_no_node_can_take_it(impossible: bool) -> None:
    machine = submitted(deadline_unix_s=1003.0)
    if impossible:
        machine.handle(life.PlacementImpossible(task_id=TASK_ID, fence=nth(1)), at(2.9))
    told = machine.handle(life.ClockAdvanced(), at(3.0))
    # Nobody has it, so that nobody is told to stop.
    assert [type(i) for i in told] == [life.RecordFinal]
    assert isinstance(told[0], life.RecordFinal)
    assert told[0].record.error is not None
    assert told[0].record.error.code == "deadline_exceeded"
    assert ("No node that draws" in told[0].record.error.message) == impossible
    # Placement had thought about it meanwhile, and booked a dispatch.
    (late,) = placed(machine)
    assert isinstance(late, life.AttemptEnded)
    assert (late.reason, late.executor, late.dispatch) == ("not_wanted", B, 1)


def test_what_is_left_of_the_deadline_is_counted_when_the_task_is_sent() -> None:
    machine = submitted(deadline_unix_s=1003.0)
    machine.handle(life.PlacementImpossible(task_id=TASK_ID, fence=nth(1)), at(0.0))
    machine.handle(life.ClockAdvanced(), at(2.0))
    start = placed(machine, now_s=2.25)[-1]
    assert isinstance(start, life.StartAttempt)
    assert start.offload.deadline_s == 0.75


def test_the_offload_is_the_task_as_it_was_accepted() -> None:
    machine = submitted(priority=7)
    start = placed(machine)[-1]
    assert start == life.StartAttempt(
        executor=B,
        offload=Offload(
            task_id=TASK_ID,
            fence=nth(1),
            origin=NodeId("a"),
            incarnation=1,
            dispatch=1,
            drawing=DRAWING,
            work=4.0,
            priority=7,
            deadline_s=None,
        ),
    )


def test_where_and_why_it_was_placed_is_noted_and_shown_until_it_ends() -> None:
    machine = submitted()
    report_queued = life.AttemptReported(
        task_id=TASK_ID, fence=nth(1), executor=B, report=AttemptQueued(position=2)
    )
    made = life.PlacementMade(
        task_id=TASK_ID,
        fence=nth(1),
        executor=B,
        incarnation=1,
        dispatch=1,
        policy="lad_ts_plus",
        policy_reason="window",
        eta_s=7.0,
    )
    _, note, _ = machine.handle(made, at(0.0))
    assert note == life.NoteRecord(record=record_of(machine))
    record = record_of(machine)
    assert (record.executor, record.policy, record.policy_reason) == (B, "lad_ts_plus", "window")
    assert record.eta_s == 7.0
    machine.handle(report_queued, at(0.0))
    assert record_of(machine).queue_position == 2
    report(machine, AttemptStarted())
    assert record_of(machine).queue_position == 0
    emulated = replace(IMAGE, emulated_device="orin")
    report(machine, AttemptFinished(image=emulated, queue_s=0.5, compute_s=2.0))
    assert record_of(machine).emulated_device == "orin"
    machine.handle(life.ImageStored(task_id=TASK_ID, fence=nth(1), image_bytes=3), at(2.0))
    assert record_of(machine).eta_s == 0.0


def test_where_it_waited_is_avoided_by_the_next_move_only() -> None:
    machine = submitted()
    placed(machine)
    machine.handle(life.MoveRequested(task_id=TASK_ID), at(1.0))
    made = life.PlacementMade(
        task_id=TASK_ID,
        fence=nth(2),
        executor=NodeId("c"),
        incarnation=1,
        dispatch=1,
        policy="local",
        eta_s=1.0,
    )
    machine.handle(made, at(1.0))
    place = machine.handle(life.MoveRequested(task_id=TASK_ID), at(2.0))[-1]
    assert isinstance(place, life.PlaceTask)
    assert place.avoided == {"c"}, "the first may have become the better one"


def test_a_step_that_is_told_twice_is_told_on_once() -> None:
    machine = submitted()
    placed(machine)
    report(machine, AttemptStarted())
    assert len(report(machine, StepFinished(step=1, steps=3))) == 1
    assert report(machine, StepFinished(step=1, steps=3)) == []
    assert kinds_of(machine) == ["queued", "placed", "started", "step"]


def test_a_second_attempt_goes_on_where_clients_saw_the_first() -> None:
    machine = submitted()
    placed(machine)
    report(machine, AttemptStarted())
    report(machine, StepFinished(step=2, steps=3))
    started_unix_s = record_of(machine).started_unix_s
    report(machine, LOST)
    again = record_of(machine)
    assert (again.status, again.step, again.attempt) == (TaskStatus.QUEUED, 2, 2)
    assert again.executor is None
    placed(machine, attempt=2)
    event = life.AttemptReported(task_id=TASK_ID, fence=nth(2), executor=B, report=AttemptStarted())
    machine.handle(event, at(4.0))
    assert report(machine, StepFinished(step=1, steps=3), attempt=2) == []
    assert len(report(machine, StepFinished(step=3, steps=3), attempt=2)) == 1
    again = record_of(machine)
    assert (again.status, again.step) == (TaskStatus.IN_PROGRESS, 3)
    # Since when somebody works on it, whoever that was.
    assert again.started_unix_s == started_unix_s == 1001.0


@pytest.mark.parametrize("durability", [Durability.JOURNALLED, Durability.NONE])
def test_the_end_of_a_synchronous_task_waits_for_nothing(durability: Durability) -> None:
    machine = submitted(durability=durability)
    placed(machine)
    report(machine, AttemptFinished(image=IMAGE, queue_s=0.5, compute_s=2.0))
    told = machine.handle(life.ImageStored(task_id=TASK_ID, fence=nth(1), image_bytes=3), at(2.0))
    record = record_of(machine)
    assert (record.status, record.queue_s, record.compute_s) == (TaskStatus.COMPLETED, 0.5, 2.0)
    note = [life.NoteRecord(record=record)] if durability is Durability.JOURNALLED else []
    assert told[:-2] == note
    assert [type(i) for i in told[-2:]] == [life.PublishEvent, life.TaskEnded]
    assert told[-1] == life.TaskEnded(record=record, fences=(nth(1),))
    assert machine.in_flight == 0


def test_a_task_that_promised_nothing_is_journalled_nowhere() -> None:
    machine = Lifecycle(LifecycleLimits(), term=1)
    told = machine.handle(
        life.TasksSubmitted(
            tasks=(
                task(durability=Durability.NONE),
                task(id=TaskId("a-2"), durability=Durability.JOURNALLED),
            )
        ),
        at(0.0),
    )
    journal = told[0]
    assert isinstance(journal, life.JournalTasks)
    assert [one.id for one in journal.tasks] == ["a-2"]
    assert told[1] == life.AnswerAccepted(task_ids=(TASK_ID, TaskId("a-2")))


def test_any_report_renews_the_lease_and_silence_ends_it() -> None:
    machine = submitted()
    placed(machine)
    machine.handle(
        life.AttemptReported(
            task_id=TASK_ID,
            fence=nth(1),
            executor=B,
            report=AttemptHeartbeat(queue_position=4),
        ),
        at(3.0),
    )
    assert record_of(machine).queue_position == 4
    assert machine.handle(life.ClockAdvanced(), at(7.9)) == []
    stop, ended, place = machine.handle(life.ClockAdvanced(), at(8.0))
    assert stop == life.StopAttempt(executor=B, task_id=TASK_ID, fence=nth(1))
    assert isinstance(ended, life.AttemptEnded)
    assert ended.reason == "lease_lapsed"
    assert isinstance(place, life.PlaceTask)
    assert (place.fence.attempt, place.avoided) == (2, {B})


def test_an_executor_that_never_says_a_word_is_given_up() -> None:
    machine = submitted()
    placed(machine, now_s=1.0)
    assert machine.handle(life.ClockAdvanced(), at(5.9)) == []
    assert isinstance(machine.handle(life.ClockAdvanced(), at(6.0))[-1], life.PlaceTask)


def test_only_what_a_failed_peer_was_drawing_is_lost() -> None:
    machine = submitted()
    assert machine.handle(life.PeerFailed(node_id=B), at(0.0)) == [], "nobody draws it yet"
    placed(machine)
    assert machine.handle(life.PeerFailed(node_id=NodeId("c")), at(0.0)) == []
    ended, place = machine.handle(life.PeerFailed(node_id=B), at(0.0))
    assert isinstance(ended, life.AttemptEnded)
    assert ended.reason == "peer_failed"
    assert isinstance(place, life.PlaceTask)


def test_an_attempt_that_is_not_wanted_is_stopped_and_its_image_ignored() -> None:
    machine = submitted()
    placed(machine)
    machine.handle(life.PeerFailed(node_id=B), at(0.0))
    stop = life.StopAttempt(executor=B, task_id=TASK_ID, fence=nth(1))
    assert report(machine, AttemptStarted()) == [stop], "placement thinks about the next"
    placed(machine, attempt=2)
    assert report(machine, StepFinished(step=3, steps=3)) == [stop]
    assert record_of(machine).step == 0
    # What has ended by itself needs no stop.
    late = AttemptFinished(image=IMAGE, queue_s=0.5, compute_s=2.0)
    assert report(machine, late) == []
    assert report(machine, LOST) == []
    assert record_of(machine).attempt == 2
    # Nor may its image be taken for that of the attempt that counts.
    assert (
        machine.handle(life.ImageStored(task_id=TASK_ID, fence=nth(1), image_bytes=3), at(2.0))
        == []
    )


def test_a_placement_of_an_attempt_that_was_given_up_is_not_started() -> None:
    machine = submitted()
    placed(machine)
    report(machine, LOST)
    (ended,) = placed(machine, attempt=1)
    assert isinstance(ended, life.AttemptEnded)
    assert ended.reason == "not_wanted"
    assert machine.handle(life.PlacementImpossible(task_id=TASK_ID, fence=nth(1)), at(0.0)) == []
    assert isinstance(placed(machine, attempt=2)[-1], life.StartAttempt)


def test_no_node_is_asked_again_before_the_pause_is_over() -> None:
    machine = submitted()
    machine.handle(life.PlacementImpossible(task_id=TASK_ID, fence=nth(1)), at(1.0))
    assert machine.handle(life.ClockAdvanced(), at(1.24)) == []
    (place,) = machine.handle(life.ClockAdvanced(), at(1.25))
    assert isinstance(place, life.PlaceTask)


def test_a_recovered_task_is_taken_once_and_is_not_appended_again() -> None:
    machine = Lifecycle(LifecycleLimits(attempts_max=2), term=1)
    recovered = life.TasksRecovered(tasks=(task(),))
    told = machine.handle(recovered, at(0.0))
    assert [type(i) for i in told] == [life.PublishEvent, life.PlaceTask]
    # What a former life tried is not counted: as many attempts as ever follow.
    placed(machine)
    assert isinstance(report(machine, LOST)[-1], life.PlaceTask)
    assert record_of(machine).status is TaskStatus.QUEUED
    assert machine.handle(recovered, at(1.0)) == []
    assert machine.in_flight == 1


def test_a_task_tells_its_story_and_goes_nowhere_it_cannot() -> None:
    machine = submitted()
    placed(machine)
    report(machine, LOST)
    assert [line.event for line in machine.story(TASK_ID)] == [
        *("taken up", "accepted", "placed", LOST.code)
    ]
    machine.validate()
    fate = machine._live[TASK_ID]
    with pytest.raises(ImpossibleTransition, match="from PLACING to STORING"):
        fate.enter(Phase.STORING, at(3.0), "nobody drew it")
    fate.steps_done = 2
    with pytest.raises(AssertionError, match="more steps than were told"):
        machine.validate()


# What an executor may not do.


def test_a_report_counts_only_from_the_executor_that_was_chosen() -> None:
    machine = submitted()
    placed(machine)
    forged = life.AttemptReported(
        task_id=TASK_ID,
        fence=nth(1),
        executor=NodeId("a"),
        report=AttemptFinished(image=IMAGE, queue_s=0.0, compute_s=0.0),
    )
    assert machine.handle(forged, at(1.0)) == []
    record = machine.record(TASK_ID)
    assert record is not None
    assert (record.status, record.executor) == (TaskStatus.QUEUED, B)


def test_one_beginning_is_told_however_often_it_is_reported() -> None:
    machine = submitted()
    placed(machine)
    assert [type(i) for i in report(machine, AttemptStarted())] == [life.PublishEvent]
    assert report(machine, AttemptStarted()) == []


def held(machine: Lifecycle, *, until_s: float, attempt: int = 1) -> list[life.Instruction]:
    """B says every second that it lives, and nothing else; what follows when time has passed."""
    for second in range(int(until_s)):
        event = life.AttemptReported(
            task_id=TASK_ID,
            fence=nth(attempt),
            executor=B,
            report=AttemptHeartbeat(queue_position=0),
        )
        assert machine.handle(event, at(float(second))) == []
        assert machine.handle(life.ClockAdvanced(), at(float(second))) == []
    return machine.handle(life.ClockAdvanced(), at(until_s))


def test_heartbeats_alone_do_not_hold_a_task() -> None:
    machine = submitted()
    placed(machine)
    told = held(machine, until_s=120.0)
    assert [type(i) for i in told] == [life.StopAttempt, life.AttemptEnded, life.PlaceTask]
    (ended,) = (one for one in told if isinstance(one, life.AttemptEnded))
    assert ended.reason == "overdue"


def test_a_short_deadline_leaves_time_for_another_node() -> None:
    machine = submitted(deadline_unix_s=1020.0)
    placed(machine)
    assert isinstance(held(machine, until_s=10.0)[0], life.StopAttempt)


def test_where_no_other_node_draws_the_model_the_task_keeps_its_place() -> None:
    machine = submitted(deadline_unix_s=1020.0)
    placed(machine, others=False)
    assert held(machine, until_s=19.0) == []
    machine = submitted()
    placed(machine, others=False)
    assert isinstance(held(machine, until_s=120.0)[0], life.StopAttempt), "it may have lost it"


def test_the_last_attempt_and_this_nodes_own_are_left_to_the_deadline() -> None:
    machine = submitted()
    placed(machine)
    held(machine, until_s=120.0)
    placed(machine, attempt=2, now_s=120.0)
    kept = life.AttemptReported(
        task_id=TASK_ID, fence=nth(2), executor=B, report=AttemptHeartbeat(queue_position=0)
    )
    machine.handle(kept, at(500.0))
    assert machine.handle(life.ClockAdvanced(), at(500.0)) == []


@pytest.mark.parametrize(
    ("eta_s", "deadline_s", "patience_s"),
    [(1.0, None, 120.0), (60.0, None, 600.0), (1.0, 100.0, 50.0), (30.0, 100.0, 90.0)],
)
def test_patience_goes_by_what_was_expected_and_by_what_is_left(
    eta_s: float, deadline_s: float | None, patience_s: float
) -> None:
    assert LifecycleLimits().until_overdue_s(eta_s, deadline_s) == patience_s


def test_what_is_to_be_forgotten_is_no_longer_told_and_what_goes_on_is() -> None:
    machine = submitted()
    machine.handle(life.TasksForgotten(task_ids=(TASK_ID,), ended_before_unix_s=1e12), at(0.5))
    assert machine.record(TASK_ID) is not None, "it is not over"
    machine.handle(life.CancelRequested(task_id=TASK_ID), at(1.0))
    machine.handle(life.FinalRecorded(task_id=TASK_ID), at(1.0))
    machine.handle(life.TasksForgotten(ended_before_unix_s=1001.0), at(2.0))
    assert machine.record(TASK_ID) is not None, "it ended then"
    machine.handle(life.TasksForgotten(ended_before_unix_s=1001.5), at(2.0))
    assert machine.record(TASK_ID) is None
    machine.handle(life.TasksForgotten(task_ids=(TASK_ID,)), at(2.0))
    machine.validate()


def test_an_init_image_is_needed_until_the_task_is_over() -> None:
    machine = submitted(drawing=replace(DRAWING, init_image_sha256="ab"))
    assert machine.needs("ab")
    assert not machine.needs("cd")
    machine.handle(life.CancelRequested(task_id=TASK_ID), at(1.0))
    machine.handle(life.FinalRecorded(task_id=TASK_ID), at(1.0))
    assert not machine.needs("ab")
