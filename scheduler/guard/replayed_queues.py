"""The servers of a replay: what is queued, what nodes see of it, and when a task is done.

Owns both accounts of a queue, which differ where tasks do not take what capacities say: the work
that is left as nodes report it, and what that work really takes. Arrays end in B candidates or K
stretches of constant capacity.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from scheduler.guard.service_times import ServiceFactors
from scheduler.simulator.queueing import FloatArray, drain, work_off_s


class ReplayedQueues:
    """First come first served, at the capacities that were measured.

    Args:
        names: of the candidates.
        queue_B: work in front of the first task.
        since_s_K, capacity_KB: measured capacities over time.
        factors: what tasks really took.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        queue_B: FloatArray,
        since_s_K: FloatArray,
        capacity_KB: FloatArray,
        *,
        factors: ServiceFactors,
    ) -> None:
        self._names = names
        self._since_s_K, self._capacity_KB = since_s_K, capacity_KB
        self._factors = factors
        self._now_s = 0.0
        self._takes_B = queue_B.copy()
        # Of each server (what it takes, what is reported of it) in the order of service.
        self._tasks: tuple[deque[tuple[float, float]], ...] = tuple(deque() for _ in names)
        # Where tasks take what capacities say, both accounts are one.
        self._plain = not factors.by_server_and_size
        if not self._plain:
            for tasks, work in zip(self._tasks, queue_B.tolist(), strict=True):
                if work > 0.0:
                    tasks.append((work, work))

    def pass_to(self, now_s: float) -> None:
        """Works until then."""
        before_B = self._takes_B.copy()
        drain(self._takes_B, self._now_s, now_s, self._since_s_K, self._capacity_KB)
        self._now_s = now_s
        if not self._plain:
            for tasks, done in zip(self._tasks, (before_B - self._takes_B).tolist(), strict=True):
                _work_off(tasks, done)

    @property
    def reported_B(self) -> FloatArray:
        """Work that is left, by what nodes believe."""
        if self._plain:
            return self._takes_B
        return np.array([sum(reported for _, reported in tasks) for tasks in self._tasks])

    def add(self, server: int, work: float) -> float:
        """Takes a task; seconds until it is done, infinite if it never will be."""
        takes = work * self._factors.of(self._names[server], work)
        self._takes_B[server] += takes
        if not self._plain:
            self._tasks[server].append((takes, work))
        total, now_s = self._takes_B[server], self._now_s
        return float(work_off_s(total, server, now_s, self._since_s_K, self._capacity_KB))


def _work_off(tasks: deque[tuple[float, float]], done: float) -> None:
    """Ends tasks from the front; of the one being served less is left in both accounts."""
    while tasks and done > 0.0:
        takes, reported = tasks.popleft()
        if takes > done + 1e-9:
            left = takes - done
            tasks.appendleft((left, reported * left / takes))
        done -= takes
