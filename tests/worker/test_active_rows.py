"""Whose rows take turns, and when that is looked at again, by values."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from edge_node.worker.active_rows import (
    CAPACITY_DRIFT,
    ENCODING_MAX,
    RECOUNT_INTERVAL_S,
    ActiveRows,
)
from edge_node.worker.attempts import Attempt, AttemptBook
from edge_node.worker.queue_order import Order
from tests.worker.test_pure_parts import CALIBRATION, attempt_of, held, rows_of


def turn_of(rows: ActiveRows[str]) -> list[int]:
    return [attempt.arrival for attempt in rows.in_turn()]


def test_a_step_counts_and_is_seen_by_the_order() -> None:
    one, other = attempt_of(1), attempt_of(2)
    rows = rows_of(held(one, other))
    rows.choose(20.0)
    assert one.turn == other.turn == (0, False)
    one.out_of_memory = True
    rows.record_step([one], measured_s=0.1)
    assert (one.steps_done, one.turn, one.out_of_memory) == (1, (1, True), False)
    assert one.entry.left_s == pytest.approx(one.work_left * rows.unit_s)
    assert one.entry.left_s < one.entry.service_s
    assert (other.steps_done, other.turn) == (0, (0, False))
    rows.record_step([one, other], measured_s=0.14)
    assert (one.turn, other.turn) == ((2, True), (2, True))


def test_of_two_sizes_the_one_that_waited_longer_steps() -> None:
    small, large = attempt_of(1), attempt_of(2, width_px=128)
    rows = rows_of(held(small, large))
    rows.choose(20.0)
    assert turn_of(rows) == [1]
    rows.record_step([small], measured_s=0.1)
    assert turn_of(rows) == [2]
    rows.record_step([large], measured_s=0.2)
    assert turn_of(rows) == [1]
    # One that joins has waited since the step before.
    assert rows._batches == 2
    small.over = True
    assert turn_of(rows) == [2]
    large.over = True
    assert turn_of(rows) == []


def test_who_joins_waits_from_then_on_and_who_stays_keeps_its_turn() -> None:
    one, other = attempt_of(1), attempt_of(2)
    book = held(one)
    rows = rows_of(book)
    rows.choose(20.0)
    rows.record_step([one], measured_s=0.1)
    book.add(other)
    rows.choose(20.0)
    assert (one.turn, other.turn) == ((1, True), (1, False))
    assert turn_of(rows) == [1, 2]


def test_nothing_begins_while_too_many_images_are_encoded() -> None:
    assert (ENCODING_MAX, CAPACITY_DRIFT) == (4, 0.02)
    encoded = [attempt_of(number) for number in range(4)]
    begun, waiting = attempt_of(8), attempt_of(9)
    book = held(*encoded, begun)
    book.add(waiting)
    rows = rows_of(book)
    for attempt in encoded[:3]:
        book.finish(attempt)
    book.release(encoded[3])
    rows.choose(20.0)
    assert turn_of(rows) == [8, 9]
    book.finishing[99] = encoded[3]
    rows.choose(20.0)
    assert turn_of(rows) == [8], "what has begun goes on"


def test_who_has_begun_may_hold_a_latent_beside_the_active() -> None:
    book = held(*(attempt_of(number) for number in range(3)))
    book.add(attempt_of(3))
    rows = ActiveRows(
        book,
        order=Order(discipline="srpt"),
        calibration=CALIBRATION,
        parked_max=1,
        floor_bytes=0,
        available_bytes=lambda: 0,
    )
    assert CALIBRATION.rows_max == 2
    short = attempt_of(4, steps=1)
    book.add(short)
    rows.choose(20.0)
    assert turn_of(rows) == [0, 1], "three latents are held: none begins before one is free"
    book.release(book.begun[0])
    rows.choose(20.0)
    assert sorted(turn_of(rows)) == [1, 4]


def test_ages_are_held_against_the_longest_wait_lately() -> None:
    long, short = attempt_of(1, steps=30), attempt_of(6, steps=2)
    book: AttemptBook[str] = AttemptBook()
    rows = ActiveRows(
        book,
        order=Order(discipline="srpt", promotion_load=2.0),
        calibration=replace(CALIBRATION, rows_max=1),
        parked_max=8,
        floor_bytes=0,
        available_bytes=lambda: 0,
    )
    for attempt in (long, short):
        attempt.recount(rows.unit_s)
    rows.arriving(1.0)
    assert rows.order == Order(discipline="srpt", promotion=(0.0, 1.0)), "nobody had to wait"
    book.add(long)
    rows.arriving(6.0)
    book.add(short)
    wait_s = long.entry.left_s
    assert rows.order == Order(discipline="srpt", promotion=(2.0 * wait_s, 1.0))
    due_s = 1.0 + 2.0 * wait_s + long.entry.service_s
    rows.choose(due_s - 0.01)
    assert turn_of(rows) == [6]
    assert rows.choose_again_s == pytest.approx(due_s)
    rows.choose(due_s)
    assert turn_of(rows) == [1]
    # Both are over or done: what was lived through is forgotten at 1 s in 20.
    book.end(short)
    book.release(long)
    rows.arriving(26.0)
    assert rows.order.promotion == (pytest.approx(2.0 * (wait_s - 1.0)), 1.0)


def test_rows_that_share_the_device_make_a_wait_shorter() -> None:
    book = held(attempt_of(1), attempt_of(2))
    rows = ActiveRows(
        book,
        order=Order(discipline="sjf", promotion_load=1.0),
        calibration=CALIBRATION,
        parked_max=8,
        floor_bytes=0,
        available_bytes=lambda: 0,
    )
    rows.arriving(3.0)
    # Two rows of .14 s a step share each step: what both have left takes as long as one's.
    assert rows.order.promotion == (pytest.approx(book.begun[1].entry.left_s), 1.0)


def test_it_looks_again_when_something_may_have_changed() -> None:
    one = attempt_of(1)
    rows = rows_of(held(one))
    assert rows.choose_again_s == -math.inf
    rows.choose(20.0)
    assert rows.choose_again_s == math.inf
    one.entry = replace(one.entry, deadline_s=50.0)
    rows.choose(20.0)
    assert 20.0 < rows.choose_again_s < 50.0
    rows.record_step([one], measured_s=0.1)
    assert rows.choose_again_s > 20.0, "one more step changes nothing"
    rows.shed([one])
    assert rows.choose_again_s == -math.inf


def test_short_of_memory_it_looks_again_at_once() -> None:
    batch = [attempt_of(number) for number in range(2)]
    rows = rows_of(held(*batch), available_bytes=99, row_bytes=100)
    rows.choose(20.0)
    assert turn_of(rows) == [0]
    assert rows.choose_again_s == -math.inf


def test_rows_that_hold_their_memory_already_need_no_more() -> None:
    batch = [attempt_of(number) for number in range(2)]
    rows = rows_of(held(*batch), available_bytes=200, row_bytes=100)
    rows.choose(20.0)
    assert turn_of(rows) == [0, 1]
    asked: list[int] = []
    rows._available_bytes = lambda: asked.append(1) or 0  # type: ignore[func-returns-value]
    rows.choose(20.0)
    assert turn_of(rows) == [0, 1]
    assert not asked
    # What is over gave its memory back, so that the next one asks.
    batch[0].over = True
    rows.choose(20.0)
    assert asked


@pytest.mark.parametrize(("drift", "counted"), [(1.019, False), (1.021, True), (0.979, True)])
def test_a_drift_beyond_two_per_cent_is_counted(drift: float, counted: bool) -> None:
    waiting: Attempt[str] = attempt_of(1)
    book: AttemptBook[str] = AttemptBook()
    book.add(waiting)
    rows = rows_of(book)
    before_s, unit_s = waiting.entry.service_s, rows.unit_s
    assert unit_s == pytest.approx(CALIBRATION.rows_max / CALIBRATION.capacity)

    class Tracked:
        capacity = rows.capacity / drift

    rows._tracker = Tracked()  # type: ignore[assignment]
    rows.choose(20.0)
    assert rows.unit_s == pytest.approx(unit_s * drift if counted else unit_s)
    assert (waiting.entry.service_s != before_s) is counted


def test_a_drift_is_counted_ten_times_a_second_at_most() -> None:
    drawn = attempt_of(1)
    rows = rows_of(held(drawn))
    for measured_s, now_s, counted_s in (
        (0.2, 20.0, 0.28),
        (0.1, 20.0 + 0.9 * RECOUNT_INTERVAL_S, 0.28),
        (0.1, 20.0 + RECOUNT_INTERVAL_S, 0.14),
    ):
        for _ in range(20):
            rows.record_step([drawn], measured_s=measured_s)
        rows.choose(now_s)
        assert rows.unit_s == pytest.approx(counted_s, rel=0.02)


def test_an_image_that_goes_is_looked_at_only_where_it_was_in_the_way() -> None:
    encoded = [attempt_of(number) for number in range(ENCODING_MAX)]
    book = held(*encoded, attempt_of(9))
    rows = rows_of(book)
    for attempt in encoded[1:]:
        book.finish(attempt)
    book.release(encoded[0])
    rows.choose(20.0)
    rows.image_gone()
    assert rows.choose_again_s == math.inf
    book.finishing[99] = encoded[0]
    rows.image_gone()
    assert rows.choose_again_s == -math.inf


@pytest.mark.parametrize(
    "order",
    [
        Order(),
        Order(discipline="sjf", promotion=(2.0, 1.0)),
        Order(discipline="srpt", ageing=0.3),
        Order(discipline="srpt", promotion_load=1.0),
    ],
)
def test_a_newcomer_that_is_looked_at_alone_leaves_the_choice_that_all_would_give(
    order: Order,
) -> None:
    alone = 0
    for seed in range(20):
        coin = random.Random(seed)
        book: AttemptBook[str] = AttemptBook()
        rows = ActiveRows(
            book,
            order=order,
            calibration=replace(CALIBRATION, rows_max=2),
            parked_max=1,
            floor_bytes=0,
            available_bytes=lambda: 0,
        )
        now_s = 0.0
        for number in range(60):
            now_s += coin.uniform(0.0, 0.3)
            newcomer = attempt_of(number, steps=coin.randint(1, 20))
            newcomer.asked_s, newcomer.priority = now_s, coin.choice((0, 0, 0, 1))
            newcomer.deadline_s = coin.choice((None, now_s + coin.uniform(0.0, 9.0)))
            newcomer.recount(rows.unit_s)
            rows.arriving(now_s)
            rows.choose(now_s)
            book.add(newcomer)
            rows.arrived(newcomer, now_s)
            again_s = rows.choose_again_s
            active = {one.arrival for one in rows._active}
            rows.choose(now_s)
            if again_s > now_s:
                alone += 1
                assert {one.arrival for one in rows._active} == active
                assert again_s == rows.choose_again_s
            for one in rows._active:
                if one.started_s is None:
                    book.begin(one, now_s=now_s)
            batch = rows.in_turn()
            rows.record_step(batch, measured_s=0.14)
            for one in batch:
                if one.steps_done == one.steps:
                    book.finish(one)
                    book.release(one)
                    rows.choose_again_s = -math.inf
    assert alone > 100
