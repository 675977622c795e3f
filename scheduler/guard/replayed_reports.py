"""What nodes see in a replay: tasks as they arrive, reports as old as the recorded ones, latents.

Owns the window that is common to all policies played on it, and observations made of its queues.
Arrays end in their dimension: N arrivals in the order of time, S servers, B of them candidates of a
task, K stretches of constant capacity.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scheduler.guard.service_times import AS_EXPECTED, ServiceFactors
from scheduler.observation import Observation
from scheduler.simulator.queueing import FloatArray

IntArray = NDArray[np.intp]
# What a latent has for a node that it does not know, as live.
NEUTRAL = 0.0


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One task to be placed.

    Attributes:
        at_s: from the window's first decision.
        node_id: where it arrives.
        slot, index_in_slot: of its latent at that node.
        seen: what the node would have seen; backlogs, own work and latent are replayed.
        places_B: where its candidates stand among all servers of the window, S.
    """

    at_s: float
    node_id: str
    slot: int
    index_in_slot: int
    seen: Observation
    places_B: IntArray


@dataclass(frozen=True, kw_only=True)
class LiveWindow:
    """What is common to all policies that are played on it.

    Attributes:
        arrivals: of all nodes in the order of time, N.
        recorded: how many of them were really seen.
        servers: every node that is a candidate of some task, S; each draws one model, or the same.
        queue_S: work in front of the first task, so that later what was seen first is left of it.
        since_s_K, capacity_KS: measured capacities over time.
        factors: what tasks really took, where that is known.
    """

    arrivals: tuple[Arrival, ...]
    recorded: int
    servers: tuple[str, ...]
    queue_S: FloatArray
    since_s_K: FloatArray
    capacity_KS: FloatArray
    factors: ServiceFactors = AS_EXPECTED


class _Latent(NamedTuple):
    """Of whom, and what was left for each."""

    node_ids: tuple[str, ...]
    value_B: FloatArray

    def seen_by(self, node_ids: tuple[str, ...]) -> FloatArray:
        """The values of these candidates."""
        if node_ids == self.node_ids:
            return self.value_B
        known = dict(zip(self.node_ids, self.value_B.tolist(), strict=True))
        return np.array([known.get(node_id, NEUTRAL) for node_id in node_ids])


class Unseen:
    """Replayed dispatches that a report of a given age does not hold yet."""

    def __init__(self, window: LiveWindow) -> None:
        self._sent: deque[tuple[float, str, int, float]] = deque()
        self._servers = len(window.servers)
        self._age_s_max = max(float(a.seen.staleness_s_B.max()) for a in window.arrivals)

    def add(self, arrival: Arrival, server: int) -> None:
        """Books a dispatch to one of all servers."""
        self._sent.append((arrival.at_s, arrival.node_id, server, arrival.seen.work))

    def split(self, arrival: Arrival) -> tuple[FloatArray, FloatArray]:
        """Unseen work of everyone and of the deciding node itself, (B,) each."""
        while self._sent and self._sent[0][0] < arrival.at_s - self._age_s_max:
            self._sent.popleft()
        age_s_S, all_S, own_S = (np.zeros(self._servers) for _ in range(3))
        age_s_S[arrival.places_B] = arrival.seen.staleness_s_B
        for at_s, node_id, server, work in self._sent:
            if at_s > arrival.at_s - age_s_S[server]:
                all_S[server] += work
                own_S[server] += work * (node_id == arrival.node_id)
        return all_S[arrival.places_B], own_S[arrival.places_B]


class Latents:
    """X_b[n] of the nodes as the policy under test leaves it; starts from the recorded ones."""

    def __init__(self) -> None:
        self._slot: dict[str, int] = {}
        self._readable: dict[tuple[str, int], _Latent] = {}
        self._written: dict[str, dict[int, _Latent]] = {}

    def read(self, arrival: Arrival) -> FloatArray | None:
        """What an earlier slot left at this place, or what was recorded there."""
        node_id = arrival.node_id
        if self._slot.get(node_id) != arrival.slot:
            self._slot[node_id] = arrival.slot
            for index, latent_B in self._written.pop(node_id, {}).items():
                self._readable[node_id, index] = latent_B
        kept = self._readable.get((node_id, arrival.index_in_slot))
        return arrival.seen.latent_B if kept is None else kept.seen_by(arrival.seen.node_ids)

    def keep(self, arrival: Arrival, latent_B: FloatArray | None) -> None:
        """Readable from the next slot on."""
        if latent_B is not None:
            kept = _Latent(arrival.seen.node_ids, latent_B)
            self._written.setdefault(arrival.node_id, {})[arrival.index_in_slot] = kept


def observation_of(
    arrival: Arrival, queue_S: FloatArray, unseen: Unseen, latents: Latents
) -> Observation:
    """What the node would have seen of the replayed queues."""
    all_B, own_B = unseen.split(arrival)
    queue_B = queue_S[arrival.places_B]
    # A queue less all that came since the report is the report extrapolated: where it idled since,
    # the difference is not positive.
    backlog_B = np.maximum(queue_B - all_B, 0.0)
    seen, queued_B = arrival.seen, arrival.seen.queued_B
    if queued_B is not None:
        mean_work = seen.work if seen.traffic is None else seen.traffic.mean_work
        queued_B = np.ceil(backlog_B / mean_work) if mean_work > 0.0 else None
    latent_B = latents.read(arrival)
    return replace(seen, backlog_B=backlog_B, own_B=own_B, queued_B=queued_B, latent_B=latent_B)
