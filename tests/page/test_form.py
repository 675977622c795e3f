"""What the form does with what it is given: files that are no images, models, long uploads."""

from __future__ import annotations

import asyncio
import base64

import pytest
from playwright.async_api import Page, expect

from tests.api.memory_front_desk import PNG, MemoryFrontDesk
from tests.api.served import served
from tests.page.browser import chromium, needs_browser, opened

pytestmark = [pytest.mark.system, needs_browser]
DROP = """([name, type]) => {
  const carried = new DataTransfer();
  carried.items.add(new File(['x'.repeat(90000)], name, {type}));
  const drop = new DragEvent('drop', {dataTransfer: carried, bubbles: true, cancelable: true});
  document.querySelector('form.ask').dispatchEvent(drop);
  return drop.defaultPrevented;
}"""
# How long the page waits for each answer, in order.
PATIENCE = """() => {
  window.waited = [];
  const timeout = AbortSignal.timeout.bind(AbortSignal);
  AbortSignal.timeout = (ms) => { window.waited.push(ms); return timeout(ms); };
}"""


async def again(page: Page, prompt: str) -> None:
    """Opens a picture of the gallery, and has the form filled with what it was drawn by."""
    await page.get_by_role("link", name="Gallery").click()
    await page.get_by_role("button", name=prompt).click()
    await page.get_by_role("dialog").get_by_role("button", name="Again").click()
    await wait_for_form(page)


async def wait_for_form(page: Page) -> None:
    await page.locator("button.primary:enabled").wait_for()


def test_a_file_that_is_no_image_is_refused_in_words_and_the_page_stays() -> None:
    async def story() -> None:
        async with (
            served() as node,
            chromium() as browser,
            opened(browser, node.url, ours=[node.url]) as window,
        ):
            await wait_for_form(window.page)
            taken = await window.page.evaluate(DROP, ["notes.txt", "text/plain"])
            assert taken, "the browser would go to the file"
            said = window.page.locator("form.ask").get_by_role("alert")
            await expect(said).to_contain_text("notes.txt is no image. PNG, JPEG")

    asyncio.run(story())


def test_an_image_to_start_from_has_the_time_that_a_slow_network_takes() -> None:
    async def story() -> None:
        async with (
            served() as node,
            chromium() as browser,
            opened(browser, node.url, ours=[node.url], expected=("status of 4",)) as window,
        ):
            page = window.page
            await wait_for_form(page)
            assert await page.evaluate(DROP, ["a.png", "image/png"])
            await page.locator(".started img").wait_for()
            await page.evaluate(PATIENCE)
            await page.locator("#prompt").fill("a boat")
            await page.locator("#prompt").press("Enter")
            await expect(page.locator("form.ask").get_by_role("alert")).not_to_be_empty()
            # 120 KB in base64, at 30 bytes a millisecond at least.
            assert max(await page.evaluate("() => window.waited")) > 15_000 + 3_900

    asyncio.run(story())


def test_what_began_from_an_image_is_not_drawn_again_without_it_or_with_another() -> None:
    async def story() -> None:
        async with (
            served() as node,
            chromium() as browser,
            opened(browser, node.url, ours=[node.url]) as window,
        ):
            page = window.page
            await wait_for_form(page)
            image = base64.b64encode(PNG).decode()
            body = {"prompt": "begun", "init_image": image, "strength": 0.5}
            assert (await node.http.post("/v1/tasks", json=body)).status_code == 202
            body = {"prompt": "from nothing"}
            assert (await node.http.post("/v1/tasks", json=body)).status_code == 202
            sent = len(node.front_desk.submitted)
            await again(page, "begun")
            await page.locator("button.primary").click()
            said = page.locator("form.ask").get_by_role("alert")
            await expect(said).to_contain_text("began from an image")
            assert len(node.front_desk.submitted) == sent
            assert await page.evaluate(DROP, ["a.png", "image/png"])
            await page.locator(".started img").wait_for()
            await again(page, "from nothing")
            await expect(page.locator(".started")).to_have_count(0)

    asyncio.run(story())


def test_another_model_begins_with_its_own_size_and_steps() -> None:
    async def story() -> None:
        desk = MemoryFrontDesk()
        async with (
            served(desk) as node,
            chromium() as browser,
        ):
            first = next(iter(desk.served.values()))
            desk.served["another"] = first
            async with opened(browser, node.url, ours=[node.url]) as window:
                page = window.page
                await wait_for_form(page)
                sizes = page.locator("input[name=size]")
                usual = await page.locator("input[name=size]:checked").get_attribute("value")
                await sizes.last.check(force=True)
                assert (
                    await page.locator("input[name=size]:checked").get_attribute("value") != usual
                )
                await page.locator("summary").click()
                model = page.locator("select[name=model]")
                names = await model.locator("option").all_text_contents()
                await model.select_option(names[-1])
                await expect(page.locator(f"input[name=size][value='{usual}']")).to_be_checked()

    asyncio.run(story())


def test_no_size_is_wider_than_its_box() -> None:
    async def story() -> None:
        async with (
            served() as node,
            chromium() as browser,
            opened(browser, node.url, ours=[node.url]) as window,
        ):
            await wait_for_form(window.page)
            over = await window.page.locator(".sizes > div").evaluate(
                """(row) => {
                  while (row.children.length < 6) row.append(row.children[0].cloneNode(true));
                  return [...row.children].map((box) => {
                    const said = box.querySelector('span');
                    said.textContent = '1024×1024';
                    return said.getBoundingClientRect().width - box.clientWidth;
                  });
                }"""
            )
            assert max(over) <= 0

    asyncio.run(story())
