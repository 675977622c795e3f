"""What is left of a task whose content has to go: its words by age, or everything on request.

Pure values, for the store that keeps them and for whoever shows them. A record without its words
names no prompt, no negative prompt and no init image; of an erased one there is neither image nor
error, only that it was there and whose it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_node.domain import TaskError, TaskId, TaskRecord
from edge_node.errors import TaskErased
from edge_node.prompt_tokens import NOT_COUNTED

ERASED = "erased"
# Of an executor's copy of an init image: clocks differ, and it looks once a minute.
COPY_MARGIN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Owed:
    """What still has to go of a task whose record has lost its words.

    Attributes:
        init_image_sha256: what it started from, here and at whoever drew it; empty for none.
        until_unix_s: by then no other node keeps that, asked or not: the task's deadline is over.
        whole: the image and what was learned from the task, too; else only the words in the image.
    """

    task_id: TaskId
    init_image_sha256: str
    until_unix_s: float
    whole: bool


def owed_of(record: TaskRecord, *, whole: bool, unix_s: float) -> Owed:
    """What has to go of a task beside its record; without a deadline a day is the bound."""
    task = record.task
    deadline_unix_s = task.deadline_unix_s
    if deadline_unix_s is None:
        deadline_unix_s = unix_s + 86_400.0
    return Owed(
        task_id=task.id,
        init_image_sha256=task.drawing.init_image_sha256,
        until_unix_s=deadline_unix_s + COPY_MARGIN_S,
        whole=whole,
    )


def without_words(record: TaskRecord) -> TaskRecord:
    """The record of a task that is over, without what its client wrote and sent."""
    drawing = replace(record.task.drawing, prompt="", negative_prompt="", init_image_sha256="")
    return replace(record, task=replace(record.task, drawing=drawing))


def erased(record: TaskRecord) -> TaskRecord:
    """What says of a task that is over that it was erased."""
    bare = without_words(record)
    return replace(
        bare,
        task=replace(bare.task, input_bits=0, drawing=replace(bare.task.drawing, seed=0)),
        error=TaskError(code=ERASED, message="It was erased on request."),
        image_bytes=0,
        prompt_tokens=NOT_COUNTED,
    )


def has_words(record: TaskRecord) -> bool:
    """Whether what its client wrote and sent is still in it; a variation has an image alone."""
    drawing = record.task.drawing
    return bool(drawing.prompt or drawing.negative_prompt or drawing.init_image_sha256)


def is_erased(record: TaskRecord) -> bool:
    """Whether only this is left of it."""
    return record.error is not None and record.error.code == ERASED


def refuse_erased(*records: TaskRecord) -> None:
    """Raises TaskErased where nothing is left to tell of one of them."""
    for record in records:
        if is_erased(record):
            raise TaskErased(f"Task {record.task.id} was erased on request: nothing is left of it.")
