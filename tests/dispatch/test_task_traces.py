"""Spans of tasks and attempts, in memory: what a node's instructions make of them."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from edge_node.dispatch.task_traces import TaskTraces
from edge_node.domain import (
    AttemptFailed,
    AttemptStarted,
    Drawing,
    Durability,
    Fence,
    NodeId,
    Offload,
    StepFinished,
    Task,
    TaskError,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.telemetry.tracing import Tracing
from edge_node.trace_context import NO_TRACE, TraceContext, current

OWN = NodeId("orin-a")
PROMPT = "a fox that nobody may read of"
DRAWING = Drawing(
    prompt=PROMPT,
    negative_prompt=PROMPT,
    width_px=64,
    height_px=64,
    steps=4,
    guidance_scale=5.0,
    seed=1,
    model="tiny-sd3",
)
TASK = Task(
    id=TaskId("orin-a-01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    job_id=None,
    drawing=DRAWING,
    work=1.0,
    input_bits=8,
    created_unix_s=1.0,
    durability=Durability.DISK,
)
FENCE = Fence(3, 1)


def offload() -> Offload:
    return Offload(
        task_id=TASK.id,
        fence=FENCE,
        origin=OWN,
        incarnation=1,
        dispatch=1,
        drawing=DRAWING,
        work=1.0,
    )


def told(story: Any, *, share: float = 1.0) -> dict[str, ReadableSpan]:
    """The spans that a story leaves, by name."""
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter, node_id=OWN, share=share)
    traces = TaskTraces(tracing, own_id=OWN)

    def heard(instruction: Any) -> TraceContext:
        with traces.around(instruction):
            return current.get()

    story(heard)
    asyncio.run(tracing.close())
    spans = exporter.get_finished_spans()
    assert PROMPT not in "".join(span.to_json() for span in spans)
    return {span.name: span for span in spans}


def test_a_task_of_a_former_life_is_a_trace_of_its_own() -> None:
    def story(heard: Any) -> None:
        assert heard(life.PlaceTask(task=TASK, fence=FENCE, avoided=frozenset(), steps_left=4)) == (
            NO_TRACE
        )
        started = heard(life.StartAttempt(executor=OWN, offload=offload()))
        assert started.parent
        heard(
            hosted.StartDrawing(
                task_id=TASK.id, fence=FENCE, drawing=DRAWING, priority=0, deadline_s=None
            )
        )
        for report in (
            AttemptStarted(),
            StepFinished(step=1, steps=4),
            AttemptFailed(code="worker_died", message=PROMPT, retryable=True),
        ):
            heard(hosted.ReportAttempt(origin=OWN, task_id=TASK.id, fence=FENCE, report=report))
        heard(
            life.AttemptEnded(
                executor=OWN, dispatch=1, task_id=TASK.id, fence=FENCE, reason="worker_died"
            )
        )
        record = TaskRecord(
            task=TASK,
            status=TaskStatus.FAILED,
            error=TaskError(code="poisoned", message=PROMPT),
        )
        heard(life.TaskEnded(record=record, fences=(FENCE,)))

    spans = told(story)
    assert spans.keys() == {"task", "attempt", "execute", "draw"}
    task = spans["task"]
    assert task.parent is None
    assert task.attributes is not None
    assert task.attributes["dedgeai.task.recovered"] is True
    assert task.attributes["error.type"] == "poisoned"
    assert task.status.status_code is StatusCode.ERROR
    line = [spans[name] for name in ("task", "attempt", "execute", "draw")]
    for outer, inner in itertools.pairwise(line):
        assert inner.parent is not None
        assert outer.context is not None
        assert inner.parent.span_id == outer.context.span_id
    draw = spans["draw"]
    assert draw.attributes is not None
    assert draw.attributes["error.type"] == "worker_died"
    assert [event.name for event in draw.events] == ["step"]


def test_what_is_refused_or_stopped_ends() -> None:
    def story(heard: Any) -> None:
        heard(life.AppendTasks(tasks=(TASK,)))
        heard(life.AnswerRefused(task_ids=(TASK.id,)))
        heard(
            hosted.StartDrawing(
                task_id=TASK.id, fence=FENCE, drawing=DRAWING, priority=0, deadline_s=None
            )
        )
        heard(hosted.StopDrawing(task_id=TASK.id, fence=FENCE))
        # What nobody heard the beginning of has no end.
        heard(hosted.StopDrawing(task_id=TASK.id, fence=FENCE))

    spans = told(story)
    assert spans.keys() == {"task", "execute"}
    for name, why in (("task", "refused"), ("execute", "stopped")):
        attributes = spans[name].attributes
        assert attributes is not None
        assert attributes["error.type"] == why


def test_a_defect_in_a_span_keeps_no_instruction_from_being_carried_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def story(heard: Any) -> None:
        assert heard(life.AppendTasks(tasks=(None,))) == NO_TRACE  # type: ignore[arg-type]

    assert told(story) == {}
    assert "a span of AppendTasks is lost" in caplog.text


def test_a_share_of_none_makes_none() -> None:
    assert told(lambda heard: heard(life.AppendTasks(tasks=(TASK,))), share=0.0) == {}
