"""Least marginal harm: places tasks on servers that take the least remaining work first.

Owns the rule and its picture of the servers' queues, which is kept inline: the delays themselves
are `service`'s. A task of work w on a server of capacity f waits for what is left of the shorter
tasks there and delays each of the n longer ones by its own service time, so that it adds

    (shorter + w) / f + n w / f + transfer

seconds to the sum of all delays, later arrivals aside; the rule takes the server where that is
least. Both terms matter: by its own delay alone every task would be as selfish as Opt-TS is, and
the harm to others is what sends long tasks to where few wait.

differs: the picture lets a server switch tasks at any instant, the servers themselves only between
denoising steps; the two differ by at most one step of work.

Arrays end in their dimension: N tasks, B servers, K stretches of constant capacity, V views of all
queues, Q places in a queue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from scheduler.simulator.queueing import FloatArray, IntArray
from scheduler.simulator.workload import BoolArray, Episode

PLACES_AT_FIRST = 64
TRUTH, REPORT, FIRST_STATION = 0, 1, 2  # views


@dataclass(frozen=True, kw_only=True)
class LeastMarginalHarm:
    """Places every task where it adds least to the sum of all service delays.

    Knows of the task its work and its transfers; of the servers, as of the last report, the
    remaining work of every task in the queue, and the capacity; and what its own station has
    placed since. Between reports it lets the reported queues go on at the reported capacity. A
    server reported without capacity is not chosen; if all are, the task stays at home.

    Attributes:
        fresh: every task sees the true queues; otherwise reports come at multiples of the
            scenario's `refresh_s` (if that is 0, the queues are seen as true too).
        own_multiplier: a station counts each of its own tasks since the report this often, for
            the other stations place tasks on the same servers unseen. The number of stations is
            right where all have as much to place; no effect when fresh.

    Raises:
        ValueError: own_multiplier is negative.
    """

    fresh: bool = False
    own_multiplier: float = 1.0

    def __post_init__(self) -> None:
        """Refuses to count a task negatively."""
        if not (math.isfinite(self.own_multiplier) and self.own_multiplier >= 0.0):
            raise ValueError(f"own_multiplier is {self.own_multiplier!r}; it must be 0 or more")

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, in the episode's order, (N,)."""
        return _place(
            episode.arrival_s_N,
            episode.origin_N,
            episode.work_N,
            episode.input_mbit_N,
            episode.result_mbit_N,
            episode.link_mbit_s_B,
            episode.since_s_K,
            episode.capacity_KB,
            episode.believed_KB,
            episode.model_N,
            episode.serves_MB,
            0.0 if self.fresh else episode.scenario.refresh_s,
            self.own_multiplier,
            rng,
        )


class _Queues(NamedTuple):
    """Queues of known tasks, least remaining work first, as several observers see them.

    Each queue lies in its places head..tail-1. Views are the truth, the last report, and from
    FIRST_STATION on what each station makes of that.

    Attributes:
        size_VBQ: remaining work of one task.
        until_VBQ: work that the server will have done when the task is completed, if none comes.
        count_VBQ: number of tasks up to and including this one; an own task may count several
            times, or a part of one.
        done_VB: work that the server has done, on the same scale as `until_VBQ`.
        left_VB: tasks that have left, on the same scale as `count_VBQ`.
        clock_s_V: time that each view has been brought to.
    """

    size_VBQ: FloatArray
    until_VBQ: FloatArray
    count_VBQ: FloatArray
    head_VB: IntArray
    tail_VB: IntArray
    done_VB: FloatArray
    left_VB: FloatArray
    clock_s_V: FloatArray


@njit(cache=True)
def _place(
    arrival_s_N: FloatArray,
    origin_N: IntArray,
    work_N: FloatArray,
    input_mbit_N: FloatArray,
    result_mbit_N: FloatArray,
    link_mbit_s_B: FloatArray,
    since_s_K: FloatArray,
    capacity_KB: FloatArray,
    believed_KB: FloatArray,
    model_N: IntArray,
    serves_MB: BoolArray,
    refresh_s: float,
    own_multiplier: float,
    rng: np.random.Generator,
) -> IntArray:
    servers = len(link_mbit_s_B)
    fresh = refresh_s == 0.0
    blur = 0.0 if fresh or own_multiplier <= 1.0 else 1.0 - 1.0 / own_multiplier
    queues = _empty(1 if fresh else FIRST_STATION + servers, servers)
    seen_B = believed_KB[0].copy()
    reported_s = -1.0
    of_report_s_B = np.full(servers, -1.0)  # the report that each station's view starts from
    server_N = np.empty(len(work_N), np.int64)
    for task in range(len(work_N)):
        now_s, station, view = arrival_s_N[task], origin_N[task], TRUTH
        if fresh:
            seen_B = believed_KB[np.searchsorted(since_s_K, now_s, side="right") - 1]
        else:
            view = FIRST_STATION + station
            # Who arrives with a report has it, although the quotient may fall short by rounding.
            report_s = min(math.floor(now_s / refresh_s + 1e-9) * refresh_s, now_s)
            if report_s > reported_s:
                _serve_true(queues, report_s, since_s_K, capacity_KB)
                _copy(queues, TRUTH, REPORT)
                seen_B = believed_KB[np.searchsorted(since_s_K, report_s, side="right") - 1]
                reported_s = report_s
            if of_report_s_B[station] != reported_s:
                _copy(queues, REPORT, view)
                of_report_s_B[station] = reported_s
            _serve(queues, view, now_s, seen_B)
        _serve_true(queues, now_s, since_s_K, capacity_KB)
        best, least_s = station, np.inf
        for server in range(servers):
            if seen_B[server] > 0.0 and serves_MB[model_N[task], server]:
                upload_mbit = 0.0 if server == station else input_mbit_N[task]
                cost_s = (upload_mbit + result_mbit_N[task]) / link_mbit_s_B[server]
                cost_s += _added_work(queues, view, server, work_N[task]) / seen_B[server]
                if blur > 0.0:
                    cost_s *= 1.0 + blur * rng.random()
                if cost_s < least_s:
                    best, least_s = server, cost_s
        server_N[task] = best
        queues = _insert(queues, TRUTH, best, work_N[task], 1.0)
        if not fresh and own_multiplier > 0.0:
            queues = _insert(queues, view, best, work_N[task], own_multiplier)
    return server_N


@njit(cache=True)
def _empty(views: int, servers: int) -> _Queues:
    shape = (views, servers, PLACES_AT_FIRST)
    return _Queues(
        np.zeros(shape),
        np.zeros(shape),
        np.zeros(shape),
        np.zeros((views, servers), np.int64),
        np.zeros((views, servers), np.int64),
        np.zeros((views, servers)),
        np.zeros((views, servers)),
        np.zeros(views),
    )


@njit(cache=True)
def _longer_from(queues: _Queues, view: int, server: int, work: float) -> int:
    """First place of a task with more remaining work than `work`; equal ones go first."""
    head, tail = queues.head_VB[view, server], queues.tail_VB[view, server]
    sizes = queues.size_VBQ[view, server, head:tail]
    return int(head + np.searchsorted(sizes, work, side="right"))


@njit(cache=True)
def _added_work(queues: _Queues, view: int, server: int, work: float) -> float:
    """Work by which a task's arrival there lengthens all delays, its own included, Gcycles."""
    head, tail = queues.head_VB[view, server], queues.tail_VB[view, server]
    if head == tail:
        return work
    place = _longer_from(queues, view, server, work)
    ahead, shorter = queues.left_VB[view, server], 0.0
    if place > head:
        ahead = queues.count_VBQ[view, server, place - 1]
        shorter = queues.until_VBQ[view, server, place - 1] - queues.done_VB[view, server]
    longer = queues.count_VBQ[view, server, tail - 1] - ahead
    return float(shorter + work + longer * work)


@njit(cache=True)
def _insert(queues: _Queues, view: int, server: int, work: float, times: float) -> _Queues:
    """Adds `times` tasks of `work` each; returns the queues, which may have moved."""
    if queues.tail_VB[view, server] == queues.size_VBQ.shape[2]:
        if queues.head_VB[view, server] > 0:
            _move_to_front(queues, view, server, view)
        else:
            queues = _with_more_places(queues)
    size_Q = queues.size_VBQ[view, server]
    until_Q = queues.until_VBQ[view, server]
    count_Q = queues.count_VBQ[view, server]
    head, tail = queues.head_VB[view, server], queues.tail_VB[view, server]
    place = _longer_from(queues, view, server, work)
    for later in range(tail, place, -1):
        size_Q[later] = size_Q[later - 1]
        until_Q[later] = until_Q[later - 1] + times * work
        count_Q[later] = count_Q[later - 1] + times
    before = place > head
    size_Q[place] = work
    until_Q[place] = until_Q[place - 1] if before else queues.done_VB[view, server]
    until_Q[place] += times * work
    count_Q[place] = count_Q[place - 1] if before else queues.left_VB[view, server]
    count_Q[place] += times
    queues.tail_VB[view, server] += 1
    return queues


@njit(cache=True)
def _serve_true(
    queues: _Queues, until_s: float, since_s_K: FloatArray, capacity_KB: FloatArray
) -> None:
    """Brings the true queues to `until_s`, through all changes of capacity."""
    stretch = np.searchsorted(since_s_K, queues.clock_s_V[TRUTH], side="right") - 1
    while stretch + 1 < len(since_s_K) and since_s_K[stretch + 1] < until_s:
        _serve(queues, TRUTH, since_s_K[stretch + 1], capacity_KB[stretch])
        stretch += 1
    _serve(queues, TRUTH, until_s, capacity_KB[stretch])


@njit(cache=True)
def _serve(queues: _Queues, view: int, until_s: float, capacity_B: FloatArray) -> None:
    """Brings a view to `until_s` at constant capacity."""
    passed_s = until_s - queues.clock_s_V[view]
    if passed_s <= 0.0:
        return
    queues.clock_s_V[view] = until_s
    for server in range(len(capacity_B)):
        head, tail = queues.head_VB[view, server], queues.tail_VB[view, server]
        done = queues.done_VB[view, server] + capacity_B[server] * passed_s
        while head < tail and queues.until_VBQ[view, server, head] <= done:
            queues.left_VB[view, server] = queues.count_VBQ[view, server, head]
            head += 1
        if head == tail:
            head, done = 0, 0.0
            queues.tail_VB[view, server] = 0
            queues.left_VB[view, server] = 0.0
        else:
            left = queues.until_VBQ[view, server, head] - done
            queues.size_VBQ[view, server, head] = min(queues.size_VBQ[view, server, head], left)
        queues.head_VB[view, server] = head
        queues.done_VB[view, server] = done


@njit(cache=True)
def _copy(queues: _Queues, source: int, target: int) -> None:
    """Makes one view equal to another."""
    for server in range(queues.head_VB.shape[1]):
        _move_to_front(queues, source, server, target)
    queues.clock_s_V[target] = queues.clock_s_V[source]


@njit(cache=True)
def _move_to_front(queues: _Queues, source: int, server: int, target: int) -> None:
    """Lays one queue of a view down from place 0 on in the same or another view."""
    head, tail = queues.head_VB[source, server], queues.tail_VB[source, server]
    for place in range(head, tail):
        to = place - head
        queues.size_VBQ[target, server, to] = queues.size_VBQ[source, server, place]
        queues.until_VBQ[target, server, to] = queues.until_VBQ[source, server, place]
        queues.count_VBQ[target, server, to] = queues.count_VBQ[source, server, place]
    queues.head_VB[target, server] = 0
    queues.tail_VB[target, server] = tail - head
    queues.done_VB[target, server] = queues.done_VB[source, server]
    queues.left_VB[target, server] = queues.left_VB[source, server]


@njit(cache=True)
def _with_more_places(queues: _Queues) -> _Queues:
    """The same queues with twice the room."""
    return _Queues(
        _widened(queues.size_VBQ),
        _widened(queues.until_VBQ),
        _widened(queues.count_VBQ),
        queues.head_VB,
        queues.tail_VB,
        queues.done_VB,
        queues.left_VB,
        queues.clock_s_V,
    )


@njit(cache=True)
def _widened(field_VBQ: FloatArray) -> FloatArray:
    views, servers, places = field_VBQ.shape
    wide_VBQ = np.zeros((views, servers, 2 * places))
    # Assigning a slice of three dimensions takes seconds to compile.
    for view in range(views):
        for server in range(servers):
            for place in range(places):
                wide_VBQ[view, server, place] = field_VBQ[view, server, place]
    return wide_VBQ
