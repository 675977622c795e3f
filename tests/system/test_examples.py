"""The scripts of docs/examples do what they say."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, decoded, on_cluster

pytestmark = pytest.mark.system
EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"


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
