"""LAD-TS over sets of servers: what it is paid, what it keeps, and that it learns."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import numpy as np
import pytest
import torch

from scheduler.algorithms.equivariant_lad_ts import (
    HARM_HORIZON,
    EquivariantLadTs,
    EquivariantLadTsConfig,
    later_on_server,
)
from scheduler.learning.choice import Diverged
from scheduler.learning.run_state import restore, snapshot
from scheduler.learning.set_replay import SetReplay
from scheduler.policies.lad_ts_features import CONTEXT, SERVER
from scheduler.simulator import rules
from scheduler.simulator.dispatch import Dispatcher
from scheduler.simulator.queueing import serve_fcfs
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import draw


def test_harm_is_what_later_tasks_wait_longer() -> None:
    """A little more work of one task delays all in its busy period by as much, and no others."""
    rng = np.random.default_rng(1)
    tasks, servers = 300, 4
    arrival_s_N = np.sort(rng.uniform(0.0, 100.0, tasks))
    server_N = rng.integers(0, servers, tasks)
    capacity_KB = rng.uniform(1.0, 3.0, (1, servers))
    work_N = rng.uniform(0.5, 4.0, tasks)
    since_s_K = np.zeros(1)

    def total_s(more_N: np.ndarray) -> tuple[float, np.ndarray]:
        served_s_N = serve_fcfs(arrival_s_N, server_N, work_N + more_N, since_s_K, capacity_KB)
        return float(served_s_N.sum()), served_s_N

    base_s, served_s_N = total_s(np.zeros(tasks))
    # So long a horizon that nothing is discounted.
    unit_s_N = np.full(tasks, 1e9)
    later_N = later_on_server(arrival_s_N, server_N, served_s_N, unit_s_N)
    assert later_N.max() > 5.0 > later_N.min() == 0.0
    for task in range(0, tasks, 7):
        more_N = np.zeros(tasks)
        more_N[task] = 1e-6
        own = 1e-6 / capacity_KB[0, server_N[task]]
        assert (total_s(more_N)[0] - base_s) / own == pytest.approx(1.0 + later_N[task], abs=1e-3)


def test_later_tasks_count_less_by_time() -> None:
    at_s_N = np.array([0.0, 10.0, 30.0])
    later_N = later_on_server(at_s_N, np.zeros(3, np.int64), np.full(3, 50.0), np.full(3, 2.0))
    soon, late = (math.exp(-gap / (HARM_HORIZON * 2.0)) for gap in (10.0, 20.0))
    np.testing.assert_allclose(later_N, [soon * (1.0 + late), late, 0.0])


def some_decisions(
    rng: np.random.Generator, servers: int, count: int, mark: float
) -> dict[str, np.ndarray]:
    return {
        "server_NBV": rng.random((count, servers, len(SERVER))).astype(np.float32),
        "context_NC": np.full((count, len(CONTEXT)), mark, np.float32),
        "latent_NB": np.ones((count, servers), np.float32),
        "action_N": rng.integers(0, servers, count),
        "reward_N": mark + np.arange(count, dtype=np.float64),
    }


def test_a_pool_keeps_clusters_of_any_size_and_who_follows_whom() -> None:
    rng = np.random.default_rng(2)
    pool = SetReplay(50)
    for servers, mark in ((3, 0.0), (5, 100.0), (20, 200.0), (70, 300.0)):
        pool.add(**some_decisions(rng, servers, 30, mark))
    assert len(pool) == 50 + 30 + 30
    seen = set()
    for _ in range(60):
        batch = pool.sample(16, rng, following=True)
        after = batch.following()
        for row in range(16):
            servers = int(batch.present_MB[row].sum())
            seen.add(servers)
            reward, mark = float(batch.reward_M[row]), float(batch.context_MC[row, 0])
            assert {0.0: 3, 100.0: 5, 200.0: 20, 300.0: 70}[mark] == servers
            assert not batch.server_MBV[row, servers:].any()
            assert not batch.latent_MB[row, servers:].any()
            last = reward == mark + 29.0
            assert bool(batch.follows_M[row]) is not last
            if not last:
                assert float(after.reward_M[row]) == reward + 1.0
    assert seen == {3, 5, 20, 70}


TWO_SPEEDS = Scenario(
    name="two_speeds",
    servers=4,
    capacities=(40.0, 40.0, 10.0, 10.0),
    task_arrivals="poisson",
    load=0.8,
    slots=40,
    refresh_s=0.05,
    tasks_by_index=False,
)


@functools.cache
def learned(seed: int, **options: object) -> EquivariantLadTs:
    """Shared by the tests: who changes it takes a copy."""
    given: dict[str, Any] = {"batch": 96, "decisions_per_update": 15, **options}
    config = EquivariantLadTsConfig(**given)
    learner = EquivariantLadTs(TWO_SPEEDS, config, seed=seed)
    for episode in range(8):
        learner.train_episode(draw(TWO_SPEEDS, np.random.default_rng([3, seed, episode])))
    return learner


def mean_delay_s(policy: Dispatcher) -> float:
    total = 0.0
    for episode in range(6):
        arrivals = draw(TWO_SPEEDS, np.random.default_rng([4, episode]))
        server_N = policy.place(arrivals, np.random.default_rng(5))
        total += float(service_delay_s(arrivals, server_N, Discipline(order="fcfs")).mean())
    return total / 6


def test_it_learns_to_place_as_well_as_the_best_rule() -> None:
    """Greedy, which it learns without harm, leaves the slow devices idle and is worse."""
    rule = mean_delay_s(rules.create("slow_server_aware"))
    assert mean_delay_s(learned(0, harm=1.0)) < 1.05 * rule
    untrained = EquivariantLadTs(TWO_SPEEDS, EquivariantLadTsConfig(), seed=0)
    assert mean_delay_s(untrained) > 1.5 * rule


def test_with_bootstrapped_values_it_learns_too() -> None:
    rule = mean_delay_s(rules.create("slow_server_aware"))
    assert mean_delay_s(learned(1, gamma=0.9, decisions_per_update=30)) < 1.5 * rule


def test_a_run_goes_on_from_what_was_kept() -> None:
    once = learned(0, harm=1.0)
    again = EquivariantLadTs(TWO_SPEEDS, once.config, seed=9)
    restore(again.parts(), snapshot(once.parts()))
    arrivals = draw(TWO_SPEEDS, np.random.default_rng(6))
    placed = [one.place(arrivals, np.random.default_rng(7)).tolist() for one in (once, again)]
    assert placed[0] == placed[1]
    assert int(again.updates) == int(once.updates) > 100


def test_a_loss_that_is_no_number_ends_it() -> None:
    learner = copy.deepcopy(learned(0, harm=1.0))
    with torch.no_grad():
        learner.critic.first.bias.fill_(float("nan"))
    with pytest.raises(Diverged):
        learner.update()
