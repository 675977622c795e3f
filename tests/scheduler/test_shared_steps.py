"""Who is asked for the other row of a step, and when nobody is."""

import pytest

from scheduler.shared_steps import StepTimes, best_helper, shared_s

LEADER = StepTimes(node_id="leader", pair_s=1.0, row_s=0.5)


def device(node_id: str, row_s: float) -> StepTimes:
    """A device whose row takes so long."""
    return StepTimes(node_id=node_id, pair_s=2.0 * row_s, row_s=row_s)


def test_a_step_takes_as_long_as_the_slower_of_both() -> None:
    assert shared_s(LEADER, device("a", 0.25), exchange_s=0.125) == 0.5
    assert shared_s(LEADER, device("a", 0.5), exchange_s=0.125) == 0.625


@pytest.mark.parametrize(("row_s", "helps"), [(0.5, True), (0.87, True), (0.88, False)])
def test_one_helps_where_a_step_is_sooner_done(row_s: float, helps: bool) -> None:
    found = best_helper(LEADER, [device("a", row_s)], exchange_s=0.125)
    assert (found == "a") is helps


def test_where_a_row_takes_as_long_as_both_nobody_is_asked() -> None:
    leader = StepTimes(node_id="leader", pair_s=1.0, row_s=1.0)
    assert best_helper(leader, [device("a", 0.1)], exchange_s=0.0) is None


def test_nobody_helps_himself() -> None:
    assert best_helper(LEADER, [LEADER], exchange_s=0.0) is None
    assert best_helper(LEADER, [], exchange_s=0.0) is None


def test_of_those_who_are_as_good_the_slowest_is_asked() -> None:
    idle = [device("slow", 0.7), device("fast", 0.1), device("just", 0.4), device("also", 0.4)]
    assert best_helper(LEADER, idle, exchange_s=0.1) == "also"
    assert best_helper(LEADER, idle[:2], exchange_s=0.1) == "fast"


def test_who_helps_stays_as_long_as_he_helps() -> None:
    idle = [device("slow", 0.7), device("fast", 0.1)]
    assert best_helper(LEADER, idle, exchange_s=0.1, present="slow") == "slow"
    assert best_helper(LEADER, idle, exchange_s=0.35, present="slow") == "fast"
