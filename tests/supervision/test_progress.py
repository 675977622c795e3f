"""A worker that is stuck is seen by either account of what it holds, and no other is."""

from __future__ import annotations

import pytest

from edge_node.domain import WorkerLoad
from edge_node.supervision.progress import Progress


def load(*, running: int = 0, queued: int = 0, steps_done: int = 7) -> WorkerLoad:
    return WorkerLoad(
        backlog=1.0,
        queued=queued,
        running=running,
        capacity=1.0,
        steps_done=steps_done,
        resident_bytes=0,
    )


def told(*said: tuple[WorkerLoad | None, int], every_s: float = 1.0) -> Progress:
    progress = Progress(began_s=0.0)
    for number, (said_load, given) in enumerate(said):
        progress.heard(said_load, given=given, now_s=number * every_s)
    return progress


@pytest.mark.parametrize(
    ("said", "given", "what"),
    [
        (load(running=1), 1, "it draws but has done no step"),
        (load(running=1), 0, "it draws but has done no step"),
        (load(queued=2), 2, "it lets 2 drawings wait and has drawn nothing"),
        (load(queued=2), 0, "it lets 2 drawings wait and has drawn nothing"),
        (load(), 3, "it has not known of the 3 drawings that it was given"),
    ],
)
def test_a_worker_that_does_not_get_on_is_stuck(said: WorkerLoad, given: int, what: str) -> None:
    progress = told((load(), 0), *[(said, given)] * 6)
    # It was idle at 0 s, and began to be busy at 1 s.
    assert progress.stuck(now_s=6.0, allowed_s=5.0) is None
    assert progress.stuck(now_s=6.1, allowed_s=5.0) == f"{what} for 5.1 s"


@pytest.mark.parametrize(
    "said",
    [
        [(load(), 0)] * 9,
        [(load(running=1, queued=5, steps_done=n // 3), 6) for n in range(9)],
        [(load(running=n // 3 % 2), n // 3 % 2) for n in range(9)],
        [(None, n) for n in range(9)],
    ],
    ids=["idle", "slow", "busy by turns", "still loading"],
)
def test_a_worker_that_gets_on_is_not_stuck(said: list[tuple[WorkerLoad | None, int]]) -> None:
    assert told(*said).stuck(now_s=9.5, allowed_s=5.0) is None


def test_others_drawings_that_come_and_go_hide_nothing() -> None:
    queues = [(load(running=1, queued=n % 4), n % 4) for n in range(9)]
    assert told(*queues).stuck(now_s=8.5, allowed_s=5.0) is not None


def test_a_step_or_a_quiet_moment_begins_it_anew() -> None:
    stuck = [(load(queued=1), 1)] * 4
    for between in ((load(queued=1, steps_done=8), 1), (load(), 0), (None, 0)):
        progress = told(*stuck, between, *[(load(queued=1, steps_done=8), 1)] * 2)
        assert progress.stuck(now_s=6.0, allowed_s=2.5) is None
        assert progress.stuck(now_s=8.0, allowed_s=2.5) is not None
