"""Half-drawn images that a device takes from a slower one: real nodes, drawings and signals."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.disturbed_drawings import COMMON, KINDS, compared
from edge_node.console.local_cluster import LocalCluster
from tests.system.local import image_of, on_cluster, submit, wait_for
from tests.system.test_resumed import shown

pytestmark = pytest.mark.system
# 200 for the whole of it, as benchmarks/disturbed_drawings.py.
DRAWINGS = int(os.environ.get("DRAWINGS", "28"))
STEPS = 16
FAST, SLOW = COMMON | {"pace_s": 0.06}, COMMON | {"pace_s": 0.6}


async def moves_of(http: httpx.AsyncClient, url: str, task_id: str) -> list[dict[str, Any]]:
    """What the events of a task that is over tell of its moves."""
    text = (await http.get(f"{url}/v1/tasks/{task_id}/events")).text
    told = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    steps = [event["step"] for event in told]
    assert steps == sorted(steps)
    return [event["move"] for event in told if event["type"] == "moved"]


async def pixels(http: httpx.AsyncClient, url: str, task_id: str) -> Any:
    return np.asarray(await image_of(http, url, task_id), dtype=int)


def test_a_device_that_idles_ends_what_a_slower_one_began(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        body: dict[str, Any] = {"num_inference_steps": STEPS, "seed": 5}
        tasks = [await submit(http, url, **body) for _ in range(2)]
        ended = [await wait_for(http, url, task["id"]) for task in tasks]
        assert [one["status"] for one in ended] == ["completed"] * 2
        moves = [await moves_of(http, url, task["id"]) for task in tasks]
        # Where both wait at the fast one, the slow one begins with one that comes back.
        *_, move = made = [move for of_task in moves for move in of_task]
        assert (move["from"], move["to"], move["reason"]) == ("node-1", "node-0", "idle")
        assert move["expected_gain_s"] > 0.3
        one, other = [await pixels(http, url, task["id"]) for task in tasks]
        assert np.abs(one - other).max() <= 1
        async with asyncio.timeout(10):
            while not (counted := await shown(http, url))["steps_resumed_total"]:
                await asyncio.sleep(0.1)  # until gauges are looked at
        assert counted["moves_total"] == len(made) <= 2
        assert counted["steps_drawn_again_total"] == 0.0

    on_cluster(tmp_path, FAST, SLOW, test=test)


def test_nodes_that_want_moves_and_nodes_that_do_not_draw_together(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        body: dict[str, Any] = {"num_inference_steps": STEPS, "seed": 5}
        moved: dict[str, list[dict[str, Any]]] = {}
        # The slow one does not let its own move, and hands over what is another's.
        for url in (cluster.urls[1], cluster.urls[0]):
            tasks = [await submit(http, url, **body) for _ in range(2)]
            ended = [await wait_for(http, url, task["id"]) for task in tasks]
            assert [one["status"] for one in ended] == ["completed"] * 2
            moved[url] = [move for one in ended for move in one["moves"]]
        assert moved[cluster.urls[1]] == []
        *_, move = moved[cluster.urls[0]]
        assert (move["from"], move["to"], move["reason"]) == ("node-1", "node-0", "idle")

    on_cluster(tmp_path, FAST, SLOW | {"move": "none"}, test=test)


def test_images_that_were_killed_moved_and_drained_are_as_if_alone(tmp_path: Path) -> None:
    found = asyncio.run(compared(tmp_path, drawings=DRAWINGS, seed=3))
    assert found["levels_apart_max"] <= 1, found
    assert sum(found["disturbances"].values()) >= len(KINDS) - 1, found
    assert found["moves"].keys() >= {"idle", "draining"}, found
