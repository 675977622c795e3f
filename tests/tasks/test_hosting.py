"""What peers are told of a node's queue, whatever happened to its attempts."""

from __future__ import annotations

import random

import pytest

from edge_node.domain import (
    AttemptFailed,
    AttemptHeartbeat,
    AttemptQueued,
    AttemptReport,
    AttemptStarted,
    Drawing,
    Fence,
    NodeId,
    Offload,
    StepFinished,
    TaskId,
)
from edge_node.places import PLACES_TOLD_MAX
from edge_node.tasks.hosting import (
    STORIES_MAX,
    DrawingReported,
    HeartbeatDue,
    Hosting,
    HostingLimits,
    OffloadCancelled,
    OffloadReceived,
    ReportAttempt,
    StartDrawing,
    StopDrawing,
)

STEPS = 4


def nth(attempt: int) -> Fence:
    return Fence(1, attempt)


def offload(
    number: int,
    *,
    attempt: int,
    work: float = 1.0,
    origin: str = "node-1",
    incarnation: int = 1,
    dispatch: int | None = None,
) -> Offload:
    return Offload(
        task_id=TaskId(f"task-{number}"),
        fence=nth(attempt),
        origin=NodeId(origin),
        incarnation=incarnation,
        dispatch=attempt if dispatch is None else dispatch,
        drawing=Drawing(
            prompt="a dog",
            width_px=256,
            height_px=256,
            steps=STEPS,
            guidance_scale=5.0,
            seed=number,
            model="m",
        ),
        work=work,
        client=f"client-{number % 3}",
    )


def test_the_backlog_is_the_work_that_is_left() -> None:
    hosting = Hosting(HostingLimits())
    for number in range(2):
        hosting.handle(OffloadReceived(offload=offload(number, attempt=1, work=10.0)))
    step = StepFinished(step=2, steps=STEPS)
    hosting.handle(DrawingReported(task_id=TaskId("task-0"), fence=nth(1), report=step))
    # Two of four steps and the decoding, which counts as a fifth.
    assert hosting.backlog == pytest.approx(10.0 * 3 / 5 + 10.0)
    assert (hosting.queued, hosting.running) == (1, 1)


@pytest.mark.parametrize("seed", range(20))
def test_sums_follow_every_history(seed: int) -> None:
    rng = random.Random(seed)
    hosting = Hosting(HostingLimits(hosted_max=6))
    # What is left of each, by a second and slower account.
    left: dict[int, tuple[int, float, int]] = {}
    for attempt in range(1, 300):
        number = rng.randrange(8)
        task_id, known = TaskId(f"task-{number}"), left.get(number)
        match rng.choice(("offload", "offload", "start", "step", "step", "end", "cancel")):
            case "offload":
                others = len(left) - (known is not None)
                work = rng.uniform(1.0, 100.0)
                hosting.handle(OffloadReceived(offload=offload(number, attempt=attempt, work=work)))
                left.pop(number, None)
                if others < 6:
                    left[number] = (attempt, work, -1)
            case "cancel" if known:
                hosting.handle(OffloadCancelled(task_id=task_id, fence=nth(known[0])))
                del left[number]
            case "start" | "step" | "end" as what if known:
                done = max(known[2], 0) if what == "start" else min(max(known[2], 0) + 1, STEPS)
                report: AttemptReport = AttemptStarted()
                if what == "step":
                    report = StepFinished(step=done, steps=STEPS)
                if what == "end":
                    report = AttemptFailed(code="internal", message="", retryable=True)
                    del left[number]
                else:
                    left[number] = (known[0], known[1], done)
                hosting.handle(DrawingReported(task_id=task_id, fence=nth(known[0]), report=report))
        expected = sum(work * (1 - max(done, 0) / (STEPS + 1)) for _, work, done in left.values())
        assert hosting.backlog == pytest.approx(expected, abs=1e-9)
        assert hosting.running == sum(done >= 0 for _, _, done in left.values())
        assert hosting.queued == len(left) - hosting.running
        assert hosting.clients == len({number % 3 for number in left})
        hosting.validate()
    for number, (attempt, *_) in left.items():
        hosting.handle(OffloadCancelled(task_id=TaskId(f"task-{number}"), fence=nth(attempt)))
    assert hosting.backlog == 0.0


def receive(hosting: Hosting, number: int, *, attempt: int = 1, **changes: object) -> list[object]:
    sent = offload(number, attempt=attempt, **changes)  # type: ignore[arg-type]
    return list(hosting.handle(OffloadReceived(offload=sent)))


def refusal_of(told: list[object]) -> str:
    (report,) = told
    assert isinstance(report, ReportAttempt)
    assert isinstance(report.report, AttemptFailed)
    assert report.report.retryable
    return report.report.code


def test_what_was_refused_was_seen_or_its_origin_would_count_it_for_ever() -> None:
    hosting = Hosting(HostingLimits(hosted_max=1))
    receive(hosting, 0, attempt=5, dispatch=7)
    assert hosting.dispatches_seen == {"node-1": (1, 7)}
    assert refusal_of(receive(hosting, 0, attempt=4, dispatch=8)) == "stale_attempt"
    assert hosting.dispatches_seen == {"node-1": (1, 8)}
    assert refusal_of(receive(hosting, 1, dispatch=9)) == "queue_full"
    assert hosting.dispatches_seen == {"node-1": (1, 9)}
    assert receive(hosting, 0, attempt=5, dispatch=10) == [], "the same message twice"
    assert hosting.dispatches_seen == {"node-1": (1, 10)}
    assert hosting.backlog == 1.0


def test_dispatches_that_arrive_late_take_nothing_back() -> None:
    hosting = Hosting(HostingLimits())
    receive(hosting, 0, dispatch=7)
    receive(hosting, 1, dispatch=6)
    assert hosting.dispatches_seen == {"node-1": (1, 7)}
    # The origin began anew, and numbers its dispatches from 1; what it sent before may still come.
    receive(hosting, 2, incarnation=2, dispatch=1)
    receive(hosting, 3, incarnation=1, dispatch=8)
    assert hosting.dispatches_seen == {"node-1": (2, 1)}
    receive(hosting, 4, origin="node-2", dispatch=3)
    assert hosting.dispatches_seen == {"node-1": (2, 1), "node-2": (1, 3)}


def test_what_is_read_is_a_copy() -> None:
    hosting = Hosting(HostingLimits())
    hosting.dispatches_seen[NodeId("node-1")] = (9, 9)
    assert hosting.dispatches_seen == {}


def test_heartbeats_tell_the_place_among_those_that_wait() -> None:
    hosting = Hosting(HostingLimits())
    for number in range(4):
        receive(hosting, number, origin=f"node-{number}")
    for number in (1, 3):
        task_id = TaskId(f"task-{number}")
        hosting.handle(DrawingReported(task_id=task_id, fence=nth(1), report=AttemptStarted()))
    told = [
        (report.origin, report.task_id, report.fence.attempt, report.report.queue_position)
        for report in hosting.handle(HeartbeatDue())
        if isinstance(report, ReportAttempt) and isinstance(report.report, AttemptHeartbeat)
    ]
    assert told == [
        ("node-0", "task-0", 1, 1),
        ("node-1", "task-1", 1, 0),
        ("node-2", "task-2", 1, 2),
        ("node-3", "task-3", 1, 0),
    ]


def test_heartbeats_repeat_the_workers_word_where_it_is_kept_up_to_date() -> None:
    """Who takes turns goes before those that came first, and every heartbeat said that he waits."""
    hosting = Hosting(HostingLimits())
    for number in range(30):
        receive(hosting, number)
    for number, place in ((29, 2), (0, 25), (20, 28)):
        report = AttemptQueued(position=place)
        task_id = TaskId(f"task-{number}")
        hosting.handle(DrawingReported(task_id=task_id, fence=nth(1), report=report))
    told = {
        str(report.task_id): report.report.queue_position
        for report in hosting.handle(HeartbeatDue())
        if isinstance(report, ReportAttempt) and isinstance(report.report, AttemptHeartbeat)
    }
    assert told["task-29"] == 2
    assert told["task-20"] == 21, "of a place so far behind nothing more is heard"
    assert told["task-0"] == PLACES_TOLD_MAX + 1, "it would have heard of any place before"


def test_a_later_attempt_takes_the_place_of_the_earlier_and_a_full_queue_keeps_neither() -> None:
    hosting = Hosting(HostingLimits(hosted_max=1))
    first = receive(hosting, 0, attempt=1, work=5.0)
    assert first == [
        StartDrawing(
            task_id=TaskId("task-0"),
            fence=nth(1),
            drawing=offload(0, attempt=1).drawing,
            priority=0,
            deadline_s=None,
            client="client-0",
        )
    ]
    stop, start = receive(hosting, 0, attempt=3, work=7.0)
    assert stop == StopDrawing(task_id=TaskId("task-0"), fence=nth(1))
    assert isinstance(start, StartDrawing)
    assert (start.fence.attempt, hosting.backlog) == (3, 7.0)
    assert refusal_of(receive(hosting, 0, attempt=2)) == "stale_attempt"
    assert hosting.is_hosted(TaskId("task-0"), nth(3))
    assert not hosting.is_hosted(TaskId("task-0"), nth(2))
    # Of a task that was refused no earlier attempt may come in either.
    assert refusal_of(receive(hosting, 1, attempt=2)) == "queue_full"
    stop = StopDrawing(task_id=TaskId("task-0"), fence=nth(3))
    assert hosting.handle(OffloadCancelled(task_id=TaskId("task-0"), fence=nth(3))) == [stop]
    assert refusal_of(receive(hosting, 1, attempt=1)) == "stale_attempt"
    assert isinstance(receive(hosting, 1, attempt=3)[0], StartDrawing)


def test_the_fence_remembers_the_tasks_seen_last() -> None:
    hosting = Hosting(HostingLimits(fences_remembered_max=2))
    for number in (0, 1, 0, 2):
        attempt = 1 + hosting.is_hosted(TaskId(f"task-{number}"), nth(1))
        receive(hosting, number, attempt=attempt)
    for number in range(3):
        for attempt in (1, 2):
            gone = OffloadCancelled(task_id=TaskId(f"task-{number}"), fence=nth(attempt))
            hosting.handle(gone)
    assert refusal_of(receive(hosting, 0, attempt=2)) == "stale_attempt"
    assert isinstance(receive(hosting, 1, attempt=1)[0], StartDrawing), "forgotten"


def test_a_cancel_of_another_attempt_and_a_report_of_another_change_nothing() -> None:
    hosting = Hosting(HostingLimits())
    receive(hosting, 0, attempt=2, work=3.0)
    changes = hosting.changes
    assert hosting.handle(OffloadCancelled(task_id=TaskId("task-0"), fence=nth(1))) == []
    failed = AttemptFailed(code="internal", message="", retryable=True)
    for attempt, report in ((1, failed), (3, AttemptStarted())):
        done = DrawingReported(task_id=TaskId("task-0"), fence=nth(attempt), report=report)
        assert hosting.handle(done) == []
    assert (hosting.backlog, hosting.running, hosting.changes) == (3.0, 0, changes)
    assert hosting.hosted() == ((TaskId("task-0"), nth(2)),)
    told = hosting.handle(DrawingReported(task_id=TaskId("task-0"), fence=nth(2), report=failed))
    assert told == [
        ReportAttempt(
            origin=NodeId("node-1"), task_id=TaskId("task-0"), fence=nth(2), report=failed
        )
    ]
    assert hosting.changes > changes, "peers are told"
    assert hosting.hosted() == ()


def test_the_story_of_a_task_is_told_and_bounded() -> None:
    hosting = Hosting(HostingLimits())
    receive(hosting, 0, attempt=2)
    step = DrawingReported(task_id=TaskId("task-0"), fence=nth(2), report=AttemptStarted())
    hosting.handle(step)
    hosting.handle(OffloadCancelled(task_id=TaskId("task-0"), fence=nth(2)))
    assert [line.event for line in hosting.story(TaskId("task-0"))] == [
        *("OffloadReceived", "AttemptStarted", "OffloadCancelled")
    ]
    for number in range(STORIES_MAX + 1):
        receive(hosting, number, attempt=3)
    assert hosting.story(TaskId("task-0")) == ()
    assert hosting.story(TaskId("task-1")), "as many as are kept"
    assert len(hosting.story(TaskId(f"task-{STORIES_MAX}"))) == 1


def test_invented_origins_push_each_other_out() -> None:
    hosting = Hosting(HostingLimits(hosted_max=1, origins_remembered_max=10))
    for number in range(3000):
        receive(hosting, number, origin=f"n{number}")
    assert len(hosting.dispatches_seen) == 10
