"""Averages of accepted work, with hand-worked values."""

from __future__ import annotations

import math

import pytest

from edge_node.tasks.traffic import AcceptedWork


def test_a_steady_rate_is_found_at_once_and_kept() -> None:
    accepted = AcceptedWork(constant_s=10.0, began_s=50.0)
    for tenth in range(1, 1001):
        accepted.accepted(0.3, now_s=50.0 + tenth / 10)
        if tenth >= 50:
            # From the fifth second on: a young node's sum is not taken for a low rate.
            assert accepted.work_s(now_s=50.0 + tenth / 10) == pytest.approx(3.0, rel=0.03)
    assert accepted.mean_work() == pytest.approx(0.3)


def test_what_is_a_time_constant_old_counts_e_fold_less() -> None:
    accepted = AcceptedWork(constant_s=10.0, began_s=-1000.0)
    accepted.accepted(20.0, now_s=0.0)
    assert accepted.work_s(now_s=0.0) == pytest.approx(2.0)
    assert accepted.work_s(now_s=10.0) == pytest.approx(2.0 / math.e)
    accepted.accepted(8.0, now_s=10.0)
    assert accepted.mean_work() == pytest.approx((20.0 / math.e + 8.0) / (1 / math.e + 1.0))


def test_a_single_task_of_a_node_that_has_just_begun_is_no_flood() -> None:
    accepted = AcceptedWork(constant_s=10.0, began_s=0.0)
    assert accepted.mean_work() is None
    assert accepted.work_s(now_s=0.0) == 0.0
    accepted.accepted(5.0, now_s=0.0)
    assert accepted.work_s(now_s=0.0) == pytest.approx(5.0)  # over a tenth of the constant


def test_a_clock_that_was_read_earlier_changes_nothing() -> None:
    accepted = AcceptedWork(constant_s=10.0, began_s=0.0)
    accepted.accepted(5.0, now_s=20.0)
    assert accepted.work_s(now_s=19.0) > 0.0
    accepted.accepted(5.0, now_s=19.0)
    assert accepted.mean_work() == pytest.approx(5.0)


def test_an_average_rests_on_the_share_of_the_constant_that_was_seen() -> None:
    accepted = AcceptedWork(constant_s=10.0, began_s=100.0)
    assert accepted.seen_s(now_s=90.0) == accepted.seen_s(now_s=100.0) == pytest.approx(1.0)
    assert accepted.seen_s(now_s=110.0) == pytest.approx(10.0 * (1 - 1 / math.e))
    assert accepted.seen_s(now_s=1e6) == pytest.approx(10.0)
