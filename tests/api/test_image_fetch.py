"""Images that are named by their address: from where the operator allows, and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.api.served import UPLOADS, Served, served
from tests.api.test_bad_input import check
from tests.api.uploaded import decoded, encoded, halves, in_base64

PHOTO = encoded(halves(96, 64), "JPEG", quality=95)
# Where each surface takes an image: path, size, and the field for an address.
SURFACES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "edits": ("/v1/images/edits", {"size": "96x64"}, lambda url: {"images": [{"image_url": url}]}),
    "tasks": ("/v1/tasks", {"size": "96x64"}, lambda url: {"init_image": url}),
    "img2img": (
        "/sdapi/v1/img2img",
        {"width": 96, "height": 64},
        lambda url: {"init_images": [url]},
    ),
}


class Pictures:
    """An HTTP server on a real port; what is asked for is a path of `answers`, or 404."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.origin = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Pictures]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self

    def put(self, path: str, body: bytes, status: str = "200 OK", *headers: str) -> str:
        lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", "")
        self.answers[path] = "\r\n".join(lines).encode() + body
        return self.origin + path

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            self.asked.append(path)
            writer.write(self.answers.get(path, b"HTTP/1.1 404 Not Found\r\n\r\n"))
            await writer.drain()
            if path == "/silent":
                await reader.read()
        writer.close()


def with_pictures(story: Any, *, allowed: bool = True, **limits: Any) -> None:
    async def told() -> None:
        async with Pictures().open() as pictures:
            origins = (pictures.origin,) if allowed else ("http://images.example.com",)
            bounds = replace(UPLOADS, **limits)
            async with served(image_origins=origins, upload_limits=bounds) as node:
                await story(node, pictures)

    asyncio.run(told())


@pytest.mark.parametrize("surface", SURFACES)
def test_an_image_is_fetched_and_drawn_from(surface: str) -> None:
    async def story(node: Served, pictures: Pictures) -> None:
        path, size, image = SURFACES[surface]
        address = pictures.put("/boat.jpg?size=1", PHOTO)
        answer = await node.http.post(path, json={"prompt": "a boat", **size, **image(address)})
        assert answer.is_success, answer.text
        made = decoded(node.front_desk.init_images[-1])
        assert made.size == (96, 64)
        assert made.getpixel((4, 32)) == pytest.approx((255, 0, 0), abs=6)
        assert pictures.asked == ["/boat.jpg?size=1"]

    with_pictures(story)


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize(
    "spelt", ["{origin}/a.png", "HTTP://127.0.0.1:1/a.png", "http://images.example.com@{host}/a"]
)
def test_nothing_is_fetched_from_where_nobody_allowed(surface: str, spelt: str) -> None:
    async def story(node: Served, pictures: Pictures) -> None:
        path, size, image = SURFACES[surface]
        address = spelt.format(origin=pictures.origin, host=pictures.origin.split("//")[1])
        answer = await node.http.post(path, json={"prompt": "a boat", **size, **image(address)})
        assert answer.status_code == 400
        assert "image_url_origins" in answer.text
        assert (pictures.asked, node.front_desk.submitted) == ([], [])

    with_pictures(story, allowed=False)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/gone", "status 404"),
        ("/moved", "status 302"),
        ("/large", "more than 300000 bytes"),
        ("/cut", "its server broke off (RemoteProtocolError)"),
        ("/silent", "within 0.5 s"),
        ("/text", "whole PNG"),
        ("/packed", "whole PNG"),
    ],
)
def test_what_is_no_image_within_the_bounds_is_said(path: str, said: str) -> None:
    async def story(node: Served, pictures: Pictures) -> None:
        pictures.put("/moved", b"", "302 Found", f"Location: {pictures.put('/boat', PHOTO)}")
        pictures.put("/large", bytes(UPLOADS.bytes_max + 1))
        pictures.answers["/cut"] = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n123"
        pictures.answers["/silent"] = b""
        pictures.put("/text", b"<html>")
        pictures.put("/packed", gzip.compress(bytes(10**7)), "200 OK", "Content-Encoding: gzip")
        document = {"prompt": "a", "init_image": pictures.origin + path}
        answer = await node.http.post("/v1/tasks", json=document)
        assert said in check(answer, status=400, code="invalid_request", param="init_image")
        assert node.front_desk.submitted == []
        assert pictures.asked == [path]
        again = {"prompt": "a", "init_image": in_base64(PHOTO)}
        taken = await node.http.post("/v1/tasks", json=again)
        assert taken.status_code == 202, "the places of uploads are given back"

    with_pictures(story, arrival_s_max=0.5)


def test_what_is_no_address_is_said() -> None:
    async def story(node: Served, _: Pictures) -> None:
        document = {"prompt": "a", "init_image": "http://[::1/a.png"}
        answer = await node.http.post("/v1/tasks", json=document)
        said = check(answer, status=400, code="invalid_request", param="init_image")
        assert "no valid address" in said

    with_pictures(story)
