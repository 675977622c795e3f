"""Drawings that this device takes from others, and those of its own tasks that others take.

Owns what was asked for and has not come. Which drawing is worth it is decided in
`edge_node/tasks/taking.py`; whether it may move, by the lifecycle of its owner.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.dispatch.background import Background
from edge_node.dispatch.inbox import Inbox
from edge_node.dispatch.own_node import OwnNode
from edge_node.domain import Fence, NodeId, TaskId, owner
from edge_node.errors import DEdgeAIError
from edge_node.moves import WantedTask
from edge_node.ports import Peers
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.hosting import Hosting
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.moving import Moving, moving_of
from edge_node.tasks.taking import wanted_here
from edge_node.telemetry.metrics import NodeMetrics
from scheduler.running_moves import MoveOrder

log = logging.getLogger(__name__)

# For which no other drawing is asked for where one was refused: what is known of it is too old.
REFUSED_S = 0.2
# For which nobody holds a drawing that moves, at most; of one that ended nobody tells this node.
ON_ITS_WAY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class MoverSettings:
    """Whether this device takes drawings from others, and which before what it draws itself.

    Attributes:
        moving: what moves at all.
        order: as `scheduler.running_moves` has it.
        coming_s: for which a drawing that was promised is waited for.
    """

    moving: Moving = "none"
    order: MoveOrder = "oldest"
    coming_s: float = 6.0

    @classmethod
    def of(cls, config: NodeConfig) -> MoverSettings:
        """From the node's settings."""
        return cls(moving=moving_of(config), order=config.move_order, coming_s=config.lease_s + 1.0)


class Mover:
    """This node's part in drawings that move while they are drawn.

    Args:
        settings: whether, and which.
        node: this node.
        inbox: takes requests for its own tasks.
        lifecycle: is read here, and changed through the inbox alone.
        hosting: what this device holds.
        view: what others hold.
        metrics: counts.
        clock: of the node.
    """

    def __init__(
        self,
        settings: MoverSettings,
        *,
        node: OwnNode,
        inbox: Inbox,
        lifecycle: Lifecycle,
        hosting: Hosting,
        view: ClusterView,
        metrics: NodeMetrics,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self._node = node
        self._inbox = inbox
        self._lifecycle = lifecycle
        self._hosting = hosting
        self._view = view
        self._metrics = metrics
        self._clock = clock
        self._peers: Peers | None = None
        self._asking: Background[TaskId] = Background()
        # What was asked for, and until when nothing else is.
        self._coming: WantedTask | None = None
        self._busy_until_s = 0.0
        # When somebody told last that he holds it.
        self._held_s = 0.0

    def start(self, peers: Peers) -> None:
        """From now on other nodes can be asked."""
        self._peers = peers

    async def stop(self) -> None:
        """Asks for nothing more."""
        await self._asking.stop()

    def look(self, now_s: float) -> None:
        """Asks for a drawing, if one should go on here and none is coming."""
        if self.settings.moving != "running" or not self._node.accepting:
            return
        if self._coming is not None and not self._still_comes(self._coming, now_s):
            self._coming, self._busy_until_s = None, now_s
        if now_s < self._busy_until_s:
            return
        self._coming = wanted = wanted_here(
            self._node.id,
            hosting=self._hosting,
            view=self._view,
            portable=self._node.described.portable,
            cost_s=self._lifecycle.move_cost.seconds,
            order=self.settings.order,
            now_s=now_s,
        )
        if wanted is None:
            return
        self._busy_until_s = now_s + self.settings.coming_s
        self._held_s = now_s
        if owner(TaskId(wanted.task_id)) == self._node.id:
            self._answered(wanted, self.give(wanted))
        else:
            self._asking.start(self._ask(wanted))

    def _still_comes(self, coming: WantedTask, now_s: float) -> bool:
        """Whether a promised drawing is on its way; it may have ended where it was."""
        if self._hosting.came_after(TaskId(coming.task_id), Fence(*coming.fence)):
            return False
        states = (view.state for view in self._view.views(now_s=now_s))
        if any(one.task_id == coming.task_id for state in states for one in state.held):
            self._held_s = now_s
        return now_s - self._held_s < ON_ITS_WAY_S

    def give(self, wanted: WantedTask) -> bool:
        """A device would go on with a task of this node; whether it may."""
        if not self._view.is_alive(NodeId(wanted.taker), now_s=self._clock.now_s()):
            return False
        task_id = TaskId(wanted.task_id)
        if self._lifecycle.goes_to(task_id) is not None:
            return False  # another one was sooner
        self._inbox.apply(life.TakeRequested(wanted=wanted))
        return self._lifecycle.goes_to(task_id) == wanted.taker

    async def _ask(self, wanted: WantedTask) -> None:
        granted = False
        peer = self._peers.client(owner(TaskId(wanted.task_id))) if self._peers else None
        try:
            granted = peer is not None and await peer.take_task(wanted)
        except DEdgeAIError as error:
            log.debug("%s was not taken from its owner: %s", wanted.task_id, error.message)
        finally:
            self._answered(wanted, granted)

    def _answered(self, wanted: WantedTask, granted: bool) -> None:
        self._metrics.take_asked(granted=granted)
        if not granted and self._coming is wanted:
            self._coming, self._busy_until_s = None, self._clock.now_s() + REFUSED_S
