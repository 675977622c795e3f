"""What goes over the wire between nodes and to the worker comes back whole, field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

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
from edge_node.peering import codec, node_codec
from tests.filled import filled

# A view is for clients: what only the origin's own ledger and scheduler need stays there.
NOT_SHOWN: dict[str, Any] = {"input_bits": 0, "owner": None, "term": 1}
SHOWN = dataclasses.replace(filled(Task, id=TaskId("orin-a-1")), **NOT_SHOWN)
RECORD = filled(TaskRecord, task=SHOWN)

WORDS = [
    (filled(NodeState), node_codec.state_to_proto, node_codec.state_from_proto),
    (RECORD, node_codec.record_to_proto, node_codec.record_from_proto),
    (filled(TaskEvent), node_codec.event_to_proto, node_codec.event_from_proto),
    (
        filled(Offload),
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


def test_what_is_absent_stays_absent() -> None:
    bare = TaskRecord(
        task=dataclasses.replace(SHOWN, job_id=None, deadline_unix_s=None), executor=None
    )
    assert node_codec.record_from_proto(sent(node_codec.record_to_proto(bare))) == bare
    offload = dataclasses.replace(filled(Offload), deadline_s=None)
    assert node_codec.offload_from_proto(sent(node_codec.offload_to_proto(offload))) == offload
    event = dataclasses.replace(filled(TaskEvent), executor=None, error=None)
    assert node_codec.event_from_proto(sent(node_codec.event_to_proto(event))) == event


@pytest.mark.parametrize("left_s", [0.0, -1.0])
def test_a_deadline_that_is_over_is_not_taken_for_none(left_s: float) -> None:
    offload = dataclasses.replace(filled(Offload), deadline_s=left_s)
    received = node_codec.offload_from_proto(sent(node_codec.offload_to_proto(offload)))
    assert received.deadline_s == 0.001


def test_a_report_that_this_version_does_not_know_is_none() -> None:
    message = type(node_codec.report_to_proto(AttemptStarted()))()
    assert node_codec.report_from_proto(message) is None


def test_a_node_of_the_version_before_does_not_say_what_it_serves() -> None:
    message = node_codec.state_to_proto(filled(NodeState))
    message.ClearField("serves")
    assert node_codec.state_from_proto(message).serves == ()
