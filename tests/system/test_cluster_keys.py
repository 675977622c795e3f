"""One list of keys for a cluster of real nodes over mTLS: handed to one, in force at all."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node import cli
from edge_node.console.certs import Authority
from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster

pytestmark = pytest.mark.system

REACHED_S_MAX = 5.0


def command(capsys: Any, *arguments: str) -> str:
    assert cli.main(["keys", *arguments]) == 0
    return str(capsys.readouterr().out.strip())


async def status(http: httpx.AsyncClient, url: str, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return (await http.get(f"{url}/v1/models", headers=headers)).status_code


async def everywhere(
    http: httpx.AsyncClient, urls: list[str], key: str, wanted: int, *, since_s: float
) -> None:
    """Every node answers so, within the time that is promised."""
    for url in urls:
        while (seen := await status(http, url, key)) != wanted:
            assert time.monotonic() - since_s < REACHED_S_MAX, (url, seen)
            await asyncio.sleep(0.05)


async def answering(http: httpx.AsyncClient, url: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await http.get(f"{url}/livez")
                return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


def test_a_change_handed_to_one_node_is_in_force_at_all(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "certs"
    authority = Authority.begin(folder, cluster_name="dedgeai")
    # As on devices of their own: what the authority writes later does not reach them by itself.
    settings = [
        {
            **EMULATED,
            "tls_folder": str(
                shutil.copytree(authority.issue(f"node-{index}", days=1), tmp_path / f"tls-{index}")
            ),
        }
        for index in range(3)
    ]
    signing = ("--folder", str(folder))

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        urls = cluster.urls

        async def handed(*arguments: str) -> tuple[str, float]:
            since_s = time.monotonic()
            told = await asyncio.to_thread(command, capsys, *arguments, *signing)
            return told, since_s

        await everywhere(http, urls, "", 200, since_s=time.monotonic())
        alice, since_s = await handed("add", "alice", "--to", urls[0])
        await everywhere(http, urls, "", 401, since_s=since_s)
        await everywhere(http, urls, alice, 200, since_s=since_s)
        # By the file of another node, while the third is away.
        cluster.signal_node(2, signal.SIGTERM)
        await asyncio.to_thread(cluster.wait_node, 2)
        bob, since_s = await handed("add", "bob", "--to", urls[0])
        await everywhere(http, urls[:2], bob, 200, since_s=since_s)
        at_second = f"data_folder={cluster.folder / 'node-1'}"
        _, since_s = await handed("revoke", "alice", "--set", at_second)
        await everywhere(http, urls[:2], alice, 401, since_s=since_s)
        cluster.start_node(2)
        await answering(http, urls[2])
        since_s = time.monotonic()
        await everywhere(http, urls, alice, 401, since_s=since_s)
        await everywhere(http, urls, bob, 200, since_s=since_s)
        # What is older, or signed by nobody, is not taken.
        held = (cluster.folder / "node-2" / "keys.json").read_bytes()
        _, since_s = await handed("revoke", "bob", "--to", urls[2])
        await everywhere(http, urls, bob, 401, since_s=since_s)
        for text, code in ((held, 409), (held.replace(b"bob", b"eve"), 403)):
            body = {"signed_list": text.decode()}
            assert (await http.put(f"{urls[1]}/v1/keys", json=body)).status_code == code
        await everywhere(http, urls, bob, 401, since_s=time.monotonic())

    on_cluster(tmp_path / "nodes", *settings, test=test)


def test_a_key_is_revoked_and_certificates_renewed_under_load_and_nobody_else_notices(
    tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "certs"
    authority = Authority.begin(folder, cluster_name="dedgeai")
    settings = [
        {**EMULATED, "tls_folder": str(authority.issue(f"node-{index}", days=1))}
        for index in range(3)
    ]
    answers: dict[str, list[tuple[float, int]]] = {"alice": [], "bob": []}

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        def changed(*arguments: str) -> str:
            to = ("--folder", str(folder), "--to", cluster.urls[0])
            return command(capsys, *arguments, *to)

        keys = {name: await asyncio.to_thread(changed, "add", name) for name in answers}
        for key in keys.values():
            await everywhere(http, cluster.urls, key, 200, since_s=time.monotonic())

        async def load(name: str, url: str) -> None:
            headers = {"Authorization": f"Bearer {keys[name]}"}
            while True:
                body = {"prompt": name, "num_inference_steps": 1}
                answer = await http.post(f"{url}/v1/tasks", json=body, headers=headers)
                answers[name].append((time.monotonic(), answer.status_code))
                await asyncio.sleep(0.05)

        loads = [asyncio.create_task(load(name, url)) for name in answers for url in cluster.urls]
        await asyncio.sleep(1.0)
        for index in range(3):
            authority.issue(f"node-{index}", days=1)
        await asyncio.to_thread(changed, "revoke", "alice")
        revoked_s = time.monotonic()
        await asyncio.sleep(REACHED_S_MAX + 1.0)
        assert not any(one.done() for one in loads)
        for one in loads:
            one.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        assert {code for _, code in answers["bob"]} == {202}
        assert {code for _, code in answers["alice"]} == {202, 401}
        late = [code for at_s, code in answers["alice"] if at_s > revoked_s + REACHED_S_MAX]
        assert late
        assert set(late) == {401}
        shown = await http.get(
            f"{cluster.urls[0]}/v1/cluster", headers={"Authorization": f"Bearer {keys['bob']}"}
        )
        nodes = [shown.json()["own"], *shown.json()["peers"]]
        assert len({one["keys_version"] for one in nodes}) == 1
        assert nodes[0]["keys_version"] > 1

    on_cluster(tmp_path / "nodes", *settings, test=test)


def test_the_list_of_a_cluster_is_signed_where_its_authority_is(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Authority.begin(Path("certs"), cluster_name="lab")
    alice = command(capsys, "add", "alice")
    assert "-----BEGIN CERTIFICATE" in Path("certs/keys.json").read_text()
    assert alice.startswith("dedgeai_")
    assert "alice" in command(capsys, "list")
    before = Path("certs/keys.json").read_bytes()
    assert cli.main(["certs", "rotate", "--authority", "new"]) == 0
    assert "signed anew" in capsys.readouterr().out
    assert Path("certs/keys.json").read_bytes() != before
    for arguments, said in (
        (("add", "alice"), "revoke it first"),
        (("push", "--to", "http://127.0.0.1:9"), "did not take it: it does not answer"),
        (("push", "--to", "http://127.0.0.1:9", "--set", "node_id=a"), "no authority in certs"),
        (("add", "bob", "--folder", "elsewhere"), "There is no authority in elsewhere"),
        (("list", "--set", "tls_folder=t", "--folder", "elsewhere"), "There is no authority"),
    ):
        assert cli.main(["keys", *arguments]) == 2
        assert said in capsys.readouterr().err
    Path("certs/keys.json").write_text("{}")
    assert cli.main(["keys", "list"]) == 2
    assert "not signed" in capsys.readouterr().err
