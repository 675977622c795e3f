"""The cluster as one node sees it, for whoever asks the node."""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.domain import NodeId, NodeState
from edge_node.removal import Removal
from scheduler.guard.status import GuardStatus


@dataclass(frozen=True, kw_only=True)
class PeerView:
    """One other node as this node sees it; None where nothing was heard of an address yet.

    `clock_ahead_s`: by how much its machine's clock of the day is ahead; None where it is not told.
    """

    address: str
    state: NodeState | None
    alive: bool
    staleness_s: float
    link_s: float
    clock_ahead_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class LearnerProgress:
    """How far a learner process is in this life of it.

    Attributes:
        entries: read of each node's pool, decisions and outcomes together.
        decisions: of which it is known what they led to.
        updates: of the networks.
        refusal: why the last weights were not published; empty if they were, or none are there.
    """

    entries: dict[str, int]
    decisions: int
    updates: int
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class ClusterSnapshot:
    """The cluster as one node sees it.

    `guard` only where a learned policy is wanted, `learner` only where this node's learner learns.
    `removed`: nodes that an operator took out of the cluster.
    """

    node_id: NodeId
    policy: str
    own: NodeState
    peers: tuple[PeerView, ...]
    tasks_in_flight: int
    guard: GuardStatus | None = None
    learner: LearnerProgress | None = None
    removed: tuple[Removal, ...] = ()
