"""Jobs: the tasks of one request as one, /v1/jobs.

Owns how the events of several tasks become one stream, and what its ids are: the number of the last
event of each task, in the order of the job.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edge_node.api import schemas
from edge_node.api.addressing import path_prefix_of, wants_head_alone
from edge_node.api.direct_route import DirectRoute
from edge_node.api.error_responses import error_body
from edge_node.api.event_stream import EVENT_STREAM, encode_event, event_response
from edge_node.api.front_desk_port import FrontDeskPort
from edge_node.api.job_object import job_object
from edge_node.api.key_check import demand_own
from edge_node.api.surface import Surface, surface_of
from edge_node.domain import JobId, TaskEvent, TaskRecord
from edge_node.erasure import is_erased, refuse_erased
from edge_node.errors import DEdgeAIError, InvalidRequest

router = APIRouter(route_class=DirectRoute)

# Events of a job that wait until its client has read those before.
_WAITING_MAX = 64
_EVENT_ID = re.compile(r"\d{1,18}(\.\d{1,18})*")
_EVENT_ID_CHARS_MAX = 20_000


@router.get("/v1/jobs/{job_id}", response_model=None)
async def read_job(job_id: str, request: Request) -> JSONResponse:
    """Any node's job, with what its tasks come to."""
    records = await _own_job(request, job_id)
    prefix = path_prefix_of(request)
    return JSONResponse(job_object(JobId(job_id), records, prefix=prefix))


@router.delete("/v1/jobs/{job_id}", response_model=None)
async def cancel_job(job_id: str, request: Request) -> JSONResponse:
    """Cancels what is open of a job; what is over stays as it is."""
    await _own_job(request, job_id)
    records = await surface_of(request).front_desk.cancel_job(JobId(job_id))
    prefix = path_prefix_of(request)
    return JSONResponse(job_object(JobId(job_id), records, prefix=prefix))


@router.post("/v1/jobs/{job_id}/erase", response_model=None)
async def erase_job(job_id: str, request: Request) -> JSONResponse:
    """Ends all tasks of a job and erases them, images included; as for one task."""
    front_desk = surface_of(request).front_desk
    for record in await _own_job(request, job_id):
        if not is_erased(record):
            await front_desk.erase_task(record.task.id)
    return JSONResponse({"id": job_id, "object": "image.job", "erased": True})


@router.get("/v1/jobs/{job_id}/events", response_model=None)
async def follow_job(job_id: str, request: Request) -> Response:
    """Events of all tasks of a job until each has ended, after those that Last-Event-ID names.

    A client that has seen all ends gets 204, which stops a browser's EventSource.
    """
    surface = surface_of(request)
    records = await _own_job(request, job_id)
    refuse_erased(*records)
    after = _seen_in(request.headers.get("last-event-id", "").strip(), len(records))
    if wants_head_alone(request):
        return Response(media_type=EVENT_STREAM)
    if all(record.status.is_final for record in records):
        happened = [one async for one in _events(surface.front_desk, records, after)]
        if not happened:
            return Response(status_code=204)
    stream = _encoded(surface, records, after)
    return event_response(request, stream, keep_alive_s=surface.keep_alive_s, until=surface.leaving)


async def _own_job(request: Request, job_id: str) -> tuple[TaskRecord, ...]:
    """The tasks of a job, if it is there for who asks."""
    records = await surface_of(request).front_desk.read_job(JobId(job_id))
    demand_own(request, job_id, *records)
    return records


def _seen_in(text: str, count: int) -> list[int]:
    """Of each task the last event seen; none where the job has lost a task since."""
    if not text:
        return [0] * count
    if len(text) > _EVENT_ID_CHARS_MAX or not (text.isascii() and _EVENT_ID.fullmatch(text)):
        raise InvalidRequest(
            "Last-Event-ID must be the id of an event of this job: whole numbers with dots "
            "between.",
            param="Last-Event-ID",
        )
    seen = [int(number) for number in text.split(".")]
    return seen if len(seen) == count else [0] * count


async def _encoded(
    surface: Surface, records: Sequence[TaskRecord], after: Sequence[int]
) -> AsyncGenerator[bytes, None]:
    surface.metrics.watchers_changed(1)
    seen = list(after)
    try:
        async with aclosing(_events(surface.front_desk, records, after)) as events:
            async for index, event in events:
                seen[index] = event.sequence
                data = {"task_id": records[index].task.id, **schemas.task_event(event)}
                event_id = ".".join(map(str, seen))
                yield encode_event(event.kind.value, data, event_id=event_id)
    except DEdgeAIError as error:
        # The headers are out: all that is left is to say it here. Clients resume by event id.
        yield encode_event("error", error_body(error))
    finally:
        surface.metrics.watchers_changed(-1)


async def _events(
    front_desk: FrontDeskPort, records: Sequence[TaskRecord], after: Sequence[int]
) -> AsyncGenerator[tuple[int, TaskEvent], None]:
    """Events of several tasks as they come, each with its task's place among them."""
    arrived: asyncio.Queue[tuple[int, TaskEvent] | Exception | None]
    arrived = asyncio.Queue(maxsize=_WAITING_MAX)

    async def follow(index: int, record: TaskRecord) -> None:
        try:
            # Of what is over all is told, and what was seen is left out here.
            start = 0 if record.status.is_final else after[index]
            watching = front_desk.watch_task(record.task.id, after=start)
            async with aclosing(watching) as events:
                async for event in events:
                    if event.sequence > after[index]:
                        await arrived.put((index, event))
            await arrived.put(None)
        except Exception as problem:
            await arrived.put(problem)

    following = [asyncio.create_task(follow(*one)) for one in enumerate(records)]
    left = len(following)
    try:
        while left:
            one = await arrived.get()
            if isinstance(one, Exception):
                raise one
            if one is None:
                left -= 1
            else:
                yield one
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
