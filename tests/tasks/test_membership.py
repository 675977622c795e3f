"""Who belongs to a cluster, by values; tests/peering/test_peer_links.py has the real channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_node.domain import NodeId, NodeState
from edge_node.removal import Removal
from edge_node.tasks import membership_protocol as member
from edge_node.tasks.membership import DEPARTED_MAX, NEW_PEERS_MAX, Membership
from edge_node.tasks.membership_protocol import (
    AddressFound,
    AddressLost,
    CloseLink,
    ForgetNode,
    HearState,
    HelloReceived,
    KeepRemovals,
    LinkBroke,
    LinkId,
    MembershipSettings,
    NoteMeeting,
    NoteStranger,
    OpenLink,
    Reconfigured,
    RemovalSaid,
    SayGoodbye,
    Started,
    StateAnswered,
)

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
X, Y, Z = "10.0.0.1:90", "10.0.0.2:90", "10.0.0.3:90"
FORGET_S = 100.0


def settings(*addresses: str, accept_new_peers: bool = True) -> MembershipSettings:
    return MembershipSettings(
        addresses=addresses,
        cluster_name="lab",
        heartbeat_s=0.5,
        accept_new_peers=accept_new_peers,
        forget_s=FORGET_S,
    )


def state(
    node_id: NodeId = B,
    *,
    life: int = 1,
    at: str = "",
    cluster_name: str = "lab",
    leaving: bool = False,
) -> NodeState:
    return NodeState(
        node_id=node_id,
        incarnation=life,
        sequence=1,
        grpc_address=at or f"{node_id}:90",
        cluster_name=cluster_name,
        leaving=leaving,
    )


class Story:
    """A machine that is validated after every event, and its links by address."""

    def __init__(self, *addresses: str, accept_new_peers: bool = True) -> None:
        self.machine = Membership(settings(*addresses, accept_new_peers=accept_new_peers), own_id=A)
        self.now_s = 0.0
        self.links: dict[str, LinkId] = {}
        self.told(Started())

    def told(self, event: member.Event) -> list[member.Instruction]:
        instructions = self.machine.handle(event, now_s=self.now_s)
        self.machine.validate()
        for one in instructions:
            if isinstance(one, OpenLink):
                assert one.address not in self.links
                self.links[one.address] = one.link
            if isinstance(one, CloseLink):
                self.links = {a: link for a, link in self.links.items() if link != one.link}
        return instructions

    def found(self, address: str) -> list[member.Instruction]:
        return self.told(AddressFound(address=address))

    def hello(
        self, said: NodeState, *, host: str | None = "10.0.0.2", proven: bool = True
    ) -> list[member.Instruction]:
        return self.told(HelloReceived(state=said, host=host, proven=proven))

    def answer(self, address: str, said: NodeState) -> list[member.Instruction]:
        return self.told(StateAnswered(link=self.links[address], state=said))

    def broke(self, address: str) -> list[member.Instruction]:
        return self.told(LinkBroke(link=self.links[address]))

    def leads_to(self, node_id: NodeId) -> str | None:
        link = self.machine.link_to(node_id)
        return next((address for address, number in self.links.items() if number == link), None)


def removal(node_id: NodeId = B, *, removed: bool = True, at_unix_s: float = 1e9) -> Removal:
    return Removal(node_id=node_id, address=X, removed=removed, at_unix_s=at_unix_s)


def said(node_id: NodeId = B, *, removed: bool = True, unix_s: float = 1e9) -> RemovalSaid:
    return RemovalSaid(node_id=node_id, removed=removed, unix_s=unix_s)


def kinds(instructions: list[member.Instruction]) -> list[type]:
    return [type(one) for one in instructions]


# Coming and going.


def test_configured_addresses_are_opened_at_the_start_and_met_when_they_answer() -> None:
    story = Story(X, Y)
    assert story.machine.addresses == {X: None, Y: None}
    said = state(B)
    assert story.answer(X, said) == [NoteMeeting(node_id=B, address=X), HearState(state=said)]
    assert story.answer(X, said) == [HearState(state=said)]
    assert story.machine.addresses == {X: B, Y: None}
    assert (story.leads_to(B), story.leads_to(C)) == (X, None)
    assert story.machine.node_at(story.links[X]) == B
    assert story.machine.node_at(LinkId(99)) is None


def test_nothing_is_opened_before_the_start() -> None:
    machine = Membership(settings(X), own_id=A)
    assert machine.handle(Reconfigured(settings=settings(Y)), now_s=0.0) == []
    opened = machine.handle(Started(), now_s=0.0)
    assert opened == [OpenLink(link=LinkId(1), address=Y)]


@pytest.mark.parametrize(
    ("host", "at", "opened"),
    [
        ("10.0.0.2", "b.lan:7000", "10.0.0.2:7000"),
        ("fe80::1", "[::]:7000", "[fe80::1]:7000"),
        (None, "b.lan:7000", None),
        ("10.0.0.2", "b.lan", None),
        ("10.0.0.2", "b.lan:http", None),
    ],
)
def test_a_hello_is_answered_at_the_address_it_came_from(
    host: str | None, at: str, opened: str | None
) -> None:
    story = Story()
    said = state(at=at)
    told = story.hello(said, host=host)
    assert [one.address for one in told if isinstance(one, OpenLink)] == [opened] * bool(opened)
    assert not [one for one in told if isinstance(one, HearState)]  # a link must meet it first
    if opened:
        assert story.hello(said, host=host) == []  # on the way already
        story.answer(opened, said)
        assert story.hello(said, host=host) == [HearState(state=said)]


def test_a_goodbye_forgets_a_node_but_its_name() -> None:
    story = Story()
    story.hello(state())
    story.answer(Y, state())
    told = story.hello(state(leaving=True))
    assert kinds(told) == [CloseLink, ForgetNode]
    assert told[-1] == ForgetNode(node_id=B, why="has left")
    assert story.machine.is_away(B, now_s=FORGET_S - 1.0)
    assert not story.machine.is_away(B, now_s=FORGET_S)
    assert story.hello(state()) == []  # sent before the goodbye, which overtook it
    assert story.machine.addresses == {}
    assert kinds(story.hello(state(life=2))) == [OpenLink]
    assert kinds(story.answer(Y, state())) == []  # overtaken, too
    assert kinds(story.answer(Y, state(life=2))) == [NoteMeeting, HearState]
    assert not story.machine.is_away(B, now_s=0.0)


def test_a_node_that_lost_its_memory_is_heard_once_its_goodbye_is_forgotten() -> None:
    story = Story()
    story.hello(state())
    story.answer(Y, state())
    story.hello(state(leaving=True))
    story.now_s = FORGET_S
    assert kinds(story.hello(state())) == [OpenLink]


def test_a_configured_node_that_leaves_keeps_its_address() -> None:
    story = Story(X)
    story.answer(X, state())
    assert kinds(story.answer(X, state(leaving=True))) == [ForgetNode]
    assert story.machine.addresses == {X: None}
    assert kinds(story.answer(X, state(life=2))) == [NoteMeeting, HearState]


def test_a_silent_node_is_forgotten_unless_it_is_configured() -> None:
    story = Story(X)
    story.answer(X, state(B))
    story.found(Y)
    story.answer(Y, state(C))
    story.now_s = FORGET_S
    assert story.broke(X) == story.broke(Y) == []
    story.now_s = FORGET_S + 1.0
    assert story.broke(X) == []
    told = story.broke(Y)
    assert kinds(told) == [CloseLink, ForgetNode]
    assert told[-1] == ForgetNode(node_id=C, why="was silent for 101 s and is forgotten")
    assert story.machine.addresses == {X: B}


def test_a_silence_begins_with_the_last_that_was_heard() -> None:
    story = Story()
    story.found(Y)
    story.answer(Y, state())
    story.now_s = FORGET_S
    story.answer(Y, state())
    story.now_s = 2 * FORGET_S
    assert story.broke(Y) == []


def test_a_link_that_is_closed_is_heard_no_more() -> None:
    story = Story()
    story.found(Y)
    link = story.links[Y]
    story.told(AddressLost(address=Y))
    assert story.told(StateAnswered(link=link, state=state())) == []
    assert story.told(LinkBroke(link=link)) == []
    story.found(Y)
    assert story.links[Y] != link
    assert story.told(StateAnswered(link=link, state=state())) == []
    assert story.machine.addresses == {}


def test_nobody_is_expected_where_anyone_may_have_said_to_be() -> None:
    story = Story(X)
    story.found(Y)
    story.hello(state(C), host="10.0.0.3")
    assert set(story.links) == {X, Y, "10.0.0.3:90"}
    assert story.machine.addresses == {X: None}
    story.answer(Y, state(B))
    assert story.machine.addresses == {X: None, Y: B}


def test_discovery_takes_back_only_what_was_never_met() -> None:
    story = Story(X)
    story.found(Y)
    story.found(Z)
    assert story.found(Y) == []
    story.answer(Y, state())
    assert story.told(AddressLost(address=X)) == []  # configured
    assert story.told(AddressLost(address=Y)) == []  # met
    assert kinds(story.told(AddressLost(address=Z))) == [CloseLink]
    assert story.told(AddressLost(address=Z)) == []


def test_addresses_come_and_go_with_the_settings() -> None:
    story = Story(X, Y)
    story.answer(X, state(B))
    story.found(Z)
    told = story.told(Reconfigured(settings=settings(Y, Z)))
    assert kinds(told) == [CloseLink, ForgetNode]
    assert told[-1] == ForgetNode(node_id=B, why="is no longer among peers")
    story.now_s = FORGET_S + 1.0
    assert story.broke(Z) == []  # it is configured now
    assert kinds(story.told(Reconfigured(settings=settings(X, Y, Z)))) == [OpenLink]


def test_a_node_with_another_way_to_it_is_not_forgotten() -> None:
    story = Story(X, Y)
    story.answer(X, state())
    story.answer(Y, state())
    assert kinds(story.told(Reconfigured(settings=settings(Y)))) == [CloseLink]
    assert story.leads_to(B) == Y


@pytest.mark.parametrize("other", [state(C), state(A)], ids=["another node", "own name"])
def test_a_node_with_another_way_to_it_outlives_an_address(other: NodeState) -> None:
    story = Story(X, Y)
    story.answer(X, state())
    story.answer(Y, state())
    assert ForgetNode not in kinds(story.answer(Y, other))
    assert story.leads_to(B) == X


def test_a_node_that_stops_says_so_and_opens_nothing_more() -> None:
    story = Story()
    assert story.told(member.LeaveRequested()) == [SayGoodbye()]
    assert story.machine.leaving
    assert story.found(Y) == []
    assert story.told(Reconfigured(settings=settings(X))) == []


# Who is heard.


def test_hellos_of_others_are_not_heard_where_the_operator_names_everyone() -> None:
    story = Story(X, accept_new_peers=False)
    assert story.hello(state(C)) == []  # it may be who listens at X
    story.answer(X, state(B))
    told = story.hello(state(C))
    assert kinds(told) == [NoteStranger]
    assert story.hello(state(C)) == []  # noted once
    assert story.hello(state(B)) == [HearState(state=state(B))]
    story.told(Reconfigured(settings=settings(X, accept_new_peers=False)))
    assert kinds(story.hello(state(C))) == [NoteStranger]  # the operator may look again


def test_where_the_operator_names_everyone_a_node_is_followed_to_no_other_address() -> None:
    story = Story(X, accept_new_peers=False)
    story.answer(X, state(at="b:90"))
    renamed = state(life=2, at="b.lan:90")
    assert story.hello(renamed) == [HearState(state=renamed)]


def test_another_cluster_is_not_heard_and_takes_over_no_address() -> None:
    story = Story(X)
    other = state(C, cluster_name="other")
    assert kinds(story.hello(other)) == [NoteStranger]
    assert story.machine.addresses == {X: None}
    story.answer(X, state(B))
    assert story.answer(X, other) == [ForgetNode(node_id=B, why=f"is no longer at {X}")]
    assert story.machine.addresses == {X: None}
    assert kinds(story.answer(X, state(B, cluster_name=""))) == [NoteMeeting, HearState]


def test_a_node_of_this_nodes_own_name_is_not_heard() -> None:
    story = Story(X)
    (note,) = story.answer(X, state(A))
    assert isinstance(note, NoteStranger)
    assert "own name" in note.why
    assert story.hello(state(A)) == []
    story.found(Y)
    assert kinds(story.answer(Y, state(A))) == [CloseLink]
    assert story.machine.addresses == {X: None}


def test_a_node_that_is_named_among_its_own_peers_is_told_once_and_calls_itself_no_more() -> None:
    story = Story()
    itself = state(A, life=7, at="a.lan:90")
    story.told(Started(own=itself))
    story.told(Reconfigured(settings=settings(X, Y)))
    # Its own hello over that link may come first.
    assert story.hello(itself) == []
    link = story.links[X]
    note, closed = story.answer(X, itself)
    assert isinstance(note, NoteStranger)
    assert note.why == f"is this node itself, at {X}; take it out of peers"
    assert closed == CloseLink(link=link)
    # Whoever asks for an unknown task waits for no one who will never be met.
    assert story.machine.addresses == {Y: None}
    assert story.found(X) == []
    # By another name: once is enough, and a namesake is told all the same.
    assert kinds(story.answer(Y, itself)) == [CloseLink]
    assert story.machine.addresses == {}
    (other,) = story.hello(state(A, life=8, at="b.lan:90"))
    assert isinstance(other, NoteStranger)
    assert "own name" in other.why
    # The operator mends it: the address may be another node's now.
    story.told(Reconfigured(settings=settings(X)))
    assert kinds(story.answer(X, state(B))) == [NoteMeeting, HearState]


def test_a_node_that_moved_to_where_another_was_meets_itself_there() -> None:
    story = Story(X)
    story.told(Started(own=state(A)))
    story.answer(X, state(B))
    told = story.answer(X, state(A))
    assert kinds(told) == [NoteStranger, CloseLink, ForgetNode]


def test_another_device_may_take_an_address_over() -> None:
    story = Story(X)
    story.answer(X, state(B))
    told = story.answer(X, state(C))
    assert kinds(told) == [NoteMeeting, ForgetNode, HearState]
    assert told[1] == ForgetNode(node_id=B, why=f"is no longer at {X}, where c is")
    assert story.machine.addresses == {X: C}


def test_a_node_that_lost_its_memory_is_met_anew_where_it_answers() -> None:
    story = Story(X)
    story.answer(X, state(life=7))
    assert kinds(story.answer(X, state(life=1))) == [ForgetNode, HearState]
    assert story.answer(X, state(life=1)) == [HearState(state=state(life=1))]


# One link to a node, one node to a name.


@pytest.mark.parametrize("configured_first", [True, False])
def test_the_configured_one_of_two_links_to_a_node_is_kept(configured_first: bool) -> None:
    story = Story(X)
    story.found(Y)
    first, second = (X, Y) if configured_first else (Y, X)
    story.answer(first, state())
    told = story.answer(second, state())
    assert kinds(told) == [NoteMeeting, CloseLink, HearState]
    assert story.machine.addresses == {X: B}


def test_of_two_links_that_nobody_configured_the_one_that_works_is_kept() -> None:
    story = Story()
    story.found(X)
    story.answer(X, state())
    story.found(Y)
    story.answer(Y, state())
    assert story.machine.addresses == {X: B}
    story.broke(X)
    story.found(Y)
    story.answer(Y, state())
    assert story.machine.addresses == {Y: B}


def test_a_configured_link_that_is_down_is_helped_out_by_another() -> None:
    story = Story(X)
    story.answer(X, state())
    story.broke(X)
    story.found(Y)
    story.answer(Y, state())
    assert story.machine.addresses == {X: B, Y: B}
    assert story.leads_to(B) == Y
    assert kinds(story.answer(X, state())) == [CloseLink, HearState]
    assert story.leads_to(B) == X


def test_a_node_that_starts_again_at_its_address_is_heard_through_either_side() -> None:
    story = Story()
    story.hello(state())
    story.answer(Y, state())
    assert kinds(story.hello(state(life=2))) == [HearState]
    assert kinds(story.answer(Y, state(life=2))) == [HearState]


@pytest.mark.parametrize("former_configured", [True, False])
def test_a_node_that_starts_again_at_another_address_is_followed(former_configured: bool) -> None:
    story = Story(*[X] * former_configured)
    story.found(X)
    story.answer(X, state(at="b:90"))
    moved = state(life=2, at="b:91")
    told = story.hello(moved, host="10.0.0.9")
    assert [one.address for one in told if isinstance(one, OpenLink)] == ["10.0.0.9:91"]
    assert HearState(state=moved) in story.answer("10.0.0.9:91", moved)
    assert story.leads_to(B) == "10.0.0.9:91"
    assert (X in story.links) == former_configured
    if former_configured:  # a namesake of its former life is there all the same
        assert kinds(story.answer(X, state(at="b:90"))) == [NoteStranger]
        assert story.answer(X, state(at="b:90")) == []
        assert story.machine.addresses[X] is None


def test_of_two_nodes_of_one_name_the_first_is_heard() -> None:
    story = Story(X, Y)
    first, second = state(at="one:90"), state(at="two:90")
    story.answer(X, first)
    (note,) = story.answer(Y, second)
    assert isinstance(note, NoteStranger)
    assert "goes by the name of the node at one:90" in note.why
    assert story.hello(second) == story.answer(Y, second) == []
    assert story.hello(replace(second, leaving=True)) == []  # another's goodbye
    assert story.machine.addresses == {X: B, Y: None}
    assert story.answer(X, first) == [HearState(state=first)]


def test_a_former_life_says_nothing_any_more() -> None:
    story = Story(X)
    story.answer(X, state(life=3))
    assert kinds(story.hello(state(life=2))) == [NoteStranger]
    assert story.hello(state(life=2, leaving=True)) == []
    assert story.machine.addresses == {X: B}


def test_an_address_that_a_namesake_took_over_no_longer_leads_to_its_former_node() -> None:
    story = Story(X, Y)
    story.answer(X, state(B, at="one:90"))
    story.answer(Y, state(C))
    told = story.answer(Y, state(B, at="two:90"))
    assert kinds(told) == [NoteStranger, ForgetNode]
    assert story.machine.addresses == {X: B, Y: None}


# Who says so of himself, and may be anybody.


FORGED = {
    "a goodbye": state(leaving=True),
    "a later life": state(life=2**50),
    "a later sequence": replace(state(), sequence=2**50),
    "a namesake elsewhere": state(life=2, at="evil:90"),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_nobody_speaks_for_a_node_that_answers(forged: NodeState) -> None:
    story = Story(X)
    story.answer(X, state())
    assert story.hello(forged, host="10.0.0.66", proven=False) == []
    assert story.machine.addresses == {X: B}
    assert not story.machine.is_away(B, now_s=0.0)
    assert story.answer(X, state()) == [HearState(state=state())]


def test_a_node_is_heard_from_where_it_was_met_and_looked_for_where_it_moved() -> None:
    named = Story("b.lan:90")
    named.answer("b.lan:90", state())
    assert named.hello(state(), host="10.0.0.1", proven=False) == []
    story = Story(X)
    story.answer(X, state())
    assert story.machine.is_met_at(B, "10.0.0.1")
    assert not story.machine.is_met_at(B, "10.0.0.2")
    again = state(life=2)
    assert story.hello(again, host="10.0.0.1", proven=False) == [HearState(state=again)]
    story.broke(X)
    moved = state(life=2, at="elsewhere:91")
    told = story.hello(moved, host="10.0.0.9", proven=False)
    assert [one.address for one in told if isinstance(one, OpenLink)] == ["10.0.0.9:91"]


def test_a_stranger_is_looked_for_and_cannot_say_goodbye() -> None:
    story = Story()
    assert story.hello(state(leaving=True), proven=False) == []
    assert not story.machine.is_away(B, now_s=0.0)
    assert kinds(story.hello(state(), proven=False)) == [OpenLink]


# Bounds.


def test_what_strangers_can_make_this_node_remember_is_bounded() -> None:
    story = Story(X)
    for number in range(2 * DEPARTED_MAX):
        name = NodeId(f"n{number}")
        story.found(f"10.0.1.{number}:90")
        story.hello(state(name, cluster_name="other"))
        story.hello(state(name, leaving=True))
    assert len(story.links) == NEW_PEERS_MAX + 1
    assert not story.machine.is_away(NodeId("n0"), now_s=0.0)
    again = NodeId(f"n{DEPARTED_MAX}")  # the oldest
    story.hello(state(again, life=2, leaving=True))
    story.hello(state(NodeId("last"), leaving=True))
    assert story.machine.is_away(again, now_s=0.0)
    assert story.machine.is_away(NodeId(f"n{2 * DEPARTED_MAX - 1}"), now_s=0.0)


@pytest.mark.parametrize("seed", range(20))
def test_no_story_breaks_it(seed: int) -> None:
    """Random events, of which `Story` validates each; every kind of instruction is seen."""
    rng = np.random.default_rng(seed)
    story = Story(X)
    seen: set[type] = set()
    addresses = [X, Y, Z, "10.0.0.2:91"]

    def shown() -> NodeState:
        own = state(
            (A, B, B, C)[rng.integers(4)],
            life=int(rng.integers(1, 4)),
            at=("b:90", "b:91")[rng.integers(2)],
            cluster_name=("lab", "lab", "other")[rng.integers(3)],
            leaving=rng.random() < 0.1,
        )
        words = removal((A, B, C)[rng.integers(3)], removed=rng.random() < 0.3)
        return replace(own, removals=(words,) if rng.random() < 0.1 else ())

    for _ in range(400):
        story.now_s += float(rng.exponential(20.0))
        address = addresses[rng.integers(4)]
        match int(rng.integers(7)):
            case 6:
                out = (A, B, C)[rng.integers(3)]
                told = story.told(said(out, removed=rng.random() < 0.5, unix_s=story.now_s))
            case 0:
                told = story.found(address)
            case 1:
                told = story.told(AddressLost(address=address))
            case 2:
                told = story.hello(shown())
            case 3 if address in story.links:
                told = story.broke(address)
            case 4:
                chosen = [a for a in addresses if rng.random() < 0.4]
                accept = bool(rng.random() < 0.8)
                told = story.told(Reconfigured(settings=settings(*chosen, accept_new_peers=accept)))
            case _ if address in story.links:
                told = story.answer(address, shown())
            case _:
                told = []
        seen |= set(kinds(told))
        # Whoever is heard can be reached, and whoever is given up cannot.
        for one in told:
            if isinstance(one, HearState) and KeepRemovals not in kinds(told):
                assert story.machine.link_to(one.state.node_id) is not None
        gone = [one.node_id for one in told if isinstance(one, ForgetNode)]
        heard = [one.state.node_id for one in told if isinstance(one, HearState)]
        assert KeepRemovals in kinds(told) or all(
            story.machine.link_to(n) is None or n in heard for n in gone
        )
    all_of_them = {OpenLink, CloseLink, HearState, ForgetNode, NoteMeeting, NoteStranger}
    assert seen == all_of_them | {KeepRemovals}
