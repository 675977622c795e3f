"""LAD-TS+ through a whole episode at a time: `lad_ts_plus_policy`, compiled.

Owns what a simulated station knows: reports at multiples of the refresh period, its own
dispatches since, the traffic measured up to the last report, its latents. Where servers take short
tasks first, a report also gives the backlog by size class, drained least class first.

Arrays end in their dimension: N tasks, B servers, S stations, C size classes, K stretches of
constant capacity, L latents of a station, M models, X context features, G gains.
"""

from __future__ import annotations

import math
from typing import NamedTuple, get_args

import numpy as np
from numba import njit

from scheduler.policies.heuristics import DEEP_TASKS
from scheduler.policies.lad_ts_plus_policy import (
    BEHIND_UNLEARNED,
    LATENT_STEP,
    LOAD_MAX,
    LOG_PRICE_MAX,
    MEMORY_UNLEARNED,
    RING_UNLEARNED,
    Start,
    Weights,
    price_horizon_s,
)
from scheduler.simulator.queueing import FloatArray, IntArray
from scheduler.simulator.workload import BoolArray, Episode

LATENT_SLOTS_MAX = 256
SIZE_CLASSES = 10
_horizon_s = njit()(price_horizon_s)


class _Tasks(NamedTuple):
    """What arrives, in order."""

    arrival_s_N: FloatArray
    origin_N: IntArray
    index_N: IntArray
    work_N: FloatArray
    input_mbit_N: FloatArray
    model_N: IntArray


class _Servers(NamedTuple):
    """Links, who draws which model, and capacities over time: true, and as stations are told."""

    link_mbit_s_B: FloatArray
    since_s_K: FloatArray
    capacity_KB: FloatArray
    believed_KB: FloatArray
    serves_MB: BoolArray


class _Queues(NamedTuple):
    """Work and tasks by size class: at the servers, in the last report, dispatched since."""

    work_BC: FloatArray
    count_BC: FloatArray
    seen_BC: FloatArray
    seen_count_BC: FloatArray
    own_SBC: FloatArray
    own_count_SBC: FloatArray


class LadTsPlusDispatcher:
    """Places an episode by LAD-TS+ at temperature 0.

    It knows of the tasks only what has arrived, of the servers only the last report.

    Args:
        weights: what was learned.
        price: kappa, 0..1.
        start: as in `scheduler.policies.lad_ts_plus_policy`.
        reorder: servers take short tasks first and report backlog by size class.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        price: float = 0.0,
        start: Start = "memory",
        reorder: bool = False,
    ) -> None:
        if start not in get_args(Start):
            raise ValueError(f"start is {start!r}; it must be one of {', '.join(get_args(Start))}")
        self.weights = weights
        if not 0.0 <= price <= 1.0:
            raise ValueError(f"price is {price}; it must be in 0..1")
        self.price = float(price)
        self.start = start
        self.reorder = reorder

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,)."""
        scenario = episode.scenario
        stations = scenario.servers if scenario.dispatchers == "all" else 1
        memory = self.start == "memory"
        slots = min(int(episode.index_N.max(initial=0)) + 1, LATENT_SLOTS_MAX) if memory else 1
        gains_XG = self.weights.reorder_gains_CG if self.reorder else self.weights.gains_CG
        index_N = np.minimum(episode.index_N, slots - 1)
        return _place(
            _Tasks(
                episode.arrival_s_N,
                episode.origin_N,
                index_N,
                episode.work_N,
                episode.input_mbit_N,
                episode.model_N,
            ),
            _Servers(
                episode.link_mbit_s_B,
                episode.since_s_K,
                episode.capacity_KB,
                episode.believed_KB,
                episode.serves_MB,
            ),
            _empty(stations, episode.servers, SIZE_CLASSES if self.reorder else 1),
            scenario.refresh_s,
            gains_XG,
            self.weights.price_SM,
            self.price,
            np.zeros((len(episode.serves_MB), stations, slots, episode.servers)),
            memory,
            self._turns(stations, episode.servers, rng),
        )

    def _turns(self, stations: int, servers: int, rng: np.random.Generator) -> FloatArray:
        """How far round the ring from each station each server is, 0..1, (S, B)."""
        if self.start == "gaussian":
            return rng.standard_normal((stations, servers))
        place_SB = (np.arange(servers) - np.arange(stations)[:, None]) % servers
        return np.asarray(place_SB / servers, np.float64)


def _empty(stations: int, servers: int, classes: int) -> _Queues:
    shapes = [(servers, classes)] * 4 + [(stations, servers, classes)] * 2
    return _Queues(*(np.zeros(shape) for shape in shapes))


@njit(cache=True, fastmath=True)
def _place(
    tasks: _Tasks,
    servers: _Servers,
    queues: _Queues,
    refresh_s: float,
    gains_XG: FloatArray,
    price_SM: FloatArray,
    price: float,
    latent_MSLB: FloatArray,
    memory: bool,
    turn_SB: FloatArray,
) -> IntArray:
    server_N = np.empty(len(tasks.work_N), np.int64)
    models = len(servers.serves_MB)
    price_MB = np.zeros((models, len(queues.work_BC)))
    believed_MB = np.zeros(price_MB.shape)
    gain_MG, mean_work_M = np.ones((models, 6)), np.ones(models)
    work_M, tasks_M, report_s_M = np.zeros(models), np.zeros(models), np.full(models, -1.0)
    first_M = np.zeros(models)
    now_s, report_s, stretch, seen_stretch, mean_work = 0.0, -1.0, 0, 0, 1.0
    for task in range(len(tasks.work_N)):
        if tasks.arrival_s_N[task] > now_s:
            stretch = _drain_classes(queues, now_s, tasks.arrival_s_N[task], servers, stretch)
            now_s = tasks.arrival_s_N[task]
        report = now_s
        if refresh_s > 0.0:
            report = math.floor(now_s / refresh_s + 1e-9) * refresh_s
        if report != report_s:
            report_s = report
            _report(queues)
            seen_stretch = stretch
            mean_work = (work_M.sum() + tasks.work_N[0]) / (task + 1)
        model = tasks.model_N[task]
        believed_B = believed_MB[model]
        if report_s_M[model] != report_s:
            report_s_M[model] = report_s
            believed_B[:] = servers.believed_KB[seen_stretch] * servers.serves_MB[model]
            if tasks_M[model] == 0.0:
                first_M[model] = tasks.work_N[task]
            mean_work_M[model] = (work_M[model] + first_M[model]) / (tasks_M[model] + 1.0)
            _terms(
                queues.seen_BC.sum(axis=1),
                queues.seen_count_BC.sum(axis=1),
                believed_B,
                latent_MSLB.shape[1],
                work_M[model],
                mean_work_M[model],
                report_s,
                refresh_s,
                price,
                gains_XG,
                price_SM,
                gain_MG[model],
                price_MB[model],
            )
        origin = tasks.origin_N[task]
        latent_B = latent_MSLB[model, origin, tasks.index_N[task]]
        size_class = _size_class(tasks.work_N[task], mean_work, queues.work_BC.shape[1])
        choose = (tasks, task, size_class, now_s - report_s, servers.link_mbit_s_B, believed_B)
        learned = (price_MB[model], gain_MG[model], latent_B, turn_SB[origin])
        if queues.work_BC.shape[1] == 1:
            best = _cheapest(choose, queues, learned)
        else:
            best = _cheapest_by_class(choose, queues, learned)
        if best < 0:
            raise ValueError("no server is believed to work")
        if memory:
            latent_B *= 1.0 - LATENT_STEP
            latent_B[best] += LATENT_STEP
        server_N[task] = best
        work_M[model] += tasks.work_N[task]
        tasks_M[model] += 1.0
        _dispatch(queues, origin, best, size_class, tasks.work_N[task])
    return server_N


@njit(cache=True, fastmath=True)
def _report(queues: _Queues) -> None:
    """The stations see the servers' queues, own dispatches included."""
    queues.seen_BC[:] = queues.work_BC
    queues.seen_count_BC[:] = queues.count_BC
    queues.own_SBC[:] = 0.0
    queues.own_count_SBC[:] = 0.0


@njit(cache=True, fastmath=True)
def _dispatch(queues: _Queues, origin: int, server: int, size_class: int, work: float) -> None:
    queues.work_BC[server, size_class] += work
    queues.count_BC[server, size_class] += 1.0
    queues.own_SBC[origin, server, size_class] += work
    queues.own_count_SBC[origin, server, size_class] += 1.0


@njit(cache=True, fastmath=True)
def _cheapest(
    choose: tuple[_Tasks, int, int, float, FloatArray, FloatArray],
    queues: _Queues,
    learned: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
) -> int:
    """The server of least cost among those believed to work, first come first served."""
    tasks, task, _, age_s, link_mbit_s_B, believed_B = choose
    price_B, gain_G, latent_B, turn_B = learned
    own, ring_work, size, memory = gain_G[0], gain_G[1], gain_G[2], gain_G[3]
    work, origin, seen_BC = tasks.work_N[task], tasks.origin_N[task], queues.seen_BC
    own_BC, input_mbit = queues.own_SBC[origin], tasks.input_mbit_N[task]
    deep = True
    for server in range(len(believed_B)):
        ahead = max(seen_BC[server, 0] - age_s * believed_B[server], 0.0)
        ahead += own * own_BC[server, 0]
        deep = deep and (believed_B[server] <= 0.0 or ahead > DEEP_TASKS * work)
    size = max(size, 1.0) if deep else size
    best, best_s = -1, np.inf
    for server in range(len(believed_B)):
        if believed_B[server] <= 0.0:
            continue
        level = max(seen_BC[server, 0] - age_s * believed_B[server], 0.0) + size * work
        level += own * own_BC[server, 0] + ring_work * (turn_B[server] - memory * latent_B[server])
        cost_s = level / believed_B[server] + work * price_B[server]
        if server != origin:
            cost_s += input_mbit / link_mbit_s_B[server]
        if cost_s < best_s:
            best, best_s = server, cost_s
    return best


@njit(cache=True, fastmath=True)
def _cheapest_by_class(
    choose: tuple[_Tasks, int, int, float, FloatArray, FloatArray],
    queues: _Queues,
    learned: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
) -> int:
    """The same where short tasks go first: what is ahead, and whom the task would delay."""
    tasks, task, size_class, age_s, link_mbit_s_B, believed_B = choose
    price_B, gain_G, latent_B, turn_B = learned
    own, ring_work, size, memory, harm, behind = gain_G
    work, origin, input_mbit = tasks.work_N[task], tasks.origin_N[task], tasks.input_mbit_N[task]
    seen_BC, seen_count_BC = queues.seen_BC, queues.seen_count_BC
    own_BC, own_count_BC = queues.own_SBC[origin], queues.own_count_SBC[origin]
    best, best_s = -1, np.inf
    for server in range(len(believed_B)):
        if believed_B[server] <= 0.0:
            continue
        own_ahead, ahead, delayed = 0.0, 0.0, 0.0
        for other in range(seen_BC.shape[1]):
            share = 1.0 if other < size_class else (0.5 if other == size_class else behind)
            after = 0.0 if other < size_class else (0.5 if other == size_class else 1.0)
            ahead += share * seen_BC[server, other]
            own_ahead += share * own_BC[server, other]
            delayed += after * (seen_count_BC[server, other] + own * own_count_BC[server, other])
        level = max(ahead - age_s * believed_B[server], 0.0) + own * own_ahead + size * work
        level += harm * work * delayed
        level += ring_work * (turn_B[server] - memory * latent_B[server])
        cost_s = level / believed_B[server] + work * price_B[server]
        if server != origin:
            cost_s += input_mbit / link_mbit_s_B[server]
        if cost_s < best_s:
            best, best_s = server, cost_s
    return best


@njit(cache=True, fastmath=True)
def _terms(
    backlog_B: FloatArray,
    queued_B: FloatArray,
    believed_B: FloatArray,
    dispatchers: int,
    work: float,
    mean_work: float,
    report_s: float,
    refresh_s: float,
    price: float,
    gains_XG: FloatArray,
    price_SM: FloatArray,
    gain_G: FloatArray,
    price_B: FloatArray,
) -> None:
    """Writes the gains and each server's price; the same as `cost_terms` of the policy."""
    capacity, servers, backlog = 0.0, 0, 0.0
    for server in range(len(believed_B)):
        if believed_B[server] > 0.0:
            capacity += believed_B[server]
            backlog += backlog_B[server]
            servers += 1
    if servers == 0:
        raise ValueError("no server is believed to work")
    unit_s = mean_work * servers / capacity
    # Before anything was measured the load is taken to be 1, with the weight of ten tasks.
    prior_s = refresh_s + 10.0 * unit_s
    measured = (work / capacity + prior_s) / (report_s + prior_s) if report_s > 0.0 else 1.0
    load = min(measured, LOAD_MAX)
    unseen = measured * capacity / mean_work * refresh_s
    context_X = np.empty(7)
    context_X[0] = 0.3 * math.log1p(unseen)
    context_X[1] = 0.5 * math.log1p(unseen / servers)
    context_X[2] = load - 1.0
    context_X[3] = 0.3 * math.log(servers)
    context_X[4] = 0.2 * math.log1p(backlog / capacity / unit_s)
    context_X[5] = price
    context_X[6] = 1.0
    for gain in range(6):
        total = 0.0
        for feature in range(7):
            total += context_X[feature] * gains_XG[feature, gain]
        gain_G[gain] = math.exp(0.5 * total)
    crowd = unseen / (1.0 + unseen)
    gain_G[0] = 1.0 + (dispatchers * gain_G[0] - 1.0) * crowd
    gain_G[1] *= RING_UNLEARNED * crowd * gain_G[0] * mean_work * (1.0 if dispatchers > 1 else 0.0)
    gain_G[3] *= MEMORY_UNLEARNED
    gain_G[5] *= BEHIND_UNLEARNED
    price_B[:] = 0.0
    if price > 0.0:
        _prices(
            backlog_B,
            queued_B,
            believed_B,
            backlog / capacity,
            capacity / servers,
            unit_s,
            _horizon_s(unit_s, refresh_s),
            load,
            mean_work,
            price,
            context_X,
            price_SM,
            price_B,
        )


@njit(cache=True, fastmath=True)
def _prices(
    backlog_B: FloatArray,
    queued_B: FloatArray,
    believed_B: FloatArray,
    backlog_s: float,
    mean_capacity: float,
    unit_s: float,
    horizon_s: float,
    load: float,
    mean_work: float,
    price: float,
    context_X: FloatArray,
    price_SM: FloatArray,
    price_B: FloatArray,
) -> None:
    servers = 0
    for server in range(len(believed_B)):
        servers += believed_B[server] > 0.0
    modulation_M = np.empty(7)
    modulation_M[0] = 1.0
    modulation_M[1] = math.log1p(backlog_s / horizon_s)
    modulation_M[2:6] = context_X[4], load - 1.0, context_X[3], price
    modulation_M[6] = 0.2 * math.log1p(horizon_s / unit_s) - 1.0
    rank = 0
    for server in np.argsort(believed_B):
        if believed_B[server] <= 0.0:
            continue
        waiting_s = backlog_B[server] / believed_B[server]
        feature_1 = (2.0 * rank + 1.0) / servers - 1.0
        feature_2 = math.tanh((waiting_s - backlog_s) / (backlog_s + unit_s))
        feature_3 = math.log(believed_B[server] / mean_capacity)
        feature_4 = math.log((backlog_B[server] / mean_work + 1.0) / (queued_B[server] + 1.0))
        log_factor = 0.0
        for index in range(7):
            log_factor += modulation_M[index] * (
                price_SM[0, index]
                + feature_1 * price_SM[1, index]
                + feature_2 * price_SM[2, index]
                + feature_3 * price_SM[3, index]
                + feature_4 * price_SM[4, index]
            )
        busy_s = horizon_s
        if load < 1.0:
            busy_s = min(busy_s, (max(waiting_s, backlog_s) + unit_s) / (1.0 - load))
        price_B[server] = (
            price * load * busy_s * math.exp(min(log_factor, LOG_PRICE_MAX)) / mean_work
        )
        rank += 1


@njit(cache=True)
def _size_class(work: float, mean_work: float, classes: int) -> int:
    """Half-octave classes; the last but three holds the mean."""
    if classes == 1:
        return 0
    octave = math.log(max(work, 1e-12) / mean_work) / math.log(2.0)
    return int(min(max(2.0 * octave + classes - 4.0, 0.0), classes - 1.0))


@njit(cache=True)
def _drain_classes(
    queues: _Queues, from_s: float, to_s: float, servers: _Servers, stretch: int
) -> int:
    """Works off the least class first, in place; returns the stretch that `to_s` lies in."""
    queue_BC, count_BC = queues.work_BC, queues.count_BC
    since_s_K, capacity_KB = servers.since_s_K, servers.capacity_KB
    while from_s < to_s:
        end_s = to_s
        last = stretch + 1 == len(since_s_K)
        if not last:
            end_s = min(to_s, since_s_K[stretch + 1])
        for server in range(queue_BC.shape[0]):
            left = capacity_KB[stretch, server] * (end_s - from_s)
            for size_class in range(queue_BC.shape[1]):
                work = queue_BC[server, size_class]
                if work <= left:
                    left -= work
                    queue_BC[server, size_class] = 0.0
                    count_BC[server, size_class] = 0.0
                else:
                    count_BC[server, size_class] *= (work - left) / work
                    queue_BC[server, size_class] = work - left
                    break
        from_s = end_s
        if not last and end_s >= since_s_K[stretch + 1]:
            stretch += 1
    return stretch
