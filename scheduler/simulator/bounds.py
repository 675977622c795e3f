"""Lower bounds on the mean service delay of an episode: no policy and no order of service is below.

Owns two relaxations. Both let all servers work together on one task, as one pooled machine whose
capacity is the sum of theirs, and let it switch tasks at any instant.

Pooled SRPT. Any schedule of the servers is also a schedule of the pooled machine: at every instant
it gives each task the share that the task's server gave it, so every task is completed at the same
time. On one machine, least remaining work first leaves the fewest tasks unfinished at every instant
(Schrage 1968; capacity that changes over time only rescales the clock), and the sum of the
delays is the integral of that number. The bound is tight when many tasks wait, and below the truth
by about the own service time when few do.

Mean busy time. Let m_j be the mean, over the work of task j, of the times at which it is done. A
task never gets more than the fastest server, f_max, so its work w_j takes it at least w_j / f_max
and it is completed at m_j + w_j / (2 f_max) or later. The sum of the m_j on the pooled machine is
least when the smallest original work goes first, because the sum is linear in which task is worked
on when, with weight 1 / w_j per unit of work (Goemans et al., "Single machine scheduling with
release dates", SIAM J. Discrete Math. 2002). Better than pooled SRPT when few tasks wait.

To both is added each task's least transfer over all servers, which is valid because in this model
the transfer delays neither the start of the service nor any other task. And no mean is below that
of w_j / f_max, which neither pooled machine knows.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numba import njit

from scheduler.simulator.queueing import FloatArray
from scheduler.simulator.workload import Episode


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Lower bounds on the mean service delay of any policy, in seconds, least transfer included.

    Attributes:
        pooled_srpt_s: by one machine of the total capacity, least remaining work first.
        mean_busy_time_s: by the preemptive relaxation to mean busy times.
        fastest_server_s: every task alone on the fastest server.
    """

    pooled_srpt_s: float
    mean_busy_time_s: float
    fastest_server_s: float

    @property
    def mean_s(self) -> float:
        """The largest of them, which is a bound as well."""
        return max(self.pooled_srpt_s, self.mean_busy_time_s, self.fastest_server_s)


def mean_delay_bound_s(episode: Episode) -> Bounds:
    """Bounds on the mean service delay of an episode, for every placement and order of service.

    Infinite if all servers go and none comes back before all work is done.

    Raises:
        ValueError: the episode has no tasks.
    """
    if episode.tasks == 0:
        raise ValueError("an episode without tasks has no mean delay")
    pooled_K = episode.capacity_KB.sum(axis=1)
    own_s_N = episode.work_N / episode.capacity_KB.max()
    transfer_s = float(_least_transfer_s(episode).mean())
    arguments = (episode.arrival_s_N, episode.work_N, episode.since_s_K, pooled_K)
    done_s_N, _ = serve_pooled(*arguments, True)
    _, busy_s_N = serve_pooled(*arguments, False)
    return Bounds(
        pooled_srpt_s=transfer_s + float((done_s_N - episode.arrival_s_N).mean()),
        mean_busy_time_s=transfer_s
        + float((busy_s_N + own_s_N / 2.0 - episode.arrival_s_N).mean()),
        fastest_server_s=transfer_s + float(own_s_N.mean()),
    )


def _least_transfer_s(episode: Episode) -> FloatArray:
    """Transfer of each task where it is least, seconds, (N,).

    Away from home the fastest link is best; at home the upload is spared.
    """
    stations = np.arange(episode.servers)
    fastest = int(np.argmax(episode.link_mbit_s_B))
    home_N = episode.transfer_s(stations[episode.origin_N])
    away_N = episode.transfer_s(np.full(episode.tasks, fastest))
    return np.minimum(home_N, away_N)


@njit(cache=True)
def serve_pooled(
    arrival_s_N: FloatArray,
    work_N: FloatArray,
    since_s_K: FloatArray,
    pooled_K: FloatArray,
    by_remaining: bool,
) -> tuple[FloatArray, FloatArray]:
    """One machine of capacity `pooled_K`, interrupted at any instant by what comes first.

    First comes the least remaining work, or the least original work. Ties go to the task that
    arrived first.

    Returns:
        completion of each task and mean time of its work, seconds, (N,) each; infinite if the
        machine never comes back.
    """
    done_s_N = np.full(len(work_N), np.inf)
    busy_s_N = np.full(len(work_N), np.inf)
    moment_N = np.zeros(len(work_N))  # integral of time over the work done
    left_N = work_N.copy()
    waiting = [(0.0, 0) for _ in range(0)]
    arrived, now_s, stretch = 0, 0.0, 0
    while arrived < len(work_N) or len(waiting) > 0:
        if len(waiting) == 0:
            now_s = max(now_s, arrival_s_N[arrived])
        while arrived < len(work_N) and arrival_s_N[arrived] <= now_s:
            heapq.heappush(waiting, (work_N[arrived], arrived))
            arrived += 1
        while stretch + 1 < len(since_s_K) and since_s_K[stretch + 1] <= now_s:
            stretch += 1
        next_s = since_s_K[stretch + 1] if stretch + 1 < len(since_s_K) else np.inf
        if arrived < len(work_N):
            next_s = min(next_s, arrival_s_N[arrived])
        task = heapq.heappop(waiting)[1]
        capacity = pooled_K[stretch]
        end_s = now_s + left_N[task] / capacity if capacity > 0.0 else np.inf
        if end_s == np.inf and next_s == np.inf:
            break
        if end_s <= next_s:
            busy_s_N[task] = moment_N[task] + left_N[task] * (now_s + end_s) / 2.0
            busy_s_N[task] /= work_N[task]
            done_s_N[task] = end_s
            now_s = end_s
            continue
        part = capacity * (next_s - now_s)
        moment_N[task] += part * (now_s + next_s) / 2.0
        left_N[task] -= part
        heapq.heappush(waiting, (left_N[task] if by_remaining else work_N[task], task))
        now_s = next_s
    return done_s_N, busy_s_N
