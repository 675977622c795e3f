"""What LAD-TS sees of an observation: the same numbers for every server, whatever their number.

Owns the features and their units. `scheduler.simulator.lad_ts_kernel` computes the same, compiled;
a test holds them together. What a learner keeps of a decision is `Seen`; `inputs` turns it into
what networks read.

Time is counted in mean services: u = mean work x servers / capacity. Who sees the same old report
decides the same, so a station guesses what the others have placed since, in three ways, and the
network weighs them:

- *by time*: as many tasks as the measured load brings to the others in a report's age, drawn from
  a Poisson distribution, because equal guesses herd like equal reports;
- *by place*: as many as come before this station if all tasks of a report period are placed at
  once, station by station round the ring;
- *by likeness*: that each of the others did what this station did, and that everyone prefers the
  servers that follow its own place in the ring.

The first two are placed where they would go one after another (`filled`). Numpy only. Arrays end
in their dimension: B usable servers, W waits, C context features, F inputs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from scheduler.observation import FloatArray, Observation, Traffic

SERVER = (
    "wait",
    "wait_by_time",
    "wait_by_place",
    "wait_by_likeness",
    "own",
    "size",
    "log_speed",
    "link",
    "home",
)
WAITS = 4
OWN, SIZE, SPEED, LINK, HOME = range(WAITS, len(SERVER))
CONTEXT = (
    "log_unseen",
    "log_unseen_per_server",
    "overload",
    "log_servers",
    "log_backlog",
    "log_relative_size",
    "age_of_report",
    "log_unseen_now",
    "deep",
)
DEEP = CONTEXT.index("deep")
# Each wait clipped and as a logarithm, own, the size twice, speed, link, home, idle; the context.
INPUTS = 2 * WAITS + 7 + len(CONTEXT)

# Of a task's own service time, what counts where others' guessed tasks are placed.
OTHERS_SIZE = 0.4
# The ring's weight in the guess by likeness; exp(-.35) as in LAD-TS+.
RING = 0.7
# Where every server has more tasks like this in front of it, none will idle soon.
DEEP_TASKS = 3.0
# In mean services: beyond, only the logarithm tells waits and sizes apart.
WAIT_MAX, LINK_MAX, IDLE = 20.0, 5.0, 0.02


class Seen(NamedTuple):
    """One decision's features.

    Attributes:
        server_BS: by SERVER, in mean services where it is a time.
        context_C: by CONTEXT.
        unit_s: u, the mean service time.
    """

    server_BS: FloatArray
    context_C: FloatArray
    unit_s: float


def look(observation: Observation, usable_B: np.ndarray, rng: np.random.Generator) -> Seen:
    """The features of the usable servers of an observation.

    Args:
        observation: of one task.
        usable_B: indices of the servers that may be chosen and have a capacity.
        rng: draws how many tasks the others have placed.
    """
    traffic = observation.traffic or Traffic(mean_work=observation.work or 1.0)
    capacity_B, backlog_B = observation.capacity_B[usable_B], observation.backlog_B[usable_B]
    own_B, stale_s_B = observation.own_B[usable_B], observation.staleness_s_B[usable_B]
    servers, work, mean_work = len(usable_B), observation.work, traffic.mean_work
    capacity = float(np.add.reduce(capacity_B))
    unit_s = mean_work * servers / capacity
    rate = traffic.load * capacity / mean_work
    dispatchers = observation.dispatchers
    local = observation.own_place
    ring = len(observation.node_ids)
    load_B = backlog_B + own_B
    age_s, age_share = _age(stale_s_B, usable_B, observation.local, traffic.report_period_s)
    unseen, unseen_now = rate * traffic.report_period_s, rate * age_s
    server_BS = np.empty((servers, len(SERVER)))
    guessed_BW = server_BS[:, :WAITS]
    guessed_BW[:] = load_B[:, None]
    if dispatchers > 1:
        others = (dispatchers - 1) / dispatchers
        came = int(rng.poisson(unseen_now * others))
        fresh_B = np.minimum(stale_s_B / age_s, 1.0) if age_s > 0.0 else 0.0
        guessed_BW[:, 1] += fresh_B * filled(load_B, capacity_B, came, mean_work)
        before = int(unseen * local / ring + 0.5)
        guessed_BW[:, 2] += filled(load_B, capacity_B, before, mean_work)
        turn_B = ((usable_B - local) % ring) * (
            RING * dispatchers * mean_work * unseen / (1.0 + unseen) / ring
        )
        guessed_BW[:, 3] += (dispatchers - 1) * own_B + turn_B
    server_BS[:, OWN] = own_B
    server_BS[:, SIZE] = work
    server_BS[:, : SIZE + 1] /= (capacity_B * unit_s)[:, None]
    server_BS[:, SPEED] = np.log(capacity_B * (servers / capacity))
    link_s_B = observation.link_s_B[usable_B]
    server_BS[:, LINK] = (link_s_B - np.minimum.reduce(link_s_B)) / unit_s
    server_BS[:, HOME] = usable_B == observation.local
    backlog_s = float(np.add.reduce(backlog_B)) / capacity
    context_C = np.array(
        [
            0.3 * math.log1p(unseen),
            0.5 * math.log1p(unseen / servers),
            min(max(traffic.load - 1.0, -1.0), 1.0),
            0.3 * math.log(servers),
            0.2 * math.log1p(backlog_s / unit_s),
            0.5 * min(max(math.log(work / mean_work + 1e-9), -3.0), 3.0),
            2.0 * age_share - 1.0,
            0.3 * math.log1p(unseen_now),
            1.0 if np.minimum.reduce(load_B) > DEEP_TASKS * work else 0.0,
        ]
    )
    return Seen(server_BS, context_C, unit_s)


def _age(
    stale_s_B: FloatArray, usable_B: np.ndarray, local: int | None, period_s: float
) -> tuple[float, float]:
    """Mean age of the reports of others, seconds, and as a share of a report period, 0..1."""
    away = len(stale_s_B)
    if local is not None and stale_s_B.any():
        # Of itself a live node knows the present; a simulated station knows no more than others.
        at_home = stale_s_B[usable_B == local]
        away -= int(len(at_home) == 1 and at_home[0] == 0.0)
    age_s = float(np.add.reduce(stale_s_B)) / max(away, 1)
    return age_s, min(age_s / period_s, 1.0) if period_s > 0.0 else 0.0


def filled(load_B: FloatArray, capacity_B: FloatArray, tasks: int, mean_work: float) -> FloatArray:
    """Work on each server after mean tasks have gone one by one where each ends first, (B,).

    All but the last B to 2 B - 1 are poured in like water: of many tasks only those decide which
    server is next.
    """
    servers = len(load_B)
    if tasks <= 0:
        return np.zeros(servers)
    single = tasks if tasks <= 2 * servers else servers + tasks % servers
    ahead_s_B = (load_B + OTHERS_SIZE * mean_work) / capacity_B
    poured_B = np.zeros(servers)
    if single < tasks:
        poured_B = _poured(ahead_s_B, capacity_B, (tasks - single) * mean_work)
        ahead_s_B = ahead_s_B + poured_B / capacity_B
    service_s_B = mean_work / capacity_B
    # The s-th task of a server ends at ahead + s service; the first `single` of all are placed.
    end_s_BN = ahead_s_B[:, None] + service_s_B[:, None] * np.arange(single)
    first = end_s_BN.ravel().argsort(kind="stable")[:single] // single
    added_B: FloatArray = poured_B + mean_work * np.bincount(first, minlength=servers)
    return added_B


def _poured(ahead_s_B: FloatArray, capacity_B: FloatArray, work: float) -> FloatArray:
    """Work that raises the lowest servers to one common level, (B,)."""
    order = ahead_s_B.argsort(kind="stable")
    level_s_B, speed_B = ahead_s_B[order], np.cumsum(capacity_B[order])
    # Work that fits in below each server's level.
    room_B = level_s_B * speed_B - np.cumsum(level_s_B * capacity_B[order])
    last = int(np.searchsorted(room_B, work, side="right")) - 1
    level_s = level_s_B[last] + (work - room_B[last]) / speed_B[last]
    poured_B: FloatArray = np.maximum(level_s - ahead_s_B, 0.0) * capacity_B
    return poured_B


def inputs(seen: Seen) -> FloatArray:
    """What networks read of each server, (B, F)."""
    server_BS, context_C, _ = seen
    input_BF = np.empty((len(server_BS), INPUTS))
    wait_BW = server_BS[:, :WAITS] - np.minimum.reduce(server_BS[:, :WAITS], axis=0)
    input_BF[:, :WAITS] = np.minimum(wait_BW, WAIT_MAX) / 4.0
    input_BF[:, WAITS : 2 * WAITS] = np.log1p(wait_BW)
    at = 2 * WAITS
    input_BF[:, at : at + 2] = np.log1p(server_BS[:, OWN : SIZE + 1])
    input_BF[:, at + 2] = np.minimum(server_BS[:, SIZE], WAIT_MAX) / 4.0
    input_BF[:, at + 3] = server_BS[:, SPEED]
    input_BF[:, at + 4] = np.minimum(server_BS[:, LINK], LINK_MAX)
    input_BF[:, at + 5] = server_BS[:, HOME]
    input_BF[:, at + 6] = server_BS[:, 0] < IDLE
    input_BF[:, at + 7 :] = context_C
    return input_BF
