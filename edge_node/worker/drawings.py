"""The drawings of one DrawMany call: taken in, told of, taken back.

Owns their numbers, and when what comes from the engine's threads is told: the end of the only one
at once, steps a bounded number of times a second, the rest soon. It decides nothing about drawings
and must not import torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from dedgeai.v1 import worker_pb2

from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptQueued,
    AttemptStarted,
    StepFinished,
    TaskId,
)
from edge_node.errors import DEdgeAIError
from edge_node.peering import codec
from edge_node.worker.attempts import Report
from edge_node.worker.step_engine import StepEngine

# For which the news of a drawing may wait for more to be told together, and its end, too, while
# there are others, whose reports make every message cheaper.
TOLD_TOGETHER_S = 0.003
# Between two messages that only say that steps are done. Nobody sees more than fifty a second, and
# each event costs the node as much as a twentieth of a request.
STEPS_TOGETHER_S = 0.02
# What is told together has at most so many bytes beyond its first part: an image may have many.
TOGETHER_BYTES_MAX = 2**20

Told = worker_pb2.DrawManyResponse.Told


class Urgency(enum.IntEnum):
    """How soon something must be told."""

    NONE = enum.auto()
    STEP = enum.auto()
    NEWS = enum.auto()
    END = enum.auto()

    @classmethod
    def of(cls, what: Report | DEdgeAIError) -> Urgency:
        """Of a report, or of a refusal. A preview is news: it is the only one of its step."""
        match what:
            case AttemptFinished() | AttemptFailed() | DEdgeAIError():
                return cls.END
            case StepFinished(preview=b""):
                return cls.STEP
        return cls.NEWS


def is_void(earlier: Report | DEdgeAIError, *, after: Report | DEdgeAIError) -> bool:
    """Whether `after` says all that still matters of `earlier`, which comes right before it."""
    match earlier:
        case AttemptQueued():
            return isinstance(after, AttemptQueued | AttemptStarted)
        case StepFinished(preview=b"", checkpoint=None):
            return isinstance(after, StepFinished)
        case StepFinished(preview=b""):
            return isinstance(after, StepFinished) and after.checkpoint is not None
    return False


def submit(
    engine: StepEngine[Any],
    request: worker_pb2.DrawRequest,
    *,
    on_report: Callable[[Report], None],
) -> int:
    """Queues what a request wants; returns its arrival number, and raises what the engine does."""
    return engine.submit(
        task_id=TaskId(request.task_id),
        fence=codec.fence_from_proto(request),
        drawing=codec.drawing_from_proto(request.drawing),
        init_image=request.init_image,
        priority=request.priority,
        deadline_s=request.deadline_s or None,
        client=request.client,
        checkpoint_steps=request.checkpoint_steps,
        checkpoint=codec.checkpoint_from_proto(request),
        age_s=max(0.0, request.age_s),
        on_report=on_report,
    )


class Drawings:
    """All of one call.

    Args:
        engine: draws.
        loop: of the call; the engine's threads are others.

    Attributes:
        ended: whether nothing comes any more but what `told` gives at once.
    """

    def __init__(self, engine: StepEngine[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        # Arrival numbers by the call's.
        self._arrivals: dict[int, int] = {}
        self._lock = threading.Lock()
        # By the call's number, in their order.
        self._untold: dict[int, list[Report | DEdgeAIError]] = {}
        # Of the most urgent of them, for which the loop was woken.
        self._urgency = Urgency.NONE
        self._to_tell = asyncio.Event()
        self._telling: asyncio.TimerHandle | None = None
        self._told_s = loop.time()
        self.ended = False

    async def listen(self, requests: AsyncIterator[worker_pb2.DrawManyRequest]) -> None:
        """Takes in what is wanted, and back what is not wanted any more, until the call ends."""
        async for request in requests:
            for wanted in request.wanted:
                if wanted.HasField("draw"):
                    self._submit(wanted.number, wanted.draw)
                elif wanted.hand_over:
                    self._hand_over(wanted.number)
                else:
                    self._cancel(wanted.number)

    async def told(self) -> list[list[Told]]:
        """Waits until there is something to tell, and returns it in parts that may travel."""
        if not self.ended:
            await self._to_tell.wait()
            self._to_tell.clear()
        with self._lock:
            untold, self._untold = self._untold, {}
            self._urgency = Urgency.NONE
        self._told_s = self._loop.time()
        parts: list[list[Told]] = []
        size_bytes = 0
        for number, reports in untold.items():
            for what in reports:
                one = self._told(number, what)
                size_bytes += one.ByteSize()
                if not parts or size_bytes > TOGETHER_BYTES_MAX:
                    parts.append([])
                    size_bytes = 0
                parts[-1].append(one)
        return parts

    def end_all(self, failure: AttemptFailed) -> None:
        """Every drawing ends so, and with them the call."""
        for number in list(self._arrivals):
            self._put(number, failure)
        self.ended = True
        self._to_tell.set()

    def cancel_all(self) -> None:
        """The call has ended."""
        for number in list(self._arrivals):
            self._cancel(number)

    def _submit(self, number: int, request: worker_pb2.DrawRequest) -> None:
        try:
            self._arrivals[number] = submit(
                self._engine, request, on_report=partial(self._put, number)
            )
        except DEdgeAIError as error:
            self._put(number, error)

    def _cancel(self, number: int) -> None:
        arrival = self._arrivals.pop(number, None)
        if arrival is not None:
            self._engine.cancel(arrival)

    def _hand_over(self, number: int) -> None:
        if number in self._arrivals:
            self._engine.hand_over(self._arrivals[number])

    def _told(self, number: int, what: Report | DEdgeAIError) -> Told:
        if isinstance(what, DEdgeAIError):
            refused = worker_pb2.DrawManyResponse.Refused(
                status=what.grpc_status, message=what.message
            )
            return Told(number=number, refused=refused)
        if isinstance(what, AttemptFinished | AttemptFailed):
            self._cancel(number)
        return Told(number=number, response=codec.report_to_draw_response(what))

    def _put(self, number: int, what: Report | DEdgeAIError) -> None:
        """Called from any thread."""
        urgency = Urgency.of(what)
        with self._lock:
            reports = self._untold.setdefault(number, [])
            while reports and is_void(reports[-1], after=what):
                reports.pop()
            reports.append(what)
            wake = urgency > self._urgency
            self._urgency = max(self._urgency, urgency)
        if wake:
            # The loop is closed when the process is on its way out; nobody waits then.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake, urgency)

    def _wake(self, urgency: Urgency) -> None:
        if self._telling is not None:
            self._telling.cancel()
        if urgency is Urgency.END and len(self._arrivals) <= 1:
            self._to_tell.set()
            return
        wait_s = TOLD_TOGETHER_S
        if urgency is Urgency.STEP:
            wait_s = max(wait_s, self._told_s + STEPS_TOGETHER_S - self._loop.time())
        self._telling = self._loop.call_later(wait_s, self._to_tell.set)
