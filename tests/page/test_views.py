"""Cluster, queue and gallery in a real browser, on real nodes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, Route, expect

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from tests.page.browser import LAPTOP, PHONE, Window, chromium, needs_browser, opened
from tests.page.test_draw import PACED, PROMPT, ask_for
from tests.system.local import on_cluster, submit, wait_for

pytestmark = [pytest.mark.system, needs_browser]


async def go(page: Page, view: str) -> None:
    await page.get_by_role("link", name=view).click()


async def check_for_all(window: Window, *, width_px: int) -> None:
    """Whoever cannot see, or has a small screen, is served as well."""
    assert await window.faults() == []
    assert await window.page.evaluate("() => document.documentElement.scrollWidth") <= width_px


@pytest.mark.parametrize(("size_px", "scheme"), [(LAPTOP, "light"), (PHONE, "dark")])
def test_who_draws_what_is_seen_and_cancelled(
    tmp_path: Path, size_px: tuple[int, int], scheme: str
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        async with (
            chromium() as browser,
            opened(
                browser, first, ours=cluster.urls, size_px=size_px, color_scheme=scheme
            ) as window,
        ):
            page = window.page
            for _ in range(2):
                await ask_for(page, count=6)
                await expect(page.locator("figure.picture")).to_have_count(6)
            await submit(http, cluster.urls[1], prompt="another's", num_inference_steps=15)
            await go(page, "Cluster")
            cards = page.locator(".device")
            await expect(cards).to_have_count(3)
            await expect(page.locator(".easel img").first).to_be_visible()
            await expect(page.locator(".chip.mine").nth(2)).to_be_visible()
            await expect(page.locator(".together h2")).to_contain_text("alone")
            await expect(page.locator(".decides")).to_contain_text("LAD-TS")
            await check_for_all(window, width_px=size_px[0])
            await go(page, "Queue")
            await expect(page.locator(".row.mine").first).to_be_visible()
            await expect(page.locator(".row .when").first).to_contain_text("s")
            await check_for_all(window, width_px=size_px[0])
            await page.locator(".row.mine").last.get_by_role("button", name="Cancel").click()
            await page.get_by_role("button", name="Cancel all mine").click()
            await expect(page.locator(".row.mine")).to_have_count(0)
            told = (await http.get(f"{first}/v1/tasks?limit=50")).json()["data"]
            ours = {one["status"] for one in told if one["prompt"] == PROMPT}
            assert "cancelled" in ours
            assert ours <= {"completed", "cancelled"}
            assert [one["status"] for one in told if one["prompt"] == "another's"] != ["cancelled"]

    on_cluster(tmp_path, PACED, PACED, PACED, test=test)


@pytest.mark.parametrize("size_px", [LAPTOP, PHONE])
def test_what_was_drawn_is_found_fetched_and_deleted(
    tmp_path: Path, size_px: tuple[int, int]
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        tasks = [await submit(http, url, prompt=f"by {url[-1]}") for url in cluster.urls]
        for task in tasks:
            await wait_for(http, first, task["id"])
        async with (
            chromium() as browser,
            opened(browser, f"{first}/#gallery", ours=cluster.urls, size_px=size_px) as window,
        ):
            page = window.page
            tiles = page.locator(".tile img")
            await expect(tiles).to_have_count(2)
            for one in await tiles.all():
                await expect(one).to_have_js_property("complete", True)
            await check_for_all(window, width_px=size_px[0])
            # What is drawn meanwhile comes by itself.
            late = await submit(http, first, prompt="late", negative_prompt="rain", seed=7)
            await expect(tiles).to_have_count(3)
            await page.get_by_role("button", name="late").click()
            dialog = page.get_by_role("dialog")
            for word in ("late", "rain", "7", "tiny-sd3", "64×64", "Waiting", "Drawing"):
                await expect(dialog).to_contain_text(word)
            ended = await wait_for(http, first, late["id"])
            await expect(dialog.locator(".trail i.done")).to_have_count(15)
            await expect(dialog.locator(".who")).to_contain_text(ended["executor"])
            await check_for_all(window, width_px=size_px[0])
            async with page.expect_download() as downloading:
                await dialog.get_by_role("button", name="Download").click()
            download = await downloading.value
            assert download.suggested_filename == f"{late['id']}.png"
            file = await asyncio.to_thread(Path(await download.path()).read_bytes)
            assert file == (await http.get(f"{first}/v1/tasks/{late['id']}/image")).content
            await dialog.get_by_role("button", name="Delete").click()
            await dialog.get_by_role("button", name="Really delete?").click()
            await expect(tiles).to_have_count(2)
            assert (await http.get(f"{first}/v1/tasks/{late['id']}")).status_code == 410
            await page.locator("select[name=status]").select_option("cancelled")
            await expect(tiles).to_have_count(0)
            await page.locator("select[name=status]").select_option("completed")
            await page.locator("select[name=whose]").select_option("mine")
            await expect(page.locator(".nothing")).to_have_text("No images yet.")

    on_cluster(tmp_path, {**PACED, "pace_s": 0.02}, {**PACED, "pace_s": 0.02}, test=test)


def test_an_operator_pauses_a_device_and_has_it_work_again(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        async with (
            chromium() as browser,
            opened(browser, f"{first}/#cluster", ours=cluster.urls) as window,
        ):
            page = window.page
            card = page.locator('.device[data-node="node-1"]')
            await card.get_by_role("button", name="Pause").click()
            await expect(card.locator(".state")).to_have_text("Paused")
            assert await window.faults() == []
            told = (await http.get(f"{cluster.urls[1]}/v1/cluster")).json()
            assert (told["own"]["paused"], told["own"]["accepting"]) == (True, False)
            await card.get_by_role("button", name="Resume").click()
            await expect(card.locator(".state")).to_have_text("Ready")

    on_cluster(tmp_path, {**PACED, "pace_s": 0.02}, {**PACED, "pace_s": 0.02}, test=test)


def test_an_operator_removes_a_dead_device_and_lets_it_in_again(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first, second = cluster.urls
        async with (
            chromium() as browser,
            opened(browser, f"{first}/#cluster", ours=[first, second]) as window,
        ):
            page = window.page
            card = page.locator('.device[data-node="node-1"]')
            await expect(card.locator(".state")).to_have_text("Ready")
            await expect(card.get_by_role("button", name="Remove")).to_have_count(0)
            cluster.signal_node(1, signal.SIGKILL)
            await card.get_by_role("button", name="Remove").click()
            await card.get_by_role("button", name="Its tasks are lost. Really remove?").click()
            await expect(card).to_have_count(0)
            removed = page.get_by_role("region", name="Removed")
            await expect(removed).to_contain_text("node-1")
            assert await window.faults() == []
            cluster.wait_node(1)
            cluster.start_node(1)
            async with RestClient(timeout_s=5.0) as client:
                await cluster.wait_ready(client, 1)
            await expect(card).to_have_count(0)
            await removed.get_by_role("button", name="Let in again").click()
            await expect(card.locator(".state")).to_have_text("Ready")
            await expect(removed).to_have_count(0)

    on_cluster(tmp_path, {**PACED, "pace_s": 0.02}, {**PACED, "pace_s": 0.02}, test=test)


def test_what_cannot_be_done_is_said_until_it_is_read(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        (url,) = cluster.urls
        async with (
            chromium() as browser,
            opened(
                browser, f"{url}/#queue", ours=[url], expected=["ERR_FAILED", "ERR_CONNECTION"]
            ) as window,
        ):
            page = window.page
            task = await submit(http, url, num_inference_steps=20)
            row = page.locator(".row").filter(has_text="a red circle")
            await row.wait_for()

            async def cut(route: Route) -> None:
                await (route.abort() if route.request.method == "DELETE" else route.continue_())

            await page.route("**/v1/tasks/*", cut)
            await row.get_by_role("button", name="Cancel").click()
            failure = page.locator(".failure")
            await expect(failure).to_contain_text("The node did not answer. Try again.")
            await failure.get_by_role("button", name="Close the message").click()
            await expect(failure).to_have_count(0)
            await page.unroute("**/v1/tasks/*")
            await row.get_by_role("button", name="Cancel").click()
            await expect(row).to_have_count(0)
            assert (await wait_for(http, url, task["id"]))["status"] == "cancelled"
            assert await window.faults() == []

    on_cluster(tmp_path, {**PACED, "pace_s": 2.0}, test=test)
