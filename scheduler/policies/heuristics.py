"""Placement rules that learn nothing: the baselines, and the default of a node.

Owns the rules and their ties; keeps no queue state beyond round robin's turns. Arrays end in
their dimension: B is the number of candidates.

Ties. A rule that minimises a cost gives equal costs to the larger capacity, then to the local
node, then to the earlier in `node_ids`. Random rules leave everything to their generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scheduler.observation import FloatArray, Observation
from scheduler.policy import Decision, Outcome, Policy


class FixedRule:
    """A policy that is a rule under a name and ignores what becomes of its decisions."""

    def __init__(self, name: str, choose: Callable[[Observation], int]) -> None:
        self._name = name
        self._choose = choose

    def decide(self, observation: Observation) -> Decision:
        """Applies the rule."""
        return Decision(choice=self._choose(observation), policy=self._name)

    def record(self, outcome: Outcome) -> None:
        """Learns nothing."""


def local(*, rng: np.random.Generator) -> Policy:
    """Never offloads; where the local node cannot draw, the least expected delay decides."""

    def choose(observation: Observation) -> int:
        own = observation.local
        if own is not None and observation.alive_B[own]:
            return own
        return _cheapest(_expected_delay_s(observation), observation)

    return FixedRule("local", choose)


def random(*, rng: np.random.Generator) -> Policy:
    """Any alive candidate, all equally likely."""

    def choose(observation: Observation) -> int:
        alive = np.flatnonzero(observation.alive_B)
        return int(alive[rng.integers(len(alive))])

    return FixedRule("random", choose)


def round_robin(*, rng: np.random.Generator) -> Policy:
    """The alive candidate whose last turn is longest ago; never chosen comes first.

    Turns are kept by node id, so a node that dies is skipped, one that comes back is owed a
    single turn rather than all it missed, and a reordered list of candidates changes nothing.
    """
    last_turn: dict[str, int] = {}
    turn = 0

    def choose(observation: Observation) -> int:
        nonlocal turn
        for departed in last_turn.keys() - set(observation.node_ids):
            del last_turn[departed]
        turn += 1
        choice = min(
            (int(index) for index in np.flatnonzero(observation.alive_B)),
            key=lambda index: (last_turn.get(observation.node_ids[index], 0), index),
        )
        last_turn[observation.node_ids[choice]] = turn
        return choice

    return FixedRule("round_robin", choose)


def capacity_random(*, rng: np.random.Generator) -> Policy:
    """An alive candidate with probability proportional to its capacity; needs no queue state.

    Uniform while no alive candidate has a measured capacity.
    """

    def choose(observation: Observation) -> int:
        alive = np.flatnonzero(observation.alive_B)
        bounds = np.cumsum(observation.capacity_B[alive])
        if bounds[-1] <= 0.0:
            return int(alive[rng.integers(len(alive))])
        # side="right" steps over candidates of capacity 0, whose bound equals their neighbour's.
        drawn = np.searchsorted(bounds, rng.random() * bounds[-1], side="right")
        return int(alive[min(int(drawn), len(alive) - 1)])

    return FixedRule("capacity_random", choose)


def power_of_two(*, rng: np.random.Generator) -> Policy:
    """Of two different alive candidates, uniformly drawn, the smaller (load + w) / f.

    The link is left out, as in the reference results; a tie goes to the first drawn.
    """

    def choose(observation: Observation) -> int:
        alive = np.flatnonzero(observation.alive_B)
        if len(alive) == 1:
            return int(alive[0])
        first = int(rng.integers(len(alive)))
        second = int(rng.integers(len(alive) - 1))
        second += second >= first  # skips the first: without replacement
        queue_s_B = _service_s(observation.load_B + observation.work, observation)
        pair = int(alive[first]), int(alive[second])
        return min(pair, key=lambda index: float(queue_s_B[index]))

    return FixedRule("power_of_two", choose)


def least_expected_delay(*, rng: np.random.Generator) -> Policy:
    """Greedy: argmin (backlog + own + w) / f + link, the delay of this task and of no other."""

    def choose(observation: Observation) -> int:
        return _cheapest(_expected_delay_s(observation), observation)

    return FixedRule("least_expected_delay", choose)


def slow_server_aware(*, rng: np.random.Generator, alpha: float = 0.3) -> Policy:
    """Greedy that uses idle slow nodes earlier: argmin (backlog + D own + alpha w) / f + link.

    D is the number of nodes that place tasks at present: with one, own work counts once; with
    several, each counts its own unseen work for all, or all would herd to the same idle node.

    A greedy task waits for a fast node although a slow one idles, and so delays the tasks behind
    it; discounting the task's own service time moves it to the slow node. The link is not
    discounted: it is a plain delay, as waiting is. So against waiting it counts once, while
    between two idle nodes it counts 1 / alpha times, because the difference of their service
    times is what alpha shrinks: an idle node keeps its task unless a peer saves it more than
    link / alpha seconds of service.

    Args:
        rng: unused; every policy is built with one.
        alpha: 0..1; ours .3, from simulated Orins in mixed power modes at loads .5 to 1.2.
            1 is `least_expected_delay`; lower values spread earlier over slow nodes, which pays
            at high load and costs tail latency at low load.

    Raises:
        ValueError: alpha is outside 0..1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in 0..1, not {alpha}")

    def choose(observation: Observation) -> int:
        load_B = observation.crowded_load_B + alpha * observation.work
        return _cheapest(_service_s(load_B, observation) + observation.link_s_B, observation)

    return FixedRule("slow_server_aware", choose)


def _expected_delay_s(observation: Observation) -> FloatArray:
    load_B = observation.load_B + observation.work
    return _service_s(load_B, observation) + observation.link_s_B


def _service_s(work_B: FloatArray, observation: Observation) -> FloatArray:
    """Seconds that `work_B` takes; infinite where no capacity has been measured."""
    seconds_B = np.full(len(work_B), np.inf)
    np.divide(work_B, observation.capacity_B, out=seconds_B, where=observation.capacity_B > 0.0)
    return seconds_B


def _cheapest(cost_B: FloatArray, observation: Observation) -> int:
    """Index of the alive candidate of least cost; the module docstring states the ties."""
    alive = np.flatnonzero(observation.alive_B)
    tied = alive[cost_B[alive] == cost_B[alive].min()]
    return min(
        (int(index) for index in tied),
        key=lambda index: (-observation.capacity_B[index], index != observation.local, index),
    )
