"""Rows of this device's steps that idle devices compute, and those that it computes for others.

Owns who helps here, what exchanges with others take, and the one lease of this device. Who is worth
asking is `scheduler/shared_steps.py`'s to say, whether the lease is granted
`edge_node/tasks/row_lease.py`'s. A task knows nothing of it: it has one executor, as ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.dispatch.own_node import OwnNode
from edge_node.domain import Fence, NodeId, TaskId
from edge_node.errors import DEdgeAIError
from edge_node.ports import Peer, Peers, Worker
from edge_node.shared_rows import (
    ANOTHER_MODEL,
    ANSWER_S_MAX,
    BUSY,
    LEASED,
    NO_ANSWER,
    NOBODY_IDLE,
    SWITCHED_OFF,
    UNUSABLE,
    RowGiven,
    RowWanted,
)
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.hosting import Hosting
from edge_node.tasks.row_lease import RowLease
from edge_node.telemetry.metrics import NodeMetrics
from scheduler.shared_steps import StepTimes, best_helper

log = logging.getLogger(__name__)

# Before anything was measured: a round trip on a LAN with 128 KiB each way, and its serialising.
EXCHANGE_S = 0.005
# Share of the last exchange, and of the last row, in what is expected of the next.
LEARNED_SHARE = 0.2
# For which a node is not asked: that had work of its own or another to help; that did not answer
# in time or gave what is of no use; that will not for as long as it runs as it does.
BUSY_S, FAILED_S, NEVER_S = 0.2, 5.0, 60.0
ASIDE_S = {
    **{BUSY: BUSY_S, LEASED: BUSY_S},
    **{SWITCHED_OFF: NEVER_S, ANOTHER_MODEL: NEVER_S},
}
# Of what a step takes here, after which nobody waits for an answer any more, and the least.
TIMEOUT_PAIRS, TIMEOUT_S_MIN = 4.0, 0.5


@dataclass(frozen=True, kw_only=True)
class HelpingSettings:
    """What idle devices do for others; see `config.py`."""

    helping: Literal["none", "guidance"] = "none"

    @classmethod
    def of(cls, config: NodeConfig) -> HelpingSettings:
        """From the node's settings."""
        return cls(helping=config.helping)


@dataclass(kw_only=True)
class _Known:
    """What was measured of a node: of a row, per second that one takes here, and of an exchange."""

    row_share: float | None = None
    exchange_s: float = EXCHANGE_S
    aside_until_s: float = 0.0


class Helping:
    """This node's part in steps that two devices share.

    Args:
        settings: whether it has one.
        node: this node.
        hosting: tells whether this device has work of its own.
        view: what others have to do.
        worker: computes rows, and asks for them.
        metrics: counts.
        clock: of the node.
    """

    def __init__(
        self,
        settings: HelpingSettings,
        *,
        node: OwnNode,
        hosting: Hosting,
        view: ClusterView,
        worker: Worker,
        metrics: NodeMetrics,
        clock: Clock,
    ) -> None:
        self._on = settings.helping == "guidance"
        self._node = node
        self._hosting = hosting
        self._view = view
        self._worker = worker
        self._metrics = metrics
        self._clock = clock
        self._peers: Peers | None = None
        self._known: dict[NodeId, _Known] = {}
        # Who helps here, and with what.
        self._present: tuple[NodeId, TaskId, Fence] | None = None
        self._lease = RowLease()
        node.helped_by = self._helped_by
        if self._on:
            # Before the worker is there: it is listened to from when it is ready.
            worker.share_rows(self.ask)

    def start(self, peers: Peers) -> None:
        """From now on other nodes can be asked."""
        self._peers = peers

    # For the drawings of this device.

    async def ask(self, wanted: RowWanted) -> RowGiven:
        """A row of a step that is drawn here, from whoever has nothing else to do."""
        wanted = replace(wanted, leader=self._node.id)
        given = wanted.refused(NOBODY_IDLE)
        asked: set[NodeId] = set()
        while (helper := self._helper(wanted, asked)) is not None:
            asked.add(helper)
            peer = self._peers.client(helper) if self._peers else None
            if peer is None:
                break
            given = await self._asked(helper, peer, wanted)
            if given.refused not in ASIDE_S:
                break
        self._metrics.row_asked(given.refused or "given")
        return given

    def _helper(self, wanted: RowWanted, asked: Collection[NodeId]) -> NodeId | None:
        now_s = self._clock.now_s()
        here = StepTimes(node_id=self._node.id, pair_s=wanted.pair_s, row_s=wanted.row_s)
        present = None
        if self._present is not None and self._present[1:] == (wanted.task_id, wanted.fence):
            present = self._present[0]
        idle = [one for one in self._idle(wanted, now_s) if NodeId(one.node_id) not in asked]
        exchange_s = max((self._of(NodeId(one.node_id)).exchange_s for one in idle), default=0.0)
        found = best_helper(here, idle, exchange_s=exchange_s, present=present)
        return None if found is None else NodeId(found)

    def _idle(self, wanted: RowWanted, now_s: float) -> Iterator[StepTimes]:
        """Nodes that would help as far as is known here, and what a step takes there."""
        model = wanted.drawing.model or self._node.described.model
        servers = set(self._view.servers(model, now_s=now_s))
        for one in self._view.views(now_s=now_s):
            node_id, state = one.state.node_id, one.state
            if node_id == self._node.id or node_id not in servers or not one.alive:
                continue
            queue = self._view.queue_of(node_id, now_s=now_s)
            if queue is None or queue.queued or queue.running or not state.accepting:
                continue
            known = self._of(node_id)
            if now_s < known.aside_until_s:
                continue
            served = next((told for told in state.serves if told.name == model), None)
            if served is None:
                continue
            drawing = wanted.drawing
            rho = served.work_model.rho(width_px=drawing.width_px, height_px=drawing.height_px)
            pair_s = rho / queue.capacity
            row_s = pair_s * served.work_model.unguided_ratio
            if known.row_share is not None:
                row_s = known.row_share * wanted.row_s
            yield StepTimes(node_id=node_id, pair_s=pair_s, row_s=row_s)

    async def _asked(self, helper: NodeId, peer: Peer, wanted: RowWanted) -> RowGiven:
        known, began_s = self._of(helper), self._clock.now_s()
        timeout_s = min(max(TIMEOUT_PAIRS * wanted.pair_s, TIMEOUT_S_MIN), ANSWER_S_MAX)
        try:
            async with asyncio.timeout(timeout_s):
                given = await peer.compute_row(wanted, timeout_s=timeout_s)
        except (TimeoutError, DEdgeAIError) as error:
            log.debug("node %s gave no row: %s", helper, error)
            given = wanted.refused(NO_ANSWER)
        if not given.answers(wanted):
            given = wanted.refused(UNUSABLE)
        now_s = self._clock.now_s()
        if given.velocity is None:
            known.aside_until_s = now_s + ASIDE_S.get(given.refused, FAILED_S)
            self._is_helped_by(None)
            return given
        self._is_helped_by((helper, wanted.task_id, wanted.fence))
        exchange_s = max(0.0, now_s - began_s - given.took_s)
        known.exchange_s += LEARNED_SHARE * (exchange_s - known.exchange_s)
        if wanted.row_s > 0.0:
            share = given.took_s / wanted.row_s
            former = share if known.row_share is None else known.row_share
            known.row_share = former + LEARNED_SHARE * (share - former)
        self._metrics.row_exchanged(exchange_s)
        return given

    def _is_helped_by(self, present: tuple[NodeId, TaskId, Fence] | None) -> None:
        """Who helps now, which others are told when it changes."""
        changed = present != self._present
        self._present = present
        if changed:
            self._node.changed()

    def _helped_by(self) -> NodeId | None:
        """Who helps what is still drawn here."""
        if self._present is None or not self._hosting.is_hosted(*self._present[1:]):
            return None
        return self._present[0]

    def _of(self, node_id: NodeId) -> _Known:
        return self._known.setdefault(node_id, _Known())

    # For the drawings of others.

    async def give(self, wanted: RowWanted) -> RowGiven:
        """A row of a step that is drawn elsewhere, if this device has nothing else to do."""
        given = await self._given(wanted)
        self._metrics.row_computed(given.refused or "given", seconds=given.took_s)
        return given

    async def _given(self, wanted: RowWanted) -> RowGiven:
        if not self._on:
            return wanted.refused(SWITCHED_OFF)
        refusal = self._lease.ask(
            wanted.leader,
            idle=self._node.accepting and not self._hosting.hosted(),
            pair_s=wanted.pair_s,
            now_s=self._clock.now_s(),
        )
        if refusal:
            return wanted.refused(refusal)
        try:
            return await self._worker.give_row(wanted)
        except DEdgeAIError as error:
            log.debug("no row was computed for %s: %s", wanted.task_id, error.message)
            return wanted.refused(BUSY)
