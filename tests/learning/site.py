"""A node's part in learning on a real Valkey and behind a real gRPC listener, without the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_node.clock import SystemClock
from edge_node.domain import Learning, NodeId, NodeState
from edge_node.learning.sharing import LearningShare, SharingSettings
from edge_node.peering.client import PeerClient
from edge_node.peering.server import NodeServicer, PeerServer
from edge_node.peering.service import PeerService
from edge_node.sign_of_life import show_life
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.learner_board import LearnerBoard, Told
from edge_node.store.published_weights import Published, PublishedWeights
from edge_node.tasks.cluster_view import ClusterView
from edge_node.telemetry.metrics import NodeMetrics

WEIGHTS_BYTES_MAX = 2**20


class Site:
    """One node; `hears` says which others it sees."""

    def __init__(self, name: str, folder: Path, store_url: str) -> None:
        self.id = NodeId(name)
        self.folder = folder / name
        self.alive = self.folder / "alive"
        self.clock = SystemClock()
        self.metrics = NodeMetrics()
        self.view = ClusterView(own_id=self.id, incarnation=1)
        self.draining = False
        self.learning: Learning | None = None
        self._clients: dict[NodeId, PeerClient] = {}
        self.connection = StoreConnection(StoreSettings(url=store_url, connections_max=2))
        self.announcement = PublishedWeights(self.connection, node_id=name)
        node: Any = self
        self.share = LearningShare(
            SharingSettings(
                node_id=self.id,
                policy="lad_ts",
                folder=self.folder,
                alive_path=self.alive,
                weights_bytes_max=WEIGHTS_BYTES_MAX,
            ),
            store_url=store_url,
            node=node,
            view=self.view,
            metrics=self.metrics,
            clock=self.clock,
        )
        self._server = PeerServer(
            NodeServicer(PeerService(node, node, self.share), version="0"),
            host="127.0.0.1",
            port=0,
        )
        self.port = 0

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        await self.connection.start()
        await self.share.start()
        self.port = await self._server.start()

    async def stop(self) -> None:
        for client in self._clients.values():
            await client.close()
        await self._server.stop(grace_s=0.0)
        await self.share.close()
        await self.connection.close()

    # What the share asks of the node and the links.

    def learning_changed(self, learning: Learning) -> None:
        self.learning = learning

    @property
    def addresses(self) -> dict[str, NodeId]:
        return {client.address: node_id for node_id, client in self._clients.items()}

    def client(self, node_id: NodeId) -> PeerClient | None:
        return self._clients.get(node_id)

    # What a test does with it.

    def willing(self) -> None:
        """A learner process beside it has just shown life."""
        show_life(self.alive)

    def hears(self, other: Site, learning: Learning | None = None) -> None:
        """The other's state arrives, with what it says of itself or with `learning`."""
        state = NodeState(node_id=other.id, incarnation=1, sequence=1)
        said = replace(state, learning=learning or other.learning)
        self.view.state_received(said, now_s=self.clock.now_s())
        if other.id not in self._clients:
            self._clients[other.id] = PeerClient(f"127.0.0.1:{other.port}")

    async def look(self) -> None:
        peers: Any = self
        await self.share.look(peers)

    async def announced(self) -> Published | None:
        """What the guard and the learner of this node find in its store."""
        return await self.announcement.current()

    async def told(self) -> Told | None:
        """What the learner of this node is told."""
        return await LearnerBoard(self.connection, node_id=self.id).told()

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"dedgeai_{name}")
