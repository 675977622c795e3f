"""The worker's gRPC face on a Unix socket.

Owns the server, its health and the bridge between the engine's threads and asyncio. It decides
nothing about drawings and must not import torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from dedgeai.v1 import worker_pb2, worker_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edge_node.domain import AttemptFailed, AttemptFinished
from edge_node.errors import DEdgeAIError
from edge_node.grpc_health import Health
from edge_node.peering import codec, rows_codec
from edge_node.shared_rows import RowGiven, RowWanted
from edge_node.worker.attempts import Report
from edge_node.worker.drawings import Drawings, submit
from edge_node.worker.step_engine import StepEngine

SERVICE_NAME = "dedgeai.v1.WorkerService"
# A watcher hears of the load at least this often, or it must think that the worker hangs.
LOAD_INTERVAL_S_MAX = 0.5
# Changes closer together than this are told as one: a message costs node and worker as much as a
# drawing's reports do.
LOAD_INTERVAL_S_MIN = 0.1
# Between two looks at what watchers of the health are told; a check looks itself.
HEALTH_INTERVAL_S = 0.5
STOP_GRACE_S = 0.5

Told = TypeVar("Told")


class SocketUnusable(Exception):
    """No socket can be served at the path; the message says what to do."""


class ChangeSignal:
    """Lets any number of coroutines wait for the next change, announced from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Of the last change; replaced by the next one.
        self.latest = object()
        self._waiting: set[asyncio.Future[None]] = set()

    def announce(self) -> None:
        """Wakes all that wait; may be called from any thread, and after the loop is gone."""
        self.latest = object()
        if self._waiting:  # who begins to wait now looks at `latest` once more
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    async def wait(self, *, after: object, wait_s_max: float) -> None:
        """Returns when there was a change after `after`, or after `wait_s_max`."""
        changed = self._loop.create_future()
        self._waiting.add(changed)
        try:
            if self.latest is after:
                await asyncio.wait([changed], timeout=wait_s_max)
        finally:
            self._waiting.discard(changed)

    def _wake(self) -> None:
        for changed in self._waiting:
            if not changed.done():
                changed.set_result(None)


class WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    """WorkerService of worker.proto on one engine."""

    def __init__(self, engine: StepEngine[Any], *, changes: ChangeSignal) -> None:
        self._engine = engine
        self._changes = changes
        self._drawing: dict[asyncio.Queue[Report], None] = {}
        self._drawing_many: dict[Drawings, None] = {}

    def say_goodbye(self) -> None:
        """Ends every drawing for a reason that is not its own: the worker was told to stop."""
        message = "The worker was told to stop."
        failure = AttemptFailed(code="worker_lost", message=message, retryable=True)
        for reports in self._drawing:
            reports.put_nowait(failure)
        for drawings in self._drawing_many:
            drawings.end_all(failure)

    async def Describe(
        self, request: worker_pb2.DescribeRequest, context: Any
    ) -> worker_pb2.DescribeResponse:
        """Model, limits and calibration, while loading, too."""
        return codec.description_to_proto(self._engine.describe())

    async def Draw(
        self, request: worker_pb2.DrawRequest, context: Any
    ) -> AsyncIterator[worker_pb2.DrawResponse]:
        """Draws; leaving this generator early, as grpc does on a cancelled call, cancels."""
        loop = asyncio.get_running_loop()
        reports: asyncio.Queue[Report] = asyncio.Queue()
        try:
            arrival = submit(self._engine, request, on_report=_onto(loop, reports))
        except DEdgeAIError as error:
            await context.abort(grpc.StatusCode[error.grpc_status], error.message)
        self._drawing[reports] = None
        try:
            while True:
                report = await reports.get()
                yield codec.report_to_draw_response(report)
                if isinstance(report, AttemptFinished | AttemptFailed):
                    return
        finally:
            del self._drawing[reports]
            self._engine.cancel(arrival)

    async def DrawMany(
        self, request_iterator: AsyncIterator[worker_pb2.DrawManyRequest], context: Any
    ) -> AsyncIterator[worker_pb2.DrawManyResponse]:
        """Draws whatever is wanted; leaving this generator cancels what is under way."""
        drawings = Drawings(self._engine, asyncio.get_running_loop())
        listening = asyncio.create_task(drawings.listen(request_iterator))
        self._drawing_many[drawings] = None
        try:
            ended = False
            while not ended:
                ended = drawings.ended
                for told in await drawings.told():
                    yield worker_pb2.DrawManyResponse(told=told)
        finally:
            del self._drawing_many[drawings]
            listening.cancel()
            drawings.cancel_all()

    async def ShareRows(
        self, request_iterator: AsyncIterator[worker_pb2.ShareRowsRequest], context: Any
    ) -> AsyncIterator[worker_pb2.ShareRowsResponse]:
        """Asks for rows of own steps for as long as the node listens."""
        loop, sharing = asyncio.get_running_loop(), self._engine.sharing
        asked: asyncio.Queue[RowWanted] = asyncio.Queue()

        async def hear() -> None:
            async for told in request_iterator:
                sharing.answered(rows_codec.given_from_proto(told.given))

        ask = _onto(loop, asked)
        hearing = asyncio.create_task(hear())
        sharing.ask_by(ask)
        try:
            while True:
                wanted = await asked.get()
                yield worker_pb2.ShareRowsResponse(wanted=rows_codec.wanted_to_proto(wanted))
        finally:
            sharing.ask_no_more(ask)
            hearing.cancel()

    async def GiveRow(
        self, request: worker_pb2.GiveRowRequest, context: Any
    ) -> worker_pb2.GiveRowResponse:
        """Computes a row for another device, or says why not."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[RowGiven] = asyncio.Queue()
        try:
            wanted = rows_codec.wanted_from_proto(request.wanted)
        except DEdgeAIError as error:
            await context.abort(grpc.StatusCode[error.grpc_status], error.message)
        self._engine.give_row(wanted, _onto(loop, told))
        return worker_pb2.GiveRowResponse(given=rows_codec.given_to_proto(await told.get()))

    async def WatchLoad(
        self, request: worker_pb2.WatchLoadRequest, context: Any
    ) -> AsyncIterator[worker_pb2.WatchLoadResponse]:
        """Load at once, on every change and at least every half second."""
        while True:
            latest = self._changes.latest
            yield codec.load_to_proto(self._engine.load())
            await asyncio.sleep(LOAD_INTERVAL_S_MIN)
            wait_s_max = LOAD_INTERVAL_S_MAX - LOAD_INTERVAL_S_MIN
            await self._changes.wait(after=latest, wait_s_max=wait_s_max)


def _onto(loop: asyncio.AbstractEventLoop, told: asyncio.Queue[Told]) -> Callable[[Told], None]:
    def put(one: Told) -> None:
        # The loop is closed when the process is on its way out; nobody waits for it then.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(told.put_nowait, one)

    return put


async def serve(
    *,
    socket_path: pathlib.Path,
    engine: StepEngine[Any],
    changes: ChangeSignal,
    stopped: asyncio.Event,
) -> None:
    """Serves until `stopped` is set; answers from the first moment, while the model loads."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", codec.MESSAGE_BYTES_MAX)])
    service = WorkerService(engine, changes=changes)
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(service, server)
    health_servicer = Health()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection(
        (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    try:
        server.add_insecure_port(f"unix:{socket_path}")
    except RuntimeError as error:
        raise SocketUnusable(
            f"no socket can be served at {socket_path}: its folder must be there, user "
            f"{os.getuid()} be allowed to write to it, and nothing but a socket lie there ({error})"
        ) from None
    await server.start()
    engine.start()
    health_keeper = asyncio.create_task(_keep_health(health_servicer, engine))
    try:
        await stopped.wait()
    finally:
        service.say_goodbye()
        health_keeper.cancel()
        await server.stop(STOP_GRACE_S)


async def _keep_health(servicer: Health, engine: StepEngine[Any]) -> None:
    shown: bool | None = None

    async def look() -> None:
        nonlocal shown
        ready = engine.describe().state == "ready"
        if ready != shown:
            shown = ready
            await servicer.tell(ready, ("", SERVICE_NAME))

    servicer.look = look
    while True:
        await look()
        await asyncio.sleep(HEALTH_INTERVAL_S)
