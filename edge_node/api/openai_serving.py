"""An accepted request of OpenAI's image surface on its way to its answer: waited for, or streamed.

A synchronous request's yes is its image. Its tasks end with its connection, unless an
Idempotency-Key came with it: then they are durable, and the client may ask again.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from edge_node.api import schemas, usage
from edge_node.api.addressing import public_url_of
from edge_node.api.error_responses import (
    CLIENT_CLOSED_REQUEST,
    error_body,
    remember_acceptance,
)
from edge_node.api.event_stream import encode_event, event_response
from edge_node.api.key_check import client_of
from edge_node.api.openai_request import Adapted
from edge_node.api.request_body import hung_up
from edge_node.api.surface import Surface, surface_of
from edge_node.domain import Durability, TaskId, TaskRecord, TaskStatus
from edge_node.errors import DEdgeAIError, TaskFailed
from edge_node.requests import Idempotency, Submission

# From the weakest promise on.
_PROMISES = (Durability.NONE, Durability.JOURNALLED, Durability.DISK)


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """An accepted request on its way to its images; `kind` begins the names of its events."""

    surface: Surface
    kind: Literal["image_generation", "image_edit"]
    adapted: Adapted[Any]
    submission: Submission
    keyed: bool

    @property
    def wanted(self) -> schemas.ImageGenerationRequest:
        """The request in terms of the model that draws it."""
        wanted: schemas.ImageGenerationRequest = self.adapted.wanted
        return wanted

    @property
    def task_ids(self) -> tuple[TaskId, ...]:
        """Of its images, in their order."""
        return tuple(record.task.id for record in self.submission.records)

    def abandon(self) -> None:
        """Nobody waits any more."""
        if not self.keyed:
            self.surface.say_client_gone(self.task_ids)


async def submit(
    request: Request, order: schemas.Order, idempotency: Idempotency | None
) -> Submission:
    """Accepts what was ordered; raises as Surface.submit."""
    return await surface_of(request).submit(
        order,
        client=client_of(request),
        durable=idempotency is not None,
        idempotency=idempotency,
    )


async def serve(accepted: Accepted, request: Request) -> Response:
    """The answer once all is drawn, or the events on the way there."""
    remember_acceptance(request, _acceptance_headers(accepted))
    if accepted.wanted.stream:
        keep_alive_s = accepted.surface.keep_alive_s
        return event_response(request, _streamed(accepted), keep_alive_s=keep_alive_s)
    records = await _until_final_or_gone(accepted, request)
    if records is None:
        accepted.abandon()
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return await _answer(accepted, records, request)


async def _until_final_or_gone(accepted: Accepted, request: Request) -> list[TaskRecord] | None:
    """The final records, or None when the client hung up first.

    Raises:
        TaskFailed: one of them has no image; the others are abandoned.
    """
    drawn = asyncio.create_task(_all_completed(accepted))
    gone = asyncio.create_task(hung_up(request))
    racing: set[asyncio.Future[Any]] = {drawn, gone}
    try:
        await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
        if not drawn.done():
            return None
        return drawn.result()
    except DEdgeAIError:
        accepted.abandon()
        raise
    finally:
        for task in racing:
            task.cancel()
        await asyncio.gather(drawn, gone, return_exceptions=True)


async def _all_completed(accepted: Accepted) -> list[TaskRecord]:
    """The records of all its tasks; raises TaskFailed with the first that has no image."""
    if len(accepted.task_ids) == 1:
        return [await _completed(accepted.surface, accepted.task_ids[0])]
    waiting = [
        asyncio.create_task(_completed(accepted.surface, task_id)) for task_id in accepted.task_ids
    ]
    try:
        return list(await asyncio.gather(*waiting))
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _completed(surface: Surface, task_id: TaskId) -> TaskRecord:
    record = await surface.front_desk.until_final(task_id)
    if record.status is not TaskStatus.COMPLETED:
        raise failure_of(record)
    return record


def failure_of(record: TaskRecord) -> TaskFailed:
    """Why a task that is over has no image."""
    if record.error is None:
        return TaskFailed(f"Task {record.task.id} was cancelled.", code="cancelled")
    return TaskFailed(record.error.message, code=record.error.code)


async def _answer(
    accepted: Accepted, records: Sequence[TaskRecord], request: Request
) -> JSONResponse:
    drawing = records[0].task.drawing
    images: list[dict[str, Any]] = []
    for record in records:
        image = {"seed": record.task.drawing.seed, "task_id": record.task.id}
        if accepted.wanted.response_format == "url":
            image["url"] = f"{public_url_of(request)}/v1/tasks/{record.task.id}/image"
        else:
            content, _ = await accepted.surface.front_desk.read_image(record.task.id)
            image["b64_json"] = base64.b64encode(content).decode()
        images.append(image)
    body = {
        "created": int(records[0].finished_unix_s or records[0].task.created_unix_s),
        "model": drawing.model,
        "data": images,
        **schemas.image_properties(drawing, quality=accepted.wanted.quality),
        "usage": usage.usage(records),
        "warnings": [*accepted.adapted.notes, *usage.warnings(records)],
    }
    headers = {"x-dedgeai-executor": ", ".join(record.executor or "" for record in records)}
    emulated = {record.emulated_device for record in records if record.emulated_device}
    if emulated:
        headers["x-dedgeai-emulated-device"] = ", ".join(sorted(emulated))
    return JSONResponse(body, headers=headers)


def _acceptance_headers(accepted: Accepted) -> dict[str, str]:
    submission = accepted.submission
    tasks = [record.task for record in submission.records]
    headers = {
        "x-dedgeai-task-id": ", ".join(task.id for task in tasks),
        "x-dedgeai-durability": min((task.durability for task in tasks), key=_PROMISES.index).value,
    }
    if submission.job_id is not None:
        headers["x-dedgeai-job-id"] = submission.job_id
    if accepted.adapted.asked_size:
        drawing = tasks[0].drawing
        headers["x-dedgeai-size"] = f"{drawing.width_px}x{drawing.height_px}"
        headers["x-dedgeai-size-asked"] = accepted.adapted.asked_size
    return headers


async def _streamed(accepted: Accepted) -> AsyncGenerator[bytes, None]:
    """Events of all images as they come; an error ends the stream."""
    events: asyncio.Queue[bytes | DEdgeAIError | None] = asyncio.Queue(maxsize=1)
    drawing = [
        asyncio.create_task(_stream_one(accepted, task_id, into=events))
        for task_id in accepted.task_ids
    ]
    unfinished = len(drawing)
    try:
        while unfinished:
            event = await events.get()
            if isinstance(event, DEdgeAIError):
                yield encode_event("error", error_body(event))
                return
            if event is None:
                unfinished -= 1
            else:
                yield event
    finally:
        for task in drawing:
            task.cancel()
        if unfinished:
            accepted.abandon()


async def _stream_one(
    accepted: Accepted, task_id: TaskId, *, into: asyncio.Queue[bytes | DEdgeAIError | None]
) -> None:
    """Puts the events of one image into the queue, then None, or the error that ended it."""
    front_desk = accepted.surface.front_desk
    partial_index = 0
    try:
        async with aclosing(front_desk.watch_task(task_id)) as events:
            async for event in events:
                if event.preview:
                    partial = _partial(
                        accepted, task_id, content=event.preview, index=partial_index
                    )
                    await into.put(partial)
                    partial_index += 1
                if event.kind.is_final:
                    break
        record = await front_desk.read_task(task_id)
        if record.status is not TaskStatus.COMPLETED:
            raise failure_of(record)
        content, _ = await front_desk.read_image(task_id)
        # Clients that ask for partial images may wait for one: too few steps for a preview are
        # no reason to send none.
        if accepted.wanted.partial_images and partial_index == 0:
            await into.put(_partial(accepted, task_id, content=content, index=0))
        completed = _event_data(accepted, task_id, content=content, kind="completed")
        completed["usage"] = usage.usage([record])
        completed["warnings"] = [*accepted.adapted.notes, *usage.warnings([record])]
        completed["seed"] = record.task.drawing.seed
        completed["executor"] = record.executor
        await into.put(encode_event(completed["type"], completed))
        await into.put(None)
    except DEdgeAIError as error:
        await into.put(error)


def _partial(accepted: Accepted, task_id: TaskId, *, content: bytes, index: int) -> bytes:
    data = _event_data(accepted, task_id, content=content, kind="partial_image")
    data["partial_image_index"] = index
    return encode_event(data["type"], data)


def _event_data(
    accepted: Accepted, task_id: TaskId, *, content: bytes, kind: str
) -> dict[str, Any]:
    tasks = {record.task.id: record.task for record in accepted.submission.records}
    task = tasks[task_id]
    return {
        "type": f"{accepted.kind}.{kind}",
        "b64_json": base64.b64encode(content).decode(),
        "created_at": int(task.created_unix_s),
        "task_id": task_id,
        **schemas.image_properties(task.drawing, quality=accepted.wanted.quality),
    }
