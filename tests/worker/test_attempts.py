"""What a worker keeps of each drawing, and in which stage, by values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_node.domain import Drawing, Fence, TaskId, WorkModel
from edge_node.worker.attempts import FENCED_TASKS_MAX, Attempt, AttemptBook, preview_steps
from edge_node.worker.queue_order import Entry

MODEL = WorkModel(fixed_steps=2.0, unguided_ratio=0.5, reference_px=64)
DRAWING = Drawing(
    prompt="p", width_px=128, height_px=64, steps=8, guidance_scale=5.0, seed=1, model="m"
)


def attempt(number: int = 1, *, drawing: Drawing = DRAWING, **changes: Any) -> Attempt[str]:
    fields: dict[str, Any] = {
        "task_id": TaskId(f"a-{number}"),
        "fence": Fence(1, 1),
        "arrival": number,
        "drawing": drawing,
        "init_image": b"",
        "priority": 3,
        "submitted_s": 10.0,
        "deadline_s": None,
        "client": "",
        "work_model": MODEL,
        "unit_s": 0.5,
        "on_report": lambda _: None,
    }
    return Attempt(**{**fields, **changes})


def test_a_new_drawing_has_done_nothing() -> None:
    new = attempt(deadline_s=30.0)
    assert (new.started_s, new.begin_s, new.row) == (None, 0.0, None)
    assert (new.steps, new.steps_done, new.decoded, new.position) == (8, 0, False, 0)
    assert (new.turn, new.over, new.out_of_memory) == ((0, False), False, False)
    # Twice the reference's area.
    assert (new.size_cost, new.row_cost, new.work) == (2.0, 1.0, 20.0)
    assert new.entry == Entry(
        arrival=1,
        priority=3,
        size_px=(128, 64),
        asked_s=10.0,
        service_s=10.0,
        left_s=10.0,
        deadline_s=30.0,
        started=False,
    )


@pytest.mark.parametrize(("scale", "row_cost"), [(1.0, 0.5), (1.01, 1.0)])
def test_an_unguided_row_costs_less(scale: float, row_cost: float) -> None:
    assert attempt(drawing=replace(DRAWING, guidance_scale=scale)).row_cost == row_cost


def test_work_is_left_until_the_image_is_decoded() -> None:
    one = attempt(drawing=replace(DRAWING, guidance_scale=1.0))
    assert one.work_left == one.work == 12.0
    one.steps_done = 3
    assert one.work_left == 9.0
    one.recount(0.25)
    assert (one.entry.service_s, one.entry.left_s, one.entry.started) == (3.0, 2.25, False)
    one.started_s = 11.0
    one.recount(0.25)
    assert one.entry.started
    one.decoded = True
    assert one.work_left == 0.0


def test_a_deadline_that_is_now_is_over() -> None:
    assert not attempt().is_late(1e9)
    due = attempt(deadline_s=30.0)
    assert not due.is_late(29.9)
    assert due.is_late(30.0)


@pytest.mark.parametrize(
    ("steps", "previews", "after"),
    [(8, 0, ()), (8, 1, (4,)), (8, 3, (2, 4, 6)), (10, 2, (3, 6)), (3, 9, (1, 2)), (1, 5, ())],
)
def test_previews_are_spread_and_never_the_last_step(
    steps: int, previews: int, after: tuple[int, ...]
) -> None:
    assert sorted(preview_steps(steps=steps, previews=previews)) == list(after)
    drawing = replace(DRAWING, steps=steps, previews=previews)
    assert sorted(attempt(drawing=drawing).preview_steps) == list(after)


def book_of(*attempts: Attempt[str]) -> AttemptBook[str]:
    book: AttemptBook[str] = AttemptBook()
    for one in attempts:
        book.add(one)
    return book


def test_a_drawing_goes_through_the_stages() -> None:
    one, other = attempt(1), attempt(2)
    book = book_of(one, other)
    assert list(book.held()) == list(book.to_draw()) == [one, other]
    assert book.to_be_drawn(1) is one
    book.begin(one, now_s=12.0)
    assert (one.started_s, one.entry.started, other.entry.started) == (12.0, True, False)
    assert (book.waiting, book.begun) == ({2: other}, {1: one})
    assert book.to_be_drawn(1) is one
    assert list(book.held()) == [other, one]
    book.finish(one)
    assert (book.begun, book.finishing) == ({}, {1: one})
    assert list(book.held()) == [other, one]
    assert list(book.to_draw()) == [other]
    assert [book.find(number) for number in (1, 2, 3)] == [one, other, None]
    one.row = "row"
    book.release(one)
    assert (one.row, book.find(1), list(book.held())) == (None, None, [other])
    with pytest.raises(KeyError):
        book.to_be_drawn(1)


@pytest.mark.parametrize("stage", ["waiting", "begun", "finishing"])
def test_a_drawing_is_released_from_any_stage(stage: str) -> None:
    one = attempt()
    book = book_of(one)
    if stage != "waiting":
        book.begin(one, now_s=0.0)
    if stage == "finishing":
        book.finish(one)
    assert book.find(1) is one
    book.release(one)
    assert list(book.held()) == []
    book.release(one)


def test_what_nobody_wants_is_no_backlog_and_its_row_may_be_in_use() -> None:
    waits, drawn = attempt(1), attempt(2)
    book = book_of(waits, drawn)
    book.begin(drawn, now_s=0.0)
    assert book.backlog() == 40.0
    for one in (waits, drawn):
        book.end(one)
        assert one.over
    assert (list(book.held()), book.backlog()) == ([drawn], 0)
    assert book.attempts_of(drawn.task_id) == []


def test_attempts_of_a_task_are_those_still_wanted_in_every_stage() -> None:
    task_id = TaskId("a-1")
    drawings = [attempt(number, task_id=task_id) for number in (1, 2, 3)]
    book = book_of(*drawings, attempt(4))
    book.begin(drawings[1], now_s=0.0)
    book.begin(drawings[2], now_s=0.0)
    book.finish(drawings[2])
    assert book.attempts_of(task_id) == drawings
    book.end(drawings[1])
    assert book.attempts_of(task_id) == [drawings[0], drawings[2]]


def test_only_what_is_older_than_the_latest_seen_is_stale() -> None:
    book = book_of(attempt(1, fence=Fence(2, 2)))
    task_id = TaskId("a-1")
    fences = (Fence(1, 9), Fence(2, 1), Fence(2, 2), Fence(2, 3), Fence(3, 1))
    assert [book.is_stale(task_id, fence) for fence in fences] == [
        *(True, True, False, False, False),
    ]
    assert not book.is_stale(TaskId("a-2"), Fence(0, 0))


def test_fences_are_remembered_of_the_tasks_seen_last() -> None:
    assert FENCED_TASKS_MAX == 10_000
    book = book_of(attempt(0, fence=Fence(1, 5)), attempt(1, fence=Fence(1, 5)))
    book.add(attempt(0, fence=Fence(1, 6)))
    for number in range(2, FENCED_TASKS_MAX + 1):
        book._fences_seen[TaskId(f"a-{number}")] = Fence(1, 1)
    book._fences_seen.popitem(last=True)
    assert len(book._fences_seen) == FENCED_TASKS_MAX
    book.add(attempt(FENCED_TASKS_MAX + 1))
    assert len(book._fences_seen) == FENCED_TASKS_MAX
    # The first of all came again, so that the second was seen longest ago.
    assert book.is_stale(TaskId("a-0"), Fence(1, 1))
    assert not book.is_stale(TaskId("a-1"), Fence(1, 1))
