"""The shapes of REST requests and responses, and their conversion from and to the domain.

The only place that knows them, but for the cluster's (`cluster_object.py`). Unknown request fields
are ignored; a wrong type or a value out of range is an InvalidRequest that names the field and what
is allowed.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import re
import secrets
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_node.api import usage
from edge_node.api.init_image import fitted_size_px
from edge_node.changing import changed
from edge_node.domain import (
    Drawing,
    TaskEvent,
    TaskRecord,
    TaskStatus,
)
from edge_node.erasure import is_erased
from edge_node.errors import InvalidRequest, ModelNotFound, not_served
from edge_node.moves import Move
from edge_node.requests import DrawingLimits

# Names under which clients may ask for the default model.
MODEL_ALIASES = ("default",)

_SEED_MAX = 2**63 - 1
_DRAWN_SEED_BITS = 32
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
# What other surfaces call our fields.
_ELSEWHERE = {
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "width": "size",
    "height": "size",
    "image": "init_image",
    "init_images": "init_image",
    "denoising_strength": "strength",
}
_QUALITIES = ("low", "medium", "high", "xhigh", "max")

Json = dict[str, Any]


class _DrawingFields(BaseModel):
    """What both surfaces have in common. Strict: "10" is no number and 1 no boolean."""

    model_config = ConfigDict(strict=True, extra="ignore")
    prompt_needed: ClassVar[bool] = True
    previews_max: ClassVar[int] = 3  # OpenAI's

    prompt: str
    model: str | None = None
    n: int | None = None
    size: str | None = None
    output_format: Literal["png", "webp", "jpeg"] | None = None
    output_compression: int | None = None
    partial_images: int | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    deadline_s: float | None = None
    priority: int | None = None


RequestT = TypeVar("RequestT", bound=_DrawingFields)
NumberT = TypeVar("NumberT", int, float)


class TaskRequest(_DrawingFields):
    """POST /v1/tasks. Ours alone, so a field that it does not know is a mistake of the client."""

    model_config = ConfigDict(extra="forbid")
    previews_max: ClassVar[int] = 100  # one after each step but the last, for who watches

    # PNG, JPEG, WebP or GIF in base64, as it is or as a data: URL; or its address.
    init_image: str | None = None
    # The same, with transparency: what is transparent is drawn anew, what is opaque stays.
    mask: str | None = None
    strength: float | None = None
    # Where the end of each task is told, if the operator allows it.
    callback_url: str | None = None


class ImageGenerationRequest(_DrawingFields):
    """POST /v1/images/generations: OpenAI's fields and the extensions above.

    `style`, `user`, `moderation` and their like mean nothing to these models and are accepted, as
    unknown fields are.
    """

    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None
    quality: str | None = None
    background: str | None = None


class ImageEditRequest(ImageGenerationRequest):
    """POST /v1/images/edits: the same, and how much of the image may change."""

    strength: float | None = None


class ImageVariationRequest(ImageEditRequest):
    """POST /v1/images/variations: OpenAI's has no prompt, and the image says it all."""

    prompt: str = ""
    prompt_needed: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """What a request with an init image says of it; its pixels are not needed to check the rest.

    Attributes:
        own_px: width and height of the upload.
        strength: as asked for.
    """

    own_px: tuple[int, int]
    strength: float | None


@dataclass(frozen=True, kw_only=True)
class Order:
    """A checked request: what to draw, and how it is to be served.

    Attributes:
        init_image: PNG of the drawings' size that they name as the one to start from, or empty.
    """

    drawings: tuple[Drawing, ...]
    deadline_s: float | None
    priority: int
    init_image: bytes = b""


def parse(schema: type[RequestT], document: object) -> RequestT:
    """A request of `schema`, or InvalidRequest naming the first field at fault."""
    if not isinstance(document, dict):
        raise InvalidRequest("The body must be a JSON object.")
    try:
        return schema.model_validate(document)
    except ValidationError as problems:
        first = problems.errors(include_url=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        if first["type"] == "extra_forbidden":
            raise InvalidRequest(_unknown(str(param), schema), param=param) from None
        said = "is required" if first["type"] == "missing" else f"is invalid: {first['msg']}"
        raise InvalidRequest(f"`{param}` {said}.", param=param) from None


def _unknown(param: str, schema: type[_DrawingFields]) -> str:
    known = list(schema.model_fields)
    near = [_ELSEWHERE[param]] if param in _ELSEWHERE else difflib.get_close_matches(param, known)
    hint = f"Did you mean `{near[0]}`?" if near else f"Known are {', '.join(known)}."
    return f"`{param}` is not a field of this request. {hint}"


def order(
    request: _DrawingFields,
    limits: DrawingLimits,
    *,
    previews_wanted: bool,
    start: StartingPoint | None = None,
) -> Order:
    """Checks `request` against `limits`, of the model that it means, and applies every default.

    With a `start`, `started_from` completes the order once the init image is there.

    Raises:
        InvalidRequest: a value is out of range.
        ModelNotFound: the limits are another model's.
    """
    if request.model is not None and request.model not in (limits.model, *MODEL_ALIASES):
        raise ModelNotFound(not_served(request.model, [limits.model]), param="model")
    _check_prompts(request, limits)
    width_px, height_px = _size_px(request.size, limits, start)
    count = _within("n", request.n, default=1, low=1, high=limits.images_per_request_max)
    seed = _within(
        "seed",
        request.seed,
        default=secrets.randbits(_DRAWN_SEED_BITS),
        low=0,
        high=_SEED_MAX - count,
    )
    previews = _within(
        "partial_images", request.partial_images, default=0, low=0, high=request.previews_max
    )
    drawing = Drawing(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or "",
        width_px=width_px,
        height_px=height_px,
        steps=_within(
            "num_inference_steps",
            request.num_inference_steps,
            default=limits.steps_default,
            low=1,
            high=limits.steps_max,
        ),
        guidance_scale=_within(
            "guidance_scale",
            request.guidance_scale,
            default=limits.guidance_scale_default,
            low=0.0,
            high=limits.guidance_scale_max,
        ),
        seed=seed,
        model=limits.model,
        image_format=request.output_format or Drawing.image_format,
        image_quality=_within(
            "output_compression",
            request.output_compression,
            default=Drawing.image_quality,
            low=0,
            high=100,
        ),
        previews=previews if previews_wanted else 0,
        strength=Drawing.strength if start is None else _strength(start.strength, limits),
    )
    return Order(
        drawings=_with_own_seeds(drawing, count),
        deadline_s=_deadline_s(request.deadline_s, limits),
        priority=_within(
            "priority",
            request.priority,
            default=0,
            low=limits.priority_min,
            high=limits.priority_max,
        ),
    )


def started_from(order: Order, init_image: bytes, *, masked: bool = False) -> Order:
    """`order` with the image that its drawings start from, of which its alpha keeps a part.

    Raises:
        InvalidRequest: the strength leaves no step to run.
    """
    sha256 = hashlib.sha256(init_image).hexdigest()
    drawings = tuple(
        replace(one, init_image_sha256=sha256, masked=masked) for one in order.drawings
    )
    first = drawings[0]
    if first.denoising_steps < 1:
        raise InvalidRequest(
            f"`strength` is {first.strength:g}, which leaves none of {first.steps} steps to run; "
            f"{1 / first.steps:.3g} runs one.",
            param="strength",
        )
    return replace(order, drawings=drawings, init_image=init_image)


def _strength(strength: float | None, limits: DrawingLimits) -> float:
    if strength is None:
        return limits.strength_default
    if not 0.0 < strength <= 1.0:
        raise InvalidRequest(
            f"`strength` is {strength:g}; it must be more than 0, where the image stays as it is, "
            "and at most 1, where nothing of it is left.",
            param="strength",
        )
    return strength


def _check_prompts(request: _DrawingFields, limits: DrawingLimits) -> None:
    if request.prompt_needed and not request.prompt.strip():
        raise InvalidRequest("`prompt` must not be empty.", param="prompt")
    prompts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt or ""}
    for name, prompt in prompts.items():
        # JSON can escape half a character, which no transport can carry on.
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise InvalidRequest(f"`{name}` holds half a surrogate pair.", param=name)
        if len(prompt) > limits.prompt_chars_max:
            raise InvalidRequest(
                f"`{name}` has {len(prompt)} characters; at most {limits.prompt_chars_max} are "
                "allowed.",
                param=name,
            )


def _size_px(
    size: str | None, limits: DrawingLimits, start: StartingPoint | None
) -> tuple[int, int]:
    if size is None or size == "auto":
        if start is not None:
            return fitted_size_px(start.own_px, limits)
        return limits.size_px_default, limits.size_px_default
    match = _SIZE.fullmatch(size)
    sides_px = (int(match[1]), int(match[2])) if match else (0, 0)
    low_px, high_px, multiple_px = (
        limits.size_px_min,
        limits.size_px_max,
        limits.size_px_multiple,
    )
    if not all(low_px <= side <= high_px and side % multiple_px == 0 for side in sides_px):
        raise InvalidRequest(
            f'`size` is {size[:40]!r}; it must be "auto" or "WIDTHxHEIGHT" with both from '
            f"{low_px} to {high_px} pixels in multiples of {multiple_px}, such as "
            f'"{limits.size_px_default}x{limits.size_px_default}".',
            param="size",
        )
    return sides_px


def _deadline_s(deadline_s: float | None, limits: DrawingLimits) -> float | None:
    if deadline_s is not None and not 0.0 < deadline_s <= limits.deadline_s_max:
        raise InvalidRequest(
            f"`deadline_s` is {deadline_s:g}; it must be more than 0 and at most "
            f"{limits.deadline_s_max:g} seconds.",
            param="deadline_s",
        )
    return deadline_s


def _within(
    name: str, value: NumberT | None, *, default: NumberT, low: NumberT, high: NumberT
) -> NumberT:
    if value is None:
        return default
    if not low <= value <= high:
        raise InvalidRequest(
            f"`{name}` is {_shown(value)}; it must be from {_shown(low)} to {_shown(high)}.",
            param=name,
        )
    return value


def _shown(value: float) -> str:
    """A number for a message: exact while it is short."""
    return str(value) if abs(value) < 1e20 else f"{float(value):g}"


def _with_own_seeds(drawing: Drawing, count: int) -> tuple[Drawing, ...]:
    """`count` drawings; the i-th has seed + i, so that each can be drawn again alone."""
    return tuple(changed(drawing, seed=drawing.seed + index) for index in range(count))


# Responses of our own surface.


def task_object(record: TaskRecord, *, prefix: str = "") -> Json:
    """A task as /v1/tasks shows it. Times are unix seconds, `progress` is 0..100.

    Paths begin with `prefix`, of whatever stands before the node.
    """
    task, drawing = record.task, record.task.drawing
    completed = record.status is TaskStatus.COMPLETED and not is_erased(record)
    steps = drawing.denoising_steps
    document: Json = {
        "id": task.id,
        "object": "image.task",
        "job_id": task.job_id,
        "status": record.status.value,
        "progress": 100 if completed else progress_of(record),
        "created_at": int(task.created_unix_s),
        "started_at": _whole(record.started_unix_s),
        "finished_at": _whole(record.finished_unix_s),
        "node": task.origin,
        "owner": task.client or None,
        "executor": record.executor,
        "attempt": record.attempt,
        "queue_position": record.queue_position,
        "eta_s": 0.0 if record.status.is_final else round(record.eta_s, 3),
        "durability": task.durability.value,
        "model": drawing.model,
        "prompt": drawing.prompt or None,  # removed after its time
        "negative_prompt": drawing.negative_prompt,
        "size": f"{drawing.width_px}x{drawing.height_px}",
        "num_inference_steps": drawing.steps,
        "steps_done": steps if completed else record.step,
        "guidance_scale": drawing.guidance_scale,
        "seed": drawing.seed,
        "output_format": drawing.image_format,
        "priority": task.priority,
        "deadline_at": task.deadline_unix_s,
        "policy": record.policy,
        "policy_reason": record.policy_reason or None,
        "queue_s": record.queue_s,
        "compute_s": record.compute_s,
        "delay_s": round(record.service_delay_s, 3) if record.status.is_final else None,
        "emulated_device": record.emulated_device or None,
        "prompt_tokens": record.prompt_tokens.counted or None,
        "warnings": usage.warnings([record]),
        "image_bytes": record.image_bytes,
        "image_url": f"{prefix}/v1/tasks/{task.id}/image" if completed else None,
        "thumbnail_url": f"{prefix}/v1/tasks/{task.id}/image?thumbnail=256" if completed else None,
        "moves": [_move(move) for move in record.moves],
        "error": error_of(record),
    }
    if drawing.init_image_sha256:
        document["init_image_sha256"] = drawing.init_image_sha256
        document["strength"] = drawing.strength
        document["masked"] = drawing.masked
    return document


def progress_of(record: TaskRecord) -> int:
    """Of a task that is not over, 0..100."""
    return _progress(record.step, record.task.drawing.denoising_steps)


def error_of(record: TaskRecord) -> Json | None:
    """Why a task failed, or None."""
    if record.error is None:
        return None
    return {"code": record.error.code, "message": record.error.message}


def task_event(event: TaskEvent) -> Json:
    """The data of one event of /v1/tasks/{id}/events."""
    document: Json = {
        "sequence": event.sequence,
        "type": event.kind.value,
        "created_at": event.unix_s,
        "attempt": event.attempt,
        "executor": event.executor,
        "step": event.step,
        "steps": event.steps,
        "progress": _progress(event.step, event.steps),
        "queue_position": event.queue_position,
        "eta_s": round(event.eta_s, 3),
    }
    if event.error is not None:
        document["error"] = {"code": event.error.code, "message": event.error.message}
    if event.move is not None:
        document["move"] = _move(event.move)
    if event.preview:
        document["preview_b64_json"] = base64.b64encode(event.preview).decode()
    return document


def _move(move: Move) -> Json:
    return {
        "from": move.source,
        "to": move.target,
        "reason": move.reason,
        "expected_gain_s": round(move.gain_s, 3),
    }


# Responses of OpenAI's surface.


def image_properties(drawing: Drawing, *, quality: str | None) -> Json:
    """What OpenAI's responses and events say of an image besides its content."""
    return {
        "background": "opaque",
        "output_format": drawing.image_format,
        "quality": quality if quality in _QUALITIES else "auto",
        "size": f"{drawing.width_px}x{drawing.height_px}",
    }


def model_object(
    name: str, limits: DrawingLimits | None, *, created_unix_s: int, is_alias: bool = False
) -> Json:
    """A model as /v1/models shows it, or another name of one, with what may be asked for of it.

    `limits` is None where its nodes do not tell (version 0.1.0).
    """
    model: Json = {"id": name, "object": "model", "created": created_unix_s, "owned_by": "dedgeai"}
    if limits is None:
        return model
    if is_alias:
        model["alias_of"] = limits.model
    return {
        **model,
        "fingerprint": limits.fingerprint,
        "limits": {
            "size_px_min": limits.size_px_min,
            "size_px_max": limits.size_px_max,
            "size_px_multiple": limits.size_px_multiple,
            "num_inference_steps_max": limits.steps_max,
            "guidance_scale_max": limits.guidance_scale_max,
            "prompt_chars_max": limits.prompt_chars_max,
        },
        "defaults": {
            "size": f"{limits.size_px_default}x{limits.size_px_default}",
            "num_inference_steps": limits.steps_default,
            "guidance_scale": limits.guidance_scale_default,
            "strength": limits.strength_default,
        },
    }


def _progress(step: int, steps: int) -> int:
    return 100 * step // steps if steps else 0


def _whole(unix_s: float | None) -> int | None:
    return None if unix_s is None else int(unix_s)
