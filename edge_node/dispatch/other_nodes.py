"""Every other node asked the same at once; who does not answer is named, and fails nothing.

Owns who can be asked, and how long is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from edge_node.clock import Clock
from edge_node.domain import NodeId
from edge_node.errors import DEdgeAIError, OriginUnavailable
from edge_node.listing import Missing
from edge_node.ports import Peer, Peers
from edge_node.tasks.cluster_view import ClusterView

Answer = TypeVar("Answer")


class OtherNodes:
    """All that are known.

    Args:
        view: says who is alive.
        peers: leads to them.
        clock: tells how long one has been silent.
    """

    def __init__(self, *, view: ClusterView, peers: Peers, clock: Clock) -> None:
        self._view = view
        self._peers = peers
        self._clock = clock

    @property
    def count(self) -> int:
        """How many have been met."""
        return len(self._met())

    async def ask(
        self,
        question: Callable[[NodeId, Peer], Awaitable[Answer]],
        *,
        within_s: float,
        of: Collection[NodeId] | None = None,
    ) -> tuple[list[Answer], list[Missing]]:
        """What those say that answer in time, and who does not; of some nodes, or of all."""
        met = [node_id for node_id in self._met() if of is None or node_id in of]
        replies = await asyncio.gather(*(self._asked(one, question, within_s) for one in met))
        missing = [reply for reply in replies if isinstance(reply, Missing)]
        if of is None:
            missing = [*self._out_of_reach(), *missing]
        return [reply for reply in replies if not isinstance(reply, Missing)], missing

    def _met(self) -> list[NodeId]:
        return sorted({one for one in self._peers.addresses.values() if one is not None})

    async def _asked(
        self,
        node_id: NodeId,
        question: Callable[[NodeId, Peer], Awaitable[Answer]],
        within_s: float,
    ) -> Answer | Missing:
        try:
            async with asyncio.timeout(within_s):
                return await question(node_id, self._peer(node_id))
        except TimeoutError:
            why = f"It did not answer within {within_s:g} s."
        except DEdgeAIError as error:
            why = error.message
        return Missing(node_id=node_id, why=why)

    def _peer(self, node_id: NodeId) -> Peer:
        silence_s = self._view.silence_s(node_id, now_s=self._clock.now_s())
        if silence_s is not None:
            raise OriginUnavailable(f"It has not been heard for {silence_s:.0f} s.")
        peer = self._peers.client(node_id)
        if peer is None:
            raise OriginUnavailable("Nothing leads to it at present.")
        return peer

    def _out_of_reach(self) -> list[Missing]:
        never_met = [
            Missing(node_id=None, address=address, why="No node has been met there.")
            for address, node_id in self._peers.addresses.items()
            if node_id is None
        ]
        left = [
            Missing(node_id=node_id, why="It has left the cluster.") for node_id in self._peers.away
        ]
        return never_met + left
