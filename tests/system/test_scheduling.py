"""The scheduler's memory and metrics in real nodes."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from tests.system.local import EMULATED, kill, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
BEST = "slow_server_aware"
LEARNED = {**EMULATED, "slot_s": 0.5}


async def metric(http: httpx.AsyncClient, url: str, name: str) -> float:
    text = (await http.get(f"{url}/metrics")).text
    found = re.search(rf"^dedgeai_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


async def draw(http: httpx.AsyncClient, url: str, count: int) -> None:
    tasks = [await submit(http, url, f"p{i}", num_inference_steps=2) for i in range(count)]
    ended = await asyncio.gather(*(wait_for(http, url, task["id"]) for task in tasks))
    assert {task["status"] for task in ended} == {"completed"}


def test_a_restarted_node_goes_on_from_its_latents(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        await draw(http, url, 3)
        assert await metric(http, url, 'latent_reads_total{found="no"}') >= 1.0
        cluster.signal_node(0, signal.SIGTERM)
        assert await asyncio.to_thread(cluster.wait_node, 0) == 0
        cluster.start_node(0)
        async with RestClient(timeout_s=5.0) as client:
            await cluster.wait_ready(client, 0)
        await draw(http, url, 1)
        assert await metric(http, url, 'latent_reads_total{found="yes"}') == 1.0
        async with asyncio.timeout(10):  # the slot that has just begun is written behind
            while await metric(http, url, "latent_memory_behind_slots") > 0.0:
                await asyncio.sleep(0.05)
        # What is known of a peer whose states keep coming is never half a second old.
        stale = await metric(http, url, 'placement_staleness_seconds_bucket{le="0.25"}')
        assert stale == 1.0

    # Pinned: in one of twenty windows of the wall clock a rule decides, which keeps no latents.
    pinned = {**LEARNED, "pin_policy": True}
    on_cluster(tmp_path, pinned, pinned, test=test)


def test_a_task_says_who_placed_it_and_why(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        task = await submit(http, cluster.urls[0], num_inference_steps=2)
        ended = await wait_for(http, cluster.urls[0], task["id"])
        assert (ended["policy"], ended["policy_reason"]) == ("ring", "no verdict yet")

    # What nobody has vouched for begins with the rule.
    other = {**LEARNED, "policy_options": "start=zero"}
    on_cluster(tmp_path, other, other, test=test)


def test_a_learner_killed_under_load_costs_nothing_but_learning(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        record = cluster.folder / cluster.node_ids[0] / "run" / "learner.pid"
        async with asyncio.timeout(30):
            while not record.exists():
                await asyncio.sleep(0.05)
        killed = cluster.child_pid(0, "learner")
        drawing = asyncio.create_task(draw(http, cluster.urls[0], 30))
        await asyncio.sleep(0.3)
        kill(killed)
        await drawing
        assert await metric(http, cluster.urls[0], "experience_dropped_total") == 0.0

    on_cluster(tmp_path, {**LEARNED, "learner": True}, LEARNED, test=test)


def test_a_bad_policy_gives_way_to_the_rule_that_a_replay_found_best(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]

        async def guard() -> dict[str, Any]:
            found: dict[str, Any] = (await http.get(f"{url}/v1/cluster")).json()["guard"]
            return found

        young = await guard()
        assert (young["rule"], young["deciding"]) == ("local", "local")
        # A third of what is judged has to be a hundred decisions before a rule is chosen.
        for _ in range(11):
            await draw(http, url, 30)
        async with asyncio.timeout(300):  # it judges at idle priority, beside other tests' nodes
            while (judged := await guard())["rule"] == "local":
                await asyncio.sleep(0.5)
                await draw(http, url, 1)  # only what is new is judged
        assert judged["rule"] == judged["deciding"] == judged["replay"]["rule"] == BEST
        assert judged["rules"] == ["local", BEST]
        means_s = judged["replay"]["rule_means_s"]
        assert means_s[BEST] < means_s["local"]
        assert re.fullmatch(rf"replay: (may be )?worse than {BEST} by [0-9.]+%", judged["reason"])
        task = await submit(http, url, num_inference_steps=2)
        ended = await wait_for(http, url, task["id"])
        assert (ended["policy"], ended["policy_reason"]) == (BEST, judged["reason"])
        async with asyncio.timeout(10):
            while await metric(http, url, f'guard_rule{{rule="{BEST}"}}') != 1.0:
                await asyncio.sleep(0.1)
        assert await metric(http, url, 'guard_rule{rule="local"}') == 0.0
        folder = cluster.folder / cluster.node_ids[0]
        written = (folder / "node.log").read_text() + (folder / "run/learner.log").read_text()
        assert f"the rule that stands in is {BEST} now, and was local" in written
        assert f"the best rule is {BEST} now, and was local" in written

    # At that temperature it places by a coin, whatever the queues; nobody has vouched for it.
    bad = {
        **LEARNED,
        "policy": "lad_ts_plus",
        "policy_options": "temperature=1e6",
        "guard_rules": f"local,{BEST}",
        "time_scale": 20,
        "learner": True,
    }
    on_cluster(tmp_path, bad, {**bad, "learner": False}, {**bad, "learner": False}, test=test)
