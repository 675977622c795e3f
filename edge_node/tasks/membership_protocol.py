"""What Membership is told and what it answers: events in, instructions out.

Owns the words alone; what an event means is `tasks.membership`'s, and what is done about it the
shell's, `peering.peer_links`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from edge_node.config import NodeConfig
from edge_node.domain import NodeId, NodeState

LinkId = NewType("LinkId", int)


@dataclass(frozen=True, kw_only=True)
class MembershipSettings:
    """Who belongs to the cluster.

    Attributes:
        addresses: configured ones.
        cluster_name: states of a cluster of another name are not heard.
        heartbeat_s: at least how often state is pushed; the shell's to keep.
        accept_new_peers: a node may come in by saying hello.
        forget_s: silence after which a node that is not configured is forgotten.
    """

    addresses: tuple[str, ...]
    cluster_name: str
    heartbeat_s: float
    accept_new_peers: bool
    forget_s: float

    @classmethod
    def of(cls, config: NodeConfig) -> MembershipSettings:
        """From the node's settings."""
        return cls(
            addresses=config.peers,
            cluster_name=config.cluster_name,
            heartbeat_s=config.heartbeat_s,
            accept_new_peers=config.accept_new_peers,
            forget_s=config.forget_s,
        )


# Events: what happened.


@dataclass(frozen=True, kw_only=True)
class Started:
    """The node is up and may call others; `own` is its state, by which it knows itself."""

    own: NodeState | None = None


@dataclass(frozen=True, kw_only=True)
class Reconfigured:
    """The operator changed the settings."""

    settings: MembershipSettings


@dataclass(frozen=True, kw_only=True)
class AddressFound:
    """Discovery says that a node of this cluster is there; the same may be said again."""

    address: str


@dataclass(frozen=True, kw_only=True)
class AddressLost:
    """Discovery says that nobody is there any more."""

    address: str


@dataclass(frozen=True, kw_only=True)
class HelloReceived:
    """A node pushed its state to this one, calling from the IP address `host`, if known.

    `proven` says that its certificate has the name that the state goes by.
    """

    state: NodeState
    host: str | None
    proven: bool = False


@dataclass(frozen=True, kw_only=True)
class StateAnswered:
    """The node at the other end of a link sent its state over it."""

    link: LinkId
    state: NodeState


@dataclass(frozen=True, kw_only=True)
class LinkBroke:
    """A try to keep the link up has ended; the shell tries again until it is closed."""

    link: LinkId


@dataclass(frozen=True, kw_only=True)
class RemovalSaid:
    """An operator took a node out of the cluster, or back in; `unix_s` is when."""

    node_id: NodeId
    removed: bool
    unix_s: float


@dataclass(frozen=True, kw_only=True)
class LeaveRequested:
    """This node is about to stop."""


Event = (
    Started
    | Reconfigured
    | AddressFound
    | AddressLost
    | HelloReceived
    | StateAnswered
    | LinkBroke
    | RemovalSaid
    | LeaveRequested
)


# Instructions: what the shell is to do.


@dataclass(frozen=True, kw_only=True)
class OpenLink:
    """Reach the node at `address` (host:port), again and again."""

    link: LinkId
    address: str


@dataclass(frozen=True, kw_only=True)
class CloseLink:
    """Give the link up; whatever it still brings is ignored."""

    link: LinkId


@dataclass(frozen=True, kw_only=True)
class HearState:
    """Take in the state of a node of this cluster."""

    state: NodeState


@dataclass(frozen=True, kw_only=True)
class ForgetNode:
    """The node left, or is given up: nothing of it counts any more. `why` is for the log."""

    node_id: NodeId
    why: str


@dataclass(frozen=True, kw_only=True)
class NoteMeeting:
    """A link has met a node that it did not lead to before: for the log."""

    node_id: NodeId
    address: str


@dataclass(frozen=True, kw_only=True)
class NoteStranger:
    """States of this node are not heard: for the log, once per node."""

    node_id: NodeId
    address: str
    why: str


@dataclass(frozen=True, kw_only=True)
class KeepRemovals:
    """Who is out of the cluster has changed: keep it beyond this life, and tell everyone."""


@dataclass(frozen=True, kw_only=True)
class SayGoodbye:
    """Tell everyone that this node leaves."""


Instruction = (
    OpenLink
    | CloseLink
    | HearState
    | ForgetNode
    | NoteMeeting
    | NoteStranger
    | KeepRemovals
    | SayGoodbye
)
