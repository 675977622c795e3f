"""Lists of tasks, newest first: of this node, and of the cluster.

Owns where a node's own are found (open ones and the latest ends in memory, the rest in the ledger's
index), and how long others are waited for. Changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

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

        Tasks are spread over nodes, so that twice its share of a page is asked of each, and more of
        the one whose part ends first where that was not enough. In all one more is asked for, by
        which it is known whether the page is the last.
        """
        share = min(count + 1, 2 * (count + 1) // (1 + self._others.count) + SHARE_MORE)
        pages, missing = await self._asked(wanted, before, share)
        full = {one for one, part in pages.items() if len(part.listed) == share}
        page = joined(list(pages.values()), count=count)
        for _ in range(len(pages)):
            ends = {one for one in full if pages[one].until == page.until}
            if page.until is None or len(page.listed) >= count or not ends:
                break
            left = count + 1 - len(page.listed)
            more, gaps = await self._asked(wanted, page.until, left, of=ends)
            missing += gaps
            full -= {one for one in ends if one not in more or len(more[one].listed) < left}
            for one, rest in more.items():
                pages[one] = TaskPage(listed=pages[one].listed + rest.listed, until=rest.until)
            page = joined(list(pages.values()), count=count)
        return ClusterPage(page=page, missing=tuple(missing))

    async def _asked(
        self,
        wanted: TaskFilter,
        before: Place | None,
        count: int,
        *,
        of: Collection[NodeId] | None = None,
    ) -> tuple[dict[NodeId, TaskPage], list[Missing]]:
        """A page of each node that answers, and who does not; of some nodes, or of all."""

        async def theirs(node_id: NodeId, peer: Peer) -> tuple[NodeId, TaskPage]:
            page = await peer.list_tasks(wanted, before=before, count=count, owner=node_id)
            return node_id, page

        others = self._others.ask(theirs, within_s=ANSWER_S_MAX, of=of)
        if of is not None and self._own_id not in of:
            answers, missing = await others
            return dict(answers), missing
        own = self._own_page(wanted, before, count)
        (page, gap), (answers, missing) = await asyncio.gather(own, others)
        return {self._own_id: page, **dict(answers)}, [*gap, *missing]

    async def _own_page(
        self, wanted: TaskFilter, before: Place | None, count: int
    ) -> tuple[TaskPage, tuple[Missing, ...]]:
        try:
            return await self._own.page(wanted, before=before, count=count), ()
        except StoreUnavailable as error:
            kept = self._own.in_memory(wanted, before=before, count=count)
            return kept, (Missing(node_id=self._own_id, why=error.message),)
