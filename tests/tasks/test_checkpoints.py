"""Which checkpoint the origin keeps, what the next attempt is spared, and what clients see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_node.attempt_codes import HANDED_OVER
from edge_node.checkpoint import Checkpoint, Latents
from edge_node.domain import (
    AttemptFailed,
    AttemptStarted,
    Fence,
    NodeId,
    Offload,
    StepFinished,
    TaskEventKind,
    TaskId,
    TaskStatus,
)
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.checkpoints import Checkpoints, steps_between
from edge_node.tasks.hosting import (
    DrawingReported,
    HandOverDrawing,
    HandOverDue,
    Hosting,
    HostingLimits,
    OffloadReceived,
    ReportAttempt,
    StopDrawing,
)
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.lifecycle_limits import GIVEN_BACK_MAX
from tests.tasks.test_lifecycle import TASK_ID, B, at, nth, placed, report, submitted, task

DRAWING = replace(task().drawing, steps=9)
LOST = AttemptFailed(code="peer_failed", message="m", retryable=True)
GOES = AttemptFailed(code=HANDED_OVER, message="m", retryable=True)


def checkpoint(step: int, *, size: int = 100, **changes: Any) -> Checkpoint:
    latents = Latents(dtype="float16", shape_CHW=(1, 1, size // 2), latent=bytes(size))
    one = Checkpoint(drawing_sha256=DRAWING.sha256, fingerprint="f", step=step, latents=latents)
    return replace(one, **changes)


def drawn(steps: int, *, kept: int) -> Lifecycle:
    """A task of nine steps of which so many were done, and a checkpoint kept of."""
    machine = submitted(drawing=DRAWING, work=10.0)
    placed(machine)
    report(machine, AttemptStarted())
    for step in range(1, steps + 1):
        sent = checkpoint(step) if step == kept else None
        report(machine, StepFinished(step=step, steps=9, checkpoint=sent))
    return machine


def test_the_next_attempt_goes_on_where_the_last_checkpoint_was() -> None:
    machine = drawn(6, kept=4)
    (wanted,) = [one for one in report(machine, LOST) if isinstance(one, life.PlaceTask)]
    # Five of nine steps, and the decoding.
    assert wanted.steps_left == 5
    assert wanted.task.work == pytest.approx(10.0 * 6 / 10)
    (start,) = [one for one in placed(machine, attempt=2) if isinstance(one, life.StartAttempt)]
    assert start.offload.checkpoint == checkpoint(4)
    assert start.offload.work == 10.0
    machine.validate()


def test_a_client_sees_no_steps_go_back() -> None:
    machine = drawn(6, kept=4)
    report(machine, LOST)
    record = machine.record(TASK_ID)
    assert record is not None
    assert (record.status, record.step) == (TaskStatus.QUEUED, 6)
    placed(machine, attempt=2)
    report(machine, AttemptStarted(step=4), attempt=2)
    for step in range(5, 10):
        report(machine, StepFinished(step=step, steps=9), attempt=2)
    events = machine.events(TASK_ID)
    assert events is not None
    assert [one.step for one in events] == sorted(one.step for one in events)
    told = [one.step for one in events if one.kind is TaskEventKind.STEP]
    assert told == list(range(1, 10))
    counts = machine.checkpoints
    assert (counts.steps_resumed, counts.steps_again) == (4, 2)


def test_an_executor_that_begins_anew_draws_again_and_that_is_counted() -> None:
    machine = drawn(6, kept=4)
    report(machine, LOST)
    placed(machine, attempt=2)
    report(machine, AttemptStarted(), attempt=2)
    report(machine, StepFinished(step=3, steps=9), attempt=2)
    assert (machine.checkpoints.steps_resumed, machine.checkpoints.steps_again) == (0, 3)
    report(machine, StepFinished(step=8, steps=9), attempt=2)
    assert machine.checkpoints.steps_again == 6
    machine.validate()


@pytest.mark.parametrize(
    ("attempt", "sent"),
    [
        (1, checkpoint(7)),
        (2, checkpoint(7, drawing_sha256="another")),
        (2, checkpoint(9)),
        (2, checkpoint(3)),
    ],
    ids=["of an old attempt", "of another drawing", "with no step left", "older"],
)
def test_what_is_not_the_newest_of_this_attempt_and_drawing_is_refused(
    attempt: int, sent: Checkpoint
) -> None:
    machine = drawn(6, kept=4)
    report(machine, LOST)
    placed(machine, attempt=2)
    step = StepFinished(step=max(sent.step, 7), steps=9, checkpoint=sent)
    report(machine, step, attempt=attempt)
    assert machine.checkpoints.of(TASK_ID) == checkpoint(4)


def test_a_checkpoint_that_a_device_fails_of_is_not_tried_again() -> None:
    machine = drawn(6, kept=4)
    failed = AttemptFailed(code="draw_failed", message="m", retryable=True)
    (wanted,) = [one for one in report(machine, failed) if isinstance(one, life.PlaceTask)]
    assert wanted.steps_left == 9
    assert machine.checkpoints.kept_bytes == 0


def test_what_is_over_keeps_no_checkpoint() -> None:
    machine = drawn(6, kept=4)
    machine.handle(life.CancelRequested(task_id=TASK_ID), at(2.0))
    machine.handle(life.FinalRecorded(task_id=TASK_ID), at(2.0))
    assert machine.checkpoints.kept_bytes == 0
    machine.validate()


def test_being_handed_over_is_no_failure_for_a_while() -> None:
    machine, times = drawn(6, kept=6), GIVEN_BACK_MAX
    for attempt in range(1, times + 1):
        told = report(machine, GOES, attempt=attempt)
        (wanted,) = [one for one in told if isinstance(one, life.PlaceTask)]
        assert wanted.avoided == {B}
        placed(machine, attempt=attempt + 1)
    record = machine.record(TASK_ID)
    assert record is not None
    assert (record.status, record.step) == (TaskStatus.QUEUED, 6)
    # Two attempts are allowed, and only now one of them has failed.
    report(machine, GOES, attempt=times + 1)
    placed(machine, attempt=times + 2)
    report(machine, LOST, attempt=times + 2)
    record = machine.record(TASK_ID)
    assert record is not None
    assert record.error is not None
    assert record.error.code == "attempts_exhausted"


def test_what_is_kept_is_bounded_and_the_one_renewed_longest_ago_goes() -> None:
    kept = Checkpoints(bytes_max=250)
    one, two, three = (replace(task(drawing=DRAWING), id=TaskId(f"a-{n}")) for n in range(3))
    for each, step in ((one, 2), (two, 2), (one, 3), (three, 2)):
        kept.keep(each, checkpoint(step))
    assert kept.task_ids() == (one.id, three.id)
    assert (kept.kept_bytes, kept.bytes_taken) == (200, 400)
    kept.keep(one, checkpoint(4, latents=checkpoint(4, size=300).latents))
    assert kept.of(one.id) is None  # nor the one before it, which is of no more use than none
    assert kept.kept_bytes == 100


def test_a_hosted_attempt_counts_the_work_that_is_left() -> None:
    hosting = Hosting(HostingLimits())
    offload = Offload(
        task_id=TASK_ID,
        fence=nth(2),
        origin=B,
        incarnation=1,
        dispatch=1,
        drawing=DRAWING,
        work=10.0,
        checkpoint=checkpoint(4),
        checkpoint_steps=3,
    )
    (start,) = hosting.handle(OffloadReceived(offload=offload))
    assert (start.checkpoint, start.checkpoint_steps) == (checkpoint(4), 3)  # type: ignore[union-attr]
    assert hosting.backlog == pytest.approx(6.0)
    refused = DrawingReported(task_id=TASK_ID, fence=nth(2), report=AttemptStarted())
    hosting.handle(refused)
    assert hosting.backlog == pytest.approx(10.0)
    hosting.validate()


def test_an_attempt_for_whose_checkpoint_there_is_no_room_begins_anew() -> None:
    hosting = Hosting(HostingLimits(checkpoint_bytes_max=150))
    starts: list[Any] = []
    for number in range(2):
        offload = Offload(
            task_id=TaskId(f"a-{number}"),
            fence=nth(2),
            origin=B,
            incarnation=1,
            dispatch=1 + number,
            drawing=DRAWING,
            work=10.0,
            checkpoint=checkpoint(4),
        )
        starts += hosting.handle(OffloadReceived(offload=offload))
    assert [start.checkpoint for start in starts] == [checkpoint(4), None]
    assert hosting.backlog == pytest.approx(6.0 + 10.0)


OWN = NodeId("own")


def hosting_of(**changes: Any) -> Hosting:
    """One attempt that is drawn for B, or as `changes` say."""
    fields: dict[str, Any] = {
        **{"task_id": TASK_ID, "fence": nth(2), "origin": B, "incarnation": 1, "dispatch": 1},
        **{"drawing": DRAWING, "work": 10.0, "checkpoint_steps": 3},
    }
    hosting = Hosting(HostingLimits())
    hosting.handle(OffloadReceived(offload=Offload(**(fields | changes))))
    return hosting


DRAWN = frozenset({DRAWING.model})


def begun(hosting: Hosting, fence: Fence) -> Hosting:
    hosting.handle(DrawingReported(task_id=TASK_ID, fence=fence, report=AttemptStarted()))
    return hosting


def test_what_waits_for_another_goes_back_when_this_node_stops() -> None:
    hosting = hosting_of()
    stop, told = hosting.handle(HandOverDue(own=OWN, portable=False, models=DRAWN))
    assert stop == StopDrawing(task_id=TASK_ID, fence=nth(2))
    assert isinstance(told, ReportAttempt)
    assert isinstance(told.report, AttemptFailed)
    assert (told.origin, told.report.code) == (B, HANDED_OVER)
    assert hosting.backlog == 0.0


def test_what_is_drawn_for_another_is_handed_over_once() -> None:
    hosting = begun(hosting_of(), nth(2))
    due = HandOverDue(own=OWN, portable=True, models=DRAWN)
    assert hosting.handle(due) == [HandOverDrawing(task_id=TASK_ID, fence=nth(2))]
    assert hosting.handle(due) == []
    assert hosting.is_hosted(TASK_ID, nth(2))  # until the worker has said so


@pytest.mark.parametrize(
    ("changes", "portable"),
    [({"origin": OWN}, True), ({"checkpoint_steps": 0}, True), ({}, False)],
    ids=["its own", "nobody keeps it", "an old worker"],
)
def test_what_nobody_could_go_on_with_is_drawn_here(
    changes: dict[str, Any], portable: bool
) -> None:
    hosting = begun(hosting_of(**changes), nth(2))
    assert hosting.handle(HandOverDue(own=OWN, portable=portable, models=DRAWN)) == []


@pytest.mark.parametrize("waits", [True, False])
def test_what_nobody_else_draws_is_drawn_here(waits: bool) -> None:
    hosting = hosting_of() if waits else begun(hosting_of(), nth(2))
    due = HandOverDue(own=OWN, portable=True, models=frozenset({"another"}))
    assert hosting.handle(due) == []


def test_an_origin_of_the_former_version_is_given_nothing_back() -> None:
    hosting = hosting_of(fence=Fence(0, 2))
    assert hosting.handle(HandOverDue(own=OWN, portable=True, models=DRAWN)) == []


@pytest.mark.parametrize(
    ("wanted", "step_s", "bits_s", "expected"),
    [
        (3, 0.01, 1e6, 3),
        (0, 1.0, None, 0),
        (20, 1.0, None, 0),
        (None, 0.28, None, 1),
        (None, 0.28, 1e9, 1),
        # 512 x 512 pixels are 2.1 Mbit; over 100 Mbit/s they take 21 ms, 2 % of 1.05 s.
        (None, 0.28, 1e8, 4),
        # Two milliseconds are 1 % of 200.
        (None, 0.05, None, 4),
        (None, 0.001, None, 0),
        (None, 0.28, 1e6, 0),
        (None, 0.0, None, 0),
    ],
)
def test_checkpoints_are_as_frequent_as_they_are_cheap(
    wanted: int | None, step_s: float, bits_s: float | None, expected: int
) -> None:
    drawing = replace(DRAWING, width_px=512, height_px=512, steps=20)
    found = steps_between(wanted, drawing=drawing, step_s=step_s, throughput_bits_s=bits_s)
    assert found == expected
