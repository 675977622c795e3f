"""AUTOMATIC1111's surface (/sdapi/v1): a face of the same tasks for what speaks it.

Owns the words of that surface. Samplers, schedulers and upscalers are listed because clients ask
for them before they draw; a drawing goes by the sampler that the model has, whatever is named. What
else it does not know is ignored.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edge_node.api import schemas
from edge_node.api.direct_route import DirectRoute
from edge_node.api.error_responses import CLIENT_CLOSED_REQUEST, remember_acceptance
from edge_node.api.key_check import client_of
from edge_node.api.openai_request import adapted, meant, whole
from edge_node.api.openai_serving import failure_of, submit
from edge_node.api.request_body import (
    hung_up,
    idempotency_of,
    read_json,
    read_json_with_image,
)
from edge_node.api.sent_image import image_of_text
from edge_node.api.sittings import Sitting
from edge_node.api.surface import NOBODY_DRAWS, Surface, surface_of
from edge_node.api.uploads import Mask, Upload, UploadPlace
from edge_node.domain import TaskId, TaskRecord, TaskStatus
from edge_node.errors import DEdgeAIError, InvalidRequest, ModelNotFound, not_served
from edge_node.image_header import image_header
from edge_node.requests import Idempotency

router = APIRouter(route_class=DirectRoute)

SAMPLER = "Euler"
# Of A1111, where a request says nothing.
_STRENGTH = 0.75
_MASK_BLUR_PX = 4
_IMAGES = ("init_images", "mask")
_PREVIEWS = 3
# What a client of this surface calls the fields of a drawing.
_OWN_NAMES = {
    "n": "batch_size` times `n_iter",
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "strength": "denoising_strength",
}
# That looking for the latest preview may take: what there is comes at once.
_LOOK_S = 0.1
# By address: what clients ask for before they draw, and what there is of it.
LISTS: dict[str, Any] = {
    "samplers": [{"name": SAMPLER, "aliases": ["euler", "k_euler"], "options": {}}],
    "schedulers": [
        {"name": name, "label": name.title(), "aliases": None, "default_rho": -1.0}
        for name in ("automatic", "simple")
    ],
    "upscalers": [{"name": "None", "model_name": None, "model_path": None, "scale": 1}],
    "latent-upscale-modes": [{"name": "None"}],
    "scripts": {"txt2img": [], "img2img": []},
    "embeddings": {"loaded": {}, "skipped": {}},
    "cmd-flags": {"api": True},
    "memory": {"ram": {}, "cuda": {}},
    **{name: [] for name in ("loras", "prompt-styles", "sd-vae", "sd-modules", "hypernetworks")},
    **{name: [] for name in ("face-restorers", "realesrgan-models")},
}

Endpoint = Callable[..., Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A request: as it was sent, without its images; in OpenAI's words; and its image in a file."""

    sent: Mapping[str, Any]
    wanted: schemas.ImageEditRequest
    idempotency: Idempotency | None
    upload: Upload | None = None


@dataclass(frozen=True, kw_only=True)
class _Accepted:
    """A request on its way to its images, and what is otherwise than was asked for."""

    sent: Mapping[str, Any]
    sitting: Sitting
    notes: tuple[str, ...]
    keyed: bool


@router.post("/sdapi/v1/txt2img", response_model=None)
async def draw_from_text(request: Request) -> Response:
    """Draws batch_size x n_iter images."""
    document = await read_json(request, limits=surface_of(request).body_limits)
    return await _drawn(request, await _accepted(request, _understood(request, document)))


@router.post("/sdapi/v1/img2img", response_model=None)
async def draw_from_image(request: Request) -> Response:
    """The same from an image, the first of `init_images`."""
    surface = surface_of(request)
    with surface.uploads.place() as place:
        asked = await read_json_with_image(
            request,
            limits=surface.body_limits,
            uploads=surface.uploads,
            place=place,
            images_in=lambda document: (*document["init_images"], document.get("mask") or ""),
            understand=partial(_understood_with_image, request, place),
        )
        accepted = await _accepted(request, asked)
    return await _drawn(request, accepted)


@router.get("/sdapi/v1/progress", response_model=None)
async def tell_progress(request: Request) -> Response:
    """Of all that the client has under way on this surface, at this node."""
    surface = surface_of(request)
    sittings = surface.sittings.of(client_of(request).id)
    skip_image = request.query_params.get("skip_current_image", "").lower() in ("1", "true")
    progress, eta_s, running, left = await _standing(surface, sittings)
    image = b"" if skip_image or running is None else await _preview(surface, running)
    began = min((one.began_unix_s for one in sittings), default=0.0)
    return JSONResponse(
        {
            "progress": progress,
            "eta_relative": eta_s,
            "state": {
                "skipped": False,
                "interrupted": any(one.given_up for one in sittings),
                "stopping_generation": False,
                "job": running.task.id if running is not None else "",
                "job_count": left,
                "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.gmtime(began)),
                "job_no": sum(len(one.task_ids) for one in sittings) - left,
                "sampling_step": running.step if running is not None else 0,
                "sampling_steps": 0 if running is None else running.task.drawing.denoising_steps,
            },
            "current_image": base64.b64encode(image).decode() if image else None,
            "textinfo": None,
        }
    )


@router.post("/internal/progress", response_model=None)
async def tell_progress_of_one(request: Request) -> Response:
    """Of one request, by the `force_task_id` that it had."""
    surface = surface_of(request)
    document = _object(await read_json(request, limits=surface.body_limits))
    name = str(document.get("id_task") or "")
    sittings = surface.sittings.of(client_of(request).id, name=name) if name else []
    progress, eta_s, running, _ = await _standing(surface, sittings)
    image = b"" if running is None else await _preview(surface, running)
    return JSONResponse(
        {
            "active": running is not None,
            "queued": bool(sittings) and running is None,
            "paused": False,
            "completed": not sittings,
            "progress": progress,
            "eta": eta_s,
            "live_preview": _data_url(image) if image else None,
            "id_live_preview": 0 if running is None else running.step,
            "textinfo": None,
        }
    )


@router.post("/sdapi/v1/interrupt", response_model=None)
async def interrupt(request: Request) -> Response:
    """Nothing of what the client has under way here is wanted any more."""
    for sitting in surface_of(request).sittings.of(client_of(request).id):
        _give_up(surface_of(request), sitting, sitting.task_ids)
    return JSONResponse({})


@router.post("/sdapi/v1/skip", response_model=None)
async def skip(request: Request) -> Response:
    """The image that is being drawn is not wanted; those after it are."""
    surface = surface_of(request)
    sittings = surface.sittings.of(client_of(request).id)
    _, _, running, _ = await _standing(surface, sittings)
    for sitting in sittings:
        if running is not None and running.task.id in sitting.task_ids:
            _give_up(surface, sitting, (running.task.id,))
    return JSONResponse({})


@router.get("/sdapi/v1/options", response_model=None)
async def read_options(request: Request) -> Response:
    """The model that draws where a request of this client names none."""
    surface = surface_of(request)
    chosen = surface.chosen_models.of(client_of(request).id)
    model = chosen or surface.front_desk.limits().model
    return JSONResponse({"sd_model_checkpoint": model, "samples_format": "png"})


@router.post("/sdapi/v1/options", response_model=None)
async def set_options(request: Request) -> Response:
    """The model may be chosen, for all that follows; nothing else can be set by a client."""
    surface = surface_of(request)
    document = _object(await read_json(request, limits=surface.body_limits))
    name = str(document.get("sd_model_checkpoint") or "")
    served = surface.front_desk.models()
    is_served = name in served
    if name and not is_served and not surface.habits().is_alias(name):
        raise ModelNotFound(not_served(name, served), param="sd_model_checkpoint")
    if name:
        surface.chosen_models.choose(client_of(request).id, name if is_served else None)
    return JSONResponse({})


@router.get("/sdapi/v1/sd-models", response_model=None)
async def list_models(request: Request) -> Response:
    """Models that some live node serves."""
    return JSONResponse(
        [
            {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name}
            for name in surface_of(request).front_desk.models()
        ]
    )


@router.post("/sdapi/v1/refresh-checkpoints", response_model=None)
async def refresh_checkpoints() -> Response:
    """There is nothing to look for."""
    return JSONResponse({})


def _telling(listed: Any) -> Endpoint:
    async def tell_what_there_is() -> Response:
        return JSONResponse(listed)

    return tell_what_there_is


for _name, _listed in LISTS.items():
    router.add_api_route(f"/sdapi/v1/{_name}", _telling(_listed), methods=["GET"])


def _object(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return document


def _understood(request: Request, document: Any, *, from_image: bool = False) -> _Asked:
    document = _object(document)
    idempotency = idempotency_of(request, document)
    override = document.get("override_settings") or {}
    count = 1
    for name in ("batch_size", "n_iter"):
        factor = whole(document.get(name) or 1)
        if type(factor) is int and factor > 0:
            count *= factor
            continue
        raise InvalidRequest(
            "`batch_size` and `n_iter` must be whole numbers from 1 on.", param="batch_size"
        )
    fields = {
        name: document.get(name)
        for name in ("negative_prompt", "seed", "steps", "cfg_scale", "width", "height")
    }
    fields["n"] = count
    fields["model"] = override.get("sd_model_checkpoint") if isinstance(override, dict) else None
    fields["partial_images"] = _PREVIEWS
    if from_image:
        fields["strength"] = document.get("denoising_strength", _STRENGTH)
    with _own_names():
        wanted = schemas.parse(
            schemas.ImageEditRequest, meant({"prompt": document.get("prompt", ""), **fields})
        )
    sent = {name: value for name, value in document.items() if name not in _IMAGES}
    _check_repeatable(sent)
    return _Asked(sent=sent, wanted=wanted, idempotency=idempotency)


@contextmanager
def _own_names() -> Iterator[None]:
    """What is refused within the context is named as the client named it."""
    try:
        yield
    except InvalidRequest as refusal:
        own = _OWN_NAMES.get(refusal.param or "")
        if own is None:
            raise
        message = refusal.message.replace(f"`{refusal.param}`", f"`{own}`")
        raise InvalidRequest(message, param=own) from None


def _check_repeatable(sent: Mapping[str, Any]) -> None:
    """The answer says again what was sent, once all is drawn: too late to find that it cannot.

    Raises:
        InvalidRequest: naming a field that holds what no JSON may.
    """
    for name, value in sent.items():
        try:
            json.dumps({name: value}, allow_nan=False, ensure_ascii=False).encode()
        except ValueError:
            shown = name.encode("ascii", "backslashreplace").decode()[:100]
            raise InvalidRequest(
                f"`{shown}` holds NaN, Infinity or half a surrogate pair, which the answer could "
                "not say again: leave it out.",
                param=shown,
            ) from None


def _understood_with_image(request: Request, place: UploadPlace, document: Any) -> _Asked:
    asked = _understood(request, document, from_image=True)
    images = document.get("init_images")
    if not isinstance(images, list) or not images or not isinstance(images[0], str):
        raise InvalidRequest(
            "`init_images` must be a list of images in base64.", param="init_images"
        )
    upload = Upload(
        image=image_of_text(images[0], place=place, param="init_images"),
        strength=asked.wanted.strength,
        mask=_mask(document, place),
    )
    return replace(asked, upload=upload)


def _mask(document: Mapping[str, Any], place: UploadPlace) -> Mask | None:
    """White is drawn anew and black stays, or the other way round."""
    text, blur = document.get("mask"), document.get("mask_blur")
    blur = _MASK_BLUR_PX if blur is None else blur
    if not text:
        return None
    if not isinstance(text, str):
        raise InvalidRequest("`mask` must be an image in base64.", param="mask")
    if isinstance(blur, bool) or not isinstance(blur, int | float) or not 0 <= blur <= 64:
        raise InvalidRequest("`mask_blur` must be a number from 0 to 64.", param="mask_blur")
    return Mask(
        image=image_of_text(text, place=place, param="mask"),
        keeps="white" if document.get("inpainting_mask_invert") else "black",
        blur_px=float(blur),
        any_size=True,
    )


async def _accepted(request: Request, asked: _Asked) -> _Accepted:
    surface, client = surface_of(request), client_of(request)
    model = asked.wanted.model or surface.chosen_models.of(client.id)
    wanted = asked.wanted.model_copy(update={"model": model})
    notes: tuple[str, ...] = ()
    try:
        found = adapted(wanted, surface.limits_of(model, aliases=True), surface.habits())
        with _own_names():
            order = await surface.order(found.wanted, previews_wanted=True, upload=asked.upload)
        submission = await submit(request, order, asked.idempotency)
        notes = found.notes
    except NOBODY_DRAWS as refusal:
        submission = await surface.submitted_before(asked.idempotency, refusal)
    task_ids = tuple(record.task.id for record in submission.records)
    remember_acceptance(request, {"x-dedgeai-task-id": ", ".join(task_ids)})
    name = str(asked.sent.get("force_task_id") or "")
    sitting = Sitting(client_id=client.id, name=name, task_ids=task_ids)
    return _Accepted(
        sent=asked.sent,
        sitting=sitting,
        notes=notes,
        keyed=asked.idempotency is not None,
    )


async def _drawn(request: Request, accepted: _Accepted) -> Response:
    """The images, once all are drawn or given up."""
    surface = surface_of(request)
    with surface.sittings.under_way(accepted.sitting):
        records = await _ended(surface, accepted, request)
    if records is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return await _answer(surface, accepted, records)


async def _ended(
    surface: Surface, accepted: _Accepted, request: Request
) -> list[TaskRecord] | None:
    """The records of all its tasks; None if its client hung up.

    Raises:
        TaskFailed: one has no image, though it was not given up; nor are the others drawn then.
    """
    front_desk, sitting = surface.front_desk, accepted.sitting
    ends = asyncio.gather(*(front_desk.until_final(task_id) for task_id in sitting.task_ids))
    gone = asyncio.create_task(hung_up(request))
    racing: set[asyncio.Future[Any]] = {ends, gone}
    drawn = False
    try:
        await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
        if not ends.done():
            return None
        records = ends.result()
        for record in records:
            wanted = record.task.id not in sitting.given_up
            if wanted and record.status is not TaskStatus.COMPLETED:
                raise failure_of(record)
        drawn = True
        return records
    finally:
        if not drawn and not accepted.keyed:  # who has a key may ask again
            surface.say_client_gone(sitting.task_ids)
        for one in racing:
            one.cancel()
        await asyncio.gather(ends, gone, return_exceptions=True)


async def _answer(surface: Surface, accepted: _Accepted, records: Sequence[TaskRecord]) -> Response:
    completed = [record for record in records if record.status is TaskStatus.COMPLETED]
    images = []
    for record in completed if accepted.sent.get("send_images") is not False else ():
        content, _ = await surface.front_desk.read_image(record.task.id)
        images.append(base64.b64encode(content).decode())
    drawing = records[0].task.drawing
    seeds = [record.task.drawing.seed for record in records]
    text = (
        f"{drawing.prompt}\nNegative prompt: {drawing.negative_prompt}\n"
        f"Steps: {drawing.steps}, Sampler: {SAMPLER}, CFG scale: {drawing.guidance_scale:g}, "
        f"Size: {drawing.width_px}x{drawing.height_px}, Model: {drawing.model}"
    )
    info = {
        "prompt": drawing.prompt,
        "all_prompts": [drawing.prompt] * len(records),
        "negative_prompt": drawing.negative_prompt,
        "all_negative_prompts": [drawing.negative_prompt] * len(records),
        "seed": seeds[0],
        "all_seeds": seeds,
        "width": drawing.width_px,
        "height": drawing.height_px,
        "sampler_name": SAMPLER,
        "cfg_scale": drawing.guidance_scale,
        "steps": drawing.steps,
        "batch_size": len(records),
        "sd_model_name": drawing.model,
        "infotexts": [f"{text}, Seed: {seed}" for seed in seeds],
        "is_using_inpainting_conditioning": False,
        "warnings": list(accepted.notes),
    }
    return JSONResponse(
        {"images": images, "parameters": dict(accepted.sent), "info": json.dumps(info)}
    )


async def _standing(
    surface: Surface, sittings: Sequence[Sitting]
) -> tuple[float, float, TaskRecord | None, int]:
    """Share done, seconds left, the task that is being drawn if any, and how many are not done."""
    records = [
        await surface.front_desk.read_task(task_id)
        for sitting in sittings
        for task_id in sitting.task_ids
    ]
    left = [record for record in records if not record.status.is_final]
    if not left:
        return 0.0, 0.0, None, 0
    steps = [record.task.drawing.denoising_steps for record in left]
    done = len(records) - len(left)
    done_share = sum(record.step / max(1, z) for record, z in zip(left, steps, strict=True))
    running = [record for record in left if record.status is TaskStatus.IN_PROGRESS]
    eta_s = max(record.eta_s for record in left)
    return (done + done_share) / len(records), eta_s, running[0] if running else None, len(left)


async def _preview(surface: Surface, record: TaskRecord) -> bytes:
    """The latest preview; empty before there is one."""
    latest = b""
    with suppress(TimeoutError, DEdgeAIError):
        async with asyncio.timeout(_LOOK_S):
            async with aclosing(surface.front_desk.watch_task(record.task.id)) as events:
                async for event in events:
                    latest = event.preview or latest
    return latest


def _data_url(image: bytes) -> str:
    header = image_header(image)
    kind = header.format if header is not None else "png"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _give_up(surface: Surface, sitting: Sitting, task_ids: Sequence[TaskId]) -> None:
    sitting.given_up.update(task_ids)
    surface.say_client_gone(task_ids)
