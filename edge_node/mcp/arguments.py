"""What each tool takes, as JSON Schema that agents read, and whether arguments are that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from edge_node.errors import InvalidRequest

Json = dict[str, Any]
# How long a tool waits for an image before it says where to ask for it: agents' clients give up
# after a minute where they hear nothing.
WAIT_S_DEFAULT = 50
WAIT_S_MAX = 600
PAGE_TASKS_MAX = 50
SHOWN = ("full", "thumbnail", "none")
THUMBNAIL_PX = 256

_PROMPT: Json = {"type": "string", "minLength": 1, "description": "What is to be seen."}
_WAIT: Json = {
    "type": "number",
    "minimum": 0,
    "maximum": WAIT_S_MAX,
    "default": WAIT_S_DEFAULT,
    "description": "Seconds to wait for the image; after them the answer has the task's id, for "
    "get_task.",
}
_SHOW: Json = {
    "enum": list(SHOWN),
    "default": SHOWN[0],
    "description": f"The image itself, a copy of {THUMBNAIL_PX} pixels, or none in the answer.",
}
_TASK_ID: Json = {"type": "string", "minLength": 1, "maxLength": 200, "description": "Its id."}
_DRAWING: Json = {
    "negative_prompt": {"type": "string", "description": "What is not to be seen."},
    "size": {"type": "string", "description": "WIDTHxHEIGHT in pixels; list_models has limits."},
    "seed": {"type": "integer", "minimum": 0, "description": "The same seed, the same image."},
    "num_inference_steps": {"type": "integer", "minimum": 1, "description": "More take longer."},
    "guidance_scale": {"type": "number", "minimum": 0, "description": "How closely to the prompt."},
    "model": {"type": "string", "description": "One of list_models; the default one if left out."},
    "output_format": {"enum": ["png", "webp", "jpeg"], "default": "png"},
}
DRAWING_OPTIONS = tuple(_DRAWING)
_IN_BASE64: Json = {
    "type": "string",
    "description": "PNG, JPEG, WebP or GIF in base64, or as a data: URL.",
}
_FROM: Json = {
    "task_id": {**_TASK_ID, "description": "To start from the image of this task."},
    "image": _IN_BASE64,
}
_FILE: Json = {
    "image_file": {"type": "string", "description": "Path of an image on this machine."},
}
_EDITING: Json = {
    "strength": {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 1,
        "description": "How far from the image to go; 1 keeps nothing of it.",
    },
    "mask": {
        **_IN_BASE64,
        "description": "PNG of the image's size, in base64: what is transparent is drawn anew.",
    },
}


def _object(properties: Json, *required: str, **more: Any) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


GENERATE = _object({"prompt": _PROMPT, **_DRAWING, "wait_s": _WAIT, "show": _SHOW}, "prompt")
LIST_TASKS = _object(
    {
        "status": {
            "type": "string",
            "description": "Some of queued, in_progress, completed, failed and cancelled, with "
            "commas between.",
        },
        "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_TASKS_MAX, "default": 20},
        "cursor": {"type": "string", "description": "next_cursor of the page before."},
    }
)
GET_TASK = _object(
    {"task_id": _TASK_ID, "wait_s": {**_WAIT, "default": 0}, "show": _SHOW}, "task_id"
)
CANCEL_TASK = _object({"task_id": _TASK_ID}, "task_id")
NOTHING = _object({})


def edit(*, files: bool) -> Json:
    """Of the tool that starts from an image: from one source, a file only where it is one's own."""
    sources = {**_FROM, **(_FILE if files else {})}
    properties = {
        "prompt": _PROMPT,
        **sources,
        **_EDITING,
        **_DRAWING,
        "wait_s": _WAIT,
        "show": _SHOW,
    }
    return _object(properties, "prompt", oneOf=[{"required": [one]} for one in sources])


def check(schema: Json, arguments: Mapping[str, Any]) -> None:
    """Raises InvalidRequest, with a sentence that an agent can mend its call by."""
    problem = best_match(Draft202012Validator(schema).iter_errors(dict(arguments)))
    if problem is None:
        return
    if problem.validator == "oneOf":
        sources = ", ".join(f"`{one['required'][0]}`" for one in schema["oneOf"])
        raise InvalidRequest(f"Say what to start from, with exactly one of {sources}.")
    if problem.validator in ("additionalProperties", "required"):
        known = ", ".join(schema["properties"]) or "none"
        raise InvalidRequest(f"{problem.message[:200]}. Known arguments are {known}.")
    param = ".".join(str(part) for part in problem.absolute_path)
    raise InvalidRequest(f"`{param}`: {problem.message[:200]}.", param=param)
