"""What a policy sees of one task and the candidates for it: the same live and in the simulator.

Owns the layout and the arithmetic that every policy shares. Arrays end in their dimension:
B is the number of candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What the cluster has been asked to do lately, as far as the deciding node has measured it.

    Attributes:
        mean_work: of a task, in work units.
        load: work that arrives per second over the capacity of all candidates.
        report_period_s: time between two states of a peer.
    """

    mean_work: float
    load: float = 1.0
    report_period_s: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One task and the nodes that may draw it.

    Attributes:
        node_ids: the candidates, in a stable order.
        local: index of the deciding node in them, or None when it is no candidate.
        work: of the task, in work units.
        input_bits: of the task.
        backlog_B: reported backlog, extrapolated at capacity to now, in work units.
        own_B: own dispatches which that report has not seen, in work units.
        capacity_B: work units per second, measured.
        link_s_B: expected seconds to send the task there and its image back; 0 locally.
        staleness_s_B: age of the oldest change that this node has not seen; 0 locally.
        alive_B: whether the node may be chosen.
        dispatchers: nodes known to place tasks on others at present, this one included.
        latent_B: x_I, the latent action probability that this node keeps of the same place in an
            earlier slot; None where nothing is kept yet.
        queued_B: tasks that each backlog consists of; None where reports do not say.
        traffic: what has been measured of arrivals; None where nothing has.
        ring_place: where a deciding node that is no candidate stands in the ring of candidates, 0
            to B: such nodes are spread over it, or all of them would begin at one candidate.
    """

    node_ids: tuple[str, ...]
    local: int | None
    work: float
    input_bits: int
    backlog_B: FloatArray
    own_B: FloatArray
    capacity_B: FloatArray
    link_s_B: FloatArray
    staleness_s_B: FloatArray
    alive_B: BoolArray
    dispatchers: int = 1
    latent_B: FloatArray | None = None
    queued_B: FloatArray | None = None
    traffic: Traffic | None = None
    ring_place: float = 0.0

    def __post_init__(self) -> None:
        """Refuses an observation in which nothing can be chosen, or a task of impossible work."""
        if not 0.0 <= self.work < math.inf:
            raise ValueError(f"the work of a task is {self.work}; it must be 0 or more and finite")
        if not self.alive_B.any():
            raise ValueError("no candidate is alive")

    @property
    def own_place(self) -> float:
        """Where the deciding node stands in the ring of candidates."""
        return self.ring_place if self.local is None else float(self.local)

    @property
    def load_B(self) -> FloatArray:
        """Work in front of the task at each candidate, own unseen dispatches included."""
        return self.backlog_B + self.own_B

    @property
    def crowded_load_B(self) -> FloatArray:
        """The same, if all dispatchers have sent as much as this one since the last report.

        Who sees the same reports decides the same: several greedy dispatchers herd unless each
        counts its own unseen work for all of them (q + B x own).
        """
        return self.backlog_B + self.dispatchers * self.own_B
