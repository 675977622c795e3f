"""The loops of a link over a scripted connection: what is sent, measured, opened again, closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from edge_node.domain import NodeId, NodeState
from edge_node.errors import OriginUnavailable
from edge_node.lasting import Loops, Patience
from edge_node.peering import peer_links
from edge_node.peering.peer_links import PeerLinks
from edge_node.tasks.membership_protocol import MembershipSettings
from tests.set_clock import SetClock

A, B = NodeId("a"), NodeId("b")
ADDRESS = "10.0.0.2:90"
SETTINGS = MembershipSettings(
    addresses=(ADDRESS,),
    cluster_name="lab",
    heartbeat_s=60.0,
    accept_new_peers=True,
    forget_s=1000.0,
)
OWN = NodeState(node_id=A, incarnation=1, sequence=1, grpc_address="a:90")
PEER = NodeState(node_id=B, incarnation=1, sequence=1, grpc_address="b:90", cluster_name="lab")


class Wire:
    """A connection that says what it is told to, and counts what it is asked."""

    def __init__(self, clock: SetClock) -> None:
        self.clock = clock
        self.says: list[NodeState | Exception] = [PEER]
        self.sent: list[NodeState] = []
        self.exchanges = self.pings = self.closed = 0
        self.ping_s = 0.25
        self.ping_problem: Exception | None = None
        self.stays = True

    async def exchange_state(
        self, own_states: AsyncIterator[NodeState]
    ) -> AsyncGenerator[NodeState, None]:
        self.exchanges += 1
        sending = asyncio.create_task(self._send(own_states))
        try:
            for one in self.says:
                if isinstance(one, Exception):
                    raise one
                yield one
            while self.stays and not sending.done():
                await asyncio.sleep(0.001)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, own_states: AsyncIterator[NodeState]) -> None:
        async for state in own_states:
            self.sent.append(state)

    proven_id = None

    async def ping(self) -> None:
        self.pings += 1
        self.clock.now += self.ping_s
        if self.ping_problem is not None:
            raise self.ping_problem

    async def close(self) -> None:
        self.closed += 1


class Linked:
    """A node's links over one wire."""

    def __init__(self, settings: MembershipSettings = SETTINGS) -> None:
        self.clock = SetClock()
        self.wire = Wire(self.clock)
        self.opened: list[str] = []
        self.heard: list[NodeState] = []
        self.measured: list[tuple[NodeId, float]] = []
        self.forgotten: list[NodeId] = []
        self.sequence = 1
        self.links = PeerLinks(
            settings,
            own_id=A,
            own_state=lambda: replace(OWN, sequence=self.sequence),
            state_received=self.heard.append,
            round_trip_measured=lambda node_id, seconds: self.measured.append((node_id, seconds)),
            node_forgotten=self.forgotten.append,
            connect=self._connect,
            clock=self.clock,
            loops=Loops(patience=Patience(pause_s=0.005)),
        )

    def _connect(self, address: str) -> Any:
        self.opened.append(address)
        return self.wire


def run(linked: Linked, story: Callable[[], Awaitable[None]]) -> None:
    async def life() -> None:
        async with asyncio.timeout(5):
            await linked.links.start()
            try:
                await story()
            finally:
                await linked.links.stop()
            running = asyncio.all_tasks() - {asyncio.current_task()}
            assert not running, "a loop outlived its link"

    asyncio.run(life())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = (peer_links.RECONNECT_S, peer_links.PING_S, peer_links.GOODBYE_S_MAX)
    assert pauses == (0.5, 5.0, 1.0)
    monkeypatch.setattr(peer_links, "RECONNECT_S", 0.005)
    monkeypatch.setattr(peer_links, "PING_S", 0.005)


def test_states_flow_when_they_change(quick: None) -> None:
    linked = Linked()

    async def story() -> None:
        assert linked.opened == [ADDRESS]
        await until(lambda: linked.wire.sent)
        assert linked.wire.sent == [replace(OWN, cluster_name="lab")]
        assert linked.heard == [PEER]
        linked.sequence = 2
        await asyncio.sleep(0.02)
        assert len(linked.wire.sent) == 1, "nobody said that it changed"
        linked.links.push_state()
        await until(lambda: len(linked.wire.sent) == 2)
        assert linked.wire.sent[1].sequence == 2
        assert not linked.wire.sent[1].leaving
        await asyncio.sleep(0.02)
        assert len(linked.wire.sent) == 2

    run(linked, story)


def test_who_is_answered_is_told_no_second_time(quick: None) -> None:
    linked = Linked()

    async def story() -> None:
        links, sent = linked.links, linked.wire.sent
        await until(lambda: linked.heard)
        with links.answering(B), links.answering(B):
            async with aclosing(links.own_states()) as answers:
                await anext(answers)
                linked.sequence = 2
                links.push_state()
                assert (await anext(answers)).sequence == 2
            await asyncio.sleep(0.02)
            assert len(sent) == 1, "it was told twice"
        await until(lambda: len(sent) == 2)
        assert sent[-1].sequence == 2, "what went to a stream that broke is lost"
        with links.answering(NodeId("another")):
            linked.sequence = 3
            links.push_state()
            await until(lambda: len(sent) == 3)
        with links.answering(B):
            await links.say_goodbye()
        assert sent[-1].leaving

    run(linked, story)


def test_every_stream_sends_the_same_state(quick: None) -> None:
    linked = Linked()
    linked.wire.ping_s = 0.0  # or measuring would move the clock

    async def story() -> None:
        links = linked.links
        async with aclosing(links.own_states()) as ones, aclosing(links.own_states()) as others:
            first = await anext(ones)
            assert await anext(others) is first
            links.push_state()
            second = await anext(ones)
            assert second is not first
            assert await anext(others) is second
            linked.clock.now += 2 * peer_links.STATE_S
            async with aclosing(links.own_states()) as later:
                assert await anext(later) is not second, "it is no longer as it was"

    run(linked, story)


def test_a_heartbeat_is_sent_without_a_change(quick: None) -> None:
    linked = Linked(replace(SETTINGS, heartbeat_s=0.005))

    async def story() -> None:
        await until(lambda: len(linked.wire.sent) > 3)
        assert {state.sequence for state in linked.wire.sent} == {1}

    run(linked, story)


def test_a_peer_that_is_not_reached_is_named_once_and_again_when_that_changes(
    quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    linked = Linked()
    linked.wire.stays = False

    def said() -> list[str]:
        return [one.getMessage() for one in caplog.records if "the peer at" in one.getMessage()]

    async def tries(says: list[NodeState | Exception]) -> None:
        linked.wire.says = says
        before = linked.wire.exchanges
        await until(lambda: linked.wire.exchanges > before + 2 * peer_links.FAILURES_SAID)

    async def story() -> None:
        linked.wire.says = [OriginUnavailable("Nobody answers.")]
        await until(lambda: linked.wire.exchanges == 2)
        assert said() == [], "it may just be starting"
        await tries([OriginUnavailable("Nobody answers.")])
        await tries([OriginUnavailable("It is another one.")])
        await tries([PEER])
        await tries([OriginUnavailable("Nobody answers.")])

    with caplog.at_level("INFO"):
        run(linked, story)
    first = f"the peer at {ADDRESS} is not reached: Nobody answers."
    another = f"the peer at {ADDRESS} is not reached: It is another one."
    assert said() == [first, another, f"the peer at {ADDRESS} is reached again", first]


def test_a_goodbye_is_the_last_that_is_said_and_nobody_links_again(quick: None) -> None:
    linked = Linked()

    async def story() -> None:
        await until(lambda: linked.wire.sent)
        await linked.links.say_goodbye()
        assert [state.leaving for state in linked.wire.sent] == [False, True]
        await asyncio.sleep(0.03)
        assert linked.wire.exchanges == 1
        linked.links.found("10.0.0.3:90")
        assert linked.opened == [ADDRESS]

    run(linked, story)


def test_a_goodbye_waits_no_longer_than_its_time(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_links, "GOODBYE_S_MAX", 0.02)
    linked = Linked()

    async def story() -> None:
        await until(lambda: linked.wire.sent)
        async with aclosing(linked.links.own_states()) as states:
            await anext(states)  # a listener that takes nothing more
            await linked.links.say_goodbye()

    run(linked, story)
    assert linked.wire.sent[-1].leaving


@pytest.mark.parametrize(
    ("says", "logged"),
    [([PEER], False), ([OriginUnavailable("cut")], False), ([RuntimeError("a bug")], True)],
)
def test_a_link_that_ends_is_taken_up_again(
    quick: None,
    caplog: pytest.LogCaptureFixture,
    says: list[NodeState | Exception],
    logged: bool,
) -> None:
    linked = Linked()
    linked.wire.says, linked.wire.stays = says, False

    async def story() -> None:
        await until(lambda: linked.wire.exchanges > 2)

    run(linked, story)
    assert linked.opened == [ADDRESS]
    assert bool(caplog.records) is logged


@pytest.mark.parametrize(("silence_s", "forgotten"), [(999.0, False), (1001.0, True)])
def test_a_link_that_was_silent_for_long_is_forgotten_when_it_breaks(
    quick: None, silence_s: float, forgotten: bool
) -> None:
    linked = Linked(replace(SETTINGS, addresses=()))
    linked.wire.ping_s = 0.0

    async def story() -> None:
        linked.links.found(ADDRESS)
        await until(lambda: linked.heard)
        linked.clock.now += silence_s
        linked.wire.says, linked.wire.stays = [OriginUnavailable("cut")], False
        if forgotten:
            await until(lambda: linked.wire.closed)
            assert linked.forgotten == [B]
            assert linked.links.addresses == {}
        else:
            await until(lambda: linked.wire.exchanges > 2)
            assert linked.links.client(B) is linked.wire
            assert linked.forgotten == []

    run(linked, story)


def test_a_round_trip_is_measured_once_somebody_is_met(quick: None) -> None:
    linked = Linked()
    linked.wire.says = []

    async def nobody() -> None:
        await asyncio.sleep(0.03)
        assert linked.wire.pings == 0
        assert linked.links.client(B) is None

    run(linked, nobody)
    linked = Linked()

    async def story() -> None:
        await until(lambda: len(linked.measured) > 1)
        assert set(linked.measured) == {(B, 0.25)}
        assert linked.links.client(B) is linked.wire
        assert linked.links.addresses == {ADDRESS: B}

    run(linked, story)


@pytest.mark.parametrize(
    ("problem", "logged"), [(OriginUnavailable("cut"), False), (RuntimeError("a bug"), True)]
)
def test_a_ping_that_fails_measures_nothing_and_is_not_the_last(
    quick: None, caplog: pytest.LogCaptureFixture, problem: Exception, logged: bool
) -> None:
    linked = Linked()
    linked.wire.ping_problem = problem

    async def story() -> None:
        await until(lambda: linked.wire.pings > 2)
        assert linked.measured == []
        linked.wire.ping_problem = None
        await until(lambda: linked.measured)

    run(linked, story)
    assert bool(caplog.records) is logged


def test_an_address_that_goes_is_closed_with_all_that_ran_on_it(quick: None) -> None:
    linked = Linked()

    async def story() -> None:
        await until(lambda: linked.heard)
        linked.links.reconfigure(replace(SETTINGS, addresses=()))
        await until(lambda: linked.wire.closed)
        assert linked.forgotten == [B]
        assert linked.links.client(B) is None
        pings = linked.wire.pings
        await asyncio.sleep(0.02)
        assert (linked.wire.pings, linked.wire.exchanges) == (pings, 1)
        assert not linked.links._closing

    run(linked, story)


def test_who_left_is_away_for_as_long_as_it_is_remembered(quick: None) -> None:
    linked = Linked()

    async def story() -> None:
        await until(lambda: linked.heard)
        linked.links.hello(replace(PEER, leaving=True), host=None, proven=True)
        assert linked.forgotten == [B]
        assert linked.links.is_away(B)
        linked.clock.now += 1000.0
        assert not linked.links.is_away(B)

    run(linked, story)


def test_discovery_takes_back_what_it_found(quick: None) -> None:
    linked = Linked(replace(SETTINGS, addresses=()))
    linked.wire.says = []

    async def story() -> None:
        linked.links.found(ADDRESS)
        assert linked.links.addresses == {}  # nobody is expected there
        await until(lambda: linked.wire.exchanges)
        linked.links.lost(ADDRESS)
        await until(lambda: linked.wire.closed)

    run(linked, story)
