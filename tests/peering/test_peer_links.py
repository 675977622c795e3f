"""Who belongs to a cluster, over real channels: hello, goodbye, silence, other names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from edge_node.domain import NodeId, NodeState
from edge_node.peering import node_codec
from edge_node.peering.client import PeerClient
from edge_node.peering.peer_links import PeerLinks
from edge_node.peering.server import NodeServicer, PeerServer, caller_host
from edge_node.peering.service import PeerService
from edge_node.tasks.membership_protocol import MembershipSettings
from tests.peering.nothing_learned import NothingLearned
from tests.set_clock import SetClock

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
SETTINGS = MembershipSettings(
    addresses=(),
    cluster_name="lab",
    heartbeat_s=0.05,
    accept_new_peers=True,
    forget_s=1000.0,
)


@dataclass
class Node:
    """The links of a node with its listener, and what it told the rest of its node."""

    node_id: NodeId
    settings: MembershipSettings = SETTINGS
    incarnation: int = 1
    port: int = 0
    heard: list[NodeState] = field(default_factory=list)
    forgotten: list[NodeId] = field(default_factory=list)
    clock: SetClock = field(default_factory=SetClock)

    async def start(self) -> None:
        self.links = PeerLinks(
            self.settings,
            own_id=self.node_id,
            own_state=self.own_state,
            state_received=self.heard.append,
            round_trip_measured=lambda *_: None,
            node_forgotten=self.forgotten.append,
            connect=PeerClient,
            clock=self.clock,
        )
        dispatcher: Any = self
        servicer = NodeServicer(PeerService(dispatcher, self.links, NothingLearned()), version="0")
        self.server = PeerServer(servicer, host="127.0.0.1", port=self.port)
        self.port = await self.server.start()
        await self.links.start()

    async def stop(self, *, goodbye: bool) -> None:
        if goodbye:
            await self.links.say_goodbye()
        await self.links.stop()
        await self.server.stop(grace_s=0.2)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def own_state(self) -> NodeState:
        return NodeState(
            node_id=self.node_id,
            incarnation=self.incarnation,
            sequence=1,
            grpc_address=f"nowhere.invalid:{self.port}",
        )

    def hears(self, node_id: NodeId) -> bool:
        return node_id in {state.node_id for state in self.heard}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def run_on(*nodes: Node, story: Callable[[], Awaitable[None]]) -> None:
    """Starts the nodes, of which each names those before it; the story may stop some."""

    async def run() -> None:
        for index, node in enumerate(nodes):
            addresses = tuple(other.address for other in nodes[:index])
            node.settings = replace(node.settings, addresses=addresses)
            await node.start()
        try:
            await story()
        finally:
            for node in nodes:
                await node.stop(goodbye=False)

    asyncio.run(run())


def test_a_hello_brings_a_node_in_and_a_goodbye_takes_it_out() -> None:
    a, b = Node(A), Node(B)

    async def story() -> None:
        await until(lambda: a.hears(B) and b.hears(A))
        assert a.links.addresses == {b.address: B}
        assert a.links.client(B) is not None
        await b.stop(goodbye=True)
        await until(lambda: a.forgotten == [B])
        assert a.links.addresses == {}
        assert a.links.is_away(B)
        a.heard.clear()
        # What was on its way when it said goodbye changes nothing.
        a.links.hello(b.own_state(), host="127.0.0.1")
        assert a.links.addresses == {}
        b.incarnation = 2
        await b.start()
        await until(lambda: a.hears(B))
        assert not a.links.is_away(B)
        assert {state.incarnation for state in a.heard} == {2}
        a.clock.now += 2000.0
        assert not a.links.is_away(B)

    run_on(a, b, story=story)


def test_a_name_is_away_no_longer_than_it_is_remembered() -> None:
    a, b = Node(A), Node(B)

    async def story() -> None:
        await until(lambda: a.hears(B))
        await b.stop(goodbye=True)
        await until(lambda: a.links.is_away(B))
        a.clock.now += 999.0
        assert a.links.is_away(B)
        a.clock.now += 1.0
        assert not a.links.is_away(B)

    run_on(a, b, story=story)


def test_a_configured_node_keeps_its_address_when_it_leaves() -> None:
    a, b = Node(A), Node(B)

    async def story() -> None:
        await until(lambda: b.hears(A))
        await a.stop(goodbye=True)
        await until(lambda: b.forgotten == [A])
        assert b.links.addresses == {a.address: None}
        a.incarnation = 2
        await a.start()
        await until(lambda: b.links.addresses == {a.address: A})

    run_on(a, b, story=story)


def test_another_device_may_take_an_address_over() -> None:
    a, b = Node(A), Node(B)

    async def story() -> None:
        await until(lambda: b.hears(A))
        await a.stop(goodbye=False)
        a.node_id = C
        await a.start()
        await until(lambda: b.hears(C))
        assert b.links.addresses == {a.address: C}
        assert b.forgotten == [A]

    run_on(a, b, story=story)


def test_a_node_that_dies_is_known_until_it_is_forgotten() -> None:
    a, b = Node(A), Node(B)

    async def story() -> None:
        await until(lambda: a.hears(B))
        await b.stop(goodbye=False)
        await asyncio.sleep(0.7)  # some tries to reach it
        assert a.links.addresses == {b.address: B}
        a.clock.now += 2000.0
        await until(lambda: a.forgotten == [B])
        assert a.links.addresses == {}

    run_on(a, b, story=story)


@pytest.mark.parametrize(
    "changed",
    [{"accept_new_peers": False}, {"cluster_name": "other"}],
    ids=["not accepted", "another cluster"],
)
def test_a_stranger_is_not_heard(changed: dict[str, Any], caplog: Any) -> None:
    a, b = Node(A, replace(SETTINGS, **changed)), Node(B)

    async def story() -> None:
        await until(lambda: "not heard" in caplog.text)
        await asyncio.sleep(0.2)
        assert (a.heard, a.links.addresses) == ([], {})
        assert caplog.text.count("node b at") == 1

    run_on(a, b, story=story)


def test_peers_come_and_go_while_the_node_runs() -> None:
    a, b = Node(A, replace(SETTINGS, accept_new_peers=False)), Node(B)

    async def story() -> None:
        await asyncio.sleep(0.1)
        assert not a.hears(B)
        alone, named = a.settings, replace(a.settings, addresses=(b.address,))
        a.links.reconfigure(named)
        await until(lambda: a.hears(B))
        a.links.reconfigure(alone)
        assert a.forgotten == [B]
        assert a.links.addresses == {}
        await asyncio.sleep(0.1)
        a.heard.clear()
        await asyncio.sleep(0.2)
        assert not a.hears(B)

    run_on(a, b, story=story)


def test_one_link_to_a_node_is_enough_and_the_configured_one_stays() -> None:
    a, b = Node(A), Node(B)

    async def story() -> None:
        await until(lambda: a.hears(B))
        byname = f"localhost:{b.port}"
        a.links.reconfigure(replace(a.settings, addresses=(byname,)))
        await until(lambda: a.links.addresses == {byname: B})
        await asyncio.sleep(0.2)
        assert a.links.addresses == {byname: B}
        assert a.forgotten == []

    run_on(a, b, story=story)


def test_discovery_brings_nodes_in_where_hellos_do_not() -> None:
    a, b = Node(A, replace(SETTINGS, accept_new_peers=False)), Node(B)

    async def story() -> None:
        a.links.found(b.address)
        a.links.found(b.address)
        a.links.found("127.0.0.1:1")
        await until(lambda: a.hears(B))
        a.links.lost("127.0.0.1:1")
        a.links.lost(b.address)  # it still answers
        assert a.links.addresses == {b.address: B}

    run_on(a, b, story=story)


def test_three_nodes_need_no_list_of_the_newest() -> None:
    a, b, c = Node(A), Node(B), Node(C)

    async def story() -> None:
        await until(lambda: a.hears(C) and b.hears(C) and c.hears(A) and c.hears(B))
        # A state may come over the other's link before this node's own has met anybody.
        await until(lambda: None not in a.links.addresses.values())
        assert set(a.links.addresses.values()) == {B, C}

    run_on(a, b, c, story=story)


def test_a_fault_of_this_node_cuts_it_off_for_a_moment_only(caplog: Any) -> None:
    a, b = Node(A), Node(B)

    async def story() -> None:
        await until(lambda: b.hears(A))
        heard = b.heard

        class Faulty(list[NodeState]):
            def append(self, state: NodeState) -> None:
                b.links._state_received = heard.append
                raise RuntimeError("a bug")

        b.links._state_received = Faulty().append
        await until(lambda: "a bug" in caplog.text)
        before = len(heard)
        await until(lambda: len(heard) > before)
        assert {state.node_id for state in heard} == {A}

    run_on(a, b, story=story)


def test_a_state_is_the_same_on_the_other_side() -> None:
    state = replace(Node(A).own_state(), cluster_name="lab", leaving=True, sent_s=1.5)
    message = node_codec.state_to_proto(state)
    received = type(message).FromString(message.SerializeToString())
    assert node_codec.state_from_proto(received) == state


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.2:4711", "10.0.0.2"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:[fe80::1]:4711", "fe80::1"),
        ("ipv6:[::ffff:10.0.0.2]:4711", "10.0.0.2"),
        ("unix:", None),
    ],
)
def test_callers_have_an_address(peer: str, host: str | None) -> None:
    assert caller_host(peer) == host
