"""gRPC's own balancing by the load that nodes tell, and what any client reads of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from dedgeai.v1 import node_pb2, node_pb2_grpc
from dedgeai.v1.load_report_pb2 import LoadReportRequest
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory

from edge_node.domain import ModelFingerprint, NodeId, NodeState, ServedModel, WorkModel
from edge_node.peering import load_report
from edge_node.peering.load_report import SERVICE_NAME, interval_of, report_of
from edge_node.peering.server import NodeServicer, PeerServer
from edge_node.peering.service import PeerService

SERVED = ServedModel(
    name="sd3",
    fingerprint=ModelFingerprint("f"),
    work_model=WorkModel(fixed_steps=1.0, unguided_ratio=0.5, reference_px=512),
    size_px_min=256,
    size_px_max=1024,
    size_px_multiple=16,
    steps_max=50,
    steps_default=15,
    guidance_scale_default=5.0,
    guidance_scale_max=30.0,
    strength_default=0.6,
    prompt_chars_max=1000,
)
STATE = NodeState(
    node_id=NodeId("orin-1"),
    incarnation=1,
    sequence=1,
    accepting=True,
    backlog=32.0,
    capacity=8.0,
    queued=3,
    running=1,
    serves=(SERVED,),
)
# A policy of gRPC's own, which asks for reports on a connection of each node.
BALANCED = {
    "loadBalancingConfig": [
        {
            "weighted_round_robin": {
                "enableOobLoadReport": True,
                "oobReportingPeriod": "0.5s",
                "blackoutPeriod": "0s",
                "weightUpdatePeriod": "0.1s",
            }
        }
    ]
}


class Node:
    """A node's listener, with a state that the test sets, and the calls that came to it."""

    def __init__(self, state: NodeState) -> None:
        self.state = state
        self.asked = 0
        rest: Any = self
        self.server = PeerServer(
            NodeServicer(PeerService(rest, rest, rest), version="0"), host="127.0.0.1", port=0
        )
        self.port = 0

    @property
    def own_node(self) -> Any:
        node = self

        class Own:
            def state(self) -> NodeState:
                node.asked += 1
                return node.state

        return Own()


@contextlib.asynccontextmanager
async def listening(*states: NodeState) -> AsyncIterator[list[Node]]:
    nodes = [Node(state) for state in states]
    try:
        for node in nodes:
            node.port = await node.server.start()
        yield nodes
    finally:
        for node in nodes:
            await node.server.stop(grace_s=0)


def official() -> tuple[Any, Any]:
    """ORCA's messages as published, in a pool of their own: report and request."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_proto(duration_pb2.DESCRIPTOR))
    file = descriptor_pb2.FileDescriptorProto(
        name="orca.proto",
        package="xds.data.orca.v3",
        syntax="proto3",
        dependency=["google/protobuf/duration.proto"],
    )
    report = file.message_type.add(name="OrcaLoadReport")
    double, whole = 1, 4
    for name, number, kind in (
        ("cpu_utilization", 1, double),
        ("mem_utilization", 2, double),
        ("rps", 3, whole),
        ("rps_fractional", 6, double),
        ("eps", 7, double),
        ("application_utilization", 9, double),
    ):
        report.field.add(name=name, number=number, type=kind, label=1)
    for name, number in (("request_cost", 4), ("utilization", 5), ("named_metrics", 8)):
        entry = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        pair = report.nested_type.add(name=entry)
        pair.options.map_entry = True
        pair.field.add(name="key", number=1, type=9, label=1)
        pair.field.add(name="value", number=2, type=double, label=1)
        of = f".xds.data.orca.v3.OrcaLoadReport.{entry}"
        report.field.add(name=name, number=number, type=11, label=3, type_name=of)
    request = file.message_type.add(name="OrcaLoadReportRequest")
    request.field.add(
        name="report_interval",
        number=1,
        type=11,
        label=1,
        type_name=".google.protobuf.Duration",
    )
    request.field.add(name="request_cost_names", number=2, type=9, label=3)
    pool.Add(file)
    names = ("OrcaLoadReport", "OrcaLoadReportRequest")
    found = [pool.FindMessageTypeByName(f"xds.data.orca.v3.{name}") for name in names]
    first, second = [message_factory.GetMessageClass(one) for one in found]
    return first, second


def _proto(descriptor: Any) -> descriptor_pb2.FileDescriptorProto:
    copied = descriptor_pb2.FileDescriptorProto()
    descriptor.CopyToProto(copied)
    return copied


def test_any_client_reads_the_backlog_of_a_node() -> None:
    report_class, request_class = official()

    async def story() -> None:
        async with (
            asyncio.timeout(20),
            listening(STATE) as (node,),
            grpc.aio.insecure_channel(f"127.0.0.1:{node.port}") as channel,
        ):
            stream = channel.unary_stream(
                f"/{SERVICE_NAME}/StreamCoreMetrics",
                request_serializer=request_class.SerializeToString,
                response_deserializer=report_class.FromString,
            )
            request = request_class(request_cost_names=["x"])
            request.report_interval.nanos = 1  # oftener than the node does it
            call = stream(request)
            told: Any = await call.read()
            assert told.application_utilization == 4.0
            assert told.rps_fractional == 0.5  # of 15 steps and one for encoding and decoding
            assert dict(told.named_metrics) == {
                "queued": 3.0,
                "running": 1.0,
                "backlog": 32.0,
                "capacity": 8.0,
            }
            began_s = asyncio.get_running_loop().time()
            node.state = replace(STATE, backlog=0.0)
            told = await call.read()
            assert told.application_utilization == 0.01
            assert asyncio.get_running_loop().time() - began_s > 0.4
            call.cancel()

    asyncio.run(story())


def test_reports_come_as_often_as_is_asked_for_and_no_oftener() -> None:
    _, request_class = official()
    for seconds, nanos, expected_s in (
        (0, 0, 0.5),
        (0, 900_000_000, 0.9),
        (10, 250_000_000, 10.25),
    ):
        request = request_class()
        request.report_interval.seconds, request.report_interval.nanos = seconds, nanos
        content = request.SerializeToString()
        assert interval_of(LoadReportRequest.FromString(content)) == expected_s


def test_a_node_that_takes_nothing_looks_far_behind() -> None:
    for state in (replace(STATE, accepting=False), replace(STATE, capacity=0.0)):
        told = report_of(state)
        assert told.application_utilization == 3600.0
        assert told.rps_fractional > 0.0  # 0 would be no report at all


def test_grpc_itself_sends_less_to_a_node_that_is_far_behind() -> None:
    async def story() -> None:
        behind = replace(STATE, node_id=NodeId("orin-2"), backlog=320.0)
        async with asyncio.timeout(60), listening(STATE, behind) as nodes:
            target = "ipv4:" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
            options = [("grpc.service_config", json.dumps(BALANCED))]
            async with grpc.aio.insecure_channel(target, options=options) as channel:
                stub: Any = node_pb2_grpc.NodeServiceStub(channel)
                request = node_pb2.NodeServiceDescribeRequest()
                while min(node.asked for node in nodes) < 3:  # both have told
                    await stub.Describe(request)
                await asyncio.sleep(0.5)  # a weight is in force within a tenth of a second
                answers = [(await stub.Describe(request)).node_id for _ in range(220)]
            # By seconds ahead, ten to one: 200 and 20.
            assert 180 <= answers.count("orin-1") <= 215, answers.count("orin-1")

    asyncio.run(story())


def test_so_many_are_told_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_report, "STREAMS_MAX", 1)
    report_class, request_class = official()

    async def story() -> None:
        async with (
            asyncio.timeout(20),
            listening(STATE) as (node,),
            grpc.aio.insecure_channel(f"127.0.0.1:{node.port}") as channel,
        ):
            stream = channel.unary_stream(
                f"/{SERVICE_NAME}/StreamCoreMetrics",
                request_serializer=request_class.SerializeToString,
                response_deserializer=report_class.FromString,
            )
            first = stream(request_class())
            await first.read()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stream(request_class()).read()
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            first.cancel()
            while True:  # who has gone leaves a place
                with contextlib.suppress(grpc.aio.AioRpcError):
                    second = stream(request_class())
                    await second.read()
                    second.cancel()
                    return

    asyncio.run(story())
