from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from scheduler.guard.alternation import (
    COMPARED_WINDOWS,
    CYCLES_MAX,
    FALSE_TRIP_CHANCE,
    RULE_WINDOW,
    WINDOWS_PER_CYCLE,
    Alternation,
    even_delay_s,
    half_width,
)
from scheduler.observation import Observation

WINDOW_S = 10.0


def observation(
    *, backlog: tuple[float, ...] = (30.0, 0.0), capacity: tuple[float, ...] = (10.0, 5.0)
) -> Observation:
    size = len(backlog)
    return Observation(
        node_ids=tuple(f"node-{index}" for index in range(size)),
        local=0,
        work=15.0,
        input_bits=8000,
        backlog_B=np.array(backlog),
        own_B=np.zeros(size),
        capacity_B=np.array(capacity),
        link_s_B=np.zeros(size),
        staleness_s_B=np.zeros(size),
        alive_B=np.ones(size, np.bool_),
    )


def play_cycle(
    alternation: Alternation,
    cycle: int,
    *,
    learned_s: float,
    rule_s: float,
    tasks: int = 3,
    lost: int = 0,
) -> None:
    for turn in range(WINDOWS_PER_CYCLE):
        unix_s = (cycle * WINDOWS_PER_CYCLE + turn + 0.5) * WINDOW_S
        by_rule = alternation.rules_turn(unix_s=unix_s)
        for task in range(tasks):
            decision_id = f"{cycle}-{turn}-{task}/1"
            alternation.decided(decision_id, observation(), by_rule=by_rule, unix_s=unix_s)
            if task >= lost:
                alternation.ended(decision_id, delay_s=rule_s if by_rule else learned_s)


def test_the_rule_has_one_window_of_a_cycle() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    turns = [alternation.rules_turn(unix_s=(n + 0.5) * WINDOW_S) for n in range(40)]
    assert [n for n, turn in enumerate(turns) if turn] == [RULE_WINDOW, RULE_WINDOW + 20]


def test_work_that_moves_changes_nothing_in_an_even_cluster() -> None:
    uneven, even = observation(backlog=(30.0, 0.0)), observation(backlog=(20.0, 10.0))
    assert even_delay_s(uneven) == even_delay_s(even) == pytest.approx((30.0 + 2 * 15.0) / 15.0)


def test_no_capacity_foretells_nothing() -> None:
    assert even_delay_s(observation(capacity=(0.0, 0.0))) is None


def test_a_difference_is_measured_once_a_cycle() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    for cycle in range(4):
        play_cycle(alternation, cycle, learned_s=5.5, rule_s=5.0)
    finding = alternation.finding()
    assert finding.cycles == 3  # the fourth is not over
    assert finding.worse == pytest.approx(0.1)
    assert not finding.surely_worse


def test_a_cycle_with_missing_outcomes_does_not_count() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    for cycle in range(4):
        play_cycle(alternation, cycle, learned_s=5.5, rule_s=5.0, tasks=5, lost=1)
    assert alternation.finding().cycles == 0


def test_unknown_and_late_outcomes_are_forgotten() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    alternation.ended("never-decided/1", delay_s=1.0)
    play_cycle(alternation, 0, learned_s=5.0, rule_s=5.0, lost=1)
    play_cycle(alternation, 5, learned_s=5.0, rule_s=5.0)
    alternation.ended(f"0-{RULE_WINDOW}-0/1", delay_s=1e9)
    play_cycle(alternation, 6, learned_s=5.0, rule_s=5.0)
    assert alternation.finding().worse == pytest.approx(0.0)


def test_a_test_starts_anew_when_it_is_full() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    for cycle in range(CYCLES_MAX + 3):
        play_cycle(alternation, cycle, learned_s=5.0, rule_s=5.0, tasks=1)
    assert alternation.finding().cycles == 2


def test_only_neighbours_of_the_rules_window_are_compared() -> None:
    assert all(0 < abs(turn - RULE_WINDOW) <= 2 for turn in COMPARED_WINDOWS)


def first_trip(draw: Callable[[], float], margin: float) -> int:
    """Cycle at which the test trips, 0 for never."""
    differences: list[float] = []
    for cycle in range(1, CYCLES_MAX + 1):
        differences.append(draw())
        low = sum(differences) / cycle - half_width(differences)
        if low > math.log1p(margin):
            return cycle
    return 0


# Differences between windows of simulated Orins have sd .15 and skewness -.5 at load .5 to .8:
# a gamma variate of shape 16 has that skewness.
def noise(rng: np.random.Generator) -> float:
    return float(-0.15 * (rng.gamma(16.0) - 16.0) / 4.0)


def test_equals_are_rarely_called_worse() -> None:
    rng = np.random.default_rng(20)
    # At the margin, where the test is most likely to err.
    trips = [first_trip(lambda: noise(rng) + math.log(1.01), 0.01) > 0 for _ in range(300)]
    assert np.mean(trips) <= FALSE_TRIP_CHANCE


def test_a_tenth_worse_is_found() -> None:
    rng = np.random.default_rng(21)
    found = np.array([first_trip(lambda: noise(rng) + math.log(1.1), 0.01) for _ in range(100)])
    assert (found > 0).mean() >= 0.95
    assert np.median(found[found > 0]) <= 35
