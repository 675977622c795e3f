"""The gRPC listener of a node: translates calls into the words of the peer service.

Owns the listener, health and reflection. It decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
from dedgeai.v1 import node_pb2, node_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edge_node.clock import SystemClock
from edge_node.domain import Fence, JobId, NodeState, TaskId
from edge_node.errors import DEdgeAIError, InvalidRequest, MalformedMessage, NotTheCaller
from edge_node.grpc_health import Health
from edge_node.peering import (
    codec,
    event_codec,
    learning_codec,
    list_codec,
    message_rules,
    moves_codec,
    node_codec,
    rows_codec,
)
from edge_node.peering.caller import Caller, PeerConduct, is_loopback
from edge_node.peering.client import KEEPALIVE_OPTIONS
from edge_node.peering.load_report import LoadReports
from edge_node.peering.service import PeerService
from edge_node.peering.status import abort
from edge_node.peering.tls import NodeTls
from edge_node.requests import NodeAction
from edge_node.trace_context import TraceContext, current

log = logging.getLogger(__name__)

# Between two looks at whether the node is ready.
READINESS_LOOK_S = 0.25
IMAGE_CHUNK_BYTES = 256 * 1024
# Open at once: a peer has one or two. REST leaves files for them (api/connections.py).
CONNECTIONS_MAX = 256
# That one may say nothing at first, or have no call under way later.
GREETING_S_MAX = 5.0
IDLE_S_MAX = 300.0
SERVICE_NAME = node_pb2.DESCRIPTOR.services_by_name["NodeService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class NodeServicer(node_pb2_grpc.NodeServiceServicer):
    """NodeService on a PeerService: messages in, messages out, errors as statuses."""

    def __init__(
        self,
        service: PeerService,
        *,
        version: str,
        conduct: PeerConduct | None = None,
        tls: NodeTls | None = None,
    ) -> None:
        self._tls = tls
        self._service = service
        self._version = version
        self._conduct = conduct or PeerConduct(SystemClock())

    def own_state(self) -> NodeState:
        """This node's, as it is now."""
        return self._service.own_state()

    @asynccontextmanager
    async def _call(self, rpc: str, context: Context) -> AsyncIterator[Caller]:
        """Who calls; one who is set aside, and an error of ours, end the call with its status."""
        caller = Caller(host=caller_host(context.peer()))
        try:
            if self._tls is not None:
                caller = replace(caller, node_id=self._tls.caller_id(context))
            self._conduct.refuse_aside(caller.who)
            yield caller
        except (MalformedMessage, NotTheCaller) as error:
            self._conduct.broke(caller.who, rpc, error)
            await abort(context, error)
        except DEdgeAIError as error:
            await abort(context, error)

    async def Describe(
        self, request: node_pb2.NodeServiceDescribeRequest, context: Context
    ) -> node_pb2.NodeServiceDescribeResponse:
        async with self._call("Describe", context):
            state = self._service.own_state()
            return node_pb2.NodeServiceDescribeResponse(
                node_id=state.node_id,
                version=self._version,
                model=state.model,
                model_fingerprint=state.model_fingerprint,
                rest_url=state.rest_url,
                device=state.device,
                emulated_device=state.emulated_device,
            )

    async def ExchangeState(
        self, request_iterator: AsyncIterator[node_pb2.ExchangeStateRequest], context: Context
    ) -> AsyncIterator[node_pb2.ExchangeStateResponse]:
        async with self._call("ExchangeState", context) as caller:

            async def heard() -> AsyncIterator[NodeState]:
                async for one in request_iterator:
                    self._conduct.refuse_aside(caller.who)
                    yield node_codec.state_from_proto(one.state)

            exchange = self._service.exchange_state(heard(), caller=caller)
            async with aclosing(exchange) as own_states:
                async for state in own_states:
                    yield node_pb2.ExchangeStateResponse(state=node_codec.state_to_proto(state))

    async def Offload(
        self, request: node_pb2.OffloadRequest, context: Context
    ) -> AsyncIterator[node_pb2.OffloadResponse]:
        async with self._call("Offload", context) as caller:
            # Of this call alone, which has a context of its own.
            current.set(_trace_told(context))
            offload = node_codec.offload_from_proto(request)
            node_codec.check_init_image(request)
            hosting = self._service.offload(offload, init_image=request.init_image, caller=caller)
            async with aclosing(hosting) as reports:
                async for report in reports:
                    yield node_codec.report_to_proto(report)

    async def CancelOffload(
        self, request: node_pb2.CancelOffloadRequest, context: Context
    ) -> node_pb2.CancelOffloadResponse:
        async with self._call("CancelOffload", context) as caller:
            message_rules.check(request)
            fence = codec.fence_from_proto(request)
            self._service.cancel_offload(TaskId(request.task_id), fence, caller=caller)
            return node_pb2.CancelOffloadResponse()

    async def HandOver(
        self, request: node_pb2.HandOverRequest, context: Context
    ) -> node_pb2.HandOverResponse:
        async with self._call("HandOver", context) as caller:
            message_rules.check(request)
            fence = Fence(request.fence.term, request.fence.attempt)
            self._service.hand_over(TaskId(request.task_id), fence, caller=caller)
            return node_pb2.HandOverResponse()

    async def ComputeRow(
        self, request: node_pb2.ComputeRowRequest, context: Context
    ) -> node_pb2.ComputeRowResponse:
        async with self._call("ComputeRow", context) as caller:
            message_rules.check(request)
            wanted = rows_codec.wanted_from_proto(request.wanted)
            given = await self._service.compute_row(wanted, caller=caller)
            return node_pb2.ComputeRowResponse(given=rows_codec.given_to_proto(given))

    async def TakeTask(
        self, request: node_pb2.TakeTaskRequest, context: Context
    ) -> node_pb2.TakeTaskResponse:
        async with self._call("TakeTask", context) as caller:
            message_rules.check(request)
            wanted = moves_codec.wanted_from_proto(request)
            return node_pb2.TakeTaskResponse(granted=self._service.take_task(wanted, caller=caller))

    async def GetTask(
        self, request: node_pb2.GetTaskRequest, context: Context
    ) -> node_pb2.GetTaskResponse:
        async with self._call("GetTask", context):
            message_rules.check(request)
            record = await self._service.read_task(TaskId(request.task_id))
            return node_pb2.GetTaskResponse(task=node_codec.record_to_proto(record))

    async def GetJob(
        self, request: node_pb2.GetJobRequest, context: Context
    ) -> node_pb2.GetJobResponse:
        async with self._call("GetJob", context):
            message_rules.check(request)
            records = await self._service.read_job(JobId(request.job_id))
            return node_pb2.GetJobResponse(
                job_id=request.job_id, tasks=[node_codec.record_to_proto(r) for r in records]
            )

    async def CancelTask(
        self, request: node_pb2.CancelTaskRequest, context: Context
    ) -> node_pb2.CancelTaskResponse:
        async with self._call("CancelTask", context):
            message_rules.check(request)
            record = await self._service.cancel_task(TaskId(request.task_id))
            return node_pb2.CancelTaskResponse(task=node_codec.record_to_proto(record))

    async def ListTasks(
        self, request: node_pb2.ListTasksRequest, context: Context
    ) -> node_pb2.ListTasksResponse:
        async with self._call("ListTasks", context):
            wanted, before, count = list_codec.request_from_proto(request)
            page = await self._service.list_tasks(wanted, before=before, count=count)
            return list_codec.page_to_proto(page)

    async def CancelTasks(
        self, request: node_pb2.CancelTasksRequest, context: Context
    ) -> node_pb2.CancelTasksResponse:
        async with self._call("CancelTasks", context):
            message_rules.check(request)
            wanted = list_codec.filter_from_proto(request.filter)
            return node_pb2.CancelTasksResponse(cancelled=await self._service.cancel_tasks(wanted))

    async def Operate(
        self, request: node_pb2.OperateRequest, context: Context
    ) -> node_pb2.OperateResponse:
        async with self._call("Operate", context):
            message_rules.check(request)
            self._service.operate(NodeAction(request.action))
            return node_pb2.OperateResponse()

    async def EraseTask(
        self, request: node_pb2.EraseTaskRequest, context: Context
    ) -> node_pb2.EraseTaskResponse:
        async with self._call("EraseTask", context):
            message_rules.check(request)
            await self._service.erase_task(TaskId(request.task_id))
            return node_pb2.EraseTaskResponse()

    async def ForgetTask(
        self, request: node_pb2.ForgetTaskRequest, context: Context
    ) -> node_pb2.ForgetTaskResponse:
        async with self._call("ForgetTask", context) as caller:
            message_rules.check(request)
            forgotten = await self._service.forget_task(
                TaskId(request.task_id),
                init_image_sha256=request.init_image_sha256,
                caller=caller,
            )
            return node_pb2.ForgetTaskResponse(forgotten=forgotten)

    async def WatchTask(
        self, request: node_pb2.WatchTaskRequest, context: Context
    ) -> AsyncIterator[node_pb2.WatchTaskResponse]:
        async with self._call("WatchTask", context):
            message_rules.check(request)
            watching = self._service.watch_task(TaskId(request.task_id), after=request.after)
            async with aclosing(watching) as events:
                async for event in events:
                    yield node_codec.event_to_proto(event)

    async def WatchEvents(
        self, request: node_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[node_pb2.WatchEventsResponse]:
        async with self._call("WatchEvents", context):
            message_rules.check(request)
            after = request.after if request.HasField("after") else None
            reading = self._service.watch_events(
                after=after, client=request.client, previews=request.previews
            )
            async with aclosing(reading) as happenings:
                async for happened in happenings:
                    yield event_codec.happened_to_proto(happened)

    async def FetchImage(
        self, request: node_pb2.FetchImageRequest, context: Context
    ) -> AsyncIterator[node_pb2.FetchImageResponse]:
        async with self._call("FetchImage", context):
            message_rules.check(request)
            content, media_type = await self._service.fetch_image(TaskId(request.task_id))
            for start in range(0, len(content), IMAGE_CHUNK_BYTES):
                yield node_pb2.FetchImageResponse(
                    media_type=media_type if start == 0 else "",
                    chunk=content[start : start + IMAGE_CHUNK_BYTES],
                )

    async def ReadExperience(
        self, request: node_pb2.ReadExperienceRequest, context: Context
    ) -> AsyncIterator[node_pb2.ReadExperienceResponse]:
        async with self._call("ReadExperience", context):
            message_rules.check(request)
            reading = self._service.read_experience(request.after, entries_max=request.entries_max)
            async with aclosing(reading) as pages:
                async for page in pages:
                    yield learning_codec.page_to_proto(page)

    async def FetchWeights(
        self, request: node_pb2.FetchWeightsRequest, context: Context
    ) -> AsyncIterator[node_pb2.FetchWeightsResponse]:
        async with self._call("FetchWeights", context):
            message_rules.check(request)
            weights, content = self._service.weights(request.sha256)
            about = learning_codec.weights_to_proto(weights)
            yield node_pb2.FetchWeightsResponse(weights=about)
            for chunk in learning_codec.chunks(content):
                yield node_pb2.FetchWeightsResponse(chunk=chunk)

    async def OfferWeights(
        self, request_iterator: AsyncIterator[node_pb2.OfferWeightsRequest], context: Context
    ) -> node_pb2.OfferWeightsResponse:
        async with self._call("OfferWeights", context):
            weights, content = await learning_codec.gathered(
                request_iterator, bytes_max=self._service.weights_bytes_max
            )
            await self._service.offer_weights(weights, content)
            return node_pb2.OfferWeightsResponse()

    async def OfferVerdict(
        self, request: node_pb2.OfferVerdictRequest, context: Context
    ) -> node_pb2.OfferVerdictResponse:
        async with self._call("OfferVerdict", context):
            message_rules.check(request)
            await self._service.offer_verdict(request.format, request.verdict)
            return node_pb2.OfferVerdictResponse()

    async def FetchKeys(
        self, request: node_pb2.FetchKeysRequest, context: Context
    ) -> node_pb2.FetchKeysResponse:
        async with self._call("FetchKeys", context):
            return node_pb2.FetchKeysResponse(signed_list=self._service.signed_keys())


def _trace_told(context: Context) -> TraceContext:
    """Which trace the call is a part of, as its metadata says."""
    metadata = context.invocation_metadata() or ()
    return TraceContext.told((key, value) for key, value in metadata if isinstance(value, str))


def caller_host(peer: str) -> str | None:
    """IP address in gRPC's name of a caller, `ipv4:10.0.0.2:4711` or `ipv6:%5B::1%5D:4711`."""
    kind, _, address = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    return address.rpartition(":")[0].strip("[]").removeprefix("::ffff:")


class PeerServer:
    """The listener with NodeService, health and load, and on loopback reflection.

    With `tls` it is for its cluster only.
    """

    def __init__(
        self, servicer: NodeServicer, *, host: str, port: int, tls: NodeTls | None = None
    ) -> None:
        self._tls = tls
        self._servicer = servicer
        self._host = host
        self._port = port
        self._health = Health()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Binds and serves; returns the port. Raises InvalidRequest if it cannot be had."""
        await self.set_serving(False)  # or it would be until the first look at the readiness
        self._server = grpc.aio.server(
            options=[
                *KEEPALIVE_OPTIONS,
                ("grpc.max_receive_message_length", codec.MESSAGE_BYTES_MAX),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
                ("grpc.so_reuseport", 0),
                ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
                ("grpc.server_handshake_timeout_ms", int(GREETING_S_MAX * 1000)),
                ("grpc.max_connection_idle_ms", int(IDLE_S_MAX * 1000)),
            ]
        )
        node_pb2_grpc.add_NodeServiceServicer_to_server(self._servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        load = LoadReports(self._servicer.own_state)
        self._server.add_generic_rpc_handlers((load.handler(),))
        if is_loopback(self._host):  # for whoever works on it; other machines need it to attack
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        try:
            address = f"{self._host}:{self._port}"
            if self._tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, self._tls.server_credentials())
        except RuntimeError as problem:
            raise InvalidRequest(
                f"The port {self._port} on {self._host} for other nodes cannot be had: another "
                "process uses it, or the address is not this machine's. Stop it, or set grpc_host "
                "and grpc_port.",
                param="grpc_port",
            ) from problem
        await self._server.start()
        return bound

    async def set_serving(self, serving: bool) -> None:
        """What health checks are told."""
        await self._health.tell(serving, ("", SERVICE_NAME))

    async def follow(self, readiness: Callable[[], tuple[str, ...]]) -> None:
        """Tells health checks what the node says of itself, until it is cancelled.

        `readiness` gives the reasons for which requests should go elsewhere, none when they need
        not.
        """
        said: tuple[str, ...] | None = None

        async def look() -> None:
            nonlocal said
            reasons = readiness()
            if reasons != said:
                said = reasons
                log.info("not ready: %s", "; ".join(reasons)) if reasons else log.info("ready")
                await self.set_serving(not reasons)

        self._health.look = look
        try:
            while True:
                await look()
                await asyncio.sleep(READINESS_LOOK_S)
        finally:
            self._health.look = None

    async def stop(self, *, grace_s: float) -> None:
        """Takes no new calls and ends those under way after `grace_s`."""
        if self._server is not None:
            await self._server.stop(grace_s)
