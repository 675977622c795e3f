"""Which rows are stepped next: the order's choice, as far as memory bears it.

Owns the active rows, their turns, the allowed width and the tracked capacity. It knows no threads:
the engine guards it with its lock, and passes in the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from edge_node.domain import Drawing
from edge_node.worker import memory_guard, queue_order
from edge_node.worker.attempts import Attempt, AttemptBook
from edge_node.worker.calibration import Calibration, CapacityTracker
from edge_node.worker.fair_shares import FairShares
from edge_node.worker.queue_order import Entry, Order
from edge_node.worker.sharing import StepTimes
from scheduler import longest_wait

# Drawings whose last step is done and whose image is still being decoded and encoded. At this
# bound nothing new begins, else finished latents would pile up before a slow decoder.
ENCODING_MAX = 4
# Share by which capacity may drift before what is ordered by seconds is counted anew.
CAPACITY_DRIFT = 0.02
# Between two such counts: of each drawing that waits, it costs as much as to rank it.
RECOUNT_INTERVAL_S = 0.1

Row = TypeVar("Row")


class ActiveRows(Generic[Row]):
    """The rows that take turns on the device, among all drawings of a book.

    Attributes:
        order: who comes first at present; where it follows the load, each arrival may change it.
        shares: of the clients.

    Args:
        book: all drawings.
        order: who comes first.
        calibration: what steps cost and how many rows gain.
        parked_max: drawings that may hold a latent beside `calibration.rows_max`.
        floor_bytes: memory that further rows must leave free.
        available_bytes: reads how much memory is free.
    """

    def __init__(
        self,
        book: AttemptBook[Row],
        *,
        order: Order,
        calibration: Calibration,
        parked_max: int,
        floor_bytes: int,
        available_bytes: Callable[[], int],
    ) -> None:
        self._book = book
        self._order = order
        # As the longest wait lately makes it; the same as configured unless it follows the load.
        self.order = order.at(0.0)
        self.shares = FairShares()
        self._longest_wait_s, self._arrival_s = 0.0, 0.0
        self._calibration = calibration
        self._started_max = calibration.rows_max + parked_max
        self._floor_bytes = floor_bytes
        self._available_bytes = available_bytes
        self._tracker = CapacityTracker(calibration)
        self._width = memory_guard.AllowedWidth(calibration.rows_max)
        self._active: list[Attempt[Row]] = []
        self._batches = 0
        # Seconds of a row's work unit when all places are taken, as of the last count, and when it
        # may be counted again.
        self.unit_s = calibration.rows_max / calibration.capacity
        self._recount_due_s = -math.inf
        # When `choose` is due again: at once after any change.
        self.choose_again_s = -math.inf

    @property
    def capacity(self) -> float:
        """Work units per second, tracked."""
        return self._tracker.capacity

    def arriving(self, now_s: float) -> None:
        """A drawing is about to be added to the book: its wait counts as the load's measure."""
        if self._order.promotion_load is None:
            return
        # Every work unit has its own row's seconds; as many rows share the device.
        left_s = sum(attempt.entry.left_s for attempt in self._book.to_draw() if not attempt.over)
        self._longest_wait_s = longest_wait.after_arrival(
            self._longest_wait_s, left_s / self._calibration.rows_max, now_s - self._arrival_s
        )
        self._arrival_s = now_s
        self.order = self._order.at(self._longest_wait_s)
        self.choose_again_s = -math.inf

    def arrived(self, attempt: Attempt[Row], now_s: float) -> None:
        """It is in the book: whose rows are active is chosen again if that can change it.

        It cannot while all places are taken by drawings that come before it; so a deep queue costs
        a newcomer nothing.
        """
        before = [one.entry for one in self._active if not one.over]
        in_order = self._ranked([*before, attempt.entry], now_s)
        if len(before) < self._width.rows or in_order[-1] is not attempt.entry:
            self.choose_again_s = -math.inf
            return
        change_s = queue_order.next_change_s([attempt.entry], order=self.order, now_s=now_s)
        self.choose_again_s = min(self.choose_again_s, change_s)

    def _ranked(self, entries: Iterable[Entry], now_s: float) -> list[Entry]:
        return queue_order.ranked(entries, order=self.order, now_s=now_s, shares=self.shares)

    def image_gone(self) -> None:
        """An image is about to be on its way: who could not begin because of it may now."""
        if len(self._book.finishing) >= ENCODING_MAX:
            self.choose_again_s = -math.inf

    def choose(self, now_s: float) -> None:
        """Chooses whose rows are active from now on; all who are over were released before."""
        self._recount_if_capacity_drifted(now_s)
        entries = [attempt.entry for attempt in self._book.to_draw()]
        full = len(self._book.finishing) >= ENCODING_MAX
        candidates = (entry for entry in entries if entry.started or not full)
        chosen = queue_order.active(
            self._ranked(candidates, now_s),
            places=self._width.rows,
            started_max=self._started_max,
        )
        before = {attempt.arrival for attempt in self._active if not attempt.over}
        allowed = self._rows_allowed(chosen, rows_now=len(before))
        self._active = [self._book.to_be_drawn(entry.arrival) for entry in chosen[:allowed]]
        for attempt in self._active:
            if attempt.arrival not in before:
                attempt.turn = (self._batches, False)
        if allowed < len(chosen):
            # Memory comes back without telling.
            self.choose_again_s = -math.inf
        else:
            self.choose_again_s = queue_order.next_change_s(entries, order=self.order, now_s=now_s)

    def in_turn(self) -> list[Attempt[Row]]:
        """The active rows of one size: that of the row which has waited longest for a step."""
        active = [attempt for attempt in self._active if not attempt.over]
        if not active:
            return []
        size_px = min(active, key=lambda attempt: attempt.turn).entry.size_px
        return [attempt for attempt in active if attempt.entry.size_px == size_px]

    def row_work(self, drawing: Drawing) -> float:
        """Work units of one row of a guided step."""
        work_model = self._calibration.work_model
        rho = work_model.rho(width_px=drawing.width_px, height_px=drawing.height_px)
        return rho * work_model.unguided_ratio

    def is_lone(self, batch: list[Attempt[Row]]) -> bool:
        """Whether a batch is one drawing, and no other takes turns with it."""
        return len(batch) == 1 and sum(not attempt.over for attempt in self._active) == 1

    def step_times(self, attempt: Attempt[Row]) -> StepTimes:
        """What a guided step of that drawing's size takes here at present."""
        pair_s = self._tracker.step_s(rho=attempt.size_cost, width=1.0)
        return StepTimes(pair_s=pair_s, row_s=pair_s * self._calibration.work_model.unguided_ratio)

    def has_room(self, drawing: Drawing) -> bool:
        """Whether memory bears one row of a drawing that is none of the book's."""
        reference_px = self._calibration.work_model.reference_px
        area = drawing.width_px * drawing.height_px / reference_px**2
        row_bytes = math.ceil(self._calibration.row_bytes * area)
        return not row_bytes or self._available_bytes() - self._floor_bytes >= row_bytes

    def record_step(self, batch: list[Attempt[Row]], *, measured_s: float | None) -> None:
        """Takes in a step of `batch`; None where what it took says nothing of this device."""
        if measured_s is not None:
            self._tracker.record_step(
                rho=batch[0].size_cost,
                width=sum(attempt.row_cost for attempt in batch),
                measured_s=measured_s,
            )
        self._batches += 1
        for attempt in batch:
            attempt.turn = (self._batches, True)
            attempt.out_of_memory = False
            attempt.steps_done += 1
            attempt.recount(self.unit_s)
        if self._width.record_step():
            self.choose_again_s = -math.inf

    def shed(self, batch: list[Attempt[Row]]) -> list[Attempt[Row]]:
        """Parks the later half of a batch that ran out of memory, and beside it all others.

        Returns the rest, which is to be tried again: of a lone row itself the first time, nothing
        the second.
        """
        rest = batch[: (len(batch) + 1) // 2]
        if len(batch) == 1:
            if batch[0].out_of_memory:
                return []
            batch[0].out_of_memory = True
        self._width.shed(len(rest))
        self._active = list(rest)
        self.choose_again_s = -math.inf
        return rest

    def _recount_if_capacity_drifted(self, now_s: float) -> None:
        """Order, promotion and deadlines are in seconds at the present capacity."""
        unit_s = self._calibration.rows_max / self._tracker.capacity
        drifted = abs(unit_s - self.unit_s) > CAPACITY_DRIFT * self.unit_s
        if drifted and now_s >= self._recount_due_s:
            self._recount_due_s = now_s + RECOUNT_INTERVAL_S
            self.unit_s = unit_s
            for attempt in self._book.to_draw():
                attempt.recount(unit_s)

    def _rows_allowed(self, chosen: list[Entry], *, rows_now: int) -> int:
        """How many of `chosen` memory bears, as if all were of the largest size among them."""
        row_bytes = self._calibration.row_bytes
        if not row_bytes or len(chosen) <= max(1, rows_now):
            return len(chosen)
        area_px = max(width_px * height_px for width_px, height_px in (e.size_px for e in chosen))
        reference_px = self._calibration.work_model.reference_px
        return memory_guard.rows_allowed(
            wanted=len(chosen),
            rows_now=rows_now,
            row_bytes=math.ceil(row_bytes * area_px / reference_px**2),
            available_bytes=self._available_bytes(),
            floor_bytes=self._floor_bytes,
        )
