"""The links to the other nodes: carries out what the pure Membership says.

Owns one connection and its loops per link: one that keeps states flowing, one that measures the
round trip. This node's state is pushed over each when it changes and at every heartbeat; what a
silence means is for the cluster view to say, and who belongs to the cluster for Membership. Needs
asyncio, a Clock and a way to connect, so that a simulated network can take the place of gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from edge_node.clock import Clock
from edge_node.domain import NodeId, NodeState
from edge_node.errors import DEdgeAIError
from edge_node.lasting import Loops
from edge_node.ports import Peer
from edge_node.removal import Removal
from edge_node.tasks import membership_protocol as member
from edge_node.tasks.membership import Membership
from edge_node.tasks.membership_protocol import LinkId, MembershipSettings

log = logging.getLogger(__name__)

RECONNECT_S = 0.5
# Nodes that start together do not find each other at once, and that is no news.
FAILURES_SAID = 4
PING_S = 5.0
GOODBYE_S_MAX = 1.0
MEETING_LOOK_S = 0.02
# For so long one state serves every link that sends it.
STATE_S = 0.005


class PeerConnection(Peer, Protocol):
    """Calls to the node at one address: peering.client. Connects when it is first used."""

    def exchange_state(
        self, own_states: AsyncIterator[NodeState]
    ) -> AsyncGenerator[NodeState, None]:
        """Sends every state of `own_states`; yields those of the peer until the link breaks.

        Raises:
            OriginUnavailable: when it does.
        """
        ...

    @property
    def proven_id(self) -> NodeId | None:
        """Who is at the other end by his certificate; None where nothing proves it."""
        ...

    async def ping(self) -> None:
        """One small round trip, or OriginUnavailable."""
        ...

    async def close(self) -> None:
        """Ends every call."""
        ...


# What leads to the node at an address (host:port). Must neither wait nor raise.
Connect = Callable[[str], PeerConnection]


@dataclass(kw_only=True)
class _OpenLink:
    connection: PeerConnection
    loops: list[asyncio.Task[None]] = field(default_factory=list)

    async def close(self) -> None:
        for loop in self.loops:
            loop.cancel()
        await asyncio.gather(*self.loops, return_exceptions=True)
        await self.connection.close()


class PeerLinks:
    """All other nodes.

    Args:
        settings: who belongs to the cluster.
        own_id: this node.
        own_state: gives this node's state, freshly sequenced, whenever it is to be sent.
        state_received: told every state that arrives of a node of this cluster.
        round_trip_measured: told every measured round trip in seconds.
        node_forgotten: told of a node that said goodbye or is given up for good.
        connect: leads to the node at an address.
        clock: tells how long a node has been silent, and a round trip takes.
        removals: nodes that a former life of this one knew to be removed, or readmitted.
        keep_removals: told of all of them when they change; must neither wait nor raise.
        loops: keeps every link going.
    """

    def __init__(
        self,
        settings: MembershipSettings,
        *,
        own_id: NodeId,
        own_state: Callable[[], NodeState],
        state_received: Callable[[NodeState], None],
        round_trip_measured: Callable[[NodeId, float], None],
        node_forgotten: Callable[[NodeId], None],
        connect: Connect,
        clock: Clock,
        loops: Loops | None = None,
        removals: Iterable[Removal] = (),
        keep_removals: Callable[[tuple[Removal, ...]], None] = lambda removals: None,
    ) -> None:
        self._loops = loops or Loops()
        self._membership = Membership(settings, own_id=own_id, removals=removals)
        self._keep_removals = keep_removals
        self._own_state = own_state
        self._state_received = state_received
        self._round_trip_measured = round_trip_measured
        self._node_forgotten = node_forgotten
        self._connect = connect
        self._clock = clock
        self._open: dict[LinkId, _OpenLink] = {}
        self._closing: set[asyncio.Task[None]] = set()
        # One for every stream of own states that is under way, in their order; set at news. With
        # the link that it goes out by; None where it answers a peer's own.
        self._changed: dict[asyncio.Event, LinkId | None] = {}
        # Streams of peers that this node answers.
        self._answered: Counter[NodeId] = Counter()
        self._latest: NodeState | None = None
        self._latest_s = 0.0

    async def start(self) -> None:
        """Opens the configured links; they come and go on their own from here."""
        self._apply(member.Started(own=self._own_state()))

    async def say_goodbye(self) -> None:
        """Tells every node that this one leaves, and waits a moment until they have heard it."""
        self._apply(member.LeaveRequested())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S_MAX):
                while self._changed:  # noqa: ASYNC110 - every stream ends itself
                    await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Closes every link."""
        for link in list(self._open):
            self._close(link)
        await asyncio.gather(*self._closing, return_exceptions=True)

    # Who belongs to the cluster.

    def reconfigure(self, settings: MembershipSettings) -> None:
        """Takes other settings: opens links to new addresses, closes those that are gone."""
        self._latest = None
        self._apply(member.Reconfigured(settings=settings))

    def found(self, address: str) -> None:
        """Discovery says that a node of this cluster is there; the same may be said again."""
        self._apply(member.AddressFound(address=address))

    def lost(self, address: str) -> None:
        """Discovery says that nobody is there any more."""
        self._apply(member.AddressLost(address=address))

    def hello(self, state: NodeState, *, host: str | None, proven: bool = False) -> None:
        """A node pushed its state to this one, calling from the IP address `host`, if known."""
        self._apply(member.HelloReceived(state=state, host=host, proven=proven))

    def client(self, node_id: NodeId) -> Peer | None:
        """Who reaches the node; None if nobody ever said to be it."""
        link = self._membership.link_to(node_id)
        opened = None if link is None else self._open.get(link)
        if opened is None or opened.connection.proven_id not in (None, node_id):
            return None  # or another node has moved in there since
        return opened.connection

    def is_away(self, node_id: NodeId) -> bool:
        """Whether the node belonged to the cluster and left, less than `forget_s` ago."""
        return self._membership.is_away(node_id, now_s=self._clock.now_s())

    @property
    def away(self) -> tuple[NodeId, ...]:
        """All of these."""
        return self._membership.away(now_s=self._clock.now_s())

    @property
    def addresses(self) -> dict[str, NodeId | None]:
        """Every address and the node that was met there."""
        return self._membership.addresses

    async def meet(self, *, within_s: float) -> None:
        """Waits until somebody was met at every address, or that time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while None in self.addresses.values():  # noqa: ASYNC110 - of a pure machine
                    await asyncio.sleep(MEETING_LOOK_S)

    @property
    def removals(self) -> tuple[Removal, ...]:
        """Who was removed by an operator, or readmitted after that."""
        return self._membership.removals

    def removal_of(self, node_id: NodeId) -> Removal | None:
        """That the node was removed; None where it was not, or is back."""
        return self._membership.removal_of(node_id)

    def remove(self, node_id: NodeId, *, removed: bool) -> None:
        """An operator takes the node out of the cluster, or back in: every node is told."""
        unix_s = self._clock.unix_s()
        self._apply(member.RemovalSaid(node_id=node_id, removed=removed, unix_s=unix_s))

    # State.

    def push_state(self) -> None:
        """This node's state changed: every node is told.

        Two nodes have two streams, a link of each. One of them is enough for what changes: the
        peer's own, where it asked who is here. The other has its heartbeats still.
        """
        self._latest = None
        for changed, link in self._changed.items():
            if link is None or self._membership.node_at(link) not in self._answered:
                changed.set()

    @contextmanager
    def answering(self, node_id: NodeId) -> Iterator[None]:
        """A stream that the node has opened is being answered with this node's states.

        Only for one who is who he says: he would keep others from being told.
        """
        self._answered[node_id] += 1
        try:
            yield
        finally:
            self._answered[node_id] -= 1
            if not self._answered[node_id]:
                del self._answered[node_id]
                self.push_state()  # what it may not have heard any more goes the other way

    def speaks_for(self, node_id: NodeId, host: str | None) -> bool:
        """Whether a link to that IP address has met the node."""
        return self._membership.is_met_at(node_id, host)

    async def own_states(self, link: LinkId | None = None) -> AsyncGenerator[NodeState, None]:
        """This node's state now, at every change and every heartbeat; a goodbye is the last.

        `link` is the one that they go out by; None for those that answer a peer.
        """
        changed = asyncio.Event()
        self._changed[changed] = link
        try:
            while True:
                state = self._as_told()
                yield state
                if state.leaving:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._membership.settings.heartbeat_s):
                        await changed.wait()
                changed.clear()
        finally:
            del self._changed[changed]

    def _as_told(self) -> NodeState:
        now_s = self._clock.now_s()
        if self._latest is None or now_s - self._latest_s >= STATE_S:
            cluster_name = self._membership.settings.cluster_name
            leaving = self._membership.leaving
            self._latest = replace(
                self._own_state(),
                cluster_name=cluster_name,
                leaving=leaving,
                removals=self._membership.removals,
            )
            self._latest_s = now_s
        return self._latest

    # Carrying out.

    def _apply(self, event: member.Event) -> None:
        for instruction in self._membership.handle(event, now_s=self._clock.now_s()):
            self._obey(instruction)

    def _obey(self, instruction: member.Instruction) -> None:
        match instruction:
            case member.OpenLink(link=link, address=address):
                opened = _OpenLink(connection=self._connect(address))
                self._open[link] = opened
                for name, keep in (
                    (f"the link to {address}", self._keep_link),
                    (f"measuring the link to {address}", self._keep_measuring),
                ):
                    run = partial(keep, link, address, opened)
                    opened.loops.append(self._loops.start(name, run, vital=False))
            case member.CloseLink(link=link):
                self._close(link)
            case member.HearState(state=state):
                self._state_received(state)
            case member.ForgetNode(node_id=node_id, why=why):
                log.info("node %s %s", node_id, why)
                self._node_forgotten(node_id)
            case member.NoteMeeting(node_id=node_id, address=address):
                log.info("node %s is at %s", node_id, address)
            case member.NoteStranger(node_id=node_id, address=address, why=why):
                log.warning("node %s at %s %s: not heard", node_id, address, why)
            case member.KeepRemovals():
                self._keep_removals(self._membership.removals)
                self._tell_all()
            case member.SayGoodbye():
                self._tell_all()

    def _tell_all(self) -> None:
        self._latest = None
        for changed in self._changed:
            changed.set()

    def _close(self, link: LinkId) -> None:
        closing = asyncio.create_task(self._open.pop(link).close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _keep_link(self, link: LinkId, address: str, opened: _OpenLink) -> None:
        failures, said = 0, ""
        while True:
            if self._membership.leaving:
                await asyncio.Event().wait()  # until the link is closed
            try:
                exchange = opened.connection.exchange_state(self.own_states(link))
                async with aclosing(exchange) as states:
                    async for state in states:
                        if said:
                            log.info("the peer at %s is reached again", address)
                        failures, said = 0, ""
                        self._apply(member.StateAnswered(link=link, state=state))
            except DEdgeAIError as error:
                failures += 1
                if failures >= FAILURES_SAID and error.message != said:
                    said = error.message
                    log.warning("the peer at %s is not reached: %s", address, said)
            except Exception:
                self._apply(member.LinkBroke(link=link))
                raise
            self._apply(member.LinkBroke(link=link))
            await asyncio.sleep(RECONNECT_S)

    async def _keep_measuring(self, link: LinkId, address: str, opened: _OpenLink) -> None:
        while True:
            node_id = self._membership.node_at(link)
            if node_id is not None:
                try:
                    start_s = self._clock.now_s()
                    await opened.connection.ping()
                    self._round_trip_measured(node_id, self._clock.now_s() - start_s)
                except DEdgeAIError:
                    pass  # the other loop notices, too
            await asyncio.sleep(PING_S if node_id is not None else RECONNECT_S)
