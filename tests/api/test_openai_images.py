"""The OpenAI surface, asked by the unmodified openai SDK where it can ask."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from openai import APIError, AsyncOpenAI, BadRequestError, InternalServerError, NotFoundError

from edge_node.prompt_tokens import PromptTokens
from tests.api.memory_front_desk import PNG, MemoryFrontDesk
from tests.api.served import Served, served

PATH = "/v1/images/generations"


@asynccontextmanager
async def sdk(node: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{node.url}/v1", api_key="none") as client:
        yield client


def test_an_image_by_the_sdk() -> None:
    async def story() -> None:
        async with served() as node, sdk(node) as client:
            answer = await client.images.with_raw_response.generate(
                prompt="a small boat",
                size="auto",
                quality="high",
                style="vivid",
                user="me",
                background="transparent",
                extra_body={
                    "seed": 5,
                    "num_inference_steps": 3,
                    "guidance_scale": 1,
                    "negative_prompt": "rain",
                },
            )
            assert answer.headers["x-dedgeai-durability"] == "journalled"
            assert answer.headers["x-dedgeai-executor"] == "orin-b"
            assert answer.headers["x-dedgeai-task-id"].startswith("orin-a-")
            images = answer.parse()
            assert images.data is not None
            assert base64.b64decode(images.data[0].b64_json or "") == PNG
            assert (images.size, images.quality) == ("64x64", "high")
            assert images.usage is not None
            assert (images.usage.input_tokens, images.usage.output_tokens) == (3, 16)
            ((drawing,), durable, _, _) = node.front_desk.submitted[0]
            assert not durable
            assert (drawing.seed, drawing.steps, drawing.guidance_scale) == (5, 3, 1)
            assert (drawing.negative_prompt, drawing.previews) == ("rain", 0)

    asyncio.run(story())


def test_several_images_as_urls_and_models() -> None:
    async def story() -> None:
        async with served() as node, sdk(node) as client:
            images = await client.images.generate(
                prompt="a", n=3, model="tiny-sd3", response_format="url", extra_body={"seed": 9}
            )
            assert images.data is not None
            assert len(images.data) == 3
            for image in images.data:
                assert (await node.http.get(image.url or "")).content == PNG
            (drawings, _, _, _) = node.front_desk.submitted[0]
            assert [drawing.seed for drawing in drawings] == [9, 10, 11]
            assert (await client.models.retrieve("tiny-sd3")).owned_by == "dedgeai"
            with pytest.raises(NotFoundError, match="is not served here"):
                await client.images.generate(prompt="a", model="sdxl")
            with pytest.raises(BadRequestError) as refused:
                await client.images.generate(prompt="a", size="large")
            assert refused.value.param == "size"

    asyncio.run(story())


@pytest.mark.parametrize("partial_images", [0, 1, 3])
def test_a_stream_by_the_sdk(partial_images: int) -> None:
    async def story() -> None:
        async with served() as node, sdk(node) as client:
            stream = await client.images.generate(
                prompt="a boat", stream=True, partial_images=partial_images
            )
            events = [event async for event in stream]
            assert [event.type for event in events] == [
                *["image_generation.partial_image"] * partial_images,
                "image_generation.completed",
            ]
            for index, event in enumerate(events):
                assert base64.b64decode(event.b64_json) == PNG
                if event.type == "image_generation.partial_image":
                    assert event.partial_image_index == index
                else:
                    assert event.usage.total_tokens == 18

    asyncio.run(story())


def test_a_partial_image_is_sent_even_when_no_step_gave_one() -> None:
    class NoPreviews(MemoryFrontDesk):
        async def publish(self, *arguments: object, **fields: Any) -> None:
            fields.pop("preview", None)
            await super().publish(*arguments, **fields)  # type: ignore[arg-type]

    async def story() -> None:
        async with served(NoPreviews()) as node, sdk(node) as client:
            stream = await client.images.generate(prompt="a", stream=True, partial_images=2)
            events = [event.type async for event in stream]
            assert events == ["image_generation.partial_image", "image_generation.completed"]

    asyncio.run(story())


def test_a_failure_after_acceptance_is_not_retried() -> None:
    async def story() -> None:
        async with served() as node, sdk(node) as client:
            with pytest.raises(InternalServerError) as failure:
                await client.images.generate(prompt="it fails")
            assert failure.value.code == "attempts_exhausted"
            assert failure.value.response.headers["x-should-retry"] == "false"
            assert len(node.front_desk.submitted) == 1
            late = await node.http.post(PATH, json={"prompt": "fails late"})
            assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
            stream = await client.images.generate(prompt="it fails", stream=True)
            with pytest.raises(APIError, match="No luck"):
                _ = [event async for event in stream]

    asyncio.run(story())


async def until_gone(node: Served, count: int) -> None:
    async with asyncio.timeout(3.0):
        while True:
            if len(node.front_desk.gone) >= count:
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_takes_its_tasks_along(stream: bool) -> None:
    async def story() -> None:
        async with served(MemoryFrontDesk(held=True)) as node:
            body = {"prompt": "a", "n": 2, "stream": stream, "partial_images": 1}
            with pytest.raises(httpx.ReadTimeout):
                async with node.http.stream("POST", PATH, json=body, timeout=0.2) as response:
                    await response.aread()
            await until_gone(node, 2)
            key = {"Idempotency-Key": "k"}
            with pytest.raises(httpx.ReadTimeout):
                await node.http.post(PATH, json={"prompt": "b"}, headers=key, timeout=0.2)
            await asyncio.sleep(0.1)
            assert len(node.front_desk.gone) == 2
            assert node.front_desk.submitted[1][1], "a keyed request is durable"

    asyncio.run(story())


def test_a_replayed_request_gets_the_images_of_the_first() -> None:
    async def story() -> None:
        async with served() as node:
            key = {"Idempotency-Key": "k"}
            answers = [
                await node.http.post(PATH, json={"prompt": "a"}, headers=key) for _ in range(2)
            ]
            first, second = (answer.headers["x-dedgeai-task-id"] for answer in answers)
            assert first == second
            assert answers[0].json() == answers[1].json()

    asyncio.run(story())


def test_a_prompt_that_was_cut_is_said_with_its_true_length() -> None:
    async def story() -> None:
        front_desk = MemoryFrontDesk()
        front_desk.prompt_tokens = PromptTokens(103, 75)
        async with served(front_desk) as node:
            answer = (await node.http.post("/v1/images/generations", json={"prompt": "a"})).json()
            said = "The prompt has 103 tokens, and the model was told the first 75."
            assert answer["warnings"] == [said]
            details = answer["usage"]["input_tokens_details"]
            assert (details["text_tokens"], details["text_tokens_cut"]) == (103, 28)
            accepted = (await node.http.post("/v1/tasks", json={"prompt": "a"})).json()
            task = (await node.http.get(f"/v1/tasks/{accepted['id']}")).json()
            assert (task["prompt_tokens"], task["warnings"]) == (103, [said])
            front_desk.prompt_tokens = PromptTokens(75, 75)
            answer = (await node.http.post("/v1/images/generations", json={"prompt": "a"})).json()
            assert answer["warnings"] == []
            assert answer["usage"]["input_tokens_details"]["text_tokens"] == 75

    asyncio.run(story())
