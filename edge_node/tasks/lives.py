"""What tells one life of a node from another, and from another node of its name. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.domain import NodeId, NodeState


@dataclass(frozen=True, kw_only=True)
class Life:
    """A node from its start to its end; addresses tell namesakes of one number apart."""

    node_id: NodeId
    incarnation: int
    grpc_address: str


def life_of(state: NodeState) -> Life:
    """The one that a state was sent in."""
    return Life(
        node_id=state.node_id, incarnation=state.incarnation, grpc_address=state.grpc_address
    )


def same_node(life: Life, other: Life) -> bool:
    """Whether two lives of one name are of one node that stayed where it was."""
    return life.grpc_address == other.grpc_address


def is_other(life: Life, known: Life) -> bool:
    """Whether a life is not that of the known node, but of a former one or of a namesake."""
    if life.incarnation != known.incarnation:
        return life.incarnation < known.incarnation
    return not same_node(life, known)


def clash(state: NodeState, known: Life) -> str:
    """What an operator is told of two nodes that go by one name."""
    return (
        f"goes by the name of the node at {known.grpc_address} (its life {state.incarnation}; "
        f"known is life {known.incarnation}); give every node its own node_id"
    )


def host_of(address: str) -> str:
    """The host of host:port, an IPv6 one without its brackets."""
    return address.rpartition(":")[0].strip("[]")
