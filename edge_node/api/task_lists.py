"""Many tasks at once: GET /v1/tasks, DELETE /v1/tasks.

Owns what a query says, which tasks are meant to be cancelled, and how a page is shown. A key
without the scope `operate` has its own tasks only, whatever it asks for.
"""

from __future__ import annotations

import base64
import difflib
import json
import math
import re
from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import QueryParams

from edge_node.access.keys import Client, Scope
from edge_node.api import schemas
from edge_node.api.addressing import path_prefix_of
from edge_node.api.direct_route import DirectRoute
from edge_node.api.key_check import ScopeMissing, client_of
from edge_node.api.schemas import Json
from edge_node.api.surface import surface_of
from edge_node.domain import TaskId, TaskRecord, TaskStatus
from edge_node.erasure import is_erased
from edge_node.errors import InvalidRequest
from edge_node.listing import PAGE_TASKS_MAX, ClusterPage, Missing, Place, TaskFilter

router = APIRouter(route_class=DirectRoute)

LIMIT_DEFAULT = 20
# Of names in a query, as nodes take them from each other.
NAME_CHARS_MAX = 300
_CURSOR_CHARS_MAX = 400
_UNIX_S_MAX = 1e12
_WHOLE = re.compile("[1-9][0-9]{0,2}")
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}-[0-9A-Za-z]{1,26}")
_FILTERS = ("status", "model", "owner")
_OF_LISTS = (*_FILTERS, "limit", "cursor")
_OF_CANCELLING = (*_FILTERS, "all")


@router.get("/v1/tasks", response_model=None)
async def list_tasks(request: Request) -> JSONResponse:
    """Tasks of all nodes, newest first, a page at a time.

    Where few are wanted of many, a page may have fewer than `limit`, and even none, though more
    follow: `has_more` says so. `missing` names the nodes whose tasks it lacks.
    """
    query = request.query_params
    refuse_unknown(query, _OF_LISTS)
    wanted = filter_of(query, client_of(request))
    limit = _limit_in(query.get("limit"))
    before = _place_in(query.get("cursor"))
    found = await surface_of(request).front_desk.list_tasks(wanted, before=before, count=limit)
    return JSONResponse(page_object(found, prefix=path_prefix_of(request)))


@router.delete("/v1/tasks", response_model=None)
async def cancel_tasks(request: Request) -> JSONResponse:
    """Cancels every open task that is meant, at all nodes, before the answer says how many.

    By the filters of the list, or by `all=true` without any. `missing` names the nodes of whose
    tasks nothing is known.
    """
    query = request.query_params
    refuse_unknown(query, _OF_CANCELLING)
    wanted = _open_ones(query, client_of(request))
    done = await surface_of(request).front_desk.cancel_tasks(wanted)
    missing = [missing_object(one) for one in done.missing]
    return JSONResponse({"object": "tasks.cancelled", "cancelled": done.count, "missing": missing})


def _open_ones(query: QueryParams, client: Client) -> TaskFilter:
    all_of_them = query.get("all", "")
    if all_of_them not in ("", "true"):
        raise InvalidRequest("`all` can be true, or left out.", param="all")
    filtered = any(query.get(name) for name in _FILTERS)
    if filtered == bool(all_of_them):
        raise InvalidRequest(
            "Say which tasks are to be cancelled, by `status`, `model` or `owner`; or all=true, "
            "and nothing else.",
            param="all",
        )
    wanted = filter_of(query, client)
    for status in sorted(wanted.statuses):
        if status.is_final:
            raise InvalidRequest(
                f"`status` is {status}: what is over cannot be cancelled. Open tasks are queued or "
                "in_progress.",
                param="status",
            )
    return wanted


def filter_of(query: QueryParams, client: Client) -> TaskFilter:
    """Which tasks a query means, of those that who asks may see.

    Raises:
        InvalidRequest: it means none.
        ScopeMissing: it means another's, and who asks may not operate.
    """
    return TaskFilter(
        statuses=_statuses_in(query.get("status", "")),
        model=_name_in(query, "model"),
        client=owner_in(query, client),
    )


def page_object(found: ClusterPage, *, prefix: str) -> Json:
    """A page as it is shown; `prefix` as in `schemas.task_object`."""
    until = found.page.until
    return {
        "object": "list",
        "data": [_shown(one.record, prefix=prefix) for one in found.page.listed],
        "has_more": until is not None,
        "next_cursor": None if until is None else cursor_of(until),
        "missing": [missing_object(one) for one in found.missing],
    }


def missing_object(missing: Missing) -> Json:
    """A node that did not answer, as it is shown."""
    return {"node": missing.node_id, "address": missing.address or None, "reason": missing.why}


def cursor_of(place: Place) -> str:
    """A place as clients hand it back."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def _shown(record: TaskRecord, *, prefix: str) -> Json:
    if is_erased(record):
        return {"id": record.task.id, "object": "image.task", "erased": True}
    return schemas.task_object(record, prefix=prefix)


def refuse_unknown(query: QueryParams, known: Sequence[str]) -> None:
    """Raises InvalidRequest: another's name for a filter would mean everything.

    And of two values of one name the first would be lost.
    """
    for name in query:
        if name not in known:
            near = difflib.get_close_matches(name, known)
            hint = f"Did you mean `{near[0]}`?" if near else f"Known are {', '.join(known)}."
            raise InvalidRequest(
                f"`{name[:60]}` says nothing of which tasks are meant. {hint}", param=name[:60]
            )
        if len(query.getlist(name)) > 1:
            raise InvalidRequest(f"`{name}` is there more than once.", param=name)


def _statuses_in(text: str) -> frozenset[TaskStatus]:
    words = text.split(",") if text else []
    for word in words:
        if word not in set(TaskStatus):
            raise InvalidRequest(
                f"`status` is {word[:60]!r}; it must be some of {', '.join(TaskStatus)}, with "
                "commas between.",
                param="status",
            )
    return frozenset(TaskStatus(word) for word in words)


def _name_in(query: QueryParams, param: str) -> str:
    text = query.get(param) or ""
    if len(text) > NAME_CHARS_MAX:
        raise InvalidRequest(
            f"`{param}` has {len(text)} characters; at most {NAME_CHARS_MAX} are allowed.",
            param=param,
        )
    return text


def owner_in(query: QueryParams, client: Client) -> str:
    """Whose tasks are meant, of those that who asks may see; empty for everybody's.

    Raises:
        InvalidRequest, ScopeMissing: as filter_of.
    """
    owner = _name_in(query, "owner")
    if client.may(Scope.OPERATE):
        return owner
    assert client.id, "who has no key may do everything"
    if owner not in ("", client.id):
        raise ScopeMissing(
            f"Tasks of others need a key with the scope {Scope.OPERATE}. Leave `owner` out: yours "
            f"is {client.id}.",
            param="owner",
        )
    return client.id


def _limit_in(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if not _WHOLE.fullmatch(text) or int(text) > PAGE_TASKS_MAX:
        raise InvalidRequest(
            f"`limit` is {text[:60]!r}; it must be a whole number from 1 to {PAGE_TASKS_MAX}.",
            param="limit",
        )
    return int(text)


def _place_in(cursor: str | None) -> Place | None:
    if not cursor:
        return None
    try:
        if len(cursor) > _CURSOR_CHARS_MAX:
            raise ValueError("too long")
        padded = cursor + "=" * (-len(cursor) % 4)
        unix_s, task_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        place = Place(float(unix_s), TaskId(task_id))
        if not (math.fabs(place.unix_s) <= _UNIX_S_MAX and _TASK_ID.fullmatch(place.task_id)):
            raise ValueError("no place")
    except (ValueError, TypeError, RecursionError, OverflowError):
        raise InvalidRequest(
            "`cursor` is none that was given out here: take `next_cursor` of the page before, or "
            "leave it out for the newest tasks.",
            param="cursor",
        ) from None
    return place
