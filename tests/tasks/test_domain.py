"""The words of the system: their arithmetic, and what is taken where nothing is said."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import Any

import pytest

from edge_node import domain
from edge_node.changing import changed
from edge_node.domain import (
    Drawing,
    Durability,
    Fence,
    NodeState,
    Offload,
    Task,
    TaskEvent,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
    WorkerDescription,
    WorkModel,
)
from edge_node.prompt_tokens import NOT_COUNTED

DRAWING = Drawing(
    prompt="p", width_px=128, height_px=64, steps=10, guidance_scale=5.0, seed=1, model="m"
)
FROM_IMAGE = replace(DRAWING, init_image_sha256="d", strength=0.5)
TASK = Task(
    id=TaskId("a-b-1"),
    job_id=None,
    drawing=DRAWING,
    work=1.0,
    input_bits=1,
    created_unix_s=50.0,
)


def defaults(kind: Any) -> dict[str, Any]:
    """What each field is that nobody names."""
    named = {one.name: one.default for one in fields(kind) if one.default is not MISSING}
    made = [one for one in fields(kind) if one.default_factory is not MISSING]
    return named | {one.name: one.default_factory() for one in made}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        (Drawing, {"image_format": "png", "image_quality": 90, "strength": 1.0}),
        (domain.Image, {}),
        (WorkModel, {"size_costs": ()}),
        (
            WorkerDescription,
            {
                "work_model": WorkModel(fixed_steps=0.0, unguided_ratio=0.5, reference_px=64),
                "size_px_min": 16,
                "size_px_multiple": 16,
                "rows_max": 1,
                "order": "fcfs",
            },
        ),
        (Task, {"durability": Durability.DISK, "term": 1}),
        (TaskRecord, {"status": TaskStatus.QUEUED}),
        (TaskEvent, {}),
        (Offload, {}),
        (NodeState, {"dispatches_seen": {}, "keys": (0, "")}),
    ],
)
def test_what_nobody_names_is_nothing_but_for_these(kind: Any, others: dict[str, Any]) -> None:
    for name, value in defaults(kind).items():
        if name in others:
            assert value == others[name], name
        else:
            assert value in (None, False, 0, "", b"", (), NOT_COUNTED), name


@pytest.mark.parametrize(
    ("strength", "steps"),
    # As diffusers rounds: 10 - int(10 - 10 x strength).
    [(1.0, 10), (0.5, 5), (0.55, 6), (0.51, 6), (0.1, 1), (0.01, 1), (1.5, 10)],
)
def test_an_init_image_shortens_a_drawing_by_its_strength(strength: float, steps: int) -> None:
    assert replace(FROM_IMAGE, strength=strength).denoising_steps == steps
    assert replace(DRAWING, strength=strength).denoising_steps == 10


@pytest.mark.parametrize(
    ("drawing", "work"),
    [
        # Twice the reference's area: 2 x (10 + 3).
        (DRAWING, 26.0),
        (replace(DRAWING, guidance_scale=1.0), 16.0),
        (replace(DRAWING, guidance_scale=1.01), 26.0),
        (FROM_IMAGE, 2 * (5 + 3 + 4.0)),
        # Measured.
        (replace(DRAWING, width_px=64, height_px=128), 1.5 * 13),
        (replace(DRAWING, width_px=64, height_px=64), 13.0),
    ],
)
def test_work_is_the_size_times_what_is_done(drawing: Drawing, work: float) -> None:
    model = WorkModel(
        fixed_steps=3.0,
        unguided_ratio=0.5,
        reference_px=64,
        size_costs=((64, 128, 1.5),),
        init_image_steps=4.0,
    )
    assert model.work(drawing) == work


def test_the_origin_is_all_before_the_last_dash() -> None:
    assert TASK.origin == domain.origin_of("a-b-1") == "a-b"


def test_three_ends_and_no_more_are_final() -> None:
    assert [one.value for one in TaskStatus if one.is_final] == ["completed", "failed", "cancelled"]
    assert [one.value for one in TaskEventKind if one.is_final] == [
        *("finished", "failed", "cancelled"),
    ]


def test_a_service_lasts_from_acceptance_to_the_end() -> None:
    assert TaskRecord(task=TASK, finished_unix_s=62.0).service_delay_s == 12.0


def test_the_last_number_is_exact_for_every_reader() -> None:
    assert domain.SEQUENCE_LAST == 9007199254740991
    assert float(domain.SEQUENCE_LAST) + 1.0 == 2.0**53


def test_fences_are_ordered_by_term_and_attempt_as_integers_too() -> None:
    assert str(Fence(3, 2)) == "3.2"
    assert Fence(1, 9) < Fence(2, 1) < Fence(2, 2)
    assert Fence(0, 0) == domain.NO_FENCE
    assert Fence(3, 2).integer == 3 * 4096 + 2
    assert Fence.of_integer(3 * 4096 + 2) == Fence(3, 2)
    assert Fence.of_integer(7) == Fence(0, 7)
    # A signed number of 32 bits holds the last term.
    assert Fence(2**20 - 1, 4095).integer == Fence(2**20, 4095).integer == 2**32 - 1
    assert Fence(2**64 - 1, 2**32 - 1).integer == 2**32 - 1, "fits the field, whatever came in"


def test_who_owns_a_task_may_be_another_than_its_origin() -> None:
    assert domain.owner(TASK) == domain.owner(TASK.id) == "a-b"
    assert domain.owner(replace(TASK, owner=domain.NodeId("c"))) == "c"


def test_a_changed_value_is_another_one_and_has_the_fields_that_it_had() -> None:
    record = TaskRecord(task=TASK)
    stepped = changed(record, status=TaskStatus.IN_PROGRESS, step=3)
    assert stepped == replace(record, status=TaskStatus.IN_PROGRESS, step=3)
    assert record == TaskRecord(task=TASK)
    with pytest.raises(TypeError, match="TaskRecord has no field stpe"):
        changed(record, stpe=3)
