"""The interface between a deciding node and a policy.

A policy chooses; it holds no queue state and reads no clock. Randomness comes from the generator
that it was built with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from scheduler.observation import Observation


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Where one task goes.

    Attributes:
        choice: index into the observation's candidates.
        policy: name of the policy that chose.
    """

    choice: int
    policy: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a decision.

    Attributes:
        decision_id: the node's name for the decision.
        service_delay_s: from arrival to result, or the penalty when there was none.
        completed: False for failed and expired tasks.
    """

    decision_id: str
    service_delay_s: float
    completed: bool


class Policy(Protocol):
    """Decides placements one task at a time."""

    def decide(self, observation: Observation) -> Decision:
        """Chooses a candidate that is alive."""
        ...

    def record(self, outcome: Outcome) -> None:
        """Learns what became of an earlier decision; outcomes come late, out of order or never."""
        ...
