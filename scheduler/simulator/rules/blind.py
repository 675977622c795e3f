"""Rules that look at no queue: at most at who lives and how fast they are.

Arrays end in their dimension: N tasks, B servers, S stations, M models, K stretches of
constant capacity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from scheduler.simulator.queueing import FloatArray, IntArray
from scheduler.simulator.rules.greedy import cheapest
from scheduler.simulator.rules.view import (
    Facts,
    book,
    facts_of,
    look_for,
    open_view,
    placed,
    published_stretch_N,
    stations,
)
from scheduler.simulator.workload import BoolArray, Episode


@dataclass(frozen=True, kw_only=True)
class Local:
    """Offloads only what the own server does not draw or while it is believed dead.

    Then the least expected delay decides.
    """

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws nothing."""
        if episode.serves_all and (episode.believed_KB > 0.0).all():
            return episode.origin_N.copy()
        return placed(_place_local(facts_of(episode)), episode)


@dataclass(frozen=True, kw_only=True)
class Random:
    """Any living server, all equally likely."""

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws one number for each."""
        alive_KB = (episode.believed_KB > 0.0).astype(np.float64)
        return _lottery(alive_KB, episode, rng)


@dataclass(frozen=True, kw_only=True)
class CapacityRandom:
    """A living server with probability proportional to its published capacity."""

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws one number for each."""
        return _lottery(episode.believed_KB, episode, rng)


@dataclass(frozen=True, kw_only=True)
class RoundRobin:
    """The living server whose last turn at this station is longest ago; never chosen comes first.

    Every station starts at server 0. A server that comes back is owed one turn, not all it missed.
    """

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws nothing."""
        stretch_N = published_stretch_N(episode)
        server_N = _place_round_robin(
            episode.origin_N,
            stretch_N,
            episode.believed_KB,
            stations(episode.scenario),
            episode.model_N,
            episode.serves_MB,
        )
        return placed(server_N, episode)


@dataclass(frozen=True, kw_only=True)
class SmoothWrr:
    """Smooth weighted round robin by published capacity, one for every station (nginx's).

    Each turn gives every living server its capacity as credit; the server with most credit takes
    the task and pays what all were given. A server's credit ends when it is believed dead.

    Attributes:
        by_work: credit is counted in work instead of tasks, so that large tasks are spread as
            well; a station then needs to know the work of its tasks.
        staggered: stations start with random credit instead of all at the fastest server.
    """

    by_work: bool = False
    staggered: bool = False

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws the first credits if staggered."""
        # A turn of each station for each model, for credit ends where a server is none.
        shape = (len(episode.serves_MB), stations(episode.scenario), episode.servers)
        price_N = episode.work_N if self.by_work else np.ones(episode.tasks)
        credit_MSB = np.zeros(shape)
        if self.staggered and episode.tasks:
            turn = price_N.mean() * episode.believed_KB[0].sum()
            credit_MSB = rng.uniform(-0.5, 0.5, shape) * turn
        stretch_N = published_stretch_N(episode)
        server_N = _place_smooth_wrr(
            episode.origin_N,
            price_N,
            stretch_N,
            episode.believed_KB,
            credit_MSB,
            episode.model_N,
            episode.serves_MB,
        )
        return placed(server_N, episode)


def _lottery(weight_KB: FloatArray, episode: Episode, rng: np.random.Generator) -> IntArray:
    """One server for each task with probability proportional to its weight in that stretch.

    Among those that draw the task's model.
    """
    drawn_N = rng.random(episode.tasks)
    stretch_N = published_stretch_N(episode)
    server_N = np.full(episode.tasks, -1)
    kinds_N2 = np.stack((stretch_N, episode.model_N), axis=1)
    for stretch, model in np.unique(kinds_N2, axis=0):
        here_N = (kinds_N2 == (stretch, model)).all(axis=1)
        weight_B = weight_KB[stretch] * episode.serves_MB[model]
        bounds_B = np.cumsum(weight_B)
        if bounds_B[-1] > 0.0:
            # side="right" steps over dead servers, whose bound equals their neighbour's.
            chosen = np.searchsorted(bounds_B, drawn_N[here_N] * bounds_B[-1], side="right")
            server_N[here_N] = np.minimum(chosen, np.flatnonzero(weight_B)[-1])
    return placed(server_N, episode)


@njit(cache=True)
def _place_local(facts: Facts) -> IntArray:
    view = open_view(facts)
    nothing_B = np.zeros(len(view.capacity_B))
    plain = (1.0, 1.0, np.inf, np.inf)
    server_N = np.empty(len(facts.work_N), np.int64)
    for task in range(len(server_N)):
        look_for(facts, view, task)
        server_N[task] = facts.origin_N[task]
        if view.capacity_B[server_N[task]] <= 0.0:
            server_N[task] = cheapest(facts, view, task, plain, nothing_B, nothing_B)
        if server_N[task] < 0:
            break
        book(facts, view, task, server_N[task])
    return server_N


@njit(cache=True)
def _place_round_robin(
    origin_N: IntArray,
    stretch_N: IntArray,
    believed_KB: FloatArray,
    stations: int,
    model_N: IntArray,
    serves_MB: BoolArray,
) -> IntArray:
    servers = believed_KB.shape[1]
    last_turn_SB = np.full((stations, servers), -1)
    server_N = np.full(len(origin_N), -1)
    for task in range(len(origin_N)):
        last_turn_B, best = last_turn_SB[origin_N[task]], -1
        for server in range(servers):
            alive = believed_KB[stretch_N[task], server] > 0.0
            alive = alive and serves_MB[model_N[task], server]
            if alive and (best < 0 or last_turn_B[server] < last_turn_B[best]):
                best = server
        if best < 0:
            break
        last_turn_B[best] = task
        server_N[task] = best
    return server_N


@njit(cache=True)
def _place_smooth_wrr(
    origin_N: IntArray,
    price_N: FloatArray,
    stretch_N: IntArray,
    believed_KB: FloatArray,
    credit_MSB: FloatArray,
    model_N: IntArray,
    serves_MB: BoolArray,
) -> IntArray:
    server_N = np.full(len(origin_N), -1)
    for task in range(len(origin_N)):
        model = model_N[task]
        capacity_B = believed_KB[stretch_N[task]] * serves_MB[model]
        server_N[task] = take_turn(credit_MSB[model, origin_N[task]], capacity_B, price_N[task])
        if server_N[task] < 0:
            break
    return server_N


@njit(cache=True)
def take_turn(credit_B: FloatArray, weight_B: FloatArray, price: float) -> int:
    """Credits each server with price x weight and the one with most pays for all, in place.

    Not divided by the total, so that integer weights tie exactly.

    Returns:
        that server, the first of equal ones; -1 if no weight is positive.
    """
    total = 0.0
    for weight in weight_B:
        total += weight
    best = -1
    for server in range(len(weight_B)):
        if weight_B[server] <= 0.0:
            credit_B[server] = 0.0
            continue
        credit_B[server] += price * weight_B[server]
        if best < 0 or credit_B[server] > credit_B[best]:
            best = server
    if best >= 0:
        credit_B[best] -= price * total
    return best
