"""From a prompt to a picture in a real browser, on three real nodes with the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, expect

from edge_node.console.local_cluster import LocalCluster
from tests.page.browser import PHONE, chromium, needs_browser, opened
from tests.system.local import QUICK_LEASE, on_cluster

pytestmark = [pytest.mark.system, needs_browser]
# The tiny model, held to a pace at which steps can be seen.
PACED: dict[str, Any] = {
    **QUICK_LEASE,
    **{"torch_threads": 1, "rows_max": 1, "checkpoint_steps": 3},
    **{"heartbeat_s": 0.2, "suspect_s": 1.5, "pace_s": 0.2},
}
PROMPT = "a large red circle on the left on a white background"


async def ask_for(page: Page, *, count: int = 1, prompt: str = PROMPT) -> None:
    """Fills the form, and has it drawn by Enter."""
    await page.locator("select[name=count]").select_option(str(count))
    await page.locator("#prompt").fill(prompt)
    await page.locator("#prompt").press("Enter")


async def executors(page: Page) -> set[str]:
    figures = await page.locator("figure.picture").all()
    return {await one.get_attribute("data-executor") or "" for one in figures}


def test_a_prompt_becomes_pictures_that_are_watched(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        async with chromium() as browser, opened(browser, first, ours=cluster.urls) as window:
            page = window.page
            await ask_for(page, count=4)
            previews = page.locator("figure img.preview")
            await previews.first.wait_for()
            seen = {await previews.first.get_attribute("src")}
            while len(seen) < 3:  # it changes under who watches
                if await previews.count():
                    seen.add(await previews.first.get_attribute("src"))
            finals = page.locator("figure img.final")
            await finals.nth(3).wait_for()
            assert await finals.count() == 4
            for one in await finals.all():
                assert await one.evaluate("(image) => image.naturalWidth") == 64
            assert len(await executors(page)) > 1
            ticks = page.locator("figure .trail i.done")
            assert await ticks.count() == 4 * 15
            await expect(page.locator(".story li.gone")).to_have_count(0)
            tasks = (await http.get(f"{first}/v1/tasks")).json()["data"]
            assert {one["status"] for one in tasks} == {"completed"}
            seeds = await page.locator(".seedshown").all_inner_texts()
            assert {str(one["seed"]) for one in tasks} == set(seeds)

    on_cluster(tmp_path, PACED, PACED, PACED, test=test)


def test_what_was_drawn_is_drawn_again_or_varied_and_what_is_wrong_is_said(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        refused = ("status of 400",)
        async with (
            chromium() as browser,
            opened(browser, first, ours=cluster.urls, size_px=PHONE, expected=refused) as window,
        ):
            page = window.page
            await page.locator("summary").click()
            await page.locator("#seed").fill("42")
            await ask_for(page)
            await page.locator("figure img.final").wait_for()
            for name in ("Again", "Vary"):
                await page.get_by_role("button", name=name).click()
                await page.locator(".recent button").nth(0 if name == "Again" else 1).wait_for()
                await page.locator("figure img.final").wait_for()
            tasks = (await http.get(f"{first}/v1/tasks")).json()["data"]
            assert [one["seed"] for one in tasks].count(42) == 2
            await page.locator("input[name=guidance]").evaluate(
                "(slider) => { slider.max = 1000; slider.value = 99; "
                "slider.dispatchEvent(new Event('input', {bubbles: true})); }"
            )
            await ask_for(page)
            await expect(page.get_by_role("alert")).to_contain_text("guidance_scale")
            assert await page.evaluate("() => document.documentElement.scrollWidth") <= PHONE[0]

    on_cluster(tmp_path, {**PACED, "pace_s": 0.02}, test=test)
