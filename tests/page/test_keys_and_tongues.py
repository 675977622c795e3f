"""The page with API keys, by keyboard alone, and in Chinese."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import expect

from edge_node.console.local_cluster import LocalCluster
from tests.page.browser import chromium, needs_browser, opened
from tests.page.test_draw import PACED, PROMPT, ask_for
from tests.system.local import on_cluster
from tests.system.test_keys import bearer, command

pytestmark = [pytest.mark.system, needs_browser]
QUICK = {**PACED, "pace_s": 0.02}


def test_a_key_is_asked_for_once_and_kept_for_the_session(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "keys.json"

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first, where = cluster.urls[0], ("--set", f"keys_file={file}")
        alice = command(capsys, "add", "alice", *where)
        reader = command(capsys, "add", "bob", "--scopes", "generate", *where)
        operator = bearer(command(capsys, "add", "eve", "--scopes", "operate", *where))
        refused = ("status of 401", "status of 403")
        async with (
            chromium() as browser,
            opened(browser, first, ours=cluster.urls, expected=refused) as window,
        ):
            page = window.page
            dialog = page.get_by_role("dialog")
            await expect(dialog).to_contain_text("asks for a key")
            assert await window.faults() == []
            for wrong, said in (("dedgeai_000000000000_x", "in force"), (reader, "scope read")):
                await dialog.get_by_label("API key").fill(wrong)
                await dialog.get_by_role("button").click()
                await expect(dialog.get_by_role("alert")).to_contain_text(said)
            await dialog.get_by_label("API key").fill(alice)
            await dialog.get_by_role("button").click()
            await expect(dialog).to_have_count(0)
            body = {"prompt": "another's", "num_inference_steps": 1}
            other = await http.post(f"{first}/v1/tasks", json=body, headers=operator)
            assert other.status_code == 202, other.text
            await ask_for(page)
            image = page.locator("figure img.final")
            assert (await image.get_attribute("src") or "").startswith("blob:")
            await page.get_by_role("link", name="Gallery").click()
            await page.reload()  # the session has it still
            await expect(page.locator(".tile img")).to_have_count(1)  # her own
            assert alice not in await page.evaluate("() => JSON.stringify(localStorage)")
            await page.get_by_role("button", name="Forget the key").click()
            await expect(dialog).to_contain_text("asks for a key")

    on_cluster(tmp_path, {**QUICK, "keys_file": str(file)}, test=test)


def test_who_holds_an_operators_key_pauses_and_resumes_a_device(
    tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "keys.json"

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first, where = cluster.urls[0], ("--set", f"keys_file={file}")
        alice = command(capsys, "add", "alice", *where)
        operator = command(capsys, "add", "eve", "--scopes", "generate,read,operate", *where)
        for key, offered in ((alice, 0), (operator, 2)):
            async with (
                chromium() as browser,
                opened(
                    browser, f"{first}/#cluster", ours=cluster.urls, expected=("status of 401",)
                ) as window,
            ):
                page = window.page
                dialog = page.get_by_role("dialog")
                await dialog.get_by_label("API key").fill(key)
                await dialog.get_by_role("button").click()
                card = page.locator('.device[data-node="node-1"]')
                await expect(card).to_contain_text("Ready")
                await expect(page.get_by_role("button", name="Pause: ")).to_have_count(offered)
                if offered:
                    await card.get_by_role("button", name="Pause: node-1").click()
                    await expect(card).to_contain_text("Paused")
                    await card.get_by_role("button", name="Resume: node-1").click()
                    await expect(card).to_contain_text("Ready")

    on_cluster(tmp_path, *[{**QUICK, "keys_file": str(file)}] * 2, test=test)


def test_the_keyboard_is_enough(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        async with chromium() as browser, opened(browser, first, ours=cluster.urls) as window:
            page, keys = window.page, window.page.keyboard
            await page.locator(".sizes").wait_for()

            async def tab_to(what: str) -> None:
                for _ in range(40):
                    await keys.press("Tab")
                    if await page.locator(f"{what}:focus").count():
                        return
                raise AssertionError(f"nothing leads to {what}")

            await tab_to("#prompt")
            await keys.type(PROMPT)
            await keys.press("Enter")
            await page.locator("figure img.final").wait_for()
            await keys.press("Shift+Tab")
            await tab_to("button.primary")
            await page.locator("body").evaluate("() => document.activeElement.blur()")
            await tab_to('nav a[href="#gallery"]')
            await keys.press("Enter")
            await page.locator(".tile").wait_for()
            await tab_to(".tile")
            outline = "() => getComputedStyle(document.activeElement).outlineStyle"
            assert await page.evaluate(outline) == "solid"
            await keys.press("Enter")
            await expect(page.get_by_role("dialog")).to_contain_text(PROMPT)
            await keys.press("Escape")
            await expect(page.get_by_role("dialog")).to_have_count(0)

    on_cluster(tmp_path, QUICK, test=test)


def test_it_speaks_chinese_to_who_does_and_can_be_turned(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = cluster.urls[0]
        async with (
            chromium() as browser,
            opened(
                browser, first, ours=cluster.urls, locale="zh-CN", color_scheme="dark"
            ) as window,
        ):
            page = window.page
            await expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
            await expect(page.get_by_role("button", name="绘制")).to_be_visible()
            assert await window.faults() == []
            dark = await page.evaluate(
                "() => getComputedStyle(document.body.parentElement).backgroundColor"
            )
            await page.get_by_role("button", name="English").click()
            await expect(page.get_by_role("button", name="Draw", exact=True)).to_be_visible()
            await page.get_by_role("button", name="Light or dark").click()
            await page.reload()
            await expect(page.get_by_role("button", name="Draw", exact=True)).to_be_visible()
            light = await page.evaluate(
                "() => getComputedStyle(document.body.parentElement).backgroundColor"
            )
            assert light != dark
            # Of all that the page says, nothing is left out in either language.
            told = await page.evaluate(
                "async () => (await import(new URL('web/app/words.js', document.baseURI))).untold()"
            )
            assert told == []

    on_cluster(tmp_path, QUICK, test=test)
