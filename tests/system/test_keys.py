"""API keys on real nodes: given out by the command, asked for at once, one client's apart."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, AuthenticationError

from edge_node import cli
from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster, wait_for

pytestmark = pytest.mark.system


def command(capsys: Any, *arguments: str) -> str:
    assert cli.main(["keys", *arguments]) == 0
    return str(capsys.readouterr().out.strip())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def test_keys_are_asked_for_from_the_first_to_the_last(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "keys.json"
    where = ("--set", f"keys_file={file}")
    settings = {**EMULATED, "keys_file": str(file)}

    async def refused(http: httpx.AsyncClient, url: str, key: str) -> None:
        async with asyncio.timeout(5):
            while True:
                answer = await http.get(f"{url}/v1/models", headers=bearer(key))
                if answer.status_code == 401:
                    return
                await asyncio.sleep(0.1)

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        body = {"prompt": "a fox", "num_inference_steps": 2}
        before = (await http.post(f"{cluster.urls[0]}/v1/tasks", json=body)).json()["id"]
        await wait_for(http, cluster.urls[0], before)
        alice = command(capsys, "add", "alice", *where)
        bob = command(capsys, "add", "bob", "--scopes", "read", *where)
        operator = command(capsys, "add", "eve", "--scopes", "operate", *where)
        for url in cluster.urls:
            await refused(http, url, "")
        # As people have it: the SDK, and nothing changed but the address and the key.
        async with AsyncOpenAI(base_url=f"{cluster.urls[0]}/v1", api_key=alice) as client:
            drawn = await client.images.generate(model="sd3-medium-emulated", prompt="a fox", n=1)
            assert drawn.data
        async with AsyncOpenAI(
            base_url=f"{cluster.urls[0]}/v1", api_key="sk-none", max_retries=0
        ) as stranger:
            with pytest.raises(AuthenticationError, match="dedgeai keys add"):
                await stranger.images.generate(model="sd3-medium-emulated", prompt="a fox")
        task = (
            await http.post(f"{cluster.urls[0]}/v1/tasks", json=body, headers=bearer(alice))
        ).json()["id"]
        keys = (alice, bob, operator)
        # Whichever node is asked, and after a restart, too.
        for _ in range(2):
            for url in cluster.urls:
                async with asyncio.timeout(20):  # a node that begins anew has to be met first
                    while 503 in (seen := await answers(http, f"{url}/v1/tasks/{task}", keys)):
                        await asyncio.sleep(0.1)
                assert seen == [200, 404, 200]
                # Nobody learns whether another's is there.
                none = task[:-1] + ("1" if task.endswith("0") else "0")
                said = set()
                for one in (task, none):
                    answer = await http.get(f"{url}/v1/tasks/{one}", headers=bearer(bob))
                    said.add(answer.text.replace(one, ""))
                assert len(said) == 1, said
                of_nobody = await http.get(f"{url}/v1/tasks/{before}", headers=bearer(alice))
                assert of_nobody.status_code == 404
            cluster.signal_node(0, signal.SIGTERM)
            await asyncio.to_thread(cluster.wait_node, 0)
            cluster.start_node(0)
            await ready(http, cluster.urls[0])
        command(capsys, "revoke", "alice", *where)
        for url in cluster.urls:
            await refused(http, url, alice)
        listed = command(capsys, "list", *where).splitlines()
        assert [line.split()[3] for line in listed] == ["alice", "bob", "eve"]
        assert ["revoked" in line for line in listed] == [True, False, False]
        for node_id in cluster.node_ids:
            log = (cluster.folder / node_id / "node.log").read_text()
            assert "keys in force" in log
            assert alice not in log
            assert "a fox" not in log

    on_cluster(tmp_path, settings, settings, test=test)
    assert json.loads(file.read_text())["version"] == 4


async def answers(http: httpx.AsyncClient, url: str, keys: tuple[str, ...]) -> list[int]:
    return [(await http.get(url, headers=bearer(key))).status_code for key in keys]


async def ready(http: httpx.AsyncClient, url: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                if (await http.get(f"{url}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


def test_what_cannot_be_a_key_is_said(tmp_path: Path, capsys: Any) -> None:
    where = ("--set", f"data_folder={tmp_path}")
    assert "requests need none" in command(capsys, "list", *where)
    for arguments, said in (
        (("add", "alice", "--scopes", "draw"), "There is no scope 'draw'"),
        (("add", "alice", "--scopes", ""), "allows something"),
        (("add", ""), "printable characters"),
        (("revoke", "alice"), "no key in force"),
        (("add",), "whose?"),
        (("revoke",), "whose?"),
    ):
        assert cli.main(["keys", *arguments, *where]) != 0
        assert said in capsys.readouterr().err
    assert not (tmp_path / "keys.json").exists()


def test_a_keys_images_of_the_day_are_those_of_all_nodes(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "keys.json"
    where = ("--set", f"keys_file={file}")
    settings = {**EMULATED, "keys_file": str(file)}

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        alice = bearer(command(capsys, "add", "alice", "--images-per-day", "3", *where))
        body = {"prompt": "a fox", "num_inference_steps": 1, "n": 2}

        async def asked(url: str, **changes: Any) -> httpx.Response:
            return await http.post(f"{url}/v1/tasks", json={**body, **changes}, headers=alice)

        async with asyncio.timeout(5):
            for url in cluster.urls:
                while (await http.get(f"{url}/v1/models")).status_code != 401:
                    await asyncio.sleep(0.1)
        assert (await asked(cluster.urls[0])).status_code == 202
        await asyncio.sleep(1.0)  # a few heartbeats
        refused = await asked(cluster.urls[1])
        assert refused.status_code == 429
        assert "has asked for 2" in refused.json()["error"]["message"]
        # Nor does a restart of the node at which they were asked for give them back.
        cluster.signal_node(0, signal.SIGTERM)
        await asyncio.to_thread(cluster.wait_node, 0)
        cluster.start_node(0)
        await ready(http, cluster.urls[0])
        assert (await asked(cluster.urls[0])).status_code == 429
        assert (await asked(cluster.urls[0], n=1)).status_code == 202
        command(capsys, "limit", "alice", "--images-per-day", "5", *where)
        async with asyncio.timeout(5):
            while (await asked(cluster.urls[1])).status_code != 202:
                await asyncio.sleep(0.1)
        assert "(5 images a day)" in command(capsys, "list", *where)

    on_cluster(tmp_path / "nodes", settings, settings, test=test)
