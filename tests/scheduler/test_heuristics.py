"""Heuristic policies against hand-worked values, and properties that all of them share."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scheduler import registry
from scheduler.observation import Observation, Traffic
from scheduler.policies.heuristics import ring_terms
from scheduler.policy import Outcome, Policy


def observe(
    *,
    backlog: list[float],
    capacity: list[float],
    own: list[float] | None = None,
    link_s: list[float] | None = None,
    alive: list[bool] | None = None,
    local: int | None = 0,
    work: float = 10.0,
) -> Observation:
    count = len(backlog)
    return Observation(
        node_ids=tuple(f"node{index}" for index in range(count)),
        local=local,
        work=work,
        input_bits=1000,
        backlog_B=np.array(backlog),
        own_B=np.array(own or [0.0] * count),
        capacity_B=np.array(capacity),
        link_s_B=np.array(link_s or [0.0] * count),
        staleness_s_B=np.zeros(count),
        alive_B=np.array(alive or [True] * count),
    )


def policy(name: str, **options: Any) -> Policy:
    return registry.create(name, rng=np.random.default_rng(7), **options)


def choose(name: str, observation: Observation, **options: Any) -> int:
    return policy(name, **options).decide(observation).choice


def frequencies(
    name: str, observation: Observation, draws: int = 20_000, **options: Any
) -> list[float]:
    chooser = policy(name, **options)
    counts = Counter(chooser.decide(observation).choice for _ in range(draws))
    return [counts[index] / draws for index in range(len(observation.node_ids))]


def test_local_keeps_the_task_whatever_the_queue() -> None:
    assert choose("local", observe(backlog=[900.0, 0.0], capacity=[1.0, 50.0])) == 0


@pytest.mark.parametrize(("local", "alive"), [(None, [True] * 3), (0, [False, True, True])])
def test_local_falls_to_the_least_expected_delay(local: int | None, alive: list[bool]) -> None:
    # node1: (40 + 10) / 10 = 5 s; node2: (0 + 10) / 2 = 5 s + .1 s link. node0 would be dearer.
    seen = observe(
        backlog=[500.0, 40.0, 0.0],
        capacity=[10.0, 10.0, 2.0],
        link_s=[0.0, 0.0, 0.1],
        local=local,
        alive=alive,
    )
    assert choose("local", seen) == 1


def test_greedy_counts_its_own_unseen_dispatches_and_the_link() -> None:
    # node0 (5 + 0 + 10) / 5 = 3 s; node1 (0 + 20 + 10) / 10 = 3 s; a link decides between them.
    seen = observe(backlog=[5.0, 0.0], own=[0.0, 20.0], capacity=[5.0, 10.0], link_s=[0.0, 0.01])
    assert choose("least_expected_delay", seen) == 0
    assert choose("least_expected_delay", replace(seen, link_s_B=np.array([0.02, 0.01]))) == 1


def test_slow_server_aware_uses_an_idle_slow_node_earlier() -> None:
    # Fast: f = 40, backlog 30; slow: f = 5, idle; w = 10.
    # Greedy: fast (30 + 10) / 40 = 1.0 s, slow 10 / 5 = 2.0 s. Alpha .3: .825 against .6 s.
    seen = observe(backlog=[30.0, 0.0], capacity=[40.0, 5.0])
    assert choose("least_expected_delay", seen) == 0
    assert choose("slow_server_aware", seen) == 1
    assert choose("slow_server_aware", seen, alpha=1.0) == 0
    # Switch-over at (W + 3) / 40 = 3 / 5, so W = 21.
    assert choose("slow_server_aware", replace(seen, backlog_B=np.array([20.9, 0.0]))) == 0


def test_link_counts_one_over_alpha_between_idle_nodes() -> None:
    # Local 10 / 5 = 2 s, peer 10 / 10 = 1 s: saves 1 s of service, worth offloading only while
    # the link is below .3 s.
    def chosen(link_s: float) -> int:
        seen = observe(backlog=[0.0, 0.0], capacity=[5.0, 10.0], link_s=[0.0, link_s])
        return choose("slow_server_aware", seen)

    assert chosen(0.29) == 1
    assert chosen(0.31) == 0


def test_ties_go_to_the_faster_then_the_local_then_the_first() -> None:
    equal_cost = observe(backlog=[0.0, 10.0], capacity=[5.0, 10.0])  # 2 s each
    assert choose("least_expected_delay", equal_cost) == 1
    equal_nodes = observe(backlog=[0.0] * 3, capacity=[5.0] * 3, local=2)
    assert choose("least_expected_delay", equal_nodes) == 2
    assert choose("least_expected_delay", replace(equal_nodes, local=None)) == 0


def test_round_robin_skips_the_dead_and_owes_the_returned_one_turn() -> None:
    rotating = policy("round_robin")
    all_alive = observe(backlog=[0.0] * 3, capacity=[1.0] * 3)
    without_1 = replace(all_alive, alive_B=np.array([True, False, True]))
    turns = [rotating.decide(all_alive).choice for _ in range(4)]
    turns += [rotating.decide(without_1).choice for _ in range(4)]
    turns += [rotating.decide(all_alive).choice for _ in range(6)]
    assert turns == [0, 1, 2, 0, 2, 0, 2, 0, 1, 2, 0, 1, 2, 0]


def test_random_is_uniform_over_the_alive() -> None:
    seen = observe(
        backlog=[0.0] * 4, capacity=[1.0, 50.0, 3.0, 9.0], alive=[True, False, True, True]
    )
    assert frequencies("random", seen) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.015)


def test_capacity_random_follows_capacity_among_the_alive() -> None:
    seen = observe(
        backlog=[0.0] * 4, capacity=[0.0, 50.0, 3.0, 9.0], alive=[True, False, True, True]
    )
    assert frequencies("capacity_random", seen) == pytest.approx([0, 0, 0.25, 0.75], abs=0.015)


def test_power_of_two_takes_the_shorter_of_two_distinct() -> None:
    # (load + 10) / f: 1, 2, 4 s. Of the three equally likely pairs node0 wins two, node1 one.
    seen = observe(backlog=[0.0, 10.0, 10.0], capacity=[10.0, 10.0, 5.0])
    assert frequencies("power_of_two", seen) == pytest.approx([2 / 3, 1 / 3, 0], abs=0.015)


def test_power_of_two_by_capacity_draws_the_second_among_the_others() -> None:
    # Weights 6, 3, 1 of 10; queues 0, 0, 0 and work 6: the faster of the two always wins.
    # node2 never wins; node1 wins the pairs (1, 2): .3 x 1/7 + .1 x 3/9.
    seen = observe(backlog=[0.0] * 3, capacity=[6.0, 3.0, 1.0], work=6.0)
    loses = 0.3 / 7 + 0.1 * 3 / 9
    expected = [1 - loses, loses, 0]
    assert frequencies("power_of_two", seen, sample="capacity") == pytest.approx(expected, abs=0.01)


def test_own_unseen_work_counts_as_often_as_asked() -> None:
    # node0 holds 3 of others, node1 two of one's own: 3 against 0, 2 and, for two stations, 4.
    seen = observe(backlog=[3.0, 0.0], own=[0.0, 2.0], capacity=[1.0, 1.0])
    crowded = replace(seen, dispatchers=2)
    for name in ("least_expected_delay", "least_queue", "power_of_two", "slow_server_aware"):
        assert choose(name, crowded, own=0) == 1
        assert choose(name, crowded, own=1) == 1
        assert choose(name, crowded, own="B") == 0
        assert choose(name, seen, own="B") == 1


def test_least_queue_ignores_speed_but_for_ties() -> None:
    seen = observe(backlog=[5.0, 4.0, 4.0], capacity=[50.0, 1.0, 2.0])
    assert choose("least_queue", seen) == 2
    assert frequencies("least_queue", seen, ties="random") == pytest.approx([0, 0.5, 0.5], abs=0.02)
    unmeasured = replace(seen, capacity_B=np.array([50.0, 0.0, 0.0]))
    assert choose("least_queue", unmeasured) == 0


def test_smooth_wrr_spreads_turns_by_capacity() -> None:
    rotating = policy("smooth_wrr")
    seen = observe(backlog=[0.0] * 3, capacity=[5.0, 1.0, 1.0])
    # nginx's own example.
    assert [rotating.decide(seen).choice for _ in range(7)] == [0, 0, 1, 0, 2, 0, 0]


def test_smooth_wrr_by_work_spreads_large_tasks_too() -> None:
    rotating = policy("smooth_wrr", by_work=1.0)
    seen = observe(backlog=[0.0] * 2, capacity=[1.0, 1.0])
    works = [1.0, 10.0, 1.0, 1.0, 1.0]
    choices = [rotating.decide(replace(seen, work=work)).choice for work in works]
    assert choices == [0, 1, 0, 0, 0]


def test_smooth_wrr_forgets_what_a_dead_node_was_owed() -> None:
    rotating = policy("smooth_wrr")
    seen = observe(backlog=[0.0] * 2, capacity=[1.0, 1.0])
    assert rotating.decide(seen).choice == 0
    alone = replace(seen, alive_B=np.array([True, False]))
    assert [rotating.decide(alone).choice for _ in range(3)] == [0, 0, 0]
    assert [rotating.decide(seen).choice for _ in range(4)] == [1, 0, 1, 0]


@pytest.mark.parametrize("name", registry.names())
def test_any_policy_chooses_the_alive_whatever_it_sees(name: str) -> None:
    rng = np.random.default_rng(20)
    chooser = policy(name)
    for _ in range(300):
        count = int(rng.integers(1, 7))
        alive_B = rng.random(count) < 0.5
        alive_B[rng.integers(count)] = True
        seen = Observation(
            node_ids=tuple(f"node{index}" for index in rng.permutation(8)[:count]),
            local=None if rng.random() < 0.3 else int(rng.integers(count)),
            work=float(rng.uniform(0, 50)),
            input_bits=1,
            backlog_B=rng.integers(0, 3, count).astype(np.float64) * 100.0,
            own_B=np.zeros(count),
            capacity_B=rng.integers(0, 3, count).astype(np.float64),  # not yet measured is 0
            link_s_B=np.zeros(count),
            staleness_s_B=np.zeros(count),
            alive_B=alive_B,
        )
        decision = chooser.decide(seen)
        assert alive_B[decision.choice]
        assert decision.policy == name
        chooser.record(Outcome(decision_id="late", service_delay_s=1.0, completed=False))


def test_the_same_generator_gives_the_same_decisions() -> None:
    seen = observe(backlog=[0.0] * 5, capacity=[1.0, 2.0, 3.0, 4.0, 5.0])
    first, second = policy("capacity_random"), policy("capacity_random")
    assert [first.decide(seen) for _ in range(50)] == [second.decide(seen) for _ in range(50)]


def test_unknown_names_and_options_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown policy 'greedy'; choose one of local, random"):
        policy("greedy")
    with pytest.raises(ValueError, match="no option beta; its options: alpha, own"):
        policy("slow_server_aware", beta=1.0)
    with pytest.raises(ValueError, match="own must be 0 or more, or B"):
        policy("least_queue", own="A")
    with pytest.raises(ValueError, match="ties must be fastest or random"):
        policy("least_queue", ties="slowest")
    with pytest.raises(ValueError, match="sample must be uniform or capacity"):
        policy("power_of_two", sample="all")
    for name in ("slow_server_aware", "ring"):
        with pytest.raises(ValueError, match=r"alpha must be in 0\.\.1"):
            policy(name, alpha=1.5)


def test_with_several_dispatchers_own_unseen_work_counts_for_all_of_them() -> None:
    seen = observe(backlog=[0.0, 3.0], own=[2.0, 0.0], capacity=[1.0, 1.0])
    alone, crowded = policy("slow_server_aware"), policy("slow_server_aware")
    assert alone.decide(seen).choice == 0
    assert crowded.decide(replace(seen, dispatchers=2)).choice == 1


# Nine tasks of three nodes in a report period, three of each: m = 1 + 2 x 3 / (3 + 3) = 2 and
# width = (2 - 1 + .5 x 9 / 10) mean tasks.
NINE_UNSEEN = Traffic(mean_work=1.0, load=1.0, report_period_s=3.0)


def test_the_ring_is_as_wide_as_what_the_others_have_placed() -> None:
    assert ring_terms(NINE_UNSEEN, capacity=3.0, dispatchers=3) == pytest.approx((2.0, 1.45))
    assert ring_terms(NINE_UNSEEN, capacity=3.0, dispatchers=1) == (1.0, 0.0)
    fresh = replace(NINE_UNSEEN, report_period_s=0.0)
    assert ring_terms(fresh, capacity=3.0, dispatchers=3) == (1.0, 0.0)
    unmeasured = replace(NINE_UNSEEN, mean_work=0.0)
    assert ring_terms(unmeasured, capacity=3.0, dispatchers=3) == (1.0, 0.0)


def test_who_sees_the_same_takes_the_next_round_the_ring() -> None:
    def chosen(local: int | None, backlog: list[float], own: list[float] | None = None) -> int:
        seen = observe(backlog=backlog, own=own, capacity=[1.0] * 3, local=local, work=1.0)
        return choose("ring", replace(seen, dispatchers=3, traffic=NINE_UNSEEN))

    assert [chosen(local, [0.0] * 3) for local in (0, 1, 2, None)] == [0, 1, 2, 0]
    # A third of a turn is 1.45 / 3 of work: the server after this node, round the end as well.
    assert chosen(2, [0.0, 0.0, 0.48]) == 2
    assert chosen(2, [0.0, 0.0, 0.49]) == 0
    # Own unseen work counts twice.
    assert chosen(2, [0.0] * 3, own=[0.0, 0.0, 0.24]) == 2
    assert chosen(2, [0.0] * 3, own=[0.0, 0.0, 0.25]) == 0


def test_a_ring_of_one_node_that_decides_is_the_rule_for_slow_servers() -> None:
    # 3.6 tasks in front of the fast node, 2.9 in front of the slow one: alpha is .3, and 1 where
    # both have more than three.
    for backlog in ([36.0, 29.0], [36.0, 31.0]):
        seen = observe(backlog=backlog, capacity=[10.0, 7.0], own=[5.0, 0.0])
        assert choose("ring", seen) == choose("slow_server_aware", seen, own=1.0)
    idle = observe(backlog=[30.0, 0.0], capacity=[40.0, 5.0])
    assert [choose("ring", idle, alpha=alpha) for alpha in (0.3, 1.0)] == [1, 0]


def test_smooth_wrr_owes_as_much_after_the_first_measurement_as_before() -> None:
    rotating = policy("smooth_wrr")
    unmeasured = observe(backlog=[0.0] * 2, capacity=[0.0, 0.0])
    assert rotating.decide(unmeasured).choice == 0
    # -1 and 1 are owed: 3 and 1 more make equals.
    measured = replace(unmeasured, capacity_B=np.array([3.0, 1.0]))
    assert rotating.decide(measured).choice == 0
    assert rotating.decide(measured).choice == 1


def test_smooth_wrr_counts_tasks_unless_told_to_count_work() -> None:
    rotating = policy("smooth_wrr")
    seen = observe(backlog=[0.0] * 2, capacity=[1.0, 1.0])
    choices = [rotating.decide(replace(seen, work=work)).choice for work in (1.0, 10.0, 1.0, 1.0)]
    assert choices == [0, 1, 0, 1]
