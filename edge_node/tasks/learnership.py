"""Who learns for the cluster, and which weights a node should hold.

Pure: told what each node says of itself, it answers for one node. There is no vote: every node that
sees the same cluster finds the same learner, and where two see another one (a network in parts),
both learn for a while and one rule, the greater `rank`, says everywhere whose weights stand.

The learner is the willing node of the least name. So a node with a lesser name takes over when it
comes; it learns no sooner than it holds the newest weights, from which it goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from edge_node.domain import Learning, NodeId
from edge_node.learned_weights import LearnedWeights


@dataclass(frozen=True, kw_only=True)
class Member:
    """A node as far as it matters for learning.

    Attributes:
        alive: this node itself, or one that was heard lately.
        learning: what it says of itself; None from version 0.1.0, which learns for itself.
    """

    node_id: NodeId
    alive: bool
    learning: Learning | None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Weights that this node lacks.

    Attributes:
        weights: which.
        holders: nodes that have them, in the order in which to ask.
    """

    weights: LearnedWeights
    holders: tuple[NodeId, ...]


@dataclass(frozen=True, kw_only=True)
class Learnership:
    """What one node does about learning.

    Attributes:
        learner: who learns, by this node's view; None when nobody is willing.
        learns: this node's own learner process shall learn now.
        pools: other nodes whose experience the learner reads.
        wanted: weights to fetch; None when this node holds the newest.
    """

    learner: NodeId | None
    learns: bool
    pools: tuple[NodeId, ...]
    wanted: Wanted | None


def learnership(
    own_id: NodeId, own: Learning, others: Iterable[Member], *, refused: Collection[str] = ()
) -> Learnership:
    """What the node does, by what it and the others say.

    Args:
        own_id: the node.
        own: what it says of itself.
        others: all other nodes that it knows of.
        refused: digests of weights that it found unusable; they are not wanted again.
    """
    together = [
        (one.node_id, one.learning)
        for one in others
        if one.alive and one.learning is not None and one.learning.policy == own.policy
    ]
    willing = [node_id for node_id, learning in together if learning.willing]
    if own.willing:
        willing.append(own_id)
    learner = min(willing, default=None)
    wanted = _wanted(own, together, refused)
    return Learnership(
        learner=learner,
        learns=learner == own_id and wanted is None,
        pools=tuple(sorted(node_id for node_id, _ in together)),
        wanted=wanted,
    )


def _wanted(
    own: Learning, together: list[tuple[NodeId, Learning]], refused: Collection[str]
) -> Wanted | None:
    held = None if own.weights is None else own.weights.rank
    newer = [
        (node_id, learning.weights)
        for node_id, learning in together
        if learning.weights is not None
        and learning.weights.sha256 not in refused
        and (held is None or learning.weights.rank > held)
    ]
    if not newer:
        return None
    newest = max((weights for _, weights in newer), key=lambda weights: weights.rank)
    holders = tuple(sorted(node_id for node_id, weights in newer if weights == newest))
    return Wanted(weights=newest, holders=holders)
