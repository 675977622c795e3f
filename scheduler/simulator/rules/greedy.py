"""Rules that place a task where its expected delay is least, by their picture of the queues.

Owns the one kernel behind them: station s places a task of work w on the server of least

    (backlog + m own_s + ahead_s + a w) / f + link + price w / f,

where own is the station's unseen work, ahead what it expects of other stations, and price what
work costs the tasks that come after it. Ties go to the larger capacity, then to the local server,
then to the earlier.

Arrays end in their dimension: N tasks, B servers, S stations, T slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from scheduler.policies.heuristics import DEEP_TASKS, OWN_SPREAD_TASKS, Own, check_own
from scheduler.simulator.queueing import FloatArray, IntArray, drain
from scheduler.simulator.rules.view import (
    Facts,
    View,
    book,
    facts_of,
    link_s,
    look_for,
    open_view,
    own_weight,
    placed,
    preferred,
    stations,
)
from scheduler.simulator.workload import BoolArray, Episode


@dataclass(frozen=True, kw_only=True)
class LeastExpectedDelay:
    """Greedy: the least expected delay of this task, on published state.

    Attributes:
        own: how often a station counts its own work that the published state has not seen. 0:
            all stations herd to what was idle; 1: the truth as far as it is known; "B": once for
            every station, for those who see the same state decide the same.
        use_capacity: without it the servers' speeds and links are unknown and the smallest
            queue is chosen: argmin backlog + m own; then nothing is extrapolated either.
        fresh: the true state instead of the published one.
        extrapolate: published backlogs shrink at the published capacity between publications.
    """

    own: Own = 1.0
    use_capacity: bool = True
    fresh: bool = False
    extrapolate: bool = True

    def __post_init__(self) -> None:
        check_own(self.own)

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws nothing."""
        facts = facts_of(
            episode, fresh=self.fresh, extrapolate=self.extrapolate and self.use_capacity
        )
        if not self.use_capacity:
            facts = facts._replace(
                believed_KB=(facts.believed_KB > 0.0).astype(np.float64),
                link_mbit_s_B=np.full(episode.servers, np.inf),
            )
        return place_cheapest(episode, facts, own=own_weight(self.own, episode.scenario))


@dataclass(frozen=True, kw_only=True)
class SlowServerAware:
    """Greedy that uses idle slow servers earlier: argmin (backlog + m own + alpha w) / f + link.

    As `scheduler.policies.heuristics.slow_server_aware`: alpha is 1 where every server has much to
    do, and m falls to 1 as a station's own unseen tasks become many.

    Attributes:
        alpha: 0..1; ours .3, from simulated Orins in mixed power modes. 1 is
            `LeastExpectedDelay`; lower values spread earlier over slow servers.
        own, fresh, extrapolate: as for `LeastExpectedDelay`; m falls only from "B".
    """

    alpha: float = 0.3
    own: Own = "B"
    fresh: bool = False
    extrapolate: bool = True

    def __post_init__(self) -> None:
        check_own(self.own)
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha must be in 0..1, not {self.alpha}")

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws nothing."""
        facts = facts_of(episode, fresh=self.fresh, extrapolate=self.extrapolate)
        own = own_weight(self.own, episode.scenario)
        spread = OWN_SPREAD_TASKS if self.own == "B" else math.inf
        return place_cheapest(
            episode, facts, own=own, discount=self.alpha, deep_tasks=DEEP_TASKS, spread=spread
        )


@dataclass(frozen=True, kw_only=True)
class OptTs:
    """The paper's Opt-TS: every task minimises its own delay on the true state.

    It knows true backlogs and capacities at the instant of each decision, whatever is published,
    but not when capacities will change. Selfish, so not optimal. `LeastExpectedDelay(fresh=True)`
    chooses the same but for costs that are equal within rounding: here divisions by capacity are
    replaced by products, as this reference is run for every comparison.
    """

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws nothing."""
        return placed(
            _place_opt_ts(
                episode.arrival_s_N,
                episode.origin_N,
                episode.work_N,
                episode.input_mbit_N,
                episode.result_mbit_N,
                episode.link_mbit_s_B,
                episode.since_s_K,
                episode.capacity_KB,
                episode.model_N,
                episode.serves_MB,
            ),
            episode,
        )


def place_cheapest(
    episode: Episode,
    facts: Facts,
    *,
    own: float,
    discount: float = 1.0,
    ahead_SB: FloatArray | None = None,
    price_TB: FloatArray | None = None,
    deep_tasks: float = math.inf,
    spread: float = math.inf,
) -> IntArray:
    """Runs the kernel of the module docstring; discount is its a, own its m.

    Where every server has more than `deep_tasks` such tasks in front of it, a is 1; as own unseen
    tasks per server exceed `spread`, m falls to 1.
    """
    if ahead_SB is None:
        ahead_SB = np.zeros((stations(episode.scenario), episode.servers))
    if price_TB is None:
        price_TB = np.zeros((episode.scenario.slots, episode.servers))
    weights = (own, discount, deep_tasks, spread)
    return placed(_place_cheapest(facts, weights, ahead_SB, price_TB), episode)


@njit(cache=True)
def cheapest(
    facts: Facts,
    view: View,
    task: int,
    weights: tuple[float, float, float, float],
    ahead_B: FloatArray,
    price_B: FloatArray,
) -> int:
    """Server of least cost for a task as the view shows it; -1 if all are believed dead.

    `weights` are m, a, and what `place_cheapest` says of deep_tasks and spread.
    """
    origin, work = facts.origin_N[task], facts.work_N[task]
    own, discount, deep_tasks, spread = weights
    if spread < np.inf and work > 0.0:
        own_tasks = _own_work(facts, view, task) / work
        own = 1.0 + (own - 1.0) / (1.0 + (own_tasks / spread) ** 2)
    if deep_tasks < np.inf and _least_tasks(view, origin, work, own) > deep_tasks:
        discount = 1.0
    best, least_s = -1, np.inf
    for server in range(len(view.capacity_B)):
        capacity = view.capacity_B[server]
        if capacity <= 0.0:
            continue
        queue = view.backlog_B[server] + own * view.own_SB[origin, server] + ahead_B[server]
        cost_s = (queue + discount * work) / capacity + link_s(facts, task, server)
        cost_s += price_B[server] * work / capacity
        if cost_s < least_s or (
            cost_s == least_s and preferred(server, best, view.capacity_B, origin)
        ):
            best, least_s = server, cost_s
    return best


@njit(cache=True)
def _own_work(facts: Facts, view: View, task: int) -> float:
    """The station's unseen work by the number of servers that draw the task's model."""
    own_B, model = view.own_SB[facts.origin_N[task]], facts.model_N[task]
    if facts.serves_all:
        return float(own_B.sum() / len(own_B))
    work, servers = 0.0, 0
    for server in range(len(own_B)):
        if facts.serves_MB[model, server]:
            work += own_B[server]
            servers += 1
    return work / servers


@njit(cache=True)
def _least_tasks(view: View, origin: int, work: float, own: float) -> float:
    """Tasks of `work` in front of the server that has the fewest."""
    least = np.inf
    for server in range(len(view.capacity_B)):
        if view.capacity_B[server] > 0.0:
            queue = view.backlog_B[server] + own * view.own_SB[origin, server]
            least = min(least, queue / work if work > 0.0 else np.inf)
    return least


@njit(cache=True)
def _place_cheapest(
    facts: Facts,
    weights: tuple[float, float, float, float],
    ahead_SB: FloatArray,
    price_TB: FloatArray,
) -> IntArray:
    view = open_view(facts)
    server_N = np.empty(len(facts.work_N), np.int64)
    for task in range(len(server_N)):
        look_for(facts, view, task)
        ahead_B, price_B = ahead_SB[facts.origin_N[task]], price_TB[facts.slot_N[task]]
        server_N[task] = cheapest(facts, view, task, weights, ahead_B, price_B)
        if server_N[task] < 0:
            break
        book(facts, view, task, server_N[task])
    return server_N


@njit(cache=True)
def _place_opt_ts(
    arrival_s_N: FloatArray,
    origin_N: IntArray,
    work_N: FloatArray,
    input_mbit_N: FloatArray,
    result_mbit_N: FloatArray,
    link_mbit_s_B: FloatArray,
    since_s_K: FloatArray,
    capacity_KB: FloatArray,
    model_N: IntArray,
    serves_MB: BoolArray,
) -> IntArray:
    servers = len(link_mbit_s_B)
    backlog_B = np.zeros(servers)
    per_mbit_s_B = 1.0 / link_mbit_s_B
    per_work_s_B = 1.0 / capacity_KB[0]  # infinite for a dead server
    cost_s_B = np.empty(servers)
    server_N = np.empty(len(work_N), np.int64)
    now_s, serves_all = 0.0, serves_MB.all()
    for task in range(len(work_N)):
        if arrival_s_N[task] > now_s:
            drain(backlog_B, now_s, arrival_s_N[task], since_s_K, capacity_KB)
            now_s = arrival_s_N[task]
            stretch = np.searchsorted(since_s_K, now_s, side="right") - 1
            per_work_s_B = 1.0 / capacity_KB[stretch]
        work, origin = work_N[task], origin_N[task]
        away_mbit = input_mbit_N[task] + result_mbit_N[task]
        # Costs first, then their minimum: the first loop has no branches and is vectorised.
        for server in range(servers):
            waiting_s = (backlog_B[server] + work) * per_work_s_B[server]
            cost_s_B[server] = waiting_s + away_mbit * per_mbit_s_B[server]
        cost_s_B[origin] -= input_mbit_N[task] * per_mbit_s_B[origin]
        if not serves_all:
            for server in range(servers):
                if not serves_MB[model_N[task], server]:
                    cost_s_B[server] = np.inf
        best, least_s = -1, np.inf
        for server in range(servers):
            if cost_s_B[server] < least_s:
                best, least_s = server, cost_s_B[server]
        server_N[task] = best
        if best < 0:
            break
        backlog_B[best] += work
    return server_N
