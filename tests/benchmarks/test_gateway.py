"""What the gateway's benchmark fills and computes; its loads are its own business."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from benchmarks.gateway import CONNECTIONS, DURABLE, STEPS, SYNCHRONOUS, medians, ratios, with_run
from benchmarks.gateway_calls import CountedCluster, per_request
from benchmarks.gateway_load import post_all
from benchmarks.gateway_peers import PEERS
from benchmarks.gateway_stored import fill
from edge_node.clock import SystemClock
from edge_node.console.local_cluster import LocalCluster
from edge_node.domain import TaskId, TaskStatus
from edge_node.store.connection import StoreSettings
from edge_node.store.embedded_valkey import valkey_command, wait_until_ready
from edge_node.store.image_files import ImageFiles
from edge_node.store.task_ledger import LedgerSettings, TaskLedger


def test_what_is_filled_in_is_what_a_node_finds(tmp_path: Path) -> None:
    fill(tmp_path, node_id="node-0", count=120, image_bytes=300)
    socket_path = tmp_path / "s.sock"

    async def look() -> None:
        await wait_until_ready(socket_path, 10.0)
        settings = LedgerSettings(
            store=StoreSettings(url=f"unix://{socket_path}"), key_prefix="dedgeai:node-0:ledger:"
        )
        ledger = TaskLedger(settings, clock=SystemClock())
        await ledger.connect()
        record = await ledger.read(TaskId("node-0-01J00000000000000000000119"))
        assert record is not None
        assert record.status is TaskStatus.COMPLETED
        assert await ledger.recover(term=1) == []
        assert len(await ledger.expire(finished_before_unix_s=1e12, count_max=1000)) == 120
        await ledger.close()

    store = subprocess.Popen(
        valkey_command(tmp_path / "store", socket_path), stdout=subprocess.DEVNULL
    )
    try:
        asyncio.run(look())
    finally:
        store.kill()
        store.wait()

    async def images() -> int:
        files = ImageFiles(tmp_path / "images", bytes_max=10**9, age_s_max=1e9, clock=SystemClock())
        assert await files.start() == ()
        return files.bytes_stored

    assert asyncio.run(images()) == 120 * 300


def test_medians_are_of_each_figure() -> None:
    rounds = [{"a": {"p50": 1.0}}, {"a": {"p50": 9.0}}, {"a": {"p50": 2.0}}]
    assert medians(rounds) == {"a": {"p50": 2.0}}


def test_ratios_compare_within_the_run() -> None:
    cost = {
        f"{path}, {steps} steps, {nodes} nodes, {connections} connections": {
            "p50_ms": 4.0,
            "per_s": 100.0,
            "cpu_ms_per_task": {"node": 1.0 + 0.1 * steps, "worker": 1.0, "store": nodes * 0.4},
        }
        for path in (SYNCHRONOUS, DURABLE)
        for steps in STEPS
        for nodes in (1, 3)
        for connections in CONNECTIONS
    }
    peers = {
        f"{peer.name}, {connections} connections": {"p50_ms": 0.5, "per_s": 400.0}
        for peer in PEERS
        for connections in CONNECTIONS
    }
    found = ratios({"cost": cost, "peers": peers})
    assert found["p50, times mosec at 1"] == 8.0
    assert found["requests/s, times LitServe at 16"] == 0.25
    assert found[f"CPU of three nodes, times one, {DURABLE}"] == pytest.approx(4.6 / 3.8)
    assert found["node's CPU ms per step event"] == pytest.approx(0.1)


def test_a_part_that_is_measured_again_replaces_itself_alone() -> None:
    first = with_run({}, {"machine": "a"}, measured={"cost": 1, "burst": 2}, compared={"r": 3.0})
    both = with_run(first, {"machine": "b"}, measured={"burst": 4}, compared={})
    assert both["parts"] == {
        "cost": {"measured": 1, "machine": "a"},
        "burst": {"measured": 4, "machine": "b"},
    }
    assert both["ratios"] == {"r": 3.0}


@pytest.mark.parametrize(
    "answer",
    [
        b'Content-Length: 8\r\n\r\n{"a": 1}',
        b'Transfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n5\r\n": 1}\r\n0\r\n\r\n',
    ],
)
def test_answers_are_read_in_one_piece_or_in_chunks(answer: bytes) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):  # on one connection, so that nothing of the first may be left
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(b"HTTP/1.1 200 OK\r\n" + answer)
        writer.close()

    async def story() -> None:
        async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            answers, _ = await post_all(f"http://127.0.0.1:{port}/a", [{}, {}], connections=1)
        assert answers == [{"a": 1}, {"a": 1}]

    asyncio.run(asyncio.wait_for(story(), 10.0))


def test_calls_of_a_request_are_those_beyond_a_node_that_is_asked_nothing() -> None:
    assert per_request(1000, [(5000, 4), (2000, 10)]) == [1000.0, 100.0]


def test_a_node_that_counts_is_started_as_any_other_but_for_the_counting(tmp_path: Path) -> None:
    plain = LocalCluster([{}], rest_port=18_600, folder=tmp_path)._command(0)
    counted = CountedCluster([{}], rest_port=18_600, folder=tmp_path)._command(0)
    at = counted.index("cProfile")
    assert counted[at - 1 : at + 2] == ["-m", "cProfile", "-o"]
    assert [*counted[: at - 1], *counted[at + 3 :]] == plain
