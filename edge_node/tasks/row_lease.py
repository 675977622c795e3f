"""Whom this device computes rows for: one at a time, and nobody beside own work. Pure.

There is no promise to give back: each row that is asked for renews the lease, and whoever asks no
more loses it. So two devices never share a helper, however old their views of it are.
"""

from __future__ import annotations

from edge_node.domain import NodeId
from edge_node.shared_rows import BUSY, LEASED

# Steps of whoever holds it that may pass without a row being asked for, and the bounds of that.
LEASE_STEPS = 3.0
LEASE_S_MIN, LEASE_S_MAX = 0.1, 10.0


class RowLease:
    """The one lease of a device."""

    def __init__(self) -> None:
        self._holder: NodeId | None = None
        self._until_s = 0.0

    def ask(self, leader: NodeId, *, idle: bool, pair_s: float, now_s: float) -> str:
        """Grants or renews it: empty, or why a row is not computed.

        Args:
            leader: asks; it has one drawing at a time that is helped.
            idle: whether this device has nothing of its own to do.
            pair_s: what a step takes there.
            now_s: the clock.
        """
        if not idle:
            self._holder = None
            return BUSY
        if self.holder(now_s=now_s) not in (None, leader):
            return LEASED
        self._holder = leader
        self._until_s = now_s + min(max(LEASE_STEPS * pair_s, LEASE_S_MIN), LEASE_S_MAX)
        return ""

    def holder(self, *, now_s: float) -> NodeId | None:
        """Who is helped now."""
        return self._holder if now_s < self._until_s else None
