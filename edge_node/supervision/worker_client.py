"""The node's side of the worker's socket.

Owns one channel, the call in which drawings travel, and the translation of gRPC's errors into ours.
It starts and restarts nothing, and the words of the wire end here.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from dedgeai.v1 import worker_pb2, worker_pb2_grpc

from edge_node import errors
from edge_node.checkpoint import Checkpoint
from edge_node.domain import AttemptReport, Drawing, Fence, TaskId, WorkerDescription, WorkerLoad
from edge_node.peering import codec, rows_codec
from edge_node.shared_rows import ANSWER_S_MAX, RowGiven, RowWanted
from edge_node.socket_path import check_socket_path
from edge_node.supervision.drawing_stream import DrawingStream, Refused, StreamClosed

DESCRIBE_S_MAX = 5.0

_OPTIONS = (
    ("grpc.max_receive_message_length", codec.MESSAGE_BYTES_MAX),
    # A worker comes back within a second or so; gRPC would wait up to two minutes to look again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)

_ERRORS: dict[grpc.StatusCode, type[errors.DEdgeAIError]] = {
    grpc.StatusCode.ABORTED: errors.StaleAttempt,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.AdmissionRefused,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.ModelNotFound,
}


class WorkerClient:
    """One worker behind one Unix socket; it need not be there yet, and it may come back."""

    def __init__(self, socket_path: pathlib.Path) -> None:
        self._socket_path = check_socket_path(socket_path)
        self._channel: grpc.aio.Channel | None = None
        self._stream: DrawingStream | None = None
        # A worker of 0.1.0 draws each in a call of its own.
        self._one_by_one = False
        self._closed = False
        # Drawings handed to it whose ends have not been heard.
        self.given = 0

    async def describe(self) -> WorkerDescription:
        """What the worker serves; raises WorkerUnavailable when it does not answer."""
        try:
            answer = await self._stub().Describe(
                worker_pb2.DescribeRequest(), timeout=DESCRIBE_S_MAX
            )
        except grpc.aio.AioRpcError as error:
            raise _translated(error.code(), error.details()) from error
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        return codec.description_from_proto(answer)

    async def draw(
        self,
        *,
        task_id: TaskId,
        fence: Fence,
        drawing: Drawing,
        priority: int = 0,
        init_image: bytes = b"",
        deadline_s: float | None = None,
        client: str = "",
        checkpoint_steps: int = 0,
        checkpoint: Checkpoint | None = None,
        age_s: float = 0.0,
    ) -> AsyncGenerator[AttemptReport, None]:
        """Draws and yields what happens; closing the generator cancels the drawing.

        Leaving an `async for` early does not close it: use `contextlib.aclosing`.

        Args:
            task_id: of the task.
            fence: distinguishes a later placement of it from an earlier one.
            drawing: what to draw.
            priority: larger is served first.
            init_image: PNG of the drawing's size that it names as the one to start from.
            deadline_s: seconds left until the image is of no use; None when it always is.
            client: who wants it; clients who wait share the device.
            checkpoint_steps: after which one is reported; 0 for never.
            checkpoint: to go on from.
            age_s: since it was asked for, wherever that was.

        Raises:
            WorkerUnavailable: the worker is not ready, or the connection broke on the way.
            StaleAttempt, AdmissionRefused, InvalidRequest, ModelNotFound: it refuses.
        """
        request = worker_pb2.DrawRequest(
            task_id=task_id,
            attempt=fence.integer,
            fence=codec.fence_to_proto(fence),
            drawing=codec.drawing_to_proto(drawing),
            priority=priority,
            init_image=init_image,
            deadline_s=codec.deadline_to_proto(deadline_s),
            client=client,
            checkpoint_steps=checkpoint_steps,
            checkpoint=codec.checkpoint_to_proto(checkpoint),
            age_s=age_s,
        )
        del init_image, checkpoint  # the call keeps the request to its end: one copy is enough
        self.given += 1
        try:
            async with aclosing(self._told(request)) as messages:
                del request
                async for message in messages:
                    report = codec.report_from_draw_response(message)
                    if report is not None:
                        yield report
        except grpc.aio.AioRpcError as error:
            raise _translated(error.code(), error.details()) from error
        except Refused as refused:
            raise _translated(refused.status, refused.details) from refused
        except StreamClosed as closed:
            raise errors.WorkerUnavailable(str(closed)) from closed
        finally:
            self.given -= 1

    def hand_over(self, task_id: TaskId, fence: Fence) -> None:
        """Ends a drawing after the step under way, with a checkpoint.

        Of a portable worker only: another one would take it back without a word.
        """
        if self._stream is not None:
            self._stream.hand_over(task_id, codec.fence_to_proto(fence))

    async def share_rows(self, answers: AsyncIterator[RowGiven]) -> AsyncGenerator[RowWanted, None]:
        """Rows that the worker would have others compute; `answers` is what came of them."""

        async def told() -> AsyncIterator[worker_pb2.ShareRowsRequest]:
            async for given in answers:
                yield worker_pb2.ShareRowsRequest(given=rows_codec.given_to_proto(given))

        call = self._stub().ShareRows(told())
        try:
            async for message in call:
                yield rows_codec.wanted_from_proto(message.wanted)
        except grpc.aio.AioRpcError as error:
            raise _translated(error.code(), error.details()) from error
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        finally:
            call.cancel()

    async def give_row(self, wanted: RowWanted) -> RowGiven:
        """Has the worker compute a row for another device; raises WorkerUnavailable."""
        request = worker_pb2.GiveRowRequest(wanted=rows_codec.wanted_to_proto(wanted))
        try:
            answer = await self._stub().GiveRow(request, timeout=ANSWER_S_MAX)
        except grpc.aio.AioRpcError as error:
            raise _translated(error.code(), error.details()) from error
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        return rows_codec.given_from_proto(answer.given)

    async def _told(
        self, request: worker_pb2.DrawRequest
    ) -> AsyncGenerator[worker_pb2.DrawResponse, None]:
        """What is told of a drawing, in the call of all drawings where the worker knows that."""
        if not self._one_by_one:
            if self._stream is None or self._stream.broken:
                self._stream = DrawingStream(self._stub())
            try:
                async with aclosing(self._stream.draw(request)) as messages:
                    async for message in messages:
                        yield message
                return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                self._one_by_one = True
        async with aclosing(self._told_alone(request)) as messages:
            async for message in messages:
                yield message

    async def _told_alone(
        self, request: worker_pb2.DrawRequest
    ) -> AsyncGenerator[worker_pb2.DrawResponse, None]:
        call = self._stub().Draw(request)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._one_by_one = False  # what comes back may be of another version
            raise
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        finally:
            call.cancel()

    async def watch_load(self) -> AsyncGenerator[WorkerLoad, None]:
        """Load on every change and at least every half second, while the connection lasts."""
        call = self._stub().WatchLoad(worker_pb2.WatchLoadRequest())
        try:
            async for message in call:
                yield codec.load_from_proto(message)
        except grpc.aio.AioRpcError as error:
            raise _translated(error.code(), error.details()) from error
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        finally:
            call.cancel()

    async def close(self) -> None:
        """Ends all calls; those under way raise WorkerUnavailable."""
        self._closed = True
        if self._stream is not None:
            await self._stream.close()
        if self._channel is not None:
            await self._channel.close(None)

    def _stub(self) -> Any:
        if self._closed:
            raise errors.WorkerUnavailable("the connection to the worker was closed")
        if self._channel is None:
            # Late, because a channel belongs to the running loop.
            self._channel = grpc.aio.insecure_channel(f"unix:{self._socket_path}", options=_OPTIONS)
        return worker_pb2_grpc.WorkerServiceStub(self._channel)

    def _raise_if_closed(self) -> None:
        """A closed channel cancels its readers; only a cancellation of the task is one."""
        task = asyncio.current_task()
        if self._closed and not (task and task.cancelling()):
            raise errors.WorkerUnavailable("the connection to the worker was closed")


def _translated(status: grpc.StatusCode, details: str | None) -> errors.DEdgeAIError:
    details = details or status.name
    known = _ERRORS.get(status)
    return known(details) if known else errors.WorkerUnavailable(f"the worker is away: {details}")
