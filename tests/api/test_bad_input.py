"""Every error on every path is OpenAI's shape, names the field and says what is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from edge_node.errors import AdmissionRefused, DEdgeAIError, StoreUnavailable
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import REQUEST_BYTES_MAX, UPLOADS, Served, served

SURFACES = ("/v1/tasks", "/v1/images/generations")
JSON = {"Content-Type": "application/json"}


def check(response: httpx.Response, *, status: int, code: str, param: str | None = None) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    kinds = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
    assert error["type"] == kinds.get(status, "invalid_request_error")
    assert response.headers["x-request-id"]
    return str(error["message"])


def ask(*requests: tuple[str, str, Mapping[str, Any]]) -> list[httpx.Response]:
    async def story() -> list[httpx.Response]:
        async with served() as node:
            return [await node.http.request(verb, path, **how) for verb, path, how in requests]

    return asyncio.run(story())


BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "prompt", "is required"),
    ({"prompt": ""}, "prompt", "must not be empty"),
    ({"prompt": " \n"}, "prompt", "must not be empty"),
    ({"prompt": "x" * 201}, "prompt", "at most 200"),
    ({"prompt": 7}, "prompt", "valid string"),
    ({"prompt": None}, "prompt", "valid string"),
    ({"prompt": ["a"]}, "prompt", "valid string"),
    ({"negative_prompt": "x" * 201}, "negative_prompt", "at most 200"),
    ({"size": "64"}, "size", "WIDTHxHEIGHT"),
    ({"size": "64x-64"}, "size", "WIDTHxHEIGHT"),
    ({"size": 64}, "size", "valid string"),
    ({"size": "٦٤x٦٤"}, "size", "WIDTHxHEIGHT"),
    ({"num_inference_steps": 0}, "num_inference_steps", "from 1 to 50"),
    ({"num_inference_steps": 10000}, "num_inference_steps", "from 1 to 50"),
    ({"num_inference_steps": 10.5}, "num_inference_steps", "valid integer"),
    ({"num_inference_steps": True}, "num_inference_steps", "valid integer"),
    ({"guidance_scale": -1}, "guidance_scale", "from 0.0 to 30.0"),
    ({"guidance_scale": 31.0}, "guidance_scale", "from 0.0 to 30.0"),
    ({"guidance_scale": "NaN"}, "guidance_scale", "valid number"),
    ({"n": 0}, "n", "from 1 to 10"),
    ({"n": 11}, "n", "from 1 to 10"),
    ({"seed": 2**63}, "seed", "from 0 to"),
    ({"seed": 2**64}, "seed", "from 0 to"),
    ({"partial_images": -1}, "partial_images", "from 0 to"),
    ({"partial_images": 101}, "partial_images", "from 0 to"),
    ({"output_format": "gif"}, "output_format", "'png', 'webp' or 'jpeg'"),
    ({"output_compression": 101}, "output_compression", "from 0 to 100"),
    ({"deadline_s": 0}, "deadline_s", "more than 0 and at most 600"),
    ({"deadline_s": 601}, "deadline_s", "more than 0 and at most 600"),
    ({"priority": 101}, "priority", "from -100 to 100"),
]


# What OpenAI's surface takes for what was meant.
BAD_FOR_TASKS: list[tuple[dict[str, Any], str, str]] = [
    ({"size": "65x64"}, "size", "multiples of 16"),
    ({"size": "16x64"}, "size", "from 32 to 128"),
    ({"size": "4096x64"}, "size", "from 32 to 128"),
    ({"num_inference_steps": "10"}, "num_inference_steps", "valid integer"),
    ({"seed": -1}, "seed", "from 0 to"),
]


def test_every_bad_field_is_named_with_its_range() -> None:
    bad = [(path, *one) for path in SURFACES for one in BAD_FIELDS]
    bad += [("/v1/tasks", *one) for one in BAD_FOR_TASKS]
    requests = [
        ("POST", path, {"json": {"prompt": "a boat", **fields} if fields else {}})
        for path, fields, _, _ in bad
    ]
    for response, (_, _, param, said) in zip(ask(*requests), bad, strict=True):
        message = check(response, status=400, code="invalid_request", param=param)
        assert f"`{param}`" in message
        assert said in message


@pytest.mark.parametrize("path", SURFACES)
def test_what_is_no_json_is_refused(path: str) -> None:
    bodies = [
        b"",
        b"{",
        b'{"prompt": "a',
        b"\xff\xfe",
        b"[" * 100_00,
        b'{"prompt": "a", "n": ' + b"1" * 5000 + b"}",
    ]
    for response in ask(*[("POST", path, {"content": body, "headers": JSON}) for body in bodies]):
        message = check(response, status=400, code="invalid_request")
        assert "not valid JSON" in message
    for response in ask(
        *[("POST", path, {"content": body, "headers": JSON}) for body in (b"null", b"[]", b"3")]
    ):
        assert "JSON object" in check(response, status=400, code="invalid_request")


def test_numbers_beyond_floats_and_broken_text_are_refused() -> None:
    values = (b"1e999", b"NaN", b"Infinity", b"-Infinity")
    *beyond, lone = ask(
        *[
            (
                "POST",
                "/v1/tasks",
                {"content": b'{"prompt": "a", "guidance_scale": %s}' % value, "headers": JSON},
            )
            for value in values
        ],
        ("POST", "/v1/tasks", {"content": b'{"prompt": "\\ud800"}', "headers": JSON}),
    )
    for response in beyond:
        message = check(response, status=400, code="invalid_request", param="guidance_scale")
        assert "from 0.0 to 30.0" in message
    check(lone, status=400, code="invalid_request", param="prompt")


def test_an_unknown_field_is_ignored_for_the_sdk_and_a_mistake_for_a_task() -> None:
    body = {"json": {"prompt": "a", "steps": 3}}
    task, generation = ask(("POST", "/v1/tasks", body), ("POST", "/v1/images/generations", body))
    message = check(task, status=400, code="invalid_request", param="steps")
    assert "Did you mean `num_inference_steps`?" in message
    assert generation.status_code == 200


def test_a_long_body_is_413_whether_or_not_it_says_so() -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b"x" * 50_000

    long = b"x" * (REQUEST_BYTES_MAX + 1)
    # An init image, in base64, may come on top.
    longest = REQUEST_BYTES_MAX + UPLOADS.bytes_max * 4 // 3

    async def story() -> None:
        async with served() as node:
            for content, bytes_max in ((long, REQUEST_BYTES_MAX), (chunks(), longest)):
                response = await node.http.post("/v1/tasks", content=content, headers=JSON)
                message = check(response, status=413, code="request_too_large")
                assert f"the {bytes_max} bytes" in message
            response = await node.http.post(
                "/v1/images/generations", content=chunks(), headers=JSON
            )
            message = check(response, status=413, code="request_too_large")
            assert f"the {REQUEST_BYTES_MAX} bytes" in message

    asyncio.run(story())


def test_unknown_things_are_404_and_wrong_verbs_405() -> None:
    unknown = "orin-a-01J00000000000000000000009"
    answers = ask(
        ("GET", "/nothing/here", {}),
        ("GET", "/v1/nothing/", {}),
        ("DELETE", "/v1/images/generations", {}),
        ("GET", f"/v1/tasks/{unknown}", {}),
        ("DELETE", f"/v1/tasks/{unknown}", {}),
        ("GET", f"/v1/tasks/{unknown}/events", {}),
        ("GET", f"/v1/tasks/{unknown}/image", {}),
        ("GET", f"/v1/jobs/{unknown}", {}),
        ("GET", "/v1/models/stabilityai/sd3", {}),
        ("POST", "/v1/tasks", {"json": {"prompt": "a", "model": "dall-e-3"}}),
        ("PUT", f"/v1/tasks/{unknown}", {}),
    )
    check(answers[0], status=404, code="not_found")
    check(answers[1], status=404, code="not_found")
    check(answers[2], status=405, code="method_not_allowed")
    assert answers[2].headers["allow"] == "POST"
    for response in answers[3:8]:
        check(response, status=404, code="task_not_found")
    for response in answers[8:10]:
        told = check(response, status=404, code="model_not_found", param="model")
        assert told.endswith("is not served here. Served are: tiny-sd3.")
    check(answers[10], status=405, code="method_not_allowed")
    assert answers[10].headers["allow"] == "DELETE, GET", "of all its routes"


def test_an_image_that_is_not_there_yet_and_a_bad_event_id() -> None:
    async def story() -> None:
        async with served(MemoryFrontDesk(held=True)) as node:
            task = (await node.http.post("/v1/tasks", json={"prompt": "a"})).json()
            image = await node.http.get(f"/v1/tasks/{task['id']}/image")
            check(image, status=409, code="image_not_ready")
            for text in ("-1", "x", "9" * 30, "²"):
                events = await node.http.get(
                    f"/v1/tasks/{task['id']}/events",
                    headers=[(b"Last-Event-ID", text.encode())],
                )
                check(events, status=400, code="invalid_request", param="Last-Event-ID")

    asyncio.run(story())


@pytest.mark.parametrize("path", SURFACES)
def test_a_key_cannot_mean_two_requests(path: str) -> None:
    async def story(node: Served) -> None:
        key = {"Idempotency-Key": "k"}
        first = await node.http.post(path, json={"prompt": "a"}, headers=key)
        again = await node.http.post(path, json={"prompt": "a"}, headers=key)
        assert first.status_code == again.status_code
        other = await node.http.post(path, json={"prompt": "b"}, headers=key)
        check(other, status=409, code="idempotency_conflict")
        assert other.headers["x-should-retry"] == "false"
        long = await node.http.post(
            path, json={"prompt": "b"}, headers={"Idempotency-Key": "k" * 256}
        )
        check(long, status=400, code="invalid_request", param="Idempotency-Key")
        assert len(node.front_desk.submitted) == 1

    async def told() -> None:
        async with served() as node:
            await story(node)

    asyncio.run(told())


def test_a_key_belongs_to_its_path_and_to_what_the_body_says() -> None:
    async def story() -> None:
        async with served() as node:
            key = {"Idempotency-Key": "k", **JSON}
            first = await node.http.post("/v1/tasks", content=b'{"prompt":"a","n":1}', headers=key)
            assert first.status_code == 202
            elsewhere = await node.http.post(
                "/v1/images/generations", content=b'{"prompt":"a","n":1}', headers=key
            )
            check(elsewhere, status=409, code="idempotency_conflict")
            # Written in another order, it says the same.
            again = await node.http.post(
                "/v1/tasks", content=b'{ "n": 1, "prompt": "a" }', headers=key
            )
            assert again.headers["idempotent-replayed"] == "true"
            assert again.json()["id"] == first.json()["id"]
            for length, status in ((0, 400), (255, 202)):
                answer = await node.http.post(
                    "/v1/tasks", json={"prompt": "a"}, headers={"Idempotency-Key": "k" * length}
                )
                assert answer.status_code == status, length

    asyncio.run(story())


@pytest.mark.parametrize(
    ("refusal", "status", "retry_after"),
    [
        (AdmissionRefused("Full.", retry_after_s=2.1), 429, "3"),
        (AdmissionRefused("Full.", retry_after_s=0.01), 429, "1"),
        (StoreUnavailable("Away.", retry_after_s=2.0), 503, "2"),
    ],
)
def test_refusals_before_acceptance_may_be_retried(
    refusal: DEdgeAIError, status: int, retry_after: str
) -> None:
    async def story() -> None:
        front_desk = MemoryFrontDesk()
        front_desk.refusal = refusal
        async with served(front_desk) as node:
            response = await node.http.post("/v1/images/generations", json={"prompt": "a"})
            check(response, status=status, code=refusal.code)
            assert response.headers["retry-after"] == retry_after
            assert "x-should-retry" not in response.headers

    asyncio.run(story())


def test_a_node_that_is_not_ready_says_so_everywhere() -> None:
    async def story() -> None:
        async with served(MemoryFrontDesk(ready=False)) as node:
            for path in SURFACES:
                response = await node.http.post(path, json={"prompt": "a"})
                check(response, status=503, code="node_not_ready")
                assert response.headers["retry-after"] == "2"
            ready = await node.http.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["reasons"] == ["the worker is loading", "the store is away"]
            assert ready.json()["error"]["code"] == "node_not_ready"
            assert (await node.http.get("/livez")).status_code == 200
            assert (await node.http.get("/v1/models")).json()["data"] == []

    asyncio.run(story())


def test_the_unforeseen_is_a_500_of_the_same_shape(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        front_desk = MemoryFrontDesk()
        front_desk.unforeseen = KeyError("a secret path")
        async with served(front_desk) as node:
            response = await node.http.post(
                "/v1/tasks", json={"prompt": "a"}, headers={"X-Request-Id": "mine-7"}
            )
            message = check(response, status=500, code="internal_error")
            assert response.headers["x-request-id"] == "mine-7"
            assert "mine-7" in message
            assert "secret" not in message

    asyncio.run(story())
    assert "request mine-7 failed" in caplog.text
