"""Do idle nodes that compute the other row gain what the simulator says? Five emulated Orins, live.

`lone`: one request at a time on an idle cluster of equal devices, with `helping = none` and
`guidance`. `load`: the same requests with both, placed by the ring, and both simulated on those
very requests (`benchmarks/helpers.py`), with the exchange that the nodes measured. Rows travel as
they do in earnest: worker, node, gRPC, node, worker, with as many bytes as SD3-medium's have. What
this machine takes for that is real, so it weighs `--time-scale` times as much on devices that run
so many times faster; there is no wire, whose time would weigh as much.

    python -m benchmarks.live_helpers --parts lone
    python -m benchmarks.live_helpers --parts load --loads .2 --seeds 0 --seconds 300
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.cluster_delay import (
    EQUAL,
    MIXED,
    Cell,
    counted,
    poisson_requests,
    run_cell,
    samples,
    scrape,
)
from benchmarks.cluster_twin import Devices, Request
from benchmarks.helpers import HELPING, hour
from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient

RESULTS = Path(__file__).parent / "results"
RULE = "ring"
WAYS = ("none", "guidance")
DEVICES = {one.name: one for one in (EQUAL, MIXED)}
LONE_STEPS = 15
AIMED_LONE = 0.58
TOLD = ("rows_asked_total", "rows_computed_total")


def rows_of(scraped: Sequence[list[Any]]) -> dict[str, float]:
    """What all nodes counted of rows, and the mean of what an exchange took last."""
    exchanges_s = [one.value for one in samples(scraped, "row_exchange_seconds") if one.value]
    exchange_s = float(np.mean(exchanges_s)) if exchanges_s else 0.0
    return counted(scraped, *TOLD) | {"exchange_wall_s": exchange_s}


async def lone_delays(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """One request after the other, to the nodes in turn; delays in the devices' own seconds."""
    cell = Cell(
        devices=EQUAL,
        policy=RULE,
        requests=(),
        time_scale=options.time_scale,
        settings_more={"helping": way},
    )
    delays_s = []
    with tempfile.TemporaryDirectory(prefix="helpers-") as name:
        folder = Path(name)
        async with LocalCluster(cell.settings(folder, 0), rest_port=options.port) as cluster:
            for number in range(options.lone):
                url = cluster.urls[number % len(cluster.urls)]
                async with RestClient(timeout_s=60.0) as client:
                    body = {"num_inference_steps": LONE_STEPS, "seed": number, "size": "512x512"}
                    drawn = await client.draw(url, "a cat", **body)
                assert drawn.content, drawn.error
                delays_s.append(drawn.delay_s * options.time_scale)
            scraped = [await scrape(url) for url in cluster.urls]
    return {
        "helping": way,
        "mean_s": float(np.mean(delays_s)),
        "delays_s": [round(one, 3) for one in delays_s],
        "counted": rows_of(scraped),
    }


def lone(options: argparse.Namespace) -> dict[str, Any]:
    """Both ways, and the factor between them."""
    busy = os.getloadavg()[0]
    rows = [asyncio.run(lone_delays(options, way)) for way in WAYS]
    factor = rows[1]["mean_s"] / rows[0]["mean_s"]
    return {
        "steps": LONE_STEPS,
        "time_scale": options.time_scale,
        "load_average_before": busy,
        "rows": rows,
        "factor": factor,
        "reached": factor <= AIMED_LONE,
    }


def loaded(
    options: argparse.Namespace, devices: Devices, *, load: float, seed: int, way: str
) -> dict[str, Any]:
    """One run, and its twin in the simulator."""
    requests = poisson_requests(devices, load=load, seconds=options.seconds, seed=100 * seed + 7)
    busy = os.getloadavg()[0]
    cell = Cell(
        devices=devices,
        policy=RULE,
        requests=requests,
        time_scale=options.time_scale,
        settings_more={"move": "none", "helping": way},
    )
    found = asyncio.run(run_cell(cell, captions=["a cat"], port=options.port, seed=seed))
    rows, told = rows_of(found.scraped), found.told()
    twin_s = twin(devices, requests, way=way, exchange_s=rows["exchange_wall_s"], options=options)
    return {
        "devices": devices.name,
        "load": load,
        "seed": seed,
        "helping": way,
        "seconds": options.seconds,
        "time_scale": options.time_scale,
        "load_average_before": busy,
        **{name: told[name] for name in ("requests", "errors", "mean_s", "p95_s", "p99_s")},
        "counted": rows,
        "simulated_mean_s": twin_s,
        "live_over_simulated": told["mean_s"] / twin_s,
    }


def twin(
    devices: Devices,
    requests: tuple[Request, ...],
    *,
    way: str,
    exchange_s: float,
    options: argparse.Namespace,
) -> float:
    """Mean delay of the same requests in the simulator."""
    helping = None
    if way == "guidance":
        helping = replace(HELPING, exchange_s=exchange_s * options.time_scale)
    return float(hour(devices, requests, (None, helping)).delay_s_N.mean())


def main() -> None:
    """Measures, prints, adds to the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="lone,load")
    parser.add_argument("--devices", default="equal,mixed")
    parser.add_argument("--loads", default="0.2,0.8,0.95")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--lone", type=int, default=10, help="lone requests of each way")
    parser.add_argument("--seconds", type=float, default=600.0, help="emulated, of a run")
    parser.add_argument("--time-scale", type=float, default=4.0)
    parser.add_argument("--port", type=int, default=22280)
    parser.add_argument("--out", type=Path, default=RESULTS / "live_helpers.json")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    written: dict[str, Any] = {"lone": None, "rows": []}
    if options.out.exists():
        written |= json.loads(options.out.read_text())
    written["question"] = "delays at the client on five emulated Orins, by whether idle ones help"
    written["time"] = "seconds of the emulated devices unless a name says wall"
    written["machine"] = machine.describe()

    def keep(told: dict[str, Any]) -> None:
        print(json.dumps(told), flush=True)
        options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")

    if "lone" in options.parts.split(","):
        written["lone"] = lone(options)
        keep(written["lone"])
    if "load" not in options.parts.split(","):
        return
    for name in options.devices.split(","):
        for load in map(float, options.loads.split(",")):
            for seed in map(int, options.seeds.split(",")):
                for way in options.ways.split(","):
                    row = loaded(options, DEVICES[name], load=load, seed=seed, way=way)
                    same = (name, load, seed, way)
                    rows = written["rows"]
                    written["rows"] = [
                        r
                        for r in rows
                        if (r["devices"], r["load"], r["seed"], r["helping"]) != same
                    ] + [row]
                    keep(row)


if __name__ == "__main__":
    main()
