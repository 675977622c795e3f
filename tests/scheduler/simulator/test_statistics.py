from __future__ import annotations

import numpy as np
import pytest

from scheduler.simulator.statistics import (
    DelayStatistics,
    paired_gap,
    student_quantile,
    wilson_interval,
)


def test_statistics_by_hand() -> None:
    work_N = np.array([3.0, 1.0, 2.0, 9.0, 8.0, 7.0])
    delay_s_N = np.array([30.0, 10.0, 20.0, 90.0, 80.0, 70.0])
    assert DelayStatistics.of(delay_s_N, work_N) == DelayStatistics(
        mean_s=50.0,
        p50_s=70.0,
        p95_s=90.0,
        p99_s=90.0,
        max_s=90.0,
        small_mean_s=15.0,
        mid_mean_s=50.0,
        large_mean_s=85.0,
    )


def test_some_tasks_never_end() -> None:
    delay_s_N = np.array([1.0] * 90 + [np.inf] * 10)
    found = DelayStatistics.of(delay_s_N, np.arange(100.0))
    assert (found.p50_s, found.p95_s, found.mean_s) == (1.0, np.inf, np.inf)
    assert found.mid_mean_s == 1.0


def test_too_few_tasks_or_works() -> None:
    for tasks, works in ((2, 2), (5, 4)):
        with pytest.raises(ValueError, match="terciles"):
            DelayStatistics.of(np.ones(tasks), np.ones(works))


def test_student_s_quantiles_are_those_of_the_tables() -> None:
    table = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 29: 2.0452, 30: 2.0423}
    for freedom, quantile in table.items():
        assert student_quantile(0.975, freedom) == pytest.approx(quantile, abs=5e-5)
    assert student_quantile(0.975, 10_000) == pytest.approx(1.9602, abs=5e-5)
    assert student_quantile(0.95, 5) == pytest.approx(2.0150, abs=5e-5)


def test_a_paired_gap_by_hand() -> None:
    gap, low, high = paired_gap([1.1, 2.4, 3.3], [1.0, 2.0, 3.0])
    half = 4.3027 * np.std([10.0, 20.0, 10.0], ddof=1) / 3**0.5
    assert (gap, high - gap, gap - low) == pytest.approx((40 / 3, half, half), abs=1e-3)
    assert paired_gap([3.0], [2.0]) == (50.0, -np.inf, np.inf)


def test_arrivals_that_move_both_do_not_widen_the_gap() -> None:
    rng = np.random.default_rng(0)
    reference_E = rng.uniform(5.0, 9.0, 20)
    gap, low, high = paired_gap(reference_E * rng.normal(1.05, 0.001, 20), reference_E)
    assert 4.9 < low < gap < high < 5.1


def test_what_cannot_be_paired() -> None:
    for ours, reference in (([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([np.inf], [1.0])):
        with pytest.raises(ValueError, match=r"paired|finite"):
            paired_gap(ours, reference)


@pytest.mark.parametrize(
    ("right", "low", "high"), [(0, 0.0, 0.2775), (5, 0.2366, 0.7634), (10, 0.7225, 1.0)]
)
def test_the_interval_of_a_share_holds_it(right: int, low: float, high: float) -> None:
    assert wilson_interval(right, 10) == pytest.approx((low, high), abs=1e-4)
    assert 0.0 <= wilson_interval(right, 10)[0] <= wilson_interval(right, 10)[1] <= 1.0
