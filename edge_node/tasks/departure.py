"""When a drawing may leave its executor to go on elsewhere, and what that costs. Pure.

Owns the account of one move under way, and the measure of those that were made.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.domain import NodeId
from edge_node.moves import Move, MoveReason, WantedTask

# Before anything was measured: a checkpoint takes milliseconds, two calls and a beginning more.
COST_S_ASSUMED = 0.1
COST_WEIGHT = 0.1
# A device that had something to draw after all is no cost of moving.
COST_S_MAX = 2.0


@dataclass(frozen=True, kw_only=True)
class Departure:
    """That a drawing is to go on elsewhere.

    Attributes:
        source: the executor that it leaves.
        reason: why.
        taker: the node that wants it; None where placement is asked.
        gain_s: as in Move.
        until_s: when its executor is not waited for any more.
    """

    source: NodeId
    reason: MoveReason
    taker: NodeId | None = None
    gain_s: float = 0.0
    until_s: float = 0.0

    @classmethod
    def wanted(cls, wanted: WantedTask, *, source: NodeId, until_s: float) -> Departure:
        """What another device would go on with."""
        return cls(
            source=source,
            reason=wanted.reason,
            taker=NodeId(wanted.taker),
            gain_s=wanted.gain_s,
            until_s=until_s,
        )

    def made(self, target: NodeId) -> Move | None:
        """The move that it became; None where the drawing came back to where it was."""
        if target == self.source:
            return None
        return Move(source=self.source, target=target, reason=self.reason, gain_s=self.gain_s)


class MoveCost:
    """For how long drawings stood still that moved, lately.

    Attributes:
        seconds: from the last word of the one executor to the first of the other.
    """

    def __init__(self) -> None:
        self.seconds = COST_S_ASSUMED

    def measured(self, seconds: float) -> None:
        """A drawing that had moved goes on."""
        self.seconds += COST_WEIGHT * (min(max(seconds, 0.0), COST_S_MAX) - self.seconds)
