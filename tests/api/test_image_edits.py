"""Image-to-image on both surfaces: by the unmodified openai SDK, and as a task."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError

from edge_node.api import schemas
from tests.api.memory_front_desk import PNG, MemoryFrontDesk
from tests.api.served import REQUEST_BYTES_MAX, UPLOADS, Served, served
from tests.api.test_bad_input import check
from tests.api.test_openai_images import sdk, until_gone
from tests.api.uploaded import decoded, encoded, halves, in_base64, noise

EDITS = "/v1/images/edits"
PHOTO = encoded(halves(96, 64), "JPEG", quality=95)
FILE = {"image": ("photo.jpg", PHOTO, "image/jpeg")}


def test_an_edit_by_the_sdk() -> None:
    async def story(node: Served, client: AsyncOpenAI) -> None:
        answer = await client.images.with_raw_response.edit(
            image=("photo.jpg", PHOTO),
            prompt="a small boat",
            n=2,
            quality="high",
            input_fidelity="high",
            extra_body={"strength": 0.5, "seed": 5, "num_inference_steps": 8, "guidance_scale": 1},
        )
        assert answer.headers["x-dedgeai-durability"] == "journalled"
        images = answer.parse()
        assert images.data is not None
        assert [base64.b64decode(image.b64_json or "") for image in images.data] == [PNG, PNG]
        assert (images.size, images.quality) == ("96x64", "high")
        assert images.usage is not None
        assert images.usage.input_tokens_details.image_tokens == 2 * 6 * 4
        (drawings, durable, _, _), init_image = node.front_desk.submitted[0], init_of(node)
        assert not durable
        assert [drawing.seed for drawing in drawings] == [5, 6]
        for drawing in drawings:
            assert (drawing.width_px, drawing.height_px) == (96, 64)
            assert (drawing.steps, drawing.guidance_scale, drawing.strength) == (8, 1, 0.5)
            assert drawing.denoising_steps == 4
            assert drawing.init_image_sha256 == hashlib.sha256(init_image).hexdigest()
        made = decoded(init_image)
        assert (made.size, made.mode) == ((96, 64), "RGB")
        assert made.getpixel((4, 32)) == pytest.approx((255, 0, 0), abs=6)

    by_the_sdk(story)


def init_of(node: Served) -> bytes:
    return node.front_desk.init_images[-1]


def by_the_sdk(story: Any) -> None:
    async def told() -> None:
        async with served() as node, sdk(node) as client:
            await story(node, client)

    asyncio.run(told())


def test_its_size_is_the_images_own_unless_another_is_given() -> None:
    async def story(node: Served, client: AsyncOpenAI) -> None:
        photos = [encoded(noise(250, 150), "JPEG"), encoded(noise(20, 20)), PHOTO, PHOTO]
        sizes: list[Any] = [None, "auto", "auto", "32x128"]
        for photo, size in zip(photos, sizes, strict=True):
            given = {} if size is None else {"size": size}
            await client.images.edit(image=[("p", photo)], prompt="a", **given)
        for expected in ((128, 80), (32, 32), (96, 64), (32, 128)):
            ((drawing,), *_), init_image = (
                node.front_desk.submitted.pop(0),
                node.front_desk.init_images.pop(0),
            )
            assert (drawing.width_px, drawing.height_px) == expected
            assert decoded(init_image).size == expected
            assert drawing.strength == 0.6

    by_the_sdk(story)


def test_a_streamed_edit_by_the_sdk() -> None:
    async def story(node: Served, client: AsyncOpenAI) -> None:
        stream = await client.images.edit(
            image=("p.jpg", PHOTO), prompt="a boat", stream=True, partial_images=2
        )
        events = [event async for event in stream]
        assert [event.type for event in events] == [
            *["image_edit.partial_image"] * 2,
            "image_edit.completed",
        ]
        last = events[-1]
        assert last.type == "image_edit.completed"
        assert base64.b64decode(last.b64_json) == PNG
        assert last.usage.total_tokens == 2 + 24 + 24

    by_the_sdk(story)


def test_what_this_model_cannot_edit_is_said() -> None:
    async def story(node: Served, client: AsyncOpenAI) -> None:
        with pytest.raises(BadRequestError, match="`mask` has no transparency") as refused:
            await client.images.edit(image=("a", PHOTO), mask=("m", PHOTO), prompt="a")
        assert refused.value.param == "mask"
        with pytest.raises(BadRequestError, match="whole PNG, JPEG, WebP or GIF") as refused:
            await client.images.edit(image=("a", PHOTO[:300]), prompt="a")
        assert refused.value.param == "image"
        assert node.front_desk.submitted == []

    by_the_sdk(story)


BAD_FORMS: list[tuple[dict[str, Any], str, str]] = [
    ({"files": {"other": PHOTO}}, "image", "is required"),
    ({"data": {"prompt": "a", "image": "photo"}, "files": {"x": b""}}, "image", "as a file"),
    ({"files": {"image": b""}}, "image", "whole PNG"),
    (
        {"files": {"image": encoded(noise(1500, 1400), "JPEG", quality=1)}},
        "image",
        "at most 2000000",
    ),
    ({"data": {}, "files": FILE}, "prompt", "is required"),
    ({"data": {"prompt": ""}, "files": FILE}, "prompt", "must not be empty"),
    ({"data": {"prompt": "a", "n": "two"}, "files": FILE}, "n", "valid integer"),
    ({"data": {"prompt": "a", "n": "11"}, "files": FILE}, "n", "from 1 to 10"),
    ({"data": {"prompt": "a", "size": "large"}, "files": FILE}, "size", "WIDTHxHEIGHT"),
    ({"data": {"prompt": "a", "seed": "1.5"}, "files": FILE}, "seed", "valid integer"),
    ({"data": {"prompt": "a", "stream": "perhaps"}, "files": FILE}, "stream", "valid boolean"),
    ({"data": {"prompt": "a", "strength": "0"}, "files": FILE}, "strength", "more than 0"),
    ({"data": {"prompt": "a", "strength": "-1"}, "files": FILE}, "strength", "more than 0"),
    ({"data": {"prompt": "a", "strength": "1.01"}, "files": FILE}, "strength", "at most 1"),
    ({"data": {"prompt": "a", "strength": "NaN"}, "files": FILE}, "strength", "valid number"),
    ({"data": {"prompt": "a", "strength": "much"}, "files": FILE}, "strength", "valid number"),
    (
        {"data": {"prompt": "a", "strength": "1e-20", "num_inference_steps": "10"}, "files": FILE},
        "strength",
        "none of 10 steps to run; 0.1 runs one",
    ),
]


def test_every_bad_form_names_its_field() -> None:
    async def story() -> None:
        async with served() as node:
            for form, param, said in BAD_FORMS:
                response = await node.http.post(EDITS, **{"data": {"prompt": "a"}, **form})
                message = check(response, status=400, code="invalid_request", param=param)
                assert said in message, message
            assert node.front_desk.submitted == []
            # What the SDK may send besides, and fields that were left empty, change nothing.
            left = {"prompt": "a", "n": "", "background": "auto", "made_up": "1"}
            assert (await node.http.post(EDITS, data=left, files=FILE)).status_code == 200

    asyncio.run(story())


def test_what_is_no_form_is_refused() -> None:
    async def story() -> None:
        async with served() as node:
            as_text = await node.http.post(EDITS, content=b"a", headers={"Content-Type": "text/a"})
            message = check(as_text, status=415, code="unsupported_media_type")
            assert "multipart/form-data" in message
            form = {"Content-Type": "multipart/form-data; boundary=b"}
            damaged = await node.http.post(EDITS, content=b"nothing", headers=form)
            assert "multipart/form-data" in check(damaged, status=400, code="invalid_request")
            unbound = {"Content-Type": "multipart/form-data"}
            without = await node.http.post(EDITS, content=b"--b--", headers=unbound)
            assert "boundary" in check(without, status=400, code="invalid_request")
            many = [("image", (f"{i}.png", b"x")) for i in range(30)]
            crowd = await node.http.post(EDITS, data={"prompt": "a"}, files=many)
            assert "Too many files" in check(crowd, status=400, code="invalid_request")

    asyncio.run(story())


def test_an_upload_beyond_its_bounds_is_413_whether_or_not_it_says_so() -> None:
    async def story() -> None:
        async with served() as node:
            file = {"image": encoded(noise(400, 300))}
            assert (
                UPLOADS.bytes_max < len(file["image"]) < UPLOADS.bytes_max + REQUEST_BYTES_MAX * 4
            )
            request = node.http.build_request("POST", EDITS, data={"prompt": "a"}, files=file)
            body = await request.aread()

            async def chunks() -> Any:
                for start in range(0, len(body), 50_000):
                    yield body[start : start + 50_000]

            head = {"Content-Type": request.headers["content-type"]}
            for content in (body, chunks()):
                response = await node.http.post(EDITS, content=content, headers=head)
                check(response, status=413, code="request_too_large")
            # Short enough as a request, but not as an image.
            small = {"image": bytes(UPLOADS.bytes_max + 1)}
            response = await node.http.post(EDITS, data={"prompt": "a"}, files=small)
            check(response, status=413, code="request_too_large", param="image")

    asyncio.run(story())


def test_more_uploads_at_once_than_places_are_429() -> None:
    limits = replace(UPLOADS, at_once_max=1)

    async def story() -> None:
        async with served(upload_limits=limits) as node:
            request = node.http.build_request("POST", EDITS, data={"prompt": "a"}, files=FILE)
            body = await request.aread()
            head = {"Content-Type": request.headers["content-type"]}
            halfway = asyncio.Event()
            go_on = asyncio.Event()

            async def slowly() -> Any:
                yield body[:100]
                halfway.set()
                await go_on.wait()
                yield body[100:]

            first = asyncio.create_task(node.http.post(EDITS, content=slowly(), headers=head))
            await halfway.wait()
            await asyncio.sleep(0.1)
            task = {"prompt": "a", "init_image": in_base64(PHOTO)}
            others = [
                await node.http.post(EDITS, data={"prompt": "a"}, files=FILE),
                await node.http.post("/v1/tasks", json=task),
            ]
            # A client in mid-sending is not cut off before it reads its answer.
            sent = 0

            async def long() -> Any:
                nonlocal sent
                for _ in range(200):
                    yield bytes(100_000)
                    sent += 1

            others.append(await node.http.post(EDITS, content=long(), headers=head))
            assert sent == 200
            for response in others:
                check(response, status=429, code="queue_full")
                assert response.headers["retry-after"] == "1"
            # Those without an image are none of it.
            assert (await node.http.post("/v1/tasks", json={"prompt": "a"})).status_code == 202
            go_on.set()
            assert (await first).status_code == 200
            assert (await node.http.post("/v1/tasks", json=task)).status_code == 202

    asyncio.run(story())


def test_an_upload_that_does_not_arrive_is_given_up() -> None:
    limits = replace(UPLOADS, at_once_max=1, arrival_s_max=0.2)

    async def story() -> None:
        async with served(upload_limits=limits) as node:

            async def never() -> Any:
                yield b"--b\r\n"
                await asyncio.sleep(0.5)
                yield b""

            form = {"Content-Type": "multipart/form-data; boundary=b"}
            response = await node.http.post(EDITS, content=never(), headers=form)
            check(response, status=408, code="upload_too_slow")
            answer = await node.http.post(EDITS, data={"prompt": "a"}, files=FILE)
            assert answer.status_code == 200, "its place was given back"

    asyncio.run(story())


def test_a_client_that_hangs_up_in_mid_upload_gives_its_place_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = replace(UPLOADS, at_once_max=1)

    async def story() -> None:
        async with served(upload_limits=limits) as node:

            async def never() -> Any:
                yield b"--b\r\n"
                await asyncio.sleep(5)

            form = {"Content-Type": "multipart/form-data; boundary=b"}
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await node.http.post(EDITS, content=never(), headers=form)
            async with asyncio.timeout(3):
                while True:
                    answer = await node.http.post(EDITS, data={"prompt": "a"}, files=FILE)
                    if answer.status_code == 200:
                        break
                    await asyncio.sleep(0.02)

    asyncio.run(story())
    assert "failed" not in caplog.text


def test_a_key_stands_for_the_image_too() -> None:
    async def story() -> None:
        async with served() as node:
            key = {"Idempotency-Key": "k"}
            how: dict[str, Any] = {"data": {"prompt": "a"}, "headers": key}
            first = await node.http.post(EDITS, files=FILE, **how)
            again = await node.http.post(EDITS, files=FILE, **how)
            assert first.headers["x-dedgeai-task-id"] == again.headers["x-dedgeai-task-id"]
            assert first.headers["x-dedgeai-durability"] == "disk"
            other = await node.http.post(EDITS, files={"image": encoded(halves(64, 96))}, **how)
            check(other, status=409, code="idempotency_conflict")

    asyncio.run(story())


def test_a_client_that_hangs_up_takes_its_edit_along() -> None:
    async def story() -> None:
        async with served(MemoryFrontDesk(held=True)) as node:
            with pytest.raises(httpx.ReadTimeout):
                await node.http.post(EDITS, data={"prompt": "a"}, files=FILE, timeout=0.3)
            await until_gone(node, 1)

    asyncio.run(story())


def test_a_task_with_an_init_image() -> None:
    async def story() -> None:
        async with served(MemoryFrontDesk(held=True)) as node:
            photo = encoded(noise(200, 200))
            assert len(photo) > REQUEST_BYTES_MAX, "longer than a request without one may be"
            text = in_base64(photo)
            tasks = []
            for init_image in (text, f"data:image/png;base64,{text}"):
                body = {"prompt": "a", "num_inference_steps": 10, "init_image": init_image}
                accepted = await node.http.post("/v1/tasks", json={**body, "strength": 0.35})
                assert accepted.status_code == 202, accepted.text
                tasks.append(accepted.json())
            assert node.front_desk.init_images[0] == node.front_desk.init_images[1]
            sha256 = hashlib.sha256(init_of(node)).hexdigest()
            assert [task["init_image_sha256"] for task in tasks] == [sha256, sha256]
            assert (tasks[0]["strength"], tasks[0]["size"]) == (0.35, "128x128")
            assert tasks[0]["num_inference_steps"] == 10
            await node.front_desk.finish(tasks[0]["id"])
            done = (await node.http.get(f"/v1/tasks/{tasks[0]['id']}")).json()
            assert (done["progress"], done["steps_done"]) == (100, 4)
            record = await node.front_desk.read_task(tasks[1]["id"])
            drawing = schemas.task_object(replace(record, step=1))
            assert (drawing["progress"], drawing["steps_done"]) == (25, 1)
            plain = (await node.http.post("/v1/tasks", json={"prompt": "a"})).json()
            assert "strength" not in plain
            assert "init_image_sha256" not in plain

    asyncio.run(story())


BAD_TASKS: list[tuple[dict[str, Any], str, str]] = [
    ({"strength": 0.5}, "strength", "there is none"),
    ({"init_image": ""}, "init_image", "whole PNG"),
    ({"init_image": "@@@@"}, "init_image", "in base64"),
    ({"init_image": "ünicode"}, "init_image", "in base64"),
    ({"init_image": "https://example.org/a.png"}, "init_image", "in base64"),
    ({"init_image": "data:image/png,abc"}, "init_image", "if it is a data: URL"),
    ({"init_image": in_base64(b"no image")}, "init_image", "whole PNG"),
    ({"init_image": 5}, "init_image", "valid string"),
    ({"init_image": in_base64(PHOTO), "strength": "0.5"}, "strength", "valid number"),
    ({"init_image": in_base64(PHOTO), "strength": 0}, "strength", "more than 0"),
    ({"image": in_base64(PHOTO)}, "image", "Did you mean `init_image`?"),
    ({"denoising_strength": 0.5}, "denoising_strength", "Did you mean `strength`?"),
]


def test_every_bad_init_image_of_a_task_is_named() -> None:
    async def story() -> None:
        async with served() as node:
            for fields, param, said in BAD_TASKS:
                response = await node.http.post("/v1/tasks", json={"prompt": "a", **fields})
                message = check(response, status=400, code="invalid_request", param=param)
                assert said in message, message
            long = {"prompt": "a", "init_image": in_base64(bytes(UPLOADS.bytes_max + 1))}
            response = await node.http.post("/v1/tasks", json=long)
            check(response, status=413, code="request_too_large", param="init_image")
            # An image is no licence for a long prompt.
            wordy = {"prompt": "a" * REQUEST_BYTES_MAX, "init_image": in_base64(PHOTO)}
            response = await node.http.post("/v1/tasks", json=wordy)
            check(response, status=413, code="request_too_large")
            assert node.front_desk.submitted == []

    asyncio.run(story())
