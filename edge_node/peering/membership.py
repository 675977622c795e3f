"""Links to the configured peers: state out, state in, and which client reaches which node.

Owns one client and one reconnecting loop per peer address. State is pushed when it changes and at
every heartbeat; what a silence means is for the cluster view to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

from edge_node.domain import NodeId, NodeState
from edge_node.errors import DEdgeAIError
from edge_node.peering.client import PeerClient

log = logging.getLogger(__name__)

RECONNECT_S = 0.5
PING_S = 5.0


class Membership:
    """All configured peers.

    Attributes:
        own_state: gives this node's state, freshly sequenced, whenever it is to be sent.
        state_received: told every state that arrives.
        round_trip_measured: told every measured round trip in seconds.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        *,
        heartbeat_s: float,
        own_state: Callable[[], NodeState],
        state_received: Callable[[NodeState], None],
        round_trip_measured: Callable[[NodeId, float], None],
    ) -> None:
        self._addresses = addresses
        self._heartbeat_s = heartbeat_s
        self._own_state = own_state
        self._state_received = state_received
        self._round_trip_measured = round_trip_measured
        self._clients: dict[str, PeerClient] = {}
        self._node_at: dict[str, NodeId] = {}
        self._changed: set[asyncio.Event] = set()
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Opens the links; they come and go on their own from here."""
        for address in self._addresses:
            self._clients[address] = PeerClient(address)
            self._loops.append(asyncio.create_task(self._keep_link(address)))
            self._loops.append(asyncio.create_task(self._keep_measuring(address)))

    async def stop(self) -> None:
        """Closes every link."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    def client(self, node_id: NodeId) -> PeerClient | None:
        """Who reaches the node; None if no configured peer ever said it is that node."""
        for address, known in self._node_at.items():
            if known == node_id:
                return self._clients[address]
        return None

    @property
    def addresses(self) -> dict[str, NodeId | None]:
        """Every configured address and the node that was met there."""
        return {address: self._node_at.get(address) for address in self._addresses}

    def push_state(self) -> None:
        """This node's state changed: every link sends it."""
        for changed in self._changed:
            changed.set()

    async def own_states(self) -> AsyncIterator[NodeState]:
        """This node's state now, at every change and at every heartbeat."""
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            while True:
                yield self._own_state()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._heartbeat_s):
                        await changed.wait()
                changed.clear()
        finally:
            self._changed.discard(changed)

    async def _keep_link(self, address: str) -> None:
        client = self._clients[address]
        while True:
            try:
                async for state in client.exchange_state(self.own_states()):
                    if self._node_at.get(address) != state.node_id:
                        log.info("node %s is at %s", state.node_id, address)
                        self._node_at[address] = state.node_id
                    self._state_received(state)
            except DEdgeAIError as error:
                log.debug("link to %s: %s", address, error.message)
            await asyncio.sleep(RECONNECT_S)

    async def _keep_measuring(self, address: str) -> None:
        client = self._clients[address]
        while True:
            node_id = self._node_at.get(address)
            if node_id is not None:
                start_s = time.perf_counter()
                with contextlib.suppress(DEdgeAIError):
                    await client.ping()
                    self._round_trip_measured(node_id, time.perf_counter() - start_s)
            await asyncio.sleep(PING_S if node_id is not None else RECONNECT_S)
