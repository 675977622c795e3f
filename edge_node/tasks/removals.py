"""Which nodes are out of the cluster by an operator's word, wherever he said it. Pure.

Nodes that hear each other come to the same account, in whatever order they hear of what: of two
words on one node the later counts, and of too many the same ones are kept everywhere. A later word
is one that came after what its node knew, whatever the clocks of the day say.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge_node.domain import NodeId
from edge_node.removal import REMOVALS_MAX, Removal

# By how much a word is later than the one that it takes back, should the clock have gone back.
_LATER_S = 1e-3


class Removals:
    """The account of one node; begins with what a former life of it knew."""

    def __init__(self, known: Iterable[Removal] = ()) -> None:
        self._known: dict[str, Removal] = {}
        self.take(known)

    @property
    def known(self) -> tuple[Removal, ...]:
        """All words that count, by name."""
        return tuple(self._known[name] for name in sorted(self._known))

    def of(self, node_id: NodeId) -> Removal | None:
        """That the node was removed; None where it was not, or is back."""
        known = self._known.get(node_id)
        return known if known is not None and known.removed else None

    def is_vacant(self, address: str) -> bool:
        """Whether a removed node was the last one at the address."""
        return any(one.removed and one.address == address for one in self._known.values())

    def say(self, node_id: NodeId, *, removed: bool, address: str, unix_s: float) -> None:
        """Takes an operator's word."""
        former = self._known.get(node_id)
        at_unix_s = unix_s if former is None else max(unix_s, former.at_unix_s + _LATER_S)
        said = Removal(node_id=node_id, address=address, removed=removed, at_unix_s=at_unix_s)
        self.take([said])

    def take(self, told: Iterable[Removal]) -> bool:
        """Takes what another node knows; whether that changes anything."""
        former = dict(self._known)
        for one in told:
            known = self._known.get(one.node_id)
            if known is None or _weight(one) > _weight(known):
                self._known[one.node_id] = one
        if len(self._known) > REMOVALS_MAX:
            kept = sorted(self._known.values(), key=_importance)[-REMOVALS_MAX:]
            self._known = {one.node_id: one for one in kept}
        return self._known != former


def _weight(one: Removal) -> tuple[float, bool, str]:
    return one.at_unix_s, one.removed, one.address


def _importance(one: Removal) -> tuple[bool, float, str]:
    return one.removed, one.at_unix_s, one.node_id
