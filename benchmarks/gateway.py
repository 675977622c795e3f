"""What does a request cost a node beside the drawing, and what would others' servers take?

Real nodes (REST, fsynced Valkey, worker over its socket) with an emulated device that takes no
time, under wrk; beside them, in the same run and turn by turn, a bare FastAPI application, mosec,
LitServe, BentoML and Ray Serve, each of which answers a body of the same size. CPU seconds are
those of the processes. Then how that grows with what is stored, what event listeners and a burst
cost, and what is lost on `kill -9`.

Machines differ, and what else they do: read the ratios within one run. Load averages are written
beside each part: on a machine that does other things, too, everything takes longer.

    apt-get install wrk
    python -m benchmarks.gateway --make-peers out/peers      # once; then --peers out/peers
    python -m benchmarks.gateway --parts cost --rounds 1     # some of it, sooner
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks import machine
from benchmarks.gateway_calls import calls_of, per_request
from benchmarks.gateway_load import (
    Load,
    cpu_s,
    listeners,
    post_all,
    require_wrk,
    rss_mb,
    wrk,
)
from benchmarks.gateway_peers import PEERS, Peer, make_environment, running
from benchmarks.gateway_stored import fill
from edge_node.console.local_cluster import LocalCluster, free_rest_port
from edge_node.console.rest_client import RestClient
from edge_node.domain import Drawing, TaskId
from edge_node.store.durable_file import write_durably
from edge_node.worker import emulated, image_encoding

RESULTS = Path(__file__).parent / "results"
NO_TIME = 1e6
CONNECTIONS = (1, 16)
STEPS = (1, 14)
SIZE_PX = 256
PROCESSES = ("node", "worker", "store")
PARTS = ("cost", "peers", "stored", "calls", "events", "listeners", "burst", "killed")
DURABLE = "/v1/tasks"
SYNCHRONOUS = "/v1/images/generations"
# Of one Orin at its best, docs/facts.md: steps that its listeners hear of.
ORIN_STEPS_PER_S = 1.0 / emulated.profile("orin-64gb-maxn").guided_step_s


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A load on nodes, and the CPU milliseconds that each of its tasks took."""

    load: Load
    cpu_ms: dict[str, float]

    def told(self) -> dict[str, Any]:
        """For the result file."""
        return {**asdict(self.load), "per_s": self.load.per_s, "cpu_ms_per_task": self.cpu_ms}


def cluster_of(nodes: int, *, folder: Path | None = None, **settings: Any) -> LocalCluster:
    """Nodes with emulated devices that take no time, if nothing else is said."""
    all_settings = {"engine": "emulated", "time_scale": NO_TIME, **settings}
    port = free_rest_port(first=18_600, nodes=nodes)
    return LocalCluster([all_settings] * nodes, rest_port=port, folder=folder)


def body(steps: int) -> dict[str, Any]:
    """A request."""
    size = f"{SIZE_PX}x{SIZE_PX}"
    return {"prompt": "a red circle", "size": size, "num_inference_steps": steps}


def pids(cluster: LocalCluster, name: str) -> list[int]:
    """Processes of that name, of all nodes."""
    nodes = range(len(cluster.urls))
    return [cluster.pid(i) if name == "node" else cluster.child_pid(i, name) for i in nodes]


async def cost(
    cluster: LocalCluster, path: str, *, steps: int, connections: int, seconds: int
) -> Cost:
    """Loads the first node and reads what all of them used."""
    before = {name: cpu_s(pids(cluster, name)) for name in PROCESSES}
    url = cluster.urls[0] + path
    load = await asyncio.to_thread(wrk, url, body(steps), connections=connections, seconds=seconds)
    if load.failed:
        raise RuntimeError(f"{load.failed} of {load.requests} requests to {path} failed")
    await all_done(cluster)
    used = {name: cpu_s(pids(cluster, name)) - before[name] for name in PROCESSES}
    return Cost(
        load=load,
        cpu_ms={name: 1000.0 * seconds / load.requests for name, seconds in used.items()},
    )


async def all_done(cluster: LocalCluster, *, look_s: float = 0.1) -> None:
    """Waits until nothing is under way."""
    async with RestClient(timeout_s=30.0) as client, asyncio.timeout(300.0):
        for url in cluster.urls:
            while (await client.cluster(url))["tasks_in_flight"]:  # noqa: ASYNC110
                await asyncio.sleep(look_s)


def drawing_ms() -> dict[str, float]:
    """What painting and encoding a placeholder takes in the worker: that is the drawing here."""
    device = emulated.EmulatedDenoiser(
        emulated.profile("orin-64gb-maxn"), model_name="m", time_scale=NO_TIME
    )
    drawing = Drawing(
        prompt="a red circle",
        width_px=SIZE_PX,
        height_px=SIZE_PX,
        steps=1,
        guidance_scale=5.0,
        seed=1,
        model="m",
    )
    times, size = [], 0
    for _ in range(200):
        row = device.begin(drawing, b"")
        device.step([row])
        start_s = time.process_time()
        image = image_encoding.image_of(
            device.picture(row),
            drawing=drawing,
            task_id=TaskId("node-0-01ARZ3NDEKTSV4RRFFQ69G5FAV"),
            model="m",
            choices=(),
            emulated_device="m",
            told=image_encoding.Metadata(),
        )
        times.append(1000.0 * (time.process_time() - start_s))
        size = len(image.content)
    return {"cpu_ms": statistics.median(times), "image_bytes": size}


def disk_ms() -> float:
    """What the disk takes to keep one image, alone: so long each task waits in any case."""
    content, times = bytes(1000), []
    with tempfile.TemporaryDirectory(prefix="dedgeai-") as folder:
        for number in range(50):
            start_s = time.monotonic()
            write_durably(Path(folder) / f"{number}.png", content, modified_unix_s=time.time())
            times.append(1000.0 * (time.monotonic() - start_s))
    return statistics.median(times)


# The parts.


async def measure_cost(options: argparse.Namespace) -> dict[str, Any]:
    """One and three nodes, both surfaces, with few and with many step events."""
    found: dict[str, Any] = {}
    for nodes in (1, 3):
        async with cluster_of(nodes) as cluster:
            for path in (SYNCHRONOUS, DURABLE):
                for steps in STEPS:
                    for connections in CONNECTIONS:
                        name = f"{path}, {steps} steps, {nodes} nodes, {connections} connections"
                        measured = await cost(
                            cluster,
                            path,
                            steps=steps,
                            connections=connections,
                            seconds=options.seconds,
                        )
                        found[name] = measured.told()
                        tell(name, measured.load, measured.cpu_ms)
    return found


async def measure_peers(options: argparse.Namespace) -> dict[str, Any]:
    """Everyone else."""
    image_chars = len(base64.b64encode(bytes(int(drawing_ms()["image_bytes"]))))
    found: dict[str, Any] = {}
    # A port of its own for each: of a server that was killed it may be in use for a while.
    for port, peer in enumerate(PEERS, options.port):
        with running(peer, options.peers, port=port, image_chars=image_chars) as started:
            for connections in CONNECTIONS:
                load = await asyncio.to_thread(
                    wrk,
                    started.url,
                    {"prompt": "a red circle"},
                    connections=connections,
                    seconds=options.seconds,
                )
                name = f"{peer.name}, {connections} connections"
                found[name] = {**asdict(load), "per_s": load.per_s}
                tell(name, load)
    return found


async def measure_stored(options: argparse.Namespace) -> dict[str, Any]:
    """A node that has finished many tasks: what a task costs it, and how long a start takes."""
    found: dict[str, Any] = {}
    for count in (0, 1_000, options.stored):
        with tempfile.TemporaryDirectory(prefix="dedgeai-") as folder:
            data = Path(folder) / "node-0"
            data.mkdir()
            await asyncio.to_thread(fill, data, node_id="node-0", count=count, image_bytes=2000)
            cluster = cluster_of(1, folder=Path(folder))
            start_s = time.monotonic()
            async with cluster:
                ready_s = time.monotonic() - start_s
                measured = await cost(
                    cluster, DURABLE, steps=1, connections=16, seconds=options.seconds
                )
                found[str(count)] = {
                    "start_s": ready_s,
                    "node_rss_mb": rss_mb(cluster.pid(0)),
                    **measured.told(),
                }
                tell(f"{count} stored, ready after {ready_s:.1f} s", measured.load, measured.cpu_ms)
    return found


async def measure_calls(options: argparse.Namespace) -> dict[str, Any]:
    """Function calls of a request in a lone node, beside those of a node that is asked nothing."""
    settings = {"engine": "emulated", "time_scale": NO_TIME}
    loads = {
        f"{path}, {steps} steps": (path, steps)
        for path in (SYNCHRONOUS, DURABLE)
        for steps in STEPS
    }

    async def idle(_: LocalCluster) -> int:
        await asyncio.sleep(options.seconds)
        return 0

    def asked(path: str, steps: int) -> Callable[[LocalCluster], Awaitable[int]]:
        async def ask(cluster: LocalCluster) -> int:
            seconds = options.seconds
            done = await cost(cluster, path, steps=steps, connections=16, seconds=seconds)
            return done.load.requests

        return ask

    counted = []
    for load in (idle, *(asked(path, steps) for path, steps in loads.values())):
        with tempfile.TemporaryDirectory(prefix="dedgeai-") as folder:
            port = free_rest_port(first=18_600, nodes=1)
            counted.append(await calls_of(settings, Path(folder), rest_port=port, load=load))
    found = dict(zip(loads, per_request(counted[0][0], counted[1:]), strict=True))
    for name, calls in found.items():
        print(f"{name}: {calls:.0f} calls a request")
    return found


async def measure_events(options: argparse.Namespace) -> dict[str, Any]:
    """A hundred tasks that five Orins draw at their own pace: what their origin has of the steps.

    All that follows the acceptance is counted, from placement to image file, not steps alone.
    """
    async with cluster_of(5, time_scale=1.0) as cluster:
        origin = [cluster.pid(0)]
        await asyncio.sleep(2.0)
        before_s, start_s = cpu_s(origin), time.monotonic()
        await asyncio.sleep(5.0)
        idle_share = (cpu_s(origin) - before_s) / (time.monotonic() - start_s)
        await post_all(cluster.urls[0] + DURABLE, [body(STEPS[1])] * 100, connections=8)
        before_s, start_s = cpu_s(origin), time.monotonic()
        await all_done(cluster, look_s=2.0)
        seconds = time.monotonic() - start_s
        share = (cpu_s(origin) - before_s) / seconds
    print(
        f"100 tasks of {STEPS[1]} steps in {seconds:.1f} s: {share:.1%} of a core for their origin"
    )
    return {
        "nodes": 5,
        "tasks": 100,
        "steps": STEPS[1],
        "seconds": seconds,
        "node_core_share": share,
        "node_core_share_idle": idle_share,
    }


async def measure_listeners(options: argparse.Namespace) -> dict[str, Any]:
    """A thousand event streams of tasks that wait, on one node."""
    async with cluster_of(1, time_scale=1.0) as cluster:
        answers, _ = await post_all(cluster.urls[0] + DURABLE, [body(100)] * 100, connections=8)
        await asyncio.sleep(1.0)
        before_mb = rss_mb(cluster.pid(0))
        urls = [f"{cluster.urls[0]}{DURABLE}/{one['id']}/events" for one in answers] * 10
        async with listeners(urls) as open_streams:
            more_mb = rss_mb(cluster.pid(0)) - before_mb
            before_s, start_s = cpu_s(pids(cluster, "node")), time.monotonic()
            await asyncio.sleep(5.0)
            share = (cpu_s(pids(cluster, "node")) - before_s) / (time.monotonic() - start_s)
        print(f"{len(open_streams)} listeners: {more_mb:.1f} MB, {share:.1%} of a core")
        return {"listeners": len(open_streams), "more_mb": more_mb, "node_core_share": share}


async def measure_burst(options: argparse.Namespace) -> dict[str, Any]:
    """A thousand durable tasks at once, from 64 connections, to a device that is busy."""
    async with cluster_of(1, time_scale=20.0) as cluster:
        before_s = cpu_s(pids(cluster, "node"))
        _, seconds = await post_all(cluster.urls[0] + DURABLE, [body(14)] * 1000, connections=64)
        used_s = cpu_s(pids(cluster, "node")) - before_s
        print(f"1000 tasks were taken in within {seconds:.2f} s")
        return {"tasks": 1000, "taken_in_s": seconds, "node_cpu_ms_per_task": used_s}


async def measure_killed(options: argparse.Namespace) -> dict[str, Any]:
    """Fifty requests under way, `kill -9` of the server, a new start: who gets an image?"""
    found: dict[str, Any] = {"node, durable": await lost_by_a_node()}
    for number, peer in enumerate(PEERS):
        if "FastAPI" not in peer.name:
            port = options.port + 10 * (1 + number)
            found[peer.name] = await lost_by(peer, options.peers, port=port)
    for name, lost in found.items():
        print(f"{name}: {lost} of 50 accepted requests lost on kill -9")
    return found


async def lost_by_a_node() -> int:
    """Accepted tasks that have no image after a restart."""
    async with cluster_of(1, time_scale=100.0) as cluster:
        url = cluster.urls[0] + DURABLE
        answers, _ = await post_all(url, [body(14)] * 50, connections=16)
        cluster.signal_node(0, signal.SIGKILL)
        cluster.wait_node(0)
        cluster.start_node(0)
        async with RestClient(timeout_s=30.0) as client:
            await cluster.wait_ready(client, 0)
        await all_done(cluster)
        async with httpx.AsyncClient(trust_env=False, timeout=30.0) as http:
            images = [await http.get(f"{url}/{one['id']}/image") for one in answers]
    return sum(image.status_code != 200 for image in images)


async def lost_by(peer: Peer, environment: Path, *, port: int) -> int:
    """Requests that were taken and never answered; a new server knows nothing of them.

    Raises:
        RuntimeError: it does not answer as many at once when nobody kills it, so that what is not
            answered need not have been lost.
    """
    with running(peer, environment, port=port, image_chars=100, drawing_s=1.0) as started:
        asked = ask_fifty(started.url)
        await asyncio.sleep(0.5)
        started.kill()
        answered = await asyncio.gather(*asked, return_exceptions=True)
    with running(peer, environment, port=port + 1, image_chars=100, drawing_s=0.1) as again:
        unharmed = await asyncio.gather(*ask_fifty(again.url), return_exceptions=True)
    failed = [one for one in unharmed if isinstance(one, Exception)]
    if failed:
        raise RuntimeError(f"{peer.name} fails {len(failed)} of 50 unharmed: {failed[0]!r}")
    return sum(isinstance(one, Exception) for one in answered)


def ask_fifty(url: str) -> list[asyncio.Task[Any]]:
    """So many requests at once, each over a connection of its own."""
    return [asyncio.create_task(post_all(url, [{"prompt": "a"}], connections=1)) for _ in range(50)]


def tell(name: str, load: Load, cpu_ms: dict[str, float] | None = None) -> None:
    """One line."""
    cpu = "".join(f"  {who} {ms:.2f}" for who, ms in (cpu_ms or {}).items())
    print(
        f"{name:<64}{load.p50_ms:8.2f} ms p50{load.p99_ms:9.1f} p99{load.per_s:8.0f}/s{cpu}",
        flush=True,
    )


def medians(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure over the rounds; a figure of one round is itself."""
    if isinstance(rounds[0], dict):
        return {key: medians([one[key] for one in rounds]) for key in rounds[0]}
    return statistics.median(rounds)


def ratios(measured: dict[str, Any]) -> dict[str, float]:
    """What the goals are about, within this run."""
    cost_of, peer_of = measured.get("cost", {}), measured.get("peers", {})
    found: dict[str, float] = {}
    if cost_of and peer_of:
        for connections in CONNECTIONS:
            ours = cost_of[f"{SYNCHRONOUS}, 1 steps, 1 nodes, {connections} connections"]
            for peer in PEERS:
                theirs = peer_of[f"{peer.name}, {connections} connections"]
                at = f"{peer.name} at {connections}"
                found[f"p50, times {at}"] = ours["p50_ms"] / theirs["p50_ms"]
                found[f"requests/s, times {at}"] = ours["per_s"] / theirs["per_s"]
    if cost_of:
        for path in (SYNCHRONOUS, DURABLE):
            one, three = (
                sum(
                    cost_of[f"{path}, 14 steps, {n} nodes, 16 connections"][
                        "cpu_ms_per_task"
                    ].values()
                )
                for n in (1, 3)
            )
            found[f"CPU of three nodes, times one, {path}"] = three / one
        few, many = (
            cost_of[f"{DURABLE}, {steps} steps, 1 nodes, 16 connections"]["cpu_ms_per_task"]["node"]
            for steps in STEPS
        )
        event_ms = (many - few) / (STEPS[1] - STEPS[0])
        found["node's CPU ms per step event"] = event_ms
        found["share of a core for the steps of one Orin"] = event_ms / 1000.0 * ORIN_STEPS_PER_S
    return found


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All parts that are wanted; those that are compared take turns, round by round."""
    parts = {
        "cost": measure_cost,
        "peers": measure_peers,
        "stored": measure_stored,
        "calls": measure_calls,
        "events": measure_events,
        "listeners": measure_listeners,
        "burst": measure_burst,
        "killed": measure_killed,
    }
    measured: dict[str, Any] = {}
    turns = [name for name in ("cost", "peers") if name in options.parts]
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in turns}
    for number in range(options.rounds):
        for name in turns:
            print(f"\n{name}, round {number + 1}")
            rounds[name].append(await parts[name](options))
    measured |= {name: medians(found) for name, found in rounds.items()}
    for name in options.parts:
        if name not in turns:
            print(f"\n{name}")
            measured[name] = await parts[name](options)
    return measured


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3, help="turns of nodes and peers")
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--stored", type=int, default=100_000, help="most stored tasks")
    parser.add_argument("--peers", type=Path, help="environment with the others' servers")
    parser.add_argument("--make-peers", type=Path, help="makes one there first")
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS / "gateway.json",
        help="to be written; what it has of other parts stays, each with its own machine",
    )
    parser.add_argument("--port", type=int, default=18_590, help="of the others' servers")
    options = parser.parse_args()
    require_wrk()
    if options.make_peers:
        make_environment(options.make_peers)
        options.peers = options.make_peers
    if options.peers is None and {"peers", "killed"} & set(options.parts):
        parser.error("say --make-peers FOLDER or --peers FOLDER, or leave out peers and killed")
    if options.peers is not None:
        options.peers = options.peers.resolve()
    before = os.getloadavg()
    measured = asyncio.run(measure(options))
    compared = ratios(measured)
    print()
    for name, value in compared.items():
        print(f"{name:<60}{value:8.3f}")
    run = {
        "options": {"rounds": options.rounds, "seconds": options.seconds, "size_px": SIZE_PX},
        "drawing": drawing_ms(),
        "disk_ms": disk_ms(),
        "machine": machine.describe(),
        "load_average": {"before": before, "after": os.getloadavg()},
    }
    earlier = json.loads(options.out.read_text()) if options.out.exists() else {}
    written = with_run(earlier, run, measured=measured, compared=compared)
    options.out.write_text(json.dumps(written, indent=1) + "\n")


def with_run(
    earlier: dict[str, Any],
    run: dict[str, Any],
    *,
    measured: dict[str, Any],
    compared: dict[str, float],
) -> dict[str, Any]:
    """The results with those of one more run; ratios are of the last run that gave any."""
    parts = {name: {"measured": found, **run} for name, found in measured.items()}
    return {
        "question": "what a request costs a node beside the drawing, and what others' servers take",
        "parts": {**earlier.get("parts", {}), **parts},
        "ratios": compared or earlier.get("ratios", {}),
    }


if __name__ == "__main__":
    main()
