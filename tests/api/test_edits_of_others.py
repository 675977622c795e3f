"""Edits as clients besides OpenAI's SDK send them: JSON, several images, no prompt, gzip."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import httpx
import pytest
from fastapi import Request
from openai import AsyncOpenAI

from edge_node.api.request_body import read_form
from edge_node.api.uploads import Uploads
from edge_node.errors import AdmissionRefused
from tests.api.served import BODIES, REQUEST_BYTES_MAX, UPLOADS, Served, served
from tests.api.test_bad_input import check
from tests.api.test_openai_images import sdk
from tests.api.uploaded import decoded, encoded, halves, in_base64, noise

EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"
PHOTO = encoded(halves(96, 64), "JPEG", quality=95)
TEXT = in_base64(PHOTO)
JSON = {"Content-Type": "application/json"}


def on_a_node(story: Any) -> None:
    async def told() -> None:
        async with served() as node:
            await story(node)

    asyncio.run(told())


@pytest.mark.parametrize(
    "image",
    [
        {"image": TEXT},
        {"image": f"data:image/jpeg;base64,{TEXT}"},
        {"image": [TEXT]},
        {"images": [{"image_url": f"data:image/jpeg;base64,{TEXT}"}]},
        {"image": {"image_url": {"url": TEXT}}},
        {"image": "\n".join(TEXT[at : at + 76] for at in range(0, len(TEXT), 76)) + "\r\n"},
    ],
    ids=["base64", "data url", "list", "objects", "nested", "in lines"],
)
def test_an_edit_in_json(image: dict[str, Any]) -> None:
    async def story(node: Served) -> None:
        fields = {"prompt": "a boat", "strength": "0.5", "size": "96x64", "model": "gpt-image-1"}
        answer = await node.http.post(EDITS, json={**fields, **image})
        assert answer.status_code == 200, answer.text
        ((drawing,), _, _, _) = node.front_desk.submitted[0]
        assert (drawing.prompt, drawing.strength) == ("a boat", 0.5)
        made = decoded(node.front_desk.init_images[-1])
        assert made.size == (96, 64)
        assert made.getpixel((4, 32)) == pytest.approx((255, 0, 0), abs=6)

    on_a_node(story)


@pytest.mark.parametrize(
    ("document", "param", "said"),
    [
        ({"prompt": "a"}, "image", "is required"),
        ({"prompt": "a", "image": 7}, "image", "must be an image in base64"),
        ({"prompt": "a", "image": [{"file_id": "x"}]}, "image", "must be an image in base64"),
        ({"prompt": "a", "image": "http://10.0.0.1/a.png"}, "image", "does not fetch"),
        ({"prompt": "a", "image": "%%%"}, "image", "in base64"),
        ({"prompt": "a", "image": in_base64(b"nothing")}, "image", "whole PNG"),
        ({"image": TEXT}, "prompt", "is required"),
        ({"prompt": "a", "image": TEXT, "mask": TEXT}, "mask", "no transparency"),
        ([], None, "JSON object"),
    ],
)
def test_what_is_no_edit_in_json_is_said(document: Any, param: str | None, said: str) -> None:
    async def story(node: Served) -> None:
        answer = await node.http.post(EDITS, json=document)
        assert said in check(answer, status=400, code="invalid_request", param=param)
        assert node.front_desk.submitted == []

    on_a_node(story)


def test_large_images_in_json_are_bounded_as_files_are() -> None:
    async def story(node: Served) -> None:
        fits = in_base64(encoded(noise(250, 200)))
        assert len(fits) > REQUEST_BYTES_MAX
        taken = await node.http.post(EDITS, json={"prompt": "a", "image": fits})
        assert taken.status_code == 200, taken.text
        beyond = in_base64(bytes(UPLOADS.bytes_max + 100_000))
        refused = await node.http.post(EDITS, json={"prompt": "a", "image": beyond})
        check(refused, status=413, code="request_too_large")

    on_a_node(story)


def test_of_several_images_the_first_is_drawn_from_and_said() -> None:
    other = encoded(halves(64, 96), "PNG")

    async def story(node: Served, client: AsyncOpenAI) -> None:
        raw = await client.images.with_raw_response.edit(
            image=[("a.jpg", PHOTO), ("b.png", other)], prompt="a"
        )
        assert raw.parse().size == "96x64"
        assert any("2 images came" in one for one in raw.http_response.json()["warnings"])

    async def told() -> None:
        async with served() as node, sdk(node) as client:
            await story(node, client)

    asyncio.run(told())


def test_a_key_stands_for_all_images_that_were_sent() -> None:
    async def story(node: Served) -> None:
        headers = {"Idempotency-Key": "k"}
        for second, status in ((b"1", 200), (b"1", 200), (b"2", 409)):
            files = [("image[]", ("a.jpg", PHOTO)), ("image[]", ("b.jpg", second))]
            answer = await node.http.post(EDITS, data={"prompt": "a"}, files=files, headers=headers)
            assert answer.status_code == status, answer.text

    on_a_node(story)


def test_a_compressed_form_holds_a_place_for_what_it_may_unpack_to() -> None:
    async def story() -> None:
        form = httpx.Request("POST", "http://n", data={"prompt": "a"}, files={"image": PHOTO})
        packed = gzip.compress(form.read())
        headers = {
            "content-type": form.headers["content-type"],
            "content-encoding": "gzip",
            "content-length": str(len(packed)),
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": packed, "more_body": False}

        scope = {
            "type": "http",
            "method": "POST",
            "path": EDITS,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        uploads = Uploads(UPLOADS)
        with uploads.place() as place:
            request = Request(scope, receive)
            await read_form(request, limits=BODIES, uploads=uploads, place=place)
            held_bytes = UPLOADS.bytes_max + BODIES.bytes_max
            with pytest.raises(AdmissionRefused):
                uploads.hold(UPLOADS.held_bytes_max - held_bytes + 1)

    asyncio.run(story())


def test_a_variation_needs_no_prompt() -> None:
    async def story(node: Served) -> None:
        for image in (PHOTO, encoded(halves(96, 64), "GIF"), encoded(halves(96, 64), "WEBP")):
            answer = await node.http.post(VARIATIONS, data={"n": "2"}, files={"image": image})
            assert answer.status_code == 200, answer.text
            drawings, _, _, _ = node.front_desk.submitted[-1]
            assert [drawing.prompt for drawing in drawings] == ["", ""]
            assert all(drawing.init_image_sha256 for drawing in drawings)
        without = await node.http.post(VARIATIONS, data={"n": "2"})
        assert without.status_code in (400, 415)

    on_a_node(story)


def test_a_body_that_does_not_say_how_long_it_is_is_read_as_any_other() -> None:
    async def story(node: Served) -> None:
        async def chunks() -> Any:
            yield json.dumps({"prompt": "a boat"}).encode()

        answer = await node.http.post("/v1/tasks", content=chunks(), headers=JSON)
        assert answer.status_code == 202, answer.text

    on_a_node(story)


def test_bodies_may_be_compressed_and_are_bounded_as_they_unpack() -> None:
    async def story(node: Served) -> None:
        packed = {**JSON, "Content-Encoding": "gzip"}

        async def post(path: str, content: bytes, **more: str) -> Any:
            return await node.http.post(path, content=content, headers={**packed, **more})

        body = json.dumps({"prompt": "a boat"}).encode()
        assert (await post("/v1/tasks", gzip.compress(body))).status_code == 202
        edit = json.dumps({"prompt": "a", "image": TEXT}).encode()
        assert (await post(EDITS, gzip.compress(edit))).status_code == 200
        bomb = gzip.compress(b'{"prompt": "' + b"a" * 200_000_000 + b'"}')
        assert len(bomb) < 200_000
        refused = await post("/v1/tasks", bomb)
        check(refused, status=413, code="request_too_large")
        for damaged in (b"no gzip", gzip.compress(body)[:-5]):
            answer = await post("/v1/tasks", damaged)
            assert "gzip" in check(answer, status=400, code="invalid_request")
        answer = await node.http.post(
            "/v1/tasks", content=body, headers={**JSON, "Content-Encoding": "br"}
        )
        check(answer, status=415, code="unsupported_media_type")

    on_a_node(story)
