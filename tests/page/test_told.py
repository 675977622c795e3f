"""What the page shows of what it is told, by a node whose cluster and events are made up."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest
from playwright.async_api import expect

from edge_node.device_summary import DeviceSummary
from edge_node.domain import NodeId, TaskEvent, TaskEventKind, TaskId
from edge_node.happenings import ClusterEvent, Happened
from edge_node.moves import Move
from edge_node.snapshot import ClusterSnapshot
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import served
from tests.page.browser import chromium, needs_browser, opened

pytestmark = [pytest.mark.system, needs_browser]
WARM = DeviceSummary(gpu_load=0.734, temperature_c=64.2, power_w=31.5, power_mode="MODE_30W")


class Warm(MemoryFrontDesk):
    """Its cluster has a device that says how it is and who helps it, and another that does not."""

    def cluster(self) -> ClusterSnapshot:
        found = super().cluster()
        own = replace(found.own, capacity=2.0, summary=WARM, helped_by=NodeId("orin-c"))
        return replace(found, own=own)


def test_a_card_shows_what_its_device_says() -> None:
    async def story() -> None:
        async with (
            served(Warm()) as node,
            chromium() as browser,
            opened(browser, f"{node.url}/#cluster", ours=[node.url]) as window,
        ):
            card = window.page.locator('.device[data-node="orin-a"]')
            for word in ("73 %", "64 °C", "31.5 W", "MODE_30W", "orin-c"):
                await expect(card).to_contain_text(word)
            await expect(card).to_contain_text("Helped by")
            other = window.page.locator('.device[data-node="orin-b"] .figures')
            await expect(other).not_to_contain_text("°C")
            await expect(other).not_to_contain_text("GPU")
            await expect(other).not_to_contain_text("Helped")
            assert await window.faults() == []

    asyncio.run(story())


def test_a_task_that_moves_says_from_where_to_where_why_and_what_for() -> None:
    here, there = NodeId("orin-a"), NodeId("orin-b")
    desk = MemoryFrontDesk()
    desk.held = True

    def happened(kind: TaskEventKind, task_id: str, number: int, **told: Any) -> ClusterEvent:
        event = TaskEvent(sequence=number, kind=kind, unix_s=1.0, steps=8, **told)
        what = Happened(number=number, task_id=TaskId(task_id), event=event)
        return ClusterEvent(node_id=here, what=what)

    async def story() -> None:
        async with served(desk) as node, chromium() as browser:
            body = {"prompt": "a boat", "num_inference_steps": 8}
            task_id = (await node.http.post("/v1/tasks", json=body)).json()["id"]
            move = Move(source=here, target=there, reason="idle", gain_s=7.4)
            desk.happening = [
                happened(TaskEventKind.PLACED, task_id, 12, executor=here, attempt=1),
                happened(TaskEventKind.STARTED, task_id, 13, executor=here),
                happened(TaskEventKind.STEP, task_id, 14, executor=here, step=3),
                happened(TaskEventKind.MOVED, task_id, 15, executor=there, step=3, move=move),
                happened(TaskEventKind.PLACED, task_id, 16, executor=there, step=3, attempt=2),
                happened(TaskEventKind.STARTED, task_id, 17, executor=there, step=3),
                happened(TaskEventKind.STEP, task_id, 18, executor=there, step=5),
            ]
            url = f"{node.url}/#cluster"
            async with opened(browser, url, ours=[node.url]) as window:
                page = window.page
                chip = page.locator('.device[data-node="orin-b"] .chip')
                for word in ("orin-a → orin-b", "orin-b had nothing to do", "saves 7.4 s"):
                    await expect(chip).to_have_attribute("title", re.compile(re.escape(word)))
                await chip.click()
                dialog = page.get_by_role("dialog")
                await expect(dialog.locator(".story li")).to_have_text(
                    [
                        "Moved from orin-a to orin-b · orin-b had nothing to do · saves 7.4 s",
                        "orin-b goes on from step 3",
                    ]
                )
                ticks = await dialog.locator(".trail i.done").all()
                colours = [await one.get_attribute("class") for one in ticks]
                assert len(colours) == 5
                assert colours[:3] == [colours[0]] * 3
                assert colours[3:] == [colours[4]] * 2 != colours[:2]
                assert await window.faults() == []

    asyncio.run(story())
