"""Who waits is told of his place, a bounded number of times a second.

Owns when places are looked at. The engine guards it with its lock.
"""

from __future__ import annotations

import math
from typing import Generic, TypeVar

from edge_node.domain import AttemptQueued
from edge_node.places import PLACES_TOLD_MAX
from edge_node.worker import queue_order
from edge_node.worker.active_rows import ActiveRows
from edge_node.worker.attempts import Attempt, AttemptBook
from edge_node.worker.reporting import Reporter

# Between two looks at all places. Who arrives in between is told the last one meanwhile.
POSITIONS_INTERVAL_S = 0.1

Row = TypeVar("Row")


class PlacesTold(Generic[Row]):
    """The places of the drawings that wait.

    Attributes:
        changed: whether places have changed since they were looked at.
        due_s: when they may be again.
    """

    def __init__(self, book: AttemptBook[Row], reporter: Reporter) -> None:
        self._book = book
        self._reporter = reporter
        self.changed = False
        self.due_s = -math.inf

    def tell(self, rows: ActiveRows[Row], *, now_s: float) -> None:
        """Tells who waits of their places, unless that was done a moment ago; then it is owed."""
        self.changed = now_s < self.due_s
        if self.changed:
            return
        self.due_s = now_s + POSITIONS_INTERVAL_S
        waiting = self._book.waiting
        places = queue_order.positions(
            (attempt.entry for attempt in waiting.values()),
            order=rows.order,
            now_s=now_s,
            shares=rows.shares,
        )
        for arrival, position in places.items():
            attempt = waiting[arrival]
            near = position <= PLACES_TOLD_MAX or attempt.position == 0
            if attempt.position != position and near:
                self.tell_one(attempt, position)

    def tell_one(self, attempt: Attempt[Row], position: int) -> None:
        """Tells one of a place."""
        attempt.position = position
        self._reporter.send(attempt, AttemptQueued(position=position))
