"""What a field of a message may hold, for every field of every message between nodes.

Owns the bounds and the one check by them, before anything of a message becomes a word of domain.py.
They are far beyond what a node says and far below what would hurt: a number is finite and in range,
a name is a name, a text and a list are bounded. What only several fields tell together is the
codec's, and who may say it the peer service's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from dedgeai.v1 import node_pb2, worker_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from edge_node.checkpoint import NUMBER_BYTES, SIDES, TENSOR_BYTES_MAX
from edge_node.domain import (
    ATTEMPTS_OF_A_TERM,
    TERMS_MAX,
    Durability,
    TaskEventKind,
    TaskStatus,
)
from edge_node.errors import MalformedMessage
from edge_node.moves import HELD_TOLD_MAX, MOVE_REASONS, MOVES_TOLD_MAX
from edge_node.removal import REMOVALS_MAX
from edge_node.requests import NodeAction

# Says what is wrong with a value; empty when nothing is.
Check = Callable[[Any], str]

# Of what is quoted in an error, and so in a log.
_SHOWN_CHARS = 60
# Rounding leaves a sum of work that is none a little below it.
_ROUNDING = 1e-3
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
_COUNT_MAX = 2**53
# Texts that a pattern knows again, and messages that were checked; both are bounded in length.
_REMEMBERED = 256
SAID_AGAIN_BYTES_MAX = 4096
_UINT32_MAX = 2**32 - 1


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`, as every comparison with NaN is false."""

    low: float
    high: float

    def __call__(self, value: float) -> str:
        """What is wrong with it."""
        if self.low <= value <= self.high:
            return ""
        return f"is {value!r:.{_SHOWN_CHARS}}, not {self.low:g}..{self.high:g}"


def _remembered(matches: Callable[[str], object]) -> Callable[[str], bool]:
    """Names and addresses are few, and each is said with every state."""
    return lru_cache(maxsize=_REMEMBERED)(lambda value: matches(value) is not None)


def text(chars_max: int, pattern: str = "") -> Check:
    """A text of so many characters; empty, or all of it as the pattern says."""
    matches = _remembered(re.compile(pattern).fullmatch) if pattern else None

    def check(value: str) -> str:
        if len(value) > chars_max:
            return f"has {len(value)} characters, not at most {chars_max}"
        if matches is not None and value and not matches(value):
            return f"is {value!r:.{_SHOWN_CHARS}}, which it cannot be"
        return ""

    return check


def name(pattern: str = _NAME) -> Check:
    """A text that may not be empty."""
    check = text(200, pattern)
    return lambda value: check(value) if value else "is empty"


def word(*words: str) -> Check:
    """One of a few texts."""
    return lambda value: "" if value in words else f"is {value!r:.{_SHOWN_CHARS}}, which is unknown"


def content(bytes_max: int) -> Check:
    """So many bytes."""
    return lambda value: (
        "" if len(value) <= bytes_max else f"has {len(value)} bytes, not at most {bytes_max}"
    )


def listed(count_max: int, each: Check | None = None) -> Check:
    """So many entries; messages among them are checked by their own rules."""

    def check(values: Any) -> str:
        if len(values) > count_max:
            return f"has {len(values)} entries, not at most {count_max}"
        if each is not None:
            return next(filter(None, map(each, values)), "")
        return ""

    return check


def mapped(count_max: int, *, key_chars_max: int, bytes_max: int) -> Check:
    """So many pairs of a text and bytes."""

    def check(values: Any) -> str:
        if len(values) > count_max:
            return f"has {len(values)} entries, not at most {count_max}"
        for key, value in values.items():
            if len(key) > key_chars_max or len(value) > bytes_max:
                return f"has {len(value)} bytes at {key!r:.{_SHOWN_CHARS}}"
        return ""

    return check


def anything(value: object) -> str:
    """A switch, or what has rules of its own."""
    return ""


# A list of API keys and its signature; `access` bounds what is made.
SIGNED_LIST_BYTES_MAX = 2**20
# Far above 0.1.0's and this version's bounds of settings, far below what memory or JSON minds.
_IMAGE_BYTES_MAX = 64 * 2**20
_PREVIEW_BYTES_MAX = 2 * 2**20
_SIDE_PX = Number(0, 2**16)
_STEPS = Number(0, 100_000)
_COUNT = Number(0, _UINT32_MAX)
_BIG_COUNT = Number(0, _COUNT_MAX)
_WORK = Number(-_ROUNDING, 1e9)
_SHORT = text(300)
# An error's sentence is shortened instead of refused: it may quote a library at length.
_SENTENCE = text(2**20)
_PROMPT = text(2**20)
_NODE = name()
_ADDRESS = text(300, r"[!-~]+")
_NODE_OR_NONE = text(63, _NAME)
_TASK = name(_NAME + r"-[0-9A-Za-z]{1,26}")
_TASK_OR_NONE = text(90, _NAME + r"-[0-9A-Za-z]{1,26}")
_SHA256_OR_NONE = text(64, r"[0-9a-f]{64}")
_CODE = text(60, r"[a-z0-9_]*")
_SECONDS = Number(-_ROUNDING, 1e10)
# Of a clock of the day, which may be wrong by decades, and of one that runs from the start.
_CLOCK_S = Number(-1e12, 1e12)
_ATTEMPT = Number(0, _UINT32_MAX)
_TOKENS = Number(0, 10_000_000)

_DRAWING: dict[str, Check] = {
    "prompt": _PROMPT,
    "negative_prompt": _PROMPT,
    "width_px": _SIDE_PX,
    "height_px": _SIDE_PX,
    "steps": _STEPS,
    "guidance_scale": Number(0, 1e6),
    "seed": anything,
    "model": _SHORT,
    "image_format": word("png", "webp", "jpeg"),
    "image_quality": Number(0, 100),
    "previews": _STEPS,
    "init_image_sha256": _SHA256_OR_NONE,
    "strength": Number(0, 1),
    "masked": anything,
}
_WORK_MODEL: dict[str, Check] = {
    "fixed_steps": Number(0, 1e6),
    "unguided_ratio": Number(0, 1e3),
    "reference_px": Number(0, 2**16),
    "size_costs": listed(1000),
    "init_image_steps": Number(0, 1e6),
}
_STATE: dict[str, Check] = {
    "node_id": _NODE,
    "incarnation": _BIG_COUNT,
    "sequence": _BIG_COUNT,
    "backlog": Number(-_ROUNDING, 1e12),
    "capacity": Number(0, 1e9),
    "model": _SHORT,
    "model_fingerprint": _SHORT,
    "accepting": anything,
    "queued": Number(0, 10_000_000),
    "running": Number(0, 10_000_000),
    "dispatches_seen": listed(2000),
    "rest_url": text(500, r"https?://[!-~]+"),
    "device": _SHORT,
    "emulated_device": _SHORT,
    "grpc_address": _ADDRESS,
    "accepted_work_s": Number(-_ROUNDING, 1e9),
    "changed_s": _CLOCK_S,
    "sent_s": _CLOCK_S,
    "cluster_name": text(63, _NAME),
    "leaving": anything,
    "serves": listed(64),
    "learning": anything,
    "sent_at": _CLOCK_S,
    "keys": anything,
    "clients": Number(0, 10_000_000),
    "key_use": listed(1000),
    "accepted_by_model": listed(64),
    "paused": anything,
    "device_summary": anything,
    "held": listed(HELD_TOLD_MAX),
    "removals": listed(REMOVALS_MAX),
    "helped_by": _NODE_OR_NONE,
}
_VIEW: dict[str, Check] = {
    "task_id": _TASK,
    "job_id": _TASK_OR_NONE,
    "status": word(*TaskStatus),
    "drawing": anything,
    "origin": _NODE_OR_NONE,
    "executor": _NODE_OR_NONE,
    "attempt": _ATTEMPT,
    "step": _STEPS,
    "queue_position": _COUNT,
    "eta_s": Number(0, 1e10),
    "durability": word(*Durability),
    "created_at": _CLOCK_S,
    "started_at": _CLOCK_S,
    "finished_at": _CLOCK_S,
    "error_code": _CODE,
    "error_message": _SENTENCE,
    "image_bytes": Number(0, _IMAGE_BYTES_MAX),
    "emulated_device": _SHORT,
    "queue_s": _SECONDS,
    "compute_s": _SECONDS,
    "policy": _SHORT,
    "work": _WORK,
    "deadline_at": _CLOCK_S,
    "priority": anything,
    "policy_reason": text(2000),
    "prompt_tokens": _TOKENS,
    "prompt_tokens_drawn": _TOKENS,
    "client": _SHORT,
    "moves": listed(MOVES_TOLD_MAX),
}
_EVENT: dict[str, Check] = {
    "sequence": _BIG_COUNT,
    "kind": word(*TaskEventKind),
    "at": _CLOCK_S,
    "attempt": _ATTEMPT,
    "executor": _NODE_OR_NONE,
    "step": _STEPS,
    "steps": _STEPS,
    "queue_position": _COUNT,
    "error_code": _CODE,
    "error_message": _SENTENCE,
    "preview": content(_PREVIEW_BYTES_MAX),
    "eta_s": Number(0, 1e10),
    "move": anything,
}
_OFFLOAD: dict[str, Check] = {
    "task_id": _TASK,
    "attempt": _ATTEMPT,
    "fence": anything,
    "origin": _NODE,
    "origin_incarnation": _BIG_COUNT,
    "dispatch": _BIG_COUNT,
    "drawing": anything,
    "work": _WORK,
    "priority": anything,
    "deadline_s": Number(0, 1e9),
    "init_image": content(_IMAGE_BYTES_MAX),
    "client": _SHORT,
    "checkpoint_steps": _STEPS,
    "checkpoint": anything,
    "age_s": _SECONDS,
    "moves_left": _COUNT,
}
_WEIGHTS: dict[str, Check] = {
    "policy": _SHORT,
    "version": _SHORT,
    "generation": _BIG_COUNT,
    "sha256": _SHA256_OR_NONE,
    "size_bytes": _BIG_COUNT,
}
_REMOVAL: dict[str, Check] = {
    "node_id": _NODE,
    "address": _ADDRESS,
    "removed": anything,
    "said_at": _SECONDS,
}
_WITH_WEIGHTS: dict[str, Check] = {"weights": anything, "chunk": content(8 * 2**20)}
_SERVED: dict[str, Check] = {
    "name": _SHORT,
    "fingerprint": _SHORT,
    "work_model": anything,
    "size_px_min": _SIDE_PX,
    "size_px_max": _SIDE_PX,
    "size_px_multiple": _SIDE_PX,
    "steps_max": _COUNT,
    "steps_default": _COUNT,
    "guidance_scale_default": Number(0, 1e6),
    "guidance_scale_max": Number(0, 1e6),
    "strength_default": Number(0, 1),
    "prompt_chars_max": _COUNT,
    "masks": anything,
}
_IMAGE: dict[str, Check] = {
    "content": content(_IMAGE_BYTES_MAX),
    "format": word("png", "webp", "jpeg"),
    "width_px": _SIDE_PX,
    "height_px": _SIDE_PX,
    "emulated_device": _SHORT,
    "prompt_tokens": _TOKENS,
    "prompt_tokens_drawn": _TOKENS,
}
_ONE_TASK: dict[str, Check] = {"task_id": _TASK}
_ONEOF_REPORT = ("queued", "started", "step_finished", "finished", "failed")

# By the name of a message without its package.
RULES: dict[str, dict[str, Check]] = {
    "Drawing": _DRAWING,
    "Image": _IMAGE,
    "WorkModel": _WORK_MODEL,
    "WorkModel.SizeCost": {
        "width_px": _SIDE_PX,
        "height_px": _SIDE_PX,
        "rho": Number(0, 1e6),
    },
    "Fence": {"term": Number(0, TERMS_MAX), "attempt": Number(0, ATTEMPTS_OF_A_TERM - 1)},
    "DrawResponse": dict.fromkeys(_ONEOF_REPORT, anything),
    "DrawResponse.Queued": {"position": _COUNT},
    "DrawResponse.Started": {"step": _STEPS},
    "DrawResponse.StepFinished": {
        "step": _STEPS,
        "steps": _STEPS,
        "preview": content(_PREVIEW_BYTES_MAX),
        "checkpoint": anything,
    },
    "Checkpoint": {
        "drawing_sha256": _SHA256_OR_NONE,
        "model_fingerprint": _SHORT,
        "step": _STEPS,
        "dtype": word("", *NUMBER_BYTES),
        "shape": listed(SIDES, Number(1, 2**16)),
        "latent": content(TENSOR_BYTES_MAX),
        "velocity": content(TENSOR_BYTES_MAX),
        "change": Number(0, 1e30),
    },
    "RowWanted": {
        "task_id": _TASK,
        "fence": anything,
        "drawing": anything,
        "model_fingerprint": _SHORT,
        "step": _STEPS,
        "latent": anything,
        "pair_s": _SECONDS,
        "row_s": _SECONDS,
        "leader": _NODE,
    },
    "RowGiven": {
        "task_id": _TASK,
        "fence": anything,
        "drawing_sha256": _SHA256_OR_NONE,
        "step": _STEPS,
        "velocity": anything,
        "refused": _CODE,
        "took_s": _SECONDS,
    },
    "Numbers": {
        "dtype": word("", *NUMBER_BYTES),
        "shape": listed(SIDES, Number(1, 2**16)),
        "content": content(TENSOR_BYTES_MAX),
    },
    "ComputeRowRequest": {"wanted": anything},
    "ComputeRowResponse": {"given": anything},
    "DrawResponse.Finished": {"image": anything, "queue_s": _SECONDS, "compute_s": _SECONDS},
    "DrawResponse.Failed": {"code": _CODE, "message": _SENTENCE, "retryable": anything},
    "NodeServiceDescribeRequest": {},
    "NodeServiceDescribeResponse": {
        "node_id": _NODE,
        **dict.fromkeys(("version", "model", "model_fingerprint", "rest_url"), text(500)),
        **dict.fromkeys(("device", "emulated_device"), _SHORT),
    },
    "NodeState": _STATE,
    "Learning": {
        "policy": _SHORT,
        "willing": anything,
        "learner": _NODE_OR_NONE,
        "weights": anything,
    },
    "LearnedWeights": _WEIGHTS,
    "Removal": _REMOVAL,
    "ServedModel": _SERVED,
    "DispatchSeen": {"origin": _NODE, "dispatch": _BIG_COUNT, "incarnation": _BIG_COUNT},
    "ExchangeStateRequest": {"state": anything},
    "ExchangeStateResponse": {"state": anything},
    "OffloadRequest": _OFFLOAD,
    "OffloadResponse": dict.fromkeys((*_ONEOF_REPORT, "heartbeat"), anything),
    "OffloadResponse.Queued": {"position": _COUNT},
    "OffloadResponse.Heartbeat": {"queue_position": _COUNT},
    "CancelOffloadRequest": {"task_id": _TASK, "attempt": _ATTEMPT, "fence": anything},
    "CancelOffloadResponse": {},
    "HandOverRequest": {"task_id": _TASK, "fence": anything},
    "HandOverResponse": {},
    "TakeTaskRequest": {
        "task_id": _TASK,
        "fence": anything,
        "taker": _NODE,
        "reason": word(*MOVE_REASONS),
        "gain_s": Number(-1e10, 1e10),
    },
    "TakeTaskResponse": {"granted": anything},
    "HeldDrawing": {
        "task_id": _TASK,
        "fence": anything,
        "model": _SHORT,
        "age_s": _SECONDS,
        "work_left": _WORK,
        "step_work": _WORK,
        "begun": anything,
        "moves_left": _COUNT,
    },
    "Move": {
        "source": _NODE,
        "target": _NODE,
        "reason": word(*MOVE_REASONS),
        "gain_s": Number(-1e10, 1e10),
    },
    "GetTaskRequest": _ONE_TASK,
    "GetTaskResponse": {"task": anything},
    "GetJobRequest": {"job_id": _TASK},
    "GetJobResponse": {"job_id": _TASK_OR_NONE, "tasks": listed(10_000)},
    "TaskFilter": {
        "statuses": listed(16, word(*TaskStatus)),
        "model": _SHORT,
        "client": _SHORT,
    },
    "TaskPlace": {"accepted_at": _CLOCK_S, "task_id": _TASK},
    "ListTasksRequest": {"filter": anything, "before": anything, "count": _COUNT},
    "ListTasksResponse": {"tasks": listed(10_000), "until": anything},
    "ListedTask": {"accepted_at": _CLOCK_S, "task": anything},
    "CancelTasksRequest": {"filter": anything},
    "CancelTasksResponse": {"cancelled": Number(0, 10_000_000)},
    "CancelTaskRequest": _ONE_TASK,
    "CancelTaskResponse": {"task": anything},
    "EraseTaskRequest": _ONE_TASK,
    "EraseTaskResponse": {},
    "ForgetTaskRequest": {**_ONE_TASK, "init_image_sha256": _SHA256_OR_NONE},
    "ForgetTaskResponse": {"forgotten": anything},
    "WatchTaskRequest": {"task_id": _TASK, "after": _BIG_COUNT},
    "WatchTaskResponse": _EVENT,
    "WatchEventsRequest": {"after": _BIG_COUNT, "client": _SHORT, "previews": anything},
    "WatchEventsResponse": {
        "number": _BIG_COUNT,
        "task_id": _TASK_OR_NONE,
        "client": _SHORT,
        "event": anything,
        "missed": anything,
    },
    "FetchImageRequest": _ONE_TASK,
    "FetchImageResponse": {"media_type": _SHORT, "chunk": content(8 * 2**20)},
    "ReadExperienceRequest": {"after": _SHORT, "entries_max": _COUNT},
    "ReadExperienceResponse": {"last": _SHORT, "entries": listed(1000), "read_at": _CLOCK_S},
    "ExperienceEntry": {"fields": mapped(64, key_chars_max=100, bytes_max=2**20)},
    "FetchWeightsRequest": {"sha256": _SHA256_OR_NONE},
    "FetchWeightsResponse": _WITH_WEIGHTS,
    "OfferWeightsRequest": _WITH_WEIGHTS,
    "OfferWeightsResponse": {},
    "OfferVerdictRequest": {"format": _SHORT, "verdict": content(8 * 2**20)},
    "OfferVerdictResponse": {},
    "DeviceSummary": {
        "gpu_load": Number(0, 1),
        "temperature_c": Number(-300, 1000),
        "power_w": Number(0, 100_000),
        "power_mode": _SHORT,
    },
    "OperateRequest": {"action": word(*NodeAction)},
    "OperateResponse": {},
    "KeysHeld": {"version": _BIG_COUNT, "sha256": _SHA256_OR_NONE},
    "KeyUse": {
        "client": _SHORT,
        "day": _COUNT,
        "images": _BIG_COUNT,
        "open_tasks": Number(0, 10_000_000),
    },
    "AcceptedWork": {"model": _SHORT, "work_s": Number(-_ROUNDING, 1e9)},
    "FetchKeysRequest": {},
    "FetchKeysResponse": {"signed_list": content(SIGNED_LIST_BYTES_MAX)},
    "TaskView": _VIEW,
}


def check(message: Message) -> None:
    """Raises MalformedMessage where a field of `message`, or of one within, breaks its rule."""
    compiled = _COMPILED[message.DESCRIPTOR.full_name]
    said = message.SerializeToString() if compiled.said_again else b""
    if said and said in _KEPT_RULES:
        return
    _check_fields(message, compiled)
    if 0 < len(said) <= SAID_AGAIN_BYTES_MAX:
        if len(_KEPT_RULES) >= _REMEMBERED:
            _KEPT_RULES.clear()
        _KEPT_RULES.add(said)


def _check_fields(message: Message, compiled: _Compiled) -> None:
    for field, low, high in compiled.numbers:  # most of what is said, so without a call
        if not low <= getattr(message, field) <= high:
            raise _broken(message, field, Number(low, high))
    for field, rule in compiled.others:
        if rule(getattr(message, field)):
            raise _broken(message, field, rule)
    for field in compiled.single:
        if message.HasField(field):
            check(getattr(message, field))
    for field in compiled.repeated:
        for one in getattr(message, field):
            check(one)


def _broken(message: Message, field: str, rule: Check) -> MalformedMessage:
    return MalformedMessage(f"{message.DESCRIPTOR.name}.{field} {rule(getattr(message, field))}.")


class _Compiled(NamedTuple):
    """The rules of a message by what they cost; `single` and `repeated` are messages within.

    `said_again`: it comes with every state of its node, and seldom changes.
    """

    numbers: list[tuple[str, float, float]]
    others: list[tuple[str, Check]]
    single: list[str]
    repeated: list[str]
    said_again: bool


def _compiled(descriptor: Descriptor, rules: dict[str, Check]) -> _Compiled:
    compiled = _Compiled([], [], [], [], descriptor.name in _SAID_AGAIN)
    for field in descriptor.fields:
        rule = rules[field.name]
        if isinstance(rule, Number):
            compiled.numbers.append((field.name, rule.low, rule.high))
        elif rule is not anything:
            compiled.others.append((field.name, rule))
        within = field.message_type
        if within is not None and not within.GetOptions().map_entry:
            (compiled.repeated if field.is_repeated else compiled.single).append(field.name)
    return compiled


def _descriptor(name: str) -> Descriptor:
    outer, *inner = name.split(".")
    for module in (node_pb2, worker_pb2):
        found: Descriptor | None = module.DESCRIPTOR.message_types_by_name.get(outer)
        if found is not None:
            for one in inner:
                found = found.nested_types_by_name[one]
            return found
    raise KeyError(name)


_SAID_AGAIN = frozenset({"ServedModel"})
# What such messages said, and was found to keep the rules.
_KEPT_RULES: set[bytes] = set()
_COMPILED = {
    _descriptor(name).full_name: _compiled(_descriptor(name), rules)
    for name, rules in RULES.items()
}
