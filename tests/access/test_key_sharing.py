"""Which lists of others a node takes, and whom it blames."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from dedgeai.v1 import node_pb2

from edge_node.access.key_sharing import KeySharing
from edge_node.domain import NodeId, NodeState
from edge_node.errors import MalformedMessage
from edge_node.peering.client import PeerClient
from tests.access.signing import authority_in, key_file, listed, signed, verify_by
from tests.security.attacker import Liar


class Cluster:
    """One node and its peers, each of which serves one text over gRPC."""

    def __init__(self, folder: Path) -> None:
        self.authority = authority_in(folder)
        self.keys = key_file(folder, self.authority)
        self.broken: list[tuple[str, str]] = []
        self.states: list[NodeState] = []
        self._clients: dict[NodeId, PeerClient] = {}

    def client(self, node_id: NodeId) -> PeerClient | None:
        return self._clients.get(node_id)

    async def look(self, *told: tuple[str, tuple[int, str], bytes], times: int = 1) -> None:
        """As (peer, what its state says, what it serves)."""
        sharing = KeySharing(
            self.keys,
            states=lambda: self.states,
            on_broken=lambda who, error: self.broken.append((who, error.message)),
            material=lambda: None,
        )
        peers: Any = self
        liars = []
        for name, held, text in told:
            liar = Liar(node_pb2.FetchKeysResponse(signed_list=text)).listening()
            liars.append(liar)
            self._clients[NodeId(name)] = PeerClient(await liar.__aenter__())
            self.states.append(
                NodeState(node_id=NodeId(name), incarnation=1, sequence=1, keys=held)
            )
        for _ in range(times):
            await sharing.look(peers)
        for client in self._clients.values():
            await client.close()
        for liar in liars:
            await liar.__aexit__(None, None, None)


def told(cluster: Cluster, text: bytes) -> tuple[int, str]:
    return verify_by(cluster.authority)(text).held


def test_the_greatest_list_is_taken(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    texts = {name: signed(cluster.authority, version) for name, version in (("a", 7), ("b", 9))}
    asyncio.run(cluster.look(*((name, told(cluster, text), text) for name, text in texts.items())))
    assert cluster.keys.signed() == texts["b"]
    assert cluster.broken == []


def test_who_passes_on_what_nobody_signed_is_told_of_and_another_is_asked(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    good = signed(cluster.authority, 7, "alice")
    forged = listed(99, "mallory")[0].encode()
    asyncio.run(
        cluster.look(
            ("evil", (99, "ff" * 32), forged),
            ("boaster", (98, "ff" * 32), good),
            ("begun-anew", (97, "ff" * 32), b""),
            ("good", told(cluster, good), good),
        )
    )
    assert cluster.keys.signed() == good
    assert [who for who, _ in cluster.broken] == ["evil", "boaster"]
    assert "does not count" in cluster.broken[0][1]
    assert "older than was told" in cluster.broken[1][1]


def test_a_list_of_a_later_format_blames_nobody_and_is_asked_for_once(
    tmp_path: Path, caplog: Any
) -> None:
    cluster = Cluster(tmp_path)
    text = cluster.authority.sign_keys(b'{"format": 2}')
    asyncio.run(cluster.look(("newer", (9, "ff" * 32), text), times=3))
    assert not cluster.keys.asked_for
    assert cluster.broken == []
    assert caplog.text.count("cannot be read") == 1


def test_a_peer_that_is_away_costs_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.states = [NodeState(node_id=NodeId("x"), incarnation=1, sequence=1, keys=(9, ""))]
    asyncio.run(cluster.look())
    assert not cluster.keys.asked_for


def test_a_list_is_bounded_on_its_way() -> None:
    async def story() -> None:
        large = node_pb2.FetchKeysResponse(signed_list=bytes(2**20 + 1))
        async with Liar(large).listening() as address:
            client = PeerClient(address)
            with pytest.raises(MalformedMessage, match="bytes"):
                await client.fetch_keys()
            await client.close()

    asyncio.run(story())
