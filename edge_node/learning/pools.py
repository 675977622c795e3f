"""The pools that a learner reads: its own node's in the store, others' over the wire.

Owns where each was read to. A pool that cannot be read now is read on from there later.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_node.clock import Clock
from edge_node.domain import NodeId
from edge_node.peering.client import PeerClient
from edge_node.peering.tls import NodeTls
from edge_node.store.experience_pool import FIRST_ID, PoolPart, PoolReader, decoded

READ_COUNT = 500


def connector(
    tls_folder: Path | None, *, node_id: str, cluster_name: str
) -> Callable[[str], PeerClient]:
    """What leads to the node at an address: over TLS, where there is a certificate."""
    if tls_folder is None:
        return PeerClient
    tls = NodeTls(tls_folder, node_id=node_id, cluster_name=cluster_name)
    return partial(PeerClient, tls=tls)


@dataclass(kw_only=True)
class OwnPool:
    """The pool in the store beside the learner.

    Attributes:
        entries: read so far.
    """

    reader: PoolReader
    last_id: str = FIRST_ID
    entries: int = 0

    async def read(self) -> list[PoolPart]:
        """Some more of it; raises StoreUnavailable."""
        part = await self.reader.read_since(self.last_id, READ_COUNT)
        self.last_id = part.last_id
        self.entries += part.count
        return [part] if part.count else []


class PeerPool:
    """The pool of a node elsewhere, and the way there.

    Args:
        node_id: whose.
        address: host:port of its gRPC listener.
        clock: by which what is read is dated, for that node's may be another.
        connect: leads to the node at an address.

    Attributes:
        entries: read so far.
        client: calls to that node.
    """

    def __init__(
        self,
        node_id: NodeId,
        address: str,
        *,
        clock: Clock,
        connect: Callable[[str], PeerClient] = PeerClient,
    ) -> None:
        self._connect = connect
        self.node_id = node_id
        self._clock = clock
        self.client = connect(address)
        self.entries = 0
        self._last = ""

    async def read(self) -> list[PoolPart]:
        """Some more of it; raises what the node says, or OriginUnavailable."""
        parts = []
        pages = self.client.read_experience(self._last, entries_max=READ_COUNT)
        async with aclosing(pages) as open_pages:
            async for page in open_pages:
                parts.append(decoded(page, unix_s=self._clock.unix_s()))
                self._last = page.last
                self.entries += len(page.entries)
        return parts

    async def move_to(self, address: str) -> None:
        """The node is at another address now; its pool is the same."""
        await self.client.close()
        self.client = self._connect(address)

    async def close(self) -> None:
        """Ends every call."""
        await self.client.close()
