from __future__ import annotations

import numpy as np
import pytest

from scheduler.simulator.bounds import mean_delay_bound_s, serve_pooled
from scheduler.simulator.marginal_harm import LeastMarginalHarm
from scheduler.simulator.queueing import IntArray
from scheduler.simulator.scenario import CapacityChange, Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, draw

SMALL = Scenario(
    name="small",
    servers=4,
    capacities=(5.0, 3.0, 2.0, 1.0),
    tasks_per_slot_max=4,
    slots=12,
    tasks_by_index=False,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("task_arrivals", ["slotted", "poisson"])
def test_agrees_with_trying_every_server(task_arrivals: str) -> None:
    load = 1.5 if task_arrivals == "poisson" else None
    scenario = SMALL.replace(task_arrivals=task_arrivals, load=load)
    for seed in range(4):
        episode = draw(scenario, np.random.default_rng(seed))
        placed = LeastMarginalHarm(fresh=True).place(episode, rng())
        assert placed.tolist() == tried(episode).tolist()


def test_a_single_dispatcher_knows_what_it_placed() -> None:
    # Between reports nobody else places anything: as good as the truth, however old the report.
    scenario = SMALL.replace(dispatchers="first", tasks_per_slot_max=16)
    for refresh_s in (1.0, 5.0, 0.3):
        episode = draw(scenario.replace(refresh_s=refresh_s), rng())
        stale = LeastMarginalHarm(fresh=False, own_multiplier=1.0).place(episode, rng())
        assert stale.tolist() == LeastMarginalHarm(fresh=True).place(episode, rng()).tolist()


def test_queues_grow_beyond_their_first_places() -> None:
    scenario = SMALL.replace(servers=1, capacities=(0.5,), tasks_per_slot_max=60)
    episode = draw(scenario, rng())
    rule = LeastMarginalHarm(fresh=False, own_multiplier=1.0)
    assert rule.place(episode, rng()).tolist() == [0] * episode.tasks


def test_a_server_reported_away_is_not_chosen() -> None:
    outage = (
        CapacityChange(at_s=3.0, server=0, factor=0.0),
        CapacityChange(at_s=8.0, server=0, factor=1.0),
    )
    episode = draw(SMALL.replace(changes=outage), rng())
    away_N = (episode.arrival_s_N >= 3.0) & (episode.arrival_s_N < 8.0)
    for rule in (LeastMarginalHarm(fresh=True), LeastMarginalHarm(own_multiplier=4.0)):
        server_N = rule.place(episode, rng())
        assert (server_N[away_N] != 0).all()
        assert (server_N[~away_N] == 0).any()
    believed = draw(SMALL.replace(changes=outage, capacity_published=False), rng())
    assert (LeastMarginalHarm(fresh=True).place(believed, rng())[away_N] == 0).any()


def test_least_marginal_harm_comes_close_to_the_bound() -> None:
    rules = LeastMarginalHarm(fresh=True), LeastMarginalHarm(own_multiplier=20.0)
    ratios = []
    for seed in range(3):
        episode = draw(Scenario(name="default"), np.random.default_rng(seed))
        delays_s = [
            service_delay_s(episode, rule.place(episode, rng()), Discipline(order="srpt")).mean()
            for rule in rules
        ]
        ratios.append(np.array(delays_s) / mean_delay_bound_s(episode).mean_s)
    fresh, reported = np.mean(ratios, axis=0)
    assert 1.0 < fresh < 1.012
    assert fresh < reported < 1.02


def test_own_tasks_may_be_forgotten_but_not_held_against_others() -> None:
    episode = draw(Scenario(name="default"), rng())
    delays_s = [
        service_delay_s(
            episode,
            LeastMarginalHarm(own_multiplier=times).place(episode, rng()),
            Discipline(order="srpt"),
        ).mean()
        for times in (0.0, 20.0)
    ]
    assert delays_s[0] > 1.3 * delays_s[1]
    for wrong in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="own_multiplier"):
            LeastMarginalHarm(own_multiplier=wrong)


def tried(episode: Episode) -> IntArray:
    """Puts every task on each server in turn and adds up all delays, as if none came after."""
    server_N = np.full(episode.tasks, -1)
    for task in range(episode.tasks):
        added_s = []
        for server in range(episode.servers):
            others = np.flatnonzero(server_N == server)
            link_s = episode.transfer_s(np.full(episode.tasks, server))[task]
            with_it = total_s(episode, np.append(others, task), server)
            added_s.append(with_it - total_s(episode, others, server) + link_s)
        server_N[task] = int(np.argmin(added_s))
    return server_N


def total_s(episode: Episode, tasks: IntArray, server: int) -> float:
    arrival_s, work = episode.arrival_s_N[tasks], episode.work_N[tasks]
    capacity_K = episode.capacity_KB[:, server]
    done_s, _ = serve_pooled(arrival_s, work, episode.since_s_K, capacity_K, True)
    return float((done_s - arrival_s).sum())
