"""Many tasks cancelled at once: of this node, and of the cluster.

Owns which are meant, and that all of them are over, or past cancelling, before anybody is told.
"""

from __future__ import annotations

import asyncio

from edge_node.dispatch.other_nodes import OtherNodes
from edge_node.dispatch.own_tasks import OwnTasks
from edge_node.domain import NodeId, TaskStatus
from edge_node.listing import Cancelled, TaskFilter
from edge_node.ports import Peer
from edge_node.tasks.lifecycle import Lifecycle

# Each end is on disk before it is told of.
ANSWER_S_MAX = 15.0


class OwnCancel:
    """Tasks accepted here.

    Args:
        lifecycle: says which are open.
        own_tasks: cancels each.
    """

    def __init__(self, lifecycle: Lifecycle, own_tasks: OwnTasks) -> None:
        self._lifecycle = lifecycle
        self._own_tasks = own_tasks

    async def cancel(self, wanted: TaskFilter) -> int:
        """Cancels what is open and wanted; returns how many were, once they are."""
        task_ids = [
            record.task.id
            for record in self._lifecycle.records()
            if not record.status.is_final and wanted.wants(record)
        ]
        ends = await asyncio.gather(*map(self._own_tasks.cancel, task_ids))
        return sum(record.status is TaskStatus.CANCELLED for record in ends)


class ClusterCancel:
    """Tasks of all nodes.

    Args:
        own: cancels those of this one.
        others: all other nodes.
    """

    def __init__(self, own: OwnCancel, *, others: OtherNodes) -> None:
        self._own = own
        self._others = others

    async def cancel(self, wanted: TaskFilter) -> Cancelled:
        """Cancels what is open and wanted at all nodes that answer; the others are named."""

        async def theirs(node_id: NodeId, peer: Peer) -> int:
            return await peer.cancel_tasks(wanted)

        own, (counts, missing) = await asyncio.gather(
            self._own.cancel(wanted), self._others.ask(theirs, within_s=ANSWER_S_MAX)
        )
        return Cancelled(count=own + sum(counts), missing=tuple(missing))
