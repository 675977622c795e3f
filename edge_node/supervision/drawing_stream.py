"""One call to the worker in which all drawings travel, so that none costs a call of its own.

Owns the numbers by which drawings are told apart, what waits to be sent, and who listens. It knows
nothing of what is drawn; what a broken call means to its drawings is its caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio
from dedgeai.v1 import worker_pb2

# What goes together has at most so many bytes beyond its first part: an init image may have many.
TOGETHER_BYTES_MAX = 2**20
# After a message the next one waits so long for more to go together, while other drawings are under
# way: whatever is wanted then waits for them anyway.
TOGETHER_S = 0.003

_Told = worker_pb2.DrawManyResponse.Told | Exception


class Refused(Exception):
    """The worker does not draw it; as the status and details of a call that failed."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.status = status
        self.details = details


class StreamClosed(Exception):
    """The call was ended on this side."""


class DrawingStream:
    """One call of DrawMany, from its first drawing to whatever breaks it."""

    def __init__(self, stub: Any) -> None:
        """Begins the call; needs a running loop."""
        self._call = stub.DrawMany()
        self._problem: Exception | None = None
        self._number = 0
        self._listening: dict[int, asyncio.Queue[_Told]] = {}
        self._numbers: dict[tuple[str, int, int], int] = {}
        self._unsent: deque[worker_pb2.DrawManyRequest.Wanted] = deque()
        self._wanting = asyncio.Event()
        self._tasks = (
            asyncio.create_task(self._send(), name="drawings wanted"),
            asyncio.create_task(self._listen(), name="drawings told"),
        )

    @property
    def broken(self) -> bool:
        """Whether nothing can be drawn in it any more."""
        return self._problem is not None

    async def draw(
        self, request: worker_pb2.DrawRequest
    ) -> AsyncGenerator[worker_pb2.DrawResponse, None]:
        """Wants a drawing and yields what is told of it, to its end; closing it takes it back.

        Raises:
            grpc.aio.AioRpcError: the call broke.
            Refused: the worker does not draw it.
            StreamClosed: the call was closed here.
        """
        if self._problem is not None:
            raise self._problem
        self._number += 1
        number, told = self._number, asyncio.Queue[_Told]()
        self._listening[number] = told
        key = (request.task_id, request.fence.term, request.fence.attempt)
        self._numbers[key] = number
        self._want(worker_pb2.DrawManyRequest.Wanted(number=number, draw=request))
        del request  # the call holds it until it is sent
        over = False
        try:
            while not over:
                one = await told.get()
                if isinstance(one, Exception):
                    over = True
                    raise one
                if one.HasField("refused"):
                    over = True
                    raise Refused(grpc.StatusCode[one.refused.status], one.refused.message)
                over = one.response.WhichOneof("event") in ("finished", "failed")
                yield one.response
        finally:
            del self._listening[number]
            if self._numbers.get(key) == number:
                del self._numbers[key]
            if not over:
                self._want(worker_pb2.DrawManyRequest.Wanted(number=number))

    def hand_over(self, task_id: str, fence: worker_pb2.Fence) -> None:
        """A drawing is to end after the step under way, with a checkpoint, unless it is over."""
        number = self._numbers.get((task_id, fence.term, fence.attempt))
        if number is not None:
            self._want(worker_pb2.DrawManyRequest.Wanted(number=number, hand_over=True))

    async def close(self) -> None:
        """Ends the call; what is under way raises StreamClosed."""
        self._break(StreamClosed("the connection to the worker was closed"))
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _want(self, wanted: worker_pb2.DrawManyRequest.Wanted) -> None:
        if self._problem is None:
            self._unsent.append(wanted)
            self._wanting.set()

    async def _send(self) -> None:
        # A call that broke says so to whoever reads.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._wanting.wait()
                self._wanting.clear()
                while self._unsent:
                    await self._call.write(worker_pb2.DrawManyRequest(wanted=self._together()))
                if len(self._listening) > 1:
                    await asyncio.sleep(TOGETHER_S)

    def _together(self) -> list[worker_pb2.DrawManyRequest.Wanted]:
        wanted = [self._unsent.popleft()]
        size_bytes = 0
        while self._unsent:
            size_bytes += self._unsent[0].ByteSize()
            if size_bytes > TOGETHER_BYTES_MAX:
                break
            wanted.append(self._unsent.popleft())
        return wanted

    async def _listen(self) -> None:
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                for told in message.told:
                    listening = self._listening.get(told.number)
                    if listening is not None:
                        listening.put_nowait(told)
            await self._call.wait_for_connection()  # raises what ended it
            self._break(StreamClosed("the worker ended the connection"))
        except grpc.aio.AioRpcError as problem:
            self._break(problem)
        except asyncio.CancelledError:
            # Of this task, or of a call whose channel was closed.
            self._break(StreamClosed("the connection to the worker was closed"))

    def _break(self, problem: Exception) -> None:
        if self._problem is None:
            self._problem = problem
            self._unsent.clear()
            for told in self._listening.values():
                told.put_nowait(problem)
