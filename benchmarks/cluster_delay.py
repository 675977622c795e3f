"""How long do users of five devices wait, and who places best? Real nodes and their simulation.

Five real node processes on this machine, each with its store and a worker that emulates a Jetson
AGX Orin at a time scale, serve Flickr8k captions under each policy; delays are measured at the
client, in seconds of the emulated devices. The simulator replays the very same requests at the
state ages that were measured and has to agree; then it carries the cells that would take too long.
In it a task stays where it was placed, so what it has to agree with are runs that move none
(move = none); `lad_ts+moving` is a node's default, and so are the other parts. Runs that move are
compared with their simulation in `benchmarks/live_moves.py`.

    python -m benchmarks.cluster_delay --captions FILE            # all of it, under an hour
    python -m benchmarks.cluster_delay --parts poisson --seeds 1 --seconds 600
    python -m benchmarks.cluster_delay --parts simulated          # no cluster
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.cluster_twin import (
    Devices,
    Request,
    simulated_batch,
    simulated_delay_s,
    simulated_matrix,
)
from edge_node.console.captions import read_captions
from edge_node.console.local_cluster import LocalCluster
from edge_node.console.replay import Arrivals, PlannedTask, plan, replay
from edge_node.console.rest_client import Drawn, RestClient
from scheduler.guard.status import LEARNED_SHARE_MIN

RESULTS = Path(__file__).parent / "results"
MIXED = Devices(
    name="mixed",
    profiles=(
        "orin-64gb-maxn",
        "orin-64gb-50w",
        "orin-64gb-50w",
        "orin-64gb-30w",
        "orin-64gb-15w",
    ),
)
EQUAL = Devices(name="equal", profiles=("orin-64gb-maxn",) * 5)
MOVING = "+moving"
POLICIES = (
    *("slow_server_aware", "power_of_two", "ring", "lad_ts_plus", "lad_ts"),
    f"lad_ts{MOVING}",
)
LEARNED = "lad_ts"
LOADS = (0.8, 0.95)
BATCH = 1000
PARTS = ("poisson", "batch", "throttled", "killed", "simulated")
AGREEMENT = 0.10
# Of the simulator, over which a policy that tosses one is averaged.
COINS = 20
# Of the guard's alternation: several service delays.
GUARD_WINDOW_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a cluster.

    Attributes:
        devices: what the five nodes emulate.
        policy: of every node.
        requests: in emulated seconds.
        time_scale: by which everything runs faster.
        settings_more: NodeConfig fields of every node.
    """

    devices: Devices
    policy: str
    requests: tuple[Request, ...]
    time_scale: float
    settings_more: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, folder: Path, seed: int) -> list[dict[str, Any]]:
        """NodeConfig fields of every node."""
        return [
            {
                "engine": "emulated",
                "emulated_profile": profile,
                "emulated_mode_file": mode_path(folder, index),
                "time_scale": self.time_scale,
                "policy": self.policy,
                "policy_seed": seed,
                "guard_window_s": GUARD_WINDOW_S / self.time_scale,
                **self.settings_more,
            }
            for index, profile in enumerate(self.devices.profiles)
        ]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a cell gave; times in emulated seconds, but for staleness in wall seconds.

    Attributes:
        delay_s_N: of each request at the client; NaN where there was no image.
        errors: what requests without an image were told, and how many were.
        makespan_s: from the first request to the last image.
        staleness_s: mean and p99 of the age of the oldest unseen change at decision.
        share_by_decider: decisions by the policy that made them and, where it was not the wanted
            one, why.
        scraped: metrics of each node at the end.
    """

    delay_s_N: np.ndarray
    errors: dict[str, int]
    makespan_s: float
    staleness_s: dict[str, float]
    share_by_decider: dict[str, float]
    scraped: tuple[list[Any], ...] = ()

    def told(self) -> dict[str, Any]:
        """Figures for the result file."""
        drawn = self.delay_s_N[np.isfinite(self.delay_s_N)]
        return {
            "requests": len(self.delay_s_N),
            "failed": sum(self.errors.values()),
            "errors": self.errors,
            "mean_s": float(drawn.mean()),
            "p50_s": float(np.quantile(drawn, 0.5)),
            "p95_s": float(np.quantile(drawn, 0.95)),
            "p99_s": float(np.quantile(drawn, 0.99)),
            "makespan_s": self.makespan_s,
            "staleness_wall_s": self.staleness_s,
            "decisions_by": self.share_by_decider,
        }

    def counts_as(self, policy: str) -> str:
        """The policy's name, unless others made too many of the decisions."""
        share = self.share_by_decider.get(policy, 0.0)
        return policy if share >= LEARNED_SHARE_MIN else f"{share:.0%} {policy}"


def mode_path(folder: Path, index: int) -> Path:
    """File by which a device is told to become another one."""
    return folder / f"mode-{index}"


def poisson_requests(
    devices: Devices, *, load: float, seconds: float, seed: int
) -> tuple[Request, ...]:
    """Independent requests at every node, together `load` times what the devices can work off."""
    rate_hz = load * devices.capacity / devices.work_mean
    tasks = int(rate_hz * seconds)
    return _requests(Arrivals(kind="poisson", rate_hz=rate_hz), tasks=tasks, seed=seed)


def batch_requests(tasks: int) -> tuple[Request, ...]:
    """All at once, to all nodes in turn."""
    return _requests(Arrivals(kind="batch"), tasks=tasks, seed=1)


def _requests(arrivals: Arrivals, *, tasks: int, seed: int) -> tuple[Request, ...]:
    planned = plan(arrivals, captions=["-"], tasks=tasks, nodes=5, seed=seed)
    return tuple(
        Request(at_s=one.at_s, origin=one.node, steps=one.steps, seed=one.seed) for one in planned
    )


async def run_cell(
    cell: Cell,
    *,
    captions: Sequence[str],
    port: int,
    seed: int,
    disturb: Any = None,
) -> Measured:
    """Starts the five nodes, replays and stops them.

    Args:
        cell: what to run.
        captions: prompts, in turn.
        port: first REST port.
        seed: of the policies.
        disturb: coroutine function of (cluster, folder), run beside the replay.
    """
    scale = cell.time_scale
    planned = tuple(
        PlannedTask(
            at_s=one.at_s / scale,
            node=one.origin,
            prompt=captions[number % len(captions)],
            steps=one.steps,
            seed=one.seed,
        )
        for number, one in enumerate(cell.requests)
    )
    with tempfile.TemporaryDirectory(prefix="cluster-delay-") as name:
        folder = Path(name)
        async with LocalCluster(cell.settings(folder, seed), rest_port=port) as cluster:
            beside = asyncio.create_task(disturb(cluster, folder)) if disturb else None
            drawn = await replay(
                planned,
                node_urls=cluster.urls,
                timeout_s=3600.0,
                on_drawn=lambda _: None,
                size="512x512",
            )
            if beside:
                await beside
            scraped = [await scrape(url) for url in cluster.urls]
    return measured(drawn, scraped, scale=scale)


async def scrape(url: str) -> list[Any]:
    """A node's metrics."""
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
        answer = await client.get(f"{url}/metrics")
    return list(text_string_to_metric_families(answer.text))


def samples(scraped: Sequence[list[Any]], name: str) -> list[Any]:
    """Every node's samples under a name of ours."""
    wanted = f"dedgeai_{name}"
    found = (one for families in scraped for family in families for one in family.samples)
    return [one for one in found if one.name == wanted]


def counted(scraped: Sequence[list[Any]], *names: str) -> dict[str, float]:
    """What all nodes together counted under these names, by their labels."""
    found: dict[str, float] = {}
    for name in names:
        for sample in samples(scraped, name):
            key = " ".join([name, *sample.labels.values()])
            found[key] = found.get(key, 0.0) + sample.value
    return found


def measured(drawn: Sequence[Drawn], scraped: Sequence[list[Any]], *, scale: float) -> Measured:
    """Delays scaled back to the devices' own time, and what the nodes counted."""
    delay_s_N = np.array([one.delay_s * scale if one.content else np.nan for one in drawn])
    first_s = min(one.sent_s for one in drawn)
    last_s = max(one.sent_s + one.delay_s for one in drawn if one.content)
    decisions: dict[str, float] = {}
    buckets: dict[float, float] = {}
    total_s = 0.0
    for families in scraped:
        for family in families:
            for sample in family.samples:
                if sample.name == "dedgeai_decisions_total":
                    reason = sample.labels["reason"]
                    decider = sample.labels["policy"] + (f" ({reason})" if reason else "")
                    decisions[decider] = decisions.get(decider, 0.0) + sample.value
                elif sample.name == "dedgeai_placement_staleness_seconds_bucket":
                    bound = float(sample.labels["le"])
                    buckets[bound] = buckets.get(bound, 0.0) + sample.value
                elif sample.name == "dedgeai_placement_staleness_seconds_sum":
                    total_s += sample.value
    count = buckets.get(float("inf"), 0.0)
    p99_s = min((b for b, seen in buckets.items() if count and seen >= 0.99 * count), default=0.0)
    return Measured(
        delay_s_N=delay_s_N,
        errors=dict(Counter(one.error for one in drawn if not one.content)),
        makespan_s=(last_s - first_s) * scale,
        staleness_s={"mean": total_s / count if count else 0.0, "p99_at_most": p99_s},
        share_by_decider={k: v / sum(decisions.values()) for k, v in decisions.items() if v},
        scraped=tuple(scraped),
    )


def run(cell: Cell, options: argparse.Namespace, *, seed: int, disturb: Any = None) -> Measured:
    """One cell, live."""
    captions = read_captions(options.captions)
    return asyncio.run(
        run_cell(cell, captions=captions, port=options.port, seed=seed, disturb=disturb)
    )


def poisson(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Mixed modes at both loads under every policy and seed, and the simulator on the same."""
    rows, commit = [], machine.describe()["commit"]
    for load in LOADS:
        for seed in seeds_of(options):
            requests = poisson_requests(
                MIXED, load=load, seconds=options.seconds, seed=100 * seed + 7
            )
            for policy in options.policies.split(","):
                busy = os.getloadavg()[0]
                row = poisson_cell(options, requests, policy=policy, seed=seed)
                told = {"commit": commit, "load_average_before": busy}
                rows.append({"load": load, "seed": seed, **row, **told})
                shown = ("load", "seed", "policy", "mean_s", "p99_s", "live_over_simulated")
                console.print({key: rows[-1][key] for key in shown})
    return rows


def seeds_of(options: argparse.Namespace) -> range:
    """Of arrivals and of policies."""
    return range(options.first_seed, options.first_seed + options.seeds)


def rows_of_others(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs that `--out` has of other seeds or policies; a comparison can be measured in parts."""
    if not (options.add and options.out.exists()):
        return []
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["poisson"]
    policies = options.policies.split(",")
    return [
        row for row in rows if row["seed"] not in seeds_of(options) or row["policy"] not in policies
    ]


def poisson_cell(
    options: argparse.Namespace, requests: tuple[Request, ...], *, policy: str, seed: int
) -> dict[str, Any]:
    """One policy, live and simulated; nothing is simulated of runs that move tasks."""
    name, moving = policy.removesuffix(MOVING), policy.endswith(MOVING)
    cell = Cell(
        devices=MIXED,
        policy=name,
        requests=requests,
        time_scale=options.time_scale,
        settings_more={"move": "waiting" if moving else "none"},
    )
    found = run(cell, options, seed=seed)
    counts_as = found.counts_as(name) + (MOVING if moving else "")
    row = {"policy": policy, "counts_as": counts_as, **found.told()}
    if moving:
        return row | {"live_over_simulated": None}
    age_s = found.staleness_s["mean"] * options.time_scale
    simulated_s = [
        simulated_delay_s(MIXED, requests, policy=name, state_age_s=age_s, coin=coin).mean()
        for coin in range(COINS)
    ]
    twin_s = float(np.mean(simulated_s))
    return row | {
        "simulated_mean_s": twin_s,
        "live_over_simulated": float(np.nanmean(found.delay_s_N) / twin_s),
    }


def agreement(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Live over simulated of every policy and load, over its seeds; one toss says little."""
    cells: dict[str, list[float]] = {}
    for row in rows:
        if row["live_over_simulated"] is not None:
            name = f"{row['policy']} at {row['load']:g}"
            cells.setdefault(name, []).append(row["live_over_simulated"])
    return {name: float(np.mean(ratios)) for name, ratios in cells.items()}


def batch(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """A thousand at once; makespan over total work / total capacity.

    At a smaller time scale: until this machine has taken in a thousand requests, devices wait.
    """
    rows = []
    requests = batch_requests(BATCH if options.seconds >= 600 else BATCH // 10)
    for devices in (EQUAL, MIXED):
        ideal_s = devices.work_of(requests).sum() / devices.capacity
        for policy in options.batch_policies.split(","):
            cell = Cell(
                devices=devices,
                policy=policy,
                requests=requests,
                time_scale=options.batch_time_scale,
            )
            found = run(cell, options, seed=0)
            row = {
                "devices": devices.name,
                "policy": policy,
                **found.told(),
                "ideal_s": float(ideal_s),
                "over_ideal": found.makespan_s / ideal_s,
            }
            rows.append(row)
            console.print({k: row[k] for k in ("devices", "policy", "over_ideal", "errors")})
    return rows


def throttled(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The fastest device falls to 15 W in mid-run; beside it the simulator whose rule was told."""
    seconds, at_s = options.seconds, options.seconds / 2
    requests = poisson_requests(MIXED, load=0.6, seconds=seconds, seed=5)
    cell = Cell(devices=MIXED, policy=LEARNED, requests=requests, time_scale=options.time_scale)

    async def disturb(_: LocalCluster, folder: Path) -> None:
        await asyncio.sleep(at_s / options.time_scale)
        mode_path(folder, 0).write_text("orin-64gb-15w")

    found = run(cell, options, seed=0, disturb=disturb)
    told_s = simulated_delay_s(
        MIXED, requests, policy=LEARNED, state_age_s=0.05, changes=((at_s, 0, 5.0 / 42.6),)
    )
    arrival_s_N = np.array([one.at_s for one in requests])

    def over_told(among_N: np.ndarray) -> float:
        return float(np.nanmean(found.delay_s_N[among_N]) / told_s[among_N].mean())

    ratios = {
        "before_over_told": over_told(arrival_s_N < at_s - 30.0),
        "first_30_s_over_told": over_told((arrival_s_N >= at_s) & (arrival_s_N < at_s + 30.0)),
        "after_30_s_over_told": over_told(arrival_s_N >= at_s + 30.0),
    }
    console.print({"throttled, live / told in the simulator": ratios})
    return {**found.told(), **ratios}


def killed(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """A learner, a store and a node are killed in mid-run: what was accepted elsewhere all ends."""
    requests = tuple(
        replace(one, origin=one.origin % 4)
        for one in poisson_requests(MIXED, load=0.5, seconds=options.seconds, seed=6)
    )
    cell = Cell(
        devices=MIXED,
        policy=LEARNED,
        requests=requests,
        time_scale=options.time_scale,
        settings_more={"learner": True},
    )
    quarter_s = options.seconds / 4 / options.time_scale

    async def disturb(cluster: LocalCluster, _: Path) -> None:
        await asyncio.sleep(quarter_s)
        os.kill(cluster.child_pid(0, "learner"), signal.SIGKILL)
        os.kill(cluster.child_pid(1, "store"), signal.SIGKILL)
        await asyncio.sleep(quarter_s)
        cluster.signal_node(4, signal.SIGKILL)
        cluster.wait_node(4)
        await asyncio.sleep(quarter_s)
        cluster.start_node(4)
        async with RestClient(timeout_s=5.0) as client:
            await cluster.wait_ready(client, 4)

    found = run(cell, options, seed=0, disturb=disturb)
    console.print({"learner, store and node killed; failed": found.errors, "of": len(requests)})
    return found.told()


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """Mean over seeds of every policy at every load, and against the first policy."""
    table = Table(title="Delay at the client, emulated seconds, mixed power modes")
    for column in ("load", "policy", "mean", "p99", "against power of two", "live / simulated"):
        table.add_column(column)
    for load in LOADS:
        here = [row for row in rows if row["load"] == load]
        base = np.mean([row["mean_s"] for row in here if row["policy"] == "power_of_two"])
        for policy in dict.fromkeys(row["counts_as"] for row in here):
            own = [row for row in here if row["counts_as"] == policy]
            mean_s = np.mean([row["mean_s"] for row in own])
            ratios = [row["live_over_simulated"] for row in own]
            table.add_row(
                f"{load:g}",
                policy,
                f"{mean_s:.2f}",
                f"{np.mean([row['p99_s'] for row in own]):.1f}",
                f"{mean_s / base - 1:+.1%}",
                "" if None in ratios else f"{np.mean(ratios):.3f}",
            )
    return table


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=Path, help="Flickr8k file; a small sample without it")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--batch-policies", default=LEARNED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--add", action="store_true", help="keep --out's Poisson runs of other seeds and policies"
    )
    parser.add_argument("--seconds", type=float, default=900.0, help="emulated, of a Poisson run")
    parser.add_argument("--time-scale", type=float, default=10.0, help="at most 20")
    parser.add_argument("--batch-time-scale", type=float, default=4.0, help="at most 20")
    parser.add_argument("--port", type=int, default=18180)
    parser.add_argument("--out", type=Path, default=RESULTS / "cluster_delay.json")
    options = parser.parse_args()
    if not all(1.0 <= x <= 20.0 for x in (options.time_scale, options.batch_time_scale)):
        parser.error("--time-scale above 20 would measure this machine, not the emulated devices")
    return options


def main() -> None:
    """Measures, prints, writes."""
    options = parse()
    logging.disable(logging.WARNING)
    console, parts = Console(width=120), options.parts.split(",")
    written: dict[str, Any] = {
        "question": "delay at the client on five emulated Orins, by policy",
        "time": "seconds of the emulated devices unless a name says wall",
        "time_scale": options.time_scale,
        "batch_time_scale": options.batch_time_scale,
        "captions": "a file given by the operator" if options.captions else "the sample",
        "machine": machine.describe(),
    }
    if "poisson" in parts:
        written["poisson"] = [*rows_of_others(options), *poisson(options, console)]
        console.print(table_of(written["poisson"]))
        written["live_over_simulated"] = agreement(written["poisson"])
        off = [abs(ratio - 1) for ratio in written["live_over_simulated"].values()]
        if off:
            written["simulator_agrees"] = max(off) <= AGREEMENT
    for part, measure in (("batch", batch), ("throttled", throttled), ("killed", killed)):
        if part in parts:
            written[part] = measure(options, console)
    if "simulated" in parts:
        written["simulated"] = simulated_matrix((MIXED, EQUAL))
        written["simulated_batch"] = simulated_batch((MIXED, EQUAL), batch_requests(BATCH))
    options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    console.print(f"written: {options.out}")


if __name__ == "__main__":
    main()
