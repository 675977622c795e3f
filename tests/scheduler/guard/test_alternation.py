from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from scheduler.guard.alternation import (
    AWAITED_MAX,
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
        shared_s = (cycle * WINDOWS_PER_CYCLE + turn + 0.5) * WINDOW_S
        by_rule = alternation.rules_turn(shared_s=shared_s)
        for task in range(tasks):
            decision_id = f"{cycle}-{turn}-{task}/1"
            alternation.decided(decision_id, observation(), by_rule=by_rule, shared_s=shared_s)
            if task >= lost:
                alternation.ended(decision_id, delay_s=rule_s if by_rule else learned_s)


def test_the_rule_has_one_window_of_a_cycle() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    turns = [alternation.rules_turn(shared_s=(n + 0.5) * WINDOW_S) for n in range(40)]
    assert [n for n, turn in enumerate(turns) if turn] == [RULE_WINDOW, RULE_WINDOW + 20]


def test_work_that_moves_changes_nothing_in_an_even_cluster() -> None:
    uneven, even = observation(backlog=(30.0, 0.0)), observation(backlog=(20.0, 10.0))
    assert even_delay_s(uneven) == even_delay_s(even) == pytest.approx((30.0 + 2 * 15.0) / 15.0)


def test_a_slow_cluster_has_a_capacity_too() -> None:
    slow = observation(backlog=(0.0, 0.0), capacity=(0.25, 0.25))
    assert even_delay_s(slow) == pytest.approx(30.0 / 0.5)


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


def test_the_bound_by_hand() -> None:
    values = [0.1, 0.3] * 8
    assert half_width(values[:9]) == math.inf
    assert math.isfinite(half_width(values[:10]))
    # Sixteen values of variance .16 / 15; -2 ln .02 = 7.824.
    rho2 = (7.824046 + math.log(8.824046)) / 30
    grown = 16 * rho2 + 1
    bound = math.log(1 + math.sqrt(grown) / 0.02)
    expected = math.sqrt(0.16 / 15 * 2 * grown / (256 * rho2) * bound)
    assert half_width(values) == pytest.approx(expected, rel=1e-6)
    assert half_width([0.25] * 12) == 0.0


def test_an_even_cluster_shares_all_that_its_living_do() -> None:
    seen = observation(backlog=(30.0, 6.0, 99.0), capacity=(10.0, 5.0, 7.0))
    assert even_delay_s(seen) == pytest.approx((135.0 + 45.0) / 22.0)
    down = replace(seen, alive_B=np.array([True, True, False]), own_B=np.array([0.0, 9.0, 1.0]))
    assert even_delay_s(down) == pytest.approx((45.0 + 30.0) / 15.0)


@pytest.mark.parametrize(("lost", "cycles"), [(1, 1), (2, 0)])
def test_a_tenth_of_a_window_may_be_missing(lost: int, cycles: int) -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    play_cycle(alternation, 0, learned_s=2.0, rule_s=1.0, tasks=10, lost=lost)
    play_cycle(alternation, 1, learned_s=2.0, rule_s=1.0, tasks=1)
    assert alternation.finding().cycles == cycles


def test_a_measured_difference_is_that_of_the_delays_over_the_even_ones() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    assert alternation.finding().worse is None
    for cycle in range(12):
        play_cycle(alternation, cycle, learned_s=1.5, rule_s=1.2)
    found = alternation.finding()
    assert (found.cycles, found.surely_worse) == (11, True)
    assert found.worse == pytest.approx(0.25)
    at_the_margin = Alternation(window_s=WINDOW_S, margin=0.26)
    for cycle in range(12):
        play_cycle(at_the_margin, cycle, learned_s=1.5, rule_s=1.2)
    assert not at_the_margin.finding().surely_worse
    at_the_margin.restart()
    assert at_the_margin.finding().cycles == 0
    assert at_the_margin._windows == at_the_margin._awaited == {}


def test_nothing_to_do_is_no_delay_to_compare() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    idle = replace(observation(backlog=(0.0, 0.0)), work=0.0)
    shared_s = (RULE_WINDOW + 0.5) * WINDOW_S
    alternation.decided("a/1", idle, by_rule=True, shared_s=shared_s)
    assert alternation._windows == alternation._awaited == {}


def test_what_is_awaited_is_bounded_and_counted_all_the_same() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    shared_s = (RULE_WINDOW + 0.5) * WINDOW_S
    assert AWAITED_MAX == 20_000
    alternation._awaited = {str(number): (RULE_WINDOW, 1.0) for number in range(AWAITED_MAX - 1)}
    for name in ("a/1", "b/1"):
        alternation.decided(name, observation(), by_rule=True, shared_s=shared_s)
    assert len(alternation._awaited) == AWAITED_MAX
    assert "b/1" not in alternation._awaited
    assert alternation._windows[RULE_WINDOW].decided == 2


def test_only_the_one_whose_turn_it_is_counts_in_its_windows() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    for turn in range(WINDOWS_PER_CYCLE):
        for by_rule in (True, False):
            shared_s = (turn + 0.5) * WINDOW_S
            name = f"{turn}{by_rule}"
            alternation.decided(name, observation(), by_rule=by_rule, shared_s=shared_s)
    assert sorted(alternation._windows) == [8, 9, 10, 11, 12]
    assert all(window.decided == 1 for window in alternation._windows.values())
    assert (WINDOWS_PER_CYCLE, RULE_WINDOW, COMPARED_WINDOWS) == (20, 10, (8, 9, 11, 12))
    assert (CYCLES_MAX, FALSE_TRIP_CHANCE) == (128, 0.05)


def test_a_cycle_that_is_not_over_is_not_counted_yet() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    play_cycle(alternation, 0, learned_s=2.0, rule_s=1.0)
    last_s = (WINDOWS_PER_CYCLE - 0.1) * WINDOW_S
    alternation.decided("late/1", observation(), by_rule=False, shared_s=last_s)
    assert (alternation.finding().cycles, len(alternation._windows)) == (0, 5)
    alternation.decided("next/1", observation(), by_rule=False, shared_s=last_s + WINDOW_S)
    assert (alternation.finding().cycles, len(alternation._windows)) == (1, 0)


def test_a_clock_that_was_set_back_loses_no_window_of_the_present_cycle() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    for name, number in (("a/1", 108), ("b/1", 88), ("c/1", 109)):
        shared_s = (number + 0.5) * WINDOW_S
        alternation.decided(name, observation(), by_rule=False, shared_s=shared_s)
    assert sorted(alternation._windows) == [108, 109]
    assert sorted(alternation._awaited) == ["a/1", "c/1"]


def test_where_nodes_go_by_another_clock_windows_begin_anew_and_later_ones_count() -> None:
    alternation = Alternation(window_s=WINDOW_S, margin=0.01)
    late_s = (1000 * WINDOWS_PER_CYCLE + RULE_WINDOW + 0.5) * WINDOW_S
    alternation.decided("former/1", observation(), by_rule=True, shared_s=late_s)
    early_s = (RULE_WINDOW + 0.5) * WINDOW_S
    alternation.decided("present/1", observation(), by_rule=True, shared_s=early_s)
    assert sorted(alternation._windows) == [RULE_WINDOW]
    alternation.ended("former/1", delay_s=100.0)
    assert alternation.finding().cycles == 0
    for turn in (11, 12):
        shared_s = (turn + 0.5) * WINDOW_S
        alternation.decided(f"present/{turn}", observation(), by_rule=False, shared_s=shared_s)
    assert sorted(alternation._windows) == [RULE_WINDOW, 11, 12]
