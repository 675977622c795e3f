"""Who belongs to the cluster: events in, instructions out.

Owns which addresses this node keeps a link to, which node each link has met, who has left and who
is not heard. Has no clock and no socket: the shell in `peering.peer_links` opens the links, feeds
what comes over them, and carries out what this says, in order.

The cluster is the nodes that the operator names, those that discovery finds, and, where that is
allowed, those that say hello. A node that says hello is reached at the IP address that it called
from and the port that it names, so that nobody can make this node call somebody else. It is a
candidate once that link has met it. From then on a hello in its name counts only where a
certificate proves the name, or it comes from the address at which the link met it. A node that says
goodbye is forgotten at once, but for its name: until `forget_s` have passed its tasks are away, not
unknown. So are those of a node that falls silent, and then it is forgotten unless the operator
names it.

A name belongs to one node. What answers at an address is believed before what somebody says of
himself, and a later life before a former one: of two links that meet one name the later life keeps
it, and of two nodes in the same life (told apart by the address that they give) the one met first.
The other is a stranger: logged once, and not heard. This node itself, named among its own peers, is
logged once and called no more.

A node that an operator removes is forgotten for good, with its tasks, and stays out in every life,
until he readmits it. Nodes tell each other whom he removed, but listen only to those they hear.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from edge_node.domain import NodeId, NodeState
from edge_node.removal import Removal
from edge_node.tasks.lives import (
    Life,
    clash,
    host_of,
    is_other,
    life_of,
    same_node,
)
from edge_node.tasks.membership_protocol import (
    AddressFound,
    AddressLost,
    CloseLink,
    Event,
    ForgetNode,
    HearState,
    HelloReceived,
    Instruction,
    KeepRemovals,
    LeaveRequested,
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
from edge_node.tasks.removals import Removals

# Links beyond the configured ones, and names of strangers: anyone on the network may say hello.
NEW_PEERS_MAX = 64
# Nodes that left and are remembered; anyone may say goodbye, too.
DEPARTED_MAX = 256


@dataclass(kw_only=True)
class _Link:
    """One address; mutable, and touched by Membership alone.

    Attributes:
        heard_s: when something came over it, or when it was opened.
        met: who answered there last; None before, and once that node has left.
        up: something came over it since it broke last.
    """

    id: LinkId
    address: str
    heard_s: float
    met: Life | None = None
    up: bool = False

    @property
    def node_id(self) -> NodeId | None:
        return None if self.met is None else self.met.node_id


@dataclass(frozen=True, kw_only=True)
class _Departure:
    incarnation: int
    at_s: float


class Membership:
    """All other nodes, as node `own_id` knows them. `handle` is the one way to change them.

    Args:
        settings: who belongs to the cluster.
        own_id: this node.
        removals: what a former life of it knew of them.
    """

    def __init__(
        self, settings: MembershipSettings, *, own_id: NodeId, removals: Iterable[Removal] = ()
    ) -> None:
        self._removals = Removals(removals)
        self._settings = settings
        self._own_id = own_id
        self._links: dict[str, _Link] = {}
        # The same by number, and those that have met a node by its name: states come often.
        self._numbered: dict[LinkId, _Link] = {}
        self._leading: dict[NodeId, list[_Link]] = {}
        self._link_last = 0
        self._departed: OrderedDict[NodeId, _Departure] = OrderedDict()
        # Nodes whose state is not heard, and where they say to be; each is noted once.
        self._strangers: set[tuple[NodeId, str]] = set()
        # This life, once it has begun, and the addresses at which it met itself.
        self._own: Life | None = None
        self._own_addresses: set[str] = set()
        self._started = False
        self._leaving = False

    # What can be read.

    @property
    def settings(self) -> MembershipSettings:
        """As they stand now."""
        return self._settings

    @property
    def leaving(self) -> bool:
        """Whether this node is about to stop."""
        return self._leaving

    @property
    def addresses(self) -> dict[str, NodeId | None]:
        """Every address and the node that was met there, None at one where somebody is expected.

        Nobody is where only a removed node was, nor where somebody says to be or was found and has
        not been met: anyone on the network may say so.
        """
        return {
            address: link.node_id
            for address, link in self._links.items()
            if link.met is not None
            or (self._is_configured(link) and not self._removals.is_vacant(address))
        }

    @property
    def removals(self) -> tuple[Removal, ...]:
        """Who was removed by an operator, or readmitted after that."""
        return self._removals.known

    def removal_of(self, node_id: NodeId) -> Removal | None:
        """That the node was removed; None where it was not, or is back."""
        return self._removals.of(node_id)

    def node_at(self, link: LinkId) -> NodeId | None:
        """Whom the link has met; None before, and once it is closed."""
        found = self._numbered.get(link)
        return None if found is None else found.node_id

    def link_to(self, node_id: NodeId) -> LinkId | None:
        """Which link leads to the node, best one that is up; None if it was never met."""
        leading = self._leading_to(node_id)
        return max(leading, key=lambda link: link.up).id if leading else None

    def is_met_at(self, node_id: NodeId, host: str | None) -> bool:
        """Whether a link to that IP address has met the node."""
        return host in {host_of(link.address) for link in self._leading_to(node_id)}

    def is_away(self, node_id: NodeId, *, now_s: float) -> bool:
        """Whether the node belonged to the cluster and left, less than `forget_s` ago."""
        return self._departure(node_id, now_s=now_s) is not None

    def away(self, *, now_s: float) -> tuple[NodeId, ...]:
        """All of these."""
        return tuple(one for one in self._departed if self.is_away(one, now_s=now_s))

    def validate(self) -> None:
        """Asserts what holds after every event."""
        configured = set(self._settings.addresses) - self._own_addresses
        links = list(self._links.values())
        if self._started and not self._leaving:
            assert configured <= set(self._links), "a configured address has no link"
        assert all(address == link.address for address, link in self._links.items())
        assert {link.id: link for link in links} == self._numbered, "a link without its number"
        leading = [link.id for leading in self._leading.values() for link in leading]
        assert sorted(leading) == [link.id for link in links if link.met], "a node without its link"
        others = sum(not self._is_configured(link) for link in links)
        assert others <= NEW_PEERS_MAX, "too many links that nobody configured"
        assert len(self._strangers) <= NEW_PEERS_MAX, "too many strangers remembered"
        assert len(self._departed) <= DEPARTED_MAX, "too many departures remembered"
        for link in links:
            if link.met is not None:
                assert self._removals.of(link.met.node_id) is None, "a removed node is still met"
                self._validate_meeting(link, link.met)

    def _validate_meeting(self, link: _Link, met: Life) -> None:
        assert met.node_id != self._own_id, "this node is its own peer"
        assert met.node_id not in self._departed, "a node that left is still met"
        assert link in self._leading[met.node_id], "the link leads to another node"
        for other in self._leading_to(met.node_id, but=link):
            assert other.met is not None
            assert other.met.incarnation == met.incarnation, "a former life is still met"
            assert same_node(other.met, met), "two nodes go by one name"
            needed = self._is_configured(link) or not other.up
            assert needed, f"the link to {link.address} is one too many"

    # What can happen.

    def handle(self, event: Event, *, now_s: float) -> list[Instruction]:
        """Applies one event; returns what is to be done about it, in order."""
        told = self._instructions(event, now_s)
        for heard in [one.state for one in told if isinstance(one, HearState)]:
            if heard.removals and self._removals.take(heard.removals):
                told += self._without_removed()
        return told

    def _instructions(self, event: Event, now_s: float) -> list[Instruction]:
        match event:
            case Started(own=own):
                self._started = True
                self._own = None if own is None else life_of(own)
                return self._open_configured(now_s)
            case Reconfigured(settings=settings):
                return self._reconfigured(settings, now_s)
            case AddressFound(address=address):
                return self._open(address, now_s)
            case AddressLost(address=address):
                return self._lost(address)
            case HelloReceived(state=state, host=host):
                if not event.proven and not self.is_met_at(state.node_id, host):
                    return self._unproven_hello(state, host, now_s)
                return self._hello(state, host, now_s)
            case StateAnswered(state=state):
                link = self._numbered.get(event.link)  # None once it is closed
                return [] if link is None else self._answered(link, state, now_s)
            case LinkBroke():
                link = self._numbered.get(event.link)
                return [] if link is None else self._broke(link, now_s)
            case RemovalSaid():
                return self._removal_said(event)
            case LeaveRequested():
                self._leaving = True
                return [SayGoodbye()]

    # Which links there are.

    def _reconfigured(self, settings: MembershipSettings, now_s: float) -> list[Instruction]:
        former, self._settings = self._settings, settings
        self._strangers.clear()
        self._own_addresses.clear()
        told: list[Instruction] = []
        for address in former.addresses:
            if address not in settings.addresses and address in self._links:
                told += self._forget(self._links[address], "is no longer among peers")
        return told + self._open_configured(now_s)

    def _lost(self, address: str) -> list[Instruction]:
        """A node that was met is given its time."""
        link = self._links.get(address)
        if link is None or link.met is not None or self._is_configured(link):
            return []
        return self._close(link)

    def _broke(self, link: _Link, now_s: float) -> list[Instruction]:
        link.up = False
        silence_s = now_s - link.heard_s
        if self._is_configured(link) or silence_s <= self._settings.forget_s:
            return []
        return self._forget(link, f"was silent for {silence_s:.0f} s and is forgotten")

    def _open_configured(self, now_s: float) -> list[Instruction]:
        if not self._started:
            return []
        return [one for a in self._settings.addresses for one in self._open(a, now_s)]

    def _open(self, address: str, now_s: float) -> list[Instruction]:
        if self._leaving or address in self._links or address in self._own_addresses:
            return []
        if address not in self._settings.addresses:
            others = sum(not self._is_configured(link) for link in self._links.values())
            if others >= NEW_PEERS_MAX:
                return []
        self._link_last += 1
        link = _Link(id=LinkId(self._link_last), address=address, heard_s=now_s)
        self._links[address] = self._numbered[link.id] = link
        return [OpenLink(link=link.id, address=address)]

    def _close(self, link: _Link) -> list[Instruction]:
        self._set_met(link, None)
        del self._links[link.address], self._numbered[link.id]
        return [CloseLink(link=link.id)]

    def _forget(self, link: _Link, why: str) -> list[Instruction]:
        """Closes a link, and gives its node up if no other leads there."""
        node_id = link.node_id
        told = self._close(link)
        if node_id is not None and self.link_to(node_id) is None:
            told.append(ForgetNode(node_id=node_id, why=why))
        return told

    # Who is heard.

    def _hello(self, state: NodeState, host: str | None, now_s: float) -> list[Instruction]:
        refusal = self._refusal(state, now_s=now_s)
        if refusal is not None:
            return refusal
        life = life_of(state)
        known = self._known(state.node_id)
        if known is not None and is_other(life, known):
            return self._stranger(state, clash(state, known))
        if state.leaving:
            return self._farewell(state, now_s)
        if known is not None and (same_node(life, known) or not self._settings.accept_new_peers):
            return [HearState(state=state)]
        if self._settings.accept_new_peers:
            # Not met so far, or in a life that has moved: heard once a link has met it there.
            port = state.grpc_address.rpartition(":")[2]
            if host is None or not port.isdecimal():
                return []
            shown = f"[{host}]" if ":" in host else host
            return self._open(f"{shown}:{port}", now_s)
        if None in self.addresses.values():
            return []  # it may be one of those not met yet
        return self._stranger(state, "is not among peers, and accept_new_peers is false")

    def _unproven_hello(
        self, state: NodeState, host: str | None, now_s: float
    ) -> list[Instruction]:
        """What somebody says of himself who may be anybody: it is asked for where he is known.

        Of a name that is met and answers, the link that leads to it says how it is. Another name is
        looked for where it says to be, and so is one that answers no more: it may have moved.
        """
        if state.leaving or any(link.up for link in self._leading_to(state.node_id)):
            return []
        known = self._known(state.node_id)
        if known is not None and same_node(life_of(state), known):
            return []
        return self._hello(state, host, now_s)

    def _answered(self, link: _Link, state: NodeState, now_s: float) -> list[Instruction]:
        link.heard_s = now_s
        link.up = True
        if self._own is not None and life_of(state) == self._own:
            return self._meet_itself(link, state)
        refusal = self._refusal(state, now_s=now_s)
        if refusal is not None:
            return refusal if self._has_left(state, now_s=now_s) else self._unmeet(link, refusal)
        life = life_of(state)
        doubles = self._leading_to(state.node_id, but=link)
        for double in doubles:
            if double.met is not None and is_other(life, double.met):
                return self._unmeet(link, self._stranger(state, clash(state, double.met)))
        if state.leaving:
            return self._farewell(state, now_s)
        told = self._meet(link, life)
        for double in doubles:
            told += self._close_needless(link, life, double)
        return [*told, HearState(state=state)]

    def _close_needless(self, link: _Link, life: Life, double: _Link) -> list[Instruction]:
        """One link to a node is enough, and a configured one is kept, as long as it is up."""
        assert double.met is not None
        if double.met.incarnation < life.incarnation:
            self._set_met(double, None)  # a former life, which will answer there no more
            return [] if self._is_configured(double) else self._close(double)
        if not self._is_configured(link) and double.up:
            return self._close(link) if link.id in self._numbered else []
        return [] if self._is_configured(double) else self._close(double)

    def _meet(self, link: _Link, life: Life) -> list[Instruction]:
        """The one who answers over a link is who lives there."""
        former = link.met
        self._set_met(link, life)
        if former is not None and former.node_id == life.node_id:
            if life.incarnation < former.incarnation:
                why = "has lost the memory of its former lives and is met anew"
                return [ForgetNode(node_id=life.node_id, why=why)]
            return []
        self._departed.pop(life.node_id, None)
        told: list[Instruction] = [NoteMeeting(node_id=life.node_id, address=link.address)]
        if former is not None and self.link_to(former.node_id) is None:
            why = f"is no longer at {link.address}, where {life.node_id} is"
            told.append(ForgetNode(node_id=former.node_id, why=why))
        return told

    def _meet_itself(self, link: _Link, state: NodeState) -> list[Instruction]:
        former = link.node_id
        self._own_addresses.add(link.address)
        told = self._stranger(
            state, f"is this node itself, at {link.address}; take it out of peers"
        )
        told += self._close(link)
        if former is not None and self.link_to(former) is None:
            why = f"is no longer at {link.address}, where this node is"
            told.append(ForgetNode(node_id=former, why=why))
        return told

    def _unmeet(self, link: _Link, refusal: list[Instruction]) -> list[Instruction]:
        """What answers over a link is of no node of this cluster, whoever was there before."""
        former = link.node_id
        self._set_met(link, None)
        told = list(refusal)
        if former is not None and self.link_to(former) is None:
            told.append(ForgetNode(node_id=former, why=f"is no longer at {link.address}"))
        return told if self._is_configured(link) else told + self._close(link)

    def _refusal(self, state: NodeState, *, now_s: float) -> list[Instruction] | None:
        """What to do instead of hearing a state that is of no node of this cluster."""
        if state.cluster_name not in ("", self._settings.cluster_name):
            return self._stranger(state, f"is of the cluster {state.cluster_name}")
        if self._own is not None and life_of(state) == self._own:
            return []  # told over the link that led here
        if state.node_id == self._own_id:
            why = "goes by this node's own name; give every node its own node_id"
            return self._stranger(state, why)
        if self._removals.of(state.node_id) is not None:
            why = "was removed from this cluster by an operator"
            again = f"`dedgeai nodes readmit {state.node_id}` lets it in"
            return self._stranger(state, f"{why}; {again}")
        return [] if self._has_left(state, now_s=now_s) else None

    def _farewell(self, state: NodeState, now_s: float) -> list[Instruction]:
        node_id = state.node_id
        self._departed.pop(node_id, None)
        self._departed[node_id] = _Departure(incarnation=state.incarnation, at_s=now_s)
        if len(self._departed) > DEPARTED_MAX:
            self._departed.popitem(last=False)
        told: list[Instruction] = []
        for link in self._leading_to(node_id):
            self._set_met(link, None)
            if not self._is_configured(link):
                told += self._close(link)
        return [*told, ForgetNode(node_id=node_id, why="has left")]

    # Who is out by an operator's word.

    def _removal_said(self, said: RemovalSaid) -> list[Instruction]:
        met = [link.address for link in self._leading_to(said.node_id)]
        former = self._removals.of(said.node_id)
        address = met[0] if met else "" if former is None else former.address
        self._removals.say(said.node_id, removed=said.removed, address=address, unix_s=said.unix_s)
        return self._without_removed()

    def _without_removed(self) -> list[Instruction]:
        """The removals are others: nobody who is removed is met, or expected back."""
        out = {one.node_id for one in self._removals.known if one.removed}
        self._strangers = {one for one in self._strangers if one[0] in out}
        told: list[Instruction] = []
        for name in sorted(out):
            node_id = NodeId(name)
            self._departed.pop(node_id, None)
            leading = self._leading_to(node_id)
            for link in leading:
                self._set_met(link, None)
                if not self._is_configured(link):
                    told += self._close(link)
            if leading:
                told.append(ForgetNode(node_id=node_id, why="was removed by an operator"))
        return [*told, KeepRemovals()]

    def _stranger(self, state: NodeState, why: str) -> list[Instruction]:
        stranger = (state.node_id, state.grpc_address)
        if stranger in self._strangers or len(self._strangers) >= NEW_PEERS_MAX:
            return []
        self._strangers.add(stranger)
        return [NoteStranger(node_id=state.node_id, address=state.grpc_address, why=why)]

    # Small parts.

    def _is_configured(self, link: _Link) -> bool:
        return link.address in self._settings.addresses

    def _known(self, node_id: NodeId) -> Life | None:
        return next((link.met for link in self._leading_to(node_id)), None)

    def _leading_to(self, node_id: NodeId, *, but: _Link | None = None) -> list[_Link]:
        return [link for link in self._leading.get(node_id, ()) if link is not but]

    def _set_met(self, link: _Link, life: Life | None) -> None:
        former, link.met = link.node_id, life
        if former == link.node_id:
            return
        if former is not None:
            self._leading[former].remove(link)
            if not self._leading[former]:
                del self._leading[former]
        if life is not None:
            self._leading.setdefault(life.node_id, []).append(link)

    def _has_left(self, state: NodeState, *, now_s: float) -> bool:
        """Whether the state was sent before its node's goodbye, which has overtaken it."""
        departure = self._departure(state.node_id, now_s=now_s)
        return departure is not None and state.incarnation == departure.incarnation

    def _departure(self, node_id: NodeId, *, now_s: float) -> _Departure | None:
        """How the node left, if it did and is still remembered."""
        departure = self._departed.get(node_id)
        if departure is not None and now_s - departure.at_s >= self._settings.forget_s:
            return None
        return departure
