"""The row of another device's step that this one computes when it has nothing else to do.

Owns the one row that may be waiting, and computing it. The engine guards it with its lock, and
calls `compute` from its loop alone. It draws nothing.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from edge_node.checkpoint import CheckpointRefused
from edge_node.clock import Clock
from edge_node.domain import WorkerDescription
from edge_node.errors import DEdgeAIError
from edge_node.shared_rows import (
    ANOTHER_MODEL,
    BUSY,
    NO_MEMORY,
    UNUSABLE,
    RowGiven,
    RowWanted,
)
from edge_node.worker.denoiser import Denoiser, PairDenoiser, refuse_unless_drawable
from edge_node.worker.device_errors import DeviceLost, is_device_lost
from edge_node.worker.memory_guard import is_out_of_memory

LOG = logging.getLogger(__name__)

Row = TypeVar("Row")
OnGiven = Callable[[RowGiven], None]


@dataclass(frozen=True, kw_only=True)
class Owed:
    """A row that was taken in."""

    wanted: RowWanted
    on_given: OnGiven


class Assisting(Generic[Row]):
    """At most one row, which waits for the step under way at most."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._owed: Owed | None = None

    @property
    def owes(self) -> bool:
        """Whether a row waits to be computed."""
        return self._owed is not None

    def ask(
        self,
        wanted: RowWanted,
        on_given: OnGiven,
        *,
        idle: bool,
        room: bool,
        served: WorkerDescription,
    ) -> None:
        """Takes a row in, or refuses it at once.

        Args:
            wanted: the row.
            on_given: told what came of it, once.
            idle: whether there is no drawing here.
            room: whether memory bears a row more.
            served: what this worker serves.
        """
        refusal = _refusal(wanted, served)
        if not idle or self._owed is not None:
            refusal = BUSY
        elif not room:
            refusal = NO_MEMORY
        if refusal:
            on_given(wanted.refused(refusal))
        else:
            self._owed = Owed(wanted=wanted, on_given=on_given)

    def refuse(self) -> None:
        """There is own work."""
        owed, self._owed = self._owed, None
        if owed is not None:
            owed.on_given(owed.wanted.refused(BUSY))

    def take(self) -> Owed | None:
        """The row that waits, to be computed now."""
        owed, self._owed = self._owed, None
        return owed

    def compute(self, owed: Owed, denoiser: Denoiser[Row], hold: Callable[[float], None]) -> None:
        """Computes a row, without the lock; `hold` holds the pace from a moment on.

        Raises:
            DeviceLost: nothing can be computed any more.
        """
        wanted, began_s = owed.wanted, self._clock.now_s()
        pairs = cast(PairDenoiser[Row], denoiser)
        try:
            row = pairs.assisting(wanted.drawing, step=wanted.step, latents=wanted.latents)
            velocity = pairs.velocity_of(row, "unconditional")
        except Exception as error:
            if is_device_lost(error):
                raise DeviceLost(str(error)) from error
            traceback.clear_frames(error.__traceback__)
            known = isinstance(error, CheckpointRefused | DEdgeAIError)
            LOG.warning("no row for %s: %s", wanted.task_id, error, exc_info=not known)
            refusal = NO_MEMORY if is_out_of_memory(error) else UNUSABLE
            owed.on_given(wanted.refused(refusal))
            return
        hold(began_s)
        took_s = self._clock.now_s() - began_s
        if velocity is None:
            owed.on_given(wanted.refused(UNUSABLE))
        else:
            owed.on_given(wanted.computed(velocity, took_s=took_s))


def _refusal(wanted: RowWanted, served: WorkerDescription) -> str:
    """Why a row of it is never computed here; empty if it may be."""
    fingerprint = dict(served.variants).get(wanted.drawing.model, served.model_fingerprint)
    if wanted.fingerprint != fingerprint:
        return ANOTHER_MODEL
    guided = wanted.drawing.guidance_scale > 1.0
    if not guided or not 0 <= wanted.step < wanted.drawing.denoising_steps:
        return UNUSABLE
    try:
        refuse_unless_drawable(wanted.drawing, served)
    except DEdgeAIError:
        return UNUSABLE
    return ""
