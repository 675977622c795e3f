"""What does an API key cost a request?

Three measures. The lookup alone: of the last key in a list of KEYS. The layer: KeyCheck before an
application that does nothing, with a key that has limits, and where none is asked for. And whole
requests at two real nodes on this machine, one that asks for keys and one that does not, by turns,
so that what else the machine does meets both: as the client sees them, and the node's CPU time.

    python -m benchmarks.api_keys
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import machine
from edge_node.access import key_file
from edge_node.access.key_use import KeyUse
from edge_node.access.keys import ANYBODY, KeyLimits, KeyList, Scope
from edge_node.api.key_check import KeyCheck
from edge_node.client_variables import KEY_VARIABLE
from edge_node.clock import SystemClock
from edge_node.console.local_cluster import LocalCluster, free_rest_port
from edge_node.domain import NodeId

RESULTS = Path(__file__).parent / "results"
KEYS = 1000
ROUNDS, CALLS = 40, 100
LOOKUPS = 20_000
TARGET_MS = 0.1
PATH = "/v1/models"


def key_list() -> tuple[KeyList, str]:
    """A long list, and the last key of it."""
    keys, text = KeyList.empty(), ""
    for number in range(KEYS):
        keys, text = keys.with_new(
            f"client {number}",
            scopes={Scope.GENERATE, Scope.READ},
            now_unix_s=0.0,
            limits=KeyLimits(requests_per_minute=10**9, images_per_day=10**9),
        )
    return keys, text


def use_in(folder: Path) -> KeyUse:
    """An account of a node that is alone."""
    return KeyUse(
        folder / "key_use.json",
        own_id=NodeId("own"),
        clock=SystemClock(),
        open_tasks=lambda client: 0,
        states=lambda: (),
        task_s=lambda client: 1.0,
    )


def lookup_us(keys: KeyList, text: str) -> float:
    """Of the check alone, in microseconds; median of rounds."""
    times = []
    for _ in range(ROUNDS):
        start_s = time.perf_counter()
        for _ in range(LOOKUPS // ROUNDS):
            keys.client(text)
        times.append((time.perf_counter() - start_s) / (LOOKUPS // ROUNDS))
    return 1e6 * float(np.median(times))


async def layer_us(keys: KeyList, text: str, use: KeyUse) -> dict[str, float]:
    """Of KeyCheck before nothing, in microseconds; by turns."""

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        pass

    async def none(*_: Any) -> Any:
        return None

    def found(key: str | None) -> Any:
        return None if key is None else keys.client(key)

    layers: dict[str, Callable[..., Awaitable[None]]] = {
        "without": KeyCheck(nothing, client_of_key=lambda key: ANYBODY, ask=lambda client: None),
        "with": KeyCheck(nothing, client_of_key=found, ask=use.ask),
    }
    # As an SDK sends them, the key among others.
    headers = [
        *((f"x-stainless-{number}".encode(), b"value") for number in range(6)),
        (b"authorization", f"Bearer {text}".encode()),
    ]
    times: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(ROUNDS):
        for name, layer in layers.items():
            start_s = time.perf_counter()
            for _ in range(LOOKUPS // ROUNDS):
                scope = {"type": "http", "method": "GET", "path": PATH, "headers": headers}
                await layer(scope, none, none)
            times[name].append((time.perf_counter() - start_s) / (LOOKUPS // ROUNDS))
    return {name: 1e6 * float(np.median(seconds)) for name, seconds in times.items()}


def cpu_s(pid: int) -> float:
    """That a process has used, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def requests_ms(folder: Path, keys: KeyList, text: str) -> dict[str, dict[str, Any]]:
    """Of whole requests at a node with keys and one without, in milliseconds.

    Each is either of two nodes in turn, as two processes are never quite as quick.
    """
    file = folder / "keys.json"
    key_file.change(file, lambda _: keys)
    os.environ[KEY_VARIABLE] = text  # for the wait until the nodes have met
    common = {"engine": "emulated"}
    settings = {"without": common, "with": {**common, "keys_file": str(file)}}
    rounds: dict[str, list[float]] = {name: [] for name in settings}
    used: dict[str, float] = dict.fromkeys(settings, 0.0)
    for names in (("without", "with"), ("with", "without")):
        nodes = [settings[name] for name in names]
        port = free_rest_port(first=21_000, nodes=2)
        async with (
            LocalCluster(nodes, rest_port=port, folder=folder / names[0]) as cluster,
            httpx.AsyncClient(
                trust_env=False, headers={"Authorization": f"Bearer {text}"}, timeout=10.0
            ) as http,
        ):
            for round_ in range(ROUNDS + 1):
                for index, name in enumerate(names):
                    before_s = cpu_s(cluster.pid(index))
                    median_s = await batch_s(http, cluster.urls[index])
                    if round_:  # the first opens the connection
                        rounds[name].append(median_s)
                        used[name] += cpu_s(cluster.pid(index)) - before_s
    added_s = np.subtract(rounds["with"], rounds["without"])
    return {
        **{
            name: {
                "median_ms": 1e3 * float(np.median(rounds[name])),
                "node_cpu_ms": 1e3 * used[name] / (2 * ROUNDS * CALLS),
            }
            for name in settings
        },
        "added": {
            "median_ms": 1e3 * float(np.median(added_s)),
            "quartiles_ms": [1e3 * float(q) for q in np.quantile(added_s, (0.25, 0.75))],
            "node_cpu_ms": 1e3 * (used["with"] - used["without"]) / (2 * ROUNDS * CALLS),
            "ratio": float(np.median(rounds["with"]) / np.median(rounds["without"])),
        },
    }


async def batch_s(http: httpx.AsyncClient, url: str) -> float:
    """Median of a round's requests."""
    times = []
    for _ in range(CALLS):
        start_s = time.perf_counter()
        answer = await http.get(f"{url}{PATH}")
        times.append(time.perf_counter() - start_s)
        assert answer.status_code == 200, answer.text
    return float(np.median(times))


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "api_keys.json")
    options = parser.parse_args()
    described = machine.describe()
    keys, text = key_list()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        looked_up = lookup_us(keys, text)
        layers = asyncio.run(layer_us(keys, text, use_in(folder)))
        whole = asyncio.run(requests_ms(folder, keys, text))
    result = {
        "machine": described,
        "keys": KEYS,
        "target_ms": TARGET_MS,
        "lookup_us": looked_up,
        "layer_us": {**layers, "added": layers["with"] - layers["without"]},
        "requests": {"path": PATH, "of_each": 2 * ROUNDS * CALLS, **whole},
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "machine"}, indent=1))


if __name__ == "__main__":
    main()
