"""What tasks really took, and a replay on it, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from scheduler.experience import PooledDecision
from scheduler.guard.replayed_queues import ReplayedQueues
from scheduler.guard.service_times import AS_EXPECTED, ServiceFactors, ServiceTimes
from scheduler.policy import Outcome
from tests.scheduler.learning.lived import CAPACITY_B, NODE_IDS, decided, lived, outcome

LAST = NODE_IDS[2]


def seen(entries: Sequence[PooledDecision | Outcome]) -> ServiceFactors:
    times = ServiceTimes(tasks_max=10_000)
    for entry in entries:
        times.add(entry)
    return times.factors()


def test_a_server_is_found_to_be_as_fast_as_it_is() -> None:
    factors = seen(lived(300, true_B=np.array([4.0, 1.0, 4.0])))
    assert factors.of("a", 1.0) == pytest.approx(1.0)
    assert factors.of("b", 1.0) == pytest.approx(2.0)
    assert factors.of("c", 1.0) == pytest.approx(1.0 / 8.0)


def test_outcomes_may_come_twice_and_pools_one_after_another() -> None:
    entries = lived(200, true_B=np.array([4.0, 1.0, 4.0]))
    decisions = [one for one in entries if isinstance(one, PooledDecision)]
    outcomes = [one for one in entries if isinstance(one, Outcome)]
    by_node = sorted(decisions, key=lambda one: one.recorded.node_id)
    assert seen([*by_node, *outcomes, *outcomes]) == seen(entries)


def test_only_the_size_that_is_slow_is_slow() -> None:
    entries: list[PooledDecision | Outcome] = []
    for number in range(60):
        work = 4.0 if number % 2 else 0.5
        entries.append(decided(number, 100.0 * number, work, np.zeros(3), 2))
        entries.append(outcome(number, work / CAPACITY_B[2] * (3.0 if work > 1.0 else 1.0)))
    factors = seen(entries)
    assert factors.of(LAST, 0.5) == pytest.approx(1.0)
    assert factors.of(LAST, 4.0) == pytest.approx(3.0)
    # The nearest size that is known, not one far away; of another server nothing is known.
    assert factors.of(LAST, 6.0) == pytest.approx(3.0)
    assert factors.of(LAST, 400.0) == 1.0
    assert factors.of("a", 4.0) == 1.0


def test_nothing_is_known_where_a_node_that_places_tasks_is_not_heard() -> None:
    entries = lived(300, true_B=np.array([4.0, 1.0, 4.0]))
    heard = [
        one for one in entries if isinstance(one, Outcome) or one.recorded.node_id != NODE_IDS[0]
    ]
    assert seen(entries) != AS_EXPECTED
    assert seen(heard) == AS_EXPECTED


def test_a_failed_task_and_one_placed_again_say_nothing_of_a_service() -> None:
    entries: list[PooledDecision | Outcome] = []
    for number in range(30):
        entries.append(decided(number, 100.0 * number, 1.0, np.zeros(3), number % 3, attempt=2))
        entries.append(outcome(number, 50.0, attempt=2))
        entries.append(decided(100 + number, 100.0 * number + 50.0, 1.0, np.zeros(3), number % 3))
        failed = Outcome(decision_id=f"t{100 + number}/1", service_delay_s=60.0, completed=False)
        entries.append(failed)
    assert seen(entries) == AS_EXPECTED


def test_ids_of_this_version_name_the_term_too() -> None:
    entries = lived(300, true_B=np.array([4.0, 1.0, 4.0]))
    assert seen([in_term(entry) for entry in entries]) == seen(entries) != AS_EXPECTED


def test_tasks_that_moved_say_nothing_and_hide_nothing_of_others() -> None:
    entries = lived(300, true_B=np.array([4.0, 1.0, 4.0]))
    moved: list[PooledDecision | Outcome] = []
    for number in range(1000, 1100):
        # Long ago, so that no other task waits for them.
        at_s = 1e4 * (number - 2000)
        moved.append(decided(number, at_s, 1.0, np.zeros(3), 1))
        moved.append(decided(number, at_s + 1.0, 1.0, np.zeros(3), 0, attempt=2))
        moved += [outcome(number, 100.0), outcome(number, 100.0, attempt=2)]
    factors = seen([*map(in_term, moved), *entries])
    assert factors.of("b", 1.0) == pytest.approx(2.0)


def test_nothing_is_known_where_servers_take_tasks_that_nobody_placed_there() -> None:
    entries = lived(300, true_B=np.array([4.0, 1.0, 4.0]))
    taken: list[PooledDecision | Outcome] = [
        in_term(outcome(number, 5.0, attempt=2)) for number in range(0, 300, 10)
    ]
    times = ServiceTimes(tasks_max=10_000)
    for entry in [*map(in_term, entries), *taken]:
        times.add(entry)
    assert times.taken_share == pytest.approx(0.1)
    assert times.factors() == AS_EXPECTED
    few = seen([*map(in_term, entries), *taken[:10]])
    assert few != AS_EXPECTED


def in_term(entry: PooledDecision | Outcome) -> PooledDecision | Outcome:
    """The same with the ids that nodes give."""

    def named(decision_id: str) -> str:
        return decision_id.replace("/", "/3.")

    if isinstance(entry, Outcome):
        return replace(entry, decision_id=named(entry.decision_id))
    recorded = replace(entry.recorded, decision_id=named(entry.recorded.decision_id))
    return replace(entry, recorded=recorded)


def test_a_replayed_task_takes_what_it_takes_and_is_reported_as_believed() -> None:
    factors = ServiceFactors(by_server_and_size={("a", 4): 3.0})
    queues = ReplayedQueues(
        ("a", "b"),
        np.array([2.0, 0.0]),
        np.array([0.0]),
        np.array([[2.0, 1.0]]),
        factors=factors,
    )
    assert queues.add(0, 4.0) == pytest.approx((2.0 + 3.0 * 4.0) / 2.0)
    assert queues.add(1, 4.0) == pytest.approx(4.0)
    queues.pass_to(4.0)  # 2 units were ahead, and half of the task's 12 are done
    assert queues.reported_B.tolist() == pytest.approx([2.0, 0.0])
    queues.pass_to(6.9)
    assert queues.reported_B[0] == pytest.approx(4.0 * 0.2 / 12.0)
    queues.pass_to(7.1)
    assert queues.reported_B.tolist() == [0.0, 0.0]


def test_where_nothing_is_known_both_accounts_are_one() -> None:
    queues = ReplayedQueues(
        ("a",), np.array([2.0]), np.array([0.0]), np.array([[2.0]]), factors=AS_EXPECTED
    )
    assert queues.add(0, 4.0) == pytest.approx(3.0)
    queues.pass_to(1.0)
    assert queues.reported_B.tolist() == pytest.approx([4.0])


def test_what_is_not_heard_of_one_model_hides_nothing_of_another() -> None:
    def of(model: str, entry: PooledDecision | Outcome) -> PooledDecision | Outcome:
        if isinstance(entry, Outcome):
            return replace(entry, decision_id=f"{model}-{entry.decision_id}")
        seen, one = entry.recorded.observation, entry.recorded
        named = replace(seen, node_ids=tuple(f"{model}-{n}" for n in seen.node_ids))
        recorded = replace(
            one,
            decision_id=f"{model}-{one.decision_id}",
            node_id=f"{model}-{one.node_id}",
            observation=named,
        )
        return replace(entry, recorded=recorded)

    entries = lived(300, true_B=np.array([4.0, 1.0, 4.0]))
    whole = [of("m", one) for one in entries]
    part = [
        of("other", one)
        for one in entries
        if isinstance(one, Outcome) or one.recorded.node_id != NODE_IDS[0]
    ]
    factors = seen([one for pair in zip(whole, part, strict=False) for one in pair])
    assert factors.of("m-b", 1.0) == pytest.approx(2.0)
    assert factors.of("other-b", 1.0) == 1.0
