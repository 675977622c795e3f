"""One trace from a request to a peer's last step, at a real collector; and logs that name tasks."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.collector import Collector, Seen, collector
from tests.system.local import EMULATED, QUICK_LEASE, cluster_of, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
PROMPT = "a fox that nobody may read of"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
Story = Callable[[LocalCluster, httpx.AsyncClient, Collector], Awaitable[None]]


def traced(folder: Path, *settings: dict[str, Any], story: Story) -> None:
    """Runs a story on a cluster whose nodes send their spans to one collector."""

    async def run() -> None:
        async with collector() as collected:
            told = [{**one, "otlp_endpoint": collected.url} for one in settings]
            async with (
                cluster_of(folder, *told) as cluster,
                httpx.AsyncClient(timeout=60.0, trust_env=False) as http,
            ):
                await story(cluster, http, collected)
            assert PROMPT.encode() not in bytes(collected.content)

    asyncio.run(run())


def named(spans: list[Seen], name: str) -> list[Seen]:
    return [one for one in spans if one.name == name]


def test_one_trace_shows_a_request_to_the_last_step_of_a_peer(tmp_path: Path) -> None:
    async def story(cluster: LocalCluster, http: httpx.AsyncClient, told: Collector) -> None:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
        # Durable, and one that is waited for: both end at the peer, for here nobody draws.
        body = {"prompt": PROMPT, "num_inference_steps": 6}
        for path in ("/v1/tasks", "/v1/images/generations"):
            answer = await http.post(f"{cluster.urls[0]}{path}", json=body, headers=headers)
            assert answer.status_code in (200, 202), answer.text
        await told.until(lambda spans: len(named(spans, "task")) == 2)
        await told.until(lambda spans: len(named(spans, "draw")) == 2)
        await told.until(lambda spans: len(named(spans, "POST /v1/images/generations")) == 1)
        ours = [one for one in told.spans if one.trace_id == TRACE]
        by_id = {one.id: one for one in ours}
        for drawn in named(ours, "draw"):
            line = [drawn]
            while line[-1].parent in by_id:
                line.append(by_id[line[-1].parent])
            assert line[-1].parent == PARENT
            names = [(one.name, one.node) for one in line]
            assert names[:-1] == [
                *(("draw", "node-1"), ("execute", "node-1")),
                *(("attempt", "node-0"), ("task", "node-0")),
            ]
            assert names[-1][0] in ("POST /v1/tasks", "POST /v1/images/generations")
            steps = [
                event.attributes[0].value.int_value
                for event in drawn.span.events
                if event.name == "step"
            ]
            assert steps == [1, 2, 3, 4, 5, 6]
            assert all(one.span.trace_state == "vendor=1" for one in line)
            task = line[3]
            assert task.attributes["dedgeai.task.status"] == "completed"
            assert task.attributes["dedgeai.executor"] == "node-1"
            assert task.span.events[0].name == "queued"
            # What is a part lies within what it is a part of, as far as clocks go.
            assert task.span.start_time_unix_nano <= drawn.span.start_time_unix_nano
            assert drawn.span.end_time_unix_nano <= task.span.end_time_unix_nano
        assert not any(one.failed for one in ours)
        # Who did not begin a trace begins one here, and operators' tools none.
        await http.get(f"{cluster.urls[0]}/readyz")
        await submit(http, cluster.urls[0], PROMPT, num_inference_steps=1)
        await told.until(lambda spans: len(named(spans, "draw")) == 3)
        await told.until(lambda spans: len(named(spans, "task")) == 3)
        others = [one for one in told.spans if one.trace_id != TRACE]
        assert {one.name for one in others} >= {"POST /v1/tasks", "task", "attempt", "draw"}
        assert not any("readyz" in one.name for one in others)
        (begun,) = named(others, "POST /v1/tasks")
        assert begun.parent == ""

    traced(tmp_path, {**EMULATED, "engine": "none"}, EMULATED, story=story)


def test_a_trace_has_every_attempt_though_its_executor_dies(tmp_path: Path) -> None:
    async def story(cluster: LocalCluster, http: httpx.AsyncClient, told: Collector) -> None:
        task = await submit(http, cluster.urls[0], PROMPT, num_inference_steps=40)
        shown = await wait_for(http, cluster.urls[0], task["id"], "in_progress")
        first = int(shown["executor"].removeprefix("node-"))
        cluster.signal_node(first, signal.SIGKILL)
        done = await wait_for(http, cluster.urls[0], task["id"])
        assert done["status"] == "completed"
        await told.until(lambda spans: len(named(spans, "task")) == 1)
        (whole,) = named(told.spans, "task")
        attempts = named(told.spans, "attempt")
        assert len(attempts) == whole.attributes["dedgeai.task.attempts"]
        assert {one.parent for one in attempts} == {whole.id}
        assert {one.attributes["dedgeai.executor"] for one in attempts} == {"node-1", "node-2"}

    quick = {**EMULATED, **QUICK_LEASE}
    traced(tmp_path, {**quick, "engine": "none"}, quick, quick, story=story)


def test_a_share_of_nothing_traces_what_clients_ask_for(tmp_path: Path) -> None:
    async def story(cluster: LocalCluster, http: httpx.AsyncClient, told: Collector) -> None:
        task = await submit(http, cluster.urls[0], PROMPT, num_inference_steps=1)
        await wait_for(http, cluster.urls[0], task["id"])
        body = {"prompt": PROMPT, "num_inference_steps": 1}
        asked = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        await http.post(f"{cluster.urls[0]}/v1/images/generations", json=body, headers=asked)
        await told.until(lambda spans: len(named(spans, "draw")) == 1)
        assert {one.trace_id for one in told.spans} == {TRACE}

    traced(tmp_path, {**EMULATED, "traces_share": 0.0}, story=story)


def test_logs_are_objects_that_name_tasks(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        task = await submit(http, cluster.urls[0], PROMPT, num_inference_steps=40, deadline_s=0.3)
        ended = await wait_for(http, cluster.urls[0], task["id"])
        assert ended["status"] == "failed"
        node = (cluster.folder / "node-0" / "node.log").read_text().splitlines()
        lines = [json.loads(line) for line in node]
        assert all(one["node"] == "node-0" for one in lines)
        (about,) = [one for one in lines if one.get("task_id") == task["id"]]
        assert about["level"] == "info"
        assert "deadline_exceeded" in about["message"]
        assert len(about["trace_id"]) == 32
        assert about["time"].endswith("Z")
        run = cluster.folder / "node-0" / "run"
        worker = next(run.glob("worker*.log")).read_text().splitlines()
        assert all(json.loads(line)["level"] for line in worker)
        assert PROMPT not in "\n".join(node + worker)

    # Nobody takes the spans, and nobody minds.
    settings = {"log_format": "json", "otlp_endpoint": "http://127.0.0.1:9", "log_level": "info"}
    on_cluster(tmp_path, {**EMULATED, **settings}, test=test)
