"""Policies as somebody else would write them."""

from __future__ import annotations

from typing import Any

import numpy as np

from scheduler.observation import Observation
from scheduler.policy import Decision, Outcome


class Emptiest:
    """The least work in front, whatever the speed."""

    by_expected_delay = True

    def __init__(self, *, rng: np.random.Generator, patience: int = 0) -> None:
        self.patience = patience

    def decide(self, observation: Observation) -> Decision:
        work_B = np.where(observation.alive_B, observation.load_B, np.inf)
        return Decision(choice=int(work_B.argmin()), policy="emptiest")

    def record(self, outcome: Outcome) -> None:
        """Learns nothing."""


class Learned(Emptiest):
    """It has weights that nobody has read."""

    learned = True

    def __init__(self, *, rng: np.random.Generator, weights: str) -> None:
        super().__init__(rng=rng)


class Wild(Emptiest):
    """Chooses what is not there."""

    def decide(self, observation: Observation) -> Decision:
        return Decision(choice=99, policy="wild")


class Open(Emptiest):
    """Takes any option."""

    def __init__(self, *, rng: np.random.Generator, **options: Any) -> None:
        super().__init__(rng=rng)


class Coinless(Emptiest):
    """Has a coin of its own, which no seed reaches."""

    def __init__(self) -> None:
        super().__init__(rng=np.random.default_rng())


class Half:
    """Half a policy."""


HALF = 0.5
