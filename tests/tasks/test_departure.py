"""A drawing that goes on elsewhere: asked for, handed over, or not in time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_node.attempt_codes import HANDED_OVER
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    NodeId,
    StepFinished,
    TaskEventKind,
)
from edge_node.moves import Move, WantedTask
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.departure import COST_S_ASSUMED, COST_S_MAX, MoveCost
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.lifecycle_limits import GIVEN_BACK_MAX, LifecycleLimits
from tests.tasks.test_checkpoints import DRAWING, checkpoint
from tests.tasks.test_lifecycle import IMAGE, TASK_ID, B, at, nth, placed, report, task

C = NodeId("c")
GOES = AttemptFailed(code=HANDED_OVER, message="m", retryable=True)
LIMITS = LifecycleLimits(attempts_max=2, lease_s=5.0, takeable=True, export_s=3.0)


def drawn(steps: int = 4, *, kept: bool = True, limits: LifecycleLimits = LIMITS) -> Lifecycle:
    """A task of nine steps of which B has done so many, and the last was sent."""
    machine = Lifecycle(limits, term=1)
    one = task(drawing=DRAWING, work=10.0)
    machine.handle(life.TasksSubmitted(tasks=(one,)), at(0.0))
    machine.handle(life.TasksAppended(task_ids=(TASK_ID,)), at(0.0))
    placed(machine)
    report(machine, AttemptStarted())
    for step in range(1, steps + 1):
        report(machine, StepFinished(step=step, steps=9, checkpoint=None))
    if kept and steps:
        report(machine, StepFinished(step=steps, steps=9, checkpoint=checkpoint(steps)))
    return machine


def asked(machine: Lifecycle, *, attempt: int = 1, **changes: Any) -> list[life.Instruction]:
    fields: dict[str, Any] = {"task_id": TASK_ID, "fence": nth(attempt), "taker": C}
    wanted = WantedTask(**(fields | {"reason": "idle", "gain_s": 7.5} | changes))
    return machine.handle(life.TakeRequested(wanted=wanted), at(1.0))


def goes_on_at(machine: Lifecycle, executor: NodeId, *, attempt: int = 2) -> list[Any]:
    made = life.PlacementMade(
        task_id=TASK_ID,
        fence=nth(attempt),
        executor=executor,
        incarnation=1,
        dispatch=1,
        policy="taken",
        eta_s=1.0,
    )
    return machine.handle(made, at(1.5))


def told_moves(machine: Lifecycle) -> list[Move]:
    return [event.move for event in machine.events(TASK_ID) or () if event.move]


def test_it_is_handed_over_and_goes_on_where_it_was_asked_for() -> None:
    machine = drawn()
    (hand_over,) = asked(machine)
    assert hand_over == life.HandOverAttempt(executor=B, task_id=TASK_ID, fence=nth(1))
    assert machine.goes_to(TASK_ID) == C
    # The step under way is done there.
    report(machine, StepFinished(step=5, steps=9, checkpoint=checkpoint(5)))
    ended, wanted = report(machine, GOES)
    assert isinstance(ended, life.AttemptEnded)
    assert isinstance(wanted, life.PlaceTask)
    assert (wanted.wanted_by, wanted.avoided, wanted.steps_left) == (C, {B}, 4)
    moved, placed_there, _, start = goes_on_at(machine, C)
    assert [one.event.kind for one in (moved, placed_there)] == ["moved", "placed"]
    assert told_moves(machine) == [Move(source=B, target=C, reason="idle", gain_s=7.5)]
    assert (start.offload.checkpoint.step, start.offload.moves_left) == (5, 2)
    assert machine.goes_to(TASK_ID) is None
    machine.validate()


def test_who_comes_second_is_told_no_and_so_is_who_is_late() -> None:
    machine = drawn()
    asked(machine)
    assert asked(machine, taker=NodeId("d")) == []
    assert machine.goes_to(TASK_ID) == C
    report(machine, GOES)
    assert asked(machine) == []  # of an attempt that is over
    goes_on_at(machine, C)
    assert asked(machine, attempt=1, taker=NodeId("d")) == []
    assert asked(machine, attempt=2, taker=C) == []  # it is there


@pytest.mark.parametrize("limits", [replace(LIMITS, takeable=False), replace(LIMITS, moves_max=0)])
def test_nothing_is_taken_where_the_operator_does_not_want_it(limits: LifecycleLimits) -> None:
    machine = drawn(limits=limits)
    assert asked(machine) == []
    assert machine.goes_to(TASK_ID) is None


def test_it_moves_so_often_and_stays_then() -> None:
    machine, there, moves = drawn(), B, 0
    for attempt in range(1, 9):
        taker = C if there == B else B
        if not asked(machine, attempt=attempt, taker=taker):
            break
        machine.handle(
            life.AttemptReported(task_id=TASK_ID, fence=nth(attempt), executor=there, report=GOES),
            at(1.0),
        )
        goes_on_at(machine, taker, attempt=attempt + 1)
        there, moves = taker, moves + 1
        machine.validate()
    assert moves == LIMITS.moves_max == len(told_moves(machine))


def test_an_executor_that_does_not_hand_over_is_not_waited_for() -> None:
    machine = drawn()
    asked(machine)
    assert machine.handle(life.ClockAdvanced(), at(3.9)) == []
    stop, ended, wanted = machine.handle(life.ClockAdvanced(), at(4.0))
    assert isinstance(stop, life.StopAttempt)
    assert isinstance(ended, life.AttemptEnded)
    assert isinstance(wanted, life.PlaceTask)
    assert (wanted.wanted_by, wanted.steps_left) == (C, 5)
    # What it says after all is of an attempt that is over.
    report(machine, StepFinished(step=6, steps=9, checkpoint=checkpoint(6)))
    assert machine.checkpoints.step(TASK_ID) == 4


def test_what_nothing_was_kept_of_stays_where_it_is() -> None:
    machine = drawn(kept=False)
    asked(machine)
    assert machine.handle(life.ClockAdvanced(), at(4.0)) == []
    assert machine.goes_to(TASK_ID) is None
    report(machine, AttemptFinished(image=IMAGE, queue_s=0.5, compute_s=2.0))
    assert told_moves(machine) == []
    machine.validate()


@pytest.mark.parametrize("end", ["finished", "lost", "cancelled", "lapsed"])
def test_a_drawing_may_end_while_it_is_to_leave(end: str) -> None:
    machine = drawn()
    asked(machine)
    match end:
        case "finished":
            told = report(machine, AttemptFinished(image=IMAGE, queue_s=0.5, compute_s=2.0))
            assert isinstance(told[-1], life.StoreImage)
        case "lost":
            told = machine.handle(life.PeerFailed(node_id=B), at(2.0))
            (wanted,) = [one for one in told if isinstance(one, life.PlaceTask)]
            assert (wanted.wanted_by, wanted.steps_left) == (None, 5)
            goes_on_at(machine, C)
            assert told_moves(machine) == []  # lost, and not moved
        case "cancelled":
            told = machine.handle(life.CancelRequested(task_id=TASK_ID), at(2.0))
            assert isinstance(told[0], life.StopAttempt)
        case "lapsed":
            told = machine.handle(life.ClockAdvanced(), at(6.5))
            assert isinstance(told[0], life.StopAttempt)
    machine.validate()


def test_a_taker_that_went_away_costs_nothing_but_the_way() -> None:
    machine = drawn()
    asked(machine)
    report(machine, GOES)
    goes_on_at(machine, B)  # placement found nobody else
    assert told_moves(machine) == []
    kinds = [event.kind for event in machine.events(TASK_ID) or ()]
    assert kinds[-1] is TaskEventKind.PLACED


def test_a_node_that_drains_moves_what_it_draws() -> None:
    machine = drawn()
    report(machine, GOES)
    goes_on_at(machine, C)
    moves = [Move(source=B, target=C, reason="draining")]
    assert told_moves(machine) == moves
    record = machine.record(TASK_ID)
    assert record is not None
    assert record.moves == tuple(moves)


def test_a_drawings_course_begins_anew_where_it_goes_on() -> None:
    machine = drawn()
    asked(machine)
    report(machine, GOES)
    goes_on_at(machine, C)
    for now_s, told in (
        (5.0, AttemptStarted(step=4)),
        (7.0, StepFinished(step=5, steps=9, checkpoint=None)),
    ):
        there = life.AttemptReported(task_id=TASK_ID, fence=nth(2), executor=C, report=told)
        machine.handle(there, at(now_s))
    course = machine.course(TASK_ID)
    assert (course.began_s, course.stepped_s) == (5.0, 7.0)
    assert (course.went_on_from, course.step) == (4, 5)


@pytest.mark.parametrize("moves_max", [0, 3])
def test_nodes_that_drain_in_turn_cost_a_task_neither_moves_nor_attempts(moves_max: int) -> None:
    machine, there = drawn(limits=replace(LIMITS, moves_max=moves_max)), B
    for attempt in range(1, GIVEN_BACK_MAX + 1):
        gone = life.AttemptReported(
            task_id=TASK_ID, fence=nth(attempt), executor=there, report=GOES
        )
        machine.handle(gone, at(1.0))
        there = C if there == B else B
        *_, start = goes_on_at(machine, there, attempt=attempt + 1)
        assert start.offload.moves_left == moves_max
        machine.validate()
    # From then on it is a failure of who gives it back.
    gone = life.AttemptReported(
        task_id=TASK_ID, fence=nth(GIVEN_BACK_MAX + 1), executor=there, report=GOES
    )
    (ended, _) = machine.handle(gone, at(1.0))
    assert isinstance(ended, life.AttemptEnded)
    assert machine.goes_to(TASK_ID) is None
    assert machine._live[TASK_ID].failed_on == [there]


def test_what_moving_takes_is_measured_of_drawings_that_went_on() -> None:
    machine = drawn()
    asked(machine)
    report(machine, GOES)
    goes_on_at(machine, C)
    started = life.AttemptReported(
        task_id=TASK_ID, fence=nth(2), executor=C, report=AttemptStarted(step=4)
    )
    machine.handle(started, at(1.6))
    assert machine.move_cost.seconds == pytest.approx(0.9 * COST_S_ASSUMED + 0.1 * 0.6)
    cost = MoveCost()
    for _ in range(200):
        cost.measured(1e9)
    assert cost.seconds == pytest.approx(COST_S_MAX)
