"""Five devices of one inventory, brought up by one command, and what is renewed while they draw."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edge_node import cli
from edge_node.console.certs import Authority
from tests.deploy.files import DEPLOY, ROOT
from tests.system import lan
from tests.system.containers import SERVICES, Containers

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(lan.why_not()), reason=lan.why_not()),
]

NODES = 5
# Each device is a namespace, and its user's shell a shell in there.
SSH = """\
#!/bin/sh
while [ "$1" = -o ] || [ "$1" = -p ]; do shift 2; done
host="${1#*@}"
export CONTAINERS="$FLEET/$host/containers"
exec ip netns exec "$(cat "$FLEET/$host/namespace")" sh -c "$2"
"""
DOCKER = f"""\
#!/bin/sh
case "$*" in
"info --format"*) echo '{{"nvidia":{{}}}}' ; exit ;;
info | "compose version" | "compose pull"*) exit ;;
esac
export PYTHONPATH={ROOT}
exec {sys.executable} -m tests.system.containers "$@"
"""
INVENTORY = """\
[defaults]
user = "nvidia"
image = "dedgeai:jetpack6"
models_folder = "{models}"
node_exporter = false

[defaults.settings]
engine = "emulated"
time_scale = 20
heartbeat_s = 0.2
policy = "least_expected_delay"
drain_s = 1
"""
NODE = """
[[nodes]]
node_id = "{host}"
host = "{host}"
address = "{address}"
folder = "{folder}/app"
data_folder = "{folder}/data"
"""
REVOKED_S_MAX = 5.0


class Devices:
    """Machines with Docker and nothing on it, and the operator's folder with an inventory."""

    def __init__(self, folder: Path, network: lan.Lan) -> None:
        self.folder = folder
        self.hosts = [f"orin-{index}" for index in range(1, NODES + 1)]
        self.urls = [f"http://{network.address(index)}:8080" for index in range(NODES)]
        (folder / "bin").mkdir()
        for name, script in (("ssh", SSH), ("docker", DOCKER)):
            (folder / "bin" / name).write_text(script)
            (folder / "bin" / name).chmod(0o755)
        (folder / "models").mkdir()
        source = folder / "deploy"
        source.mkdir()
        for path in DEPLOY.iterdir():
            if path.name != "inventory.toml":
                (source / path.name).symlink_to(path)
        self.inventory, self.certs = source / "inventory.toml", source / "certs"
        text = INVENTORY.format(models=folder / "models")
        for index, host in enumerate(self.hosts):
            (folder / host).mkdir()
            (folder / host / "namespace").write_text(network.namespace(index))
            text += NODE.format(host=host, address=network.address(index), folder=folder / host)
        self.inventory.write_text(text)

    def log(self, host: str) -> str:
        return (self.folder / host / "containers" / "node.log").read_text(errors="replace")

    def stop(self) -> None:
        all_of_them = [Containers(self.folder / host / "containers") for host in self.hosts]
        for name in reversed(SERVICES):
            for containers in all_of_them:
                containers.signal(name, signal.SIGTERM)
            for containers in all_of_them:
                containers.stop(name)


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Devices]:
    with lan.Lan(NODES).up() as network:
        made = Devices(tmp_path, network)
        monkeypatch.setenv("FLEET", str(tmp_path))
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
        try:
            yield made
        finally:
            made.stop()


def said_by(*arguments: str) -> str:
    """What a command prints that ends well."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(arguments) == 0
    return said.getvalue()


class Load:
    """A client that asks one node after the other for drawings, several at a time."""

    def __init__(self, http: httpx.AsyncClient, urls: list[str], key: str) -> None:
        self.http, self.urls, self.key = http, urls, key
        self.answers: Counter[int] = Counter()
        # Of the last image, and of the first and last refusal.
        self.drawn_s = self.refused_s = 0.0
        self.wrong: list[str] = []
        self.stopping = False

    async def run(self) -> None:
        await asyncio.gather(*(self._ask(index) for index in range(NODES)))

    async def _ask(self, index: int) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        body = {"prompt": "a lighthouse", "num_inference_steps": 3}
        while not self.stopping:
            index = (index + 1) % NODES
            url = f"{self.urls[index]}/v1/images/generations"
            asked_s = time.monotonic()
            answer = await self.http.post(url, json=body, headers=headers)
            self.answers[answer.status_code] += 1
            if answer.status_code == 200:
                self.drawn_s = max(self.drawn_s, asked_s)
            elif answer.status_code != 401:
                self.wrong.append(f"{answer.status_code}: {answer.text[:200]}")
            await asyncio.sleep(0.1)


def test_five_devices_in_one_command_then_renewed_and_revoked_under_load(devices: Devices) -> None:
    said = said_by("deploy", "--inventory", str(devices.inventory))
    assert "All of it is up to date." in said
    operator = (devices.certs / "operator.key").read_text().strip()
    assert str(devices.certs / "operator.key") in said
    signing = ("--folder", str(devices.certs), "--to", devices.urls[0])
    alice = said_by("keys", "add", "alice", *signing).strip()
    bob = said_by("keys", "add", "bob", *signing).strip()

    async def story() -> None:
        async with httpx.AsyncClient(timeout=60.0, trust_env=False) as http:
            for url in devices.urls:
                await sees_all_others(http, url, operator)
                await lets_in(http, url, alice, bob)
                assert (await http.get(f"{url}/v1/models")).status_code == 401
            loads = [Load(http, devices.urls, key) for key in (alice, bob)]
            running = [asyncio.create_task(load.run()) for load in loads]
            await asyncio.sleep(2.0)
            await renewed_while_they_draw(devices)
            revoked_s = time.monotonic()
            await asyncio.to_thread(said_by, "keys", "revoke", "alice", *signing)
            await asyncio.sleep(REVOKED_S_MAX + 0.5)
            for load in loads:
                load.stopping = True
            await asyncio.gather(*running)
            check(*loads, revoked_s=revoked_s)
            for url in devices.urls:
                await sees_all_others(http, url, operator)

    asyncio.run(story())
    for host in devices.hosts:
        assert "broke a rule" not in devices.log(host)


def check(alice: Load, bob: Load, *, revoked_s: float) -> None:
    """No request failed but the revoked key's, and those of the time after."""
    assert alice.wrong + bob.wrong == []
    assert set(bob.answers) == {200}
    assert bob.answers[200] > 50
    assert min(alice.answers[200], alice.answers[401]) > 5
    assert alice.drawn_s - revoked_s < REVOKED_S_MAX


async def lets_in(http: httpx.AsyncClient, url: str, *keys: str) -> None:
    """Waits until a node knows these keys."""
    for key in keys:
        headers = {"Authorization": f"Bearer {key}"}
        async with asyncio.timeout(5):
            while (await http.get(f"{url}/v1/models", headers=headers)).status_code != 200:
                await asyncio.sleep(0.1)


async def sees_all_others(http: httpx.AsyncClient, url: str, operator: str) -> None:
    headers = {"Authorization": f"Bearer {operator}"}
    async with asyncio.timeout(20):
        while True:
            peers = (await http.get(f"{url}/v1/cluster", headers=headers)).json()["peers"]
            if sum(peer["alive"] and peer["accepting"] for peer in peers) == NODES - 1:
                return
            await asyncio.sleep(0.1)


async def renewed_while_they_draw(devices: Devices) -> None:
    """One certificate by hand, all others because they end soon; nothing is started again."""
    authority = Authority(devices.certs)
    for host in devices.hosts[1:]:
        authority.issue(host, days=30)
    rotate = ("certs", "rotate", devices.hosts[0], "--days", "365", "--folder", str(devices.certs))
    await asyncio.to_thread(said_by, *rotate)
    deploy = ("deploy", "--inventory", str(devices.inventory), "--certificates")
    assert "All of it is up to date." in await asyncio.to_thread(said_by, *deploy)
    async with asyncio.timeout(15):
        for host in devices.hosts:
            while "is renewed" not in devices.log(host):
                await asyncio.sleep(0.1)
            assert "stopping: no new tasks" not in devices.log(host)
