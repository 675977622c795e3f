"""Water-filling: shares of each slot's expected work that would bring all servers level.

Owns the shares. With backlogs q, capacities f and expected work A, the level L solves
sum_i max(0, L f_i - q_i) = A, and server i gets the share max(0, L f_i - q_i) / A: all that get
any are done at the same time. Every station uses the same shares, so there is no herding although
it ignores what it has placed itself.

Arrays end in their dimension: N tasks, B servers, S stations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numba import njit

from scheduler.simulator.queueing import FloatArray, IntArray
from scheduler.simulator.rules.blind import take_turn
from scheduler.simulator.rules.power_of_two import draw_weighted
from scheduler.simulator.rules.view import Facts, book, facts_of, look_for, open_view, placed
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import Episode, draw

Split = Literal["random", "deficit"]


@dataclass(frozen=True, kw_only=True)
class WaterFilling:
    """Places tasks in the shares that bring all servers level.

    Attributes:
        split: "random": by lottery; "deficit": every station gives the task to the server that is
            furthest behind its share of the station's work.
        carry: deficits last beyond a publication. They hold servers closer to their shares below
            load 1; above it, starting anew is slightly better.
        arrivals_per_s: expected work of all stations, Gcycles/s; None until `fit`.
        extrapolate: published backlogs shrink at the published capacity between publications.
    """

    split: Split = "random"
    carry: bool = False
    arrivals_per_s: float | None = None
    extrapolate: bool = True

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise ValueError(f"split must be random or deficit, not {self.split!r}")
        known = self.arrivals_per_s
        if known is not None and not (math.isfinite(known) and known > 0.0):
            raise ValueError(f"arrivals_per_s must be positive, not {known!r}")

    def fit(
        self, scenario: Scenario, rng: np.random.Generator, *, episodes: int = 16
    ) -> WaterFilling:
        """The same rule with the mean arrivals of episodes that `rng` draws."""
        work = sum(float(draw(scenario, rng).work_N.sum()) for _ in range(episodes))
        duration_s = scenario.slots * scenario.slot_s
        return replace(self, arrivals_per_s=work / (episodes * duration_s))

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws one number for each if split at random.

        Raises:
            ValueError: the mean arrivals are not known.
        """
        if self.arrivals_per_s is None:
            raise ValueError("water_filling needs fit() or arrivals_per_s before it can place")
        scenario = episode.scenario
        expected = self.arrivals_per_s * max(scenario.refresh_s, scenario.slot_s)
        drawn_N = rng.random(episode.tasks if self.split == "random" else 0)
        facts = facts_of(episode, extrapolate=self.extrapolate)
        share_M = np.array([model.share for model in scenario.models] or [1.0])
        return placed(_place(facts, expected * share_M, self.carry, drawn_N), episode)


@njit(cache=True)
def _place(facts: Facts, expected_M: FloatArray, carry: bool, drawn_N: FloatArray) -> IntArray:
    view = open_view(facts)
    models = len(facts.serves_MB)
    share_MB = np.zeros((models, len(view.capacity_B)))
    credit_MSB = np.zeros((models, facts.stations, len(view.capacity_B)))
    looked_s_M, published_s_M = np.full(models, -1.0), np.zeros(models)
    server_N = np.full(len(facts.work_N), -1)
    for task in range(len(server_N)):
        look_for(facts, view, task)
        model = facts.model_N[task]
        if view.clock_s[0] > looked_s_M[model]:
            looked_s_M[model] = view.clock_s[0]
            if not carry and view.clock_s[1] > published_s_M[model]:
                published_s_M[model] = view.clock_s[1]
                credit_MSB[model] = 0.0
            share_MB[model] = shares(view.backlog_B, view.capacity_B, expected_M[model])
        if len(drawn_N) > 0:
            server_N[task] = draw_weighted(share_MB[model], drawn_N[task])
        else:
            credit_B = credit_MSB[model, facts.origin_N[task]]
            server_N[task] = take_turn(credit_B, share_MB[model], facts.work_N[task])
        if server_N[task] < 0:
            break
        book(facts, view, task, server_N[task])
    return server_N


@njit(cache=True)
def shares(backlog_B: FloatArray, capacity_B: FloatArray, expected: float) -> FloatArray:
    """Shares of the expected work that bring the living servers level; all 0 if none lives."""
    filled_B = capacity_B > 0.0
    level_s, falling = 0.0, True
    while falling:
        work, capacity = expected, 0.0
        for server in range(len(filled_B)):
            if filled_B[server]:
                work += backlog_B[server]
                capacity += capacity_B[server]
        if capacity <= 0.0:
            break
        level_s, falling = work / capacity, False
        for server in range(len(filled_B)):
            # A server above the level gets nothing; without its backlog the level is lower.
            if filled_B[server] and backlog_B[server] > level_s * capacity_B[server]:
                filled_B[server], falling = False, True
    share_B = np.zeros(len(backlog_B))
    for server in range(len(backlog_B)):
        if filled_B[server]:
            room = level_s * capacity_B[server] - backlog_B[server]
            share_B[server] = max(room, 0.0) / expected
    return share_B
