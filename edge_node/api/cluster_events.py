"""GET /v1/events: what happens to tasks of all nodes, and to the nodes, as one stream.

Owns its words and its ids: the number of the last event seen of each node. A key without the scope
`operate` is told of its own tasks only.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edge_node.api import schemas
from edge_node.api.addressing import wants_head_alone
from edge_node.api.direct_route import DirectRoute
from edge_node.api.error_responses import error_body
from edge_node.api.event_stream import EVENT_STREAM, encode_event, encode_id, event_response
from edge_node.api.key_check import client_of
from edge_node.api.surface import Surface, surface_of
from edge_node.api.task_lists import owner_in, refuse_unknown
from edge_node.domain import NodeId
from edge_node.errors import DEdgeAIError, InvalidRequest
from edge_node.happenings import ClusterEvent, NodeSeen

router = APIRouter(route_class=DirectRoute)

_OF_STREAMS = ("owner", "previews")
_ID_CHARS_MAX = 8000
_OF_NODE = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}:\d{1,15}"
LAST_SEEN = rf"{_OF_NODE}(,{_OF_NODE})*"
_LAST_SEEN = re.compile(LAST_SEEN, re.ASCII)


@router.get("/v1/events", response_model=None)
async def follow_cluster(request: Request) -> Response:
    """Events of all tasks that who asks may see, from now on or after those that Last-Event-ID has.

    `task` is something that happened to a task, `node` how a node is seen now, and `missed` says
    that a node no longer knows what happened since: then lists have it. It does not end by itself.
    With `previews=true` steps come with their pictures, of tasks for which some are made.
    """
    surface = surface_of(request)
    refuse_unknown(request.query_params, _OF_STREAMS)
    client = owner_in(request.query_params, client_of(request))
    previews = _previews_in(request.query_params.get("previews", ""))
    after = _seen_in(request.headers.get("last-event-id", "").strip())
    if wants_head_alone(request):
        return Response(media_type=EVENT_STREAM)
    watching = surface.front_desk.watch_cluster(after=after, client=client, previews=previews)
    stream = _encoded(surface, after, watching)
    return event_response(request, stream, keep_alive_s=surface.keep_alive_s, until=surface.leaving)


def _previews_in(text: str) -> bool:
    if text not in ("", "true", "false"):
        raise InvalidRequest("`previews` can be true or false.", param="previews")
    return text == "true"


def _seen_in(text: str) -> dict[NodeId, int]:
    if not text:
        return {}
    if len(text) > _ID_CHARS_MAX or not _LAST_SEEN.fullmatch(text):
        raise InvalidRequest(
            "Last-Event-ID must be the id of an event of this address: names of nodes and whole "
            "numbers, such as orin-1:4000000012,orin-2:7000000003.",
            param="Last-Event-ID",
        )
    pairs = (one.rpartition(":") for one in text.split(","))
    return {NodeId(name): int(number) for name, _, number in pairs}


async def _encoded(
    surface: Surface, after: Mapping[NodeId, int], watching: AsyncGenerator[ClusterEvent, None]
) -> AsyncGenerator[bytes, None]:
    surface.metrics.watchers_changed(1)
    seen = dict(after)
    try:
        async with aclosing(watching) as events:
            async for event in events:
                yield _one(event, seen)
    except DEdgeAIError as error:
        # The headers are out: all that is left is to say it here. Clients resume by event id.
        yield encode_event("error", error_body(error))
    finally:
        surface.metrics.watchers_changed(-1)


def _one(told: ClusterEvent, seen: dict[NodeId, int]) -> bytes:
    """One event; `seen` is brought up to date with it."""
    what = told.what
    if isinstance(what, NodeSeen):
        data = {"node": told.node_id, "alive": what.alive, "accepting": what.accepting}
        return encode_event("node", data)
    seen[told.node_id] = what.number
    event_id = ",".join(f"{node_id}:{number}" for node_id, number in sorted(seen.items()))
    if what.event is not None:
        names = {"node": told.node_id, "task_id": what.task_id, "owner": what.client or None}
        return encode_event("task", {**names, **schemas.task_event(what.event)}, event_id=event_id)
    if what.missed:
        return encode_event("missed", {"node": told.node_id}, event_id=event_id)
    return encode_id(event_id)
