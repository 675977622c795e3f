"""Requests for models of other nodes: each is read, bounded and filled in as its own model says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from edge_node.api.openai_request import Habits
from edge_node.config import NodeConfig
from edge_node.requests import DrawingLimits
from tests.api.memory_front_desk import LIMITS, MemoryFrontDesk
from tests.api.served import HABITS, Served, served
from tests.api.uploaded import encoded, halves, in_base64

# Of a node beside this one; this one draws 32 to 128 pixels.
LARGE = replace(
    LIMITS,
    model="large",
    fingerprint="g",
    size_px_min=256,
    size_px_max=1024,
    size_px_default=512,
    steps_max=100,
    steps_default=28,
)


def run(
    story: Callable[[Served], Awaitable[None]],
    *more: DrawingLimits,
    habits: Habits = HABITS,
) -> None:
    desk = MemoryFrontDesk()
    desk.served = {one.model: one for one in (LIMITS, LARGE, *more)}

    async def life() -> None:
        async with served(desk, habits=habits) as node:
            await story(node)

    asyncio.run(life())


def test_bounds_and_defaults_are_those_of_the_model_asked_for() -> None:
    async def story(node: Served) -> None:
        for model, steps, size in (("large", 28, "512x512"), ("tiny-sd3", 4, "64x64")):
            body = {"prompt": "a", "model": model}
            task = (await node.http.post("/v1/tasks", json=body)).json()
            drawn = (task["model"], task["num_inference_steps"], task["size"])
            assert drawn == (model, steps, size)
        most = {"prompt": "a", "size": "1024x1024", "num_inference_steps": 100}
        for model, status in (("large", 202), ("tiny-sd3", 400)):
            answer = await node.http.post("/v1/tasks", json={**most, "model": model})
            assert answer.status_code == status
        body = {"prompt": "a", "model": "large", "size": "64x64"}
        refused = (await node.http.post("/v1/tasks", json=body)).json()
        assert "from 256 to 1024 pixels" in refused["error"]["message"]

    run(story)


def test_sizes_and_qualities_of_others_are_read_for_the_model_asked_for() -> None:
    async def story(node: Served) -> None:
        body = {"prompt": "a", "model": "large", "size": "1792x1024", "quality": "hd"}
        answer = await node.http.post("/v1/images/generations", json=body)
        assert answer.headers["x-dedgeai-size"] == "1024x592"
        assert answer.json()["warnings"] == ["large does not draw 1792x1024; these are 1024x592."]
        ((drawing,), *_), *_ = node.front_desk.submitted
        assert (drawing.model, drawing.steps) == ("large", 42)
        override = {"sd_model_checkpoint": "large"}
        asked = {"prompt": "a", "width": 512, "height": 512, "override_settings": override}
        await node.http.post("/sdapi/v1/txt2img", json=asked)
        ((drawing,), *_) = node.front_desk.submitted[-1]
        assert (drawing.model, drawing.width_px) == ("large", 512)

    run(story)


def test_an_alias_means_the_default_model_unless_a_node_serves_that_name() -> None:
    async def drawn_by(node: Served) -> str:
        body = {"prompt": "a", "model": "dall-e-3"}
        await node.http.post("/v1/images/generations", json=body)
        model: str = node.front_desk.submitted[-1][0][0].model
        return model

    async def aliased(node: Served) -> None:
        assert await drawn_by(node) == "tiny-sd3"

    async def real(node: Served) -> None:
        assert await drawn_by(node) == "dall-e-3"
        listed = (await node.http.get("/v1/models")).json()["data"]
        assert [one["id"] for one in listed[:3]] == ["dall-e-3", "large", "tiny-sd3"]
        assert "alias_of" not in listed[0]

    run(aliased)
    run(real, replace(LIMITS, model="dall-e-3"))


def test_an_unknown_name_is_told_with_those_that_are_served() -> None:
    async def story(node: Served) -> None:
        for path, field in (("/v1/tasks", "model"), ("/v1/images/generations", "model")):
            answer = await node.http.post(path, json={"prompt": "a", field: "sdxl"})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (404, "model_not_found")
            assert error["message"].endswith("Served are: large, tiny-sd3.")
        told = await node.http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "sdxl"})
        assert told.status_code == 404
        assert "Served are: large, tiny-sd3." in told.text

    run(story)


def test_who_asks_again_gets_what_was_drawn_before_the_model_went_away() -> None:
    async def story(node: Served) -> None:
        photo = encoded(halves(96, 64))
        override = {"sd_model_checkpoint": "dall-e-3"}
        named: dict[str, object] = {"prompt": "a", "model": "dall-e-3"}
        requests: list[tuple[str, dict[str, Any]]] = [
            ("/v1/images/generations", {"json": named}),
            ("/v1/tasks", {"json": named}),
            ("/v1/images/edits", {"data": named, "files": {"image": photo}}),
            ("/v1/images/edits", {"json": {**named, "image": in_base64(photo)}}),
            ("/sdapi/v1/txt2img", {"json": {"prompt": "a", "override_settings": override}}),
        ]

        async def ask(which: str) -> list[tuple[int, object]]:
            said: list[tuple[int, object]] = []
            for number, (path, how) in enumerate(requests):
                headers = {"Idempotency-Key": f"{which} {number}"}
                answer = await node.http.post(path, headers=headers, **how)
                ids = answer.headers.get("x-dedgeai-task-id") or answer.json().get("id")
                said.append((answer.status_code, ids))
            return said

        first = await ask("before")
        assert [status for status, _ in first] == [200, 202, 200, 200, 200]
        node.front_desk.served.clear()
        assert await ask("before") == first
        # The alias was the served model's own name; nobody's default is there now.
        assert {status for status, _ in await ask("after")} <= {404, 503}
        assert len(node.front_desk.submitted) == len(requests)

    run(story, replace(LIMITS, model="dall-e-3"))


def test_each_model_is_listed_with_what_may_be_asked_of_it() -> None:
    async def story(node: Served) -> None:
        large = (await node.http.get("/v1/models/large")).json()
        assert large["fingerprint"] == "g"
        assert large["limits"] == {
            "size_px_min": 256,
            "size_px_max": 1024,
            "size_px_multiple": 16,
            "num_inference_steps_max": 100,
            "guidance_scale_max": 30.0,
            "prompt_chars_max": 200,
        }
        assert large["defaults"] == {
            "size": "512x512",
            "num_inference_steps": 28,
            "guidance_scale": 5.0,
            "strength": 0.6,
        }
        listed = {one["id"]: one for one in (await node.http.get("/v1/models")).json()["data"]}
        assert listed["large"] == large
        assert listed["tiny-sd3"]["limits"]["size_px_max"] == 128

    run(story, habits=Habits.of(NodeConfig(model_aliases=())))
