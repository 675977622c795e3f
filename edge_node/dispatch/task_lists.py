"""Lists of tasks, newest first: of this node, and of the cluster.

Owns where a node's own are found (open ones and the latest ends in memory, the rest in the ledger's
index), and how long others are waited for. Changes nothing.
"""

from __future__ import annotations

import asyncio

from edge_node.dispatch.expectations import Expectations
from edge_node.dispatch.other_nodes import OtherNodes
from edge_node.domain import NodeId
from edge_node.errors import StoreUnavailable
from edge_node.listing import (
    ClusterPage,
    Listed,
    Missing,
    Place,
    TaskFilter,
    TaskPage,
    joined,
    newest,
)
from edge_node.ports import Ledger, Peer
from edge_node.tasks.lifecycle import Lifecycle

# For who has not answered by then, nobody waits.
ANSWER_S_MAX = 2.0
# Of a page, beyond twice a node's share: short pages are seldom asked for twice.
SHARE_MORE = 5


class OwnList:
    """Tasks accepted here.

    Args:
        lifecycle: has what is open, and what ended lately.
        ledger: has what is over.
        expected: says when the open ones are expected to end.
    """

    def __init__(self, lifecycle: Lifecycle, ledger: Ledger, expected: Expectations) -> None:
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._expected = expected

    async def page(self, wanted: TaskFilter, *, before: Place | None, count: int) -> TaskPage:
        """The newest `count` that are wanted and older than `before`.

        Raises:
            StoreUnavailable: what is over cannot be read; `in_memory` is what is known.
        """
        over = await self._ledger.list_finished(wanted, before=before, count=count)
        return joined([self.in_memory(wanted, before=before, count=count), over], count=count)

    def in_memory(self, wanted: TaskFilter, *, before: Place | None, count: int) -> TaskPage:
        """The same of what is open, and of what ended lately."""
        page = newest(self._lifecycle.records(), wanted, before=before, count=count)
        listed = (Listed(place=p.place, record=self._expected.of(p.record)) for p in page.listed)
        return TaskPage(listed=tuple(listed), until=page.until)


class ClusterList:
    """Tasks of all nodes.

    Args:
        own: those of this one.
        own_id: its name.
        others: all other nodes.
    """

    def __init__(self, own: OwnList, *, own_id: NodeId, others: OtherNodes) -> None:
        self._own = own
        self._own_id = own_id
        self._others = others

    async def page(self, wanted: TaskFilter, *, before: Place | None, count: int) -> ClusterPage:
        """The newest `count` of all nodes that answer; the others are named.

        Tasks are spread over nodes, so that twice its share of a page is asked of each, and the
        rest once more where that was not enough. In all one more is asked for, by which it is known
        whether the page is the last.
        """
        share = min(count + 1, 2 * (count + 1) // (1 + self._others.count) + SHARE_MORE)
        pages, missing = await self._asked(wanted, before, share)
        page = joined(pages, count=count)
        short = len(page.listed) < count and page.until is not None
        if short and any(len(one.listed) == share for one in pages if one.until == page.until):
            left = count - len(page.listed)
            pages, missing = await self._asked(wanted, page.until, left + 1)
            rest = joined(pages, count=left)
            page = TaskPage(listed=page.listed + rest.listed, until=rest.until)
        return ClusterPage(page=page, missing=tuple(missing))

    async def _asked(
        self, wanted: TaskFilter, before: Place | None, count: int
    ) -> tuple[list[TaskPage], list[Missing]]:
        """A page of each node that answers, this one's first, and who does not."""

        async def theirs(node_id: NodeId, peer: Peer) -> TaskPage:
            return await peer.list_tasks(wanted, before=before, count=count, owner=node_id)

        (own, gap), (pages, missing) = await asyncio.gather(
            self._own_page(wanted, before, count), self._others.ask(theirs, within_s=ANSWER_S_MAX)
        )
        return [own, *pages], [*gap, *missing]

    async def _own_page(
        self, wanted: TaskFilter, before: Place | None, count: int
    ) -> tuple[TaskPage, tuple[Missing, ...]]:
        try:
            return await self._own.page(wanted, before=before, count=count), ()
        except StoreUnavailable as error:
            kept = self._own.in_memory(wanted, before=before, count=count)
            return kept, (Missing(node_id=self._own_id, why=error.message),)
