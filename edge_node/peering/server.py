"""The gRPC listener of a node: translates calls into the dispatcher's words.

Owns the listener, health and reflection. It decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
from dedgeai.v1 import node_pb2, node_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edge_node.dispatch.dispatcher import Dispatcher
from edge_node.domain import AttemptFailed, AttemptFinished, JobId, TaskId
from edge_node.errors import DEdgeAIError
from edge_node.peering import codec, node_codec
from edge_node.peering.client import KEEPALIVE_OPTIONS
from edge_node.peering.membership import Membership
from edge_node.peering.status import abort

IMAGE_CHUNK_BYTES = 256 * 1024
SERVICE_NAME = node_pb2.DESCRIPTOR.services_by_name["NodeService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class NodeServicer(node_pb2_grpc.NodeServiceServicer):
    """NodeService on a dispatcher and a membership."""

    def __init__(self, dispatcher: Dispatcher, membership: Membership, *, version: str) -> None:
        self._dispatcher = dispatcher
        self._membership = membership
        self._version = version

    async def Describe(
        self, request: node_pb2.NodeServiceDescribeRequest, context: Context
    ) -> node_pb2.NodeServiceDescribeResponse:
        state = self._dispatcher.own_node.state()
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
        host = caller_host(context.peer())

        async def listen() -> None:
            async for request in request_iterator:
                self._membership.hello(node_codec.state_from_proto(request.state), host=host)

        listening = asyncio.create_task(listen())
        try:
            async for state in self._membership.own_states():
                if listening.done():
                    return
                yield node_pb2.ExchangeStateResponse(state=node_codec.state_to_proto(state))
        finally:
            listening.cancel()

    async def Offload(
        self, request: node_pb2.OffloadRequest, context: Context
    ) -> AsyncIterator[node_pb2.OffloadResponse]:
        offload = node_codec.offload_from_proto(request)
        reports = await self._dispatcher.executor.host(offload, init_image=request.init_image)
        try:
            while True:
                report = await reports.get()
                yield node_codec.report_to_proto(report)
                if isinstance(report, AttemptFinished | AttemptFailed):
                    return
        finally:
            # Also when the origin hung up or died: it will have placed the task again.
            self._dispatcher.executor.unhost(offload.task_id, offload.attempt, reports)

    async def CancelOffload(
        self, request: node_pb2.CancelOffloadRequest, context: Context
    ) -> node_pb2.CancelOffloadResponse:
        self._dispatcher.executor.cancel_hosted(TaskId(request.task_id), request.attempt)
        return node_pb2.CancelOffloadResponse()

    async def GetTask(
        self, request: node_pb2.GetTaskRequest, context: Context
    ) -> node_pb2.GetTaskResponse:
        try:
            record = await self._dispatcher.own_tasks.read_task(TaskId(request.task_id))
        except DEdgeAIError as error:
            await abort(context, error)
        return node_pb2.GetTaskResponse(task=node_codec.record_to_proto(record))

    async def GetJob(
        self, request: node_pb2.GetJobRequest, context: Context
    ) -> node_pb2.GetJobResponse:
        try:
            records = await self._dispatcher.own_tasks.read_job(JobId(request.job_id))
        except DEdgeAIError as error:
            await abort(context, error)
        return node_pb2.GetJobResponse(
            job_id=request.job_id, tasks=[node_codec.record_to_proto(r) for r in records]
        )

    async def CancelTask(
        self, request: node_pb2.CancelTaskRequest, context: Context
    ) -> node_pb2.CancelTaskResponse:
        try:
            record = await self._dispatcher.own_tasks.cancel(TaskId(request.task_id))
        except DEdgeAIError as error:
            await abort(context, error)
        return node_pb2.CancelTaskResponse(task=node_codec.record_to_proto(record))

    async def WatchTask(
        self, request: node_pb2.WatchTaskRequest, context: Context
    ) -> AsyncIterator[node_pb2.WatchTaskResponse]:
        events = self._dispatcher.own_tasks.watch(TaskId(request.task_id), after=request.after)
        try:
            async for event in events:
                yield node_codec.event_to_proto(event)
        except DEdgeAIError as error:
            await abort(context, error)

    async def FetchImage(
        self, request: node_pb2.FetchImageRequest, context: Context
    ) -> AsyncIterator[node_pb2.FetchImageResponse]:
        try:
            content, media_type = await self._dispatcher.own_tasks.read_image(
                TaskId(request.task_id)
            )
        except DEdgeAIError as error:
            await abort(context, error)
        for start in range(0, len(content), IMAGE_CHUNK_BYTES):
            yield node_pb2.FetchImageResponse(
                media_type=media_type if start == 0 else "",
                chunk=content[start : start + IMAGE_CHUNK_BYTES],
            )


def caller_host(peer: str) -> str | None:
    """IP address in gRPC's name of a caller, `ipv4:10.0.0.2:4711` or `ipv6:%5B::1%5D:4711`."""
    kind, _, address = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    return address.rpartition(":")[0].strip("[]").removeprefix("::ffff:")


class PeerServer:
    """The listener with NodeService, health and reflection."""

    def __init__(self, servicer: NodeServicer, *, host: str, port: int) -> None:
        self._servicer = servicer
        self._host = host
        self._port = port
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Binds and serves; returns the port. Raises RuntimeError if it is taken."""
        self._server = grpc.aio.server(
            options=[
                *KEEPALIVE_OPTIONS,
                ("grpc.max_receive_message_length", codec.MESSAGE_BYTES_MAX),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
                ("grpc.so_reuseport", 0),
            ]
        )
        node_pb2_grpc.add_NodeServiceServicer_to_server(self._servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        bound = self._server.add_insecure_port(f"{self._host}:{self._port}")
        await self._server.start()
        return bound

    async def set_serving(self, serving: bool) -> None:
        """What health checks are told."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        value = status.SERVING if serving else status.NOT_SERVING
        for service in ("", SERVICE_NAME):
            await self._health.set(service, value)

    async def stop(self, *, grace_s: float) -> None:
        """Takes no new calls and ends those under way after `grace_s`."""
        if self._server is not None:
            await self._server.stop(grace_s)
