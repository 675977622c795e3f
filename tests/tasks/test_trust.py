"""What a peer claims against what its work has shown."""

from __future__ import annotations

import pytest

from edge_node.tasks.trust import (
    BELIEVED_MIN,
    BESIDE_S,
    FORGET_S,
    OUTCOMES_MIN,
    TOLERANCE,
    ShownService,
)


def drawn(
    shown: ShownService, *, rate: float, count: int = OUTCOMES_MIN, work: float = 20.0
) -> None:
    for number in range(count):
        shown.drawn(work_ahead=work, seconds=work / rate + BESIDE_S, now_s=float(number))


def test_an_honest_peer_is_believed_before_and_after_it_has_drawn() -> None:
    shown = ShownService()
    assert shown.believed(8.0, known=2.0) == 8.0
    drawn(shown, rate=8.0)
    assert shown.capacity == pytest.approx(8.0)
    assert shown.believed(8.0, known=0.1) == 8.0


def test_a_newcomer_is_believed_a_few_times_what_is_known_of_others() -> None:
    assert ShownService().believed(1e9, known=2.0) == TOLERANCE * 2.0
    assert ShownService().believed(1e9, known=0.0) == 1e9  # nobody to compare it with


def test_a_liar_is_believed_a_few_times_what_it_does() -> None:
    shown = ShownService()
    drawn(shown, rate=2.0)
    assert shown.believed(1e9, known=1000.0) == pytest.approx(TOLERANCE * 2.0)


def test_who_holds_tasks_in_vain_is_believed_less_and_less() -> None:
    shown = ShownService()
    for second in range(OUTCOMES_MIN):
        shown.held_in_vain(seconds=60.0, now_s=float(second))
    # So that it comes last, and still has tasks that no other node can draw.
    assert shown.believed(1e9, known=2.0) == BELIEVED_MIN
    shown.time_passed(FORGET_S)
    assert shown.capacity == 0.0
    shown.time_passed(FORGET_S + OUTCOMES_MIN)
    assert shown.capacity is None  # it may have been mended


def test_a_peer_that_became_slow_is_found_out() -> None:
    shown = ShownService()
    drawn(shown, rate=8.0, count=20)
    drawn(shown, rate=0.5, count=20)
    assert shown.believed(8.0, known=8.0) == pytest.approx(TOLERANCE * 0.5, rel=0.2)


def test_tasks_that_are_over_at_once_say_nothing_against_a_claim() -> None:
    shown = ShownService()
    for second in range(10):
        shown.drawn(work_ahead=0.1, seconds=BESIDE_S, now_s=float(second))
    assert shown.believed(50.0, known=1.0) == 50.0
