"""Whose turn it is where several clients wait: each has the same share of the device. Pure.

Start-time fair queueing (Goyal, Vin, Cheng: IEEE/ACM Transactions on Networking 5(5), 1997), in
seconds of service. A drawing starts, in virtual time, where its client's last one ends, or now; the
least start is served next, and virtual time is the start of what was begun last. So a client that
comes, or comes back, waits for what is being drawn and not for what others have waiting, and has
saved nothing up while it was away. differs: starts are given when the order is asked for and not at
the arrival, because each client's own drawings may be in any order.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_node.worker.queue_order import Entry


# Whose turns are remembered at once: more than clients have keys.
CLIENTS_MAX = 2000


class FairShares:
    """What each client was given of the device."""

    def __init__(self) -> None:
        self._now_s = 0.0
        # Where the next of each client starts, if that is not now.
        self._next_s: dict[str, float] = {}

    def begun(self, client: str, service_s: float) -> None:
        """A drawing of a client begins, which takes so long."""
        start_s = self._start_s(client)
        self._now_s = max(self._now_s, start_s)
        self._next_s[client] = start_s + service_s
        if len(self._next_s) > CLIENTS_MAX:  # for names cost nothing to whoever invents them
            self._now_s = max(self._now_s, min(self._next_s.values()))
        self._next_s = {who: at_s for who, at_s in self._next_s.items() if at_s > self._now_s}

    def in_turns(self, in_order: Sequence[Entry]) -> list[Entry]:
        """Drawings of several clients, each client's in the order that they have here.

        One that has begun is not interrupted for another client; one client alone is served in
        its order.
        """
        lines: dict[str, list[Entry]] = {}
        for one in reversed(in_order):
            lines.setdefault(one.client, []).append(one)
        if len(lines) < 2:
            return list(in_order)
        starts = [(*_rank(line[-1], self._start_s(who)), who) for who, line in lines.items()]
        heapq.heapify(starts)
        turns: list[Entry] = []
        while starts:
            _, start_s, _, who = starts[0]
            one = lines[who].pop()
            turns.append(one)
            # What has begun was counted when it did.
            next_s = start_s if one.started else start_s + one.service_s
            if lines[who]:
                heapq.heapreplace(starts, (*_rank(lines[who][-1], next_s), who))
            else:
                heapq.heappop(starts)
        return turns

    def _start_s(self, client: str) -> float:
        return max(self._now_s, self._next_s.get(client, 0.0))


def _rank(one: Entry, start_s: float) -> tuple[bool, float, int]:
    return not one.started, start_s, one.arrival
