"""Asynchronous tasks, one at a time: /v1/tasks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edge_node.api import schemas
from edge_node.api.addressing import path_prefix_of, public_url_of, wants_head_alone
from edge_node.api.direct_route import DirectRoute
from edge_node.api.error_responses import error_body, remember_acceptance
from edge_node.api.event_stream import EVENT_STREAM, encode_event, event_response
from edge_node.api.image_response import image_response
from edge_node.api.job_object import job_object
from edge_node.api.key_check import client_of, demand_own
from edge_node.api.request_body import idempotency_of, read_json_with_image
from edge_node.api.sent_image import image_of_text
from edge_node.api.surface import NOBODY_DRAWS, Surface, surface_of
from edge_node.api.thumbnails import MEDIA_TYPE, side_px_in
from edge_node.api.uploads import Mask, Upload, UploadPlace
from edge_node.domain import TaskEvent, TaskId, TaskRecord
from edge_node.erasure import refuse_erased
from edge_node.errors import DEdgeAIError, InvalidRequest
from edge_node.requests import Callback, Idempotency

router = APIRouter(route_class=DirectRoute)

_EVENT_ID_DIGITS_MAX = 18


@router.post("/v1/tasks", status_code=202, response_model=None)
async def submit_task(request: Request) -> JSONResponse:
    """Accepts a task, or a job of several, on disk before the answer."""
    surface = surface_of(request)
    with surface.uploads.place() as place:
        asked = await read_json_with_image(
            request,
            limits=surface.body_limits,
            uploads=surface.uploads,
            place=place,
            images_in=lambda document: (document["init_image"], document.get("mask") or ""),
            understand=partial(_understood, request, place),
        )
        url = asked.wanted.callback_url
        callbacks = None if url is None else surface.callbacks_to(url)
        try:
            order = await surface.order(asked.wanted, previews_wanted=True, upload=asked.upload)
        except NOBODY_DRAWS as refusal:
            submission = await surface.submitted_before(asked.idempotency, refusal)
            order = None
    if order is not None:
        if callbacks is not None:
            callbacks.refuse_beyond(len(order.drawings))
        submission = await surface.submit(
            order, client=client_of(request), durable=True, idempotency=asked.idempotency
        )
    records = submission.records
    remember_acceptance(request, {"x-dedgeai-durability": records[0].task.durability.value})
    if callbacks is not None and url is not None:
        # One that comes again may have been killed before it promised; an end the answer says.
        open_ones = [one for one in records if not (submission.replayed and one.status.is_final)]
        await callbacks.owe(open_ones, Callback(url=url, base=public_url_of(request)))
    prefix = path_prefix_of(request)
    if submission.job_id is None:
        body = schemas.task_object(records[0], prefix=prefix)
        location = f"{prefix}/v1/tasks/{records[0].task.id}"
    else:
        body = job_object(submission.job_id, records, prefix=prefix)
        location = f"{prefix}/v1/jobs/{submission.job_id}"
    headers = {"Location": location}
    if submission.replayed:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse(body, status_code=202, headers=headers)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A request, without its image in base64: that is in the upload's file."""

    wanted: schemas.TaskRequest
    upload: Upload | None
    idempotency: Idempotency | None


def _understood(request: Request, place: UploadPlace, document: Any) -> _Asked:
    idempotency = idempotency_of(request, document)
    wanted = schemas.parse(schemas.TaskRequest, document)
    return _Asked(
        wanted=wanted.model_copy(update={"init_image": None, "mask": None}),
        upload=_upload_of(wanted, place),
        idempotency=idempotency,
    )


def _upload_of(wanted: schemas.TaskRequest, place: UploadPlace) -> Upload | None:
    """The init image, and the mask, out of their base64."""
    if wanted.init_image is None:
        for name, says in (("strength", "how much"), ("mask", "what")):
            if getattr(wanted, name) is not None:
                raise InvalidRequest(
                    f"`{name}` says {says} of an `init_image` may change, and there is none.",
                    param=name,
                )
        return None
    mask = None
    if wanted.mask is not None:
        mask = Mask(image=image_of_text(wanted.mask, place=place, param="mask"))
    image = image_of_text(wanted.init_image, place=place, param="init_image")
    return Upload(image=image, strength=wanted.strength, mask=mask)


@router.get("/v1/tasks/{task_id}", response_model=None)
async def read_task(task_id: str, request: Request) -> JSONResponse:
    """Any node's task."""
    record = await _own_task(request, task_id)
    return JSONResponse(schemas.task_object(record, prefix=path_prefix_of(request)))


@router.delete("/v1/tasks/{task_id}", response_model=None)
async def cancel_task(task_id: str, request: Request) -> JSONResponse:
    """Cancels a task; one that is final stays as it is."""
    await _own_task(request, task_id)
    record = await surface_of(request).front_desk.cancel_task(TaskId(task_id))
    return JSONResponse(schemas.task_object(record, prefix=path_prefix_of(request)))


@router.post("/v1/tasks/{task_id}/erase", response_model=None)
async def erase_task(task_id: str, request: Request) -> JSONResponse:
    """Ends a task and erases what was wanted, what was drawn and what was kept of it, anywhere.

    From then on all but this is answered 410. What it needs to reach other nodes follows by itself.
    """
    front_desk = surface_of(request).front_desk
    demand_own(request, task_id, await front_desk.read_task(TaskId(task_id)))
    await front_desk.erase_task(TaskId(task_id))
    return JSONResponse({"id": task_id, "object": "image.task", "erased": True})


@router.get("/v1/tasks/{task_id}/image", response_model=None)
async def read_image(task_id: str, request: Request) -> Response:
    """The finished image itself, or a small copy that fits a square of `thumbnail` pixels."""
    asked = request.query_params.get("thumbnail")
    side_px = None if asked is None else side_px_in(asked)
    await _own_task(request, task_id)
    surface = surface_of(request)
    content, media_type = await surface.front_desk.read_image(TaskId(task_id))
    if side_px is not None:
        content = await surface.thumbnails.of(content, side_px=side_px)
        media_type = MEDIA_TYPE
    return image_response(request, content, media_type=media_type)


@router.get("/v1/tasks/{task_id}/events", response_model=None)
async def follow_task(task_id: str, request: Request) -> Response:
    """Events of a task until the final one, after the one that Last-Event-ID names.

    A client that has seen the end gets 204, which stops a browser's EventSource.
    """
    surface = surface_of(request)
    after = _last_event_id(request)
    record = await _own_task(request, task_id)
    if wants_head_alone(request):
        return Response(media_type=EVENT_STREAM)
    if not record.status.is_final:
        events = surface.front_desk.watch_task(record.task.id, after=after)
        return event_response(
            request,
            _encoded(surface, events),
            keep_alive_s=surface.keep_alive_s,
            until=surface.leaving,
        )
    happened = [
        event
        async for event in surface.front_desk.watch_task(record.task.id)
        if event.sequence > after
    ]
    if not happened:
        return Response(status_code=204)
    return event_response(
        request, _encoded(surface, _replay(happened)), keep_alive_s=surface.keep_alive_s
    )


async def _own_task(request: Request, task_id: str) -> TaskRecord:
    """The task, if it is there for who asks."""
    record = await surface_of(request).front_desk.read_task(TaskId(task_id))
    demand_own(request, task_id, record)
    refuse_erased(record)
    return record


async def _replay(events: list[TaskEvent]) -> AsyncGenerator[TaskEvent, None]:
    for event in events:
        yield event


async def _encoded(
    surface: Surface, events: AsyncGenerator[TaskEvent, None]
) -> AsyncGenerator[bytes, None]:
    surface.metrics.watchers_changed(1)
    try:
        async with aclosing(events):
            async for event in events:
                yield encode_event(
                    event.kind.value, schemas.task_event(event), event_id=event.sequence
                )
    except DEdgeAIError as error:
        # The headers are out: all that is left is to say it here. Clients resume by event id.
        yield encode_event("error", error_body(error))
    finally:
        surface.metrics.watchers_changed(-1)


def _last_event_id(request: Request) -> int:
    text = request.headers.get("last-event-id", "").strip()
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= _EVENT_ID_DIGITS_MAX):
        raise InvalidRequest(
            "Last-Event-ID must be the id of an event of this task, a whole number.",
            param="Last-Event-ID",
        )
    return int(text)
