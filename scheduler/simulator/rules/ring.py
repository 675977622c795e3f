"""Stations that see the same old report divide the servers by their places in a ring.

Owns what a simulated station knows of the traffic: what arrived up to the last publication, as the
stations of LAD-TS+ do. Arrays end in their dimension: N tasks, B servers, S stations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from scheduler.policies.heuristics import DEEP_TASKS, RING_OWN_TASKS, RING_TURN_TASKS
from scheduler.simulator.queueing import FloatArray, IntArray
from scheduler.simulator.rules.greedy import cheapest
from scheduler.simulator.rules.view import Facts, View, book, facts_of, look_for, open_view, placed
from scheduler.simulator.workload import Episode

# Until so many mean tasks could have been served, the load is taken to be nearer to 1.
LOAD_PRIOR_SERVICES = 10.0


@dataclass(frozen=True, kw_only=True)
class Ring:
    """As `scheduler.policies.heuristics.ring`, with the traffic of each model by itself.

    Attributes:
        alpha: 0..1, the part of the task's own work that counts where a server will idle soon.
        extrapolate: published backlogs shrink at the published capacity between publications.
    """

    alpha: float = 0.3
    extrapolate: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha must be in 0..1, not {self.alpha}")

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws nothing."""
        facts = facts_of(episode, extrapolate=self.extrapolate)
        place_SB = np.arange(episode.servers) - np.arange(facts.stations)[:, None]
        turn_SB = (place_SB % episode.servers) / episode.servers
        return placed(_place(facts, self.alpha, turn_SB), episode)


@njit(cache=True)
def _place(facts: Facts, alpha: float, turn_SB: FloatArray) -> IntArray:
    view = open_view(facts)
    nothing_B = np.zeros(len(view.capacity_B))
    server_N = np.full(len(facts.work_N), -1)
    models = len(facts.serves_MB)
    work_M, came_M, first_M = np.zeros(models), np.zeros(models), np.zeros(models)
    own_M, width_M = np.ones(models), np.zeros(models)
    published_s_M = np.full(models, -1.0)
    for task in range(len(server_N)):
        look_for(facts, view, task)
        model = facts.model_N[task]
        if view.clock_s[1] != published_s_M[model]:
            published_s_M[model] = view.clock_s[1]
            if came_M[model] == 0.0:
                first_M[model] = facts.work_N[task]
            mean_work = (work_M[model] + first_M[model]) / (came_M[model] + 1.0)
            own_M[model], width_M[model] = _terms(facts, view, work_M[model], mean_work)
        own, width, origin = own_M[model], width_M[model], facts.origin_N[task]
        weights = (own, alpha, DEEP_TASKS, np.inf)
        server_N[task] = cheapest(facts, view, task, weights, width * turn_SB[origin], nothing_B)
        if server_N[task] < 0:
            break
        work_M[model] += facts.work_N[task]
        came_M[model] += 1.0
        book(facts, view, task, server_N[task])
    return server_N


@njit(cache=True)
def _terms(facts: Facts, view: View, work: float, mean_work: float) -> tuple[float, float]:
    """The same as `ring_terms` of the policy, from the work that had come by the publication."""
    capacity, living = 0.0, 0
    for server in range(len(view.capacity_B)):
        capacity += view.capacity_B[server]
        living += view.capacity_B[server] > 0.0
    if facts.stations == 1 or capacity <= 0.0 or mean_work <= 0.0:
        return 1.0, 0.0
    prior_s = facts.refresh_s + LOAD_PRIOR_SERVICES * mean_work * living / capacity
    load = (work / capacity + prior_s) / (view.clock_s[1] + prior_s)
    unseen = load * capacity / mean_work * facts.refresh_s
    of_each = unseen / facts.stations
    own = 1.0 + (facts.stations - 1) * of_each / (of_each + RING_OWN_TASKS)
    turns = RING_TURN_TASKS * unseen / (1.0 + unseen)
    return own, (own - 1.0 + turns) * mean_work
