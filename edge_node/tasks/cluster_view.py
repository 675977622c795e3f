"""What this node knows of every node's queue, itself included.

Owns the last state of each node, the extrapolation of its backlog to now, and this node's own
dispatches which a report has not seen yet. Pure: told what arrived and when, asked for
observations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edge_node.domain import NodeId, NodeState, Task
from scheduler.observation import Observation


@dataclass(frozen=True, kw_only=True)
class ClusterViewLimits:
    """When a peer is given up, and what a link is taken to be before it was measured.

    Attributes:
        suspect_s: silence after which a peer is no candidate and its attempts are lost.
        link_bits_s: throughput of a link; 1 Gbit/s wired Ethernet of the AGX Orin carrier board.
        dispatching_s: how long a node counts as a dispatcher after it was seen to offload a task.
    """

    suspect_s: float = 3.0
    link_bits_s: float = 0.94e9
    dispatching_s: float = 2.0


@dataclass(kw_only=True)
class _Peer:
    state: NodeState
    heard_s: float
    round_trip_s: float = 0.0
    # dispatch number -> work units, of attempts that are under way there
    dispatches: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PeerView:
    """One node as this node sees it; staleness and link in seconds, unseen work in units."""

    state: NodeState
    alive: bool
    staleness_s: float
    round_trip_s: float
    own_unseen_work: float


class ClusterView:
    """The cluster as node `own_id` of incarnation `incarnation` sees it."""

    def __init__(
        self, *, own_id: NodeId, incarnation: int, limits: ClusterViewLimits | None = None
    ) -> None:
        self._own_id = own_id
        self._incarnation = incarnation
        self._limits = limits or ClusterViewLimits()
        self._peers: dict[NodeId, _Peer] = {}
        self._dispatch_last: dict[NodeId, int] = {}
        self._seen_dispatching_s: dict[NodeId, float] = {}

    # What arrives.

    def state_received(self, state: NodeState, *, now_s: float) -> bool:
        """Takes in a state, one's own or a peer's; returns whether it was news.

        A state of an earlier incarnation or with a sequence already passed is a message from the
        past. The same sequence again is a heartbeat: nothing changed until now.
        """
        peer = self._peers.get(state.node_id)
        if peer is None:
            self._peers[state.node_id] = _Peer(state=state, heard_s=now_s)
            return True
        known = (peer.state.incarnation, peer.state.sequence)
        if (state.incarnation, state.sequence) < known:
            return False
        if state.incarnation > peer.state.incarnation:
            peer.dispatches.clear()  # whatever it was drawing died with its former life
        for origin, dispatch in state.dispatches_seen.items():
            if origin != state.node_id and dispatch > peer.state.dispatches_seen.get(
                origin, (0, 0)
            ):
                self._seen_dispatching_s[origin] = now_s
        peer.state = state
        peer.heard_s = now_s
        return (state.incarnation, state.sequence) > known

    def round_trip_measured(self, node_id: NodeId, round_trip_s: float) -> None:
        """Smooths a measured round trip into the link's estimate."""
        peer = self._peers.get(node_id)
        if peer is not None:
            former = peer.round_trip_s or round_trip_s
            peer.round_trip_s = 0.8 * former + 0.2 * round_trip_s

    def dispatched(self, executor: NodeId, work: float) -> int:
        """Books work that is about to be sent; returns the number of the dispatch."""
        number = self._dispatch_last.get(executor, 0) + 1
        self._dispatch_last[executor] = number
        self._peers[executor].dispatches[number] = work
        return number

    def dispatch_ended(self, executor: NodeId, dispatch: int) -> None:
        """The attempt is over, one way or another."""
        peer = self._peers.get(executor)
        if peer is not None:
            peer.dispatches.pop(dispatch, None)

    # What can be asked.

    def is_alive(self, node_id: NodeId, *, now_s: float) -> bool:
        """Whether the node was heard within `suspect_s`; this node always is."""
        peer = self._peers.get(node_id)
        if peer is None:
            return False
        return node_id == self._own_id or now_s - peer.heard_s < self._limits.suspect_s

    def node_ids(self) -> tuple[NodeId, ...]:
        """Every node ever heard of, in a stable order."""
        return tuple(sorted(self._peers))

    def views(self, *, now_s: float) -> tuple[PeerView, ...]:
        """Every node, this one included."""
        return tuple(
            PeerView(
                state=self._peers[node_id].state,
                alive=self.is_alive(node_id, now_s=now_s),
                staleness_s=self._staleness_s(node_id, now_s=now_s),
                round_trip_s=self._peers[node_id].round_trip_s,
                own_unseen_work=self._own_unseen_work(node_id),
            )
            for node_id in self.node_ids()
        )

    def rest_url(self, node_id: NodeId) -> str:
        """Where the node's REST surface is; empty when unknown."""
        peer = self._peers.get(node_id)
        return "" if peer is None else peer.state.rest_url

    def models(self, *, now_s: float) -> tuple[str, ...]:
        """Names of the models that a live node serves."""
        views = self.views(now_s=now_s)
        return tuple(sorted({v.state.model for v in views if v.alive and v.state.model}))

    def backlog_and_capacity(self, *, now_s: float) -> tuple[float, float]:
        """Work units in front of the live candidates, and what they do per second together."""
        live = [n for n in self.node_ids() if self._may_take(n, now_s=now_s)]
        backlog = sum(self._backlog(n, now_s=now_s) + self._own_unseen_work(n) for n in live)
        return backlog, sum(self._peers[n].state.capacity for n in live)

    def observation(
        self, task: Task, *, avoided: frozenset[NodeId], now_s: float
    ) -> Observation | None:
        """What a policy sees of `task`; None when no node can take it at present.

        Candidates serve the task's model with the fingerprint that this node serves it with, or,
        where this node serves another model, with the fingerprint of the first that does. Nodes in
        `avoided` failed the task before: they are candidates only if there is no other.
        """
        serving = [n for n in self.node_ids() if self._serves(n, task)]
        alive = [self._may_take(n, now_s=now_s) for n in serving]
        fresh = [ok and n not in avoided for n, ok in zip(serving, alive, strict=True)]
        choosable = fresh if any(fresh) else alive
        if not any(choosable):
            return None
        return Observation(
            node_ids=tuple(serving),
            local=serving.index(self._own_id) if self._own_id in serving else None,
            work=task.work,
            input_bits=task.input_bits,
            backlog_B=np.array([self._backlog(n, now_s=now_s) for n in serving]),
            own_B=np.array([self._own_unseen_work(n) for n in serving]),
            capacity_B=np.array([self._peers[n].state.capacity for n in serving]),
            link_s_B=np.array([self._link_s(n, task) for n in serving]),
            staleness_s_B=np.array([self._staleness_s(n, now_s=now_s) for n in serving]),
            alive_B=np.array(choosable),
            dispatchers=self._dispatchers(now_s=now_s),
        )

    # Small parts.

    def _may_take(self, node_id: NodeId, *, now_s: float) -> bool:
        state = self._peers[node_id].state
        return state.accepting and state.capacity > 0 and self.is_alive(node_id, now_s=now_s)

    def _serves(self, node_id: NodeId, task: Task) -> bool:
        state = self._peers[node_id].state
        if state.model != task.drawing.model:
            return False
        serving = [p.state for _, p in sorted(self._peers.items()) if p.state.model == state.model]
        own = [s for s in serving if s.node_id == self._own_id]
        return state.model_fingerprint == (own or serving)[0].model_fingerprint

    def _backlog(self, node_id: NodeId, *, now_s: float) -> float:
        peer = self._peers[node_id]
        age_s = 0.0 if node_id == self._own_id else max(0.0, now_s - peer.heard_s)
        return max(0.0, peer.state.backlog - age_s * peer.state.capacity)

    def _own_unseen_work(self, node_id: NodeId) -> float:
        peer = self._peers[node_id]
        incarnation, last = peer.state.dispatches_seen.get(self._own_id, (0, 0))
        seen = last if incarnation == self._incarnation else 0
        return sum(work for number, work in peer.dispatches.items() if number > seen)

    def _dispatchers(self, *, now_s: float) -> int:
        """This node and all others that were seen to offload lately."""
        others = self._seen_dispatching_s.items()
        lately = now_s - self._limits.dispatching_s
        return 1 + sum(origin != self._own_id and at_s > lately for origin, at_s in others)

    def _staleness_s(self, node_id: NodeId, *, now_s: float) -> float:
        if node_id == self._own_id:
            return 0.0
        peer = self._peers[node_id]
        idle = peer.state.backlog == 0.0 and self.is_alive(node_id, now_s=now_s)
        # An idle peer would have pushed a change: its old report is not stale.
        return peer.round_trip_s / 2 if idle else max(0.0, now_s - peer.heard_s)

    def _link_s(self, node_id: NodeId, task: Task) -> float:
        if node_id == self._own_id:
            return 0.0
        return self._peers[node_id].round_trip_s + task.input_bits / self._limits.link_bits_s
