"""Bounds of waiting and trying, for the tasks of one origin. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.config import NodeConfig
from edge_node.tasks.moving import moving_of

# Placement answers at once; a task that waits for an answer so long will not get it.
PLACEMENT_LOST_S = 5.0
# Of a task by executors that were told to stop: a cluster is started anew once or twice meanwhile.
GIVEN_BACK_MAX = 16
# Far more than a task can have in one life of its node.
EVENTS_OF_A_LIFE_MAX = 1_000_000


@dataclass(frozen=True, kw_only=True)
class LifecycleLimits:
    """Bounds of waiting and trying.

    Attributes:
        attempts_max: placements of one task in one life of its owner, but for moves.
        moves_max: placements that a task gets besides because it goes on elsewhere; those that
            executors give back which are told to stop do not count (`GIVEN_BACK_MAX`).
        lease_s: silence of an executor after which its attempt is given up.
        patience_s: that another node may hold an attempt before it is placed elsewhere, though it
            goes on saying that it lives; `patience_factor` times what was expected where that is
            more, and where a deadline leaves less, half of what it leaves.
        placement_retry_s: pause before another try when no node can take the task.
        finished_kept_max: finished tasks kept in memory; older ones are read from the ledger.
        finished_bytes_max: that they take, about.
        checkpoint_bytes_max: that checkpoints of tasks which are not over take.
        takeable: whether devices may take drawings of these tasks from each other.
        export_s: within which an executor is to hand over what another device takes; afterwards
            it goes on from its last checkpoint.
    """

    attempts_max: int = 5
    moves_max: int = 3
    lease_s: float = 5.0
    patience_s: float = 120.0
    patience_factor: float = 10.0
    placement_retry_s: float = 0.25
    finished_kept_max: int = 2000
    finished_bytes_max: int = 16 * 2**20
    checkpoint_bytes_max: int = 64 * 2**20
    takeable: bool = False
    export_s: float = 5.0

    @classmethod
    def of(cls, config: NodeConfig) -> LifecycleLimits:
        """From the node's settings."""
        return cls(
            attempts_max=config.attempts_max,
            lease_s=config.lease_s,
            checkpoint_bytes_max=config.checkpoint_bytes_max,
            moves_max=config.moves_max,
            takeable=moving_of(config) == "running",
            export_s=config.lease_s,
        )

    def until_overdue_s(self, eta_s: float, deadline_s: float | None) -> float:
        """How long another node may hold an attempt that was expected to take `eta_s`.

        `deadline_s` is what is left of the task's time, None where it has all the time.
        """
        patience_s = max(self.patience_s, self.patience_factor * eta_s)
        if deadline_s is None:
            return patience_s
        return min(patience_s, max(3.0 * eta_s, deadline_s / 2))
