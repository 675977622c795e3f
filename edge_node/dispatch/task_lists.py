"""Lists of tasks, newest first: of this node, and of the cluster.

Owns where a node's own are found (open ones and the latest ends in memory, the rest in the ledger's
index), who is asked for those of others, and for how long. Changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from edge_node.clock import Clock
from edge_node.domain import NodeId
from edge_node.errors import DEdgeAIError, OriginUnavailable, StoreUnavailable
from edge_node.listing import (
    ClusterPage,
    Missing,
    Place,
    TaskFilter,
    TaskPage,
    joined,
    newest,
)
from edge_node.ports import Ledger, Peer, Peers
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.lifecycle import Lifecycle

# For who has not answered by then, nobody waits.
ANSWER_S_MAX = 2.0


class OwnList:
    """Tasks accepted here.

    Args:
        lifecycle: has what is open, and what ended lately.
        ledger: has what is over.
    """

    def __init__(self, lifecycle: Lifecycle, ledger: Ledger) -> None:
        self._lifecycle = lifecycle
        self._ledger = ledger

    async def page(self, wanted: TaskFilter, *, before: Place | None, count: int) -> TaskPage:
        """The newest `count` that are wanted and older than `before`.

        Raises:
            StoreUnavailable: what is over cannot be read; `in_memory` is what is known.
        """
        over = await self._ledger.list_finished(wanted, before=before, count=count)
        return joined([self.in_memory(wanted, before=before, count=count), over], count=count)

    def in_memory(self, wanted: TaskFilter, *, before: Place | None, count: int) -> TaskPage:
        """The same of what is open, and of what ended lately."""
        return newest(self._lifecycle.records(), wanted, before=before, count=count)


class ClusterList:
    """Tasks of all nodes.

    Args:
        own: those of this one.
        own_id: its name.
        view: says who is alive.
        peers: leads to the others.
        clock: tells how long one has been silent.
    """

    def __init__(
        self, own: OwnList, *, own_id: NodeId, view: ClusterView, peers: Peers, clock: Clock
    ) -> None:
        self._own = own
        self._own_id = own_id
        self._view = view
        self._peers = peers
        self._clock = clock

    async def page(self, wanted: TaskFilter, *, before: Place | None, count: int) -> ClusterPage:
        """The newest `count` of all nodes that answer; the others are named.

        Each is asked for one more, by which it is known whether this page is the last.
        """
        known, missing = self._known()
        asked = [self._asked(node_id, wanted, before, count + 1) for node_id in known]
        answers = await asyncio.gather(self._own_page(wanted, before, count + 1), *asked)
        missing += [gap for _, gap in answers if gap is not None]
        page = joined([page for page, _ in answers], count=count)
        return ClusterPage(page=page, missing=tuple(missing))

    async def _own_page(
        self, wanted: TaskFilter, before: Place | None, count: int
    ) -> tuple[TaskPage, Missing | None]:
        try:
            return await self._own.page(wanted, before=before, count=count), None
        except StoreUnavailable as error:
            kept = self._own.in_memory(wanted, before=before, count=count)
            return kept, Missing(node_id=self._own_id, why=error.message)

    async def _asked(
        self, node_id: NodeId, wanted: TaskFilter, before: Place | None, count: int
    ) -> tuple[TaskPage, Missing | None]:
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                peer = self._peer(node_id)
                page = await peer.list_tasks(wanted, before=before, count=count, owner=node_id)
                return page, None
        except TimeoutError:
            why = f"It did not answer within {ANSWER_S_MAX:g} s."
        except DEdgeAIError as error:
            why = error.message
        return TaskPage(), Missing(node_id=node_id, why=why)

    def _peer(self, node_id: NodeId) -> Peer:
        silence_s = self._view.silence_s(node_id, now_s=self._clock.now_s())
        if silence_s is not None:
            raise OriginUnavailable(f"It has not been heard for {silence_s:.0f} s.")
        peer = self._peers.client(node_id)
        if peer is None:
            raise OriginUnavailable("Nothing leads to it at present.")
        return peer

    def _known(self) -> tuple[list[NodeId], list[Missing]]:
        """Who can be asked, and who cannot."""
        missing = list(self._never_met())
        missing += [
            Missing(node_id=node_id, why="It has left the cluster.") for node_id in self._peers.away
        ]
        met = {node_id for node_id in self._peers.addresses.values() if node_id is not None}
        return sorted(met), missing

    def _never_met(self) -> Iterator[Missing]:
        for address, node_id in self._peers.addresses.items():
            if node_id is None:
                yield Missing(node_id=None, address=address, why="No node has been met there.")
