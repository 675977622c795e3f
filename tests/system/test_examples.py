"""The scripts of docs/examples do what they say."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sys
from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, decoded, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "docs" / "examples"


async def run(*command: str | Path, cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    return said.decode()


def test_every_example_runs(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed, which task.sh calls")
    captions = tmp_path / "captions.txt"
    captions.write_text("a red circle\n\na blue star\na green square\n")
    drawn = tmp_path / "drawn"

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        node = cluster.urls[0]
        said = await run(sys.executable, EXAMPLES / "openai_sdk.py", node, cwd=tmp_path)
        assert said.startswith("drawn by node-")
        said = await run("sh", EXAMPLES / "task.sh", node, cwd=tmp_path)
        assert said.splitlines()[0] == "event: queued"
        assert said.splitlines()[-1] == "event: finished"
        batch: list[str | Path] = [
            sys.executable,
            EXAMPLES / "batch.py",
            captions,
            drawn,
            *cluster.urls,
        ]
        said = await run(*batch, cwd=tmp_path)
        assert {"node-0", "node-1"} == {line.split()[-1] for line in said.splitlines()}
        ids = await tasks_kept(cluster)
        assert len(await run(*batch, cwd=tmp_path)) == len(said)
        assert await tasks_kept(cluster) == ids, "a second run of a batch draws nothing again"

    on_cluster(tmp_path / "data", *[EMULATED | {"policy": "round_robin"}] * 2, test=test)
    for path in (tmp_path / "sdk.png", tmp_path / "task.png", *sorted(drawn.iterdir())):
        assert decoded(path.read_bytes()).size[0] > 0
    assert [path.name for path in sorted(drawn.iterdir())] == ["0000.png", "0001.png", "0002.png"]


async def tasks_kept(cluster: LocalCluster) -> set[str]:
    """Ids of every image that a node keeps."""
    folders = [cluster.folder / node / "images" for node in cluster.node_ids]
    return {path.name for folder in folders for path in folder.glob("*.png")}


def page_without_breaks() -> str:
    return (ROOT / "docs" / "own_policy.md").read_text().replace("\\\n", " ")


def test_a_policy_of_ones_own_decides_at_a_node_and_in_the_laboratory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    commands = re.findall(r"^PYTHONPATH=docs/examples (.*)$", page_without_breaks(), re.MULTILINE)
    for command in commands:
        program, *arguments = shlex.split(command)
        by = ["-m", "edge_node.cli"] if program == "dedgeai" else []  # else it is python
        said = asyncio.run(run(sys.executable, *by, *arguments, cwd=ROOT))
        assert "own_policy:Curious" in said
    assert len(commands) == 2

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        tasks = [await submit(http, url, num_inference_steps=2) for _ in range(20)]
        ended = [await wait_for(http, url, task["id"]) for task in tasks]
        assert {one["policy"] for one in ended} == {"curious"}
        assert {one["executor"] for one in ended} == {"node-0", "node-1"}

    own = EMULATED | {"policy": "own_policy:Curious", "policy_options": "explore=1.0"}
    on_cluster(tmp_path, own, own, test=test)
