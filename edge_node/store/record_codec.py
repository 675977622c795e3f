"""Task records as JSON text, the only thing that knows the ledger's format.

What changes too often to be written (steps, queue positions, expectations) is left out, and
decodes to its default. Format 1; a newer writer may add fields, which are ignored here, and must
not change the meaning of the present ones.

Every record can be written: a task whose end is not on disk is drawn again after a restart. What
JSON cannot hold is written as absent.
"""

from __future__ import annotations

import json
import math
from typing import Any, cast

from edge_node.domain import (
    ATTEMPTS_OF_A_TERM,
    Drawing,
    Durability,
    Fence,
    JobId,
    NodeId,
    Task,
    TaskError,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.json_text import parsed
from edge_node.moves import Move, MoveReason
from edge_node.prompt_tokens import PromptTokens

FORMAT = 1
_JSON = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))

# Figures of which None says that there is none.
_MAY_BE_NONE = frozenset({"deadline_unix_s", "started_unix_s", "finished_unix_s"})


class UnreadableRecord(ValueError):
    """The text is no task record of any version that this code can read."""


def encode_record(record: TaskRecord) -> str:
    """JSON of `record`; figures that are not finite are absent, None or 0, and read as such."""
    task = record.task
    document = {
        "format": FORMAT,
        "task": {
            "id": task.id,
            "job_id": task.job_id,
            "drawing": vars(task.drawing),
            "work": task.work,
            "input_bits": task.input_bits,
            "created_unix_s": task.created_unix_s,
            "deadline_unix_s": task.deadline_unix_s,
            "priority": task.priority,
            "durability": task.durability,
            "owner": task.owner,
            "client": task.client,
            # Of no use after the end: who asked is kept no longer than that.
            "turns": "" if record.status.is_final else task.turns,
            "term": task.term,
            # For version 0.1.0, if the node is rolled back to it: it places above this number, and
            # raises it by the attempts of each of its lives, far from those of the next term.
            "attempt_floor": Fence(task.term, ATTEMPTS_OF_A_TERM // 2).integer,
        },
        "status": record.status,
        "executor": record.executor,
        "attempt": record.attempt,
        "started_unix_s": record.started_unix_s,
        "finished_unix_s": record.finished_unix_s,
        "error": None if record.error is None else vars(record.error),
        "image_bytes": record.image_bytes,
        "emulated_device": record.emulated_device,
        "queue_s": record.queue_s,
        "compute_s": record.compute_s,
        "policy": record.policy,
        "policy_reason": record.policy_reason,
        "prompt_tokens": record.prompt_tokens,
        "moves": [vars(move) for move in record.moves],
    }
    try:
        text = _JSON.encode(document)
    except ValueError:
        text = _JSON.encode(_finite(document))
    # Half of a surrogate pair, as of a file whose name is no UTF-8, has no bytes.
    return text.encode(errors="replace").decode()


def _finite(value: Any, key: str = "") -> Any:
    """The value, or what stands for one that is not finite under that key."""
    if isinstance(value, dict):
        return {name: _finite(one, name) for name, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None if key in _MAY_BE_NONE else 0.0
    return value


def decode_record(text: str | bytes) -> TaskRecord:
    """The record that `encode_record` wrote, by this version or another.

    Raises:
        UnreadableRecord: the text is damaged or lacks what every version has.
    """
    try:
        return _record(parsed(text))
    except (KeyError, OverflowError, TypeError, ValueError) as problem:
        raise UnreadableRecord(f"{type(problem).__name__}: {problem}") from problem


def _record(document: dict[str, Any]) -> TaskRecord:
    executor, error = document["executor"], document["error"]
    return TaskRecord(
        task=_task(document["task"]),
        status=TaskStatus(document["status"]),
        executor=None if executor is None else NodeId(str(executor)),
        attempt=int(document["attempt"]),
        started_unix_s=_number_or_none(document["started_unix_s"]),
        finished_unix_s=_number_or_none(document["finished_unix_s"]),
        error=None
        if error is None
        else TaskError(code=str(error["code"]), message=str(error["message"])),
        image_bytes=int(document["image_bytes"]),
        emulated_device=str(document["emulated_device"]),
        queue_s=float(document["queue_s"]),
        compute_s=float(document["compute_s"]),
        policy=str(document["policy"]),
        policy_reason=str(document.get("policy_reason", "")),
        prompt_tokens=PromptTokens(*map(int, document.get("prompt_tokens", ()))),
        moves=tuple(map(_move, document.get("moves", ()))),
    )


def _move(document: dict[str, Any]) -> Move:
    return Move(
        source=str(document["source"]),
        target=str(document["target"]),
        # One of a later version is shown as it says.
        reason=cast(MoveReason, str(document["reason"])),
        gain_s=float(document["gain_s"] or 0.0),
    )


def _task(document: dict[str, Any]) -> Task:
    job_id = document["job_id"]
    return Task(
        id=TaskId(str(document["id"])),
        job_id=None if job_id is None else JobId(str(job_id)),
        drawing=_drawing(document["drawing"]),
        work=float(document["work"]),
        input_bits=int(document["input_bits"]),
        created_unix_s=float(document["created_unix_s"]),
        deadline_unix_s=_number_or_none(document["deadline_unix_s"]),
        priority=int(document["priority"]),
        durability=Durability(document["durability"]),
        owner=None if document.get("owner") is None else NodeId(str(document["owner"])),
        client=str(document.get("client", "")),
        turns=str(document.get("turns") or document.get("client", "")),
        term=int(document.get("term", Fence.of_integer(int(document["attempt_floor"])).term)),
    )


def _drawing(document: dict[str, Any]) -> Drawing:
    return Drawing(
        prompt=str(document["prompt"]),
        negative_prompt=str(document["negative_prompt"]),
        width_px=int(document["width_px"]),
        height_px=int(document["height_px"]),
        steps=int(document["steps"]),
        guidance_scale=float(document["guidance_scale"]),
        seed=int(document["seed"]),
        model=str(document["model"]),
        image_format=str(document["image_format"]),
        image_quality=int(document["image_quality"]),
        previews=int(document["previews"]),
        init_image_sha256=str(document.get("init_image_sha256", "")),
        strength=float(document.get("strength", 1.0)),
        masked=bool(document.get("masked", False)),
    )


def _number_or_none(value: Any) -> float | None:
    return None if value is None else float(value)
