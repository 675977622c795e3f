"""What does the page at a node weigh, how soon does it show a picture, and what do 50 tasks cost?

Real nodes on this machine, and Debian's chromium without a window and without a GPU.

- *Weight*: all files of the page, each packed as it is sent.
- *First preview*: three nodes draw with the tiny model, one picture at a time; from the first step,
  by the node's clock, to the frame in which the page shows its preview, by the browser's, which is
  the same clock.
- *50 tasks at once*: three emulated devices draw them, with their previews, while a page shows them
  in the view that is named. The main thread's time is the browser's own account (`TaskDuration` of
  its DevTools protocol: script, style, layout, and all else); of the node it is the CPU that its
  process takes more than when the same is drawn and nobody looks, of as many seconds.

    python -m benchmarks.page_cost
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from playwright.async_api import Browser, CDPSession, async_playwright

from benchmarks import machine
from edge_node.api import page as served_page
from edge_node.console.local_cluster import LocalCluster, free_rest_port

RESULTS = Path(__file__).parent / "results"
NODES, TASKS, STEPS = 3, 50, 20
PICTURES = 20
VIEWS = ("draw", "cluster", "queue")
TARGETS = {"weight_bytes": 150_000, "first_preview_ms": 300, "thread_ms": 2.0, "node_share": 0.02}
TINY = {"torch_threads": 1, "rows_max": 1, "pace_s": 0.1}
# Four times as fast as the devices, and so four times the events in a second.
EMULATED = {"engine": "emulated", "time_scale": 4}
PROMPT = "a large red circle on the left on a white background"
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
# Notes for each task when a frame first had its preview, in milliseconds since 1970.
_NOTE_FIRST = """() => {
  window.firstSeen = {};
  const look = () => {
    for (const figure of document.querySelectorAll('figure.picture')) {
      const id = figure.dataset.task;
      if (figure.querySelector('img.preview') && !(id in window.firstSeen)) {
        window.firstSeen[id] = 0;
        requestAnimationFrame(() => requestAnimationFrame(() => {
          window.firstSeen[id] = performance.timeOrigin + performance.now();
        }));
      }
    }
  };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true});
}"""


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser."""
    path = shutil.which("chromium")
    assert path is not None, "make browser"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(QUIET))
        try:
            yield browser
        finally:
            await browser.close()


def weight() -> dict[str, int]:
    """Bytes of the page's files as they are and packed; licences and lists are not sent."""
    sent = [path for name, path in served_page.files().items() if not name.endswith("json")]
    contents = [path.read_bytes() for path in sent if path.name != "LICENSE"]
    return {
        "files": len(contents),
        "bytes": sum(map(len, contents)),
        "packed_bytes": sum(len(gzip.compress(one)) for one in contents),
    }


async def first_previews(browser: Browser, url: str, http: httpx.AsyncClient) -> dict[str, Any]:
    """Milliseconds from the first step to its preview on the page."""
    page = await browser.new_page()
    await page.goto(url)
    await page.evaluate(_NOTE_FIRST)
    await page.locator(".sizes").wait_for()
    taken_ms = []
    for number in range(PICTURES):
        await page.locator("#prompt").fill(f"{PROMPT} {number}")
        await page.locator("#prompt").press("Enter")
        await page.locator("figure.is-queued, figure.is-in_progress").wait_for()
        await page.locator("figure.is-completed").wait_for()
        seen: dict[str, float] = await page.evaluate("() => window.firstSeen")
        task_id = await page.locator("figure").get_attribute("data-task") or ""
        told = (await http.get(f"{url}/v1/tasks/{task_id}/events")).text
        lines = [line[6:] for line in told.splitlines() if line.startswith("data: ")]
        steps = [one for one in map(json.loads, lines) if one["type"] == "step"]
        taken_ms.append(seen[task_id] - 1e3 * steps[0]["created_at"])
    await page.close()
    return {
        "pictures": len(taken_ms),
        "median_ms": float(np.median(taken_ms)),
        "max_ms": max(taken_ms),
    }


async def drawn(http: httpx.AsyncClient, url: str) -> tuple[int, float]:
    """Has 50 tasks drawn; how many events that were, and how many seconds it took."""
    start_s = time.perf_counter()
    events, over = 0, 0
    async with http.stream("GET", f"{url}/v1/events") as response:
        body = {"prompt": PROMPT, "n": 10, "num_inference_steps": STEPS, "partial_images": STEPS}
        answers = [http.post(f"{url}/v1/tasks", json=body) for _ in range(TASKS // 10)]
        submitting = asyncio.gather(*answers)
        async for line in response.aiter_lines():
            if line.startswith("data: ") and '"task_id"' in line:
                events += 1
                over += json.loads(line[6:])["type"] in ("finished", "failed", "cancelled")
                if over == TASKS:
                    break
        assert all(answer.status_code == 202 for answer in await submitting)
    return events, time.perf_counter() - start_s


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has taken."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def thread_s(session: CDPSession) -> dict[str, float]:
    """Seconds of the page's main thread since the session began, of each kind."""
    told = await session.send("Performance.getMetrics")
    kinds = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
    return {one["name"]: one["value"] for one in told["metrics"] if one["name"] in kinds}


async def looked_at(
    browser: Browser, cluster: LocalCluster, http: httpx.AsyncClient, view: str
) -> dict[str, Any]:
    """What 50 tasks cost the page and the node, in one view."""
    url, pid = cluster.urls[0], cluster.pid(0)
    before_s = cpu_s(pid)
    _, alone_took_s = await drawn(http, url)
    alone_s = cpu_s(pid) - before_s
    page = await browser.new_page()
    await page.goto(f"{url}/#{view}")
    await page.locator(f"de-{view} > *").first.wait_for()
    await asyncio.sleep(2.0)
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable")
    thread_before_s, before_s = await thread_s(session), cpu_s(pid)
    events, took_s = await drawn(http, url)
    watched_s = cpu_s(pid) - before_s
    thread_after_s = await thread_s(session)
    await page.close()
    spent_s = {kind: thread_after_s[kind] - before for kind, before in thread_before_s.items()}
    return {
        "view": view,
        "events": events,
        "seconds": took_s,
        "thread_ms_per_event": 1e3 * spent_s["TaskDuration"] / events,
        "thread_s": spent_s,
        "node_cpu_s": {"alone": alone_s, "watched": watched_s},
        "node_share": watched_s / took_s - alone_s / alone_took_s,
    }


def cluster_of(folder: Path, settings: dict[str, Any]) -> LocalCluster:
    """Three equal nodes, not started."""
    first = free_rest_port(first=22_480, nodes=NODES)
    return LocalCluster([settings] * NODES, rest_port=first, folder=folder)


async def measure(folder: Path) -> dict[str, Any]:
    """Everything."""
    found: dict[str, Any] = {"targets": TARGETS, "weight": weight()}
    limits = httpx.Timeout(120.0)
    async with chromium() as browser, httpx.AsyncClient(timeout=limits, trust_env=False) as http:
        async with cluster_of(folder / "tiny", TINY) as cluster:
            found["first_preview"] = await first_previews(browser, cluster.urls[0], http)
        print(json.dumps(found), flush=True)
        found["fifty_tasks"] = []
        async with cluster_of(folder / "emulated", EMULATED) as cluster:
            await drawn(http, cluster.urls[0])
            for view in VIEWS:
                found["fifty_tasks"].append(await looked_at(browser, cluster, http, view))
                print(json.dumps(found["fifty_tasks"][-1]), flush=True)
    return found


def main() -> None:
    """Runs it, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=RESULTS / "page_cost.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="page-cost-") as folder:
        found = asyncio.run(measure(Path(folder)))
    options.out.write_text(json.dumps({"machine": machine.describe(), **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
