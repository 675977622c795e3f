"""Power of two choices: of two servers drawn at random, the one that would be done sooner.

Arrays end in their dimension: N tasks, B servers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numba import njit

from scheduler.policies.heuristics import Own, check_own
from scheduler.simulator.queueing import FloatArray, IntArray
from scheduler.simulator.rules.view import (
    Facts,
    book,
    facts_of,
    look_for,
    open_view,
    own_weight,
    placed,
)
from scheduler.simulator.workload import Episode

Sample = Literal["uniform", "capacity"]


@dataclass(frozen=True, kw_only=True)
class PowerOfTwo:
    """Of two different living servers the smaller (backlog + m own + w) / f.

    The link is left out, as in the reference results; a tie goes to the first drawn.

    Attributes:
        sample: how the two are drawn: "uniform", or with probability proportional to published
            "capacity", the second among the others.
        own: how often own unseen work counts; see `LeastExpectedDelay`.
        fresh: the true state instead of the published one.
        extrapolate: published backlogs shrink at the published capacity between publications.
    """

    sample: Sample = "uniform"
    own: Own = 1.0
    fresh: bool = False
    extrapolate: bool = True

    def __post_init__(self) -> None:
        check_own(self.own)
        if self.sample not in get_args(Sample):
            raise ValueError(f"sample must be uniform or capacity, not {self.sample!r}")

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws two numbers for each."""
        facts = facts_of(episode, fresh=self.fresh, extrapolate=self.extrapolate)
        own = own_weight(self.own, episode.scenario)
        drawn_N2 = rng.random((episode.tasks, 2))
        return placed(_place(facts, own, self.sample == "capacity", drawn_N2), episode)


@njit(cache=True)
def _place(facts: Facts, own: float, by_capacity: bool, drawn_N2: FloatArray) -> IntArray:
    view = open_view(facts)
    weight_B = np.empty(len(view.capacity_B))
    server_N = np.full(len(facts.work_N), -1)
    for task in range(len(server_N)):
        look_for(facts, view, task)
        for server in range(len(weight_B)):
            capacity = view.capacity_B[server]
            weight_B[server] = capacity if by_capacity or capacity <= 0.0 else 1.0
        best = draw_weighted(weight_B, drawn_N2[task, 0])
        if best < 0:
            break
        weight_B[best] = 0.0
        second = draw_weighted(weight_B, drawn_N2[task, 1])
        if second >= 0:
            own_B = view.own_SB[facts.origin_N[task]]
            ahead = view.backlog_B[best] + own * own_B[best] + facts.work_N[task]
            other = view.backlog_B[second] + own * own_B[second] + facts.work_N[task]
            if other / view.capacity_B[second] < ahead / view.capacity_B[best]:
                best = second
        server_N[task] = best
        book(facts, view, task, best)
    return server_N


@njit(cache=True)
def draw_weighted(weight_B: FloatArray, drawn: float) -> int:
    """Index drawn in proportion to the weights, from `drawn` in [0, 1); -1 if all are 0."""
    total = 0.0
    for weight in weight_B:
        total += weight
    left, chosen = drawn * total, -1
    for index in range(len(weight_B)):
        if weight_B[index] > 0.0:
            chosen = index  # the last one, should rounding leave something over
            left -= weight_B[index]
            if left < 0.0:
                break
    return chosen
