"""What a learner process does while it learns: every node's experience in, checked weights out.

Owns the pools that are read, what is published and the verdict that goes with it; how weights are
learned and checked is the scheduler's. One replay is played of the decisions of all nodes, so that
others' arrivals are known instead of made up, and its verdict is every node's.

Weights are published when they are finite and of the right shapes, are of a later generation than
those announced, and are significantly better than the published ones (before: than those that
ship); `scheduler.guard.replay_check` says what that is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_node.clock import Clock
from edge_node.domain import NodeId
from edge_node.errors import DEdgeAIError, StoreUnavailable, WeightsGone
from edge_node.guard.judge import Judge, JudgeSettings
from edge_node.learning.held_weights import HeldWeights
from edge_node.learning.pools import OwnPool, PeerPool, connector
from edge_node.snapshot import LearnerProgress
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.experience_pool import PoolPart, PoolReader, PoolSettings
from edge_node.store.learner_board import Told
from edge_node.store.published_weights import (
    Published,
    PublishedWeights,
    UnusableWeights,
    load_published,
    prune,
    read_published,
)
from edge_node.store.verdicts import VerdictStore
from scheduler import checkpoint
from scheduler.checkpoint import Checkpoint
from scheduler.experience import PooledDecision
from scheduler.learning.choice import Diverged
from scheduler.learning.live_learner import LiveLearner, shipped
from scheduler.learning.publication import Refused, consider
from scheduler.policy import Outcome

log = logging.getLogger("learner")

# Updates between two looks at signals, memory and pools: some tens of milliseconds.
UPDATES_AT_ONCE = 10


@dataclass(frozen=True, kw_only=True)
class ClusterLearnerSettings:
    """How it learns.

    Attributes:
        node_id: whose store it is; its pool is read there, and its guard listens there.
        out: folder that gets the weights.
        publish_every_s: between two attempts to publish.
        weights_bytes_max: of a file of weights that comes from elsewhere.
        outcome_wait_s: how long an outcome is waited for.
        options: hyperparameters other than the live ones.
        seed: of networks, noise and batches.
        judge: what the guards want compared; None for nothing.
        judge_published: the weights that are published here are judged, once there are some;
            otherwise those that the judge's settings name.
        offers: weights and verdicts are brought to the nodes, for none of them looks here.
        tls_folder: with what proves to other nodes who this is; None where nothing has to.
        cluster_name: of the nodes that it learns from.
    """

    node_id: str
    out: Path
    publish_every_s: float = 180.0
    weights_bytes_max: int = 16 * 2**20
    outcome_wait_s: float = 7200.0
    options: Mapping[str, str | float | bool] = field(default_factory=dict)
    seed: int = 0
    judge: JudgeSettings | None = None
    judge_published: bool = False
    offers: bool = False
    tls_folder: Path | None = None
    cluster_name: str = ""


class ClusterLearner:
    """Learns from pools and publishes, one turn after another; begun anew when it is told to.

    Args:
        settings: how.
        connection: to the store; started and closed by its owner.
        store: that connection's settings.
        clock: of the process.
    """

    def __init__(
        self,
        settings: ClusterLearnerSettings,
        connection: StoreConnection,
        store: StoreSettings,
        *,
        clock: Clock,
    ) -> None:
        self._settings, self._clock = settings, clock
        pool = PoolSettings(store=store, node_id=settings.node_id)
        self._own_pool = OwnPool(reader=PoolReader(pool, connection))
        self._connect = connector(
            settings.tls_folder, node_id=settings.node_id, cluster_name=settings.cluster_name
        )
        self._peers: dict[NodeId, PeerPool] = {}
        # Those of them that the node hears now; of the others nothing is asked.
        self._near: list[PeerPool] = []
        self._complaints: dict[NodeId, str] = {}
        self._announcement = PublishedWeights(connection, node_id=settings.node_id)
        self._verdicts = VerdictStore(connection, node_id=settings.node_id)
        self._verdict_told: dict[NodeId, tuple[bytes, bytes]] = {}
        self._held = HeldWeights(
            connection,
            node_id=settings.node_id,
            folder=settings.out,
            bytes_max=settings.weights_bytes_max,
            clock=clock,
        )
        self._learner: LiveLearner
        self._judge = None if settings.judge is None else Judge(settings.judge, self._verdicts)
        self._to_judge: list[PooledDecision | Outcome] = []
        self._damaged = 0
        self._refusal = ""
        self._published_at_updates = 0
        self._publish_at_s = clock.now_s() + settings.publish_every_s

    async def start(self, told: Told) -> None:
        """Finds the newest weights to go on from; raises StoreUnavailable."""
        await self._go_where(told)
        await self._look_elsewhere()
        self._learner = LiveLearner(
            self._settings.options,
            start=await self._newest(),
            outcome_wait_s=self._settings.outcome_wait_s,
            seed=self._settings.seed,
        )

    async def _newest(self) -> Checkpoint:
        announced = await self._announced()
        if announced is not None:
            try:
                load_published(announced, rng=np.random.default_rng(0))
                log.info("goes on from %s", announced.version)
                return checkpoint.load(announced.path, kind="policy")
            except (UnusableWeights, ValueError) as problem:
                log.warning("goes on from the shipped weights: %s", problem)
        return shipped()

    async def turn(self, told: Told) -> bool:
        """One look at everything; whether there is more to do. Raises StoreUnavailable."""
        await self._go_where(told)
        count = await self._read()
        updated = self._update()
        if self._clock.now_s() >= self._publish_at_s:
            self._publish_at_s = self._clock.now_s() + self._settings.publish_every_s
            await self._look_elsewhere()
            await self._publish()
        if count == 0:  # what the pools hold already is read first
            await self._look_at_verdict()
        return updated or count > 0

    def progress(self) -> LearnerProgress:
        """How far it is."""
        entries = {self._settings.node_id: self._own_pool.entries}
        entries |= {node_id: peer.entries for node_id, peer in self._peers.items()}
        return LearnerProgress(
            entries=entries,
            decisions=self._learner.hindsight.counts.outcomes,
            updates=self._learner.updates,
            refusal=self._refusal,
        )

    async def close(self) -> None:
        """Lets go of the other nodes."""
        for peer in self._peers.values():
            await peer.close()

    # Experience.

    async def _go_where(self, told: Told) -> None:
        """Knows the pools that it is told of; one that is left out is silent, and may come back."""
        self._near.clear()
        for node_id, address in told.pools:
            known = self._peers.get(node_id)
            if known is None:
                known = self._peers[node_id] = PeerPool(
                    node_id, address, clock=self._clock, connect=self._connect
                )
            elif known.client.address != address:
                await known.move_to(address)
            self._near.append(known)

    async def _read(self) -> int:
        """Reads some more of every pool; returns how many entries there were."""
        parts = await self._own_pool.read()
        for peer in self._near:
            try:
                parts += await peer.read()
            except DEdgeAIError as problem:
                self._complain(peer.node_id, problem.message)
            else:
                self._complaints.pop(peer.node_id, None)
        self._take(parts)
        return sum(part.count for part in parts)

    def _take(self, parts: Iterable[PoolPart]) -> None:
        for part in parts:
            self._damaged += part.damaged
            for entry in part.entries:
                self._learner.add(entry)
                if self._judge is not None:
                    self._to_judge.append(entry)

    def _complain(self, node_id: NodeId, problem: str) -> None:
        """Once for each problem, not once a turn."""
        if self._complaints.get(node_id) != problem:
            self._complaints[node_id] = problem
            log.warning("node %s: %s", node_id, problem)

    def _update(self) -> bool:
        updated = False
        try:
            for _ in range(UPDATES_AT_ONCE):
                updated = self._learner.update() or updated
        except Diverged as problem:
            log.error("learning diverged and begins anew where it started: %s", problem)
            self._published_at_updates = 0
        return updated

    # Weights.

    async def _publish(self) -> None:
        """Publishes what was learned if it passes; says why where it does not."""
        learner = self._learner
        counts = learner.hindsight.counts.by_name() | {"damaged": self._damaged}
        log.info("pools: %s", ", ".join(f"{name} {count}" for name, count in counts.items()))
        if learner.actor_updates in (0, self._published_at_updates):
            return
        announced = await self._announced()
        try:
            checked = consider(
                learner,
                published=announced.path if announced else None,
                generation=announced.generation + 1 if announced else 1,
            )
        except Refused as refusal:
            self._refusal = str(refusal)
            log.warning("not published: %s", refusal)
            return
        out = self._settings.out
        try:
            published = save_weights(checked, out, created_unix_s=self._clock.unix_s())
        except (OSError, UnusableWeights) as problem:
            # What was learned stays in memory; a disk may have room again the next time.
            self._refusal = f"The weights cannot be kept in {out}: {problem}. Make room there."
            log.warning("not published: %s", self._refusal)
            return
        self._refusal = ""
        prune(self._settings.out, policy=published.policy, newest=published.generation)
        await self._announcement.announce(published)
        self._published_at_updates = learner.actor_updates
        log.info("published %s: %s", published.version, published.checks)
        await self._offer_weights()

    async def _announced(self) -> Published | None:
        try:
            return await self._announcement.current()
        except UnusableWeights as problem:
            log.warning("%s", problem)
            return None

    async def _look_elsewhere(self) -> None:
        """A learner beside the nodes has nobody who brings it what others have published."""
        if not self._settings.offers:
            return
        for peer in self._near:
            try:
                await self._held.look()
                weights, content = await peer.client.fetch_weights(
                    "", bytes_max=self._settings.weights_bytes_max
                )
                await self._held.take(weights, content)
            except StoreUnavailable:
                raise
            except WeightsGone:
                pass  # it has none
            except DEdgeAIError as problem:
                self._complain(peer.node_id, problem.message)
            except UnusableWeights as problem:
                self._complain(peer.node_id, f"its weights are not used: {problem}")
            except OSError as problem:
                where = self._settings.out
                self._complain(
                    peer.node_id,
                    f"its weights cannot be kept in {where}: {problem}. Make room there.",
                )

    async def _offer_weights(self) -> None:
        if not self._settings.offers:
            return
        await self._held.look()
        newest = self._held.newest
        assert newest is not None, "they were just announced"
        for peer in self._near:
            try:
                await peer.client.offer_weights(newest, self._held.content)
            except DEdgeAIError as problem:
                log.warning("node %s has not taken %s: %s", peer.node_id, newest.version, problem)

    # The verdict.

    async def _look_at_verdict(self) -> None:
        if self._judge is None:
            return
        # Outcomes after all decisions: those of other nodes' pools come in any order.
        for entry in sorted(self._to_judge, key=_decided_unix_s):
            self._judge.add(entry)
        self._to_judge.clear()
        announced = await self._announced() if self._settings.judge_published else None
        try:
            await self._judge.look(
                announced, now_s=self._clock.now_s(), unix_s=self._clock.unix_s()
            )
        except UnusableWeights as problem:
            log.warning("not judged: %s", problem)
        await self._tell_verdict()

    async def _tell_verdict(self) -> None:
        """Brings every node the verdict that it does not have yet."""
        verdict = await self._verdicts.read_raw()
        if verdict is None:
            return
        for peer in self._near:
            if self._verdict_told.get(peer.node_id) == verdict:
                continue
            try:
                form, text = verdict
                await peer.client.offer_verdict(form.decode(), text)
            except DEdgeAIError as problem:
                self._complain(peer.node_id, problem.message)
            else:
                self._verdict_told[peer.node_id] = verdict


def _decided_unix_s(entry: PooledDecision | Outcome) -> float:
    return math.inf if isinstance(entry, Outcome) else entry.recorded.decided_unix_s


def save_weights(checked: Checkpoint, folder: Path, *, created_unix_s: float) -> Published:
    """Writes checked weights whole or not at all, and loads them as a node will.

    Raises:
        UnusableWeights: what was written cannot be used.
        OSError: the disk refuses.
    """
    info = checked.info
    path = folder.absolute() / f"{info.policy}-{info.episodes:08d}.safetensors"
    checkpoint.save(path, checked)
    published = read_published(path, created_unix_s=created_unix_s)
    load_published(published, rng=np.random.default_rng(info.seed))
    return published
