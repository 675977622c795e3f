"""How long does a page of many tasks take, and how long to cancel a thousand?

Five real nodes on this machine, over loopback, with an emulated device each that takes its time.
Each has finished a share of the tasks in its store before it starts; some more wait in memory.
Pages are asked of one node, as a client sees them: the newest, further ones by their cursors to the
end, those that wait, those of another model, of which there are none. Then a thousand tasks that
wait are cancelled by one request, and some by one request each, as if there were no other way.

    python -m benchmarks.task_listing
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import machine
from benchmarks.gateway_stored import fill
from edge_node.console.local_cluster import LocalCluster, free_rest_port

RESULTS = Path(__file__).parent / "results"
NODES = 5
LIMITS = (20, 200)
PAGES = 100
TARGET_PAGE_MS = 100.0
CANCELLED, ONE_BY_ONE, ROUNDS = 1000, 100, 3
TARGET_CANCEL_S = 2.0


def filled(folder: Path, *, stored: int) -> None:
    """Data folders of nodes that have finished an equal share each, with images of no content."""
    for index in range(NODES):
        node = folder / f"node-{index}"
        node.mkdir(parents=True)
        fill(node, node_id=node.name, count=stored // NODES, image_bytes=1)


async def pages_ms(http: httpx.AsyncClient, url: str, query: str, *, count: int) -> dict[str, Any]:
    """Of `count` pages from the newest on, or fewer where the list ends; milliseconds each."""
    times, shown, cursor = [], 0, ""
    for _ in range(count):
        start_s = time.perf_counter()
        answer = await http.get(f"{url}/v1/tasks?{query}{cursor}")
        times.append(1e3 * (time.perf_counter() - start_s))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page["missing"] == [], page["missing"]
        shown += len(page["data"])
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    return {
        "pages": len(times),
        "tasks": shown,
        "median_ms": float(np.median(times)),
        "p99_ms": float(np.quantile(times, 0.99)),
        "max_ms": max(times),
    }


async def listed(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """Pages of several kinds; each is asked for once before it is measured."""
    found = {}
    for name, query, count in (
        *((f"newest {limit}", f"limit={limit}", 1) for limit in LIMITS),
        *((f"{limit} a page, to the end", f"limit={limit}", 10**6) for limit in LIMITS),
        ("waiting", "limit=20&status=queued", PAGES),
        ("failed, of which there are none", "limit=20&status=failed", 1),
        ("of another model, of which there are none", "limit=20&model=none", PAGES),
    ):
        await pages_ms(http, url, query, count=1)
        rounds = 1 if count > 1 else PAGES
        measured = [await pages_ms(http, url, query, count=count) for _ in range(rounds)]
        medians = [one["median_ms"] for one in measured]
        found[name] = (
            measured[0]
            if rounds == 1
            else {
                "pages": rounds,
                "tasks": measured[0]["tasks"],
                "median_ms": float(np.median(medians)),
                "p99_ms": float(np.quantile(medians, 0.99)),
                "max_ms": max(medians),
            }
        )
        print(f"{name:<44}{json.dumps(found[name])}", flush=True)
    return found


async def submitted(http: httpx.AsyncClient, url: str, count: int) -> list[str]:
    """Tasks that wait for long, accepted by one node."""
    places = asyncio.Semaphore(32)

    async def one(number: int) -> list[str]:
        body = {"prompt": f"a boat {number}", "n": 10, "num_inference_steps": 50}
        async with places:
            answer = await http.post(f"{url}/v1/tasks", json=body)
        assert answer.status_code == 202, answer.text
        return [task["id"] for task in answer.json()["tasks"]]

    jobs = await asyncio.gather(*(one(number) for number in range(count // 10)))
    return [task_id for job in jobs for task_id in job]


async def cancelled(http: httpx.AsyncClient, urls: list[str]) -> dict[str, Any]:
    """Seconds to cancel many that wait, at once and one by one, until they are over."""
    each = CANCELLED // NODES
    made = [await submitted(http, url, each) for url in urls]
    await asyncio.sleep(2.0)
    start_s = time.perf_counter()
    answer = await http.delete(f"{urls[0]}/v1/tasks?all=true")
    at_once_s = time.perf_counter() - start_s
    assert answer.json()["missing"] == [], answer.text
    some = await submitted(http, urls[0], ONE_BY_ONE)
    await asyncio.sleep(1.0)
    start_s = time.perf_counter()
    for task_id in some:
        gone = await http.delete(f"{urls[0]}/v1/tasks/{task_id}")
        assert gone.json()["status"] == "cancelled", gone.text
    one_by_one_s = time.perf_counter() - start_s
    return {
        "waiting": sum(map(len, made)),
        "cancelled": answer.json()["cancelled"],
        "seconds": at_once_s,
        "target_s": TARGET_CANCEL_S,
        "one_by_one": {"tasks": len(some), "seconds": one_by_one_s},
    }


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, on one cluster."""
    await asyncio.to_thread(filled, folder, stored=options.stored)
    settings = {
        "engine": "emulated",
        "time_scale": 1.0,
        "tasks_in_flight_max": 5000,
        "queue_wait_s_max": 1e6,
        "deadline_s_default": 3600.0,
    }
    port = free_rest_port(first=22_000, nodes=NODES)
    async with (
        LocalCluster([settings] * NODES, rest_port=port, folder=folder) as cluster,
        httpx.AsyncClient(trust_env=False, timeout=60.0) as http,
    ):
        waiting = 0
        for url in cluster.urls:
            waiting += len(await submitted(http, url, options.waiting // NODES))
        await asyncio.sleep(2.0)
        pages = await listed(http, cluster.urls[0])
        await http.delete(f"{cluster.urls[0]}/v1/tasks?all=true")
        cancels = [await cancelled(http, cluster.urls) for _ in range(ROUNDS)]
        for one in cancels:
            print(json.dumps(one), flush=True)
        return {
            "nodes": NODES,
            "stored": options.stored,
            "waiting": waiting,
            "target_page_ms": TARGET_PAGE_MS,
            "pages": pages,
            "cancels": cancels,
        }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stored", type=int, default=10_000, help="finished tasks of all nodes")
    parser.add_argument("--waiting", type=int, default=500, help="open tasks of all nodes")
    parser.add_argument("--out", type=Path, default=RESULTS / "task_listing.json")
    options = parser.parse_args()
    described = machine.describe()
    with tempfile.TemporaryDirectory(prefix="dedgeai-") as name:
        result = asyncio.run(measure(Path(name), options))
    options.out.write_text(json.dumps({"machine": described, **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
