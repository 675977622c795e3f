"""Spans of the tasks accepted here, and of the attempts drawn here, from what the machines say.

    POST /v1/tasks (api)
      task            from its acceptance to its end, at its origin
        attempt       from its dispatch to its end, at the origin; one for each
          execute     from its arrival to its end, at the executor
            draw      from its first step to its last, with an event for each step

The instructions that the dispatcher carries out anyway say all of that. What an attempt is part of
goes with the call that sends it (`edge_node/trace_context.py`).
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptReport,
    AttemptStarted,
    Fence,
    NodeId,
    StepFinished,
    Task,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.telemetry.tracing import Tracing
from edge_node.trace_context import NO_TRACE, TraceContext, current

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Span

log = logging.getLogger(__name__)

# Spans that go on at once, of either kind; the oldest end beyond. More than a node lets in.
OPEN_MAX = 20_000
_Key = tuple[TaskId, Fence]
_AnyKey = TypeVar("_AnyKey")


class TaskTraces:
    """Hears every instruction.

    Args:
        tracing: makes spans.
        own_id: this node.
    """

    def __init__(self, tracing: Tracing, *, own_id: NodeId) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        self._kinds, self._status, self._error = SpanKind, Status, StatusCode.ERROR
        self._tracing = tracing
        self._own_id = own_id
        self._tasks: OrderedDict[TaskId, Span] = OrderedDict()
        self._attempts: OrderedDict[_Key, Span] = OrderedDict()
        self._executed: OrderedDict[_Key, Span] = OrderedDict()
        self._drawn: OrderedDict[_Key, Span] = OrderedDict()

    @classmethod
    def of(cls, tracing: Tracing | None, *, own_id: NodeId) -> TaskTraces | None:
        """None where no spans are wanted."""
        return None if tracing is None else cls(tracing, own_id=own_id)

    @contextlib.contextmanager
    def around(self, instruction: life.Instruction | hosted.Instruction) -> Iterator[None]:
        """While the instruction is carried out, what it begins is a part of the right span."""
        try:
            context = self._heard(instruction)
        except Exception:
            # A bug in a comment must not keep a task from being drawn.
            log.exception("a span of %s is lost", type(instruction).__name__)
            context = None
        if context is None:
            yield
            return
        former = current.set(context)
        try:
            yield
        finally:
            current.reset(former)

    def _heard(self, instruction: life.Instruction | hosted.Instruction) -> TraceContext | None:
        match instruction:
            case life.AppendTasks(tasks=tasks) | life.JournalTasks(tasks=tasks):
                for task in tasks:
                    self._task_begun(task, parent=current.get())
            case life.AnswerRefused(task_ids=task_ids):
                for task_id in task_ids:
                    self._end(self._tasks.pop(task_id, None), failed="refused")
            case life.PlaceTask(task=task):
                if task.id not in self._tasks:  # a former life of this node accepted it
                    self._task_begun(task, parent=NO_TRACE, recovered=True)
            case life.StartAttempt():
                return self._attempt_begun(instruction)
            case life.PublishEvent(task_id=task_id, event=event):
                if event.kind is not TaskEventKind.STEP and task_id in self._tasks:
                    self._tasks[task_id].add_event(event.kind.value)
            case life.AttemptEnded(task_id=task_id, fence=fence, reason=reason):
                span = self._attempts.pop((task_id, fence), None)
                if span is not None:
                    span.set_attribute("dedgeai.ended", reason)
                self._end(span)
            case life.TaskEnded(record=record):
                return self._task_ended(record)
            case hosted.StartDrawing(task_id=task_id, fence=fence):
                self._execution_begun(task_id, fence)
            case hosted.ReportAttempt(task_id=task_id, fence=fence, report=report):
                self._reported((task_id, fence), report)
            case hosted.StopDrawing(task_id=task_id, fence=fence):
                self._execution_ended((task_id, fence), failed="stopped")
        return None

    def _task_begun(self, task: Task, *, parent: TraceContext, recovered: bool = False) -> None:
        drawing = task.drawing
        span = self._tracing.begin(
            "task",
            parent=parent,
            kind=self._kinds.INTERNAL,
            attributes={
                "dedgeai.task.id": task.id,
                "dedgeai.task.durability": task.durability.value,
                "dedgeai.task.priority": task.priority,
                "dedgeai.task.recovered": recovered,
                "dedgeai.model": drawing.model,
                "dedgeai.steps": drawing.denoising_steps,
                "dedgeai.size": f"{drawing.width_px}x{drawing.height_px}",
            },
        )
        self._keep(self._tasks, task.id, span)

    def _attempt_begun(self, start: life.StartAttempt) -> TraceContext:
        offload = start.offload
        task = self._tasks.get(offload.task_id)
        remote = start.executor != self._own_id
        span = self._tracing.begin(
            "attempt",
            parent=NO_TRACE if task is None else self._tracing.context_of(task),
            kind=self._kinds.CLIENT if remote else self._kinds.INTERNAL,
            attributes={
                "dedgeai.task.id": offload.task_id,
                "dedgeai.executor": start.executor,
                "dedgeai.attempt": offload.fence.attempt,
                "dedgeai.resumed": offload.checkpoint is not None,
            },
        )
        self._keep(self._attempts, (offload.task_id, offload.fence), span)
        return self._tracing.context_of(span)

    def _task_ended(self, record: TaskRecord) -> TraceContext | None:
        span = self._tasks.pop(record.task.id, None)
        if span is None:
            return None
        if record.executor is not None:
            span.set_attribute("dedgeai.executor", record.executor)
        span.set_attribute("dedgeai.task.status", record.status.value)
        span.set_attribute("dedgeai.task.attempts", record.attempt)
        code = "" if record.error is None else record.error.code
        self._end(span, failed=code if record.status is TaskStatus.FAILED else "")
        return self._tracing.context_of(span)

    def _execution_begun(self, task_id: TaskId, fence: Fence) -> None:
        own = self._attempts.get((task_id, fence))
        span = self._tracing.begin(
            "execute",
            parent=current.get() if own is None else self._tracing.context_of(own),
            kind=self._kinds.SERVER if own is None else self._kinds.INTERNAL,
            attributes={"dedgeai.task.id": task_id, "dedgeai.executor": self._own_id},
        )
        self._keep(self._executed, (task_id, fence), span)

    def _reported(self, key: _Key, report: AttemptReport) -> None:
        match report:
            case AttemptStarted():
                self._drawing_begun(key)
            case StepFinished(step=step):
                drawn = self._drawing_begun(key)
                if drawn is not None:
                    drawn.add_event("step", {"dedgeai.step": step})
            case AttemptFinished():
                self._execution_ended(key)
            case AttemptFailed(code=code):
                self._execution_ended(key, failed=code)

    def _drawing_begun(self, key: _Key) -> Span | None:
        executed = self._executed.get(key)
        if executed is None or key in self._drawn:
            return self._drawn.get(key)
        span = self._tracing.begin(
            "draw",
            parent=self._tracing.context_of(executed),
            kind=self._kinds.INTERNAL,
            attributes={"dedgeai.task.id": key[0], "dedgeai.executor": self._own_id},
        )
        self._keep(self._drawn, key, span)
        return span

    def _execution_ended(self, key: _Key, *, failed: str = "") -> None:
        self._end(self._drawn.pop(key, None), failed=failed)
        self._end(self._executed.pop(key, None), failed=failed)

    def _end(self, span: Span | None, *, failed: str = "") -> None:
        if span is None:
            return
        if failed:
            span.set_attribute("error.type", failed)
            span.set_status(self._status(self._error))
        span.end()

    def _keep(self, spans: OrderedDict[_AnyKey, Span], key: _AnyKey, span: Span) -> None:
        former = spans.pop(key, None)
        self._end(former)
        spans[key] = span
        if len(spans) > OPEN_MAX:
            self._end(spans.popitem(last=False)[1], failed="forgotten")
