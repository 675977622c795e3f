"""Compiled rules against plain Python on small episodes, and what all rules promise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scheduler import registry
from scheduler.simulator import rules
from scheduler.simulator.dispatch import Dispatcher
from scheduler.simulator.queueing import serve_fcfs
from scheduler.simulator.rules.learned import PredOwn, ShadowPrice, Tables, measure
from scheduler.simulator.rules.water_filling import shares
from scheduler.simulator.scenario import CapacityChange, Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, draw
from tests.scheduler.simulator.slow_cluster import (
    SCENARIOS,
    Rule,
    Seen,
    episode_of,
    placements,
    play,
)


def placed(rule: Dispatcher, episode: Episode, seed: int = 1) -> list[int]:
    placed: list[int] = rule.place(episode, np.random.default_rng(seed)).tolist()
    return placed


def drawn(episode: Episode, *shape: int) -> np.ndarray:
    """What a rule draws with the generator that `placed` gives it."""
    return np.random.default_rng(1).random((episode.tasks, *shape))


def weight(own: float | str, seen: Seen) -> float:
    return seen.stations if own == "B" else float(own)


def greedy(own: float | str = 1, alpha: float = 1.0) -> Rule:
    def choose(seen: Seen) -> int:
        load = seen.backlog + weight(own, seen) * seen.own + alpha * seen.work
        with np.errstate(divide="ignore"):
            return seen.cheapest(load / seen.capacity + seen.link_s)

    return choose


def slow_server_aware(own: float | str = "B", alpha: float = 0.3) -> Rule:
    def choose(seen: Seen) -> int:
        factor = weight(own, seen)
        if own == "B" and seen.work > 0:
            tasks = seen.own.sum() / (seen.work * len(seen.capacity))
            factor = 1.0 + (factor - 1.0) / (1.0 + (tasks / 4.0) ** 2)
        queue = seen.backlog + factor * seen.own
        deep = min(queue[i] / seen.work if seen.work else np.inf for i in seen.living) > 3.0
        load = queue + (1.0 if deep else alpha) * seen.work
        with np.errstate(divide="ignore"):
            return seen.cheapest(load / seen.capacity + seen.link_s)

    return choose


def ring(alpha: float = 0.3) -> Rule:
    def choose(seen: Seen) -> int:
        traffic, size, factor, width = seen.traffic, len(seen.capacity), 1.0, 0.0
        if seen.stations > 1:
            tasks = traffic.load * seen.capacity.sum() / traffic.mean_work * traffic.report_period_s
            each = tasks / seen.stations
            factor = 1.0 + (seen.stations - 1) * each / (each + 3.0)
            width = traffic.mean_work * (factor - 1.0 + 0.5 * tasks / (1.0 + tasks))
        queue = seen.backlog + factor * seen.own
        deep = min(queue[i] / seen.work if seen.work else np.inf for i in seen.living) > 3.0
        turn = np.array([(i - seen.station) % size / size for i in range(size)])
        load = queue + width * turn + (1.0 if deep else alpha) * seen.work
        with np.errstate(divide="ignore"):
            return seen.cheapest(load / seen.capacity + seen.link_s)

    return choose


def without_capacity(seen: Seen) -> int:
    load = seen.backlog + seen.stations * seen.own
    return min(seen.living, key=lambda i: (load[i], i != seen.station, i))


def local(seen: Seen) -> int:
    return seen.station if seen.station in seen.living else greedy(1)(seen)


def round_robin() -> Rule:
    last: dict[int, dict[int, int]] = defaultdict(dict)

    def choose(seen: Seen) -> int:
        mine = last[seen.station]
        server = min(seen.living, key=lambda i: (mine.get(i, -1), i))
        mine[server] = seen.task
        return server

    return choose


def smooth_wrr(by_work: bool) -> Rule:
    credit: dict[int, dict[int, float]] = defaultdict(dict)

    def choose(seen: Seen) -> int:
        mine = credit[seen.station]
        for dead in mine.keys() - set(seen.living):
            del mine[dead]
        for i in seen.living:
            mine[i] = mine.get(i, 0.0) + (seen.work if by_work else 1.0) * seen.capacity[i]
        server = max(seen.living, key=lambda i: (mine[i], -i))
        mine[server] -= (seen.work if by_work else 1.0) * sum(seen.capacity[i] for i in seen.living)
        return server

    return choose


def least_queue(count: str, own: float | str, drawn_N: np.ndarray | None) -> Rule:
    def choose(seen: Seen) -> int:
        queue, mine = (seen.waiting, seen.own_tasks)
        if count == "work":
            queue, mine = (seen.backlog, seen.own)
        length = queue + weight(own, seen) * mine
        if drawn_N is None:
            return seen.cheapest(length)
        tied = [i for i in seen.living if length[i] == min(length[j] for j in seen.living)]
        return tied[int(drawn_N[seen.task] * len(tied))]

    return choose


def lottery(weights: list[float], drawn_one: float) -> int:
    left = drawn_one * sum(weights)
    for i, one in enumerate(weights):
        left -= one
        if one > 0 and left < 0:
            return i
    raise AssertionError("the weights do not add up")


def by_lot(drawn_N: np.ndarray, of_capacity: Callable[[np.ndarray], np.ndarray]) -> Rule:
    def choose(seen: Seen) -> int:
        return lottery(of_capacity(seen.capacity).astype(float).tolist(), drawn_N[seen.task])

    return choose


def power_of_two(sample: str, own: float | str, drawn_N2: np.ndarray) -> Rule:
    def choose(seen: Seen) -> int:
        by_capacity = sample == "capacity"
        weights = [f if by_capacity else float(f > 0) for f in seen.capacity.tolist()]
        first = lottery(weights, drawn_N2[seen.task, 0])
        weights[first] = 0.0
        if not any(weights):
            return first
        second = lottery(weights, drawn_N2[seen.task, 1])
        load = seen.backlog + weight(own, seen) * seen.own + seen.work
        return min((first, second), key=lambda i: load[i] / seen.capacity[i])

    return choose


SLOW: dict[str, tuple[dict[str, Any], Any]] = {
    "local": ({}, lambda e: local),
    "round_robin": ({}, lambda e: round_robin()),
    "smooth_wrr": ({}, lambda e: smooth_wrr(False)),
    "smooth_wrr by work": ({"by_work": True}, lambda e: smooth_wrr(True)),
    "random": ({}, lambda e: by_lot(drawn(e), lambda capacity: capacity > 0)),
    "capacity_random": ({}, lambda e: by_lot(drawn(e), lambda capacity: capacity)),
    "least_expected_delay own 0": ({"own": 0}, lambda e: greedy(0)),
    "least_expected_delay": ({}, lambda e: greedy(1)),
    "least_expected_delay own B": ({"own": "B"}, lambda e: greedy("B")),
    "slow_server_aware": ({}, lambda e: slow_server_aware()),
    "slow_server_aware own 1": ({"own": 1, "alpha": 0.7}, lambda e: slow_server_aware(1, 0.7)),
    "ring": ({}, lambda e: ring()),
    "ring alpha 1": ({"alpha": 1.0}, lambda e: ring(1.0)),
    "least_queue": ({}, lambda e: least_queue("work", 1, None)),
    "least_queue random": ({"ties": "random"}, lambda e: least_queue("work", 1, drawn(e))),
    "least_queue tasks": (
        {"count": "tasks", "own": "B"},
        lambda e: least_queue("tasks", "B", None),
    ),
    "least_queue tasks random": (
        {"count": "tasks", "ties": "random"},
        lambda e: least_queue("tasks", 1, drawn(e)),
    ),
    "power_of_two": ({}, lambda e: power_of_two("uniform", 1, drawn(e, 2))),
    "power_of_two stale": ({"own": 0}, lambda e: power_of_two("uniform", 0, drawn(e, 2))),
    "power_of_two capacity": (
        {"sample": "capacity", "own": "B"},
        lambda e: power_of_two("capacity", "B", drawn(e, 2)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("case", SLOW)
def test_compiled_rules_choose_as_plain_python_does(case: str, scenario: str) -> None:
    options, slow = SLOW[case]
    episode = episode_of(scenario)
    rule = rules.create(case.split()[0], **options)
    assert placed(rule, episode) == play(episode, slow(episode))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("extrapolate", [True, False])
@pytest.mark.parametrize("fresh", [True, False])
def test_state_is_published_and_extrapolated_as_asked(
    scenario: str, extrapolate: bool, fresh: bool
) -> None:
    episode = episode_of(scenario, 3)
    how = {"fresh": fresh, "extrapolate": extrapolate}
    for name, slow in (
        ("least_expected_delay", greedy(1)),
        ("slow_server_aware", slow_server_aware()),
        ("least_queue", least_queue("work", 1, None)),
        ("power_of_two", power_of_two("uniform", 1, drawn(episode, 2))),
    ):
        assert placed(rules.create(name, **how), episode) == play(episode, slow, **how)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_capacity_only_queues_count(scenario: str) -> None:
    episode = episode_of(scenario)
    rule = rules.create("least_expected_delay", own="B", use_capacity=False)
    assert placed(rule, episode) == play(episode, without_capacity, extrapolate=False)


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "believed"])
def test_opt_ts_is_greedy_on_the_true_state(scenario: str) -> None:
    episode = episode_of(scenario)
    truth = replace(episode, believed_KB=episode.capacity_KB)
    assert placed(rules.create("opt_ts"), episode) == play(truth, greedy(0), fresh=True)


@pytest.mark.parametrize("scenario", ["slotted", "outages", "random_order", "poisson"])
@pytest.mark.parametrize("split", ["random", "deficit"])
@pytest.mark.parametrize("carry", [True, False])
def test_water_filling_follows_its_shares(scenario: str, split: str, carry: bool) -> None:
    episode = episode_of(scenario)
    credit: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(episode.servers))
    published = [-1.0]

    def choose(seen: Seen) -> int:
        share_B = shares(seen.backlog, seen.capacity, expected)
        if split == "random":
            return lottery(share_B.tolist(), drawn(episode)[seen.task])
        refresh_s, at_s = episode.scenario.refresh_s, episode.arrival_s_N[seen.task]
        if not carry and at_s // refresh_s != published[0]:
            published[0] = at_s // refresh_s
            credit.clear()
        mine = credit[seen.station]
        mine[share_B <= 0] = 0.0
        mine += seen.work * share_B
        server = max(np.flatnonzero(share_B > 0).tolist(), key=lambda i: (mine[i], -i))
        mine[server] -= seen.work * float(np.cumsum(share_B)[-1])
        return int(server)

    expected = 7.0 * max(episode.scenario.refresh_s, 1.0)
    rule = rules.create("water_filling", split=split, carry=carry, arrivals_per_s=7.0)
    assert placed(rule, episode) == play(episode, choose)


def test_shares_bring_the_servers_level() -> None:
    # Level 4 s: (20 - 4) + (8 - 6) = 18; the third has more than 4 s already, the fourth is dead.
    share_B = shares(np.array([4.0, 6.0, 50.0, 0.0]), np.array([5.0, 2.0, 10.0, 0.0]), 18.0)
    assert share_B == pytest.approx([16 / 18, 2 / 18, 0.0, 0.0])


def test_tables_enter_the_cost() -> None:
    episode = episode_of("slotted")
    rng = np.random.default_rng(4)
    tables = Tables(ahead_SB=rng.uniform(0, 3, (5, 5)), later_TB=rng.uniform(0, 5, (10, 5)))

    def choose(seen: Seen, kappa: float) -> int:
        load = seen.backlog + 5 * seen.own + tables.ahead_SB[seen.station] + seen.work
        cost = load / seen.capacity + seen.link_s
        return seen.cheapest(cost + kappa * tables.later_TB[seen.slot] * seen.work / seen.capacity)

    assert placed(PredOwn(tables=tables), episode) == play(episode, lambda s: choose(s, 0.0))
    priced = ShadowPrice(kappa=0.6, tables=tables)
    assert placed(priced, episode) == play(episode, lambda s: choose(s, 0.6))
    blind = replace(priced, tables=replace(tables, ahead_SB=np.zeros((5, 5))))
    tables.ahead_SB[:] = 1e9  # a true state leaves nothing to expect
    assert placed(replace(priced, fresh=True), episode) == placed(
        replace(blind, fresh=True), episode
    )


@pytest.mark.parametrize("scenario", ["slotted", "random_order", "poisson"])
def test_tables_are_measured_as_they_are_defined(scenario: str) -> None:
    episode = episode_of(scenario)
    server_N = np.array(placed(rules.create("random"), episode))
    later_TB, ahead_SB = slow_tables(episode, server_N)
    tables = measure(episode, server_N)
    assert tables.later_TB == pytest.approx(later_TB)
    assert tables.ahead_SB == pytest.approx(ahead_SB)


def slow_tables(episode: Episode, server_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every slot and server all tasks that a little work there would have delayed."""
    scenario, arrival_s = episode.scenario, episode.arrival_s_N
    done_s = arrival_s + serve_fcfs(
        arrival_s, server_N, episode.work_N, episode.since_s_K, episode.capacity_KB
    )
    later_TB = np.zeros((scenario.slots, episode.servers))
    for server in range(episode.servers):
        mine = np.flatnonzero(server_N == server)

        def delayed(place: int, mine: np.ndarray = mine) -> int:
            count = 0
            for task, following in zip(mine[place:], mine[place + 1 :], strict=False):
                if arrival_s[following] >= done_s[task] - 1e-12:
                    break
                count += 1
            return count

        for slot in range(scenario.slots):
            here = [place for place, task in enumerate(mine) if episode.slot_N[task] == slot]
            before = [place for place, task in enumerate(mine) if episode.slot_N[task] < slot]
            if here:
                later_TB[slot, server] = np.mean([delayed(place) for place in here])
            elif before and done_s[mine[before[-1]]] > slot * scenario.slot_s:
                later_TB[slot, server] = delayed(before[-1])
    ahead_SB = np.zeros((episode.servers, episode.servers))
    if scenario.task_arrivals == "slotted":
        for station in range(episode.servers):
            first = [
                np.flatnonzero((episode.slot_N == slot) & (episode.origin_N == station))[0]
                for slot in range(scenario.slots)
            ]
            for task in first:
                for other in np.flatnonzero(episode.slot_N == episode.slot_N[task]):
                    if other < task:
                        ahead_SB[station, server_N[other]] += episode.work_N[other] / len(first)
    return later_TB, ahead_SB


def test_learned_rules_beat_the_selfish_reference_when_overloaded() -> None:
    scenario = Scenario(name="busy", servers=6, slots=30, capacity_range=(8, 40))
    priced = ShadowPrice(kappa=1.0).fit(scenario, np.random.default_rng(7), rounds=25)
    predicting = PredOwn().fit(scenario, np.random.default_rng(7))
    means = defaultdict(list)
    for seed in range(4):
        episode = draw(scenario, np.random.default_rng([9, seed]))
        for rule in (priced, predicting, rules.create("opt_ts")):
            delay_s_N = service_delay_s(episode, np.array(placed(rule, episode)), Discipline())
            means[type(rule).__name__].append(delay_s_N.mean())
    reference = np.mean(means["OptTs"])
    assert np.mean(means["ShadowPrice"]) < 0.85 * reference
    assert np.mean(means["PredOwn"]) == pytest.approx(reference, rel=0.03)


# Least marginal harm has tests, and kernels, of its own.
OURS = [name for name in rules.names() if name != "least_marginal_harm"]


def ready(name: str, scenario: Scenario) -> Dispatcher:
    rule = rules.create(name)
    if isinstance(rule, PredOwn | ShadowPrice):
        return rule.fit(scenario, np.random.default_rng(0), rounds=2, episodes_per_round=1)
    if isinstance(rule, rules.Learns):
        return rule.fit(scenario, np.random.default_rng(0))
    return rule


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", OURS)
def test_no_rule_chooses_a_server_that_it_believes_dead(name: str, scenario: str) -> None:
    rule, episode = ready(name, SCENARIOS[scenario]), episode_of(scenario)
    if name == "opt_ts":  # it sees the true capacity whatever is published
        episode = replace(
            episode, believed_KB=episode.capacity_KB, scenario=episode.scenario.replace(refresh_s=0)
        )
    server_N = placed(rule, episode)
    assert placed(rule, episode) == server_N  # nothing is kept from one episode to the next
    choices = iter(server_N)
    for seen, server in placements(episode, lambda _: next(choices), fresh=False, extrapolate=True):
        assert server in seen.living


@pytest.mark.parametrize("name", rules.names())
def test_a_cluster_that_is_dead_altogether_is_an_error(name: str) -> None:
    gone = tuple(CapacityChange(at_s=3.0, server=server, factor=0.0) for server in range(5))
    scenario = SCENARIOS["slotted"].replace(name="dead", changes=gone)
    episode = draw(scenario, np.random.default_rng(0))
    with pytest.raises(rules.NoServerAlive, match=r"dead: every server is believed dead.*at 3 s"):
        ready(name, scenario).place(episode, np.random.default_rng(0))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("local", {}),
        ("round_robin", {}),
        ("smooth_wrr", {}),
        ("smooth_wrr", {"by_work": True}),
        ("least_queue", {}),
        ("least_queue", {"own": "B"}),
        ("least_expected_delay", {}),
        ("least_expected_delay", {"own": 0}),
        ("least_expected_delay", {"own": "B"}),
        ("least_expected_delay", {"own": "B", "use_capacity": False}),
        ("slow_server_aware", {}),
        ("slow_server_aware", {"alpha": 0.8, "own": 1.0}),
        ("ring", {}),
        ("ring", {"alpha": 0.8}),
    ],
)
def test_a_node_chooses_as_the_compiled_rule_does(
    name: str, options: dict[str, Any], scenario: str
) -> None:
    episode = episode_of(scenario, 5)
    nodes = [
        registry.create(name, rng=np.random.default_rng(0), **options)
        for _ in range(episode.servers)
    ]
    server_N = placed(rules.create(name, **options), episode)
    choices = iter(server_N)
    extrapolate = options.get("use_capacity", True)
    seen_N = placements(episode, lambda _: next(choices), fresh=False, extrapolate=extrapolate)
    for seen, server in seen_N:
        assert nodes[seen.station].decide(seen.observation()).choice == server


def test_options_and_defaults_are_those_of_the_nodes() -> None:
    rng = np.random.default_rng(0)
    for name in registry.names():
        if name not in rules.names():
            continue
        for option in ("own", "alpha", "sample", "ties", "by_work", "use_capacity"):
            default = getattr(rules.create(name), option, None)
            if default is not None:
                registry.create(name, rng=rng, **{option: default})
    assert set(registry.names()) & set(rules.names()) >= {"smooth_wrr", "least_queue", "local"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("greedy", {}, "unknown rule 'greedy'; choose one of local"),
        ("random", {"own": 1}, "rule 'random' has no option own; its options: none"),
        ("shadow_price", {"tables": None}, "no option tables"),
        ("power_of_two", {"sample": "all"}, "sample must be uniform or capacity, not 'all'"),
        ("power_of_two", {"own": -1}, "own must be 0 or more, or B"),
        ("power_of_two", {"own": "two"}, "own must be 0 or more, or B"),
        ("slow_server_aware", {"alpha": 2}, "alpha must be in 0..1, not 2"),
        ("ring", {"alpha": -0.1}, "alpha must be in 0..1, not -0.1"),
        ("least_queue", {"ties": "slowest"}, "ties must be fastest or random"),
        ("least_queue", {"count": "bits"}, "count must be work or tasks"),
        ("water_filling", {"split": "even"}, "split must be random or deficit"),
        ("water_filling", {"arrivals_per_s": 0.0}, "arrivals_per_s must be positive"),
        ("shadow_price", {"kappa": float("nan")}, "kappa must be 0 or more"),
    ],
)
def test_wrong_names_and_options_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rules.create(name, **options)


def test_rules_that_learn_say_so() -> None:
    episode = episode_of("slotted")
    for name in ("pred_own", "shadow_price", "water_filling"):
        with pytest.raises(ValueError, match=rf"{name} needs fit\(\)"):
            rules.create(name).place(episode, np.random.default_rng(0))
    fitted = ready("pred_own", SCENARIOS["slotted"].replace(slots=3))
    with pytest.raises(ValueError, match=r"fitted to \(3, 5\) slots and servers, slotted has"):
        fitted.place(episode, np.random.default_rng(0))
