"""What clients write is in no log, metric or process's name, and no other user reads the data."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, QUICK_LEASE, on_cluster, processes_of, submit, wait_for

pytestmark = pytest.mark.system
WORDS = "xyzzyplugh"
JUDGE = """
import json, sys
question = json.load(sys.stdin)
print(question["prompt"], file=sys.stderr)
if "fails" in question["prompt"]:
    raise ValueError(question["prompt"])
print(json.dumps({"allow": "refused" not in question["prompt"], "reason": "No."}))
"""


def processes(cluster: LocalCluster) -> set[tuple[int, str]]:
    """All processes of a cluster, and what `ps` shows of each."""
    pids = {*processes_of(cluster.folder, ""), cluster.pid(0), cluster.pid(1)}
    names = ("cmdline", "comm")
    return {
        (pid, Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace"))
        for pid in pids
        for name in names
    }


async def every_failure(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
    """Has a node meet prompts that come to nothing, in as many ways as there are."""
    url = cluster.urls[0]
    tasks = f"{url}/v1/tasks"
    bad: list[tuple[int, dict[str, Any]]] = [
        (400, {"json": {"prompt": WORDS * 5000}}),
        (400, {"json": {"prompt": WORDS, "size": f"{WORDS}x{WORDS}"}}),
        (400, {"json": {"prompt": [WORDS]}}),
        (400, {"json": {"prompt": WORDS, WORDS: 1}}),
        (400, {"json": {"prompt": WORDS, "init_image": WORDS}}),
        (404, {"json": {"prompt": WORDS, "model": WORDS}}),
        (400, {"content": f'{{"prompt": "{WORDS}'.encode(), "headers": JSON}),
        (400, {"content": f'{{"prompt": "{WORDS} \\ud800"}}'.encode(), "headers": JSON}),
        (415, {"content": WORDS.encode(), "headers": {"Content-Type": "text/plain"}}),
        (400, {"json": {"prompt": f"{WORDS} refused"}}),
        (503, {"json": {"prompt": f"{WORDS} fails"}}),
    ]
    for status, how in bad:
        answer = await http.post(tasks, **how)
        assert answer.status_code == status, (how, answer.text)
    nobody = await http.get(f"{url}/v1/tasks/{WORDS}?{WORDS}={WORDS}")
    assert nobody.status_code in (404, 503), "that may not have been met"
    edit = {"prompt": WORDS}
    files = {"image": (f"{WORDS}.png", WORDS.encode(), "image/png")}
    assert (await http.post(f"{url}/v1/images/edits", data=edit, files=files)).status_code == 400
    late = await submit(http, url, WORDS, deadline_s=0.2, num_inference_steps=50)
    assert (await wait_for(http, url, late["id"]))["error"]["code"] == "deadline_exceeded"
    body = {"prompt": WORDS, "num_inference_steps": 50}
    with pytest.raises(httpx.ReadTimeout):  # and hung up
        await http.post(f"{url}/v1/images/generations", json=body, timeout=0.3)


async def deaths(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
    """Workers die while they draw, and then a node."""
    url = cluster.urls[0]
    tasks = [await submit(http, url, WORDS, num_inference_steps=40) for _ in range(4)]
    await wait_for(http, url, tasks[-1]["id"], "in_progress")
    for pid in processes_of(cluster.folder, "edge_node.worker"):
        os.kill(pid, signal.SIGKILL)
    for task in tasks[1:]:
        await http.delete(f"{url}/v1/tasks/{task['id']}")
    assert (await wait_for(http, url, tasks[0]["id"]))["status"] == "completed"
    kept = await submit(http, url, WORDS, negative_prompt=WORDS, num_inference_steps=20)
    cluster.signal_node(0, signal.SIGKILL)
    cluster.wait_node(0)
    cluster.start_node(0)
    assert (await wait_for(http, url, kept["id"]))["status"] == "completed"


JSON = {"Content-Type": "application/json"}


def test_prompts_are_in_no_log_no_metric_and_no_process_title(tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text(JUDGE)
    settings = {
        **EMULATED,
        **QUICK_LEASE,
        "policy": "round_robin",
        "log_level": "debug",
        "moderation_command": ",".join([sys.executable, "-I", "-S", str(judge)]),
    }

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        await every_failure(cluster, http)
        told = processes(cluster)
        await deaths(cluster, http)
        told |= processes(cluster)
        assert len({pid for pid, _ in told}) >= 6
        assert not [said for _, said in told if WORDS in said]
        for url in cluster.urls:
            for path in ("/metrics", "/v1/cluster", "/readyz", "/livez"):
                assert WORDS not in (await http.get(f"{url}{path}")).text
        logs = [*cluster.folder.rglob("*.log"), *cluster.folder.rglob("run/*")]
        assert len(logs) >= 6, logs
        for log in logs:
            if log.is_file():
                lines = log.read_bytes().splitlines()
                assert not [one for one in lines if WORDS.encode() in one], log
        assert "DEBUG" in (cluster.folder / "node-0" / "node.log").read_text()

    on_cluster(tmp_path, settings, {**settings, "policy": "local"}, test=test)


def test_no_other_user_reads_or_reaches_what_a_node_keeps(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        task = await submit(http, cluster.urls[0], num_inference_steps=1)
        await wait_for(http, cluster.urls[0], task["id"])
        data = cluster.folder / cluster.node_ids[0]
        assert (data / "images").stat().st_mode & 0o777 == 0o700
        found = [path for path in data.rglob("*") if path.name not in OF_THE_LAUNCHER]
        kinds = {path.suffix for path in found}
        assert {".png", ".sock", ".aof", ".log"} <= kinds, kinds
        open_to_others = {
            str(path.relative_to(data)): oct(path.stat().st_mode)
            for path in found
            if path.stat().st_mode & 0o077
        }
        assert not open_to_others

    former = os.umask(0o022)  # as most machines have it
    try:
        on_cluster(tmp_path, EMULATED, test=test)
    finally:
        os.umask(former)


# Written before the node is there, by who starts it.
OF_THE_LAUNCHER = frozenset({"node.log", "node.pid"})
