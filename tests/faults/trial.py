"""Everything that goes wrong with a node, one after the other and several times, under load.

Owns the faults and the account of it. Three real nodes with emulated devices, real stores and a
real small disk are given tasks all the time. In each round every fault comes once: a node, a store
and a worker killed, each of them frozen, a full disk, a garbled store, a clock that is set, poison,
large uploads, idle connections. Every task that was accepted is followed to its end, and every node
is asked all the time whether it is ready. What must not be: a task that is lost, and a node that
says ready while a task that it accepted does not move.

    python -m tests.faults.trial --rounds 3

Needs a C compiler (for the clock) and root (for the disk, a tmpfs); without, these faults are left
out, as the list of faults in the result shows.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from benchmarks import machine
from edge_node.console.local_cluster import LocalCluster, free_rest_port
from edge_node.console.rest_client import RestClient
from edge_node.errors import DEdgeAIError
from edge_node.store.append_only import FOLDER
from tests.system.local import processes_of

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "trial.json"
NODES = 3
SETTINGS: dict[str, Any] = {
    "engine": "emulated",
    "time_scale": 20,
    "heartbeat_s": 0.2,
    "suspect_s": 1.5,
    "lease_s": 2.0,
    "clock_wait_s_max": 2.0,
    "disk_free_bytes_min": 8 << 20,
    "image_bytes_total_max": 16 << 20,
}
DISK_BYTES = 192 << 20
# A task is looked at so often, and stands still when nothing of it changed for so long: longer than
# a frozen worker is found in (5 s beyond its longest operation), started again and calibrated.
LOOK_S = 0.5
STILL_S = 15.0
SUBMIT_S = 0.4
SETTLE_S_MAX = 120.0
FAULT_S = 6.0
PAUSE_S = 4.0
POISON = "poison"


@dataclass
class Followed:
    """A task that a node said yes to."""

    node: int
    fault: str
    poison: bool = False
    shown: tuple[Any, ...] = ()
    changed_s: float = field(default_factory=time.monotonic)
    end: str = ""
    error: str = ""


class Machines(LocalCluster):
    """Nodes, each with its own clock and one with a small disk."""

    def __init__(self, folder: Path, *, library: Path | None) -> None:
        port = free_rest_port(first=random.randrange(20_000, 30_000), nodes=NODES)
        super().__init__([SETTINGS] * NODES, rest_port=port, folder=folder)
        self.library = library

    def set_clock(self, index: int, ahead_s: float) -> None:
        """Sets the clock of one node's machine."""
        written = self.folder / f"clock-{index}.new"
        written.write_text(f"{ahead_s} 0")
        written.replace(self.folder / f"clock-{index}")

    def running_child(self, index: int, name: str) -> int:
        """A node's worker or store; a full disk may have kept its record from being written."""
        word = {"store": "valkey-server", "worker": "edge_node.worker"}[name]
        found = processes_of((self.folder / self.node_ids[index]).resolve(), word)
        if not found:
            raise ProcessLookupError(f"{self.node_ids[index]} has no {name} at present")
        return found[0]

    def _environment(self, index: int) -> dict[str, str]:
        told = super()._environment(index)
        if self.library is not None:
            clock = self.folder / f"clock-{index}"
            told |= {"LD_PRELOAD": str(self.library), "SET_CLOCK": str(clock)}
        return told


class Trial:
    """The load, the faults and the account."""

    def __init__(self, machines: Machines, http: httpx.AsyncClient, *, disk: Path | None) -> None:
        self.machines, self.http, self.disk = machines, http, disk
        self.tasks: dict[str, Followed] = {}
        self.answers: Counter[str] = Counter()
        self.fault = "none"
        self.ready = [False] * NODES
        self.still_s = 0.0
        self.stills: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.submitting = True

    # The load.

    async def submit(self, node: int, prompt: str = "a red circle", **body: Any) -> str | None:
        """One task; None where it was not accepted, which is no fault."""
        url = self.machines.urls[node]
        body = {"prompt": prompt, "num_inference_steps": random.randint(2, 12), **body}
        try:
            answer = await self.http.post(f"{url}/v1/tasks", json=body)
        except httpx.HTTPError as error:
            self.answers[type(error).__name__] += 1
            return None
        self.answers[str(answer.status_code)] += 1
        if answer.status_code != 202:
            return None
        task_id = str(answer.json()["id"])
        self.tasks[task_id] = Followed(node=node, fault=self.fault, poison=prompt == POISON)
        return task_id

    async def load(self) -> None:
        """Submits until told to stop, to nodes in turn."""
        node = 0
        while self.submitting:
            node = (node + 1) % NODES
            await asyncio.gather(self.submit(node), asyncio.sleep(SUBMIT_S))

    # The account.

    async def watch(self) -> None:
        """Looks at every node and every task that has not ended, until it is cancelled."""
        last_s = time.monotonic()
        while True:
            began_s = time.monotonic()
            await asyncio.gather(*(self._look_at_node(node) for node in range(NODES)))
            open_tasks = [(i, one) for i, one in self.tasks.items() if not one.end]
            await asyncio.gather(*(self._look_at_task(i, one) for i, one in open_tasks))
            self._count_still(time.monotonic() - last_s)
            last_s = time.monotonic()
            await asyncio.sleep(max(0.0, LOOK_S - (time.monotonic() - began_s)))

    async def _look_at_node(self, node: int) -> None:
        try:
            answer = await self.http.get(f"{self.machines.urls[node]}/readyz", timeout=2.0)
            self.ready[node] = answer.status_code == 200
        except httpx.HTTPError:
            self.ready[node] = False

    async def _look_at_task(self, task_id: str, one: Followed) -> None:
        url = f"{self.machines.urls[one.node]}/v1/tasks/{task_id}"
        try:
            answer = await self.http.get(url, timeout=5.0)
            shown = answer.json()
        except (httpx.HTTPError, ValueError):
            return
        if answer.status_code == 404:
            one.end = "lost"
        if answer.status_code != 200:
            return
        seen = tuple(
            shown.get(name) for name in ("status", "attempt", "executor", "step", "queue_position")
        )
        if seen != one.shown:
            one.shown, one.changed_s = seen, time.monotonic()
        if shown["status"] in ("completed", "failed", "cancelled"):
            one.end = shown["status"]
            one.error = (shown.get("error") or {}).get("code", "")

    def _count_still(self, passed_s: float) -> None:
        now_s = time.monotonic()
        still = [
            (task_id, one)
            for task_id, one in self.tasks.items()
            if not one.end and self.ready[one.node] and now_s - one.changed_s > STILL_S
        ]
        if still:
            self.still_s += passed_s
            task_id, one = still[0]
            if not self.stills or self.stills[-1]["task"] != task_id:
                told = {"task": task_id, "during": self.fault, "accepted_during": one.fault}
                self.stills.append({**told, "shown": list(one.shown), "tasks": len(still)})

    # The faults.

    async def ready_again(self, node: int) -> None:
        """Waits until a node would take requests."""
        async with RestClient(timeout_s=5) as client:
            await self.machines.wait_ready(client, node, ready_s_max=60.0)

    async def kill_node(self, node: int) -> None:
        """kill -9, and started again."""
        self.machines.signal_node(node, signal.SIGKILL)
        self.machines.wait_node(node)
        self.machines.start_node(node)
        await self.ready_again(node)

    async def kill_child(self, node: int, child: str) -> None:
        """kill -9 of a worker or a store."""
        os.kill(self.machines.running_child(node, child), signal.SIGKILL)
        await asyncio.sleep(FAULT_S)
        await self.ready_again(node)

    async def freeze_child(self, node: int, child: str) -> None:
        """SIGSTOP of a worker or a store, for ever."""
        os.kill(self.machines.running_child(node, child), signal.SIGSTOP)
        await asyncio.sleep(2 * FAULT_S)
        await self.ready_again(node)

    async def freeze_node(self, node: int) -> None:
        """SIGSTOP of the node, for some seconds."""
        self.machines.signal_node(node, signal.SIGSTOP)
        await asyncio.sleep(FAULT_S)
        self.machines.signal_node(node, signal.SIGCONT)
        await self.ready_again(node)

    async def fill_disk(self, node: int) -> None:
        """No byte is left on the disk of the first node, for some seconds."""
        assert self.disk is not None
        ballast = self.disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        await asyncio.sleep(FAULT_S)
        ballast.unlink()
        await self.ready_again(0)

    async def garble_store(self, node: int) -> None:
        """A power cut that leaves zeros at the end of the store's file."""
        store = self.machines.running_child(node, "store")
        self.machines.signal_node(node, signal.SIGKILL)
        os.kill(store, signal.SIGKILL)
        self.machines.wait_node(node)
        folder = self.machines.folder / self.machines.node_ids[node] / "store" / FOLDER
        newest = max(folder.glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
        with newest.open("ab") as file:
            file.write(bytes(4096))
        self.machines.start_node(node)
        await self.ready_again(node)

    async def set_clock(self, node: int) -> None:
        """Ten days ahead for some seconds, and the node is killed and begins there."""
        self.machines.set_clock(node, 864_000.0)
        await asyncio.sleep(FAULT_S / 2)
        await self.kill_node(node)
        await asyncio.sleep(FAULT_S / 2)
        self.machines.set_clock(node, 0.0)
        await self.kill_node(node)

    async def poison(self, node: int) -> None:
        """A task of which every worker dies."""
        attempt = 0
        async with asyncio.timeout(60):
            while (task_id := await self.submit(node, POISON, num_inference_steps=60)) is None:
                await asyncio.sleep(LOOK_S)
            while not self.tasks[task_id].end:
                url = f"{self.machines.urls[node]}/v1/tasks/{task_id}"
                shown = (await self.http.get(url)).json()
                if shown.get("status") == "in_progress" and shown["attempt"] > attempt:
                    attempt = shown["attempt"]
                    drawn_by = self.machines.node_ids.index(shown["executor"])
                    os.kill(self.machines.running_child(drawn_by, "worker"), signal.SIGKILL)
                await asyncio.sleep(0.02)

    async def upload(self, node: int) -> None:
        """Large images to start from, at once."""
        with io.BytesIO() as file:
            Image.new("RGB", (4000, 4000), "red").save(file, "PNG")
            image = base64.b64encode(file.getvalue()).decode()
        await asyncio.gather(
            *(self.submit(node, init_image=image, size="512x512") for _ in range(6))
        )

    async def idle_connections(self, node: int) -> None:
        """Hundreds of connections that say nothing."""
        port = httpx.URL(self.machines.urls[node]).port
        with contextlib.ExitStack() as silent:
            for _ in range(400):
                with contextlib.suppress(OSError):
                    silent.enter_context(socket.create_connection(("127.0.0.1", port or 0), 1.0))
            await asyncio.sleep(FAULT_S)

    def all_faults(self) -> dict[str, Callable[[int], Awaitable[None]]]:
        """By name, as far as this machine can have them."""
        faults: dict[str, Callable[[int], Awaitable[None]]] = {"kill node": self.kill_node}
        for child in ("store", "worker"):
            faults[f"kill {child}"] = partial(self.kill_child, child=child)
            faults[f"freeze {child}"] = partial(self.freeze_child, child=child)
        faults["freeze node"] = self.freeze_node
        if self.disk is not None:
            faults["full disk"] = self.fill_disk
        faults["garbled store"] = self.garble_store
        if self.machines.library is not None:
            faults["clock"] = self.set_clock
        faults["poison"] = self.poison
        faults["upload"] = self.upload
        faults["idle connections"] = self.idle_connections
        return faults

    async def run(self, rounds: int, *, seconds_max: float) -> None:
        """Every fault in every round, as far as there is time; then until all tasks have ended."""
        until_s = time.monotonic() + seconds_max
        watching, loading = asyncio.create_task(self.watch()), asyncio.create_task(self.load())
        await asyncio.sleep(PAUSE_S)
        for number in range(rounds):
            for index, (name, bring) in enumerate(self.all_faults().items()):
                if time.monotonic() > until_s:
                    break
                self.fault, began_s = name, time.monotonic()
                told: dict[str, Any] = {"round": number, "fault": name}
                try:
                    await bring((number + index) % NODES)
                except (DEdgeAIError, OSError, httpx.HTTPError, ValueError) as error:
                    told["did_not_end_well"] = f"{type(error).__name__}: {error}"[:300]
                told["seconds"] = round(time.monotonic() - began_s, 1)
                self.faults.append(told)
                print(told, flush=True)
                await asyncio.sleep(PAUSE_S)
        self.fault, self.submitting = "none", False
        await loading
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S_MAX):
                while any(not one.end for one in self.tasks.values()):
                    await asyncio.sleep(LOOK_S)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    def account(self) -> dict[str, Any]:
        """What became of every task that was accepted."""
        ends = Counter(one.end or "never ended" for one in self.tasks.values())
        failed = Counter(one.error for one in self.tasks.values() if one.end == "failed")
        lost = [i for i, one in self.tasks.items() if one.end in ("", "lost")]
        return {
            "accepted": len(self.tasks),
            "finished": ends["completed"],
            "failed_honestly": dict(failed),
            "lost": len(lost),
            "lost_tasks": lost[:10],
            "answers": dict(self.answers),
            "ready_and_still_s": round(self.still_s, 1),
            "ready_and_still": self.stills[:10],
            "faults": self.faults,
        }


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A tmpfs for the first node; None where it cannot be mounted."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        yield None
        return
    try:
        (folder / "node-0").symlink_to(disk)
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def clock_library(folder: Path) -> Path | None:
    """What sets a process' clock, compiled; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "set_clock.so"
    source = Path(__file__).with_name("set_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library


@asynccontextmanager
async def machines_in(folder: Path, library: Path | None) -> AsyncIterator[Machines]:
    """The nodes, started."""
    machines = Machines(folder, library=library)
    for node in range(NODES):
        machines.set_clock(node, 0.0)
    async with machines:
        yield machines


async def trial(folder: Path, *, rounds: int, seconds_max: float) -> dict[str, Any]:
    """The whole; what to write down."""
    folder.mkdir(parents=True)
    library = clock_library(folder)
    timeout, limits = httpx.Timeout(10.0), httpx.Limits(max_connections=200)
    with small_disk(folder) as disk:
        async with (
            machines_in(folder, library) as machines,
            httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as http,
        ):
            one = Trial(machines, http, disk=disk)
            await one.run(rounds, seconds_max=seconds_max)
            return one.account()


def main() -> None:
    """Runs, prints, writes; the exit status says whether anything was lost or stood still."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1200.0, help="no fault begins after that")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="that does not exist yet; else a temporary one")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    random.seed(options.seed)
    described = machine.describe()
    # A short path: sockets are in it, by which processes are found.
    folder = options.folder or Path(tempfile.mkdtemp(prefix="trial-")) / "nodes"
    found = asyncio.run(trial(folder, rounds=options.rounds, seconds_max=options.seconds))
    for key in ("accepted", "finished", "failed_honestly", "lost", "ready_and_still_s"):
        print(f"{key}: {found[key]}")
    written = {
        "question": "is a task lost, or does a node say ready while one does not move?",
        "nodes": NODES,
        "settings": SETTINGS,
        "still_after_s": STILL_S,
        "goal": {"lost": 0, "ready_and_still_s": 0.0},
        "reached": not found["lost"]
        and not found["ready_and_still_s"]
        and not any("did_not_end_well" in one for one in found["faults"]),
        "results": found,
        "machine": described,
    }
    options.out.write_text(json.dumps(written, indent=1) + "\n")
    raise SystemExit(not written["reached"])


if __name__ == "__main__":
    main()
