"""Which idle device computes the other row of a guided step.

Owns the rule, for nodes and for the simulator. With classifier-free guidance a step is two rows
through the transformer that know nothing of each other, so a device that has nothing of its own to
do computes one of them for a drawing that another device goes on drawing. The device that draws
(it leads) asks, because it knows when its steps begin; the one that helps leaves as soon as there
is work of its own.

What was measured: docs/scheduling.md, "Two devices, one image".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """What a guided step takes on a device, in seconds, at the size that is drawn.

    Attributes:
        node_id: names it.
        pair_s: both rows.
        row_s: one of them.
    """

    node_id: str
    pair_s: float
    row_s: float


def shared_s(leader: StepTimes, helper: StepTimes, *, exchange_s: float) -> float:
    """A step whose rows two devices compute, the helper's after half of the exchange.

    Args:
        leader: draws.
        helper: computes the unconditional row.
        exchange_s: for a latent there and a velocity back.
    """
    return max(leader.row_s, helper.row_s + exchange_s)


def best_helper(
    leader: StepTimes,
    idle: Iterable[StepTimes],
    *,
    exchange_s: float,
    present: str | None = None,
) -> str | None:
    """Whom a device that draws one image asks for the other row; None where it is sooner alone.

    Of those with whom a step takes the least the slowest: a faster one is of use to others. Who
    helps already stays as long as he helps at all, because a new one has to be told of the drawing.

    Args:
        leader: draws.
        idle: devices of the same model and number type that have nothing else to do.
        exchange_s: for a latent there and a velocity back, as measured.
        present: who helps already.
    """
    ranked = [
        (one.node_id != present, shared_s(leader, one, exchange_s=exchange_s), -one.row_s, one)
        for one in idle
        if one.node_id != leader.node_id
        and shared_s(leader, one, exchange_s=exchange_s) < leader.pair_s
    ]
    if not ranked:
        return None
    return min(ranked, key=lambda entry: (*entry[:3], entry[3].node_id))[3].node_id
