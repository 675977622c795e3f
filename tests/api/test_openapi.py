"""The document of the surface: whole, of what is there, and valid JSON Schema, with examples."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edge_node import errors
from edge_node.api.openapi import OPERATIONS
from edge_node.api.openapi_errors import ERRORS, errors_of
from edge_node.api.openapi_fields import EVENTS
from edge_node.api.schemas import task_event, task_object
from edge_node.domain import TaskEvent, TaskEventKind, TaskRecord, TaskStatus
from edge_node.errors import DEdgeAIError
from tests.api.served import served
from tests.filled import filled

# With everything that a task can have.
MASKED = filled(TaskRecord)
WITHOUT_BODY = (
    *("/erase", "/retry", "/interrupt", "/skip", "/refresh-checkpoints"),
    *("/pause", "/drain", "/resume", "/remove", "/readmit"),
)
OPEN = ("/livez", "/readyz", "/metrics", "/v1/keys")
# Of nodes among each other, and of how a task ends, which its own object says.
NOT_ANSWERED = {"weights_gone", "worker_unavailable", "stale_attempt", "task_failed", "not_finite"}
# More than this takes long to load and to read.
DOCUMENT_BYTES_MAX = 400_000


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    async def read() -> dict[str, Any]:
        async with served() as node:
            answer = await node.http.get("/openapi.json")
            assert len(answer.content) < DOCUMENT_BYTES_MAX
            told: dict[str, Any] = answer.json()
            return told

    return asyncio.run(read())


def operations_of(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def test_every_address_is_described_and_nothing_else(document: dict[str, Any]) -> None:
    told = {(path, method) for path, method, _ in operations_of(document)}
    assert told == OPERATIONS.keys()
    assert told >= ERRORS.keys()
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for path, method, operation in operations_of(document):
        assert "422" not in operation["responses"], (path, method)
        assert {"421", "500"} <= operation["responses"].keys()
        assert ("401" in operation["responses"]) is (path not in OPEN)
        wants_body = method in ("post", "put") and not path.endswith(WITHOUT_BODY)
        assert ("requestBody" in operation) is wants_body


def test_every_example_is_what_it_is_an_example_of(document: dict[str, Any]) -> None:
    count = 0
    for path, method, operation in operations_of(document):
        contents = [one.get("content", {}) for one in operation["responses"].values()]
        contents.append(operation.get("requestBody", {}).get("content", {}))
        for content in contents:
            for kind, shape in content.items():
                told = [one["value"] for one in resolved(shape.get("examples", {}), document)]
                told += [shape["example"]] if "example" in shape else []
                if kind == "application/json":
                    assert told, (path, method)
                    for example in told:
                        count += 1
                        wrong = list(validator(shape["schema"], document).iter_errors(example))
                        assert not wrong, (path, method, wrong[0].message)
        for parameter in operation.get("parameters", ()):
            wrong = list(validator(parameter["schema"], document).iter_errors(parameter["example"]))
            assert not wrong, (path, parameter["name"])
    assert count > 200


def resolved(examples: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    named = document["components"]["examples"]
    return [
        named[one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in examples.values()
    ]


def validator(schema: dict[str, Any], document: dict[str, Any]) -> Draft202012Validator:
    """Of a part of the document, which names other parts."""
    whole = json.loads(json.dumps(schema).replace("#/components", "#/$defs/components"))
    parts = json.loads(
        json.dumps(document["components"]).replace("#/components", "#/$defs/components")
    )
    return Draft202012Validator({**whole, "$defs": {"components": parts}})


def test_every_error_that_a_client_can_meet_is_told_somewhere(document: dict[str, Any]) -> None:
    told = {
        code
        for path, method, _ in operations_of(document)
        for codes in errors_of(path, method).by_status().values()
        for code in codes
    }

    def classes(one: type[DEdgeAIError]) -> Iterator[type[DEdgeAIError]]:
        yield one
        for below in one.__subclasses__():
            yield from classes(below)

    ours = {one.code for one in classes(DEdgeAIError) if one.__module__ == errors.__name__}
    surface = {one.code for one in classes(DEdgeAIError) if "edge_node.api." in one.__module__}
    assert (ours | surface) - told == NOT_ANSWERED | {"not_found"}


def test_every_field_of_requests_tasks_and_events_says_what_it_means(
    document: dict[str, Any],
) -> None:
    schemas = document["components"]["schemas"]
    for name in ("TaskRequest", "ImageGenerationRequest", "ImageEditRequest", "Task", "TaskEvent"):
        for field, schema in schemas[name]["properties"].items():
            assert schema.get("description", "").endswith((".", "told.")), (name, field)
    started = replace(MASKED, status=TaskStatus.COMPLETED)
    assert task_object(started).keys() == schemas["Task"]["properties"].keys()
    told = filled(TaskEvent)
    assert task_event(told).keys() == schemas["TaskEvent"]["properties"].keys()
    assert EVENTS.keys() == set(TaskEventKind)
