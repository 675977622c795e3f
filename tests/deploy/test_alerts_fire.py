"""A real Prometheus scrapes real nodes with our configuration and rules, and alerts really fire.

Three nodes with emulated devices. Only times are shorter than in production: scrape and evaluation
intervals, `for:`, and the bound on the scrape that tells a frozen node from a dead one.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, free_port, on_cluster

from .files import DEPLOY, tool
from .test_monitoring import METRIC, PROMETHEUS, RULES, queries

pytestmark = [pytest.mark.deploy, pytest.mark.system]

SCRAPE_TIMEOUT_S = 0.5
CHANGED_IN_RULES = ((">= 3.9", ">= 0.45"), ("for: 1m", "for: 1s"))


def shortened(folder: Path, cluster: LocalCluster, port: int) -> Path:
    """Our configuration and rules with shorter times, and targets as `dedgeai deploy` writes."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {
        "scrape_interval": "500ms",
        "scrape_timeout": f"{SCRAPE_TIMEOUT_S * 1000:.0f}ms",
        "evaluation_interval": "500ms",
    }
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    jobs["prometheus"]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    rules = RULES.read_text()
    for ours, short in CHANGED_IN_RULES:
        assert ours in rules
        rules = rules.replace(ours, short)
    (folder / "rules").mkdir(parents=True)
    (folder / "rules" / "alerts.yml").write_text(rules)
    named = zip(cluster.node_ids, cluster.urls, strict=True)
    nodes = [
        {"targets": [url.removeprefix("http://")], "labels": {"node": node}} for node, url in named
    ]
    # Stands for every device's node-exporter: Prometheus itself, which answers.
    devices = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"node": node}} for node in cluster.node_ids
    ]
    (folder / "targets").mkdir()
    (folder / "targets" / "nodes.yaml").write_text(json.dumps(nodes))
    (folder / "targets" / "devices.yaml").write_text(json.dumps(devices))
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def prometheus(folder: Path, cluster: LocalCluster) -> Iterator[str]:
    """Runs one; yields its URL."""
    program, port = tool("prometheus"), free_port(1)
    options = [
        f"--config.file={shortened(folder, cluster, port)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    process = subprocess.Popen([program, *options])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10.0)


async def until(look: Callable[[], Awaitable[bool]], what: str, *, within_s: float = 20.0) -> None:
    try:
        async with asyncio.timeout(within_s):
            while True:
                if await look():
                    return
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None


async def asked(http: httpx.AsyncClient, url: str, query: str) -> list[dict[str, Any]]:
    try:
        response = await http.get(f"{url}/api/v1/query", params={"query": query})
    except httpx.TransportError:
        return []
    body = response.json()
    return body["data"]["result"] if response.status_code == 200 else []


async def firing(http: httpx.AsyncClient, url: str) -> set[tuple[str, str]]:
    found = await asked(http, url, 'ALERTS{alertstate="firing"}')
    return {(one["metric"]["alertname"], one["metric"]["node"]) for one in found}


async def watch_it_fail(cluster: LocalCluster, http: httpx.AsyncClient, url: str) -> None:
    async def all_up() -> bool:
        return len(await asked(http, url, 'up{job="dedgeai"} == 1')) == 3

    await until(all_up, "three nodes scraped")
    draw = {"prompt": "a red circle", "num_inference_steps": 2}
    answer = await http.post(f"{cluster.urls[0]}/v1/images/generations", json=draw)
    assert answer.status_code == 200, answer.text
    await the_same_names(http, cluster.urls[0])

    async def counted() -> bool:
        return bool(await asked(http, url, "sum(dedgeai_tasks_finished_total) > 0"))

    await until(counted, "the image counted")
    assert await firing(http, url) == set()

    cluster.signal_node(2, signal.SIGKILL)
    wanted = {("NodeDown", "node-2")}

    async def down() -> bool:
        return await firing(http, url) >= wanted

    await until(down, "node-2 down")
    # Its port refuses at once: gone, not frozen. And the others do not miss one that is down.
    assert await firing(http, url) == wanted

    cluster.signal_node(1, signal.SIGSTOP)

    async def frozen() -> bool:
        return ("NodeFrozen", "node-1") in await firing(http, url)

    await until(frozen, "node-1 frozen")
    assert ("NodeFrozen", "node-2") not in await firing(http, url)
    cluster.signal_node(1, signal.SIGCONT)

    async def mended() -> bool:
        return await firing(http, url) == wanted

    await until(mended, "node-1 well again")


async def the_same_names(http: httpx.AsyncClient, url: str) -> None:
    """What rules and dashboards ask of a node is on this one's page."""
    page = (await http.get(f"{url}/metrics")).text
    exported = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
    for where, query in queries().items():
        for name in METRIC.findall(re.sub(r'"[^"]*"', '""', query)):
            if name.startswith("dedgeai_"):
                assert {name, re.sub(r"_(bucket|sum|count)$", "", name)} & exported, where


def test_a_dead_and_a_frozen_node_are_told_apart(tmp_path: Path) -> None:
    tool("prometheus")

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        with prometheus(tmp_path / "prometheus", cluster) as url:
            await watch_it_fail(cluster, http, url)

    on_cluster(tmp_path / "cluster", EMULATED, EMULATED, EMULATED, test=test)


def test_the_configuration_mounts_where_it_is_read() -> None:
    command = yaml.safe_load((DEPLOY / "compose.monitoring.yaml").read_text())
    service = command["services"]["prometheus"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in service["command"]
    assert service["volumes"][0]["target"] == "/etc/prometheus"
