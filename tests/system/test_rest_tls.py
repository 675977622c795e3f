"""A node over TLS, and this project's own commands as its clients."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node import cli
from edge_node.client.connection import trusted
from edge_node.console.certs import Authority
from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, cluster_of

pytestmark = pytest.mark.system


def test_commands_reach_a_node_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    authority = Authority.begin(tmp_path / "certs", cluster_name="dedgeai")
    folder = authority.issue("node-0", days=30, hosts=["127.0.0.1"])
    settings = {**EMULATED, "rest_tls": True, "tls_folder": str(folder)}
    monkeypatch.setenv("DEDGEAI_CA_FILE", str(folder / "ca.pem"))

    async def started(cluster: LocalCluster) -> None:
        async with cluster:
            url = cluster.urls[0]
            assert url.startswith("https://127.0.0.1:")
            async with httpx.AsyncClient(verify=trusted(), trust_env=False) as http:
                own = (await http.get(f"{url}/v1/cluster")).json()["own"]
                assert own["rest_url"] == url
            port = url.rpartition(":")[2]
            at = ("--set", f"rest_port={port}", "--set", "rest_tls=true")
            folder_at = ("--set", f"tls_folder={folder}", "--set", "node_id=node-0")
            assert await to_thread("health", "node", *at, *folder_at) == 0
            assert "ready" in capsys.readouterr().out
            image = tmp_path / "image.png"
            drawn = await to_thread("generate", "a fox", "--node", url, "--out", str(image))
            assert drawn == 0
            assert image.read_bytes().startswith(b"\x89PNG")
            assert await to_thread("dead-letters", "--node", url) == 0

    asyncio.run(started(cluster_of(tmp_path, settings)))


async def to_thread(*arguments: str) -> int:
    return await asyncio.to_thread(cli.main, list(arguments))
