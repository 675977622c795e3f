"""Links to the other nodes: state out, state in, and which client reaches which node.

Owns one client and one reconnecting loop per address, and who belongs to the cluster: the nodes
that the operator names, those that discovery finds, and, where that is allowed, those that say
hello. State is pushed when it changes and at every heartbeat; what a silence means is for the
cluster view to say.

A node that says hello is reached at the IP address that it called from and the port that it names,
so that nobody can make this node call somebody else. It is a candidate once that link has met it.
A node that says goodbye is forgotten at once, but for its name: until `forget_s` have passed its
tasks are away, not unknown. So are those of a node that falls silent, and then it is forgotten
unless `peers` names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from edge_node.clock import Clock
from edge_node.domain import NodeId, NodeState
from edge_node.errors import DEdgeAIError
from edge_node.peering.client import PeerClient

log = logging.getLogger(__name__)

RECONNECT_S = 0.5
PING_S = 5.0
GOODBYE_S_MAX = 1.0
# Links beyond the configured ones; anyone on the network may say hello.
NEW_PEERS_MAX = 64


@dataclass(frozen=True, kw_only=True)
class MembershipSettings:
    """Who belongs to the cluster.

    Attributes:
        addresses: configured ones.
        cluster_name: states of a cluster of another name are not heard.
        heartbeat_s: at least how often state is pushed.
        accept_new_peers: a node may come in by saying hello.
        forget_s: silence after which a node that is not configured is forgotten.
    """

    addresses: tuple[str, ...]
    cluster_name: str
    heartbeat_s: float
    accept_new_peers: bool
    forget_s: float


@dataclass(kw_only=True)
class _Link:
    client: PeerClient
    configured: bool
    # When something came over it, or when it was opened.
    heard_s: float
    node_id: NodeId | None = None
    loops: list[asyncio.Task[None]] = field(default_factory=list)

    async def close(self) -> None:
        for loop in self.loops:
            loop.cancel()
        await asyncio.gather(*self.loops, return_exceptions=True)
        await self.client.close()


@dataclass(frozen=True, kw_only=True)
class _Departure:
    incarnation: int
    at_s: float


class Membership:
    """All other nodes.

    Args:
        settings: who belongs to the cluster.
        own_state: gives this node's state, freshly sequenced, whenever it is to be sent.
        state_received: told every state that arrives of a node of this cluster.
        round_trip_measured: told every measured round trip in seconds.
        node_forgotten: told of a node that said goodbye or is given up for good.
        clock: tells how long a node has been silent.
    """

    def __init__(
        self,
        settings: MembershipSettings,
        *,
        own_state: Callable[[], NodeState],
        state_received: Callable[[NodeState], None],
        round_trip_measured: Callable[[NodeId, float], None],
        node_forgotten: Callable[[NodeId], None],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._own_state = own_state
        self._state_received = state_received
        self._round_trip_measured = round_trip_measured
        self._node_forgotten = node_forgotten
        self._clock = clock
        self._links: dict[str, _Link] = {}
        self._departed: dict[NodeId, _Departure] = {}
        # Nodes whose state is not heard; each is logged once.
        self._strangers: set[NodeId] = set()
        self._changed: set[asyncio.Event] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._leaving = False

    async def start(self) -> None:
        """Opens the configured links; they come and go on their own from here."""
        for address in self._settings.addresses:
            self._open(address, configured=True)

    async def say_goodbye(self) -> None:
        """Tells every node that this one leaves, and waits a moment until they have heard it."""
        self._leaving = True
        self.push_state()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S_MAX):
                while self._changed:  # noqa: ASYNC110 - every stream ends itself
                    await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Closes every link."""
        for address in list(self._links):
            self._close(address)
        await asyncio.gather(*self._closing, return_exceptions=True)

    # Who belongs to the cluster.

    def reconfigure(self, settings: MembershipSettings) -> None:
        """Takes other settings: opens links to new addresses, closes those that are gone."""
        former, self._settings = self._settings, settings
        self._strangers.clear()
        for address in set(former.addresses) - set(settings.addresses):
            if address in self._links:
                self._forget(address, "is no longer among peers")
        for address in settings.addresses:
            self._open(address, configured=True)

    def found(self, address: str) -> None:
        """Discovery says that a node of this cluster is there; the same may be said again."""
        self._open(address, configured=False)

    def lost(self, address: str) -> None:
        """Discovery says that nobody is there any more; a node that was met is given its time."""
        link = self._links.get(address)
        if link is not None and not link.configured and link.node_id is None:
            self._close(address)

    def hello(self, state: NodeState, *, host: str | None) -> None:
        """A node pushed its state to this one, calling from the IP address `host`, if known."""
        if not self._is_welcome(state):
            return
        if self.client(state.node_id) is not None:
            self._state_received(state)
        elif self._settings.accept_new_peers:
            port = state.grpc_address.rpartition(":")[2]
            if host is not None and port.isdecimal():
                shown = f"[{host}]" if ":" in host else host
                self._open(f"{shown}:{port}", configured=False)
        elif None not in self.addresses.values():  # otherwise it may be one of those not met yet
            self._log_stranger(state, "is not among peers, and accept_new_peers is false")

    def client(self, node_id: NodeId) -> PeerClient | None:
        """Who reaches the node; None if nobody ever said to be it."""
        for link in self._links.values():
            if link.node_id == node_id:
                return link.client
        return None

    def is_away(self, node_id: NodeId) -> bool:
        """Whether the node belonged to the cluster and left, less than `forget_s` ago."""
        departure = self._departed.get(node_id)
        if departure is None:
            return False
        return self._clock.now_s() - departure.at_s < self._settings.forget_s

    @property
    def addresses(self) -> dict[str, NodeId | None]:
        """Every address and the node that was met there."""
        return {address: link.node_id for address, link in self._links.items()}

    # State.

    def push_state(self) -> None:
        """This node's state changed: every link sends it."""
        for changed in self._changed:
            changed.set()

    async def own_states(self) -> AsyncIterator[NodeState]:
        """This node's state now, at every change and every heartbeat; a goodbye is the last."""
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            while True:
                leaving = self._leaving
                cluster_name = self._settings.cluster_name
                yield replace(self._own_state(), cluster_name=cluster_name, leaving=leaving)
                if leaving:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.heartbeat_s):
                        await changed.wait()
                changed.clear()
        finally:
            self._changed.discard(changed)

    # Links.

    def _open(self, address: str, *, configured: bool) -> None:
        link = self._links.get(address)
        if link is not None:
            link.configured = link.configured or configured
            return
        others = sum(not one.configured for one in self._links.values())
        if self._leaving or (not configured and others >= NEW_PEERS_MAX):
            return
        link = _Link(client=PeerClient(address), configured=configured, heard_s=self._clock.now_s())
        self._links[address] = link
        for keep in (self._keep_link, self._keep_measuring):
            link.loops.append(asyncio.create_task(keep(address, link)))

    def _close(self, address: str) -> None:
        closing = asyncio.create_task(self._links.pop(address).close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _forget(self, address: str, why: str) -> None:
        """Closes a link, and gives its node up if no other leads there."""
        node_id = self._links[address].node_id
        self._close(address)
        if node_id is not None and self.client(node_id) is None:
            log.info("node %s %s", node_id, why)
            self._node_forgotten(node_id)

    async def _keep_link(self, address: str, link: _Link) -> None:
        while not self._leaving:
            try:
                async for state in link.client.exchange_state(self.own_states()):
                    self._answered(address, link, state)
            except DEdgeAIError as error:
                log.debug("link to %s: %s", address, error.message)
            silence_s = self._clock.now_s() - link.heard_s
            if not link.configured and silence_s > self._settings.forget_s:
                self._forget(address, f"was silent for {silence_s:.0f} s and is forgotten")
            await asyncio.sleep(RECONNECT_S)

    def _answered(self, address: str, link: _Link, state: NodeState) -> None:
        link.heard_s = self._clock.now_s()
        if not self._is_welcome(state):
            return
        if link.node_id != state.node_id:
            log.info("node %s is at %s", state.node_id, address)
            former, link.node_id = link.node_id, state.node_id
            if former is not None and self.client(former) is None:
                self._node_forgotten(former)
            self._departed.pop(state.node_id, None)
            self._close_doubles(state.node_id)
        self._state_received(state)

    def _close_doubles(self, node_id: NodeId) -> None:
        """One link to a node is enough; a configured one is kept."""
        same = [address for address, link in self._links.items() if link.node_id == node_id]
        same.sort(key=lambda address: not self._links[address].configured)
        for address in same[1:]:
            if not self._links[address].configured:
                self._close(address)

    async def _keep_measuring(self, _: str, link: _Link) -> None:
        while True:
            node_id = link.node_id
            if node_id is not None:
                start_s = time.perf_counter()
                with contextlib.suppress(DEdgeAIError):
                    await link.client.ping()
                    self._round_trip_measured(node_id, time.perf_counter() - start_s)
            await asyncio.sleep(PING_S if node_id is not None else RECONNECT_S)

    # Who is heard.

    def _is_welcome(self, state: NodeState) -> bool:
        """Whether the state is of a node of this cluster that has not left."""
        if state.cluster_name not in ("", self._settings.cluster_name):
            self._log_stranger(state, f"is of the cluster {state.cluster_name}")
            return False
        departure = self._departed.get(state.node_id)
        if departure is not None and state.incarnation == departure.incarnation:
            return False  # sent before its goodbye, and overtaken
        if state.leaving:
            self._say_farewell(state)
            return False
        return True

    def _say_farewell(self, state: NodeState) -> None:
        node_id, now_s = state.node_id, self._clock.now_s()
        log.info("node %s has left", node_id)
        # Of those long gone, nothing is kept.
        for gone, departure in list(self._departed.items()):
            if now_s - departure.at_s >= self._settings.forget_s:
                del self._departed[gone]
        self._departed[node_id] = _Departure(incarnation=state.incarnation, at_s=now_s)
        for address, link in list(self._links.items()):
            if link.node_id == node_id:
                link.node_id = None
                if not link.configured:
                    self._close(address)
        self._node_forgotten(node_id)

    def _log_stranger(self, state: NodeState, why: str) -> None:
        if state.node_id not in self._strangers and len(self._strangers) < NEW_PEERS_MAX:
            self._strangers.add(state.node_id)
            log.warning("node %s at %s %s: not heard", state.node_id, state.grpc_address, why)
