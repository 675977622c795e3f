"""How busy this node is, for gRPC clients that balance: ORCA's stream, out of band.

gRPC's proposal A51 has the service and A58 what a client makes of it: `weighted_round_robin` gives
each node its share by rps / utilisation. Here that is drawings a second over seconds of work ahead,
so that of nodes equally far behind the faster one gets more, and one far behind next to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from dedgeai.v1 import load_report_pb2

from edge_node.domain import NodeState

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE_NAME = "xds.service.orca.v3.OpenRcaService"
# Clients ask for 10 s where nothing is set; oftener than this would cost more than it tells.
INTERVAL_S_MIN = 0.5
STREAMS_MAX = 256
# Clients take 0 for "does not say". A node that takes nothing looks as if it were so far behind.
AHEAD_S_MIN = 0.01
CLOSED_AHEAD_S = 3600.0
RATE_HZ_MIN = 1e-6


def report_of(state: NodeState) -> load_report_pb2.LoadReport:
    """A node's state as a balancer reads it."""
    draws = state.accepting and state.capacity > 0.0
    ahead_s = state.backlog / state.capacity if draws else CLOSED_AHEAD_S
    rate_hz = RATE_HZ_MIN
    if draws and state.serves:
        served = state.serves[0]
        rate_hz = state.capacity / (served.steps_default + served.work_model.fixed_steps)
    return load_report_pb2.LoadReport(
        rps_fractional=rate_hz,
        application_utilization=max(AHEAD_S_MIN, ahead_s),
        named_metrics={
            "queued": state.queued,
            "running": state.running,
            "backlog": state.backlog,
            "capacity": state.capacity,
        },
    )


def interval_of(request: load_report_pb2.LoadReportRequest) -> float:
    """Seconds between two reports."""
    asked = request.report_interval
    return max(INTERVAL_S_MIN, asked.seconds + asked.nanos / 1e9)


class LoadReports:
    """The service, under its official name.

    Args:
        state: of this node, as it is now.
    """

    def __init__(self, state: Callable[[], NodeState]) -> None:
        self._state = state
        self._streams = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """For a server."""
        stream = grpc.unary_stream_rpc_method_handler(
            self._stream,
            request_deserializer=load_report_pb2.LoadReportRequest.FromString,
            response_serializer=load_report_pb2.LoadReport.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE_NAME, {"StreamCoreMetrics": stream})

    async def _stream(
        self,
        request: load_report_pb2.LoadReportRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[load_report_pb2.LoadReport]:
        if self._streams >= STREAMS_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{STREAMS_MAX} clients are told of the load already. Ask another node.",
            )
        interval_s = interval_of(request)
        self._streams += 1
        try:
            while True:
                yield report_of(self._state())
                await asyncio.sleep(interval_s)
        finally:
            self._streams -= 1
