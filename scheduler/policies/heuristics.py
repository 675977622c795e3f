"""Placement rules that learn nothing: the baselines, and what stands in for a learned policy.

Owns the rules and their ties; keeps no queue state beyond round robin's turns. Arrays end in
their dimension: B is the number of candidates.

Ties. A rule that minimises a cost gives equal costs to the larger capacity, then to the local
node, then to the earlier in `node_ids`. Random rules leave everything to their generator.

Names, options and choices are those of the compiled rules in `scheduler.simulator.rules`, which a
test compares; rules that only a simulator can have (the true state, tables learned from whole
episodes) are missing here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from scheduler.observation import FloatArray, Observation, Traffic
from scheduler.policy import Decision, Outcome, Policy

Own = float | Literal["B"]
Sample = Literal["uniform", "capacity"]
Ties = Literal["fastest", "random"]

# Of `slow_server_aware`, in tasks like the one at hand: with more in front of every node, none
# will idle soon; with more own unseen ones for every candidate, a node balances by itself.
DEEP_TASKS = 3.0
OWN_SPREAD_TASKS = 4.0
# Whose turns are kept, though they are no candidates of the task at hand.
NODES_REMEMBERED_MAX = 1000

# Of `ring`: tasks of one node in a report period at which what it has placed itself counts half for
# the others, and mean tasks that a whole turn is worth besides.
RING_OWN_TASKS = 3.0
RING_TURN_TASKS = 0.5


def check_own(own: Own) -> None:
    """Refuses a weight of own unseen work that means nothing.

    Raises:
        ValueError: `own` is neither 0 or more nor "B".
    """
    if own != "B" and (isinstance(own, str) or not (math.isfinite(own) and own >= 0.0)):
        raise ValueError(f"own must be 0 or more, or B for the number of dispatchers, not {own!r}")


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
        if len(last_turn) >= NODES_REMEMBERED_MAX:
            for absent in last_turn.keys() - set(observation.node_ids):
                del last_turn[absent]
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
        return _by_capacity(np.flatnonzero(observation.alive_B), observation, rng)

    return FixedRule("capacity_random", choose)


def smooth_wrr(*, rng: np.random.Generator, by_work: float = False) -> Policy:
    """Smooth weighted round robin by capacity (nginx's); needs no queue state.

    Each turn gives every alive candidate its capacity as credit; the one with most credit, the
    earlier of equal ones, takes the task and pays what all were given. Credit is kept by node id,
    through tasks that the node is no candidate of, and ends when it dies or has no capacity.
    Weights are equal while no alive candidate has a measured capacity.

    Args:
        rng: unused; every policy is built with one.
        by_work: if not 0, credit is counted in work instead of tasks, so that large tasks are
            spread as well.
    """
    credit: dict[str, float] = {}

    def choose(observation: Observation) -> int:
        alive = [int(index) for index in np.flatnonzero(observation.alive_B)]
        ids = observation.node_ids
        weights = {index: float(observation.capacity_B[index]) for index in alive}
        weights = {index: weight for index, weight in weights.items() if weight > 0.0}
        if not weights:
            weights = dict.fromkeys(alive, 1.0)
        gone = set(ids) - {ids[index] for index in weights}
        if len(credit) >= NODES_REMEMBERED_MAX:
            gone |= credit.keys() - set(ids)
        for node_id in gone & credit.keys():
            del credit[node_id]
        price = observation.work if by_work else 1.0
        for index, weight in weights.items():
            credit[ids[index]] = credit.get(ids[index], 0.0) + price * weight
        choice = max(weights, key=lambda index: (credit[ids[index]], -index))
        credit[ids[choice]] -= price * sum(weights.values())
        return choice

    return FixedRule("smooth_wrr", choose)


def power_of_two(*, rng: np.random.Generator, sample: Sample = "uniform", own: Own = 1.0) -> Policy:
    """Of two different alive candidates, drawn at random, the smaller (backlog + m own + w) / f.

    The link is left out, as in the reference results; a tie goes to the first drawn.

    Args:
        rng: draws the two.
        sample: "uniform", or with probability proportional to "capacity", the second among the
            others.
        own: m; see `least_expected_delay`.

    Raises:
        ValueError: an option is out of range.
    """
    check_own(own)
    if sample not in get_args(Sample):
        raise ValueError(f"sample must be uniform or capacity, not {sample!r}")

    def choose(observation: Observation) -> int:
        alive = np.flatnonzero(observation.alive_B)
        if len(alive) == 1:
            return int(alive[0])
        if sample == "capacity":
            first = _by_capacity(alive, observation, rng)
            pair = first, _by_capacity(alive[alive != first], observation, rng)
        else:
            one = int(rng.integers(len(alive)))
            other = int(rng.integers(len(alive) - 1))
            other += other >= one  # skips the first: without replacement
            pair = int(alive[one]), int(alive[other])
        queue_s_B = _service_s(_queue_B(observation, own) + observation.work, observation)
        return min(pair, key=lambda index: float(queue_s_B[index]))

    return FixedRule("power_of_two", choose)


def least_queue(*, rng: np.random.Generator, ties: Ties = "fastest", own: Own = 1.0) -> Policy:
    """The alive candidate with the least backlog + m own, whatever its speed.

    Args:
        rng: decides between equals if `ties` is "random".
        ties: "fastest" as in the module docstring, or "random".
        own: m; see `least_expected_delay`.

    Raises:
        ValueError: an option is out of range.
    """
    check_own(own)
    if ties not in get_args(Ties):
        raise ValueError(f"ties must be fastest or random, not {ties!r}")

    def choose(observation: Observation) -> int:
        queue_B = _able(_queue_B(observation, own), observation)
        if ties == "fastest":
            return _cheapest(queue_B, observation)
        least = queue_B[observation.alive_B].min()
        tied = np.flatnonzero(observation.alive_B & (queue_B == least))
        return int(tied[rng.integers(len(tied))])

    return FixedRule("least_queue", choose)


def least_expected_delay(
    *, rng: np.random.Generator, own: Own = 1.0, use_capacity: float = True
) -> Policy:
    """Greedy: argmin (backlog + m own + w) / f + link, the delay of this task and of no other.

    Args:
        rng: unused; every policy is built with one.
        own: m, how often own unseen work counts: 0 herds to what was idle at the last report, 1
            is what this node knows, "B" counts it for every node that places tasks at present,
            because who sees the same reports decides the same.
        use_capacity: if 0, speeds and links are ignored: argmin backlog + m own, ties to the
            local node, then to the earlier.

    Raises:
        ValueError: `own` is out of range.
    """
    check_own(own)

    def choose(observation: Observation) -> int:
        load_B = _queue_B(observation, own) + observation.work
        if use_capacity:
            return _cheapest(_service_s(load_B, observation) + observation.link_s_B, observation)
        unknown = replace(observation, capacity_B=np.ones(len(load_B)))
        return _cheapest(_able(load_B, observation), unknown)

    return FixedRule("least_expected_delay", choose)


def slow_server_aware(*, rng: np.random.Generator, alpha: float = 0.3, own: Own = "B") -> Policy:
    """Greedy that uses idle slow nodes earlier: argmin (backlog + D own + alpha w) / f + link.

    D is the number of nodes that place tasks at present: with one, own work counts once; with
    several, each counts its own unseen work for all, or all would herd to the same idle node.

    A greedy task waits for a fast node although a slow one idles, and so delays the tasks behind
    it; discounting the task's own service time moves it to the slow node. The link is not
    discounted: it is a plain delay, as waiting is. So against waiting it counts once, while
    between two idle nodes it counts 1 / alpha times, because the difference of their service
    times is what alpha shrinks: an idle node keeps its task unless a peer saves it more than
    link / alpha seconds of service.

    Two things are otherwise where a burst is much longer than the cluster: where every node has
    more than `DEEP_TASKS` such tasks in front of it, none will idle soon, so alpha is 1; and as a
    node's own unseen tasks become many for every candidate (`OWN_SPREAD_TASKS`), it balances them
    by itself as all others do, and D falls to 1. So a batch of 1000 on five mixed Orins ends after
    1.006 times total work over total capacity (benchmarks/results/cluster_delay_simulated.json).

    Args:
        rng: unused; every policy is built with one.
        alpha: 0..1; ours .3, from simulated Orins in mixed power modes at loads .5 to 1.2.
            1 is `least_expected_delay`; lower values spread earlier over slow nodes, which pays
            at high load and costs tail latency at low load.
        own: "B" is D as said; a number instead counts own unseen work that often.

    Raises:
        ValueError: alpha is outside 0..1, or own out of range.
    """
    check_own(own)
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in 0..1, not {alpha}")

    def choose(observation: Observation) -> int:
        queue_B = _queue_B(observation, _tapered(own, observation))
        load_B = queue_B + _discounted(alpha, queue_B, observation)
        return _cheapest(_service_s(load_B, observation) + observation.link_s_B, observation)

    return FixedRule("slow_server_aware", choose)


def ring(*, rng: np.random.Generator, alpha: float = 0.3) -> Policy:
    """Nodes that hear nothing of each other divide the servers by their places in a ring.

    argmin (backlog + m own + width turn + alpha w) / f + link

    turn is how far round the ring of node ids from this node the server stands, 0 to 1. So nodes
    that see the same old report prefer different ones among servers that are nearly equal, and
    none of them has to be told. m and width follow from the traffic: with many tasks of each node
    in a report period, the others have placed about what this one has, m is the number of nodes
    that place tasks, and the ring is as wide as one such task of each; with few, own work says
    nothing of the others and the ring only breaks ties (`ring_terms`).

    Found by search on simulated clusters of 5 to 40 servers, equal and mixed, with reports .05 to
    2 s old and where all decide at once each second (benchmarks/rules_on_old_reports.py is that
    kind of cluster with other draws). Two things did not help there: filling what others are
    expected to have placed since the report onto the lowest queues, and giving each node its own
    stretch of what is filled. Both need the others' number of tasks, which is chance.

    Args:
        rng: unused; every policy is built with one.
        alpha: as for `slow_server_aware`.

    Raises:
        ValueError: alpha is outside 0..1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in 0..1, not {alpha}")

    def choose(observation: Observation) -> int:
        traffic = observation.traffic or Traffic(mean_work=observation.work)
        own, width = ring_terms(
            traffic,
            capacity=float(observation.capacity_B[observation.alive_B].sum()),
            dispatchers=observation.dispatchers,
        )
        queue_B = observation.backlog_B + own * observation.own_B
        size = len(queue_B)
        turn_B = ((np.arange(size) - observation.own_place) % size) / size
        work = _discounted(alpha, queue_B, observation)
        load_B = queue_B + width * turn_B + work
        return _cheapest(_service_s(load_B, observation) + observation.link_s_B, observation)

    return FixedRule("ring", choose)


def ring_terms(traffic: Traffic, *, capacity: float, dispatchers: int) -> tuple[float, float]:
    """How often `ring` counts own unseen work, and the work that a whole turn is worth.

    Args:
        traffic: as measured.
        capacity: of all candidates, work units per second.
        dispatchers: nodes that place tasks.
    """
    if dispatchers == 1 or not traffic.mean_work > 0.0:
        return 1.0, 0.0
    unseen = traffic.load * capacity / traffic.mean_work * traffic.report_period_s
    of_each = unseen / dispatchers
    own = 1.0 + (dispatchers - 1) * of_each / (of_each + RING_OWN_TASKS)
    turns = RING_TURN_TASKS * unseen / (1.0 + unseen)
    return own, (own - 1.0 + turns) * traffic.mean_work


def _discounted(alpha: float, queue_B: FloatArray, observation: Observation) -> float:
    """The task's own work as it counts: in full where no server will idle soon."""
    ahead_B = np.where(observation.alive_B, _able(queue_B, observation), np.inf)
    deep = ahead_B.min() > DEEP_TASKS * observation.work
    return (1.0 if deep else alpha) * observation.work


def _tapered(own: Own, observation: Observation) -> Own:
    """D, falling to 1 as own unseen tasks become many."""
    if own != "B" or observation.work == 0.0:
        return own
    tasks = float(observation.own_B.sum()) / (observation.work * len(observation.own_B))
    return 1.0 + (observation.dispatchers - 1) / (1.0 + (tasks / OWN_SPREAD_TASKS) ** 2)


def _expected_delay_s(observation: Observation) -> FloatArray:
    load_B = observation.load_B + observation.work
    return _service_s(load_B, observation) + observation.link_s_B


def _queue_B(observation: Observation, own: Own) -> FloatArray:
    """Work in front of the task, own unseen work counted `own` times."""
    if own == "B":
        return observation.crowded_load_B
    return observation.backlog_B + own * observation.own_B


def _able(queue_B: FloatArray, observation: Observation) -> FloatArray:
    """The queues, infinite where no capacity has been measured: such a node comes last."""
    return np.where(observation.capacity_B > 0.0, queue_B, np.inf)


def _by_capacity(
    among: NDArray[np.int64], observation: Observation, rng: np.random.Generator
) -> int:
    """One of these candidates in proportion to capacity; uniformly if none has a measured one."""
    bounds = np.cumsum(observation.capacity_B[among])
    if bounds[-1] <= 0.0:
        return int(among[rng.integers(len(among))])
    # side="right" steps over candidates of capacity 0, whose bound equals their neighbour's.
    drawn = np.searchsorted(bounds, rng.random() * bounds[-1], side="right")
    return int(among[min(int(drawn), len(among) - 1)])


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
