"""How long do N captions take on a cluster, and what does offloading change?

Replays captions against real nodes and measures at the client, as section VI of the paper does:
the total generation delay of N tasks, and the delay of each. Starts its own cluster for every
policy (`--start tiny:3` or `emulated:5`), or measures one that runs (`--node`).

    python -m benchmarks.replay_flickr8k --start tiny:3 --tasks 100 --name tiny3
    python -m benchmarks.replay_flickr8k --start emulated:5 --time-scale 20 --tasks 1,100,500,1000
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.published import TABLE_V, TASKS
from edge_node.console.captions import read_captions
from edge_node.console.local_cluster import LocalCluster
from edge_node.console.replay import Arrivals, ReplaySummary, plan, replay_with_progress

RESULTS = Path(__file__).parent / "results"
TIME_FIELDS = ("total_s", "mean_s", "median_s", "p95_s", "p99_s")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--start", metavar="ENGINE:NODES", help="tiny:3 or emulated:5")
    where.add_argument("--node", help="REST surfaces of running nodes, comma-separated")
    parser.add_argument("--captions", type=Path, help="Flickr8k file; a small sample without it")
    parser.add_argument("--tasks", default="100", help="N, or several: 1,100,500,1000")
    parser.add_argument("--policies", default="local,slow_server_aware", help="with --start")
    parser.add_argument("--arrival", choices=("batch", "slots", "poisson"), default="batch")
    parser.add_argument("--tasks-per-slot-max", type=int, default=5, help="the paper's K")
    parser.add_argument("--slot", type=float, default=1.0, help="seconds, emulated ones if so")
    parser.add_argument("--rate", type=float, default=1.0, help="tasks per (emulated) second")
    parser.add_argument("--to", choices=("one", "all"), default="all")
    parser.add_argument("--paces", default="0", help="seconds per step, tiny; repeated over nodes")
    parser.add_argument("--profiles", default="orin-64gb-maxn", help="emulated; repeated")
    parser.add_argument("--time-scale", type=float, default=1.0, help="emulated, at most 20")
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="run", help="results/replay_flickr8k_<name>.json")
    options = parser.parse_args()
    if options.time_scale > 20:
        parser.error("--time-scale above 20 would measure this machine, not the emulated devices")
    return options


def node_settings(options: argparse.Namespace, policy: str) -> list[dict[str, Any]]:
    """Settings of every node that `--start` asks for."""
    engine, _, count = options.start.partition(":")
    paces, profiles = options.paces.split(","), options.profiles.split(",")
    settings: list[dict[str, Any]] = []
    for index in range(int(count)):
        one: dict[str, Any] = {"policy": policy, "policy_seed": options.seed}
        if engine == "emulated":
            one["engine"] = "emulated"
            one["emulated_profile"] = profiles[index % len(profiles)]
            one["time_scale"] = options.time_scale
        else:
            one["torch_threads"] = 1
            one["pace_s"] = paces[index % len(paces)]
        settings.append(one)
    return settings


async def measure_policy(
    options: argparse.Namespace, policy: str, captions: Sequence[str]
) -> dict[int, ReplaySummary]:
    """One cluster, every N in turn; the queue is empty in between."""
    if options.node:
        return await measure_all(options, policy, captions, options.node.split(","))
    async with LocalCluster(node_settings(options, policy), rest_port=options.port) as cluster:
        return await measure_all(options, policy, captions, cluster.urls)


async def measure_all(
    options: argparse.Namespace, policy: str, captions: Sequence[str], urls: Sequence[str]
) -> dict[int, ReplaySummary]:
    """Replays every N and scales emulated time back to the devices' own."""
    scale = options.time_scale
    arrivals = Arrivals(
        kind=options.arrival,
        tasks_per_slot_max=options.tasks_per_slot_max,
        slot_s=options.slot / scale,
        rate_hz=options.rate * scale,
        to=options.to,
    )
    size = {"size": "512x512"} if (options.start or "").startswith("emulated") else {}
    summaries = {}
    for tasks in map(int, options.tasks.split(",")):
        planned = plan(arrivals, captions=captions, tasks=tasks, nodes=len(urls), seed=options.seed)
        summary = await replay_with_progress(
            planned, node_urls=urls, timeout_s=3600.0, title=f"{policy}, N={tasks}", **size
        )
        scaled = {field: getattr(summary, field) * scale for field in TIME_FIELDS}
        summaries[tasks] = replace(summary, **scaled)
    return summaries


def table_of(results: Mapping[str, Mapping[int, ReplaySummary]]) -> Table:
    """Ours, a row for every policy and N."""
    table = Table(title="Delay at the client, seconds")
    for column in ("policy", "N", "total", "mean", "median", "p95", "p99", "offloaded", "failed"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for policy, summaries in results.items():
        for tasks, s in summaries.items():
            times = [f"{getattr(s, field):.2f}" for field in TIME_FIELDS]
            table.add_row(policy, str(tasks), *times, f"{s.offload_share:.0%}", str(s.failed))
    return table


def table_v(results: Mapping[str, Mapping[int, ReplaySummary]], device: str) -> Table:
    """The paper's Table V with a row of ours for every policy."""
    table = Table(title="Total generation delay, seconds")
    for column in ("service", *(f"N={n}" for n in TASKS), "USD per 1000", "measured by"):
        table.add_column(column, justify="left" if column == "service" else "right")
    for row in TABLE_V:
        delays = [f"{delay:,.1f}" for delay in row.total_delay_s]
        table.add_row(row.name, *delays, f"{row.usd_per_1000:.2f}", "published by others")
    for policy, summaries in results.items():
        delays = [f"{summaries[n].total_s:,.1f}" if n in summaries else "-" for n in TASKS]
        table.add_row(f"{policy}, {device}", *delays, "0.00", "here")
    return table


def plot(
    results: Mapping[str, Mapping[int, ReplaySummary]],
    path: Path,
    *,
    title: str,
    with_published: bool,
) -> None:
    """Total delay over N, ours in colour and, for 512x512 images, the published ones in grey."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for row in TABLE_V if with_published else ():
        axes.plot(TASKS, row.total_delay_s, color="0.75", linewidth=1)
        end = (1.08 * TASKS[-1], row.total_delay_s[-1])
        axes.annotate(f"{row.name} (published)", end, fontsize=7, color="0.45", va="center")
    for policy, summaries in results.items():
        totals = [summary.total_s for summary in summaries.values()]
        axes.plot(list(summaries), totals, marker="o", label=policy)
    axes.set(xscale="log", yscale="log", xlabel="tasks", ylabel="total delay in s")
    axes.set_title(title, fontsize=9)
    if with_published:
        axes.set_xlim(right=8 * TASKS[-1])
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measures, prints, writes."""
    options = parse()
    captions = read_captions(options.captions)
    policies = options.policies.split(",") if options.start else ["as configured"]
    results = {
        policy: asyncio.run(measure_policy(options, policy, captions)) for policy in policies
    }
    emulated = bool(options.start) and options.start.startswith("emulated")
    device = "emulated Orins" if emulated else "tiny SD3 on this machine"
    console = Console(width=140)
    console.print(table_of(results))
    if emulated:
        console.print(table_v(results, device))
    settings = machine.settings_of(options)
    del settings["captions"]
    written = {
        "question": "delay of N captions on a cluster, measured at the client",
        "emulated": emulated,
        "time": "seconds of the emulated devices" if emulated else "seconds",
        "captions": "a file given by the operator" if options.captions else "the sample",
        "settings": settings,
        "machine": machine.describe(),
        "results": {
            policy: {str(tasks): asdict(summary) for tasks, summary in summaries.items()}
            for policy, summaries in results.items()
        },
        "published_by_others": [asdict(row) for row in TABLE_V],
    }
    path = RESULTS / f"replay_flickr8k_{options.name}.json"
    path.write_text(json.dumps(written, indent=1) + "\n")
    modes = f" ({options.profiles.replace('orin-64gb-', '')})" if emulated else ""
    title = f"{device}{modes}, arrivals: {options.arrival} to {options.to}"
    plot(results, path.with_suffix(".png"), title=title, with_published=emulated)
    console.print(f"Written: {path.name} and {path.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
