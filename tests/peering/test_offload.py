"""An offload over a real channel: the init image comes along, however large, and stays whole."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from collections.abc import AsyncIterator

import pytest
from dedgeai.v1 import node_pb2
from PIL import Image as PillowImage

from edge_node.dispatch.told_reports import ToldReports
from edge_node.domain import (
    AttemptFailed,
    AttemptReport,
    AttemptStarted,
    Drawing,
    Fence,
    NodeId,
    Offload,
    TaskId,
)
from edge_node.peering import node_codec
from edge_node.peering.client import PeerClient
from edge_node.peering.server import NodeServicer, PeerServer
from edge_node.peering.service import PeerService
from tests.peering.nothing_learned import NothingLearned

OFFLOAD = Offload(
    task_id=TaskId("a-1"),
    fence=Fence(1, 2),
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
    """Stands for the dispatcher of the node that is asked; `reports` are those of every attempt."""

    id = NodeId("b")

    def __init__(self, *reports: AttemptReport) -> None:
        self.executor = self.own_node = self
        self.reports = reports
        self.hosted: list[tuple[Offload, bytes]] = []
        self.given_back: list[tuple[TaskId, int]] = []

    async def host(self, offload: Offload, *, init_image: bytes) -> ToldReports:
        self.hosted.append((offload, init_image))
        reports = ToldReports()
        for report in self.reports:
            reports.put_nowait(report)
        return reports

    def unhost(self, task_id: TaskId, attempt: int, _: object) -> None:
        self.given_back.append((task_id, attempt))


@contextlib.asynccontextmanager
async def channel_to(executor: Executor) -> AsyncIterator[PeerClient]:
    service = PeerService(executor, executor, NothingLearned())  # type: ignore[arg-type]
    servicer = NodeServicer(service, version="0")
    server = PeerServer(servicer, host="127.0.0.1", port=0)
    client = PeerClient(f"127.0.0.1:{await server.start()}")
    try:
        yield client
    finally:
        await client.close()
        await server.stop(grace_s=0)


def test_an_offload_is_the_same_on_the_other_side() -> None:
    message = node_codec.offload_to_proto(OFFLOAD, init_image=b"\x89PNG\0")
    received = node_pb2.OffloadRequest.FromString(message.SerializeToString())
    assert node_codec.offload_from_proto(received) == OFFLOAD
    assert received.init_image == b"\x89PNG\0"
    assert node_codec.offload_to_proto(OFFLOAD).init_image == b""


def test_the_largest_init_image_passes() -> None:
    # Ten times what gRPC takes when nobody says otherwise.
    buffer = io.BytesIO()
    PillowImage.new("RGB", (64, 64)).save(buffer, "PNG")
    init_image = buffer.getvalue() + os.urandom(40 * 2**20)
    executor = Executor(END)

    async def story() -> None:
        async with channel_to(executor) as client:
            assert [one async for one in client.offload(OFFLOAD, init_image=init_image)] == [END]

    asyncio.run(story())
    assert executor.hosted == [(OFFLOAD, init_image)]


@pytest.mark.parametrize("how", ["leaves the stream", "is cancelled", "dies"])
def test_an_executor_does_not_draw_on_for_an_origin_that_hung_up(how: str) -> None:
    executor = Executor(AttemptStarted())

    async def story() -> None:
        async with channel_to(executor) as client:
            began = asyncio.Event()

            async def follow() -> None:
                async with contextlib.aclosing(client.offload(OFFLOAD, init_image=b"")) as reports:
                    async for report in reports:
                        assert report == AttemptStarted()
                        began.set()
                        if how == "leaves the stream":
                            return

            following = asyncio.create_task(follow())
            await began.wait()
            if how == "is cancelled":
                following.cancel()
            if how == "dies":
                await client.close()
            await asyncio.wait([following])
            async with asyncio.timeout(5.0):
                while not executor.given_back:
                    await asyncio.sleep(0.01)
            if not following.cancelled():
                following.exception()

    asyncio.run(story())
    assert executor.given_back == [(OFFLOAD.task_id, OFFLOAD.fence)]
