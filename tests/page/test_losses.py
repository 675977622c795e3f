"""A device that dies while it draws, and the page's own node: what a browser shows of both.

With PAGE_PICTURES=<folder> the first test leaves there what README.md shows.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Locator, expect

from edge_node.console.local_cluster import LocalCluster
from tests.page.browser import chromium, needs_browser, opened
from tests.page.filming import Film, photograph
from tests.page.test_draw import PACED, PROMPT, ask_for
from tests.system.local import kill, on_cluster

pytestmark = [pytest.mark.system, needs_browser]
STEPS = 24
# What is drawn stays where it is while its device lives.
STAYING = {**PACED, "move": "waiting"}
PICTURES = os.environ.get("PAGE_PICTURES", "")


async def drawn_elsewhere(figures: Locator, *, asked: str, step: int) -> Locator:
    """The picture of one that is drawn by another node than the one asked, and so far done."""
    async with asyncio.timeout(60):
        while True:
            for one in await figures.all():
                executor = await one.get_attribute("data-executor")
                if executor not in ("", asked) and await one.locator(".done").count() >= step:
                    return one
            await asyncio.sleep(0.02)


def test_a_device_dies_and_its_picture_is_finished_by_another(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        async with chromium() as browser, opened(browser, first, ours=cluster.urls) as window:
            page = window.page
            await page.locator("input[name=steps]").evaluate(
                f"(slider) => {{ slider.value = {STEPS};"
                " slider.dispatchEvent(new Event('input', {bubbles: true})); }"
            )
            film = Film(page) if PICTURES else None
            if film is not None:
                film.start()
            await ask_for(page, count=3)
            figures = page.locator("figure.picture")
            lost = await drawn_elsewhere(figures, asked="node-0", step=8)
            name = await lost.get_attribute("data-executor") or ""
            task = await lost.get_attribute("data-task")
            lost = page.locator(f'figure[data-task="{task}"]')
            index = int(name[-1])
            worker = cluster.child_pid(index, "worker")
            cluster.signal_node(index, signal.SIGKILL)
            kill(worker)
            await expect(lost.locator(".story li.gone")).to_contain_text(f"{name} is gone")
            await expect(lost.locator(".story li.resumed")).to_contain_text("goes on from step")
            await expect(page.locator("img.final")).to_have_count(3)
            assert await lost.get_attribute("data-executor") != name
            by = [await one.get_attribute("class") for one in await lost.locator(".trail i").all()]
            assert len(by) == STEPS
            assert len(set(by)) == 2, "each device has its steps"
            await expect(lost.locator(".pill")).to_have_count(2)
            if film is not None:
                await film.stop(Path(PICTURES) / "page.gif")
            await page.get_by_role("link", name="Cluster").click()
            away = page.locator(f'.device[data-node="{name}"]')
            await expect(away).to_contain_text("Away")
            assert await window.faults() == []
            if PICTURES:
                await photograph(page, Path(PICTURES))

    on_cluster(tmp_path, STAYING, STAYING, STAYING, test=test)


def test_who_was_at_a_node_that_is_gone_is_at_another(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        gone = ("ERR_", "Failed to load", "net::")
        async with (
            chromium() as browser,
            opened(browser, first, ours=cluster.urls, expected=gone) as window,
        ):
            page = window.page
            await page.locator("#prompt").fill(PROMPT)
            await expect(page.locator(".here")).to_contain_text("node-0")
            await page.get_by_role("link", name="Cluster").click()
            await expect(page.locator(".device")).to_have_count(3)
            await page.get_by_role("link", name="Draw").click()
            cluster.signal_node(0, signal.SIGKILL)
            banner = page.locator(".banner")
            await expect(banner).to_contain_text("node-0 does not answer")
            await expect(page.locator(".here")).to_contain_text("node-1")
            await expect(banner).to_contain_text("This is node-1")
            await expect(page.locator("#prompt")).to_have_value(PROMPT)
            await ask_for(page)
            await page.locator("figure img.final").wait_for()

    on_cluster(tmp_path, PACED, PACED, PACED, test=test)


def test_a_node_that_comes_back_is_stayed_with(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        gone = ("ERR_", "Failed to load", "net::")
        async with (
            chromium() as browser,
            opened(browser, first, ours=cluster.urls, expected=gone) as window,
        ):
            page = window.page
            await ask_for(page)
            await page.locator("figure img.final").wait_for()
            cluster.signal_node(0, signal.SIGKILL)
            await expect(page.locator(".banner")).to_contain_text("node-0 does not answer")
            await asyncio.to_thread(cluster.wait_node, 0)
            cluster.start_node(0)
            await expect(page.locator(".here.open")).to_contain_text("node-0")
            await expect(page.locator(".banner")).to_have_count(0)
            await ask_for(page)
            await expect(page.locator(".recent button")).to_have_count(1)
            await page.locator("figure img.final").wait_for()

    on_cluster(tmp_path, PACED, test=test)
