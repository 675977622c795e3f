"""Small copies of images: their size and form, what they refuse, who may have them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from edge_node.api import thumbnails
from edge_node.api.thumbnails import Thumbnails, thumbnail_of
from edge_node.domain import TaskId
from edge_node.errors import AdmissionRefused, DEdgeAIError
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import served
from tests.api.test_bad_input import check
from tests.api.test_key_check import TASK, Site, on_site
from tests.api.uploaded import decoded, encoded, halves, noise


class WithImages(MemoryFrontDesk):
    """Draws halves, and nothing from damaged disks."""

    content = encoded(halves(96, 64))

    async def read_image(self, task_id: TaskId) -> tuple[bytes, str]:
        await super().read_image(task_id)
        return self.content, "image/png"


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("side_px", "expected"), [(48, (48, 32)), (16, (16, 11)), (96, (96, 64)), (512, (96, 64))]
)
def test_it_fits_the_square_and_is_never_scaled_up(
    image_format: str, side_px: int, expected: tuple[int, int]
) -> None:
    small = decoded(thumbnail_of(encoded(halves(96, 64), image_format), side_px))
    assert (small.format, small.size) == (None, expected)
    left, right = small.getpixel((1, 1)), small.getpixel((expected[0] - 2, 1))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert left[0] > 200 > 60 > left[2]
    assert right[2] > 200 > 60 > right[0]


def test_it_is_served_as_an_image_that_never_changes() -> None:
    async def story() -> None:
        front_desk = WithImages()
        async with served(front_desk) as node:
            task = (await node.http.post("/v1/tasks", json=TASK)).json()
            task = (await node.http.get(f"/v1/tasks/{task['id']}")).json()
            assert task["thumbnail_url"] == f"{task['image_url']}?thumbnail=256"
            small = await node.http.get(f"{task['image_url']}?thumbnail=48")
            assert small.headers["content-type"] == "image/webp"
            assert decoded(small.content).size == (48, 32)
            etag = small.headers["etag"]
            whole = await node.http.get(task["image_url"])
            assert whole.content == front_desk.content
            assert whole.headers["etag"] != etag
            again = await node.http.get(
                f"{task['image_url']}?thumbnail=48", headers={"If-None-Match": etag}
            )
            assert again.status_code == 304
            for wrong in ("", "0", "15", "513", "-1", "x", "1e2", "00016", "\u0661\u0666"):
                answer = await node.http.get(task["image_url"], params={"thumbnail": wrong})
                check(answer, status=400, code="invalid_request", param="thumbnail")
            front_desk.content = front_desk.content[:60]
            damaged = await node.http.get(f"{task['image_url']}?thumbnail=48")
            check(damaged, status=500, code="internal_error")

    asyncio.run(story())


def test_it_is_its_owners_and_leaves_with_the_image() -> None:
    async def story(site: Site) -> None:
        task = (await site.ask("alice", "POST", "/v1/tasks", json=TASK)).json()["id"]
        path = f"/v1/tasks/{task}/image?thumbnail=32"
        assert (await site.ask("alice", "GET", path)).status_code == 200
        check(await site.ask("bob", "GET", path), status=404, code="task_not_found")
        await site.ask("alice", "POST", f"/v1/tasks/{task}/erase")
        check(await site.ask("alice", "GET", path), status=410, code="task_erased")

    on_site(story, front_desk=WithImages())


def test_what_is_no_image_or_far_too_large_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "PIXELS_MAX", 96 * 64)
    assert thumbnail_of(encoded(halves(96, 64)), 32)
    for content in (b"", b"GIF89a", encoded(halves(97, 64)), encoded(noise(32, 32))[:200]):
        with pytest.raises(DEdgeAIError):
            thumbnail_of(content, 32)


def test_so_many_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "WAITING_MAX", 2)

    async def story() -> None:
        making, content = Thumbnails(), encoded(noise(600, 600))
        wanted: list[Any] = [making.of(content, side_px=64) for _ in range(3)]
        *made, refused = await asyncio.gather(*wanted, return_exceptions=True)
        assert all(isinstance(one, bytes) for one in made)
        assert isinstance(refused, AdmissionRefused)
        assert await making.of(content, side_px=64) == made[0]

    asyncio.run(story())


def test_pillow_is_loaded_with_the_first_alone() -> None:
    code = "import edge_node.api.app, sys; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
