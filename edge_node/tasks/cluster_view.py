"""What this node knows of every node's queue, itself included.

Owns the last state of each node, the extrapolation of its backlog to now, this node's own
dispatches which a report has not seen yet, and what was measured of links and traffic. Pure: told
what arrived and when, asked for observations. Arrays end in B candidates.

Staleness is the age of the oldest change at a peer that this node has not seen. Nodes push every
change at once, and at least a heartbeat, whose unchanged sequence says that nothing had changed
when it was sent. So while states keep coming, a change that is not known here is still on its way:
its age is at most what changes took to arrive lately (half the round trip, and what the messages
were late beyond the quickest). Once a heartbeat is overdue nothing is known: the oldest change may
be as old as the silence, and that is added. A backlog that only shrinks as extrapolated is no
change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge_node.config import NodeConfig
from edge_node.domain import NodeId, NodeState, ServedModel, Task
from edge_node.tasks.expectation import Queue
from edge_node.tasks.links import LinkEstimate, ReportDelay
from edge_node.tasks.peer_account import PeerAccount
from edge_node.tasks.serving import Serving, ServingNodes, names_of, offers_of
from edge_node.tasks.traffic import AcceptedByModel
from scheduler.observation import FloatArray, Observation, Traffic

# Silence, in heartbeats, after which a stream of states is no longer taken to be live.
HEARTBEATS_OVERDUE = 1.5
# Seconds that a node may be further behind than the least busy one, to admission.
BEHIND_S_MAX = 60.0
# What the cluster is told to accept is at most that many times what it can do, to policies.
LOAD_MAX = 10.0
# Work units per second; of less, the time that work takes would be no number.
CAPACITY_MIN = 1e-9
# Weight of the latest dispatch in the smoothed time until a report shows it.
UNSEEN_WEIGHT = 0.1
# Mean service times for which a node that has just begun believes in a load of 1, as the
# simulator's stations do.
LOAD_PRIOR_SERVICES = 10.0

Recall = Callable[[tuple[str, ...]], FloatArray | None]


@dataclass(frozen=True, kw_only=True)
class ClusterViewLimits:
    """When a peer is given up, and what is taken for what was not measured yet.

    Attributes:
        suspect_s: silence after which a peer is no candidate and its attempts are lost.
        heartbeat_s: at least how often a live peer sends its state.
        link_bits_s: throughput of a link; 1 Gbit/s wired Ethernet of the AGX Orin carrier board.
        dispatching_s: how long a node counts as a dispatcher after it was seen to offload a task.
        traffic_s: time constant over which accepted work is averaged.
        report_period_s: until dispatches have been seen in reports.
    """

    suspect_s: float = 3.0
    heartbeat_s: float = 0.5
    link_bits_s: float = 0.94e9
    dispatching_s: float = 2.0
    traffic_s: float = 60.0
    report_period_s: float = 0.05

    @classmethod
    def of(cls, config: NodeConfig) -> ClusterViewLimits:
        """From the node's settings."""
        return cls(suspect_s=config.suspect_s, heartbeat_s=config.heartbeat_s)


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """One node as this node sees it; staleness and link in seconds, unseen work in units."""

    state: NodeState
    alive: bool
    staleness_s: float
    round_trip_s: float
    own_unseen_work: float


class ClusterView:
    """The cluster as node `own_id` of incarnation `incarnation` sees it since `began_s`."""

    def __init__(
        self,
        *,
        own_id: NodeId,
        incarnation: int,
        limits: ClusterViewLimits | None = None,
        began_s: float = 0.0,
    ) -> None:
        self._own_id = own_id
        self._incarnation = incarnation
        self._limits = limits or ClusterViewLimits()
        self._began_s = began_s
        self._peers: dict[NodeId, PeerAccount] = {}
        self._dispatch_last: dict[NodeId, int] = {}
        self._seen_dispatching_s: dict[NodeId, float] = {}
        self._accepted = AcceptedByModel(constant_s=self._limits.traffic_s, began_s=began_s)
        self._unseen_s = self._limits.report_period_s / 2
        self._serving = ServingNodes(own_id, lambda: {n: p.state for n, p in self._peers.items()})

    # What arrives.

    def state_received(self, state: NodeState, *, now_s: float) -> bool:
        """Takes in a state, one's own or a peer's; returns whether it was news.

        A state of an earlier incarnation or with a sequence already passed is a message from the
        past. The same sequence again is a heartbeat: nothing changed until now.
        """
        state = _sane(state)
        peer = self._peers.get(state.node_id)
        if peer is None:
            link = LinkEstimate(assumed_bits_s=self._limits.link_bits_s)
            self._peers[state.node_id] = peer = PeerAccount(state=state, heard_s=now_s, link=link)
            self._serving.changed()
            self._message_arrived(peer, news=False, now_s=now_s)
            return True
        former = peer.state
        known = (former.incarnation, former.sequence)
        if (state.incarnation, state.sequence) < known:
            return False
        news = (state.incarnation, state.sequence) > known
        if state.incarnation > former.incarnation:
            peer.unseen.clear()  # whatever it was drawing died with its former life
            peer.placed.clear()
            peer.delay = ReportDelay()  # its clock may have begun anew
        for origin, dispatch in state.dispatches_seen.items():
            another = origin != state.node_id and self.knows(origin)
            if another and dispatch > former.dispatches_seen.get(origin, (0, 0)):
                self._seen_dispatching_s[origin] = now_s
        named = (state.model, state.model_fingerprint)
        if state.serves != former.serves or named != (former.model, former.model_fingerprint):
            peer.offers = frozenset(offers_of(state))
            self._serving.changed()
        peer.state = state
        peer.heard_s = now_s
        peer.doubted = False
        same_life = state.incarnation == former.incarnation
        self._message_arrived(peer, news=news and same_life, now_s=now_s)
        return news

    def _message_arrived(self, peer: PeerAccount, *, news: bool, now_s: float) -> None:
        state = peer.state
        remote = state.node_id != self._own_id
        peer.shown.time_passed(now_s)
        self._believe(peer)
        if remote and state.sent_s > 0.0:
            changed_s = state.changed_s if news else None
            peer.delay.message_arrived(sent_s=state.sent_s, changed_s=changed_s, now_s=now_s)
        incarnation, last = state.dispatches_seen.get(self._own_id, (0, 0))
        if incarnation == self._incarnation:
            for number in [number for number in peer.unseen if number <= last]:
                _, at_s = peer.unseen.pop(number)
                if remote:
                    self._unseen_s += UNSEEN_WEIGHT * (now_s - at_s - self._unseen_s)
        peer.refresh()

    def forget(self, node_id: NodeId) -> None:
        """The node belongs to the cluster no more; what it says from now on is news."""
        if self._peers.pop(node_id, None) is not None:
            self._seen_dispatching_s.pop(node_id, None)
            self._serving.changed()

    def unreachable(self, node_id: NodeId) -> None:
        """Another node could not be reached: it takes nothing before it is heard again.

        So that a task which no other can draw waits for it, and is not given up after as many
        attempts as are made before silence says the same.
        """
        peer = self._peers.get(node_id)
        if peer is not None and node_id != self._own_id:
            peer.doubted = True

    def round_trip_measured(self, node_id: NodeId, round_trip_s: float) -> None:
        """Smooths a measured round trip into the link's estimate."""
        peer = self._peers.get(node_id)
        if peer is not None:
            peer.link.round_trip_measured(round_trip_s)
            peer.refresh()

    def offload_answered(self, node_id: NodeId, *, input_bits: float, seconds: float) -> None:
        """The first report on an offload of `input_bits` came `seconds` after its start."""
        peer = self._peers.get(node_id)
        if peer is not None:
            peer.link.offload_answered(input_bits, seconds)
            peer.refresh()

    def throughput_bits_s(self, node_id: NodeId) -> float:
        """Of the link to a node that is known."""
        return self._peers[node_id].link.throughput_bits_s

    def task_accepted(self, work: float, *, model: str, now_s: float) -> None:
        """This node said yes to a task of `work` work units of `model`."""
        self._accepted.accepted(work, model=model, now_s=now_s)

    def dispatched(self, executor: NodeId, work: float, *, now_s: float) -> int:
        """Books work that is about to be sent; returns the number of the dispatch."""
        number = self._dispatch_last.get(executor, 0) + 1
        self._dispatch_last[executor] = number
        peer = self._peers[executor]
        ahead = max(0.0, peer.state.backlog - max(0.0, now_s - peer.heard_s) * peer.capacity)
        peer.placed[number] = (ahead + peer.unseen_work + work, now_s)
        peer.unseen[number] = (work, now_s)
        peer.refresh()
        return number

    def dispatch_ended(self, executor: NodeId, dispatch: int) -> None:
        """The attempt is over, one way or another."""
        peer = self._peers.get(executor)
        if peer is not None:
            peer.placed.pop(dispatch, None)
            if peer.unseen.pop(dispatch, None) is not None:
                peer.refresh()

    def work_shown(self, executor: NodeId, dispatch: int, *, drawn: bool, now_s: float) -> None:
        """An attempt that is about to end was drawn, or held in vain: so much is a claim worth.

        To be told before `dispatch_ended`.
        """
        peer = self._peers.get(executor)
        placed = None if peer is None else peer.placed.get(dispatch)
        if peer is None or placed is None or executor == self._own_id:
            return
        work_ahead, at_s = placed
        if drawn:
            peer.shown.drawn(work_ahead=work_ahead, seconds=now_s - at_s, now_s=now_s)
        else:
            peer.shown.held_in_vain(seconds=now_s - at_s, now_s=now_s)
        self._believe(peer)
        peer.refresh()

    def _believe(self, peer: PeerAccount) -> None:
        """Own figures are measured; a peer's are bounded by what was seen of it and of others.

        Of those that draw the same: a work unit of one model says nothing of another's.
        """
        claimed = peer.state.capacity
        if peer.state.node_id == self._own_id:
            peer.capacity = claimed
            return
        known = 0.0
        for node_id, other in self._peers.items():
            if peer.offers.isdisjoint(other.offers):
                continue
            shown = None if other is peer else other.shown.capacity
            if node_id == self._own_id:
                known = max(known, other.state.capacity)
            elif shown is not None:
                known = max(known, min(shown, other.state.capacity))
        peer.capacity = peer.shown.believed(claimed, known=known)

    # What can be asked.

    def is_alive(self, node_id: NodeId, *, now_s: float) -> bool:
        """Whether the node was heard within `suspect_s`; this node always is."""
        peer = self._peers.get(node_id)
        if peer is None:
            return False
        return node_id == self._own_id or now_s - peer.heard_s < self._limits.suspect_s

    def silence_s(self, node_id: NodeId, *, now_s: float) -> float | None:
        """For how long a node that was heard once has been silent; None while it is alive."""
        peer = self._peers.get(node_id)
        if peer is None or self.is_alive(node_id, now_s=now_s):
            return None
        return now_s - peer.heard_s

    def shared_s(self, *, now_s: float) -> float:
        """A reading that nodes agree on which see the same cluster, to about half a round trip.

        It is that of the clock of the least name alive, which never jumps while that name is the
        least; no clock of the day has a part in it. For turns that nodes take.
        """
        for node_id in sorted(self._peers):
            if node_id == self._own_id:
                break
            ahead_s = self._peers[node_id].ahead_s
            if ahead_s is not None and self.is_alive(node_id, now_s=now_s):
                return now_s + ahead_s
        return now_s

    def clocks(self, *, now_s: float, wall_s: float) -> dict[NodeId, float]:
        """By how many seconds the clock of the day of each live peer that tells it is ahead."""
        skews_s: dict[NodeId, float] = {}
        for node_id, peer in self._peers.items():
            state, ahead_s = peer.state, peer.ahead_s
            told = state.sent_unix_s > 0.0 and ahead_s is not None and node_id != self._own_id
            if told and self.is_alive(node_id, now_s=now_s):
                theirs_s = state.sent_unix_s - state.sent_s + now_s + (ahead_s or 0.0)
                skews_s[node_id] = theirs_s - wall_s
        return skews_s

    def knows(self, node_id: NodeId) -> bool:
        """Whether the node belongs to the cluster, this one included."""
        return node_id == self._own_id or node_id in self._peers

    def node_ids(self) -> tuple[NodeId, ...]:
        """Every node ever heard of, in a stable order."""
        return tuple(sorted(self._peers))

    def views(self, *, now_s: float) -> tuple[NodeView, ...]:
        """Every node, this one included."""
        return tuple(
            NodeView(
                state=self._peers[node_id].state,
                alive=self.is_alive(node_id, now_s=now_s),
                staleness_s=self._staleness_s(node_id, now_s=now_s),
                round_trip_s=self._peers[node_id].link.round_trip_s,
                own_unseen_work=self._peers[node_id].unseen_work,
            )
            for node_id in self.node_ids()
        )

    def queue_of(self, node_id: NodeId, *, now_s: float) -> Queue | None:
        """A node's queue as it is believed to be now; None where nothing is known of its pace."""
        peer = self._peers.get(node_id)
        if peer is None or peer.capacity <= 0.0:
            return None
        since_s = 0.0 if node_id == self._own_id else now_s - peer.heard_s
        return Queue(
            backlog=max(peer.state.backlog - since_s * peer.capacity, 0.0) + peer.unseen_work,
            capacity=peer.capacity,
            queued=peer.state.queued + len(peer.unseen),
            running=peer.state.running,
        )

    def models(self, *, now_s: float) -> tuple[str, ...]:
        """Names of the models that a live node serves."""
        return names_of(p.state for n, p in self._peers.items() if self.is_alive(n, now_s=now_s))

    def served(self, model: str, *, now_s: float) -> ServedModel | None:
        """What live nodes say of a model that they serve; None where nobody says anything of use.

        The first that does: their calibrations differ by little, and the executor's own bounds what
        a task counts as there (`Executor`). A node of version 0.1.0 says nothing.
        """
        serving = self._serving_of(model, now_s=now_s)
        if serving is None:
            return None
        alive = zip(serving.node_ids, serving.told, strict=True)
        return next((told for n, told in alive if told and self.is_alive(n, now_s=now_s)), None)

    def models_beside(self, model: str, *, now_s: float) -> tuple[str, ...]:
        """All that the nodes draw which may take a task of the model: one queue is for all."""
        return names_of(peer.state for peer in self._candidates(model, now_s=now_s)) or (model,)

    def servers(self, model: str, *, now_s: float) -> tuple[NodeId, ...]:
        """Nodes that said last that they serve a model, alive or not."""
        serving = self._serving_of(model, now_s=now_s)
        return () if serving is None else serving.node_ids

    def accepted_work_s(self, *, now_s: float) -> dict[str, float]:
        """Work units that this node accepted per second, averaged over `traffic_s`, by model."""
        return self._accepted.work_s(now_s=now_s)

    def backlog_and_capacity(self, model: str, *, now_s: float) -> tuple[float, float]:
        """Work units in front of the model's live candidates, and what they do per second together.

        Of a node that is further behind than the least busy one, work counts for BEHIND_S_MAX more:
        a new task would not wait there, and nobody shuts the cluster by what he says of himself.
        """
        queues = []
        for peer in self._candidates(model, now_s=now_s):
            own = peer.state.node_id == self._own_id
            age_s = 0.0 if own else max(0.0, now_s - peer.heard_s)
            ahead = max(0.0, peer.state.backlog - age_s * peer.capacity) + peer.unseen_work
            queues.append((ahead, peer.capacity))
        wait_s_max = min((ahead / rate for ahead, rate in queues), default=0.0) + BEHIND_S_MAX
        backlog = sum(min(ahead, rate * wait_s_max) for ahead, rate in queues)
        return backlog, sum(rate for _, rate in queues)

    def clients(self, model: str, *, now_s: float) -> int:
        """Clients who take turns at one live candidate of a model, as many as at any."""
        candidates = self._candidates(model, now_s=now_s)
        return max((peer.state.clients for peer in candidates), default=0)

    def service_s(self, *, now_s: float) -> float | None:
        """Seconds that a mean task takes on a mean live candidate; None where nothing was measured.

        Of several models each counts by the tasks that were accepted of it.
        """
        tasks, seconds = 0.0, 0.0
        for model, count in self._accepted.tasks(now_s=now_s).items():
            capacities = [peer.capacity for peer in self._candidates(model, now_s=now_s)]
            mean_work = self._accepted.mean_work(model)
            if capacities and mean_work is not None:
                tasks += count
                seconds += count * mean_work * len(capacities) / sum(capacities)
        return seconds / tasks if tasks > 0.0 else None

    def observation(
        self,
        task: Task,
        *,
        avoided: frozenset[NodeId],
        now_s: float,
        recall: Recall | None = None,
    ) -> Observation | None:
        """What a policy sees of `task`; None when no node can take it at present.

        Candidates serve the task's model with the fingerprint that this node serves it with, or,
        where this node does not, with the fingerprint of the first alive that does. Nodes in
        `avoided` failed the task before: they are candidates only if there is no other.

        `queued_B` is as the last report has it, not extrapolated, and without own dispatches that
        the report has not seen: so the simulator's stations see it too.

        Args:
            task: to be placed.
            avoided: nodes that failed it.
            now_s: the clock.
            recall: gives x_I for the candidates; without it there is none.
        """
        serving = self._serving_of(task.drawing.model, now_s=now_s)
        if serving is None:
            return None
        peers = [self._peers[node_id] for node_id in serving.node_ids]
        alive = [self._may_take(peer, now_s=now_s) for peer in peers]
        if task.drawing.masked:
            # Others would draw over what is to be kept.
            masks = [told is not None and told.masks for told in serving.told]
            alive = [ok and draws for ok, draws in zip(alive, masks, strict=True)]
        if not any(alive):
            return None
        choosable = alive
        if avoided:
            fresh = [ok and n not in avoided for ok, n in zip(alive, serving.node_ids, strict=True)]
            choosable = fresh if any(fresh) else alive
        rows = self._rows(peers, serving.local, task.input_bits, now_s=now_s)
        backlog_B, own_B, capacity_B, queued_B, link_s_B, staleness_s_B = np.array(rows).T
        able = [peer for peer, ok in zip(peers, alive, strict=True) if ok]
        return Observation(
            node_ids=serving.node_ids,
            local=serving.local,
            ring_place=0.0 if serving.local is not None else self._ring_place(len(peers)),
            work=task.work,
            input_bits=task.input_bits,
            backlog_B=backlog_B,
            own_B=own_B,
            capacity_B=capacity_B,
            link_s_B=link_s_B,
            staleness_s_B=staleness_s_B,
            alive_B=np.array(choosable),
            dispatchers=self._dispatchers(now_s=now_s),
            latent_B=None if recall is None else recall(serving.node_ids),
            queued_B=queued_B,
            traffic=self._traffic(task, able, now_s=now_s),
        )

    # Small parts.

    def _may_take(self, peer: PeerAccount, *, now_s: float) -> bool:
        state = peer.state
        heard = now_s - peer.heard_s < self._limits.suspect_s or state.node_id == self._own_id
        return state.accepting and peer.capacity > 0.0 and heard and not peer.doubted

    def _ring_place(self, candidates: int) -> float:
        """This node's, which is none of them: as all nodes stand in the order of their names."""
        before = sum(node_id < self._own_id for node_id in self._peers)
        return candidates * before / (len(self._peers) + (self._own_id not in self._peers))

    def _serving_of(self, model: str, *, now_s: float) -> Serving | None:
        return self._serving.of(model, is_alive=lambda n: self.is_alive(n, now_s=now_s))

    def is_drawn_elsewhere(self, model: str, *, now_s: float) -> bool:
        """Whether another node may take a task of the model now."""
        candidates = self._candidates(model, now_s=now_s)
        return any(peer.state.node_id != self._own_id for peer in candidates)

    def _candidates(self, model: str, *, now_s: float) -> list[PeerAccount]:
        """Nodes that may take a task of the model now."""
        serving = self._serving_of(model, now_s=now_s)
        peers = () if serving is None else map(self._peers.__getitem__, serving.node_ids)
        return [peer for peer in peers if self._may_take(peer, now_s=now_s)]

    def _rows(
        self, peers: Sequence[PeerAccount], local: int | None, input_bits: int, *, now_s: float
    ) -> list[tuple[float, float, float, float, float, float]]:
        """What an observation says of each candidate; numbers are quicker than small arrays."""
        overdue_s = HEARTBEATS_OVERDUE * self._limits.heartbeat_s
        rows = []
        for index, peer in enumerate(peers):
            backlog, own, capacity, queued, round_trip_s, s_per_bit, change_s = peer.row
            if index == local:
                rows.append((backlog, own, capacity, queued, 0.0, 0.0))
                continue
            age_s = now_s - peer.heard_s
            if age_s > 0.0:
                backlog = max(backlog - age_s * capacity, 0.0)
            staleness_s = change_s + age_s if age_s > overdue_s else change_s
            link_s = round_trip_s + input_bits * s_per_bit
            rows.append((backlog, own, capacity, queued, link_s, staleness_s))
        return rows

    def _traffic(self, task: Task, able: Sequence[PeerAccount], *, now_s: float) -> Traffic:
        """Arrivals at the candidates that may take it, every live node's accepted work counted.

        The report period is twice the mean time for which own dispatches were not seen in a
        report: what it is where reports come at a fixed period, and what counts where they are
        pushed on change.
        """
        model = task.drawing.model
        capacity = max(sum(peer.capacity for peer in able), CAPACITY_MIN)
        accepted = self._offered_work_s(model, able, now_s=now_s)
        mean_work = self._accepted.mean_work(model) or task.work or 1.0
        report_period_s = 2.0 * max(self._unseen_s, 0.0)
        prior_s = report_period_s + LOAD_PRIOR_SERVICES * mean_work * len(able) / capacity
        age_s = max(0.0, now_s - self._began_s)
        load = (min(accepted / capacity, LOAD_MAX) * age_s + prior_s) / (age_s + prior_s)
        return Traffic(mean_work=mean_work, load=load, report_period_s=report_period_s)

    def _offered_work_s(self, model: str, able: Sequence[PeerAccount], *, now_s: float) -> float:
        """Work units per second that live nodes accepted for the model.

        And for others, as far as these candidates draw them, too: the candidates of each have
        shares of it as their capacities.
        """
        accepted = self._accepted.work_s(now_s=now_s)
        heard_after_s = now_s - self._limits.suspect_s
        for node_id, peer in self._peers.items():
            if node_id != self._own_id and peer.heard_s > heard_after_s:
                for other, work_s in peer.accepted_work_s():
                    accepted[other] = accepted.get(other, 0.0) + work_s
        offered = accepted.pop(model, 0.0)
        taking = {peer.state.node_id for peer in able}
        for other, work_s in accepted.items():
            if work_s > 0.0:
                drawing = self._candidates(other, now_s=now_s)
                shared = sum(peer.capacity for peer in drawing if peer.state.node_id in taking)
                offered += work_s * shared / max(sum(p.capacity for p in drawing), CAPACITY_MIN)
        return offered

    def _dispatchers(self, *, now_s: float) -> int:
        """This node and all others that were seen to offload lately."""
        others = self._seen_dispatching_s.items()
        lately = now_s - self._limits.dispatching_s
        return 1 + sum(origin != self._own_id and at_s > lately for origin, at_s in others)

    def _staleness_s(self, node_id: NodeId, *, now_s: float) -> float:
        """As `observation` has it."""
        if node_id == self._own_id:
            return 0.0
        peer = self._peers[node_id]
        age_s = max(0.0, now_s - peer.heard_s)
        overdue = age_s > HEARTBEATS_OVERDUE * self._limits.heartbeat_s
        return peer.change_s + (age_s if overdue else 0.0)


def _sane(state: NodeState) -> NodeState:
    """The state, or that of a node which draws for nobody, where its numbers mean nothing.

    One that is not finite would spread through sums and comparisons into decisions about all.
    """
    work = (state.backlog, state.capacity, state.accepted_work_s)
    accepted = (work_s for _, work_s in state.accepted_by_model)
    numbers = (*work, *accepted, state.changed_s, state.sent_s, state.sent_unix_s)
    if all(math.isfinite(number) for number in numbers):
        return state
    return replace(
        state,
        accepting=False,
        backlog=0.0,
        capacity=0.0,
        accepted_work_s=0.0,
        accepted_by_model=(),
        changed_s=0.0,
        sent_s=0.0,
        sent_unix_s=0.0,
    )
