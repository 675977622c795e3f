"""What a station knows when it places a task: published queues and its own dispatches since.

Owns when states are published and what is counted between two publications; compiled rules keep
one `View` while they run through an episode. Arrays end in their dimension: N tasks, B servers,
S stations, K stretches of constant capacity, M models.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from scheduler.policies.heuristics import Own
from scheduler.simulator.queueing import FloatArray, IntArray, drain
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import BoolArray, Episode


class NoServerAlive(ValueError):
    """A task arrives while every server that draws it is believed to have no capacity."""


class Facts(NamedTuple):
    """An episode as kernels read it; the arrays are the episode's own.

    Attributes:
        serves_all: every server draws every task.
        stations: S, those with tasks of their own.
        slot_s: length of a slot, seconds.
        refresh_s: the servers' states are published at multiples of it; 0: always true.
        extrapolate: between publications, stations let the published backlogs shrink at the
            published capacities.
    """

    arrival_s_N: FloatArray
    slot_N: IntArray
    origin_N: IntArray
    work_N: FloatArray
    input_mbit_N: FloatArray
    result_mbit_N: FloatArray
    link_mbit_s_B: FloatArray
    since_s_K: FloatArray
    capacity_KB: FloatArray
    believed_KB: FloatArray
    model_N: IntArray
    serves_MB: BoolArray
    serves_all: bool
    stations: int
    slot_s: float
    refresh_s: float
    extrapolate: bool


class View(NamedTuple):
    """The servers as they are and as the stations believe them to be; changed in place.

    Attributes:
        true_B: true backlogs, Gcycles.
        backlog_B: as published, perhaps extrapolated; the same array as `true_B` when fresh.
        published_B: capacities as published, Gcycles/s; a server at 0 is believed dead.
        capacity_B: the same to the task at hand: 0 also where its model is not drawn.
        own_SB: what each station has placed since the publication, Gcycles; stays 0 when fresh.
        clock_s: time that the view has been brought to, and time of the last publication.
    """

    true_B: FloatArray
    backlog_B: FloatArray
    published_B: FloatArray
    capacity_B: FloatArray
    own_SB: FloatArray
    clock_s: FloatArray


def facts_of(episode: Episode, *, fresh: bool = False, extrapolate: bool = True) -> Facts:
    """The episode for kernels; `fresh` publishes every change at once."""
    return Facts(
        arrival_s_N=episode.arrival_s_N,
        slot_N=episode.slot_N,
        origin_N=episode.origin_N,
        work_N=episode.work_N,
        input_mbit_N=episode.input_mbit_N,
        result_mbit_N=episode.result_mbit_N,
        link_mbit_s_B=episode.link_mbit_s_B,
        since_s_K=episode.since_s_K,
        capacity_KB=episode.capacity_KB,
        believed_KB=episode.believed_KB,
        model_N=episode.model_N,
        serves_MB=episode.serves_MB,
        serves_all=episode.serves_all,
        stations=stations(episode.scenario),
        slot_s=episode.scenario.slot_s,
        refresh_s=0.0 if fresh else episode.scenario.refresh_s,
        extrapolate=extrapolate,
    )


def stations(scenario: Scenario) -> int:
    """S, the number of stations that have tasks of their own."""
    return scenario.servers if scenario.dispatchers == "all" else 1


def own_weight(own: Own, scenario: Scenario) -> float:
    """How often a station counts its own unseen work; "B": once for every station."""
    return float(stations(scenario)) if own == "B" else float(own)


def placed(server_N: IntArray, episode: Episode) -> IntArray:
    """The placements, if all tasks found a server.

    Raises:
        NoServerAlive: the kernel found none for a task, which it marks by -1.
    """
    lost_N = np.flatnonzero(server_N < 0)
    if len(lost_N):
        which = "server" if episode.serves_all else "server that draws it"
        raise NoServerAlive(
            f"{episode.scenario.name}: every {which} is believed dead when task {lost_N[0]} "
            f"arrives at {episode.arrival_s_N[lost_N[0]]:g} s"
        )
    return server_N


def published_stretch_N(episode: Episode, *, fresh: bool = False) -> IntArray:
    """Index of the stretch of capacity that the last publication before each task saw, (N,)."""
    at_s_N, refresh_s = episode.arrival_s_N, episode.scenario.refresh_s
    if refresh_s > 0.0 and not fresh:
        # The same arithmetic as `published_s`, for all tasks at once.
        at_s_N = np.minimum(np.floor(at_s_N / refresh_s + 1e-9) * refresh_s, at_s_N)
    return np.searchsorted(episode.since_s_K, at_s_N, side="right") - 1


@njit(cache=True)
def published_s(now_s: float, refresh_s: float) -> float:
    """Time of the last publication at or before `now_s`."""
    if refresh_s == 0.0:
        return now_s
    # Arrivals at a multiple must see it, although the quotient may fall short by rounding.
    return min(math.floor(now_s / refresh_s + 1e-9) * refresh_s, now_s)


@njit(cache=True)
def open_view(facts: Facts) -> View:
    """Idle servers at the start of the episode."""
    servers = facts.capacity_KB.shape[1]
    true_B = np.zeros(servers)
    backlog_B = true_B if facts.refresh_s == 0.0 else np.zeros(servers)
    own_SB = np.zeros((facts.stations, servers))
    published_B = facts.believed_KB[0].copy()
    capacity_B = published_B if facts.serves_all else published_B.copy()
    return View(true_B, backlog_B, published_B, capacity_B, own_SB, np.zeros(2))


@njit(cache=True)
def look(facts: Facts, view: View, now_s: float) -> None:
    """Brings the view to `now_s`, before anything that arrives then is placed."""
    since_s, last_s = view.clock_s[0], view.clock_s[1]
    if now_s <= since_s:
        return
    at_s = published_s(now_s, facts.refresh_s)
    if at_s > last_s:
        drain(view.true_B, since_s, at_s, facts.since_s_K, facts.capacity_KB)
        stretch = np.searchsorted(facts.since_s_K, at_s, side="right") - 1
        for server in range(len(view.true_B)):
            view.published_B[server] = facts.believed_KB[stretch, server]
            view.backlog_B[server] = view.true_B[server]
            for station in range(facts.stations):
                view.own_SB[station, server] = 0.0
        view.clock_s[1] = at_s
        since_s = at_s
    if now_s > since_s:
        drain(view.true_B, since_s, now_s, facts.since_s_K, facts.capacity_KB)
        if facts.extrapolate and facts.refresh_s > 0.0:
            for server in range(len(view.backlog_B)):
                left = view.backlog_B[server] - view.published_B[server] * (now_s - since_s)
                view.backlog_B[server] = max(left, 0.0)
    view.clock_s[0] = now_s


@njit(cache=True)
def look_for(facts: Facts, view: View, task: int) -> None:
    """Brings the view to the task's arrival, and its capacities to who draws the task's model."""
    look(facts, view, facts.arrival_s_N[task])
    if not facts.serves_all:
        model = facts.model_N[task]
        for server in range(len(view.capacity_B)):
            serves = facts.serves_MB[model, server]
            view.capacity_B[server] = view.published_B[server] if serves else 0.0


@njit(cache=True)
def book(facts: Facts, view: View, task: int, server: int) -> None:
    """Puts the task on the server; its station remembers it until the next publication."""
    view.true_B[server] += facts.work_N[task]
    if facts.refresh_s > 0.0:
        view.own_SB[facts.origin_N[task], server] += facts.work_N[task]


@njit(cache=True)
def link_s(facts: Facts, task: int, server: int) -> float:
    """Upload and return of a task placed there, seconds; the upload is paid when offloaded."""
    size_mbit = facts.result_mbit_N[task]
    if server != facts.origin_N[task]:
        size_mbit += facts.input_mbit_N[task]
    return float(size_mbit / facts.link_mbit_s_B[server])


@njit(cache=True)
def preferred(server: int, other: int, capacity_B: FloatArray, origin: int) -> bool:
    """Whether `server` goes before an earlier `other` of equal cost: the faster, the local."""
    if capacity_B[server] != capacity_B[other]:
        return bool(capacity_B[server] > capacity_B[other])
    return server == origin
