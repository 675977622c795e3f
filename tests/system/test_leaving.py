"""Nodes that are told to stop while clients ask them for images: nobody is turned away.

Real nodes; clients send again elsewhere only where nobody listens.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from tests.system.local import EMULATED, on_cluster
from tests.system.test_resumed import shown

pytestmark = pytest.mark.system
NODES = 5
BODY: dict[str, Any] = {"num_inference_steps": 12}
NODE = {**EMULATED, "time_scale": 6, "checkpoint_steps": 3, "policy": "round_robin"}
# Nobody dies here: who is silent for a while has a busy core.
NODE |= {"move": "running", "suspect_s": 6.0}
# A connection that the end of a node met before it was taken in, on two busy cores.
CUT_S_MAX = 1.0


class Crowd:
    """Clients that ask on and on, each at a node of its own: one waits, one comes again."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._urls = cluster.urls
        self.answers: Counter[int] = Counter()
        self.refused = 0
        self.wrong: list[str] = []
        self.drawn_again: dict[tuple[str, int], float] = {}
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Until `end`, and until each has what it has asked for."""
        clients = [one(index) for index in range(NODES) for one in (self._waits, self._comes_again)]
        await asyncio.gather(*clients, *(self._count(url) for url in self._urls))

    def end(self) -> None:
        """Nobody asks for more."""
        self._over.set()

    async def _ask(self, method: str, url: str, body: Any = None) -> httpx.Response | None:
        """The answer; None where nobody took the request."""
        began_s = time.monotonic()
        try:
            # A new connection each time, as the end of an old one may cross with a request.
            async with httpx.AsyncClient(timeout=120.0, trust_env=False, verify=False) as http:
                answer = await http.request(method, url, json=body)
        except httpx.TransportError as error:
            took_s = time.monotonic() - began_s
            self.refused += 1
            if not isinstance(error, httpx.ConnectError) and took_s > CUT_S_MAX:
                self.wrong.append(f"{method} {url}: {error!r} after {took_s:.1f} s")
            return None
        self.answers[answer.status_code] += 1
        if answer.status_code >= 500:
            self.wrong.append(f"{method} {url}: {answer.status_code} {answer.text}")
        return answer

    async def _waits(self, index: int) -> None:
        body = {"prompt": "a cat", **BODY}
        while not self._over.is_set():
            answer = await self._ask("POST", f"{self._urls[index]}/v1/images/generations", body)
            if answer is None:
                index = (index + 1) % NODES

    async def _comes_again(self, index: int) -> None:
        while not self._over.is_set():
            url = self._urls[index]
            answer = await self._ask("POST", f"{url}/v1/tasks", {"prompt": "a dog", **BODY})
            if answer is None or answer.status_code >= 500:
                index = (index + 1) % NODES
                continue
            status, task = "queued", f"{url}/v1/tasks/{answer.json()['id']}"
            while status in ("queued", "in_progress"):
                await asyncio.sleep(0.1)
                answer = await self._ask("GET", task)
                if answer is not None and answer.status_code < 500:
                    status = answer.json()["status"]
            if status != "completed":
                self.wrong.append(f"{task} is {status}")

    async def _count(self, url: str) -> None:
        """Of each life of a node the steps drawn again, as it said last."""
        life = 0
        async with httpx.AsyncClient(timeout=30.0, trust_env=False) as http:
            while not self._over.is_set():
                try:
                    told = await shown(http, url)
                    self.drawn_again[url, life] = told["steps_drawn_again_total"]
                except httpx.TransportError:
                    life += (url, life) in self.drawn_again
                await asyncio.sleep(0.2)


def test_a_rolling_restart_turns_nobody_away_and_draws_no_step_twice(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        crowd = Crowd(cluster)
        running = asyncio.create_task(crowd.run())
        async with RestClient(timeout_s=5.0) as client:
            for index in range(NODES):
                await asyncio.sleep(1.0)
                cluster.signal_node(index, signal.SIGTERM)
                assert await asyncio.to_thread(cluster.wait_node, index) == 0
                cluster.start_node(index)
                await cluster.wait_ready(client, index)
        crowd.end()
        async with asyncio.timeout(120):
            await running
        assert not crowd.wrong, "\n".join([str(crowd.answers), *crowd.wrong])
        assert crowd.answers[200] > 20 * NODES, crowd.answers
        assert len(crowd.drawn_again) == 2 * NODES, crowd.drawn_again
        assert sum(crowd.drawn_again.values()) == 0.0, crowd.drawn_again

    on_cluster(tmp_path, *[NODE] * NODES, test=test)


def test_who_waits_longer_than_a_node_has_is_told_when_to_come_again(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        (url,) = cluster.urls
        body = {"prompt": "a cat", "num_inference_steps": 50}
        waiting = asyncio.create_task(http.post(f"{url}/v1/images/generations", json=body))
        async with asyncio.timeout(30):
            while not (await http.get(f"{url}/v1/cluster")).json()["own"]["running"]:
                await asyncio.sleep(0.05)
        # A page that is open holds nobody up.
        async with http.stream("GET", f"{url}/v1/events") as page:
            began_s = time.monotonic()
            cluster.signal_node(0, signal.SIGTERM)
            async with asyncio.timeout(30):
                async for _ in page.aiter_raw():
                    pass
        answer = await waiting
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "node_not_ready")
        assert answer.headers["retry-after"] == "5"
        assert await asyncio.to_thread(cluster.wait_node, 0) == 0
        assert 2.0 <= time.monotonic() - began_s < 2.0 + 15.0

    on_cluster(tmp_path, {**EMULATED, "time_scale": 1, "drain_s": 2}, test=test)


def test_a_node_that_alone_draws_a_model_ends_what_it_has_before_it_leaves(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url, alone = cluster.urls
        body = {"prompt": "a cat", "model": "b", "num_inference_steps": 16}
        waiting = asyncio.create_task(http.post(f"{url}/v1/images/generations", json=body))
        async with asyncio.timeout(30):
            while not (await http.get(f"{alone}/v1/cluster")).json()["own"]["running"]:
                await asyncio.sleep(0.05)
        cluster.signal_node(1, signal.SIGTERM)
        async with asyncio.timeout(60):
            assert (await waiting).status_code == 200
        assert await asyncio.to_thread(cluster.wait_node, 1) == 0

    node = {**EMULATED, "time_scale": 2, "checkpoint_steps": 3, "move": "running"}
    on_cluster(tmp_path, node | {"model_name": "a"}, node | {"model_name": "b"}, test=test)
