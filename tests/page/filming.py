"""What the page looks like, for its documents: photographs, and a film of what happens on it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.async_api import FloatRect, Page, ViewportSize

from tests.page.browser import LAPTOP, PHONE

FRAME_S = 0.25
WIDTH_PX = 800
HEIGHT_PX = 610  # of the page; beneath is nothing
COLOURS = 160
# Of devices, in edge_node/web/style.css: few points have them, and they matter.
DEVICES, MARK_PX = ("#2876d9", "#d9691a", "#16875b"), 90
STILL_S = 2.5


class Film:
    """Frames of a page from now on, until it is stopped."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._frames: list[bytes] = []
        self._filming: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins."""
        self._filming = asyncio.create_task(self._film())

    async def _film(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + FRAME_S
            self._frames.append(await self._frame())
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _frame(self) -> bytes:
        clip: FloatRect = {"x": 0, "y": 0, "width": LAPTOP[0], "height": HEIGHT_PX}
        return await self._page.screenshot(type="png", clip=clip)

    async def stop(self, path: Path) -> None:
        """Writes it, and holds its last frame for a while."""
        assert self._filming is not None, "it was started"
        self._filming.cancel()
        await asyncio.gather(self._filming, return_exceptions=True)
        self._frames.append(await self._frame())
        await asyncio.to_thread(self._write, path)

    def _write(self, path: Path) -> None:
        frames = [_small(one) for one in self._frames]
        marks = [Image.new("RGB", (WIDTH_PX, MARK_PX), colour) for colour in DEVICES]
        palette = _in_one([*frames[:: max(1, len(frames) // 8)], *marks]).quantize(COLOURS)
        drawn = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in frames]
        kept = [drawn[0]]
        durations = [int(1000 * FRAME_S)]
        for one in drawn[1:]:
            if one.tobytes() == kept[-1].tobytes():
                durations[-1] += int(1000 * FRAME_S)
            else:
                kept.append(one)
                durations.append(int(1000 * FRAME_S))
        durations[-1] = int(1000 * STILL_S)
        kept[0].save(
            path, save_all=True, append_images=kept[1:], duration=durations, loop=0, optimize=True
        )


async def photograph(page: Page, folder: Path) -> None:
    """Cluster at work and gallery on a laptop in the dark, and drawing on a phone."""
    await page.emulate_media(color_scheme="dark")
    await page.set_viewport_size(_size(LAPTOP))
    await page.get_by_role("link", name="Draw").click()
    for prompt in (
        "a small blue star at the top and a large green square at the bottom",
        "a large yellow triangle in the middle on a black background",
    ):
        await page.locator("#prompt").fill(prompt)
        await page.locator("#prompt").press("Enter")
        await page.locator("figure.is-queued, figure.is-in_progress").first.wait_for()
    await page.get_by_role("link", name="Cluster").click()
    await page.locator(".easel img:not(.former)").nth(1).wait_for()
    await _take(page, folder / "page_cluster.webp")
    await page.set_viewport_size(_size(PHONE))
    await page.get_by_role("link", name="Draw").click()
    await page.locator("figure img.preview").first.scroll_into_view_if_needed()
    await _take(page, folder / "page_phone.webp")


async def _take(page: Page, path: Path) -> None:
    content = await page.screenshot(type="png")
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").save(path, quality=86, method=6)


def _in_one(frames: Sequence[Image.Image]) -> Image.Image:
    """All in one, for colours that suit each of them."""
    whole = Image.new("RGB", (WIDTH_PX, sum(one.height for one in frames)))
    top = 0
    for one in frames:
        whole.paste(one, (0, top))
        top += one.height
    return whole


def _size(px: tuple[int, int]) -> ViewportSize:
    return {"width": px[0], "height": px[1]}


def _small(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        whole = image.convert("RGB")
    height = round(whole.height * WIDTH_PX / whole.width)
    return whole.resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
