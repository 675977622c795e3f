"""What goes over the worker's socket comes back as it was."""

from __future__ import annotations

from typing import Any

import pytest
from dedgeai.v1 import worker_pb2

from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptQueued,
    AttemptStarted,
    Drawing,
    Image,
    ModelFingerprint,
    StepFinished,
    WorkerDescription,
    WorkerLoad,
    WorkModel,
)
from edge_node.peering import codec

IMAGE = Image(content=b"\x89PNG\0", format="png", width_px=64, height_px=48, emulated_device="x")


def sent(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


def test_drawings() -> None:
    drawing = Drawing(
        prompt="狐",
        negative_prompt="dog",
        width_px=64,
        height_px=48,
        steps=7,
        guidance_scale=4.5,
        seed=2**64 - 1,
        model="m",
        image_format="webp",
        image_quality=0,
        previews=3,
        init_image_sha256="ab" * 32,
        strength=0.25,
    )
    assert codec.drawing_from_proto(sent(codec.drawing_to_proto(drawing))) == drawing


@pytest.mark.parametrize("state", ["loading", "warming_up", "ready", "failed"])
def test_descriptions(state: str) -> None:
    description = WorkerDescription(
        state=state,
        detail="why",
        engine="sd3",
        model="m",
        model_fingerprint=ModelFingerprint("f"),
        capacity=1.5,
        work_model=WorkModel(
            fixed_steps=0.7,
            unguided_ratio=0.6,
            reference_px=64,
            size_costs=((32, 48, 0.4),),
            init_image_steps=0.3,
        ),
        size_px_min=8,
        size_px_max=96,
        size_px_multiple=8,
        steps_max=100,
        rows_max=4,
        emulated_device="e",
        pace_s=0.1,
        device="d",
        order="srpt",
    )
    assert (
        codec.description_from_proto(sent(codec.description_to_proto(description))) == description
    )


def test_an_unknown_state_is_not_ready_and_an_unsaid_order_is_the_usual() -> None:
    message = worker_pb2.DescribeResponse()
    assert codec.description_from_proto(message).state == "loading"
    assert codec.description_from_proto(message).order == "fcfs"


def test_loads() -> None:
    load = WorkerLoad(
        backlog=12.5, queued=2, running=1, capacity=3.5, steps_done=2**40, resident_bytes=2**33
    )
    assert codec.load_from_proto(sent(codec.load_to_proto(load))) == load


@pytest.mark.parametrize(
    "report",
    [
        AttemptQueued(position=3),
        AttemptStarted(),
        StepFinished(step=2, steps=5, preview=b"p"),
        AttemptFinished(image=IMAGE, queue_s=0.5, compute_s=1.5),
        AttemptFailed(code="draw_failed", message="why", retryable=True),
    ],
)
def test_reports(report: codec.DrawReport) -> None:
    assert codec.report_from_draw_response(sent(codec.report_to_draw_response(report))) == report


def test_an_event_of_a_later_version_is_no_report() -> None:
    assert codec.report_from_draw_response(worker_pb2.DrawResponse()) is None
