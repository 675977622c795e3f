"""An offload over a real channel: the init image comes along, however large, and stays whole."""

from __future__ import annotations

import asyncio
import os

from dedgeai.v1 import node_pb2

from edge_node.domain import (
    AttemptFailed,
    AttemptReport,
    Drawing,
    NodeId,
    Offload,
    TaskId,
)
from edge_node.peering import node_codec
from edge_node.peering.client import PeerClient
from edge_node.peering.server import NodeServicer, PeerServer
from edge_node.peering.service import PeerService

OFFLOAD = Offload(
    task_id=TaskId("a-1"),
    attempt=2,
    origin=NodeId("a"),
    incarnation=3,
    dispatch=4,
    drawing=Drawing(
        prompt="p",
        width_px=64,
        height_px=64,
        steps=3,
        guidance_scale=5.0,
        seed=1,
        model="m",
        init_image_sha256="ab" * 32,
        strength=0.5,
    ),
    work=3.5,
    priority=1,
    deadline_s=60.0,
)
END = AttemptFailed(code="seen", message="That is all.", retryable=False)


class Executor:
    """Stands for the dispatcher of the node that is asked."""

    def __init__(self) -> None:
        self.executor = self
        self.hosted: list[tuple[Offload, bytes]] = []

    async def host(self, offload: Offload, *, init_image: bytes) -> asyncio.Queue[AttemptReport]:
        self.hosted.append((offload, init_image))
        reports: asyncio.Queue[AttemptReport] = asyncio.Queue()
        reports.put_nowait(END)
        return reports

    def unhost(self, *_: object) -> None:
        pass


def test_an_offload_is_the_same_on_the_other_side() -> None:
    message = node_codec.offload_to_proto(OFFLOAD, init_image=b"\x89PNG\0")
    received = node_pb2.OffloadRequest.FromString(message.SerializeToString())
    assert node_codec.offload_from_proto(received) == OFFLOAD
    assert received.init_image == b"\x89PNG\0"
    assert node_codec.offload_to_proto(OFFLOAD).init_image == b""


def test_the_largest_init_image_passes() -> None:
    # Ten times what gRPC takes when nobody says otherwise.
    init_image = os.urandom(40 * 2**20)
    executor = Executor()

    async def story() -> None:
        servicer = NodeServicer(PeerService(executor, None), version="0")  # type: ignore[arg-type]
        server = PeerServer(servicer, host="127.0.0.1", port=0)
        client = PeerClient(f"127.0.0.1:{await server.start()}")
        try:
            assert [one async for one in client.offload(OFFLOAD, init_image=init_image)] == [END]
        finally:
            await client.close()
            await server.stop(grace_s=0)

    asyncio.run(story())
    assert executor.hosted == [(OFFLOAD, init_image)]
