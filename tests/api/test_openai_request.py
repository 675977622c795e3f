"""What clients of OpenAI's API send where nobody changed a thing, and what is made of it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from edge_node.api import schemas
from edge_node.api.openai_request import Adapted, Habits, adapted, meant
from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest, ModelNotFound
from edge_node.requests import DrawingLimits
from tests.api.served import HABITS, served

LIMITS = DrawingLimits(
    model="resd3-m",
    fingerprint="f",
    size_px_min=256,
    size_px_max=1024,
    size_px_multiple=16,
    size_px_default=512,
    steps_max=50,
    steps_default=15,
    guidance_scale_max=30.0,
    guidance_scale_default=5.0,
    strength_default=0.6,
    prompt_chars_max=1000,
    images_per_request_max=10,
    deadline_s_max=600.0,
)
# As n8n, Open WebUI, LibreChat's two tools, LangChain and Nextcloud send them by default.
DEFAULTS: list[dict[str, Any]] = [
    {"model": "dall-e-3", "size": "1792x1024", "quality": "standard", "style": "vivid", "n": 1},
    {"model": "dall-e-2", "size": "512x512", "n": 1, "response_format": "b64_json"},
    {"model": "gpt-image-1", "size": "auto", "quality": "auto", "background": "auto"},
    {"model": "dall-e-3", "size": "1024x1024", "quality": "hd", "response_format": "b64_json"},
    {"model": "dall-e-2", "size": "1024x1024", "quality": "standard", "n": 1},
    {"model": "gpt-image-2.6-flare", "size": "1536x1024", "n": 1, "response_format": "url"},
    {"model": "", "size": "", "n": 1.0, "quality": None, "seed": "-1", "output_format": "PNG"},
]


def understood(
    document: dict[str, Any], *, habits: Habits = HABITS, limits: DrawingLimits = LIMITS
) -> tuple[Adapted[Any], schemas.Order]:
    wanted = schemas.parse(schemas.ImageGenerationRequest, meant({"prompt": "a", **document}))
    asked = adapted(wanted, limits, habits)
    return asked, schemas.order(asked.wanted, limits, previews_wanted=False)


@pytest.mark.parametrize("document", DEFAULTS)
def test_the_defaults_of_clients_draw(document: dict[str, Any]) -> None:
    async def story() -> None:
        async with served() as node:
            url = "/v1/images/generations"
            answer = await node.http.post(url, json={"prompt": "a boat", **document})
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == "tiny-sd3"
            ((drawing,), _, _, _) = node.front_desk.submitted[0]
            assert drawing.model == "tiny-sd3"

    asyncio.run(story())


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ({"model": "dall-e-3"}, "url"),
        ({"model": "dall-e-2", "response_format": "b64_json"}, "b64_json"),
        ({"model": "gpt-image-1"}, None),
        ({"model": "gpt-image-1", "response_format": "url"}, "url"),
        ({}, None),
    ],
)
def test_dall_e_answers_with_an_address_where_nothing_is_said(
    sent: dict[str, Any], answered: str | None
) -> None:
    asked, _ = understood(sent)
    assert asked.wanted.response_format == answered


@pytest.mark.parametrize(
    ("sent", "drawn"),
    [
        ({"seed": "7"}, {"seed": 7}),
        ({"seed": 7.0}, {"seed": 7}),
        ({"steps": 9, "cfg_scale": "2.5"}, {"steps": 9, "guidance_scale": 2.5}),
        ({"steps": 9, "num_inference_steps": 8}, {"steps": 8}),
        ({"width": 768, "height": "512"}, {"width_px": 768, "height_px": 512}),
        ({"width": 768}, {"width_px": 768, "height_px": 768}),
        ({"width": 768, "size": "512x512"}, {"width_px": 512, "height_px": 512}),
        ({"size": " 768 X 512"}, {"width_px": 768, "height_px": 512}),
        ({"size": "768*512"}, {"width_px": 768, "height_px": 512}),
        ({"output_format": "JPG"}, {"image_format": "jpeg"}),
        ({"output_format": ""}, {"image_format": "png"}),
        ({"quality": "high"}, {"steps": 22}),
        ({"quality": "HD", "num_inference_steps": 4}, {"steps": 4}),
        ({"quality": "low"}, {"steps": 8}),
        ({"quality": "auto"}, {"steps": 15}),
        ({"model": "gpt-image-1"}, {"model": "resd3-m"}),
    ],
)
def test_what_others_write_is_read_as_it_was_meant(
    sent: dict[str, Any], drawn: dict[str, Any]
) -> None:
    _, order = understood(sent)
    assert {name: getattr(order.drawings[0], name) for name in drawn} == drawn


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ("1792x1024", "1024x592"),
        ("1024x1792", "592x1024"),
        ("1536x1024", "1024x688"),
        ("2048x2048", "1024x1024"),
        ("128x128", "256x256"),
        ("500x500", "496x496"),
        ("512x768", "512x768"),
    ],
)
def test_the_nearest_size_is_drawn_and_said(asked: str, drawn: str) -> None:
    found, order = understood({"size": asked})
    first = order.drawings[0]
    assert f"{first.width_px}x{first.height_px}" == drawn
    assert found.asked_size == ("" if asked == drawn else asked)
    assert found.notes == (() if asked == drawn else found.notes[:1])
    assert all(drawn in note and asked in note for note in found.notes)


def test_sizes_can_be_held_to_and_names_be_strict() -> None:
    strict = Habits(model_aliases=(), size_policy="exact", quality_steps={})
    with pytest.raises(InvalidRequest, match="multiples of 16"):
        understood({"size": "1792x1024"}, habits=strict)
    with pytest.raises(ModelNotFound):
        understood({"model": "dall-e-3"}, habits=strict)
    with pytest.raises(ModelNotFound):
        understood({"model": "sdxl"})
    assert understood({"quality": "high"}, habits=strict)[1].drawings[0].steps == 15


def test_a_quality_that_nobody_knows_is_said() -> None:
    asked, order = understood({"quality": "max"})
    assert order.drawings[0].steps == 15
    assert asked.notes == (
        "`quality` 'max' is none of low, medium, standard, high, hd; it changed nothing.",
    )
    for known in ("auto", "high", "", None):
        assert understood({"quality": known})[0].notes == ()


def test_an_operators_qualities_are_read_as_clients_are() -> None:
    habits = Habits.of(NodeConfig(quality_steps={"Best": 2.0}))
    for word in ("best", "BEST"):
        assert understood({"quality": word}, habits=habits)[1].drawings[0].steps == 30


def test_a_real_name_goes_before_an_alias() -> None:
    limits = replace(LIMITS, model="dall-e-2")
    _, order = understood({"model": "dall-e-2"}, limits=limits)
    assert order.drawings[0].model == "dall-e-2"


@given(
    width=st.integers(1, 99_999),
    height=st.integers(1, 99_999),
    multiple=st.sampled_from([8, 16, 64]),
)
def test_whatever_size_is_asked_for_one_is_drawn(width: int, height: int, multiple: int) -> None:
    limits = replace(LIMITS, size_px_multiple=multiple)
    found, order = understood({"size": f"{width}x{height}"}, limits=limits)
    first = order.drawings[0]
    for side in (first.width_px, first.height_px):
        assert limits.size_px_min <= side <= limits.size_px_max
        assert side % multiple == 0
    assert bool(found.notes) == ((first.width_px, first.height_px) != (width, height))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*schemas.ImageGenerationRequest.model_fields, "steps", "width"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    )
)
def test_nothing_that_is_sent_is_an_error_of_ours(document: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest, ModelNotFound):
        _, order = understood(document)
        assert order.drawings


def test_answers_say_what_was_drawn() -> None:
    async def story() -> None:
        async with served() as node, AsyncOpenAI(base_url=f"{node.url}/v1", api_key="x") as client:
            raw = await client.images.with_raw_response.generate(
                prompt="a", model="dall-e-3", n=2, size="1792x1024", background="transparent"
            )
            assert raw.headers["x-dedgeai-size"] == "128x80"
            assert raw.headers["x-dedgeai-size-asked"] == "1792x1024"
            answer = raw.parse()
            assert (answer.size, answer.background) == ("128x80", "opaque")
            body = raw.http_response.json()
            assert [one["task_id"] for one in body["data"]] == raw.headers[
                "x-dedgeai-task-id"
            ].split(", ")
            first, second = (one["seed"] for one in body["data"])
            assert second == first + 1
            assert any("128x80" in one for one in body["warnings"])
            assert any("opaque" in one for one in body["warnings"])
            listed = [model async for model in client.models.list()]
            assert listed[0].id == "tiny-sd3"
            assert {model.id for model in listed} == {"tiny-sd3", *HABITS.alias_names}
            extra = (await client.models.retrieve("dall-e-3")).model_extra
            assert extra is not None
            assert extra["alias_of"] == "tiny-sd3"
            of_a_pattern = (await client.models.retrieve("gpt-image-7")).model_extra
            assert of_a_pattern is not None
            assert of_a_pattern["alias_of"] == "tiny-sd3"

    asyncio.run(story())


def test_aliases_end_with_one_setting() -> None:
    async def story() -> None:
        async with served(habits=Habits.of(NodeConfig(model_aliases=()))) as node:
            names = [one["id"] for one in (await node.http.get("/v1/models")).json()["data"]]
            assert names == ["tiny-sd3"]
            body = {"prompt": "a", "model": "dall-e-2"}
            assert (await node.http.post("/v1/images/generations", json=body)).status_code == 404

    asyncio.run(story())
