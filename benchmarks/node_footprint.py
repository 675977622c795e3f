"""How much memory does an idle node take, and how soon does it answer?

Starts a real node (embedded store, emulated worker) several times and reads its resident memory
from /proc; beside it, in the same run, a bare process that serves an empty FastAPI application
with uvicorn and has gRPC and the store's client imported: what the libraries alone cost.

    python -m benchmarks.node_footprint
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks import machine

RESULTS = Path(__file__).parent / "results"
IDLE_S = 5.0
GOAL_RSS_MB = 150.0
GOAL_READY_S = 2.0
BARE = """
import fastapi, grpc.aio, numpy, prometheus_client, redis.asyncio, uvicorn
app = fastapi.FastAPI()
app.get("/livez")(lambda: {})
uvicorn.run(app, port={port}, log_level="warning")
"""


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no VmRSS")


def measure(command: list[str], *, port: int, environment: dict[str, str]) -> dict[str, float]:
    """Seconds from start to the first answer, and memory after a while of idleness."""
    start_s = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(trust_env=False) as client:
            while True:
                try:
                    if client.get(f"http://127.0.0.1:{port}/livez").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.005)
            ready_s = time.perf_counter() - start_s
        time.sleep(IDLE_S)
        return {"ready_s": ready_s, "rss_mb": rss_mb(process.pid)}
    finally:
        process.terminate()
        process.wait(30)


def node(port: int) -> dict[str, float]:
    """One start of a node with everything it starts by default, but an emulated worker."""
    with tempfile.TemporaryDirectory(prefix="dedgeai-") as folder:
        environment = {
            "DEDGEAI_DATA_FOLDER": folder,
            "DEDGEAI_REST_PORT": str(port),
            "DEDGEAI_GRPC_PORT": str(port + 1000),
            "DEDGEAI_ENGINE": "emulated",
        }
        command = [sys.executable, "-m", "edge_node.cli", "node"]
        return measure(command, port=port, environment=environment)


def bare(port: int) -> dict[str, float]:
    """One start of the libraries alone."""
    command = [sys.executable, "-c", BARE.replace("{port}", str(port))]
    return measure(command, port=port, environment={})


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--port", type=int, default=18700)
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for name, start in (("node", node), ("bare libraries", bare)):
        runs = [start(options.port + index) for index in range(options.starts)]
        results[name] = {
            "ready_s_median": statistics.median(run["ready_s"] for run in runs),
            "rss_mb_median": statistics.median(run["rss_mb"] for run in runs),
            "runs": runs,
        }
    ours, base = results["node"], results["bare libraries"]
    print(f"{'':<16}{'ready':>10}{'RSS idle':>12}")
    for name, result in results.items():
        print(f"{name:<16}{result['ready_s_median']:>8.2f} s{result['rss_mb_median']:>9.1f} MB")
    ready_ratio = ours["ready_s_median"] / base["ready_s_median"]
    rss_ratio = ours["rss_mb_median"] / base["rss_mb_median"]
    print(f"{'ratio':<16}{ready_ratio:>9.2f}x{rss_ratio:>11.2f}x")
    written = {
        "question": "memory of an idle node and time to its first answer, worker aside",
        "goal": {"rss_mb_max": GOAL_RSS_MB, "ready_s_max": GOAL_READY_S},
        "reached": ours["rss_mb_median"] < GOAL_RSS_MB and ours["ready_s_median"] < GOAL_READY_S,
        "idle_s": IDLE_S,
        "results": results,
        "ratio": {"ready": ready_ratio, "rss": rss_ratio},
        "machine": machine.describe(),
    }
    (RESULTS / "node_footprint.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
