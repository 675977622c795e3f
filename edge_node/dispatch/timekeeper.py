"""What happens because time passes: peers fall silent, leases and deadlines end, tasks move.

Owns the node's one clock loop and who was alive when it last looked.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.dispatch.inbox import Inbox
from edge_node.dispatch.mover import Mover
from edge_node.dispatch.own_node import OwnNode
from edge_node.dispatch.placer import Placer
from edge_node.domain import NodeId
from edge_node.lasting import Loops
from edge_node.ports import Ledger
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.moving import is_turn, moving_of, task_to_move
from edge_node.telemetry.metrics import NodeMetrics

log = logging.getLogger(__name__)

# How often within a lease its executor says that it still holds the attempt.
LEASE_RENEWALS = 4
# Without a look at leases and deadlines for so long, or so many ticks, time stands still.
STILL_S = 5.0
STILL_TICKS = 50


@dataclass(frozen=True, kw_only=True)
class TimekeeperSettings:
    """How often the node looks.

    Attributes:
        tick_s: between two looks at leases, deadlines and slots.
        heartbeat_s: between two looks at gauges.
        lease_s: how long an origin waits for word of an attempt; its executor renews in time.
        move_waiting: whether tasks of this node that wait are moved by it.
    """

    tick_s: float
    heartbeat_s: float
    lease_s: float
    move_waiting: bool = False

    @classmethod
    def of(cls, config: NodeConfig) -> TimekeeperSettings:
        """From the node's settings."""
        return cls(
            tick_s=config.tick_s,
            heartbeat_s=config.heartbeat_s,
            lease_s=config.lease_s,
            # Where running drawings move, the devices that would idle take what waits, too.
            move_waiting=moving_of(config) == "waiting",
        )


class Timekeeper:
    """The node's sense of time.

    Args:
        settings: how often it looks; others count from the next look on.
        node: this node.
        inbox: hears that time passed.
        lifecycle: knows which tasks wait.
        view: knows who is alive.
        placer: has slots that end.
        mover: takes what should go on here.
        ledger: is looked at for its gauge.
        metrics: the gauges.
        clock: the time.
        loops: hears of a failure of what a look can do without.
    """

    def __init__(
        self,
        settings: TimekeeperSettings,
        *,
        node: OwnNode,
        inbox: Inbox,
        lifecycle: Lifecycle,
        view: ClusterView,
        placer: Placer,
        mover: Mover,
        ledger: Ledger,
        metrics: NodeMetrics,
        clock: Clock,
        loops: Loops,
    ) -> None:
        self.settings = settings
        self._loops = loops
        self._node = node
        self._inbox = inbox
        self._lifecycle = lifecycle
        self._view = view
        self._placer = placer
        self._mover = mover
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._alive: frozenset[NodeId] = frozenset()
        self._observe_due_s = 0.0
        self._renewal_due_s = 0.0
        self._looked_s = clock.now_s()

    def still_s(self) -> float:
        """For how long time has stood still here; 0 while it goes on."""
        silence_s = self._clock.now_s() - self._looked_s
        return silence_s if silence_s > max(STILL_S, STILL_TICKS * self.settings.tick_s) else 0.0

    async def run(self) -> None:
        """Looks until it is cancelled, or a look fails."""
        while True:
            self.look()
            await asyncio.sleep(self.settings.tick_s)

    def look(self) -> None:
        """Does all that is due now; what it can do without may fail.

        Raises:
            ExceptionGroup: what it cannot do without failed; the rest was done all the same.
        """
        now_s = self._clock.now_s()
        failed: list[Exception] = []
        for duty in (self._miss_silent_peers, self._let_time_pass, self._renew_leases):
            try:
                duty(now_s)
            except Exception as error:
                failed.append(error)
        self._loops.attempt("moving tasks that wait", lambda: self._move_waiting(now_s))
        self._loops.attempt("taking drawings", lambda: self._mover.look(now_s))
        self._loops.attempt("slots", lambda: self._placer.let_slot_pass(now_s))
        if now_s >= self._observe_due_s:
            self._observe_due_s = now_s + self.settings.heartbeat_s
            self._loops.attempt("gauges", self._observe)
        if failed:
            raise ExceptionGroup("a look at the time failed", failed)

    def peer_forgotten(self, node_id: NodeId) -> None:
        """A peer left, or is given up: its attempts are placed again."""
        self._alive -= {node_id}
        self._view.forget(node_id)
        self._inbox.apply(life.PeerFailed(node_id=node_id))

    def _let_time_pass(self, now_s: float) -> None:
        self._inbox.apply(life.ClockAdvanced())
        self._looked_s = now_s

    def _renew_leases(self, now_s: float) -> None:
        if now_s >= self._renewal_due_s:
            self._inbox.apply(hosted.HeartbeatDue())
            self._renewal_due_s = now_s + self.settings.lease_s / LEASE_RENEWALS

    def _miss_silent_peers(self, now_s: float) -> None:
        alive = frozenset(n for n in self._view.node_ids() if self._view.is_alive(n, now_s=now_s))
        for lost in sorted(self._alive - alive):
            log.warning("node %s fell silent; its attempts are placed again", lost)
            self._inbox.apply(life.PeerFailed(node_id=lost))
        self._alive = alive

    def _move_waiting(self, now_s: float) -> None:
        """Moves a task that waits to a node that would draw it sooner, in this node's turn."""
        nodes = sorted(self._alive | {self._node.id})
        if not self.settings.move_waiting or len(nodes) == 1:
            return
        shared_s = self._view.shared_s(now_s=now_s)
        if is_turn(self._node.id, nodes, shared_s=shared_s, turn_s=self.settings.tick_s):
            task_id = task_to_move(self._lifecycle.waiting(), view=self._view, now_s=now_s)
            if task_id is not None:
                self._inbox.apply(life.MoveRequested(task_id=task_id))

    def _observe(self) -> None:
        """Gauges, once per heartbeat."""
        views = self._view.views(now_s=self._clock.now_s())
        others = [v for v in views if v.state.node_id != self._node.id]
        own = self._node.state()
        self._metrics.checkpoints_observed(
            self._lifecycle.checkpoints, move_cost_s=self._lifecycle.move_cost.seconds
        )
        guard = self._placer.guard_status()
        if guard is not None:
            worse = None if guard.verdict is None else guard.verdict.worse
            self._metrics.guarded(
                learned_share=guard.learned_share, worse=worse, rule=guard.rule, rules=guard.rules
            )
        self._metrics.state_observed(
            backlog=own.backlog,
            capacity=own.capacity,
            peers_alive=sum(view.alive for view in others),
            staleness_s=max((v.staleness_s for v in others if v.alive), default=0.0),
            clock_skew_s=self._clock_skew_s(),
            tasks_in_flight=self._lifecycle.in_flight,
            worker_ready=self._node.worker_ready if self._node.draws else None,
            gpu_lost=self._node.gpu_lost,
            store_available=self._ledger.available,
        )

    def _clock_skew_s(self) -> float:
        """The largest difference to a live peer's clock of the day."""
        skews_s = self._view.clocks(now_s=self._clock.now_s(), wall_s=self._clock.wall_s())
        return max(map(abs, skews_s.values()), default=0.0)
