"""A slotted episode one slot at a time: what a learner or an environment steps through.

Owns the backlogs between slots. All tasks of a slot are placed on what the servers' queues were at
its start; they are then served in the episode's order, as in the paper.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from scheduler.simulator.queueing import FloatArray, IntArray, drain, work_off_s
from scheduler.simulator.workload import Episode


class SlottedCluster:
    """Steps through an episode; every slot is placed exactly once, whole or in parts.

    Attributes:
        slot: index of the slot to be placed next; `done` when it equals the scenario's slots.
        backlog_B: true backlogs at the start of that slot, Gcycles, (B,).
    """

    def __init__(self, episode: Episode) -> None:
        scenario = episode.scenario
        if scenario.task_arrivals != "slotted":
            raise ValueError(f"{scenario.name} has {scenario.task_arrivals} arrivals, not slots")
        self.episode = episode
        self.slot = 0
        self.backlog_B = np.zeros(episode.servers)
        self._bounds = np.searchsorted(episode.slot_N, np.arange(scenario.slots + 1))

    @property
    def done(self) -> bool:
        """Whether every slot has been placed."""
        return self.slot == self.episode.scenario.slots

    @property
    def tasks(self) -> slice:
        """The current slot's tasks within the episode's arrays, in the order of service."""
        return slice(int(self._bounds[self.slot]), int(self._bounds[self.slot + 1]))

    def place(self, server_M: IntArray) -> FloatArray:
        """Places the slot's M tasks and goes on to the next slot.

        Returns:
            service delay of each task (paper eq. 2), seconds, (M,); infinite on a server that
            never comes back.
        """
        delay_s_M = self.serve(np.arange(self.tasks.start, self.tasks.stop), server_M)
        self.end_slot()
        return delay_s_M

    def serve(self, task_M: IntArray, server_M: IntArray) -> FloatArray:
        """Places some of the slot's tasks, behind those that were placed before.

        Args:
            task_M: their indices in the episode; each task of a slot is to be placed once.
            server_M: where they go.

        Returns:
            service delay of each, seconds, (M,).
        """
        episode = self.episode
        now_s = self.slot * episode.scenario.slot_s
        work_M = episode.work_N[task_M]
        delay_s_M = np.empty(len(work_M))
        since_s_K, capacity_KB = episode.since_s_K, episode.capacity_KB
        _serve_slot(self.backlog_B, now_s, server_M, work_M, delay_s_M, since_s_K, capacity_KB)
        rate_M = episode.link_mbit_s_B[server_M]
        upload_M = np.where(server_M == episode.origin_N[task_M], 0.0, episode.input_mbit_N[task_M])
        delay_s_M += (upload_M + episode.result_mbit_N[task_M]) / rate_M
        return delay_s_M

    def end_slot(self) -> None:
        """Goes on to the next slot; every task of this one has been placed."""
        episode = self.episode
        now_s = self.slot * episode.scenario.slot_s
        end_s = now_s + episode.scenario.slot_s
        drain(self.backlog_B, now_s, end_s, episode.since_s_K, episode.capacity_KB)
        self.slot += 1


@njit(cache=True)
def _serve_slot(
    backlog_B: FloatArray,
    now_s: float,
    server_M: IntArray,
    work_M: FloatArray,
    delay_s_M: FloatArray,
    since_s_K: FloatArray,
    capacity_KB: FloatArray,
) -> None:
    for task in range(len(work_M)):
        server = server_M[task]
        backlog_B[server] += work_M[task]
        delay_s_M[task] = work_off_s(backlog_B[server], server, now_s, since_s_K, capacity_KB)
