"""What peers are told of a node's queue, whatever happened to its attempts."""

from __future__ import annotations

import random

import pytest

from edge_node.domain import (
    AttemptFailed,
    AttemptReport,
    AttemptStarted,
    Drawing,
    NodeId,
    Offload,
    StepFinished,
    TaskId,
)
from edge_node.tasks.hosting import (
    DrawingReported,
    Hosting,
    HostingLimits,
    OffloadCancelled,
    OffloadReceived,
)

STEPS = 4


def offload(number: int, *, attempt: int, work: float) -> Offload:
    return Offload(
        task_id=TaskId(f"task-{number}"),
        attempt=attempt,
        origin=NodeId("node-1"),
        incarnation=1,
        dispatch=attempt,
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
    )


def test_the_backlog_is_the_work_that_is_left() -> None:
    hosting = Hosting(HostingLimits())
    for number in range(2):
        hosting.handle(OffloadReceived(offload=offload(number, attempt=1, work=10.0)))
    step = StepFinished(step=2, steps=STEPS)
    hosting.handle(DrawingReported(task_id=TaskId("task-0"), attempt=1, report=step))
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
                hosting.handle(OffloadCancelled(task_id=task_id, attempt=known[0]))
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
                hosting.handle(DrawingReported(task_id=task_id, attempt=known[0], report=report))
        expected = sum(work * (1 - max(done, 0) / (STEPS + 1)) for _, work, done in left.values())
        assert hosting.backlog == pytest.approx(expected, abs=1e-9)
        assert hosting.running == sum(done >= 0 for _, _, done in left.values())
        assert hosting.queued == len(left) - hosting.running
        hosting.validate()
    for number, (attempt, *_) in left.items():
        hosting.handle(OffloadCancelled(task_id=TaskId(f"task-{number}"), attempt=attempt))
    assert hosting.backlog == 0.0
