"""What health checks over gRPC are told, by a real client: the node's readiness, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edge_node.peering.server import SERVICE_NAME, NodeServicer, PeerServer
from edge_node.peering.service import PeerService

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Node:
    """A listener, and a readiness that the test sets."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        rest: Any = None
        servicer = NodeServicer(PeerService(rest, rest, rest), version="0")
        self.server = PeerServer(servicer, host=host, port=0)
        self.reasons: tuple[str, ...] = ("the worker is starting",)

    def readiness(self) -> tuple[str, ...]:
        return self.reasons


@asynccontextmanager
async def asked(node: Node) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    port = await node.server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield health_pb2_grpc.HealthStub(channel)
    finally:
        await node.server.stop(grace_s=0)


@pytest.mark.parametrize("service", ["", SERVICE_NAME])
def test_health_follows_readiness(service: str) -> None:
    async def story() -> None:
        node = Node()
        async with asyncio.timeout(20), asked(node) as health:
            request = health_pb2.HealthCheckRequest(service=service)
            assert (await health.Check(request)).status == NOT_SERVING  # before the first look
            watching = health.Watch(request)
            assert (await watching.read()).status == NOT_SERVING
            following = asyncio.create_task(node.server.follow(node.readiness))
            node.reasons = ()
            assert (await watching.read()).status == SERVING
            assert (await health.Check(request)).status == SERVING
            node.reasons = ("the store is away",)
            assert (await watching.read()).status == NOT_SERVING
            node.reasons = ()
            assert (await watching.read()).status == SERVING
            node.reasons = ("the node is draining",)
            assert (await watching.read()).status == NOT_SERVING
            watching.cancel()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            # What was said last stands until the listener is gone.
            assert (await health.Check(request)).status == NOT_SERVING

    asyncio.run(story())


def test_a_check_says_what_holds_at_that_moment() -> None:
    """Not what held at the last look: REST says "ready" from the same moment on."""

    async def story() -> None:
        node = Node()
        async with asyncio.timeout(20), asked(node) as health:
            request = health_pb2.HealthCheckRequest(service="")
            following = asyncio.create_task(node.server.follow(node.readiness))
            for _ in range(5):
                for reasons, status in (((), SERVING), (("it drains",), NOT_SERVING)):
                    node.reasons = reasons
                    assert (await health.Check(request)).status == status
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    asyncio.run(story())


def test_each_change_of_readiness_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        node = Node()
        async with asked(node):
            following = asyncio.create_task(node.server.follow(node.readiness))
            await asyncio.sleep(0.6)
            node.reasons = ("the worker failed: x", "the store is away")
            await asyncio.sleep(0.4)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    with caplog.at_level("INFO"):
        asyncio.run(story())
    said = [one.getMessage() for one in caplog.records if one.name == "edge_node.peering.server"]
    assert said == [
        "not ready: the worker is starting",
        "not ready: the worker failed: x; the store is away",
    ]


@pytest.mark.parametrize(("host", "told"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_only_on_loopback_a_listener_tells_what_it_can_be_asked(host: str, told: bool) -> None:
    async def story() -> None:
        node = Node(host)
        port = await node.server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
                stub = reflection_pb2_grpc.ServerReflectionStub(channel)
                call = stub.ServerReflectionInfo(asked)
                if told:
                    async for listed in call:
                        names = [one.name for one in listed.list_services_response.service]
                        assert SERVICE_NAME in names
                code = await call.code()
                assert code is (grpc.StatusCode.OK if told else grpc.StatusCode.UNIMPLEMENTED)
                request = health_pb2.HealthCheckRequest()
                answer = await health_pb2_grpc.HealthStub(channel).Check(request)
                assert answer.status == NOT_SERVING, "health is told anywhere"
        finally:
            await node.server.stop(grace_s=0)

    asyncio.run(story())
