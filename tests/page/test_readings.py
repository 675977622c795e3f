"""What devices say of themselves, on the cards of the page; of a node whose cluster is made up."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from playwright.async_api import expect

from edge_node.device_summary import DeviceSummary
from edge_node.snapshot import ClusterSnapshot
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import served
from tests.page.browser import chromium, needs_browser, opened

pytestmark = [pytest.mark.system, needs_browser]
WARM = DeviceSummary(gpu_load=0.734, temperature_c=64.2, power_w=31.5, power_mode="MODE_30W")


class Warm(MemoryFrontDesk):
    """Its cluster has a device that says how it is, and another that does not."""

    def cluster(self) -> ClusterSnapshot:
        found = super().cluster()
        own = replace(found.own, capacity=2.0, summary=WARM)
        return replace(found, own=own)


def test_a_card_shows_what_its_device_says() -> None:
    async def story() -> None:
        async with (
            served(Warm()) as node,
            chromium() as browser,
            opened(browser, f"{node.url}/#cluster", ours=[node.url]) as window,
        ):
            card = window.page.locator('.device[data-node="orin-a"]')
            for word in ("73 %", "64 °C", "31.5 W", "MODE_30W"):
                await expect(card).to_contain_text(word)
            other = window.page.locator('.device[data-node="orin-b"] .figures')
            await expect(other).not_to_contain_text("°C")
            await expect(other).not_to_contain_text("GPU")
            assert await window.faults() == []

    asyncio.run(story())
