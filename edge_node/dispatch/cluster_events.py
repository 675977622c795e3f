"""What happens in the cluster as one stream: to tasks of all nodes, and to the nodes.

Owns who is followed: this node, and every other as soon as it is met, again and again where the
connection breaks, from where it broke. Nodes themselves are looked at by the view of the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from edge_node.clock import Clock
from edge_node.dispatch.journal import Journal
from edge_node.domain import NodeId
from edge_node.errors import DEdgeAIError
from edge_node.happenings import ClusterEvent, Happened, NodeSeen
from edge_node.ports import Peers
from edge_node.tasks.cluster_view import ClusterView

# Between two looks at who is there, and before one who is lost is asked again.
LOOK_S = 0.5
# What waits until its reader has taken what came before; then nodes are read no further.
WAITING_MAX = 256
# Of these, what comes with its picture: who reads slower is told of steps alone.
PICTURES_WAITING_MAX = 16


class _Wanted(NamedTuple):
    client: str
    previews: bool


class ClusterEvents:
    """Events of all nodes.

    Args:
        journal: of this node.
        own_id: its name.
        view: says who is alive, and takes work.
        peers: leads to the others.
        clock: tells how long one has been silent.
    """

    def __init__(
        self, journal: Journal, *, own_id: NodeId, view: ClusterView, peers: Peers, clock: Clock
    ) -> None:
        self._journal = journal
        self._own_id = own_id
        self._view = view
        self._peers = peers
        self._clock = clock

    async def follow(
        self, *, after: Mapping[NodeId, int], client: str, previews: bool
    ) -> AsyncGenerator[ClusterEvent, None]:
        """What happens, for as long as it is followed; first of each node how far its reader is.

        Args:
            after: the last number seen of each node; of the others what happens from now on.
            client: whose tasks are meant; empty for all.
            previews: pictures on the way are wanted.
        """
        arrived: asyncio.Queue[ClusterEvent] = asyncio.Queue(maxsize=WAITING_MAX)
        wanted = _Wanted(client=client, previews=previews)
        own = self._own(after.get(self._own_id), wanted, arrived)
        following = {self._own_id: asyncio.create_task(own)}

        async def look() -> None:
            shown: dict[NodeId, NodeSeen] = {}
            while True:
                for node_id in self._peers.addresses.values():
                    if node_id is not None and node_id not in following:
                        theirs = self._theirs(node_id, after.get(node_id), wanted, arrived)
                        following[node_id] = asyncio.create_task(theirs)
                for node_id, seen in self._nodes():
                    if shown.get(node_id) != seen:
                        shown[node_id] = seen
                        await arrived.put(ClusterEvent(node_id=node_id, what=seen))
                await asyncio.sleep(LOOK_S)

        looking = asyncio.create_task(look())
        try:
            while True:
                yield await arrived.get()
        finally:
            ending = [looking, *following.values()]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _own(
        self, after: int | None, wanted: _Wanted, arrived: asyncio.Queue[ClusterEvent]
    ) -> None:
        reading = self._journal.read(after=after, client=wanted.client, previews=wanted.previews)
        async with aclosing(reading) as happenings:
            async for one in happenings:
                await arrived.put(ClusterEvent(node_id=self._own_id, what=_fitting(one, arrived)))

    async def _theirs(
        self,
        node_id: NodeId,
        after: int | None,
        wanted: _Wanted,
        arrived: asyncio.Queue[ClusterEvent],
    ) -> None:
        while True:
            peer = self._peers.client(node_id)
            if peer is not None:
                try:
                    watching = peer.watch_events(
                        after=after,
                        client=wanted.client,
                        previews=wanted.previews,
                        owner=node_id,
                    )
                    async with aclosing(watching) as happenings:
                        async for one in happenings:
                            after, fitting = one.number, _fitting(one, arrived)
                            await arrived.put(ClusterEvent(node_id=node_id, what=fitting))
                except DEdgeAIError:
                    pass  # how it is seen says so
            await asyncio.sleep(LOOK_S)

    def _nodes(self) -> Iterator[tuple[NodeId, NodeSeen]]:
        for view in self._view.views(now_s=self._clock.now_s()):
            state = view.state
            yield (
                state.node_id,
                NodeSeen(alive=view.alive, accepting=view.alive and state.accepting),
            )


def _fitting(happened: Happened, arrived: asyncio.Queue[ClusterEvent]) -> Happened:
    """Without its picture where too many wait: a picture may have a megabyte."""
    if not (happened.event and happened.event.preview) or arrived.qsize() < PICTURES_WAITING_MAX:
        return happened
    return replace(happened, event=replace(happened.event, preview=b""))
