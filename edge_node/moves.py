"""A drawing that moves between devices: what is told of it, to nodes and to clients.

Owns the words alone. Which drawing moves is decided in `scheduler/running_moves.py`, and whether it
may by the owner of its task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Why: a device had nothing else to do; it came before what was drawn there; it waited for a device
# that was further behind; or its device was told to stop.
MoveReason = Literal["idle", "aside", "waiting", "draining"]
MOVE_REASONS: tuple[MoveReason, ...] = ("idle", "aside", "waiting", "draining")

# Of what a node holds, those that it tells of, and those that it listens to.
HELD_TOLD, HELD_TOLD_MAX = 8, 64
# Of one task: moves_max, which operators may set so high.
MOVES_TOLD_MAX = 100


@dataclass(frozen=True, kw_only=True)
class HeldDrawing:
    """An attempt in the hands of a node, as the node tells others of it.

    Attributes:
        task_id: of its task.
        fence: (term, attempt) of it.
        model: that draws it.
        age_s: since the task was accepted, when this was told.
        work_left: work units of all that is to be done, when this was told.
        step_work: work units of one step.
        begun: whether it is drawn, or was.
        moves_left: how often it may move once more.
    """

    task_id: str
    fence: tuple[int, int]
    model: str
    age_s: float
    work_left: float
    step_work: float
    begun: bool
    moves_left: int


@dataclass(frozen=True, kw_only=True)
class Move:
    """That a drawing moved.

    Attributes:
        source: the node that it left.
        target: the node that goes on with it.
        reason: why.
        gain_s: seconds by which it, and what waited behind it, should be done sooner; 0 where that
            was not counted.
    """

    source: str
    target: str
    reason: MoveReason
    gain_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class WantedTask:
    """That a node would go on with what an attempt draws.

    Attributes:
        task_id: of its task.
        fence: (term, attempt) of it.
        taker: the node.
        reason: why.
        gain_s: as in Move.
    """

    task_id: str
    fence: tuple[int, int]
    taker: str
    reason: MoveReason
    gain_s: float
