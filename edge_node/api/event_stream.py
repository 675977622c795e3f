"""Server-sent events: their text, their pulse and their end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from edge_node.api.error_responses import error_body
from edge_node.api.key_check import InvalidApiKey, client_of

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE = b": keep-alive\n\n"


def encode_event(name: str, data: dict[str, Any], *, event_id: int | str | None = None) -> bytes:
    """One event. JSON escapes line breaks, so its data is a single line."""
    head = "" if event_id is None else f"id: {event_id}\n"
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{head}event: {name}\ndata: {text}\n\n".encode()


def encode_id(event_id: str) -> bytes:
    """No event, but from where on a client that comes again is told."""
    return f"id: {event_id}\n\n".encode()


def event_response(
    request: Request,
    events: AsyncGenerator[bytes, None],
    *,
    keep_alive_s: float,
    until: asyncio.Event | None = None,
) -> StreamingResponse:
    """Streams `events`, with a comment whenever `keep_alive_s` pass without one.

    It ends with an error where the key of the request is revoked meanwhile; and where `until` is
    set, as if the connection broke, for a client that comes again and goes on where it was.
    """
    demand = partial(client_of, request)
    return StreamingResponse(
        _with_pulse(events, interval_s=keep_alive_s, demand=demand, until=until),
        media_type=EVENT_STREAM,
        # The second is for nginx, which would hold events back.
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _with_pulse(
    events: AsyncGenerator[bytes, None],
    *,
    interval_s: float,
    demand: Callable[[], object],
    until: asyncio.Event | None,
) -> AsyncIterator[bytes]:
    following: asyncio.Future[bytes | None] | None = None
    ends = None if until is None else asyncio.ensure_future(until.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(events, None))
            waiting: set[asyncio.Future[Any]] = {following} if ends is None else {following, ends}
            while not (await _first(waiting, timeout_s=interval_s)):
                demand()
                yield KEEP_ALIVE
            if not following.done():
                return
            event = following.result()
            if event is None:
                return
            demand()
            yield event
    except InvalidApiKey as error:
        # The headers are out: all that is left is to say it here.
        yield encode_event("error", error_body(error))
    finally:
        # Reached also when the client hangs up: cancelling the step in progress, or else closing
        # between steps, lets the source clean up.
        if ends is not None:
            ends.cancel()
        if following is not None and not following.done():
            following.cancel()
        else:
            await events.aclose()


async def _first(waiting: set[asyncio.Future[Any]], *, timeout_s: float) -> bool:
    """Whether any is done in time."""
    done, _ = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)
