"""When a request is refused, and how honest its Retry-After is."""

from __future__ import annotations

from typing import Any

import pytest

from edge_node.tasks.admission import AdmissionLimits, Refusal, TurnTaker, admit
from edge_node.tasks.in_flight import ClientLoad

LIMITS = AdmissionLimits(tasks_in_flight_max=10, wait_s_max=60.0)


def judge(*, tasks: int, in_flight: int, backlog: float, capacity: float) -> Refusal | None:
    return admit(
        works=(10.0,) * tasks,
        in_flight=in_flight,
        backlog=backlog,
        capacity=capacity,
        limits=LIMITS,
    )


def test_lets_in_what_there_is_room_for() -> None:
    assert judge(tasks=2, in_flight=8, backlog=80.0, capacity=5.0) is None


def test_names_when_the_surplus_will_have_been_drawn() -> None:
    # 10 tasks of 10 units at 5 units/s are 2 s each; three places are needed.
    refusal = judge(tasks=3, in_flight=10, backlog=100.0, capacity=5.0)
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(6.0)
    assert "10 tasks" in refusal.message


def test_refuses_beyond_the_longest_wait() -> None:
    refusal = judge(tasks=1, in_flight=1, backlog=400.0, capacity=5.0)
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(20.0)


def test_waits_for_a_cluster_that_draws_nothing_yet() -> None:
    assert judge(tasks=1, in_flight=0, backlog=0.0, capacity=0.0) is None


def test_the_last_place_is_given_away_and_the_longest_wait_allowed() -> None:
    assert judge(tasks=3, in_flight=7, backlog=0.0, capacity=5.0) is None
    assert judge(tasks=4, in_flight=7, backlog=0.0, capacity=5.0) is not None
    assert judge(tasks=1, in_flight=0, backlog=300.0, capacity=5.0) is None
    assert judge(tasks=1, in_flight=0, backlog=300.1, capacity=5.0) is not None


def test_nobody_is_asked_back_within_a_second() -> None:
    full = judge(tasks=1, in_flight=10, backlog=10.0, capacity=100.0)
    assert full is not None
    assert full.retry_after_s == 1.0
    behind = judge(tasks=1, in_flight=0, backlog=60.5, capacity=1.0)
    assert behind is not None
    assert behind.retry_after_s == 1.0


def test_a_request_larger_than_all_that_is_held_counts_itself() -> None:
    # 20 of 10 units at 5 a second are 2 s each; ten of them are too many.
    refusal = judge(tasks=20, in_flight=0, backlog=0.0, capacity=5.0)
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(20.0)


def test_a_full_node_does_not_wait_for_a_cluster_that_draws_nothing() -> None:
    assert judge(tasks=30, in_flight=10, backlog=90.0, capacity=-1.0) is None
    slow = judge(tasks=1, in_flight=10, backlog=10.0, capacity=0.5)
    assert slow is not None
    assert slow.retry_after_s == pytest.approx(2.0)


def judge_client(
    *, held: int, others: int, tasks: int = 1, backlog: float = 5000.0, has_key: bool = True
) -> Any:
    """One whose tasks are of 10 units; at 5 units/s a wait of 60 s is a backlog of 300."""
    load = ClientLoad(tasks=held, work=10.0 * held)
    return admit(
        works=(10.0,) * tasks,
        in_flight=held,
        backlog=backlog,
        capacity=5.0,
        limits=AdmissionLimits(tasks_in_flight_max=100, wait_s_max=60.0),
        turns=TurnTaker(load=load, others=others, has_key=has_key),
    )


def test_who_takes_turns_waits_for_his_own_and_as_much_of_each_other() -> None:
    assert judge_client(held=0, others=1) is None
    assert judge_client(held=14, others=1) is None
    assert judge_client(held=15, others=1) is not None
    assert judge_client(held=6, others=3) is None
    assert judge_client(held=7, others=3) is not None
    assert judge_client(held=0, others=0) is not None, "the queue is his own, at another node"
    assert judge_client(held=74, others=2, backlog=100.0) is None, "no more than there is"


def test_one_client_leaves_places_for_others() -> None:
    assert judge_client(held=74, others=0, backlog=100.0) is None
    refusal = judge_client(held=74, others=1, tasks=4, backlog=100.0)
    assert refusal is not None
    assert "This key has 74 tasks" in refusal.message
    assert refusal.retry_after_s == pytest.approx(3 * 10.0 * 2 / 5.0)


def test_an_address_that_is_alone_may_use_all_places() -> None:
    assert judge_client(held=99, others=0, backlog=100.0, has_key=False) is None
    assert judge_client(held=99, others=0, backlog=100.0) is not None
    refusal = judge_client(held=99, others=1, backlog=100.0, has_key=False)
    assert refusal is not None
    assert "Your address has 99 tasks" in refusal.message
