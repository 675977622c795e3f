"""Five nodes with addresses and certificates of their own: a cable is pulled, the power is cut."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from edge_node.console.captions import read_captions
from edge_node.console.replay import Arrivals, plan, replay, summarise
from edge_node.console.rest_client import Drawn, RestClient
from tests.system import lan
from tests.system.local import EMULATED

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(lan.why_not()), reason=lan.why_not()),
]

PROFILES = ("maxn", "50w", "50w", "30w", "15w")
# One way; a wired LAN has a tenth of it.
DELAY_S = 0.002
LOST = 1


def settings() -> list[dict[str, Any]]:
    return [
        {
            **EMULATED,
            "time_scale": 20,
            "lease_s": 1.5,
            "suspect_s": 1.0,
            "policy": "lad_ts_plus",
            "emulated_profile": f"orin-64gb-{profile}",
        }
        for profile in PROFILES
    ]


def test_a_cluster_loses_a_node_twice_and_takes_it_back(tmp_path: Path) -> None:
    asyncio.run(_scenario(tmp_path))


async def _scenario(folder: Path) -> None:
    with lan.Lan(len(PROFILES)).up() as network:
        cluster = lan.LanCluster(network, settings(), folder=folder, delay_s=DELAY_S)
        try:
            async with cluster, RestClient(timeout_s=10.0) as client:
                undisturbed = await _replay(cluster, tasks=30, seed=1)
                assert "node-1" in summarised(undisturbed, cluster)

                replaying = asyncio.create_task(_replay(cluster, tasks=30, seed=2, spare=LOST))
                await asyncio.sleep(0.8)
                network.set_cable(LOST, plugged=False)
                # Nothing that another node had accepted is lost with the cable.
                summarised(await replaying, cluster)
                assert not await _is_alive(client, cluster, LOST)
                network.set_cable(LOST, plugged=True)
                await _until_alive(client, cluster, LOST)

                replaying = asyncio.create_task(_replay(cluster, tasks=30, seed=3, spare=LOST))
                await asyncio.sleep(0.8)
                cluster.signal_node(LOST, signal.SIGKILL)
                await asyncio.to_thread(cluster.wait_node, LOST)
                summarised(await replaying, cluster)
                cluster.start_node(LOST)
                await cluster.wait_ready(client, LOST)
                await _until_alive(client, cluster, LOST)
                assert "node-1" in summarised(await _replay(cluster, tasks=30, seed=4), cluster)
        finally:
            await cluster.close_ways()


async def _replay(
    cluster: lan.LanCluster, *, tasks: int, seed: int, spare: int | None = None
) -> list[Drawn]:
    """Captions to all nodes, or to all but one; the batch is more than any node does alone."""
    urls = [url for index, url in enumerate(cluster.urls) if index != spare]
    planned = plan(
        Arrivals(kind="poisson", rate_hz=15.0),
        captions=read_captions(None),
        tasks=tasks,
        nodes=len(urls),
        seed=seed,
    )
    return await replay(
        planned, node_urls=urls, timeout_s=60.0, on_drawn=lambda _: None, size="512x512"
    )


def summarised(drawn: list[Drawn], cluster: lan.LanCluster) -> set[str]:
    """Who drew; every request has its image."""
    summary = summarise(drawn, node_of_url=dict(zip(cluster.urls, cluster.node_ids, strict=True)))
    assert summary.failed == 0, summary.errors
    return set(summary.per_node)


async def _is_alive(client: RestClient, cluster: lan.LanCluster, index: int) -> bool:
    """Whether every other node would give it work."""
    others = [url for other, url in enumerate(cluster.urls) if other != index]
    peers = [peer for url in others for peer in (await client.cluster(url))["peers"]]
    known = [peer for peer in peers if peer["node"] == cluster.node_ids[index]]
    return len(known) == len(others) and all(p["alive"] and p["accepting"] for p in known)


async def _until_alive(client: RestClient, cluster: lan.LanCluster, index: int) -> None:
    async with asyncio.timeout(20.0):
        while not await _is_alive(client, cluster, index):
            await asyncio.sleep(0.1)
