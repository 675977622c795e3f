"""Masks, as each surface takes them: what may change of an image, and what stays."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from openai import AsyncOpenAI
from PIL import Image

from tests.api.served import Served, served
from tests.api.test_bad_input import check
from tests.api.uploaded import decoded, encoded, halves, in_base64

EDITS, TASKS, IMG2IMG = "/v1/images/edits", "/v1/tasks", "/sdapi/v1/img2img"
PHOTO = encoded(halves(96, 64))


def transparent_left(width_px: int = 96, height_px: int = 64) -> bytes:
    """What is left is to be drawn anew."""
    mask = Image.new("RGBA", (width_px, height_px), (9, 9, 9, 255))
    mask.paste((0, 0, 0, 0), (0, 0, width_px // 2, height_px))
    return encoded(mask)


def white_left(width_px: int = 96, height_px: int = 64) -> bytes:
    mask = Image.new("L", (width_px, height_px), 0)
    mask.paste(255, (0, 0, width_px // 2, height_px))
    return encoded(mask)


MASK = in_base64(transparent_left())


def on_a_node(story: Any) -> None:
    async def told() -> None:
        async with served() as node:
            await story(node)

    asyncio.run(told())


def kept(node: Served) -> tuple[int, int, int]:
    """How much is kept left, in the middle and right; checks that the picture itself is whole."""
    made = decoded(node.front_desk.init_images[-1])
    assert (made.mode, made.size) == ("RGBA", (96, 64))
    width_px, row = made.width, made.height // 2
    assert made.getpixel((4, row))[:3] == (255, 0, 0)  # type: ignore[index]
    assert made.getpixel((width_px - 4, row))[:3] == (0, 0, 255)  # type: ignore[index]
    alpha = made.getchannel("A")
    places = (4, width_px // 2, width_px - 4)
    left, middle, right = (alpha.getpixel((x, row)) for x in places)
    return left, middle, right  # type: ignore[return-value]


def test_openais_mask_frees_what_is_transparent() -> None:
    async def story(node: Served) -> None:
        async with AsyncOpenAI(base_url=f"{node.url}/v1", api_key="none") as client:
            await client.images.edit(
                image=("p.png", PHOTO), mask=("m.png", transparent_left()), prompt="a boat"
            )
        ((drawing,), _, _, _) = node.front_desk.submitted[0]
        # From noise alone, as those expect who know OpenAI's.
        assert (drawing.masked, drawing.strength) == (True, 1.0)
        assert kept(node)[::2] == (0, 255)

    on_a_node(story)


@pytest.mark.parametrize(
    ("path", "document"),
    [
        (EDITS, {"image": in_base64(PHOTO), "mask": MASK}),
        (EDITS, {"images": [{"image_url": in_base64(PHOTO)}], "mask": {"image_url": MASK}}),
        (TASKS, {"init_image": in_base64(PHOTO), "mask": f"data:image/png;base64,{MASK}"}),
    ],
)
def test_it_comes_in_json_too(path: str, document: dict[str, Any]) -> None:
    async def story(node: Served) -> None:
        answer = await node.http.post(path, json={"prompt": "a", "strength": 0.8, **document})
        assert answer.is_success, answer.text
        ((drawing,), _, _, _) = node.front_desk.submitted[0]
        assert (drawing.masked, drawing.strength) == (True, 0.8)
        assert kept(node)[::2] == (0, 255)

    on_a_node(story)


@pytest.mark.parametrize(
    ("more", "left", "right"),
    [({}, 0, 255), ({"inpainting_mask_invert": 1}, 255, 0), ({"mask_blur": 0}, 0, 255)],
)
def test_automatic1111s_mask_frees_what_is_white(
    more: dict[str, Any], left: int, right: int
) -> None:
    async def story(node: Served) -> None:
        document = {
            "prompt": "a",
            "init_images": [in_base64(PHOTO)],
            "mask": in_base64(white_left(192, 128)),
            **{"width": 96, "height": 64},
        }
        answer = await node.http.post(IMG2IMG, json={**document, **more})
        assert answer.is_success, answer.text
        assert "mask" not in answer.json()["parameters"], "what was sent is told without images"
        ((drawing,), _, _, _) = node.front_desk.submitted[0]
        assert (drawing.masked, drawing.strength) == (True, 0.75)
        found = kept(node)
        assert found[::2] == (left, right)
        soft = 40 < found[1] < 215
        assert soft == ("mask_blur" not in more), "its edges are soft unless that is not wanted"

    on_a_node(story)


def test_image_and_mask_are_scaled_and_turned_alike() -> None:
    async def story(node: Served) -> None:
        photo, mask = halves(96, 64), Image.open(io.BytesIO(transparent_left()))
        turned = Image.Exif()
        turned[0x0112] = 8
        both = []
        for one in (photo, mask):
            stored = one.transpose(Image.Transpose.ROTATE_270)
            content = io.BytesIO()
            stored.save(content, "PNG", exif=turned)
            both.append(in_base64(content.getvalue()))
        document = {"prompt": "a", "init_image": both[0], "mask": both[1], "size": "96x64"}
        answer = await node.http.post(TASKS, json=document)
        assert answer.status_code == 202, answer.text
        assert kept(node)[::2] == (0, 255)

    on_a_node(story)


@pytest.mark.parametrize(
    ("document", "param", "said"),
    [
        ({"init_image": in_base64(PHOTO), "mask": in_base64(PHOTO)}, "mask", "no transparency"),
        (
            {"init_image": in_base64(PHOTO), "mask": in_base64(transparent_left(64, 64))},
            "mask",
            "64x64 pixels, and its image 96x64",
        ),
        ({"mask": MASK}, "mask", "there is none"),
        ({"init_image": in_base64(PHOTO), "mask": "%"}, "mask", "in base64"),
        ({"init_image": in_base64(PHOTO), "mask": in_base64(b"x")}, "mask", "whole PNG"),
        ({"init_image": in_base64(PHOTO), "mask": "http://a/b.png"}, "mask", "does not fetch"),
    ],
)
def test_what_is_no_mask_is_said(document: dict[str, Any], param: str, said: str) -> None:
    async def story(node: Served) -> None:
        answer = await node.http.post(TASKS, json={"prompt": "a", **document})
        assert said in check(answer, status=400, code="invalid_request", param=param)
        assert node.front_desk.submitted == []

    on_a_node(story)


@pytest.mark.parametrize("name", ["mask", "mask[]"])
def test_of_several_masks_the_first_counts_and_that_is_said(name: str) -> None:
    async def story(node: Served) -> None:
        other = encoded(Image.new("RGBA", (96, 64)))
        files = [("image", PHOTO), (name, transparent_left()), (name, other)]
        answer = await node.http.post(EDITS, data={"prompt": "a"}, files=files)
        assert answer.json()["warnings"] == ["2 masks came; the first counts."]
        left, _, right = kept(node)
        assert (left, right) == (0, 255)

    on_a_node(story)


def test_a_mask_is_a_file_in_a_form_and_a_request_with_another_is_another() -> None:
    async def story(node: Served) -> None:
        files = {"image": PHOTO}
        answer = await node.http.post(EDITS, data={"prompt": "a", "mask": MASK}, files=files)
        check(answer, status=400, code="invalid_request", param="mask")
        key = {"Idempotency-Key": "one"}
        statuses = []
        for mask in (transparent_left(), transparent_left(), encoded(Image.new("RGBA", (96, 64)))):
            answer = await node.http.post(
                EDITS, data={"prompt": "a"}, files={"image": PHOTO, "mask": mask}, headers=key
            )
            statuses.append(answer.status_code)
        assert statuses[:2] == [200, 200]
        assert statuses[2] == 409

    on_a_node(story)
