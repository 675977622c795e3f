"""Which drawing a device that is about to idle takes from another one: half-drawn, or waiting.

Owns the rule, for nodes and for the simulator. Between two of its steps a drawing is one latent, so
a fast device goes on with what a slow one has begun; and a slow device begins what waits for a fast
one sooner than would pay if it had to end it. The device that takes decides, because what it holds
itself is known there to the moment, and that is what would idle; what another one holds may have
changed meanwhile, and then the drawing's owner says no and nothing is lost. So nobody takes turns,
and it costs the same among any number of nodes.

What was measured, and what else was tried: docs/scheduling.md, "Drawings that move".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

MoveOrder = Literal["oldest", "least_remaining"]

# A slower device takes what waits when waiting costs more than this share of what drawing takes
# longer there, for it can be taken on from there. Of 0 to 1 on mixed Orins .1 has the least delays.
SLOWER_SHARE = 0.1
# A move must gain so many times what moves have cost lately: what is known of others is old.
GAIN_MIN_COSTS = 2.0
# Of the time that a drawing takes here, it must gain that much to push aside what is drawn here.
ASIDE_GAIN_SERVICES = 5.0
# With that little left, the decoding included, a drawing is done before it would have moved.
LAST_STEPS = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A drawing in the hands of a device.

    Attributes:
        task_id: names it.
        age_s: since it was asked for.
        work_left: work units, the step under way and the decoding included.
        step_work: of one step.
        begun: whether a step was done, there or elsewhere.
        movable: whether it may move once more.
    """

    task_id: str
    age_s: float
    work_left: float
    step_work: float
    begun: bool
    movable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A device and what it holds.

    Attributes:
        node_id: names it.
        capacity: work units per second.
        backlog: work units of all that it holds.
        held: in the order in which they are drawn; perhaps the first alone.
    """

    node_id: str
    capacity: float
    backlog: float
    held: Sequence[Held]


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """A drawing that should go on here.

    Attributes:
        task_id: names it.
        source: the device that holds it.
        gain_s: by which it, and what waits behind it, should be done sooner.
        reason: "idle": this device has nothing else to do; "aside": it comes before what is drawn
            here.
    """

    task_id: str
    source: str
    gain_s: float
    reason: Literal["idle", "aside"]


def best_take(
    own: Line, others: Iterable[Line], *, cost_s: float, order: MoveOrder = "oldest"
) -> Take | None:
    """What this device should take now, if anything.

    Args:
        own: this device, as it is.
        others: those that draw the same, as far as is known.
        cost_s: for which a drawing stands still that moves, as measured.
        order: "oldest": of what is drawn here a younger one is pushed aside; "least_remaining":
            one with more left.
    """
    if own.capacity <= 0.0:
        return None
    best: Take | None = None
    for line in others:
        if line.capacity <= 0.0 or line.node_id == own.node_id:
            continue
        ahead_s = 0.0
        for held in line.held:
            if held.movable:
                take = _take(held, own=own, line=line, ahead_s=ahead_s, cost_s=cost_s, order=order)
                if take is not None and (best is None or _rank(take) > _rank(best)):
                    best = take
            ahead_s += held.work_left / line.capacity
    return best


def _rank(take: Take) -> tuple[bool, float, str]:
    return take.reason == "idle", take.gain_s, take.task_id


def _take(
    held: Held, *, own: Line, line: Line, ahead_s: float, cost_s: float, order: MoveOrder
) -> Take | None:
    """The move of this drawing, behind which `ahead_s` of others are drawn, if it gains enough."""
    mine_s, least_s = own.backlog / own.capacity, GAIN_MIN_COSTS * cost_s
    under_way = held.begun and ahead_s == 0.0
    # On average half of the step under way is still to come; it is done there.
    half = 0.5 * held.step_work if under_way else 0.0
    arrives_s = half / line.capacity + cost_s
    here_s = (held.work_left - half) / own.capacity
    longer_s = here_s - (held.work_left - half) / line.capacity
    if under_way and (longer_s >= 0.0 or held.work_left <= LAST_STEPS * held.step_work):
        return None
    if mine_s <= arrives_s:
        share = SLOWER_SHARE if longer_s > 0.0 else 1.0
        gain_s = ahead_s + half / line.capacity - max(mine_s, arrives_s) - share * longer_s
        if gain_s <= least_s or (held.begun and longer_s > 0.0):
            return None
        return Take(task_id=held.task_id, source=line.node_id, gain_s=gain_s, reason="idle")
    gain_s = -cost_s - longer_s
    aside = under_way and gain_s > least_s + ASIDE_GAIN_SERVICES * here_s
    if aside and all(_before(held, one, order=order) for one in own.held if one.begun):
        return Take(task_id=held.task_id, source=line.node_id, gain_s=gain_s, reason="aside")
    return None


def _before(held: Held, other: Held, *, order: MoveOrder) -> bool:
    if order == "oldest":
        return held.age_s > other.age_s
    return held.work_left < other.work_left
