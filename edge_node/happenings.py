"""What happens in the cluster, as it is told: to tasks, at a node in one order, and to nodes.

Pure values, for the node that tells, the nodes that pass it on and the surface that shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.domain import NodeId, TaskEvent, TaskId


@dataclass(frozen=True, kw_only=True)
class Happened:
    """Something that happened at a node.

    Attributes:
        number: grows over all lives of the node; where nothing happened, how far a reader is.
        task_id: None where nothing happened.
        client: id of the API key that asked for the task; empty where none was asked for.
        event: None where nothing happened.
        missed: what came before this was not told, and is not known any more.
    """

    number: int
    task_id: TaskId | None = None
    client: str = ""
    event: TaskEvent | None = None
    missed: bool = False


@dataclass(frozen=True, kw_only=True)
class NodeSeen:
    """A node as another sees it: whether it is heard, and takes work."""

    alive: bool
    accepting: bool


@dataclass(frozen=True, kw_only=True)
class ClusterEvent:
    """Something of a node: what happened at it, or how it is seen now."""

    node_id: NodeId
    what: Happened | NodeSeen
