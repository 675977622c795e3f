"""What is reported of the delays of an episode, and of two policies on the same arrivals.

Owns the figures' definitions; prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scheduler.simulator.queueing import FloatArray


@dataclass(frozen=True, kw_only=True)
class DelayStatistics:
    """Service delays of one episode in seconds: the mean with its tail and its terciles.

    A mean alone hides who pays for it: whatever serves short tasks first improves it at the
    expense of the long ones.

    Attributes:
        mean_s: over all tasks.
        p50_s, p95_s, p99_s, max_s: over all tasks: the least delay in the episode that so many
            per cent of the tasks do not exceed.
        small_mean_s, mid_mean_s, large_mean_s: means over the thirds of the tasks by work; of
            tasks with equal work the earlier is in the smaller third.
    """

    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float
    small_mean_s: float
    mid_mean_s: float
    large_mean_s: float

    @classmethod
    def of(cls, delay_s_N: FloatArray, work_N: FloatArray) -> DelayStatistics:
        """Statistics of N tasks' delays, with their work for the terciles.

        Raises:
            ValueError: fewer than three tasks, or not one work for each delay.
        """
        if delay_s_N.shape != work_N.shape or len(delay_s_N) < 3:
            raise ValueError(f"{len(delay_s_N)} delays and {len(work_N)} works have no terciles")
        by_work = np.array_split(delay_s_N[np.argsort(work_N, kind="stable")], 3)
        # Delays may be infinite, and between two of those nothing can be interpolated.
        p50_s, p95_s, p99_s = np.quantile(delay_s_N, (0.5, 0.95, 0.99), method="higher").tolist()
        return cls(
            mean_s=float(delay_s_N.mean()),
            p50_s=p50_s,
            p95_s=p95_s,
            p99_s=p99_s,
            max_s=float(delay_s_N.max()),
            small_mean_s=float(by_work[0].mean()),
            mid_mean_s=float(by_work[1].mean()),
            large_mean_s=float(by_work[2].mean()),
        )


class Gap(NamedTuple):
    """By how many per cent ours is above the reference, with its 95 % confidence interval."""

    gap: float
    low: float
    high: float


def paired_gap(
    ours_E: Sequence[float] | FloatArray, reference_E: Sequence[float] | FloatArray
) -> Gap:
    """Mean relative gap over E episodes that had the same arrivals, in per cent.

    Each episode gives one ratio of means. Pairing takes out what the arrivals do to both. The
    interval is Student's; of a single episode it is infinite.

    Raises:
        ValueError: no episodes, not the same number of both, or a reference that is not positive.
    """
    ours, reference = np.asarray(ours_E, np.float64), np.asarray(reference_E, np.float64)
    if ours.shape != reference.shape or ours.ndim != 1 or len(ours) == 0:
        raise ValueError(f"{ours.shape} means cannot be paired with {reference.shape}")
    if not (np.isfinite(ours).all() and np.isfinite(reference).all() and (reference > 0).all()):
        raise ValueError("a gap needs finite means and a positive reference")
    gap_E = 100.0 * (ours / reference - 1.0)
    gap = float(gap_E.mean())
    if len(gap_E) == 1:
        return Gap(gap, -math.inf, math.inf)
    half = student_quantile(0.975, len(gap_E) - 1) * float(gap_E.std(ddof=1)) / len(gap_E) ** 0.5
    return Gap(gap, gap - half, gap + half)


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t above the median, by bisection of its distribution function.

    Source of the finite sums: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3
    and 26.7.4. They spare a dependency on scipy.
    """
    if not (0.5 <= probability < 1.0 and freedom >= 1):
        raise ValueError(f"no quantile {probability} with {freedom} degrees of freedom")
    low, high = 0.0, 1.0
    while _between(high, freedom) < 2.0 * probability - 1.0:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if _between(middle, freedom) < 2.0 * probability - 1.0:
            low = middle
        else:
            high = middle
    return high


def _between(t: float, freedom: int) -> float:
    """Probability that Student's variable lies between -t and t."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2 == 1
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for power in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    if odd:
        return 2.0 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def wilson_interval(right: int, of: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share."""
    z = 1.959964
    share = right / of
    middle = share + z * z / (2 * of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    low, high = (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)
    return max(0.0, low), min(1.0, high)
