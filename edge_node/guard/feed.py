"""What the learner tells the guard: verdicts, and for LAD-TS weights, read from the store.

Owns when it looks and what it does about what cannot be used: nothing. The guard keeps what it has.
"""

from __future__ import annotations

import asyncio
import logging

import numpy as np

from edge_node.config import NodeConfig
from edge_node.errors import StoreUnavailable
from edge_node.guard.deciding import policy_coin, takes_published_weights
from edge_node.lasting import Loops
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.published_weights import PublishedWeights, UnusableWeights, load_published
from edge_node.store.verdicts import UnreadableVerdict, VerdictStore
from scheduler.guard.guard import Guard
from scheduler.guard.verdict import ReplayVerdict

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


async def keep_up_to_date(
    guard: Guard, config: NodeConfig, *, store_url: str, loops: Loops | None = None
) -> None:
    """Feeds the node's guard from its store, until it is cancelled."""
    settings = StoreSettings(url=store_url, connections_max=2)
    connection = StoreConnection(settings, loops=loops)
    await connection.start()
    try:
        feed = GuardFeed(
            guard,
            connection,
            node_id=config.node_id,
            takes_weights=takes_published_weights(config),
            rng=policy_coin(config),
        )
        await feed.run()
    finally:
        await connection.close()


class GuardFeed:
    """Keeps a guard up to date.

    Args:
        guard: told of weights and verdicts.
        connection: started and closed by its owner.
        node_id: whose learner is listened to.
        takes_weights: whether published weights are for the wanted policy.
        rng: of the policies that are swapped in.
    """

    def __init__(
        self,
        guard: Guard,
        connection: StoreConnection,
        *,
        node_id: str,
        takes_weights: bool,
        rng: np.random.Generator,
    ) -> None:
        self._guard = guard
        self._weights = PublishedWeights(connection, node_id=node_id)
        self._verdicts = VerdictStore(connection, node_id=node_id)
        self._takes_weights = takes_weights
        self._rng = rng
        self._version: str | None = None
        self._complaint = ""

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Takes in what is new."""
        try:
            verdict = await self._verdicts.read()
            if verdict is not None:
                self._take_verdict(verdict)
            if self._takes_weights:
                await self._take_weights()
        except StoreUnavailable:
            return  # the connection logs it, and looks for the store
        except (UnreadableVerdict, UnusableWeights) as problem:
            self._complain(f"{type(problem).__name__}: {problem}")
        else:
            self._complaint = ""

    def _take_verdict(self, verdict: ReplayVerdict) -> None:
        former = self._guard.rule
        self._guard.judged(verdict)
        if self._guard.rule != former:
            log.info("the rule that stands in is %s now, and was %s", self._guard.rule, former)

    async def _take_weights(self) -> None:
        published = await self._weights.current()
        if published is None or published.version == self._version:
            return
        (own,) = self._rng.spawn(1)
        policy = load_published(published, rng=own)
        self._guard.swap_learned(policy, published.version, better_than=published.better_than)
        self._version = published.version
        reason = self._guard.status().reason
        log.info("weights %s are here%s", published.version, f": {reason}" if reason else "")

    def _complain(self, complaint: str) -> None:
        """Once for each problem, not once a second."""
        if complaint != self._complaint:
            self._complaint = complaint
            log.warning("%s", complaint)
