"""This node's part in learning as one cluster: carries out what the pure `tasks.learnership` says.

Owns the look at who learns, what the learner beside the node is told, the fetching of newer weights
and what other nodes may ask for. The node's process learns nothing and loads nothing for it:
experience and weights pass through as bytes. Newer weights reach the node's guard by the way that
its own learner's always took, the announcement in its store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

from edge_node.child_options import learner_alive_path, learner_folder
from edge_node.clock import SystemClock
from edge_node.config import NodeConfig
from edge_node.dispatch.own_node import OwnNode
from edge_node.domain import Learning, NodeId
from edge_node.errors import DEdgeAIError, InvalidRequest, StoreUnavailable, WeightsGone
from edge_node.experience_page import ExperiencePage
from edge_node.lasting import Loops
from edge_node.learned_weights import LearnedWeights
from edge_node.learning.held_weights import HeldWeights
from edge_node.ports import Peers
from edge_node.sign_of_life import silence_s
from edge_node.snapshot import LearnerProgress
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.experience_pool import FIRST_ID, PoolReader, PoolSettings
from edge_node.store.learner_board import TOLD_KEEP_S, LearnerBoard, Told
from edge_node.store.published_weights import UnusableWeights
from edge_node.store.verdicts import UnreadableVerdict, VerdictStore
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.learnership import Learnership, Member, Wanted, learnership
from edge_node.telemetry.metrics import NodeMetrics

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
TELL_EVERY_S = TOLD_KEEP_S / 4
FETCH_S_MAX = 10.0
# Silence of a learner process after which its node is no longer willing to learn. One that keeps
# dying is started again by its supervisor; longer than any turn of one that lives.
LEARNER_SILENCE_S_MAX = 60.0
REFUSED_KEPT = 100
_CURSOR = re.compile(r"\d{1,20}-\d{1,20}")


@dataclass(frozen=True, kw_only=True)
class SharingSettings:
    """Whose part it is.

    Attributes:
        policy: that the operator wants.
        folder: of weights.
        alive_path: file in which a learner process beside the node says that it lives.
        weights_bytes_max: of a file of weights.
    """

    node_id: NodeId
    policy: str
    folder: Path
    alive_path: Path
    weights_bytes_max: int

    @classmethod
    def of(cls, config: NodeConfig) -> SharingSettings:
        """From the node's settings."""
        return cls(
            node_id=NodeId(config.node_id),
            policy=config.policy,
            folder=learner_folder(config),
            alive_path=learner_alive_path(config),
            weights_bytes_max=config.learned_weights_bytes_max,
        )


class LearningShare:
    """Looks at who learns, fetches and answers; the `ports.LearningDesk` of other nodes.

    Args:
        settings: whose part it is.
        store_url: of the node's store.
        node: says what this node does about learning, with its state.
        view: knows what others say.
        metrics: of the node.
        clock: of the node.
        loops: looks for the store.

    Attributes:
        progress: of the learner beside the node, while it learns.
    """

    def __init__(
        self,
        settings: SharingSettings,
        *,
        store_url: str,
        node: OwnNode,
        view: ClusterView,
        metrics: NodeMetrics,
        clock: SystemClock,
        loops: Loops | None = None,
    ) -> None:
        self._settings = settings
        self._node = node
        self._view = view
        self._metrics = metrics
        self._clock = clock
        store = StoreSettings(url=store_url, connections_max=2)
        self._connection = StoreConnection(store, loops=loops)
        pool = PoolSettings(store=store, node_id=settings.node_id)
        self._pool = PoolReader(pool, self._connection)
        self._board = LearnerBoard(self._connection, node_id=settings.node_id)
        self._verdicts = VerdictStore(self._connection, node_id=settings.node_id)
        self._held = HeldWeights(
            self._connection,
            node_id=settings.node_id,
            folder=settings.folder,
            bytes_max=settings.weights_bytes_max,
            clock=clock,
        )
        self._taking = asyncio.Lock()
        self._refused: dict[str, None] = {}
        self._disk_complaint = ""
        self._told: Told | None = None
        self._tell_at_s = 0.0
        self._learner: NodeId | None = None
        self.progress: LearnerProgress | None = None

    async def start(self) -> None:
        """Connects to the store; one that is away is no error."""
        await self._connection.start()

    async def close(self) -> None:
        """Lets go of the store."""
        await self._connection.close()

    async def run(self, peers: Peers) -> None:
        """Looks until it is cancelled, or a look fails."""
        while True:
            # The connection logs it, and looks for the store.
            with contextlib.suppress(StoreUnavailable):
                await self.look(peers)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, peers: Peers) -> None:
        """Does what is to be done now; raises StoreUnavailable."""
        async with self._taking:
            try:
                await self._held.look()
            except UnusableWeights as problem:
                self._refuse("announced beside this node", str(problem))
        found = self._found()
        if found.wanted is not None:
            await self._fetch(found.wanted, peers)
            found = self._found()
        if found.learner != self._learner:
            self._learner = found.learner
            who = "nobody learns" if found.learner is None else f"node {found.learner} learns"
            log.info("%s for policy %s", who, self._settings.policy)
        self._node.learning_changed(self._own())
        await self._tell(found, peers)
        self.progress = await self._board.progress() if found.learns else None
        newest = self._held.newest
        self._metrics.learning(
            learns=found.learns, generation=0 if newest is None else newest.generation
        )

    # What other nodes and a learner beside them ask for.

    async def read_experience(self, after: str, *, entries_max: int) -> ExperiencePage:
        """Entries of this node's pool after a cursor, empty for the first.

        Raises:
            InvalidRequest: that is no cursor.
            StoreUnavailable: the store is away.
        """
        if after and not _CURSOR.fullmatch(after):
            raise InvalidRequest(f"{after!r} is no cursor of a pool; begin with an empty one.")
        page = await self._pool.read_page(after or FIRST_ID, entries_max)
        self._metrics.experience_read(len(page.entries))
        return replace(page, read_unix_s=self._clock.unix_s())

    @property
    def weights_bytes_max(self) -> int:
        """Most bytes of a file of weights that it takes."""
        return self._settings.weights_bytes_max

    def weights(self, sha256: str) -> tuple[LearnedWeights, bytes]:
        """The newest weights held, if they have this digest or any will do; or WeightsGone."""
        newest = self._held.newest
        if newest is None or sha256 not in ("", newest.sha256):
            raise WeightsGone("This node does not hold these weights; ask who announces them now.")
        return newest, self._held.content

    async def take_weights(self, weights: LearnedWeights, content: bytes) -> None:
        """Takes weights that a learner brings.

        Raises:
            InvalidRequest: they are not newer than those held, or cannot be used.
            StoreUnavailable: they cannot be announced now.
        """
        try:
            newer = await self._take(weights, content)
        except (UnusableWeights, OSError) as problem:
            self._refuse("offered", str(problem))
            raise InvalidRequest(f"The weights cannot be used: {problem}.") from problem
        if not newer:
            newest = self._held.newest
            assert newest is not None
            raise InvalidRequest(
                f"Generation {weights.generation} is not newer than {newest.version}, which this "
                "node holds."
            )

    async def take_verdict(self, form: str, verdict: bytes) -> None:
        """Takes a replay of this node's decisions in the place of the one before.

        Raises:
            InvalidRequest: it cannot be read.
            StoreUnavailable: it cannot be kept now.
        """
        try:
            await self._verdicts.write_raw(form.encode(), verdict)
        except UnreadableVerdict as problem:
            raise InvalidRequest(f"The verdict cannot be read: {problem}.") from problem

    # Small parts.

    def _own(self) -> Learning:
        return Learning(
            policy=self._settings.policy,
            willing=not self._node.draining and self._learner_lives(),
            learner=self._learner,
            weights=self._held.newest,
        )

    def _learner_lives(self) -> bool:
        return silence_s(self._settings.alive_path) < LEARNER_SILENCE_S_MAX

    def _found(self) -> Learnership:
        views = self._view.views(now_s=self._clock.now_s())
        others = [
            Member(node_id=view.state.node_id, alive=view.alive, learning=view.state.learning)
            for view in views
            if view.state.node_id != self._settings.node_id
        ]
        return learnership(self._settings.node_id, self._own(), others, refused=self._refused)

    async def _tell(self, found: Learnership, peers: Peers) -> None:
        """Tells the learner beside this node, at news and from time to time."""
        addresses = {node_id: address for address, node_id in peers.addresses.items() if node_id}
        pools = tuple((one, addresses[one]) for one in found.pools if one in addresses)
        now_s = self._clock.now_s()
        told = Told(
            learns=found.learns,
            pools=pools if found.learns else (),
            clock_began_unix_s=self._clock.began_unix_s,
            at_s=now_s,
        )
        if told != self._told or now_s >= self._tell_at_s:
            await self._board.tell(told)
            self._told, self._tell_at_s = told, now_s + TELL_EVERY_S

    async def _fetch(self, wanted: Wanted, peers: Peers) -> None:
        """Fetches weights from the first holder that gives them."""
        for node_id in wanted.holders:
            peer = peers.client(node_id)
            if peer is None:
                continue
            try:
                async with asyncio.timeout(FETCH_S_MAX):
                    _, content = await peer.fetch_weights(
                        wanted.weights.sha256, bytes_max=self._settings.weights_bytes_max
                    )
                await self._take(wanted.weights, content)
            except StoreUnavailable:
                raise
            except (UnusableWeights, InvalidRequest) as problem:
                self._refuse(f"of node {node_id}", str(problem), wanted.weights.sha256)
            except (DEdgeAIError, TimeoutError) as problem:
                log.debug("weights of node %s: %r", node_id, problem)  # asked again soon
            except OSError as problem:
                self._disk_refused(wanted.weights, problem)
                return
            else:
                self._disk_complaint = ""
                log.info("weights %s came from node %s", wanted.weights.version, node_id)
                return

    def _disk_refused(self, weights: LearnedWeights, problem: OSError) -> None:
        """Says once what stands in the way; the weights are asked for again soon."""
        complaint = str(problem)
        if complaint != self._disk_complaint:
            self._disk_complaint = complaint
            log.warning(
                "learned weights %s cannot be kept in %s: %s. Make room there; until then this "
                "node decides with those that it has.",
                weights.version,
                self._settings.folder,
                complaint,
            )

    async def _take(self, weights: LearnedWeights, content: bytes) -> bool:
        async with self._taking:
            return await self._held.take(weights, content)

    def _refuse(self, whose: str, why: str, sha256: str = "") -> None:
        log.warning("learned weights %s are not used: %s", whose, why)
        self._metrics.weights_refused()
        if sha256:
            self._refused[sha256] = None
            if len(self._refused) > REFUSED_KEPT:
                del self._refused[next(iter(self._refused))]
