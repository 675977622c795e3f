"""The API guide: what the OpenAPI document of a node says, as a page to read.

Owns the way from the document to Markdown; what it says is `edge_node/api/openapi.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from edge_node.api.app import create_app
from edge_node.api.front_desk_port import FrontDeskPort
from edge_node.api.openapi_fields import EVENTS
from edge_node.api.request_body import BodyLimits
from edge_node.api.uploads import UploadLimits
from edge_node.config import NodeConfig
from edge_node.telemetry.metrics import NodeMetrics

Json = dict[str, Any]

EXAMPLE_CHARS_MAX = 1500
# First words of addresses, and what is said above those that begin so.
AREAS = {
    "/v1/images": "What OpenAI's clients ask",
    "/v1/models": "Models",
    "/v1/tasks": "Tasks",
    "/v1/jobs": "Jobs: requests for several images",
    "/v1/events": "Events of the cluster",
    "/v1/cluster": "The cluster and its devices",
    "/v1/nodes": "The cluster and its devices",
    "/v1/dead_letters": "Tasks that were given up",
    "/v1/keys": "API keys",
    "/sdapi": "What AUTOMATIC1111's clients ask",
    "/": "Health and metrics",
}


def document() -> Json:
    """The OpenAPI document of a node with the default settings."""
    config = NodeConfig()
    app = create_app(
        cast(FrontDeskPort, None),  # describing itself, it asks nobody
        metrics=NodeMetrics(),
        body_limits=BodyLimits.of(config),
        upload_limits=UploadLimits.of(config),
    )
    return app.openapi()


def api_page(told: Json) -> str:
    """The document as Markdown."""
    areas: dict[str, list[str]] = {}
    for path, operations in told["paths"].items():
        title = next(words for prefix, words in AREAS.items() if path.startswith(prefix))
        for method, operation in operations.items():
            areas.setdefault(title, []).append(_operation(told, path, method, operation))
    parts = [
        "# API",
        "Made from the document that every node serves at `/openapi.json`; `/docs` of a node shows "
        "the same and tries it out. What codes of errors mean: [Errors](errors.md). Scripts: "
        "[examples](examples/README.md).",
    ]
    for title in dict.fromkeys(AREAS.values()):
        if title in areas:
            parts += [f"## {title}", *areas[title]]
    schemas = told["components"]["schemas"]
    kinds = [(f"`{kind}`", means) for kind, means in EVENTS.items()]
    parts += [
        "## A task",
        _table(("field", "type", "meaning"), list(_fields(told, schemas["Task"]))),
        "## An event of a task",
        _table(("type", "what happened"), kinds),
        _table(("field", "type", "meaning"), list(_fields(told, schemas["TaskEvent"]))),
    ]
    return "\n\n".join(parts) + "\n"


def _operation(told: Json, path: str, method: str, operation: Json) -> str:
    parts = [f"### `{method.upper()} {path}`"]
    parts += [_plain(operation["description"])] if operation.get("description") else []
    rows = list(_parameters(told, operation.get("parameters", [])))
    if rows:
        parts.append(_table(("parameter", "where", "type", "meaning"), rows))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(told, content.get("schema", {}))
        parts.append(f"Body, `{kind}`:")
        rows = list(_fields(told, schema))
        if rows:
            parts.append(_table(("field", "type", "meaning"), rows))
        parts += _example(content)
    answers = []
    for status, answer in operation["responses"].items():
        answer = _resolved(told, answer)
        answers.append((status, _plain(answer.get("description", ""))))
        if status.startswith("2"):
            for content in answer.get("content", {}).values():
                parts += [f"Answer {status}:", *shown] if (shown := _example(content)) else []
    parts.append(_table(("status", "meaning"), answers))
    return "\n\n".join(parts)


def _parameters(told: Json, parameters: list[Json]) -> Iterator[tuple[str, ...]]:
    for one in parameters:
        one = _resolved(told, one)
        schema = _resolved(told, one.get("schema", {}))
        said = one.get("description") or schema.get("description", "")
        name = f"`{one['name']}`" + (" (needed)" if one.get("required") else "")
        yield name, one["in"], _kind(told, schema), _plain(said)


def _fields(told: Json, schema: Json) -> Iterator[tuple[str, ...]]:
    needed = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        field = _resolved(told, field)
        shown = f"`{name}`" + (" (needed)" if name in needed else "")
        yield shown, _kind(told, field), _plain(field.get("description", ""))


def _kind(told: Json, schema: Json) -> str:
    """Its type and bounds in few words."""
    if "enum" in schema:
        return "one of " + ", ".join(f"`{one}`" for one in schema["enum"])
    if "anyOf" in schema or "oneOf" in schema:
        several = schema.get("anyOf", schema.get("oneOf"))
        kinds = [_kind(told, _resolved(told, one)) for one in several]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    kind = schema.get("type", "anything")
    kind = " or ".join(one for one in kind if one != "null") if isinstance(kind, list) else kind
    low = schema.get("minimum", schema.get("minLength"))
    high = schema.get("maximum", schema.get("maxLength"))
    if low is None and high is None:
        return str(kind)
    return f"{kind}, {'' if low is None else f'{low}'}..{'' if high is None else f'{high}'}"


def _resolved(told: Json, schema: Json) -> Json:
    while "$ref" in schema:
        found: Any = told
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def _example(content: Json) -> list[str]:
    examples = content.get("examples", {})
    example = content.get("example", next(iter(examples.values()), {}).get("value"))
    if example is None:
        return []
    text = example if isinstance(example, str) else json.dumps(example, indent=2)
    if len(text) > EXAMPLE_CHARS_MAX:
        text = text[:EXAMPLE_CHARS_MAX].rsplit("\n", 1)[0] + "\n..."
    return [f"```{'' if isinstance(example, str) else 'json'}\n{text.rstrip()}\n```"]


def _table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _plain(text: str) -> str:
    """One paragraph, in which nothing is taken for a tag."""
    return " ".join(text.split()).replace("<", "&lt;")
