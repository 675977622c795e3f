"""Steps of a lone drawing whose other row another device computes.

Owns asking for it, waiting for it no longer than computing it would take, and computing it here
where it does not come. `step` is called by the engine's loop alone, the rest from any thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from edge_node.checkpoint import CheckpointRefused
from edge_node.clock import Clock
from edge_node.domain import WorkerDescription
from edge_node.shared_rows import Leader, RowGiven, RowWanted, patience_s
from edge_node.worker.attempts import Attempt
from edge_node.worker.denoiser import Denoiser, PairDenoiser

LOG = logging.getLogger(__name__)

Row = TypeVar("Row")
Ask = Callable[[RowWanted], None]
Hold = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """What a step of the drawing takes here as a whole, and one of its rows."""

    pair_s: float
    row_s: float


class SharedSteps(Generic[Row]):
    """The steps of one engine that may be shared.

    Args:
        clock: of the engine.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._leader = Leader()
        self._changed = threading.Condition()
        self._ask: Ask | None = None

    # From any thread.

    def ask_by(self, ask: Ask) -> None:
        """From now on rows are asked for by `ask`, which must not wait."""
        with self._changed:
            self._leader.forget()
            self._ask = ask

    def ask_no_more(self, ask: Ask) -> None:
        """Nobody listens there any more."""
        with self._changed:
            if self._ask is ask:
                self._ask = None
                self._leader.forget()
                self._changed.notify_all()

    def answered(self, given: RowGiven) -> None:
        """A row came, or will not."""
        with self._changed:
            self._leader.answered(given, now_s=self._clock.now_s())
            self._changed.notify_all()

    # From the engine's loop.

    def step(
        self,
        denoiser: Denoiser[Row],
        attempt: Attempt[Row],
        *,
        served: WorkerDescription,
        times: StepTimes,
        hold: Hold,
    ) -> bool:
        """One step of a lone drawing; whether it was the whole one, as others measure steps.

        Args:
            denoiser: draws.
            attempt: the drawing, with a row.
            served: what this worker serves.
            times: what a step takes.
            hold: waits until a row that began at that moment has taken what the pace says.
        """
        wanted = self._wanted(denoiser, attempt, served, times)
        shared = wanted is not None and self._asked(wanted)
        assert attempt.row is not None
        if wanted is None or not shared:
            denoiser.step([attempt.row])
            return True
        self._share(cast(PairDenoiser[Row], denoiser), attempt.row, wanted, hold)
        return False

    def _wanted(
        self,
        denoiser: Denoiser[Row],
        attempt: Attempt[Row],
        served: WorkerDescription,
        times: StepTimes,
    ) -> RowWanted | None:
        with self._changed:
            if self._ask is None or not self._leader.may_ask(now_s=self._clock.now_s()):
                return None
        if not hasattr(denoiser, "before_pair"):
            return None
        latents = cast(PairDenoiser[Any], denoiser).before_pair(attempt.row)
        if latents is None:
            return None
        return RowWanted(
            task_id=attempt.task_id,
            fence=attempt.fence,
            drawing=attempt.drawing,
            fingerprint=dict(served.variants).get(attempt.drawing.model, served.model_fingerprint),
            step=attempt.steps_done,
            latents=latents,
            pair_s=times.pair_s,
            row_s=times.row_s,
        )

    def _asked(self, wanted: RowWanted) -> bool:
        """Asks; whether the answer is to be waited for."""
        with self._changed:
            ask = self._ask
            if ask is None:
                return False
            shared = self._leader.is_helped(wanted.task_id, wanted.fence)
            self._leader.ask(wanted, now_s=self._clock.now_s())
        ask(wanted)
        return shared

    def _share(self, denoiser: PairDenoiser[Row], row: Row, wanted: RowWanted, hold: Hold) -> None:
        began_s = self._clock.now_s()
        own = denoiser.velocity_of(row, "conditional")
        hold(began_s)
        given = self._waited(wanted, row_s=self._clock.now_s() - began_s)
        if own is not None and given is not None and given.velocity is not None:
            try:
                denoiser.apply(row, conditional=own, unconditional=given.velocity)
            except CheckpointRefused as refusal:
                LOG.warning("a row that was given is of no use (%s): computed here", refusal)
            else:
                with self._changed:
                    self._leader.used()
                return
        if given is None or given.velocity is not None:
            with self._changed:
                self._leader.missed(now_s=self._clock.now_s())
        began_s = self._clock.now_s()
        other = denoiser.velocity_of(row, "unconditional")
        hold(began_s)
        if own is None or other is None:
            denoiser.step([row])  # not finite: it ends as it would have alone
        else:
            denoiser.apply(row, conditional=own, unconditional=other)

    def _waited(self, wanted: RowWanted, *, row_s: float) -> RowGiven | None:
        """The answer, if it comes while computing it here would take."""
        until_s = self._clock.now_s() + patience_s(row_s)
        with self._changed:
            while self._ask is not None:
                given = self._leader.answer_to(wanted)
                left_s = until_s - self._clock.now_s()
                if given is not None or left_s <= 0.0:
                    return given
                self._changed.wait(left_s)
        return None
