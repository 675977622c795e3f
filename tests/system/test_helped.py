"""Steps that two nodes share: real nodes, rows of SD3-medium's size, signals to workers.

The devices are emulated, for there a row takes half of a step whatever else this machine does; that
shared steps give the same pictures, tests/worker/test_sharing.py holds with the tiny model.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_node.console.local_cluster import LocalCluster
from edge_node.worker import emulated
from tests.system.local import image_of, kill, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
STEPS = 20
# A step takes .3 s, and a row so many times what an exchange does.
STEP_S = 0.3
COMMON: dict[str, Any] = {"policy": "local", "move": "none", "heartbeat_s": 0.2}
COMMON |= {
    "engine": "emulated",
    "emulated_profile": "orin-64gb-maxn",
    "time_scale": emulated.profile("orin-64gb-maxn").guided_step_s / STEP_S,
}
HELPED = COMMON | {"helping": "guidance"}
BODY: dict[str, Any] = {"num_inference_steps": STEPS, "seed": 7, "size": "512x512"}


async def rows(http: httpx.AsyncClient, url: str, name: str) -> dict[str, float]:
    """Of a node's counter, by outcome."""
    text = (await http.get(f"{url}/metrics")).text
    return {
        sample.labels["outcome"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"dedgeai_{name}_total"
    }


async def drawn(http: httpx.AsyncClient, url: str, **body: Any) -> tuple[str, Any, float]:
    """Where it was drawn, its pixels, and how long it took."""
    began_s = time.monotonic()
    task = await submit(http, url, **BODY, **body)
    ended = await wait_for(http, url, task["id"])
    took_s = time.monotonic() - began_s
    assert ended["status"] == "completed", ended
    return ended["executor"], np.asarray(await image_of(http, url, task["id"]), int), took_s


async def until_given(http: httpx.AsyncClient, url: str, count: int) -> None:
    async with asyncio.timeout(60):
        while (await rows(http, url, "rows_asked")).get("given", 0.0) < count:
            await asyncio.sleep(0.05)


async def peer_of(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """The other node, as a node shows it."""
    (peer,) = (await http.get(f"{url}/v1/cluster")).json()["peers"]
    return dict(peer)


def test_a_drawing_that_an_idle_node_helps_is_the_same_and_sooner_done(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        here, there = cluster.urls
        where, helped, helped_s = await drawn(http, here)
        assert where == "node-0"
        given = (await rows(http, here, "rows_asked"))["given"]
        assert given > STEPS / 2
        assert (await rows(http, there, "rows_computed"))["given"] == given
        cluster_seen = (await http.get(f"{here}/v1/cluster")).json()
        # A shared step says nothing of a device's speed.
        assert cluster_seen["own"]["capacity"] == pytest.approx(1.0 / STEP_S, rel=0.15)
        # The helper has work of its own: that is drawn at once, and the other goes on alone.
        one = asyncio.create_task(drawn(http, here))
        await until_given(http, here, int(given) + 3)
        async with asyncio.timeout(10):  # each node says who helps whom
            while (await peer_of(http, there))["helped_by"] != "node-1":
                await asyncio.sleep(0.02)
        _, _, own_s = await drawn(http, there)
        _, pixels, _ = await one
        assert np.array_equal(pixels, helped)
        assert own_s < STEPS * STEP_S + 2.0
        assert (await peer_of(http, there))["helped_by"] is None
        assert helped_s < 0.8 * STEPS * STEP_S

    on_cluster(tmp_path, HELPED, HELPED, test=test)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_helper_that_freezes_or_dies_costs_a_step_at_most(
    tmp_path: Path, number: signal.Signals
) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        here = cluster.urls[0]
        one = asyncio.create_task(drawn(http, here))
        await until_given(http, here, 3)
        kill(cluster.child_pid(1, "worker"), number)
        _, pixels, took_s = await one
        assert took_s < (STEPS + 2) * STEP_S + 2.0
        _, again, _ = await drawn(http, here)
        assert np.array_equal(pixels, again)

    on_cluster(tmp_path, HELPED, HELPED, test=test)


def test_one_who_does_not_help_is_asked_once_and_left_alone(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        here, there = cluster.urls
        await drawn(http, here)
        asked = await rows(http, here, "rows_asked")
        assert asked.pop("switched_off") == 1.0
        assert set(asked) <= {"nobody_idle"}
        assert await rows(http, there, "rows_computed") == {"switched_off": 1.0}
        # Nor does that one ask.
        await drawn(http, there)
        assert not await rows(http, there, "rows_asked")

    on_cluster(tmp_path, HELPED, COMMON, test=test)
