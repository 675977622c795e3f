"""The interface between a deciding node and a policy.

A policy chooses; it holds no queue state and reads no clock. Randomness comes from the generator
that it was built with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from scheduler.observation import FloatArray, Observation


class UnknownMembership(ValueError):
    """A policy's weights are for other candidates than an observation has."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Where one task goes.

    Attributes:
        choice: index into the observation's candidates.
        policy: name of the policy that chose.
        latent_B: x_0, the latent action probability to keep for the next slot; None where the
            policy has none.
        weights_version: of the learned weights that chose; None where nothing was learned.
        reason: why this policy chose and not another; empty where there was no other.
    """

    choice: int
    policy: str
    latent_B: FloatArray | None = field(default=None, compare=False)
    weights_version: str | None = None
    reason: str = ""


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
