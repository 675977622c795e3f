"""Real nodes learn as one: one learner for all, another when it dies, weights for who joins."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from edge_node.peering.client import PeerClient
from edge_node.store.published_weights import Published
from tests.learning.made_weights import made, told_of
from tests.system.local import cluster_of, submit

pytestmark = pytest.mark.system
NODES = 5
# Forty times faster than the devices: under sixteen tasks a second there are queues, so that it
# matters who draws and better weights can be told from worse ones.
FAST = {
    "engine": "emulated",
    "time_scale": 40,
    "heartbeat_s": 0.2,
    "suspect_s": 1.5,
    "policy": "slow_server_aware",
    "learner_publish_s": 1.0,
}
LEARNS = {**FAST, "learner": True}


async def cluster_at(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    answer: dict[str, Any] = (await http.get(f"{url}/v1/cluster")).json()
    return answer


async def until(
    http: httpx.AsyncClient,
    urls: list[str],
    holds: Callable[[dict[str, Any]], bool],
    *,
    timeout_s: float,
) -> list[dict[str, Any]]:
    """What every node shows, once that holds of each."""
    shown: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                shown = [await cluster_at(http, url) for url in urls]
                if all(map(holds, shown)):
                    return shown
                await asyncio.sleep(0.3)
    except TimeoutError:
        pytest.fail(f"waited in vain; the nodes show {[one['own']['learning'] for one in shown]}")


def learner_is(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda shown: bool(shown["own"]["learning"]["learner"] == name)


def generation_above(number: int) -> Callable[[dict[str, Any]], bool]:
    def holds(shown: dict[str, Any]) -> bool:
        weights = shown["own"]["learning"]["weights"]
        return weights is not None and weights["generation"] > number

    return holds


async def keep_busy(http: httpx.AsyncClient, urls: list[str]) -> None:
    """Asks random nodes for drawings until it is cancelled."""
    rng = random.Random(0)
    while True:
        with contextlib.suppress(httpx.TransportError, AssertionError):  # it is down, or full
            await submit(http, rng.choice(urls), num_inference_steps=rng.randrange(5, 20))
        await asyncio.sleep(0.06)


async def bring(cluster: LocalCluster, index: int, published: Published) -> None:
    """A learner beside the nodes offers weights."""
    client = PeerClient(grpc_address(cluster, index))
    try:
        await client.offer_weights(*told_of(published))
    finally:
        await client.close()


def grpc_address(cluster: LocalCluster, index: int) -> str:
    return f"127.0.0.1:{int(cluster.urls[index].rpartition(':')[2]) + 1000}"


def test_one_learner_serves_all_another_takes_over_and_who_joins_has_the_weights(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        # Two of five can learn, and the last one is not there yet.
        cluster = cluster_of(tmp_path, LEARNS, LEARNS, FAST, FAST, FAST)
        urls = cluster.urls
        async with httpx.AsyncClient(timeout=30.0, trust_env=False) as http:
            try:
                for index in range(NODES - 1):
                    cluster.start_node(index)
                async with RestClient(timeout_s=5.0) as client:
                    for index in range(NODES - 1):
                        await cluster.wait_ready(client, index)
                first = made(tmp_path / "made", generation=1, seed=1)
                await bring(cluster, 3, first)
                await until(http, urls[:4], generation_above(0), timeout_s=20.0)
                busy = asyncio.create_task(keep_busy(http, urls[:4]))
                await the_first_learns(http, urls)
                await another_takes_over(cluster, http)
                await one_joins(cluster, http)
                busy.cancel()
                await asyncio.gather(busy, return_exceptions=True)
            finally:
                cluster.stop()

    async def the_first_learns(http: httpx.AsyncClient, urls: list[str]) -> None:
        shown = await until(http, urls[:4], generation_above(1), timeout_s=400.0)
        assert all(map(learner_is("node-0"), shown))
        entries = shown[0]["learner"]["entries"]
        assert set(entries) == {"node-0", "node-1", "node-2", "node-3"}
        assert min(entries.values()) > 0
        assert [one["learner"] is None for one in shown] == [False, True, True, True]

    async def another_takes_over(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        urls = cluster.urls[1:4]
        cluster.signal_node(0, signal.SIGKILL)
        shown = await until(http, urls, learner_is("node-1"), timeout_s=20.0)
        held = shown[0]["own"]["learning"]["weights"]["generation"]
        # Weights that know nothing, so that there is something to be better than.
        await bring(cluster, 2, made(tmp_path / "made", generation=held + 1, seed=1))
        await until(http, urls, generation_above(held + 1), timeout_s=180.0)

    async def one_joins(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        held = (await cluster_at(http, cluster.urls[1]))["own"]["learning"]["weights"]
        cluster.start_node(4)
        async with RestClient(timeout_s=5.0) as client:
            await cluster.wait_ready(client, 4)
        least = held["generation"] - 1
        await until(http, [cluster.urls[4]], generation_above(least), timeout_s=10.0)

    asyncio.run(test())


def test_a_learner_beside_the_nodes_learns_from_all_and_brings_all_its_weights(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        cluster = cluster_of(tmp_path, FAST, FAST)
        nodes = ",".join(grpc_address(cluster, index) for index in range(2))
        environment = {
            **os.environ,
            "DEDGEAI_DATA_FOLDER": str(tmp_path / "beside"),
            "DEDGEAI_NODE_ID": "beside",
            "DEDGEAI_POLICY": "slow_server_aware",
            "DEDGEAI_LEARNER_PUBLISH_S": "1.0",
        }
        async with cluster, httpx.AsyncClient(timeout=30.0, trust_env=False) as http:
            await bring(cluster, 1, made(tmp_path / "made", generation=1, seed=1))
            busy = asyncio.create_task(keep_busy(http, cluster.urls))
            with subprocess.Popen(
                [sys.executable, "-m", "edge_node.cli", "learn", "--peers", nodes],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            ) as learner:
                try:
                    await until(http, cluster.urls, generation_above(1), timeout_s=180.0)
                    shown = [await cluster_at(http, url) for url in cluster.urls]
                    assert all(one["own"]["learning"]["learner"] is None for one in shown)
                finally:
                    busy.cancel()
                    await asyncio.gather(busy, return_exceptions=True)
                    learner.send_signal(signal.SIGTERM)
                    _, said = learner.communicate(timeout=120.0)  # at the lowest priority
            assert learner.returncode == 0, said
            assert "published lad_ts-2-" in said

    asyncio.run(test())
