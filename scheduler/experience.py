"""What a live node remembers of a decision, until its outcome comes and a learner reads both.

Owns the shape only: the node writes it, a store keeps it, the learner joins it with the outcome.
Numpy only; arrays end in B candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.observation import Observation
from scheduler.policy import Decision


@dataclass(frozen=True, kw_only=True)
class RecordedDecision:
    """One placement as it was decided.

    Attributes:
        decision_id: `<task>/<term>.<attempt>`, by which the outcome is joined; without the term, of
            a node of version 0.1.0.
        node_id: who decided.
        decided_unix_s: when.
        slot: number of the slot since the node began, in which it was decided.
        index_in_slot: n, place among the slot's decisions.
        steps: denoising steps of the task.
        observation: what the policy saw, latent x_I included.
        decision: what it chose, latent x_0 and reason included.
        model: that was to be drawn; empty where it was not recorded, by a node that knew one alone.
    """

    decision_id: str
    node_id: str
    decided_unix_s: float
    slot: int
    index_in_slot: int
    steps: int
    observation: Observation
    decision: Decision
    model: str = ""


def task_of(decision_id: str) -> str:
    """The task that a decision is about."""
    return decision_id.partition("/")[0]


def is_again(decision_id: str) -> bool:
    """Whether the task had been placed before, in the same life of its node."""
    _, named, placement = decision_id.rpartition("/")
    return bool(named) and placement.rpartition(".")[2] != "1"


@dataclass(frozen=True, kw_only=True)
class PooledDecision:
    """A decision as a pool numbers it, so that a reader sees what is missing between two.

    Attributes:
        life: of the pool's writer; later lives sort later.
        sequence: counts all decisions of that life from 0, those given up before they were
            written included.
        recorded: the decision.
    """

    life: str
    sequence: int
    recorded: RecordedDecision
