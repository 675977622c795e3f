"""Somebody on the network who speaks the nodes' protocol and keeps none of its rules."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from dedgeai.v1 import node_pb2, node_pb2_grpc

from edge_node.domain import AttemptReport, NodeId, NodeState, Offload
from edge_node.peering.caller import PeerConduct
from edge_node.peering.server import NodeServicer, PeerServer
from edge_node.peering.service import PeerService
from edge_node.tasks.conduct import Conduct
from tests.peering.nothing_learned import NothingLearned
from tests.set_clock import SetClock

VICTIM, OWN = NodeId("victim"), NodeId("own")


@dataclass
class Attacked:
    """The rest of a node behind its real listener: what gets through is noted."""

    id: NodeId = OWN
    hosted: list[Offload] = field(default_factory=list)
    heard: list[NodeState] = field(default_factory=list)
    cancelled: list[object] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    clock: SetClock = field(default_factory=SetClock)

    def __post_init__(self) -> None:
        self.executor = self.own_node = self.own_tasks = self
        self.conduct = Conduct()

    def state(self) -> NodeState:
        return NodeState(node_id=self.id, incarnation=1, sequence=1)

    async def host(self, offload: Offload, *, init_image: bytes) -> asyncio.Queue[AttemptReport]:
        self.hosted.append(offload)
        return asyncio.Queue()

    def unhost(self, *_: object) -> None:
        pass

    def cancel_hosted(self, *attempt: object) -> None:
        self.cancelled.append(attempt)

    def hello(self, state: NodeState, *, host: str | None, proven: bool) -> None:
        self.heard.append(state)

    async def own_states(self) -> AsyncIterator[NodeState]:
        while True:
            yield self.state()
            await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[node_pb2_grpc.NodeServiceAsyncStub]:
        """A stub to its listener."""
        parts: Any = self
        conduct = PeerConduct(self.clock, on_broken=self.broken.append, conduct=self.conduct)
        servicer = NodeServicer(
            PeerService(parts, parts, NothingLearned()), version="0", conduct=conduct
        )
        server = PeerServer(servicer, host="127.0.0.1", port=0)
        port = await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = node_pb2_grpc.NodeServiceStub(channel)
            yield stub
        await server.stop(grace_s=0)


class Liar:
    """A peer that answers every call with the messages that it was given."""

    def __init__(self, *messages: Any) -> None:
        self.messages = messages
        for call in node_pb2.DESCRIPTOR.services_by_name["NodeService"].methods:
            setattr(self, call.name, self._stream if call.server_streaming else self._one)

    async def _stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for message in self.messages:
            yield message

    async def _one(self, request: Any, context: Any) -> Any:
        return self.messages[0]

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its address."""
        server = grpc.aio.server()
        servicer: Any = self
        node_pb2_grpc.add_NodeServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


def offload_message(**fields: Any) -> node_pb2.OffloadRequest:
    """An attempt that is in order but for `fields`."""
    message = node_pb2.OffloadRequest(
        task_id="victim-01ARZ3NDEKTSV4RRFFQ69G5FAV",
        origin="victim",
        origin_incarnation=1,
        dispatch=1,
        work=3.0,
        deadline_s=60.0,
    )
    message.fence.term, message.fence.attempt, message.attempt = 1, 1, 4097
    message.drawing.MergeFrom(
        type(message.drawing)(
            prompt="a",
            width_px=64,
            height_px=64,
            steps=4,
            guidance_scale=5.0,
            model="m",
            image_format="png",
            image_quality=90,
            strength=1.0,
        )
    )
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@contextlib.contextmanager
def refused(status: grpc.StatusCode) -> Iterator[None]:
    """A call that ends with this status."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert caught.value.code() is status, caught.value
