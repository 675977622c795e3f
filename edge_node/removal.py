"""That an operator took a node out of the cluster, or back in: what nodes tell each other of it."""

from __future__ import annotations

from dataclasses import dataclass

# Of those that a node knows: readmitted nodes are forgotten first, of these the oldest.
REMOVALS_MAX = 64


@dataclass(frozen=True, kw_only=True)
class Removal:
    """The last word on a node's place in the cluster.

    Attributes:
        node_id: its name.
        address: host:port at which it was met last; empty where it was not.
        removed: it stays out; otherwise it may come back.
        at_unix_s: when an operator said so. Of two words on one node the later counts.
    """

    node_id: str
    address: str
    removed: bool
    at_unix_s: float
