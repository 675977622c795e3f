"""A real browser at a node: Debian's chromium, driven by Playwright.

Owns how it is started, and what no test may see: an error on the page's console, or a request to
anybody but the cluster.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
# What Debian's build would do at its start: ask others for updates and accounts.
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
LAPTOP, PHONE = (1280, 800), (390, 844)
# Four processes and a browser on two cores.
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)

needs_browser = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("PAGE_BROWSER") != "required",
    reason="there is no chromium: `make browser` as root installs Debian's",
)


class Window:
    """A page, what went wrong on it, and whom it asked.

    `expected` are parts of what the browser logs and a test means to happen.
    """

    def __init__(self, page: Page, *, ours: Collection[str], expected: Collection[str]) -> None:
        self.page = page
        self._ours = {urlsplit(url).netloc for url in ours}
        self._expected = tuple(expected)
        self._problems: list[str] = []
        self._strangers: set[str] = set()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._logged)
        page.on("pageerror", lambda error: self._problems.append(str(error)))
        page.on("request", lambda request: self._asked(request.url))

    def _logged(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._problems.append(f"{message.text} {message.location.get('url', '')}")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.netloc not in self._ours:
            self._strangers.add(url)

    def check(self) -> None:
        """Nothing went wrong, and nobody else was asked."""
        assert not self._strangers
        assert [one for one in self._problems if not self._is_expected(one)] == []

    def _is_expected(self, problem: str) -> bool:
        return any(part in problem for part in self._expected)

    async def faults(self) -> list[str]:
        """What axe finds wrong for who sees, hears or types otherwise."""
        await self.page.evaluate(AXE.read_text())
        found = await self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {node['html'][:160]} {node['failureSummary']}"
            for one in found["violations"]
            for node in one["nodes"]
        ]


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser, without a window."""
    assert CHROMIUM is not None, "make browser"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def opened(
    browser: Browser,
    url: str,
    *,
    ours: Collection[str],
    size_px: tuple[int, int] = LAPTOP,
    expected: Collection[str] = (),
    **how: Any,
) -> AsyncIterator[Window]:
    """The page of a node, in a profile of its own; what no test may see is looked at in the end."""
    width, height = size_px
    how = {"locale": "en-GB", "color_scheme": "light", **how}
    context = await browser.new_context(viewport={"width": width, "height": height}, **how)
    try:
        window = Window(await context.new_page(), ours=ours, expected=expected)
        await window.page.goto(url)
        yield window
        window.check()
    finally:
        await context.close()
