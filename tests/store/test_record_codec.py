from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from edge_node.domain import JobId, TaskError, TaskRecord, TaskStatus
from edge_node.store.record_codec import UnreadableRecord, decode_record, encode_record
from tests.filled import filled
from tests.store.records import finished, placed, task


def test_what_is_written_comes_back() -> None:
    accepted = replace(
        task(1, job_id=JobId("orin-a-j"), prompt="naïve 🚣\n\u2028"), deadline_unix_s=1.5
    )
    failed = replace(
        finished(accepted),
        status=TaskStatus.FAILED,
        error=TaskError(code="deadline_exceeded", message="too late"),
    )
    for record in (placed(accepted), finished(accepted), failed):
        assert decode_record(encode_record(record)) == record


def test_every_field_that_is_kept_is_coded() -> None:
    # What changes too often is not kept.
    record = replace(
        filled(TaskRecord), status=TaskStatus.IN_PROGRESS, step=0, queue_position=0, eta_s=0.0
    )
    assert decode_record(encode_record(record)) == record


def test_whose_turn_it_was_is_not_kept_after_the_end() -> None:
    record = replace(task(1), turns="address-0123456789ab")
    assert decode_record(encode_record(placed(record))).task.turns == record.turns
    assert record.turns not in encode_record(finished(record))
    assert decode_record(encode_record(finished(record))).task.turns == ""


def test_what_changes_with_every_step_is_not_written() -> None:
    record = replace(placed(task(1)), step=7, queue_position=3, eta_s=9.0)
    assert decode_record(encode_record(record)) == placed(task(1))


def test_fields_of_newer_versions_are_ignored() -> None:
    document = json.loads(encode_record(finished(task(1))))
    document["format"] = 2
    document["carbon_g"] = 1.0
    document["task"]["tenant"] = "x"
    document["task"]["drawing"]["sampler"] = "heun"
    assert decode_record(json.dumps(document)) == finished(task(1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"x"',
        "{}",
        '{"format":1,"task":{}}',
        b"\xff\xfe",
        "{" * 100,
        "[" * 100_000,
    ],
)
def test_damage_is_unreadable_and_nothing_else(text: str | bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode_record(text)


def test_a_wrong_type_is_unreadable() -> None:
    document = json.loads(encode_record(finished(task(1))))
    for odd in ({"status": "melted"}, {"attempt": math.inf}, {"task": 3}, {"error": "why"}):
        with pytest.raises(UnreadableRecord):
            decode_record(json.dumps({**document, **odd}))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_record_is_written_whatever_its_figures_are_and_reads_as_if_they_were_absent(
    number: float,
) -> None:
    accepted = replace(
        task(1),
        work=number,
        created_unix_s=number,
        deadline_unix_s=number,
        drawing=replace(task(1).drawing, guidance_scale=number, strength=number),
    )
    odd = replace(
        finished(accepted),
        queue_s=number,
        compute_s=number,
        started_unix_s=number,
        finished_unix_s=number,
    )
    read = decode_record(encode_record(odd))
    assert read.status is TaskStatus.COMPLETED
    assert (read.queue_s, read.compute_s, read.task.work) == (0.0, 0.0, 0.0)
    assert (read.started_unix_s, read.finished_unix_s, read.task.deadline_unix_s) == (None,) * 3
    assert (read.task.created_unix_s, read.task.drawing.guidance_scale) == (0.0, 0.0)
    assert (read.executor, read.task.drawing.prompt) == (odd.executor, task(1).drawing.prompt)


def test_a_text_that_has_no_bytes_is_written() -> None:
    error = TaskError(code="image_store_failed", message="No room at /mnt/\udcff.")
    record = replace(finished(task(1)), status=TaskStatus.FAILED, error=error)
    read = decode_record(encode_record(record).encode())
    assert read.error == replace(error, message="No room at /mnt/?.")
