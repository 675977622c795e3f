"""When a task's image is expected: hand-worked cases, and what holds in all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from edge_node.domain import NodeId, TaskRecord, TaskStatus
from edge_node.tasks.expectation import MOMENT_S, NOT_PLACED, Course, Queue, expected_s
from tests.store.records import task

# Ten steps, 12.5 work units.
QUEUED = TaskRecord(task=task(1), executor=NodeId("orin-b"), eta_s=8.0)
DRAWN = replace(QUEUED, status=TaskStatus.IN_PROGRESS)
QUEUE = Queue(backlog=45.0, capacity=5.0, queued=4, running=1)
PLACED = Course(due_s=108.0)


def expected(record: TaskRecord, course: Course = PLACED, *, now_s: float, **more: Any) -> float:
    given: dict[str, Any] = {"queue": QUEUE, "fixed_steps": 2.0, **more}
    return expected_s(record, course, now_s=now_s, **given)


def test_until_a_place_is_told_what_was_expected_at_its_placement_runs_down() -> None:
    assert expected(QUEUED, now_s=100.0) == 8.0
    assert expected(QUEUED, now_s=106.5) == 1.5
    assert expected(QUEUED, now_s=300.0) == MOMENT_S
    third = replace(QUEUED, queue_position=3)
    assert expected(third, now_s=106.5, queue=None) == 1.5


def test_who_waits_is_behind_those_before_him_and_half_of_what_is_drawn() -> None:
    # 45 units are 4.5 tasks: ten each. Two and a half are ahead, then its own, at five a second.
    assert expected(replace(QUEUED, queue_position=3), now_s=500.0) == (25.0 + 12.5) / 5.0
    assert expected(replace(QUEUED, queue_position=1), now_s=500.0) == (5.0 + 12.5) / 5.0
    # A place beyond what the state says: the state is older.
    last = replace(QUEUED, queue_position=9)
    assert expected(last, now_s=0.0) == pytest.approx((8.5 * 45.0 / 9.5 + 12.5) / 5.0)
    # The same place in a queue that has grown slower, or longer tasks.
    slow = replace(QUEUE, capacity=2.5)
    assert expected(replace(QUEUED, queue_position=3), now_s=0.0, queue=slow) == 15.0


def test_what_is_drawn_goes_on_at_the_pace_of_its_own_steps() -> None:
    course = Course(due_s=1.0, began_s=200.0, stepped_s=204.0, step=4)
    fourth = replace(DRAWN, step=4)
    # A second a step; six are left, and decoding, which costs as much as one.
    assert expected(fourth, course, now_s=204.0) == 7.0
    assert expected(fourth, course, now_s=204.75) == 6.25
    last = replace(DRAWN, step=10)
    done = course._replace(stepped_s=210.0, step=10)
    assert expected(last, done, now_s=210.5) == 0.5
    assert expected(last, done, now_s=290.0) == MOMENT_S


def test_what_goes_on_elsewhere_is_expected_at_the_pace_of_the_steps_that_are_done_there() -> None:
    # Another device had done six; here two took three seconds, and two are left, and decoding.
    eighth = replace(DRAWN, step=8)
    moved = Course(due_s=1.0, began_s=200.0, stepped_s=203.0, went_on_from=6, step=8)
    assert expected(eighth, moved, now_s=203.0) == 1.5 * (2 + 1)
    # What clients were told is more than this attempt has done: its checkpoint was older.
    assert expected(eighth, moved._replace(went_on_from=4, step=6), now_s=203.0) == 1.5 * (4 + 1)
    # Before its first step here, and before its turn: five of eleven parts of its work are left.
    begun = Course(due_s=150.0, began_s=100.0, went_on_from=6, step=6)
    left_s = 12.5 * 5 / 11 / 5.0
    assert expected(replace(DRAWN, step=6), begun, now_s=100.5) == pytest.approx(left_s - 0.5)
    waits = replace(QUEUED, step=6, queue_position=1)
    assert expected(waits, begun, now_s=0.0) == pytest.approx(1.0 + left_s)


def test_before_its_first_step_the_executors_capacity_counts() -> None:
    began = Course(due_s=150.0, began_s=100.0)
    assert expected(DRAWN, began, now_s=101.0) == 1.5
    assert expected(DRAWN, began, now_s=101.0, queue=None) == 49.0
    # Several steps at once, told as the last of them, before the clock has moved.
    at_once = Course(due_s=150.0, began_s=100.0, stepped_s=100.0)
    assert expected(replace(DRAWN, step=2), at_once, now_s=101.0) == pytest.approx(49.0 - 47.5)


def test_what_nobody_has_is_expected_as_it_was_and_what_is_over_is_not() -> None:
    nowhere = replace(QUEUED, executor=None)
    assert expected(nowhere, NOT_PLACED, now_s=1e6, queue=None) == 8.0
    assert expected(replace(nowhere, eta_s=0.0), NOT_PLACED, now_s=1e6) == MOMENT_S
    over = replace(DRAWN, status=TaskStatus.COMPLETED, finished_unix_s=5.0)
    assert expected(over, now_s=0.0) == 0.0


def test_it_is_always_a_number() -> None:
    for record in (QUEUED, replace(QUEUED, queue_position=2), DRAWN, replace(DRAWN, step=3)):
        for course in (PLACED, Course(due_s=1.0, began_s=5.0), Course(1.0, 5.0, 6.0)):
            for queue in (None, replace(QUEUE, backlog=0.0, queued=0, running=0)):
                told = expected(record, course, now_s=7.0, queue=queue)
                assert MOMENT_S <= told < math.inf
