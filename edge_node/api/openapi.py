"""What /openapi.json says of the surface beside its addresses: bodies, headers, answers, keys.

Routes here take the request itself, so that FastAPI knows nothing of it but its path. Owns the
rest, as one table by address and method. Limits that an operator sets are not told here: beyond
them is 400.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from edge_node.api import openapi_fields, schemas
from edge_node.api.automatic1111 import LISTS
from edge_node.api.cluster_events import LAST_SEEN
from edge_node.api.openapi_errors import examples, responses_of
from edge_node.api.openapi_examples import ANSWERS, BODIES, PARAMETERS, UNWELL
from edge_node.api.task_lists import NAME_CHARS_MAX
from edge_node.api.thumbnails import SIDE_PX_MAX, SIDE_PX_MIN
from edge_node.domain import TaskEventKind, TaskStatus
from edge_node.listing import PAGE_TASKS_MAX
from edge_node.moves import MOVE_REASONS
from edge_node.requests import NodeAction

Json = dict[str, Any]

_SCHEMAS = "#/components/schemas"
_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {
                    "enum": ["invalid_request_error", "rate_limit_error", "server_error"],
                },
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_TASK: Json = {
    "type": "object",
    "required": ["id", "object", "status", "progress", "prompt", "error"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "image.task"},
        "status": {"enum": ["queued", "in_progress", "completed", "failed", "cancelled"]},
        "progress": {"type": "integer", "minimum": 0, "maximum": 100},
        "prompt": {"type": ["string", "null"]},
        "error": {"type": ["object", "null"]},
        "moves": {"type": "array", "items": {"$ref": f"{_SCHEMAS}/Move"}},
    },
}
_MOVE: Json = {
    "type": "object",
    "description": "That a drawing went on at another node.",
    "required": ["from", "to", "reason", "expected_gain_s"],
    "properties": {
        "from": {"type": "string"},
        "to": {"type": "string"},
        "reason": {"enum": list(MOVE_REASONS)},
        "expected_gain_s": {"type": "number"},
    },
}
_EVENT: Json = {
    "type": "object",
    "required": ["sequence", "type", "step", "steps", "progress"],
    "properties": {"type": {"enum": list(TaskEventKind)}},
}
_JOB: Json = {
    "type": "object",
    "required": ["id", "object", "status", "progress", "tasks"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "image.job"},
        "status": {"enum": list(TaskStatus)},
        "progress": {"type": "integer", "minimum": 0, "maximum": 100},
        "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
        "tasks": {"type": "array", "items": {"$ref": f"{_SCHEMAS}/Task"}},
    },
}
_ERASED: Json = {
    "type": "object",
    "required": ["id", "object", "erased"],
    "properties": {"erased": {"const": True}},
}
_IMAGES: Json = {
    "type": "object",
    "required": ["created", "data"],
    "properties": {"data": {"type": "array", "items": {"type": "object"}}},
}
_LIST: Json = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array"}},
}
_MISSING: Json = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["node", "address", "reason"],
        "properties": {
            "node": {"type": ["string", "null"]},
            "address": {"type": ["string", "null"]},
            "reason": {"type": "string"},
        },
    },
}
_CANCELLED: Json = {
    "type": "object",
    "required": ["object", "cancelled", "missing"],
    "properties": {
        "object": {"const": "tasks.cancelled"},
        "cancelled": {"type": "integer", "minimum": 0},
        "missing": _MISSING,
    },
}
_TASKS: Json = {
    "type": "object",
    "required": ["object", "data", "has_more", "next_cursor", "missing"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"anyOf": [{"$ref": f"{_SCHEMAS}/Task"}, _ERASED]}},
        "has_more": {"type": "boolean"},
        "next_cursor": {"type": ["string", "null"]},
        "missing": _MISSING,
    },
}
_NODE: Json = {
    "type": "object",
    "required": ["object", "node", "paused"],
    "properties": {"node": {"type": "string"}, "paused": {"type": "boolean"}},
}
_PLACE: Json = {
    "type": "object",
    "required": ["object", "node", "removed"],
    "properties": {"node": {"type": "string"}, "removed": {"type": "boolean"}},
}
_STATUS: Json = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "string"}, "node": {"type": "string"}},
}
_KEYS: Json = {
    "type": "object",
    "required": ["signed_list"],
    "properties": {"signed_list": {"type": "string"}},
}
_BINARY: Json = {"type": "string", "format": "binary"}
_NAMED = {"Error": _ERROR, "Task": _TASK, "TaskEvent": _EVENT, "Move": _MOVE, "Job": _JOB}
_MODELS: dict[str, type[BaseModel]] = {
    "TaskRequest": schemas.TaskRequest,
    "ImageGenerationRequest": schemas.ImageGenerationRequest,
    "ImageEditRequest": schemas.ImageEditRequest,
    "ImageVariationRequest": schemas.ImageVariationRequest,
}
# Whose fields are read as they were meant (openai_request.py): numbers may be text, and so on.
_READ_KINDLY = {"ImageGenerationRequest", "ImageEditRequest", "ImageVariationRequest"}


def _ref(name: str) -> Json:
    return {"$ref": f"{_SCHEMAS}/{name}"}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _answer(description: str, content: Json | None = None) -> Json:
    return {"description": description, **({} if content is None else {"content": content})}


def _header(name: str, description: str, **schema: Any) -> Json:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


def _query(name: str, description: str, **schema: Any) -> Json:
    return {**_header(name, description, **schema), "in": "query"}


_PROMPT = {"minLength": 1, "pattern": r"\S"}
_ONCE = _header(
    "Idempotency-Key",
    "A request that comes again with it is accepted once.",
    minLength=1,
    maxLength=255,
)
_IN_BASE64: Json = {
    "description": "In base64, as it is or as a data: URL, or the address of one where the node's "
    "operator allows that; or a list of them."
}
# AUTOMATIC1111's: the fields that are read; what else its clients send is ignored.
_TO_IMAGE: Json = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string", **_PROMPT},
        **{name: {} for name in ("negative_prompt", "seed", "steps", "cfg_scale", "width")},
        **{name: {} for name in ("height", "batch_size", "n_iter", "override_settings")},
        **{name: {} for name in ("force_task_id", "send_images", "denoising_strength")},
    },
}
# Only the first one counts.
_FROM_IMAGE: Json = {
    **_TO_IMAGE,
    "required": ["prompt", "init_images"],
    "properties": {
        **_TO_IMAGE["properties"],
        "init_images": {"type": "array", "minItems": 1, "prefixItems": [{"type": "string"}]},
        **{name: {} for name in ("mask", "mask_blur", "inpainting_mask_invert")},
    },
}
_STATUSES = "|".join(TaskStatus)
_OF_STATUSES = f"^(({_STATUSES})(,({_STATUSES}))*)?$"
_OF_JOB_EVENTS = r"^([0-9]{1,18}(\.[0-9]{1,18})*)?$"
_OF_FILTERS = [
    _query("status", "Some of the statuses, with commas between.", pattern=_OF_STATUSES),
    _query("model", "That is to draw them.", maxLength=NAME_CHARS_MAX),
    _query("owner", "Id of the API key that asked for them.", maxLength=NAME_CHARS_MAX),
]
_DRAWN = {200: _answer("The images.", {**_json(_IMAGES), "text/event-stream": {}})}
_PICTURE: Json = {f"image/{one}": {"schema": _BINARY} for one in ("png", "webp", "jpeg")}
_ACCEPTED = {202: _answer("Accepted, on disk.", _json({"anyOf": [_ref("Task"), _ref("Job")]}))}


def _with_image(request: str, image: Json) -> Json:
    mask = {"mask": {**image, "description": "What is transparent in it is drawn anew."}}
    more = {"type": "object", "required": ["image"], "properties": {"image": image, **mask}}
    return {"allOf": [_ref(request), more]}


def _of_automatic1111(answer: str, *, body: Json | None = None, shape: Json | None = None) -> Json:
    content = _json(shape or {"type": "object"})
    told: Json = {"answers": {200: _answer(answer, content)}, "theirs": True}
    if body is not None:
        told["body"] = _json(body)
    return told


_THEIRS: dict[tuple[str, str], Json] = {
    ("/sdapi/v1/txt2img", "post"): _of_automatic1111("The images.", body=_TO_IMAGE),
    ("/sdapi/v1/img2img", "post"): _of_automatic1111("The images.", body=_FROM_IMAGE),
    ("/sdapi/v1/options", "post"): _of_automatic1111("It is so.", body={"type": "object"}),
    ("/internal/progress", "post"): _of_automatic1111("Progress.", body={"type": "object"}),
    ("/sdapi/v1/progress", "get"): _of_automatic1111("Progress."),
    ("/sdapi/v1/options", "get"): _of_automatic1111("The model."),
    ("/sdapi/v1/sd-models", "get"): _of_automatic1111("Models.", shape={"type": "array"}),
    **{
        (f"/sdapi/v1/{name}", "get"): _of_automatic1111(
            "What there is.", shape={"type": ["array", "object"]}
        )
        for name in LISTS
    },
    ("/sdapi/v1/interrupt", "post"): _of_automatic1111("It is so."),
    ("/sdapi/v1/skip", "post"): _of_automatic1111("It is so."),
    ("/sdapi/v1/refresh-checkpoints", "post"): _of_automatic1111("It is so."),
}
# Answers that are no errors, and what else an operation has.
OPERATIONS: dict[tuple[str, str], Json] = {
    ("/v1/images/generations", "post"): {
        "body": _json(_ref("ImageGenerationRequest")),
        "headers": [_ONCE],
        "answers": _DRAWN,
    },
    **{
        (f"/v1/images/{path}", "post"): {
            "body": {
                "multipart/form-data": {"schema": _with_image(request, _BINARY)},
                "application/json": {"schema": _with_image(request, _IN_BASE64)},
            },
            "headers": [_ONCE],
            "answers": _DRAWN,
        }
        for path, request in (
            ("edits", "ImageEditRequest"),
            ("variations", "ImageVariationRequest"),
        )
    },
    **_THEIRS,
    ("/v1/models", "get"): {"answers": {200: _answer("Models.", _json(_LIST))}},
    ("/v1/models/{model}", "get"): {
        "answers": {200: _answer("The model.", _json({"type": "object"}))}
    },
    ("/v1/tasks", "get"): {
        "headers": [
            *_OF_FILTERS,
            _query("limit", "Of a page.", type="integer", minimum=1, maximum=PAGE_TASKS_MAX),
            _query("cursor", "`next_cursor` of the page before."),
        ],
        "answers": {200: _answer("Tasks of all nodes, newest first.", _json(_TASKS))},
    },
    ("/v1/tasks", "post"): {
        "body": _json(_ref("TaskRequest")),
        "headers": [_ONCE],
        "answers": _ACCEPTED,
    },
    ("/v1/tasks", "delete"): {
        "headers": [*_OF_FILTERS, _query("all", "Every open one; alone.", enum=["true"])],
        "answers": {200: _answer("How many were cancelled.", _json(_CANCELLED))},
    },
    ("/v1/tasks/{task_id}", "get"): {
        "answers": {200: _answer("The task.", _json(_ref("Task")))},
    },
    ("/v1/tasks/{task_id}", "delete"): {
        "answers": {200: _answer("The task, cancelled or over.", _json(_ref("Task")))},
    },
    ("/v1/tasks/{task_id}/erase", "post"): {
        "answers": {200: _answer("Nothing is left of it.", _json(_ERASED))},
    },
    ("/v1/jobs/{job_id}", "get"): {"answers": {200: _answer("The job.", _json(_ref("Job")))}},
    ("/v1/jobs/{job_id}", "delete"): {
        "answers": {200: _answer("The job, cancelled or over.", _json(_ref("Job")))}
    },
    ("/v1/jobs/{job_id}/erase", "post"): {
        "answers": {200: _answer("Nothing is left of it.", _json(_ERASED))},
    },
    ("/v1/jobs/{job_id}/events", "get"): {
        "headers": [_header("Last-Event-ID", "The last one seen.", pattern=_OF_JOB_EVENTS)],
        "answers": {
            200: _answer("Events to the last final one.", {"text/event-stream": {}}),
            204: _answer("There are no more."),
        },
    },
    ("/v1/tasks/{task_id}/image", "get"): {
        "headers": [
            _header("Range", "A part of it."),
            _header("If-None-Match", "Its ETag."),
            _query(
                "thumbnail",
                "A small copy that fits a square of so many pixels.",
                type="integer",
                minimum=SIDE_PX_MIN,
                maximum=SIDE_PX_MAX,
            ),
        ],
        "answers": {
            200: _answer("The image.", _PICTURE),
            206: _answer("A part of it.", _PICTURE),
            304: _answer("It is the same still."),
            416: _answer("There is no such part."),
        },
    },
    ("/v1/tasks/{task_id}/events", "get"): {
        "headers": [_header("Last-Event-ID", "The last one seen.", pattern="^[0-9]{0,18}$")],
        "answers": {
            200: _answer("Events to the final one.", {"text/event-stream": {}}),
            204: _answer("There are no more."),
        },
    },
    ("/v1/events", "get"): {
        "headers": [
            _OF_FILTERS[2],
            _query("previews", "Steps come with their pictures.", enum=["true", "false"]),
            _header("Last-Event-ID", "The last one seen.", pattern=f"^({LAST_SEEN})?$"),
        ],
        "answers": {
            200: _answer("Events of tasks and nodes, without an end.", {"text/event-stream": {}})
        },
    },
    ("/v1/cluster", "get"): {
        "answers": {200: _answer("All nodes as this one sees them.", _json({"type": "object"}))}
    },
    **{
        (f"/v1/nodes/{{node_id}}/{action}", "post"): {
            "answers": {200: _answer("It is so.", _json(_NODE))},
        }
        for action in NodeAction
    },
    **{
        (f"/v1/nodes/{{node_id}}/{word}", "post"): {
            "answers": {200: _answer("It is so, and every node is told.", _json(_PLACE))},
        }
        for word in ("remove", "readmit")
    },
    ("/v1/dead_letters", "get"): {"answers": {200: _answer("Dead letters.", _json(_LIST))}},
    ("/v1/dead_letters/{task_id}/retry", "post"): {
        "answers": {202: _answer("The new task.", _json(_ref("Task")))},
    },
    ("/livez", "get"): {
        "answers": {
            200: _answer("It goes on.", _json(_STATUS)),
            503: _answer("Only a restart can help.", _json({"allOf": [_STATUS, _ref("Error")]})),
        }
    },
    ("/readyz", "get"): {
        "answers": {
            200: _answer("Requests may come.", _json(_STATUS)),
            503: _answer("They should not.", _json({"allOf": [_STATUS, _ref("Error")]})),
        }
    },
    ("/metrics", "get"): {"answers": {200: _answer("For Prometheus.", {"text/plain": {}})}},
    ("/v1/keys", "put"): {
        "body": _json(_KEYS),
        "answers": {200: _answer("The list is in force.", _json({"type": "object"}))},
    },
}
_OPEN = {"/livez", "/readyz", "/metrics", "/v1/keys"}


def completed(document: Json) -> Json:
    """FastAPI's account of the addresses, with all that it does not know of them."""
    components = dict(_NAMED)
    for name, model in _MODELS.items():
        components[name] = model.model_json_schema(ref_template=f"{_SCHEMAS}/{{model}}")
        properties = components[name]["properties"]
        if name in _READ_KINDLY:
            properties = {field: {} for field in properties} | {"prompt": {"type": "string"}}
            components[name]["properties"] = properties
        if "prompt" in components[name].get("required", ()):
            properties["prompt"] |= _PROMPT
        for field, schema in properties.items():
            schema["description"] = openapi_fields.REQUEST[field]
    for name, means in (("Task", openapi_fields.TASK), ("TaskEvent", openapi_fields.EVENT)):
        components[name] = _with_meanings(components[name], means)
    document["components"] = {
        "schemas": components,
        "examples": examples(),
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(operation, path=path, method=method)
            # None is needed until the operator has given one out.
            operation["security"] = [{}] if path in _OPEN else [{"key": []}, {}]
    return document


def _with_meanings(schema: Json, means: Mapping[str, str]) -> Json:
    """The schema with every field that there is, and what it means."""
    known = schema["properties"]
    fields = {name: {**known.get(name, {}), "description": said} for name, said in means.items()}
    return {**schema, "properties": fields}


def _complete(operation: Json, *, path: str, method: str) -> None:
    told = OPERATIONS[path, method]
    failed = responses_of(path, method, theirs=told.get("theirs", False))
    answers = {**failed, **told["answers"]}
    operation["responses"] = {str(status): answers[status] for status in sorted(answers)}
    parameters = operation.setdefault("parameters", [])
    parameters.extend(told.get("headers", ()))
    operation["parameters"] = [_with_example(one, path=path) for one in parameters]
    if "body" in told:
        content = _with_examples(told["body"], BODIES[path, method])
        operation["requestBody"] = {"required": True, "content": content}
    for status, answer in told["answers"].items():
        example = ANSWERS.get((path, method)) if status < 300 else UNWELL.get(path)
        if example is not None and "content" in answer:
            content = _with_examples(answer["content"], example)
            operation["responses"][str(status)] = {**answer, "content": content}


def _with_example(parameter: Json, *, path: str) -> Json:
    # Of streams that are several tasks' or nodes', ids have parts.
    name = parameter["name"]
    if name == "Last-Event-ID":
        return {**parameter, "example": {"/v1/events": "orin-1:4000000012"}.get(path, "4")}
    return {**parameter, "example": PARAMETERS[name]}


def _with_examples(content: Json, example: Any) -> Json:
    """An example where it can be written: text where the answer is text, JSON where it is JSON."""
    fits = {
        "application/json": not isinstance(example, str),
        "text/event-stream": isinstance(example, str),
        "text/plain": isinstance(example, str),
    }
    return {
        kind: {**shape, "example": example} if fits.get(kind) else shape
        for kind, shape in content.items()
    }
