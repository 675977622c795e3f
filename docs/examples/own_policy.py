"""A placement policy of one's own: the device that is expected to be done first, most of the time.

PYTHONPATH=docs/examples dedgeai simulate --scenario orins_0.8 \
        --policies ring,own_policy:Curious:explore=0.05
"""

from __future__ import annotations

import numpy as np

from scheduler.observation import Observation
from scheduler.policy import Decision, Outcome


class Curious:
    """Where a task is expected to be done soonest; now and then any device, to see how it does."""

    # A task that waits may be moved by the same measure.
    by_expected_delay = True

    def __init__(self, *, rng: np.random.Generator, explore: float = 0.02) -> None:
        if not 0.0 <= explore <= 1.0:
            raise ValueError(f"explore must be in 0..1, not {explore}")
        self._rng, self._explore = rng, explore
        self.delays_s: list[float] = []

    def decide(self, observation: Observation) -> Decision:
        """Chooses one of the candidates that are alive."""
        alive = np.flatnonzero(observation.alive_B)
        if self._rng.random() < self._explore:
            choice = self._rng.choice(alive)
        else:
            # Work in front of the task, and what this node has sent there since the last report.
            work_B = observation.load_B[alive] + observation.work
            delay_s_B = work_B / observation.capacity_B[alive] + observation.link_s_B[alive]
            choice = alive[delay_s_B.argmin()]
        return Decision(choice=int(choice), policy="curious")

    def record(self, outcome: Outcome) -> None:
        """Hears what became of an earlier decision: late, out of order, or never."""
        self.delays_s.append(outcome.service_delay_s)
