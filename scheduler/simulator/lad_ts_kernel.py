"""LAD-TS through a whole episode at a time: `lad_ts_features` and the actor, compiled.

Owns what a simulated station knows when it decides, and the latents that it keeps. The arithmetic
is that of the live policy, and so are the random numbers, drawn from the same generator in the same
order; tests hold them together. Optionally every decision is recorded for a learner.

Arrays end in their dimension: N tasks, B servers, S stations, L places in a slot, M models, W
waits, V server features, C context features, F inputs, H hidden units, I denoising steps, K
stretches of constant capacity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from scheduler.policies.lad_ts_features import (
    CONTEXT,
    DEEP,
    DEEP_TASKS,
    HOME,
    IDLE,
    INPUTS,
    LINK,
    LINK_MAX,
    OTHERS_SIZE,
    OWN,
    RING,
    SERVER,
    SIZE,
    SPEED,
    WAIT_MAX,
    WAITS,
)
from scheduler.policies.lad_ts_policy import Actor, Chain
from scheduler.simulator.queueing import FloatArray, IntArray, work_off_s
from scheduler.simulator.rules.view import (
    Facts,
    View,
    book,
    facts_of,
    link_s,
    look_for,
    open_view,
    placed,
    stations,
)
from scheduler.simulator.workload import Episode

SingleArray = NDArray[np.float32]
PLACES_MAX = 256
# Before anything was measured the load is taken to be 1, with the weight of ten tasks.
PRIOR_TASKS = 10.0
_CONTEXT_SIZE = len(CONTEXT)


class _Weights(NamedTuple):
    """An actor and its chain, as the kernel reads them; see `Actor` and `Chain`."""

    first_FH: FloatArray
    first_bias_H: FloatArray
    second_HH: FloatArray
    second_pool_HH: FloatArray
    second_bias_H: FloatArray
    third_HH: FloatArray
    third_pool_HH: FloatArray
    step_IH: FloatArray
    latent_H: FloatArray
    out_H: FloatArray
    skip_F: FloatArray
    bias: float
    keep_I: FloatArray
    take_I: FloatArray
    spread_I: FloatArray


class _Traffic(NamedTuple):
    """What has come of each model, and what was measured of it up to the last report."""

    came_M: FloatArray
    tasks_M: FloatArray
    first_M: FloatArray
    report_s_M: FloatArray
    load_M: FloatArray
    mean_work_M: FloatArray


class _Record(NamedTuple):
    """What is kept of each decision; of length 0 where nothing is."""

    server_NBV: SingleArray
    context_NC: SingleArray
    latent_NB: SingleArray
    unit_s_N: FloatArray


class _Scratch(NamedTuple):
    """Room for one decision."""

    server_BV: FloatArray
    context_C: FloatArray
    input_BF: FloatArray
    added_B: FloatArray
    ahead_s_B: FloatArray
    x_B: FloatArray


@dataclass(frozen=True, kw_only=True)
class Played:
    """An episode as LAD-TS placed it.

    Attributes:
        server_N: where each task went.
        delay_s_N: service delay of each, first come first served, seconds.
        server_NBV, context_NC: features of each decision, see `lad_ts_features`.
        latent_NB: x_I of each.
        unit_s_N: mean service time that each decision counted in, seconds.
    """

    server_N: IntArray
    delay_s_N: FloatArray
    server_NBV: SingleArray
    context_NC: SingleArray
    latent_NB: SingleArray
    unit_s_N: FloatArray


def play(
    episode: Episode,
    actor: Actor,
    chain: Chain,
    rng: np.random.Generator,
    *,
    record: bool = False,
    cost_V: FloatArray | None = None,
) -> Played:
    """Places an episode, every station with the same weights.

    Args:
        episode: to be placed.
        actor: the network.
        chain: how it is read.
        rng: of guesses, noise and samples.
        record: keep features and latents of each decision; else they are of length 0.
        cost_V: a teacher instead of the network: the server of least cost_V . features decides,
            where a task's own size counts whole if all servers are deep in work.
    """
    scenario, tasks = episode.scenario, episode.tasks
    kept = tasks if record else 0
    places = min(int(episode.index_N.max(initial=0)) + 1, PLACES_MAX)
    shape = (len(episode.serves_MB), stations(scenario), places, episode.servers)
    latent_MSLB = np.full(shape, 1.0 / episode.servers, np.float64)
    noted = _Record(
        np.zeros((kept, episode.servers, len(SERVER)), np.float32),
        np.zeros((kept, _CONTEXT_SIZE), np.float32),
        np.zeros((kept, episode.servers), np.float32),
        np.zeros(kept),
    )
    schedule = chain.schedule(actor.steps)
    weights = _Weights(
        **{name: np.ascontiguousarray(array) for name, array in actor.arrays().items()},
        bias=actor.bias,
        keep_I=schedule.keep_I,
        take_I=schedule.take_I,
        spread_I=schedule.spread_I,
    )
    delay_s_N = np.zeros(tasks)
    server_N = _play(
        facts_of(episode),
        np.minimum(episode.index_N, places - 1),
        weights,
        latent_MSLB,
        ("latent", "zero", "gaussian").index(chain.start),
        chain.evaluation == "sample",
        rng,
        noted,
        delay_s_N,
        np.zeros(0) if cost_V is None else cost_V,
    )
    return Played(
        server_N=placed(server_N, episode),
        delay_s_N=delay_s_N,
        server_NBV=noted.server_NBV,
        context_NC=noted.context_NC,
        latent_NB=noted.latent_NB,
        unit_s_N=noted.unit_s_N,
    )


@dataclass(frozen=True, kw_only=True)
class LadTsDispatcher:
    """Places episodes with fixed weights.

    Attributes:
        actor: the network.
        chain: how it is read.
    """

    actor: Actor
    chain: Chain

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,)."""
        return play(episode, self.actor, self.chain, rng).server_N


@njit(cache=True)
def _play(
    facts: Facts,
    place_N: IntArray,
    weights: _Weights,
    latent_MSLB: FloatArray,
    start: int,
    sample: bool,
    rng: np.random.Generator,
    noted: _Record,
    delay_s_N: FloatArray,
    cost_V: FloatArray,
) -> IntArray:
    server_N = np.full(len(facts.work_N), -1)
    servers = facts.capacity_KB.shape[1]
    view = open_view(facts)
    scratch = _room(servers)
    traffic = _no_traffic(len(facts.serves_MB))
    for task in range(len(facts.work_N)):
        now_s = facts.arrival_s_N[task]
        look_for(facts, view, task)
        model = facts.model_N[task]
        published_s = view.clock_s[1] if facts.refresh_s > 0.0 else now_s
        if published_s != traffic.report_s_M[model]:
            _measure(traffic, facts, task, view.capacity_B, published_s)
        usable = np.flatnonzero(view.capacity_B > 0.0)
        if len(usable) == 0:
            return server_N
        unit_s = _features(
            facts,
            view,
            task,
            usable,
            now_s - published_s,
            traffic.load_M[model],
            traffic.mean_work_M[model],
            rng,
            scratch,
        )
        latent_B = latent_MSLB[model, facts.origin_N[task], place_N[task]]
        x_B = scratch.x_B[: len(usable)]
        _start(x_B, latent_B, usable, start, rng)
        if len(noted.unit_s_N):
            noted.server_NBV[task, usable] = scratch.server_BV[: len(usable)]
            noted.context_NC[task] = scratch.context_C
            noted.latent_NB[task, usable] = x_B
            noted.unit_s_N[task] = unit_s
        if len(cost_V):
            chosen = _cheapest(scratch.server_BV[: len(usable)], scratch.context_C, cost_V)
            x_B[:] = 0.0
            x_B[chosen] = 1.0
        else:
            _denoise(scratch.input_BF[: len(usable)], x_B, weights, rng)
            chosen = _choose(x_B, sample, rng)
        latent_B[:] = 0.0
        for position, server in enumerate(usable):
            latent_B[server] = x_B[position]
        server_N[task] = usable[chosen]
        traffic.came_M[model] += facts.work_N[task]
        traffic.tasks_M[model] += 1.0
        book(facts, view, task, usable[chosen])
        served_s = work_off_s(
            view.true_B[usable[chosen]],
            usable[chosen],
            now_s,
            facts.since_s_K,
            facts.capacity_KB,
        )
        delay_s_N[task] = served_s + link_s(facts, task, usable[chosen])
    return server_N


@njit(cache=True)
def _room(servers: int) -> _Scratch:
    return _Scratch(
        np.zeros((servers, len(SERVER))),
        np.zeros(_CONTEXT_SIZE),
        np.zeros((servers, INPUTS)),
        np.zeros(servers),
        np.zeros(servers),
        np.zeros(servers),
    )


@njit(cache=True)
def _no_traffic(models: int) -> _Traffic:
    """Before anything came."""
    no_M = np.zeros(models)
    return _Traffic(no_M, no_M.copy(), no_M.copy(), no_M - 1.0, no_M + 1.0, no_M + 1.0)


@njit(cache=True)
def _measure(
    traffic: _Traffic, facts: Facts, task: int, capacity_B: FloatArray, report_s: float
) -> None:
    """A new report: the traffic of the task's model is measured anew, the task itself not in it."""
    model = facts.model_N[task]
    traffic.report_s_M[model] = report_s
    came, tasks = traffic.came_M[model], traffic.tasks_M[model]
    if tasks == 0.0:
        traffic.first_M[model] = facts.work_N[task]
    mean_work = (came + traffic.first_M[model]) / (tasks + 1.0)
    traffic.mean_work_M[model] = mean_work
    traffic.load_M[model] = _load(came, mean_work, capacity_B, report_s, facts.refresh_s)


@njit(cache=True)
def _load(
    came: float, mean_work: float, capacity_B: FloatArray, report_s: float, refresh_s: float
) -> float:
    """Work that arrives over capacity, as measured up to the last report."""
    capacity = capacity_B.sum()
    if report_s <= 0.0 or capacity <= 0.0:
        return 1.0
    prior_s = refresh_s + PRIOR_TASKS * mean_work * (capacity_B > 0.0).sum() / capacity
    return float((came / capacity + prior_s) / (report_s + prior_s))


@njit(cache=True)
def _features(
    facts: Facts,
    view: View,
    task: int,
    usable: IntArray,
    age_s: float,
    load: float,
    mean_work: float,
    rng: np.random.Generator,
    scratch: _Scratch,
) -> float:
    """Writes features and inputs of one decision; returns its unit of time."""
    servers, ring, home = len(usable), len(view.true_B), facts.origin_N[task]
    work, dispatchers = facts.work_N[task], facts.stations
    capacity_B, own_B = view.capacity_B[usable], view.own_SB[home][usable]
    load_B = view.backlog_B[usable] + own_B
    capacity = capacity_B.sum()
    unit_s = mean_work * servers / capacity
    rate = load * capacity / mean_work
    unseen, unseen_now = rate * facts.refresh_s, rate * age_s
    server_BV, context_C = scratch.server_BV, scratch.context_C
    for wait in range(WAITS):
        server_BV[:servers, wait] = load_B
    if dispatchers > 1:
        others = (dispatchers - 1) / dispatchers
        came = rng.poisson(unseen_now * others)
        for guess, tasks in ((1, came), (2, int(unseen * home / ring + 0.5))):
            _fill(load_B, capacity_B, tasks, mean_work, scratch)
            server_BV[:servers, guess] += scratch.added_B[:servers]
        turn_work = RING * dispatchers * mean_work * unseen / (1.0 + unseen) / ring
        for position in range(servers):
            turn = (usable[position] - home) % ring
            server_BV[position, 3] += (dispatchers - 1) * own_B[position] + turn * turn_work
    nearest_s = np.inf
    for position in range(servers):
        nearest_s = min(nearest_s, link_s(facts, task, usable[position]))
    least = np.inf
    for position in range(servers):
        speed = capacity_B[position]
        server_BV[position, OWN], server_BV[position, SIZE] = own_B[position], work
        for field in range(SIZE + 1):
            server_BV[position, field] /= speed * unit_s
        server_BV[position, SPEED] = math.log(speed * (servers / capacity))
        away_s = link_s(facts, task, usable[position]) - nearest_s
        server_BV[position, LINK] = away_s / unit_s
        server_BV[position, HOME] = 1.0 if usable[position] == home else 0.0
        least = min(least, load_B[position])
    backlog_s = view.backlog_B[usable].sum() / capacity
    age_share = min(age_s / facts.refresh_s, 1.0) if facts.refresh_s > 0.0 else 0.0
    context_C[0] = 0.3 * math.log1p(unseen)
    context_C[1] = 0.5 * math.log1p(unseen / servers)
    context_C[2] = min(max(load - 1.0, -1.0), 1.0)
    context_C[3] = 0.3 * math.log(servers)
    context_C[4] = 0.2 * math.log1p(backlog_s / unit_s)
    context_C[5] = 0.5 * min(max(math.log(work / mean_work + 1e-9), -3.0), 3.0)
    context_C[6] = 2.0 * age_share - 1.0
    context_C[7] = 0.3 * math.log1p(unseen_now)
    context_C[8] = 1.0 if least > DEEP_TASKS * work else 0.0
    _inputs(server_BV[:servers], context_C, scratch.input_BF)
    return float(unit_s)


@njit(cache=True)
def _fill(
    load_B: FloatArray, capacity_B: FloatArray, tasks: int, mean_work: float, scratch: _Scratch
) -> None:
    """As `filled`; writes what is added to each server."""
    servers = len(load_B)
    added_B, ahead_s_B = scratch.added_B[:servers], scratch.ahead_s_B[:servers]
    added_B[:] = 0.0
    if tasks <= 0:
        return
    single = tasks if tasks <= 2 * servers else servers + tasks % servers
    ahead_s_B[:] = (load_B + OTHERS_SIZE * mean_work) / capacity_B
    if single < tasks:
        _pour(ahead_s_B, capacity_B, (tasks - single) * mean_work, added_B)
        ahead_s_B += added_B / capacity_B
    poured_B = added_B.copy()
    count_B = np.zeros(servers)
    for _ in range(single):
        best, best_s = 0, np.inf
        for server in range(servers):
            # Not a running sum: ties must be those of `filled`.
            end_s = ahead_s_B[server] + mean_work / capacity_B[server] * count_B[server]
            if end_s < best_s:
                best, best_s = server, end_s
        count_B[best] += 1.0
    added_B[:] = poured_B + mean_work * count_B


@njit(cache=True)
def _pour(ahead_s_B: FloatArray, capacity_B: FloatArray, work: float, added_B: FloatArray) -> None:
    """As `_poured` of the features."""
    order = ahead_s_B.argsort(kind="mergesort")
    level_s_B, speed_B = ahead_s_B[order], np.cumsum(capacity_B[order])
    room_B = level_s_B * speed_B - np.cumsum(level_s_B * capacity_B[order])
    last = np.searchsorted(room_B, work, side="right") - 1
    level_s = level_s_B[last] + (work - room_B[last]) / speed_B[last]
    for server in range(len(ahead_s_B)):
        added_B[server] = max(level_s - ahead_s_B[server], 0.0) * capacity_B[server]


@njit(cache=True)
def _inputs(server_BV: FloatArray, context_C: FloatArray, input_BF: FloatArray) -> None:
    """As `inputs` of the features."""
    servers, at = len(server_BV), 2 * WAITS
    for wait in range(WAITS):
        least = server_BV[:, wait].min()
        for server in range(servers):
            more = server_BV[server, wait] - least
            input_BF[server, wait] = min(more, WAIT_MAX) / 4.0
            input_BF[server, WAITS + wait] = math.log1p(more)
    for server in range(servers):
        input_BF[server, at] = math.log1p(server_BV[server, OWN])
        input_BF[server, at + 1] = math.log1p(server_BV[server, SIZE])
        input_BF[server, at + 2] = min(server_BV[server, SIZE], WAIT_MAX) / 4.0
        input_BF[server, at + 3] = server_BV[server, SPEED]
        input_BF[server, at + 4] = min(server_BV[server, LINK], LINK_MAX)
        input_BF[server, at + 5] = server_BV[server, HOME]
        input_BF[server, at + 6] = 1.0 if server_BV[server, 0] < IDLE else 0.0
        for field in range(len(context_C)):
            input_BF[server, at + 7 + field] = context_C[field]


@njit(cache=True)
def _start(
    x_B: FloatArray,
    latent_B: FloatArray,
    usable: IntArray,
    start: int,
    rng: np.random.Generator,
) -> None:
    """x_I."""
    for position, server in enumerate(usable):
        if start == 0:
            x_B[position] = latent_B[server]
        elif start == 1:
            x_B[position] = 0.0
        else:
            x_B[position] = rng.standard_normal()


@njit(cache=True, fastmath=True)
def _denoise(
    input_BF: FloatArray, x_B: FloatArray, weights: _Weights, rng: np.random.Generator
) -> None:
    """x_I becomes softmax(x_0)."""
    servers, hidden = len(input_BF), len(weights.first_bias_H)
    base_BH, skip_B = _encode(input_BF, weights)
    for step in range(len(weights.keep_I) - 1, -1, -1):
        spread = weights.spread_I[step]
        for server in range(servers):
            x, eps = x_B[server], skip_B[server]
            for unit in range(hidden):
                lit = (
                    base_BH[server, unit] + x * weights.latent_H[unit] + weights.step_IH[step, unit]
                )
                eps += max(lit, 0.0) * weights.out_H[unit]
            x_B[server] = weights.keep_I[step] * x - weights.take_I[step] * eps
            if spread > 0.0:
                x_B[server] += spread * rng.standard_normal()
    x_B -= x_B.max()
    for server in range(servers):
        x_B[server] = math.exp(x_B[server])
    x_B /= x_B.sum()


@njit(cache=True, fastmath=True)
def _encode(input_BF: FloatArray, weights: _Weights) -> tuple[FloatArray, FloatArray]:
    """What the steps have in common: base (B, H) and skip (B,)."""
    servers, fields, hidden = len(input_BF), input_BF.shape[1], len(weights.first_bias_H)
    lit_BH, base_BH = np.empty((servers, hidden)), np.empty((servers, hidden))
    skip_B, pool_H = np.empty(servers), np.zeros(hidden)
    for server in range(servers):
        lit_BH[server] = weights.first_bias_H
        skip_B[server] = weights.bias
        for field in range(fields):
            value = input_BF[server, field]
            skip_B[server] += value * weights.skip_F[field]
            for unit in range(hidden):
                lit_BH[server, unit] += value * weights.first_FH[field, unit]
        for unit in range(hidden):
            lit_BH[server, unit] = max(lit_BH[server, unit], 0.0)
            pool_H[unit] += lit_BH[server, unit] / servers
    _layer(lit_BH, pool_H, weights.second_HH, weights.second_pool_HH, base_BH)
    pool_H[:] = 0.0
    for server in range(servers):
        for unit in range(hidden):
            lit_BH[server, unit] = max(base_BH[server, unit] + weights.second_bias_H[unit], 0.0)
            pool_H[unit] += lit_BH[server, unit] / servers
    _layer(lit_BH, pool_H, weights.third_HH, weights.third_pool_HH, base_BH)
    return base_BH, skip_B


@njit(cache=True, fastmath=True)
def _layer(
    lit_BH: FloatArray,
    pool_H: FloatArray,
    own_HH: FloatArray,
    pool_HH: FloatArray,
    out_BH: FloatArray,
) -> None:
    """A linear layer of each server's units and of their mean; loops, for these are small."""
    servers, hidden = lit_BH.shape
    pooled_H = np.zeros(hidden)
    for unit in range(hidden):
        value = pool_H[unit]
        for out in range(hidden):
            pooled_H[out] += value * pool_HH[unit, out]
    for server in range(servers):
        for out in range(hidden):
            out_BH[server, out] = pooled_H[out]
        for unit in range(hidden):
            value = lit_BH[server, unit]
            for out in range(hidden):
                out_BH[server, out] += value * own_HH[unit, out]


@njit(cache=True)
def _cheapest(server_BV: FloatArray, context_C: FloatArray, cost_V: FloatArray) -> int:
    """A teacher's choice."""
    best, best_cost = 0, np.inf
    for server in range(len(server_BV)):
        cost = 0.0
        for field in range(len(cost_V)):
            deep = field == SIZE and context_C[DEEP] > 0.0
            cost += (1.0 if deep else cost_V[field]) * server_BV[server, field]
        if cost < best_cost:
            best, best_cost = server, cost
    return best


@njit(cache=True)
def _choose(probability_B: FloatArray, sample: bool, rng: np.random.Generator) -> int:
    """The most likely server, or one drawn."""
    if not sample:
        return int(probability_B.argmax())
    drawn, total = rng.random(), 0.0
    for server in range(len(probability_B)):
        total += probability_B[server]
        if drawn < total:
            return server
    return len(probability_B) - 1
