"""Least queue: the server with the least in front, whatever its speed.

Arrays end in their dimension: N tasks, B servers, S stations.
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
    look,
    look_for,
    open_view,
    own_weight,
    placed,
    preferred,
    published_s,
)
from scheduler.simulator.workload import Episode

Ties = Literal["fastest", "random"]
Count = Literal["work", "tasks"]


@dataclass(frozen=True, kw_only=True)
class LeastQueue:
    """The living server with the least backlog + m own.

    Attributes:
        ties: to the "fastest" (then the local, then the earlier), or "random" among equals.
        count: a queue is its unfinished "work", or its number of unfinished "tasks" (first come
            first served, the running one included; never extrapolated).
        own: how often own unseen work (or tasks) counts; see `LeastExpectedDelay`.
        fresh: the true state instead of the published one.
        extrapolate: published backlogs shrink at the published capacity between publications.
    """

    ties: Ties = "fastest"
    count: Count = "work"
    own: Own = 1.0
    fresh: bool = False
    extrapolate: bool = True

    def __post_init__(self) -> None:
        check_own(self.own)
        if self.ties not in get_args(Ties):
            raise ValueError(f"ties must be fastest or random, not {self.ties!r}")
        if self.count not in get_args(Count):
            raise ValueError(f"count must be work or tasks, not {self.count!r}")

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws one number for each if ties are random."""
        facts = facts_of(episode, fresh=self.fresh, extrapolate=self.extrapolate)
        own = own_weight(self.own, episode.scenario)
        drawn_N = rng.random(episode.tasks if self.ties == "random" else 0)
        place = _place_by_work if self.count == "work" else _place_by_tasks
        return placed(place(facts, own, drawn_N), episode)


@njit(cache=True)
def _shortest(
    queue_B: FloatArray, capacity_B: FloatArray, origin: int, task: int, drawn_N: FloatArray
) -> int:
    """Living server of the shortest queue; ties by `drawn_N[task]`, unless that is empty."""
    best, ties = -1, 0
    for server in range(len(queue_B)):
        if capacity_B[server] <= 0.0:
            continue
        if best < 0 or queue_B[server] < queue_B[best]:
            best, ties = server, 1
        elif queue_B[server] == queue_B[best]:
            ties += 1
            if len(drawn_N) == 0 and preferred(server, best, capacity_B, origin):
                best = server
    if len(drawn_N) == 0 or ties <= 1:
        return best
    skipped, shortest = int(drawn_N[task] * ties), queue_B[best]
    for server in range(best, len(queue_B)):
        if capacity_B[server] > 0.0 and queue_B[server] == shortest:
            if skipped == 0:
                return server
            skipped -= 1
    return best


@njit(cache=True)
def _place_by_work(facts: Facts, own: float, drawn_N: FloatArray) -> IntArray:
    view = open_view(facts)
    server_N = np.empty(len(facts.work_N), np.int64)
    for task in range(len(server_N)):
        look_for(facts, view, task)
        origin = facts.origin_N[task]
        queue_B = view.backlog_B + own * view.own_SB[origin]
        server_N[task] = _shortest(queue_B, view.capacity_B, origin, task, drawn_N)
        if server_N[task] < 0:
            break
        book(facts, view, task, server_N[task])
    return server_N


@njit(cache=True)
def _place_by_tasks(facts: Facts, own: float, drawn_N: FloatArray) -> IntArray:
    view = open_view(facts)
    servers = len(view.capacity_B)
    fresh = facts.refresh_s == 0.0
    # Every server's unfinished tasks as a list from oldest_B on; next_N leads from task to task.
    next_N = np.full(len(facts.work_N), -1)
    oldest_B, newest_B = np.full(servers, -1), np.full(servers, -1)
    upto_N = np.empty(len(facts.work_N))  # work placed on the server up to the task, it included
    work_B = np.zeros(servers)
    waiting_B, seen_B = np.zeros(servers), np.zeros(servers)
    own_SB = np.zeros((facts.stations, servers))
    server_N = np.empty(len(facts.work_N), np.int64)
    for task in range(len(server_N)):
        at_s = published_s(facts.arrival_s_N[task], facts.refresh_s)
        if at_s > view.clock_s[1]:
            look(facts, view, at_s)
            _let_finished_go(work_B - view.true_B, upto_N, next_N, oldest_B, waiting_B)
            seen_B[:] = waiting_B
            own_SB[:] = 0.0
        look_for(facts, view, task)
        origin = facts.origin_N[task]
        queue_B = waiting_B if fresh else seen_B + own * own_SB[origin]
        server = _shortest(queue_B, view.capacity_B, origin, task, drawn_N)
        server_N[task] = server
        if server < 0:
            break
        book(facts, view, task, server)
        work_B[server] += facts.work_N[task]
        upto_N[task] = work_B[server]
        if oldest_B[server] < 0:
            oldest_B[server] = task
        else:
            next_N[newest_B[server]] = task
        newest_B[server] = task
        waiting_B[server] += 1.0
        own_SB[origin, server] += 1.0
    return server_N


@njit(cache=True)
def _let_finished_go(
    done_B: FloatArray,
    upto_N: FloatArray,
    next_N: IntArray,
    oldest_B: IntArray,
    waiting_B: FloatArray,
) -> None:
    """Takes off each server's list, in place, the tasks that lie within its work done."""
    for server in range(len(done_B)):
        done = done_B[server] * (1.0 + 1e-12)  # the backlog that it comes from was rounded
        while oldest_B[server] >= 0 and upto_N[oldest_B[server]] <= done:
            oldest_B[server] = next_N[oldest_B[server]]
            waiting_B[server] -= 1.0
