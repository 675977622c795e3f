"""A machine whose clock of the day is set under a real node and its real store; see set_clock.c."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from tests.system.local import EMULATED, cluster_of, kill, submit, wait_for

pytestmark = pytest.mark.system
TEN_DAYS_S = 864_000.0
QUICK = {**EMULATED, "time_scale": 50, "clock_wait_s_max": 2.0}
DEADLINE_S = 600


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make the clock that is set with")
    made = tmp_path_factory.mktemp("clock") / "set_clock.so"
    source = Path(__file__).with_name("set_clock.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", str(made), str(source)], check=True)
    return made


class Machine(LocalCluster):
    """One node on a machine whose clock can be set, that can boot, and lose its power."""

    def __init__(self, folder: Path, library: Path, settings: dict[str, Any]) -> None:
        one = cluster_of(folder, settings)
        super().__init__([settings], rest_port=int(one.urls[0].rpartition(":")[2]), folder=folder)
        self._library = library
        self._ahead = folder / "ahead"
        self._booted_s = 0.0
        self.set_clock(0.0)

    def set_clock(self, ahead_s: float, *, synchronised: bool = False) -> None:
        written = self._ahead.with_suffix(".new")
        written.write_text(f"{ahead_s} {int(synchronised)} {self._booted_s}")
        written.replace(self._ahead)

    def _environment(self, index: int) -> dict[str, str]:
        preloaded = {"LD_PRELOAD": str(self._library), "SET_CLOCK": str(self._ahead)}
        return {**super()._environment(index), **preloaded}

    @property
    def log(self) -> str:
        return (self.folder / "node-0" / "node.log").read_text(errors="replace")

    async def lose_power(self) -> None:
        store = self.child_pid(0, "store")
        self.signal_node(0, signal.SIGKILL)
        kill(store)
        self.wait_node(0)

    def boot(self) -> None:
        """What the node left is of another boot from now on; to be called before `set_clock`."""
        self._booted_s = time.clock_gettime(time.CLOCK_BOOTTIME) - 10.0
        path = self.folder / "node-0" / "clock.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "another"}))

    async def begin(self) -> None:
        self.start_node(0)
        async with RestClient(timeout_s=5) as client:
            await self.wait_ready(client, 0)


def on(
    folder: Path,
    library: Path,
    settings: dict[str, Any],
    story: Callable[[Machine, httpx.AsyncClient], Awaitable[None]],
) -> None:
    async def run() -> None:
        machine = Machine(folder, library, settings)
        try:
            await machine.begin()
            async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
                await story(machine, http)
        finally:
            machine.stop()

    asyncio.run(run())


async def ready_notes(machine: Machine, http: httpx.AsyncClient) -> str:
    ready = await http.get(f"{machine.urls[0]}/readyz")
    assert ready.status_code == 200, ready.text
    return " ".join(ready.json().get("notes", ()))


def test_a_step_within_a_life_and_back_costs_nothing(tmp_path: Path, library: Path) -> None:
    async def story(machine: Machine, http: httpx.AsyncClient) -> None:
        url = machine.urls[0]
        ended = await submit(http, url, num_inference_steps=1, seed=1)
        assert (await wait_for(http, url, ended["id"]))["status"] == "completed"
        waiting = await submit(http, url, num_inference_steps=30, deadline_s=DEADLINE_S)
        machine.set_clock(TEN_DAYS_S)
        during = await submit(http, url, num_inference_steps=1, deadline_s=DEADLINE_S)
        await asyncio.sleep(2.0)
        assert "864000 s ahead of the node's" in await ready_notes(machine, http)
        machine.set_clock(0.0)
        for task in (waiting, during):
            assert (await wait_for(http, url, task["id"]))["status"] == "completed"
        assert await ready_notes(machine, http) == ""
        assert (await http.get(f"{url}/v1/tasks/{ended['id']}/image")).status_code == 200

    on(tmp_path, library, {**EMULATED, "time_scale": 5}, story)


@pytest.mark.parametrize(
    ("step_s", "boots", "synchronised"),
    [
        (TEN_DAYS_S, False, False),
        (TEN_DAYS_S, True, False),
        (-TEN_DAYS_S, True, False),
        (-TEN_DAYS_S, False, True),
    ],
    ids=["ahead", "boots ahead", "boots in the past", "mended behind"],
)
def test_a_jump_between_two_lives_ends_no_task_and_loses_no_image(
    tmp_path: Path, library: Path, step_s: float, boots: bool, synchronised: bool
) -> None:
    """Images and finished tasks are kept for seven days, and the jump is of ten."""

    async def story(machine: Machine, http: httpx.AsyncClient) -> None:
        url = machine.urls[0]
        ended = await submit(http, url, num_inference_steps=1, seed=1)
        assert (await wait_for(http, url, ended["id"]))["status"] == "completed"
        # Nothing is drawn while the worker stands still.
        worker = machine.child_pid(0, "worker")
        os.kill(worker, signal.SIGSTOP)
        owed = await submit(http, url, num_inference_steps=1, seed=2, deadline_s=DEADLINE_S)
        await machine.lose_power()
        kill(worker)
        if boots:
            machine.boot()
        machine.set_clock(step_s, synchronised=synchronised)
        await machine.begin()
        said = machine.log
        assert ("Waiting 2 s for that at most" in said) == boots
        assert ("what is stored is dated anew" in said) == synchronised
        assert bool(await ready_notes(machine, http)) != synchronised
        drawn = await wait_for(http, url, owed["id"])
        assert (drawn["status"], drawn["error"]) == ("completed", None)
        assert 0 <= drawn["finished_at"] - drawn["created_at"] < 120
        for path in (ended["id"], f"{ended['id']}/image"):
            answer = await http.get(f"{url}/v1/tasks/{path}")
            assert answer.status_code == 200, answer.text
        # The next life finds nothing odd in what this one left.
        machine.signal_node(0, signal.SIGTERM)
        machine.wait_node(0)
        before = len(machine.log)
        await machine.begin()
        again = machine.log[before:]
        assert "dated anew" not in again
        assert (await http.get(f"{url}/v1/tasks/{ended['id']}/image")).status_code == 200

    on(tmp_path, library, QUICK, story)


def test_a_clock_that_is_synchronised_while_the_node_waits_is_taken(
    tmp_path: Path, library: Path
) -> None:
    async def story(machine: Machine, http: httpx.AsyncClient) -> None:
        url = machine.urls[0]
        machine.signal_node(0, signal.SIGTERM)
        machine.wait_node(0)
        machine.boot()
        machine.set_clock(-TEN_DAYS_S)
        machine.start_node(0)
        async with asyncio.timeout(30):
            while "for that at most" not in machine.log:
                await asyncio.sleep(0.05)
        machine.set_clock(0.0, synchronised=True)
        async with RestClient(timeout_s=5) as client:
            await machine.wait_ready(client, 0, ready_s_max=30.0)
        assert "the machine's clock is right again" in machine.log
        assert await ready_notes(machine, http) == ""
        task = await submit(http, url, num_inference_steps=1)
        assert (await wait_for(http, url, task["id"]))["status"] == "completed"

    on(tmp_path, library, {**QUICK, "clock_wait_s_max": 120.0}, story)


def test_a_step_leaves_a_learner_at_its_work(tmp_path: Path, library: Path) -> None:
    """What it knows is forgotten when it stops; torch is loaded at the lowest priority."""
    settings = {**EMULATED, "policy": "lad_ts", "learner": True}

    async def story(machine: Machine, http: httpx.AsyncClient) -> None:
        said = tmp_path / "node-0" / "run" / "learner.log"
        async with asyncio.timeout(180):
            while not said.exists() or "learns for the cluster" not in said.read_text():
                await asyncio.sleep(0.2)
        before = len(machine.log)
        for ahead_s in (TEN_DAYS_S, -TEN_DAYS_S, 0.0):
            machine.set_clock(ahead_s)
            until_s = time.monotonic() + 3.0
            while time.monotonic() < until_s:
                own = (await http.get(f"{machine.urls[0]}/v1/cluster")).json()["own"]
                assert own["learning"]["learner"] == "node-0"
                await asyncio.sleep(0.1)
        assert "learns no more" not in said.read_text()
        assert "learns for policy" not in machine.log[before:]

    on(tmp_path, library, settings, story)


def test_peers_whose_clocks_are_days_apart_draw_for_each_other_and_say_so(
    tmp_path: Path, library: Path
) -> None:
    async def story() -> None:
        settings = [QUICK, QUICK]
        cluster = cluster_of(tmp_path, *settings)
        ahead = tmp_path / "ahead"
        ahead.write_text(f"{TEN_DAYS_S} 0")
        os.environ["SET_CLOCK"] = str(ahead)
        try:
            cluster.start_node(0)
            os.environ["LD_PRELOAD"] = str(library)
            cluster.start_node(1)
        finally:
            os.environ.pop("LD_PRELOAD", None)
            del os.environ["SET_CLOCK"]
        try:
            async with RestClient(timeout_s=5) as client:
                for index in (0, 1):
                    await cluster.wait_ready(client, index)
            async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
                first, second = cluster.urls
                async with asyncio.timeout(20):
                    while "notes" not in (await http.get(f"{first}/readyz")).json():
                        await asyncio.sleep(0.1)
                (note,) = (await http.get(f"{first}/readyz")).json()["notes"]
                assert note == "the clock of node-1 is 864000 s ahead of this node's"
                (peer,) = (await http.get(f"{second}/v1/cluster")).json()["peers"]
                assert peer["clock_ahead_s"] == pytest.approx(-TEN_DAYS_S, abs=0.5)
                tasks = [
                    await submit(http, first, num_inference_steps=4, deadline_s=DEADLINE_S)
                    for _ in range(12)
                ]
                drawn = [await wait_for(http, first, task["id"]) for task in tasks]
                assert {task["status"] for task in drawn} == {"completed"}
                assert {task["executor"] for task in drawn} == {"node-0", "node-1"}
        finally:
            cluster.stop()

    asyncio.run(story())
