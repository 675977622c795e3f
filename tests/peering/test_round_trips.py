"""What goes over the wire between nodes and to the worker comes back whole, field by field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from edge_node.checkpoint import Checkpoint, Latents
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptHeartbeat,
    AttemptQueued,
    AttemptStarted,
    Drawing,
    NodeState,
    Offload,
    StepFinished,
    Task,
    TaskEvent,
    TaskId,
    TaskRecord,
    WorkerDescription,
    WorkerLoad,
)
from edge_node.errors import MalformedMessage
from edge_node.experience_page import ExperiencePage
from edge_node.peering import codec, learning_codec, node_codec
from tests.filled import filled

# A view is for clients: what only the origin's own ledger and scheduler need stays there.
NOT_SHOWN: dict[str, Any] = {"input_bits": 0, "owner": None, "turns": "", "term": 1}
SHOWN = dataclasses.replace(filled(Task, id=TaskId("orin-a-1")), **NOT_SHOWN)
RECORD = filled(TaskRecord, task=SHOWN)

LATENTS = Latents(
    dtype="float32", shape_CHW=(1, 2, 3), latent=bytes(24), velocity=bytes(24), change=0.5
)
OFFLOAD = filled(Offload)
OFFLOAD = dataclasses.replace(
    OFFLOAD,
    checkpoint=Checkpoint(
        drawing_sha256=OFFLOAD.drawing.sha256, fingerprint="f", step=2, latents=LATENTS
    ),
)

STATE = filled(NodeState, keys=(7, "ab" * 32))
STATE = dataclasses.replace(
    STATE, removals=tuple(dataclasses.replace(one, address="b:9080") for one in STATE.removals)
)

Word = tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]
WORDS: list[Word] = [
    (
        STATE,
        node_codec.state_to_proto,
        node_codec.state_from_proto,
    ),
    (RECORD, node_codec.record_to_proto, node_codec.record_from_proto),
    (filled(TaskEvent), node_codec.event_to_proto, node_codec.event_from_proto),
    (
        OFFLOAD,
        lambda offload: node_codec.offload_to_proto(offload, init_image=b"png"),
        node_codec.offload_from_proto,
    ),
    (filled(Drawing), codec.drawing_to_proto, codec.drawing_from_proto),
    (
        filled(WorkerDescription, state="ready"),
        codec.description_to_proto,
        codec.description_from_proto,
    ),
    (filled(WorkerLoad), codec.load_to_proto, codec.load_from_proto),
]
REPORTS = [
    filled(kind)
    for kind in (
        AttemptQueued,
        AttemptHeartbeat,
        AttemptStarted,
        StepFinished,
        AttemptFinished,
        AttemptFailed,
    )
]


def sent(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


@pytest.mark.parametrize(
    ("word", "to_proto", "from_proto"), WORDS, ids=[type(word).__name__ for word, _, _ in WORDS]
)
def test_every_field_of_a_word_and_of_its_message_is_coded(
    word: Any, to_proto: Callable[[Any], Any], from_proto: Callable[[Any], Any]
) -> None:
    message = to_proto(word)
    assert from_proto(sent(message)) == word
    said = {field.name for field, _ in message.ListFields()}
    assert said == {field.name for field in message.DESCRIPTOR.fields}


@pytest.mark.parametrize("report", REPORTS, ids=[type(one).__name__ for one in REPORTS])
def test_every_report_of_an_attempt_is_coded(report: Any) -> None:
    message = node_codec.report_to_proto(report)
    assert node_codec.report_from_proto(sent(message)) == report
    if not isinstance(report, AttemptHeartbeat):  # which a worker has no need of
        drawn = codec.report_to_draw_response(report)
        assert codec.report_from_draw_response(sent(drawn)) == report


def with_every_float(message: Any, number: float) -> Any:
    """The message with that number wherever a number may be that is not whole."""
    for field, value in message.ListFields():
        for one in value if field.is_repeated else (value,):
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                continue
            if field.message_type is not None:
                with_every_float(one, number)
        if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
            setattr(message, field.name, number)
    return message


def floats_of(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return [x for one in value for x in floats_of(one)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_figure_of_another_node_that_is_not_finite_is_refused(number: float) -> None:
    words: list[Word] = [
        *(one for one in WORDS if isinstance(one[0], NodeState | TaskRecord | TaskEvent | Offload)),
        (
            filled(AttemptFinished),
            node_codec.report_to_proto,
            node_codec.report_from_proto,
        ),
        (filled(ExperiencePage), learning_codec.page_to_proto, learning_codec.page_from_proto),
    ]
    for word, to_proto, from_proto in words:
        message = with_every_float(to_proto(word), number)
        with pytest.raises(MalformedMessage):
            from_proto(sent(message))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_figure_of_the_worker_that_is_not_finite_is_read_as_none(number: float) -> None:
    words: list[Word] = [
        *(one for one in WORDS if isinstance(one[0], WorkerDescription | WorkerLoad)),
        (
            filled(AttemptFinished),
            codec.report_to_draw_response,
            codec.report_from_draw_response,
        ),
    ]
    for word, to_proto, from_proto in words:
        read = floats_of(from_proto(sent(with_every_float(to_proto(word), number))))
        assert all(map(math.isfinite, read)), word


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize(
    "path", ["capacity", "work_model.fixed_steps", "work_model.unguided_ratio", "size_costs.rho"]
)
def test_a_worker_that_is_ready_by_numbers_that_mean_nothing_has_failed(
    path: str, number: float
) -> None:
    message = codec.description_to_proto(filled(WorkerDescription, state="ready"))
    owner: Any = message.work_model if path.startswith("work_model") else message
    owner = message.work_model.size_costs[0] if path.startswith("size_costs") else owner
    setattr(owner, path.rpartition(".")[2], number)
    described = codec.description_from_proto(sent(message))
    assert described.state == "failed"
    assert "numbers that mean nothing" in described.detail


def test_what_is_absent_stays_absent() -> None:
    bare = TaskRecord(
        task=dataclasses.replace(SHOWN, job_id=None, deadline_unix_s=None), executor=None
    )
    assert node_codec.record_from_proto(sent(node_codec.record_to_proto(bare))) == bare
    offload = dataclasses.replace(OFFLOAD, deadline_s=None, checkpoint=None)
    assert node_codec.offload_from_proto(sent(node_codec.offload_to_proto(offload))) == offload
    event = dataclasses.replace(filled(TaskEvent), executor=None, error=None)
    assert node_codec.event_from_proto(sent(node_codec.event_to_proto(event))) == event


@pytest.mark.parametrize("left_s", [0.0, -1.0])
def test_a_deadline_that_is_over_is_not_taken_for_none(left_s: float) -> None:
    offload = dataclasses.replace(OFFLOAD, deadline_s=left_s)
    received = node_codec.offload_from_proto(sent(node_codec.offload_to_proto(offload)))
    assert received.deadline_s == 0.001


def checked(message: Any) -> None:
    report = node_codec.report_from_proto(message)
    assert report is not None
    node_codec.check_as_asked(report, OFFLOAD.drawing)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"drawing_sha256": "00" * 32}, "of another drawing"),
        ({"step": 64}, "after step 64"),
        ({"latents": dataclasses.replace(LATENTS, latent=bytes(23))}, "23 and 24 bytes"),
        ({"latents": dataclasses.replace(LATENTS, shape_CHW=(1, 6))}, "its shape"),
        (
            {
                "latents": dataclasses.replace(
                    LATENTS, shape_CHW=(1, 1, 2**20), latent=bytes(2**22), velocity=b""
                )
            },
            "Checkpoint.shape",
        ),
        (
            {
                "latents": dataclasses.replace(
                    LATENTS, shape_CHW=(16, 2**8, 2**8), latent=bytes(2**22), velocity=b""
                )
            },
            "its latent has",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_the_drawings_is_refused(
    changes: dict[str, Any], why: str
) -> None:
    assert OFFLOAD.checkpoint is not None
    wrong = dataclasses.replace(OFFLOAD.checkpoint, **changes)
    message = node_codec.offload_to_proto(dataclasses.replace(OFFLOAD, checkpoint=wrong))
    with pytest.raises(MalformedMessage, match=why):
        node_codec.offload_from_proto(sent(message))
    step = StepFinished(step=wrong.step, steps=OFFLOAD.drawing.denoising_steps, checkpoint=wrong)
    with pytest.raises(MalformedMessage):
        checked(sent(node_codec.report_to_proto(step)))


def test_a_checkpoint_is_of_the_step_that_it_comes_with() -> None:
    steps = OFFLOAD.drawing.denoising_steps
    fits = StepFinished(step=2, steps=steps, checkpoint=OFFLOAD.checkpoint)
    node_codec.check_as_asked(fits, OFFLOAD.drawing)
    with pytest.raises(MalformedMessage, match="came with 3"):
        node_codec.check_as_asked(dataclasses.replace(fits, step=3), OFFLOAD.drawing)
    with pytest.raises(MalformedMessage, match="began after step"):
        node_codec.check_as_asked(AttemptStarted(step=steps), OFFLOAD.drawing)


def test_a_report_that_this_version_does_not_know_is_none() -> None:
    message = type(node_codec.report_to_proto(AttemptStarted()))()
    assert node_codec.report_from_proto(message) is None


def test_a_node_of_the_version_before_does_not_say_what_it_serves() -> None:
    message = node_codec.state_to_proto(dataclasses.replace(STATE))
    message.ClearField("serves")
    assert node_codec.state_from_proto(message).serves == ()


def test_a_task_at_a_device_that_hardly_works_can_be_shown_elsewhere() -> None:
    slow = dataclasses.replace(RECORD, eta_s=1e15)
    assert node_codec.record_from_proto(sent(node_codec.record_to_proto(slow))).eta_s == 1e9
