"""A node's policy in simulated episodes: the same class, on the same observations.

Owns what a station knows of a task, as `Observation` has it, and when it hears what became of one.
Slow beside the compiled rules, as each decision is a call in Python, and for any policy. Arrays end
in their dimension: N tasks, B servers, S stations, M models.

Each station has a policy of its own, as each node does. What a simulated station does not have is
left out as a node leaves it out: latents of earlier slots, and of how many tasks backlogs consist.
Outcomes come as first come first served has them, whatever the discipline that delays are measured
under.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from scheduler.observation import Observation, Traffic
from scheduler.policy import Outcome, Policy
from scheduler.simulator.queueing import FloatArray, IntArray
from scheduler.simulator.rules.ring import LOAD_PRIOR_SERVICES
from scheduler.simulator.rules.view import (
    Facts,
    View,
    book,
    facts_of,
    link_s,
    look_for,
    open_view,
    placed,
)
from scheduler.simulator.workload import Episode


class WrongChoice(ValueError):
    """A policy chose what is none of the candidates, or one that is not alive."""


@dataclass(frozen=True)
class LivePolicy:
    """Places by a node's policy.

    Attributes:
        make: makes one in its initial state, by the keyword `rng`.
    """

    make: Callable[..., Policy]

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); each station's policy has a generator of its own.

        Raises:
            WrongChoice: a policy chose what it may not.
        """
        facts = facts_of(episode)
        policies = [self.make(rng=one) for one in rng.spawn(facts.stations)]
        return placed(_place(facts, policies), episode)


def _place(facts: Facts, policies: list[Policy]) -> IntArray:
    view = open_view(facts)
    names = tuple(f"server-{server}" for server in range(len(view.capacity_B)))
    traffic = _Measured(facts, view)
    outcomes = _Outcomes(facts)
    server_N = np.full(len(facts.work_N), -1)
    for task in range(len(server_N)):
        look_for(facts, view, task)
        outcomes.tell(policies, now_s=facts.arrival_s_N[task])
        candidates = np.flatnonzero(facts.serves_MB[facts.model_N[task]])
        if not (view.capacity_B[candidates] > 0.0).any():
            break
        seen = _observation(facts, view, task, candidates, names, traffic.at(task))
        decision = policies[facts.origin_N[task]].decide(seen)
        if not (0 <= decision.choice < len(candidates) and seen.alive_B[decision.choice]):
            raise WrongChoice(
                f"it chose {decision.choice}; the candidates that are alive are "
                f"{', '.join(map(str, np.flatnonzero(seen.alive_B)))}"
            )
        server_N[task] = candidates[decision.choice]
        traffic.came(task)
        book(facts, view, task, server_N[task])
        outcomes.placed(task, server_N[task], view.true_B)
    return server_N


def _observation(
    facts: Facts,
    view: View,
    task: int,
    candidates: IntArray,
    names: tuple[str, ...],
    traffic: Traffic,
) -> Observation:
    origin = int(facts.origin_N[task])
    own = np.flatnonzero(candidates == origin)
    local = int(own[0]) if len(own) else None
    age_s = facts.arrival_s_N[task] - view.clock_s[1] if facts.refresh_s > 0.0 else 0.0
    staleness_s_B = np.full(len(candidates), float(age_s))
    if local is not None:
        staleness_s_B[local] = 0.0
    return Observation(
        node_ids=tuple(names[server] for server in candidates),
        local=local,
        work=float(facts.work_N[task]),
        input_bits=int(facts.input_mbit_N[task] * 1e6),
        backlog_B=view.backlog_B[candidates],
        own_B=view.own_SB[origin, candidates],
        capacity_B=view.capacity_B[candidates],
        link_s_B=np.array([link_s(facts, task, int(server)) for server in candidates]),
        staleness_s_B=staleness_s_B,
        alive_B=view.capacity_B[candidates] > 0.0,
        dispatchers=facts.stations,
        traffic=traffic,
        ring_place=0.0 if local is not None else float(np.searchsorted(candidates, origin)),
    )


class _Measured:
    """What stations know of the traffic: all that came up to the last publication, by model."""

    def __init__(self, facts: Facts, view: View) -> None:
        models = len(facts.serves_MB)
        self._facts, self._view = facts, view
        self._work_M, self._came_M, self._first_M = np.zeros((3, models))
        self._known: dict[int, tuple[float, Traffic]] = {}

    def at(self, task: int) -> Traffic:
        facts, view = self._facts, self._view
        model, published_s = int(facts.model_N[task]), float(view.clock_s[1])
        known = self._known.get(model)
        if known is None or known[0] != published_s:
            known = self._known[model] = (published_s, self._measured(task, model))
        return known[1]

    def _measured(self, task: int, model: int) -> Traffic:
        facts, view = self._facts, self._view
        if self._came_M[model] == 0.0:
            self._first_M[model] = facts.work_N[task]
        work = self._work_M[model]
        mean_work = float((work + self._first_M[model]) / (self._came_M[model] + 1.0))
        capacity = float(view.capacity_B.sum())
        living = int((view.capacity_B > 0.0).sum())
        # Until some tasks could have been served, the load is taken to be nearer to 1.
        prior_s = facts.refresh_s + LOAD_PRIOR_SERVICES * mean_work * living / capacity
        load = float((work / capacity + prior_s) / (view.clock_s[1] + prior_s))
        return Traffic(mean_work=mean_work, load=load, report_period_s=facts.refresh_s)

    def came(self, task: int) -> None:
        model = self._facts.model_N[task]
        self._work_M[model] += self._facts.work_N[task]
        self._came_M[model] += 1.0


@dataclass
class _Outcomes:
    """Ends of tasks that their stations have not heard of yet, the first one first."""

    facts: Facts
    due: list[tuple[float, int, float]] = field(default_factory=list)

    def placed(self, task: int, server: int, true_B: FloatArray) -> None:
        facts = self.facts
        arrived_s = float(facts.arrival_s_N[task])
        served_s = _drained_s(facts, server, arrived_s, float(true_B[server]))
        ended_s = served_s + float(link_s(facts, task, server))
        if math.isfinite(ended_s):
            heapq.heappush(self.due, (ended_s, task, ended_s - arrived_s))

    def tell(self, policies: list[Policy], *, now_s: float) -> None:
        while self.due and self.due[0][0] <= now_s:
            _, task, delay_s = heapq.heappop(self.due)
            outcome = Outcome(decision_id=str(task), service_delay_s=delay_s, completed=True)
            policies[self.facts.origin_N[task]].record(outcome)


def _drained_s(facts: Facts, server: int, now_s: float, work: float) -> float:
    """When a server has done that much work; inf if never."""
    stretch = int(np.searchsorted(facts.since_s_K, now_s, side="right")) - 1
    while True:
        capacity = float(facts.capacity_KB[stretch, server])
        last = stretch + 1 == len(facts.since_s_K)
        until_s = math.inf if last else float(facts.since_s_K[stretch + 1])
        if capacity > 0.0 and now_s + work / capacity <= until_s:
            return now_s + work / capacity
        if last:
            return math.inf
        work -= capacity * (until_s - now_s)
        now_s, stretch = until_s, stretch + 1
