"""Which errors each operation of the REST surface answers with: status, code and when.

Owns the table; an error's code, status and meaning are its class's. What is not here is not
answered: tests hold a node against it (`tests/system/conformance.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edge_node.access.key_use import QuotaUsedUp, RateExceeded, TooManyOpen
from edge_node.api.cluster_keys import KeysOutOfDate, KeysRefused
from edge_node.api.error_responses import RequestTooLarge, UnsupportedMediaType, UploadTooSlow
from edge_node.api.gate import CrossSiteRequest, HostNotServed
from edge_node.api.key_check import InvalidApiKey, ScopeMissing
from edge_node.errors import (
    AdmissionRefused,
    DEdgeAIError,
    DiskLow,
    IdempotencyConflict,
    ImageGone,
    ImageNotReady,
    InitImageGone,
    InitImagesFull,
    InvalidRequest,
    MalformedMessage,
    ModelAway,
    ModelNotFound,
    ModerationBlocked,
    ModerationUnavailable,
    NodeAlive,
    NodeAway,
    NodeNotFound,
    NodeNotReady,
    NotTheCaller,
    OriginUnavailable,
    SetAside,
    StoreFull,
    StoreUnavailable,
    TaskErased,
    TaskNotFound,
)
from edge_node.requests import NodeAction

Json = dict[str, Any]
_EXAMPLES = "#/components/examples"
ErrorClass = type[DEdgeAIError]
# Who reads, and who changes something, which a page of another site may not.
_KEYED = (InvalidApiKey, ScopeMissing, RateExceeded)
_OPEN = (HostNotServed, DEdgeAIError)
_BODY = (InvalidRequest, RequestTooLarge, UnsupportedMediaType, UploadTooSlow)
_MODEL = (ModelNotFound, ModelAway, NodeNotReady)
# A node that is asked for another one's task asks that one.
_OF_A_TASK = (
    *(TaskNotFound, TaskErased, StoreUnavailable, OriginUnavailable),
    *(MalformedMessage, NotTheCaller, SetAside),
)
_ACCEPTING = (
    *(*_MODEL, AdmissionRefused, InitImagesFull, TooManyOpen, QuotaUsedUp, IdempotencyConflict),
    *(TaskErased, StoreUnavailable, StoreFull, DiskLow, ModerationBlocked, ModerationUnavailable),
    NodeNotReady,
)
_LISTING = (InvalidRequest, StoreUnavailable)
# What a drawing that is waited for may end with besides: an image, or the code of its task.
ENDINGS = {
    400: ("moderation_blocked",),
    500: ("attempts_exhausted", "poisoned", "cancelled", "draw_failed"),
    504: ("deadline_exceeded",),
}
_MEANS = {
    "attempts_exhausted": "The task was tried as often as it may be, and given up.",
    "poisoned": "Workers died while they drew it.",
    "cancelled": "The task was cancelled before there was an image.",
    "draw_failed": "The worker failed to draw it.",
    "deadline_exceeded": "The deadline passed before there was an image.",
}
# What a status says, whatever the code.
_SAID = {
    400: "The request is wrong; `param` names the field.",
    401: "There is no API key that is in force.",
    403: "The key, or the page that asks, may not do this.",
    404: "There is no such thing, or it is another's.",
    408: "The body took too long to arrive.",
    409: "It goes against what is there.",
    410: "It was there, and is no longer kept, or was erased.",
    413: "The body is too large.",
    415: "The body is of another kind than this takes.",
    421: "The node does not go by that host.",
    429: "Not now: come back after Retry-After.",
    500: "The node failed, or the task.",
    502: "Another node said what none may say.",
    503: "Not now, or not here: come back after Retry-After.",
    504: "The deadline passed.",
    507: "There is no room for it.",
}


@dataclass(frozen=True, kw_only=True)
class Errors:
    """What goes wrong with one operation.

    Attributes:
        classes: that it answers with, beside those of every operation.
        changes: it changes something, so that pages of other sites may not ask for it.
        keyed: it needs a key where there are any.
        endings: it waits for drawings, and says how they ended: any code of a task.
    """

    classes: tuple[ErrorClass, ...] = ()
    changes: bool = False
    keyed: bool = True
    endings: bool = False

    def by_status(self) -> dict[int, dict[str, str]]:
        """Of each status its codes, and of each code what it means."""
        found: dict[int, dict[str, str]] = {}
        for one in self._all():
            found.setdefault(one.http_status, {})[one.code] = _meaning(one)
        if self.endings:
            for status, codes in ENDINGS.items():
                for code in codes:
                    found.setdefault(status, {}).setdefault(code, _MEANS.get(code, ""))
        return dict(sorted(found.items()))

    def _all(self) -> Iterator[ErrorClass]:
        yield from _OPEN
        if self.keyed:
            yield from _KEYED
        if self.changes:
            yield CrossSiteRequest
        yield from self.classes


_DRAWS = Errors(classes=(*_BODY, *_ACCEPTING, ImageGone, InitImageGone), changes=True, endings=True)
_READS_TASK = Errors(classes=_OF_A_TASK)
_ENDS_TASK = Errors(classes=_OF_A_TASK, changes=True)
_FOLLOWS_TASK = Errors(classes=(InvalidRequest, *_OF_A_TASK))
_SETS = Errors(classes=(*_BODY, *_MODEL), changes=True)
_OPERATES = Errors(
    classes=(NodeNotFound, NodeAway, OriginUnavailable, MalformedMessage, NotTheCaller, SetAside),
    changes=True,
)
ERRORS: dict[tuple[str, str], Errors] = {
    ("/v1/images/generations", "post"): _DRAWS,
    ("/v1/images/edits", "post"): _DRAWS,
    ("/v1/images/variations", "post"): _DRAWS,
    ("/v1/models/{model}", "get"): Errors(classes=_MODEL),
    ("/v1/tasks", "get"): Errors(classes=_LISTING),
    ("/v1/tasks", "post"): Errors(classes=(*_BODY, *_ACCEPTING), changes=True),
    ("/v1/tasks", "delete"): Errors(classes=_LISTING, changes=True),
    ("/v1/tasks/{task_id}", "get"): _READS_TASK,
    ("/v1/tasks/{task_id}", "delete"): _ENDS_TASK,
    ("/v1/tasks/{task_id}/erase", "post"): _ENDS_TASK,
    ("/v1/tasks/{task_id}/image", "get"): Errors(
        classes=(InvalidRequest, *_OF_A_TASK, ImageNotReady, ImageGone, AdmissionRefused)
    ),
    ("/v1/tasks/{task_id}/events", "get"): _FOLLOWS_TASK,
    ("/v1/jobs/{job_id}", "get"): _READS_TASK,
    ("/v1/jobs/{job_id}", "delete"): _ENDS_TASK,
    ("/v1/jobs/{job_id}/erase", "post"): _ENDS_TASK,
    ("/v1/jobs/{job_id}/events", "get"): _FOLLOWS_TASK,
    ("/v1/events", "get"): Errors(classes=(InvalidRequest,)),
    **{(f"/v1/nodes/{{node_id}}/{action}", "post"): _OPERATES for action in NodeAction},
    ("/v1/nodes/{node_id}/remove", "post"): Errors(
        classes=(InvalidRequest, NodeAlive, NodeNotFound, StoreUnavailable), changes=True
    ),
    ("/v1/nodes/{node_id}/readmit", "post"): Errors(
        classes=(InvalidRequest, NodeNotFound, StoreUnavailable), changes=True
    ),
    ("/v1/dead_letters", "get"): Errors(classes=(StoreUnavailable,)),
    ("/v1/dead_letters/{task_id}/retry", "post"): Errors(
        classes=(InvalidRequest, TaskNotFound, InitImageGone, *_ACCEPTING), changes=True
    ),
    ("/livez", "get"): Errors(keyed=False),
    ("/readyz", "get"): Errors(keyed=False),
    ("/metrics", "get"): Errors(keyed=False),
    ("/v1/keys", "put"): Errors(
        classes=(*_BODY, KeysRefused, KeysOutOfDate), changes=True, keyed=False
    ),
    ("/sdapi/v1/txt2img", "post"): _DRAWS,
    ("/sdapi/v1/img2img", "post"): _DRAWS,
    ("/sdapi/v1/options", "post"): _SETS,
    ("/sdapi/v1/options", "get"): Errors(classes=_MODEL),
    ("/internal/progress", "post"): _SETS,
    ("/sdapi/v1/interrupt", "post"): Errors(changes=True),
    ("/sdapi/v1/skip", "post"): Errors(changes=True),
    ("/sdapi/v1/refresh-checkpoints", "post"): Errors(changes=True),
}


def errors_of(path: str, method: str) -> Errors:
    """What goes wrong with an operation."""
    return ERRORS.get((path, method), Errors())


def responses_of(path: str, method: str, *, theirs: bool) -> dict[int, Json]:
    """Its error responses by status, with an example for each code.

    `theirs`: its clients know AUTOMATIC1111's shape.
    """
    errors = errors_of(path, method)
    answers = {}
    for status, codes in errors.by_status().items():
        # What a task may end with is told by its worker, too: the list is of the usual ones.
        is_open = errors.endings and status in ENDINGS
        content: Json = {"schema": _schema(list(codes), theirs=theirs, is_open=is_open)}
        content["examples"] = {
            code: {"$ref": f"{_EXAMPLES}/{_named(code, theirs=theirs)}"} for code in codes
        }
        answers[status] = {
            "description": " ".join([_SAID[status], *(f"`{code}`." for code in codes)]),
            "content": {"application/json": content},
        }
    return answers


def examples() -> Json:
    """One of each error, by the names that responses have for them."""
    found = {}
    for errors in (Errors(), *ERRORS.values()):
        for status, codes in errors.by_status().items():
            for code, means in codes.items():
                for theirs in (False, True):
                    value = _example(code, status, means, theirs=theirs)
                    found[_named(code, theirs=theirs)] = {"summary": means, "value": value}
    return dict(sorted(found.items()))


def _named(code: str, *, theirs: bool) -> str:
    return f"{code}_of_automatic1111" if theirs else code


def _schema(codes: list[str], *, theirs: bool, is_open: bool) -> Json:
    code: Json = {"type": "string"} if is_open else {"enum": codes}
    if theirs:
        told: Json = {"error": code, "detail": {"type": "string"}}
        return {"type": "object", "required": ["error", "detail"], "properties": told}
    named = {"properties": {"error": {"properties": {"code": code}}}}
    return {"allOf": [{"$ref": "#/components/schemas/Error"}, named]}


def _example(code: str, status: int, means: str, *, theirs: bool) -> Json:
    if theirs:
        return {"error": code, "detail": means, "body": "", "errors": ""}
    kind = "server_error" if status >= 500 else "invalid_request_error"
    if status == 429:
        kind = "rate_limit_error"
    return {"error": {"message": means, "type": kind, "param": None, "code": code}}


def _meaning(one: ErrorClass) -> str:
    """Its own first sentence."""
    if one is DEdgeAIError:
        return "The node failed; its log names the request."
    return " ".join((one.__doc__ or "").partition("\n\n")[0].split())
