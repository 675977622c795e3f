"""The API's page in a real browser: shown whole, tried out, and nobody else asked."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from playwright.async_api import expect

from edge_node.console.local_cluster import LocalCluster
from tests.page.browser import PATIENCE_MS, chromium, needs_browser, opened
from tests.system.local import EMULATED, on_cluster

pytestmark = [pytest.mark.system, needs_browser]


def test_an_operation_is_read_and_tried_out(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = f"{cluster.urls[0]}/docs"
        async with chromium() as browser, opened(browser, url, ours=cluster.urls) as window:
            page = window.page
            operations = page.locator(".opblock")
            await operations.first.wait_for()
            document = (await http.get(f"{cluster.urls[0]}/openapi.json")).json()
            there = sum(len(methods) for methods in document["paths"].values())
            await expect(operations).to_have_count(there, timeout=PATIENCE_MS)
            submit = page.locator(".opblock-post", has_text="/v1/tasks").first
            await submit.locator(".opblock-summary-control").click()
            await submit.get_by_role("button", name="Try it out").click()
            await submit.get_by_role("button", name="Execute").click()
            answer = submit.locator(".live-responses-table .response-col_status").nth(1)
            await expect(answer).to_contain_text("202", timeout=PATIENCE_MS)
        tasks = (await http.get(f"{cluster.urls[0]}/v1/tasks")).json()["data"]
        assert [one["prompt"] for one in tasks] == ["a lighthouse on a cliff at dawn"]

    on_cluster(tmp_path, EMULATED, test=test)
