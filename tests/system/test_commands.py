"""The `dedgeai` command as a person types it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

from edge_node.console.local_cluster import LocalCluster
from edge_node.errors import NodeNotReady
from tests.system.local import EMULATED, decoded, free_port, kill, on_cluster, processes_of

pytestmark = pytest.mark.system
DEDGEAI = (sys.executable, "-m", "edge_node.cli")


async def command(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *DEDGEAI,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


def test_a_cluster_whose_worker_has_failed_says_why_and_ends(tmp_path: Path) -> None:
    settings = {"engine": "emulated", "emulated_profile": "orin-9000"}
    cluster = LocalCluster([settings], rest_port=free_port(1), folder=tmp_path)
    began_s = time.monotonic()

    async def start() -> None:
        async with cluster:
            pass

    with pytest.raises(NodeNotReady, match="node-0 will not get ready: the worker failed: there"):
        asyncio.run(start())
    assert time.monotonic() - began_s < 40.0  # of 180
    assert processes_of(tmp_path, "") == []


def test_a_cluster_whose_node_ends_says_its_last_word(tmp_path: Path) -> None:
    cluster = LocalCluster([{"polcy": "ring"}], rest_port=free_port(1), folder=tmp_path)
    with pytest.raises(NodeNotReady, match=r"^node-0 ended with code 2: polcy .* Did you mean pol"):
        asyncio.run(cluster.start())


def test_generate_and_replay(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        out = tmp_path / "drawn.png"
        code, said = await command(
            "generate", "a boat", "--node", cluster.urls[0], "--out", str(out), "--steps", "3"
        )
        assert code == 0, said
        assert "node-" in said
        assert decoded(out.read_bytes()).size == (512, 512)
        photo = tmp_path / "photo.png"
        Image.new("RGB", (300, 200), "red").save(photo)
        started = ("--init-image", str(photo), "--strength", "0.5", "--out", str(out), "--force")
        code, said = await command("generate", "a boat", "--node", cluster.urls[0], *started)
        assert code == 0, said
        assert decoded(out.read_bytes()).size == (384, 256)
        lost = ("--init-image", str(tmp_path / "none.png"), "--out", str(tmp_path / "other.png"))
        code, said = await command("generate", "a boat", "--node", cluster.urls[0], *lost)
        assert code == 2
        assert "The init image cannot be read" in said
        figures = tmp_path / "figures.json"
        code, said = await command(
            *("replay", "--node", ",".join(cluster.urls), "--tasks", "4"),
            *("--arrival", "slots", "--slot", "0.1", "--json", str(figures)),
        )
        assert code == 0, said
        summary = json.loads(figures.read_text())
        assert (summary["images"], summary["failed"]) == (4, 0)
        assert sum(summary["per_node"].values()) == 4
        code, said = await command("generate", "x", "--node", cluster.urls[0], "--size", "5x5")
        assert code == 2
        assert "`size`" in said

    on_cluster(tmp_path, EMULATED, EMULATED, test=test)


def test_a_node_that_is_not_there_is_a_sentence() -> None:
    url = f"http://127.0.0.1:{free_port(1)}"
    code, said = asyncio.run(command("generate", "x", "--node", url))
    assert code == 2
    assert "Start one with `dedgeai cluster`" in said
    assert "Traceback" not in said


def test_cluster_says_when_it_is_ready_and_stops_on_ctrl_c(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    arguments = ["cluster", "--nodes", "2", "--engine", "emulated", "--time-scale", "20"]
    arguments += ["--port", str(free_port(2)), "--data", str(tmp_path)]
    # A shell's job in the background has Ctrl-C ignored, and so would what it starts.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, former))
    with subprocess.Popen(
        [*DEDGEAI, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        assert "All nodes are ready" in said
        assert re.search(r"^ +\d+ s  node-0: .*worker", said, re.MULTILINE), said
        assert len(processes_of(tmp_path, "edge_node.worker")) == 2
        kill(int((tmp_path / "node-1" / "node.pid").read_text().split()[0]))
        assert process.stderr is not None
        ended = process.stderr.readline()
        assert ended.startswith("node-1 ended with code -9, and 1 of 2 nodes go on; its log ends w")
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert "All nodes are stopped." in rest
    assert processes_of(tmp_path, "") == []


def test_a_cluster_command_that_is_killed_leaves_no_node(tmp_path: Path) -> None:
    arguments = ("cluster", "--nodes", "1", "--engine", "emulated", "--port", str(free_port(1)))
    with subprocess.Popen(
        [*DEDGEAI, *arguments, "--data", str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while "Ctrl-C" not in (line := process.stdout.readline()):
            assert line
        process.kill()
        process.wait()
        # The node has no command line of its own to be found by, but its children have.
        deadline_s = time.monotonic() + 30
        while processes_of(tmp_path, "") and time.monotonic() < deadline_s:
            time.sleep(0.1)
    assert processes_of(tmp_path, "") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_cluster_command_that_is_told_to_end_leaves_no_folder(number: signal.Signals) -> None:
    arguments = ("cluster", "--nodes", "1", "--engine", "emulated", "--port", str(free_port(1)))
    with subprocess.Popen(
        [*DEDGEAI, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        folder = Path(said.split(" are in ")[1].strip().rstrip("."))
        assert folder.is_dir()
        while "Ctrl-C" not in (line := process.stdout.readline()):
            assert line
        process.send_signal(number)
        # Who is impatient says it again, while the nodes stop.
        node_log = folder / "node-0" / "node.log"
        while "Shutting down" not in node_log.read_text():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        rest, complained = process.communicate(timeout=60)
    assert "All nodes are stopped." in rest
    assert "Traceback" not in complained
    assert process.returncode == 0
    assert not folder.exists()
    assert processes_of(folder, "") == []


def test_a_port_in_use_is_named() -> None:
    port = free_port(1)
    with socket.create_server(("127.0.0.1", port + 1000)):
        code, said = asyncio.run(command("cluster", "--nodes", "1", "--port", str(port)))
    assert code == 2
    assert f"Port {port + 1000} is in use" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("polcy=local",), "Did you mean policy"),
        (("policy=fastest",), "unknown policy 'fastest'"),
        (("rest_port",), "not KEY=VALUE"),
    ],
)
def test_a_wrong_setting_ends_the_node_with_a_sentence(
    tmp_path: Path, settings: tuple[str, ...], said: str
) -> None:
    port = free_port(1)
    given = [
        f"data_folder={tmp_path}",
        f"rest_port={port}",
        f"grpc_port={port + 1000}",
        "engine=emulated",
    ]
    options = [part for setting in (*given, *settings) for part in ("--set", setting)]
    code, output = asyncio.run(command("node", *options))
    assert code == 2
    assert said in output
    assert "Traceback" not in output


def test_a_second_node_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        folder = cluster.folder / "node-0"
        code, output = await command("node", "--set", f"data_folder={folder}")
        assert code == 2
        assert "Another node uses" in output
        assert (await http.get(f"{cluster.urls[0]}/readyz")).status_code == 200

    on_cluster(tmp_path, EMULATED, test=test)
