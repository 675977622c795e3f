"""What does a node take in memory while many large images are uploaded at once, and after?

Starts a real node (embedded store, emulated worker) and sends it PNG files in base64 at the same
time: first small ones of very many pixels, each of another kind; then, in another node, the largest
files that it takes beside one of these. Sampled all the while: the memory of the node
and of the processes in which it decodes (proportional set size, so that what they share counts
once); store and worker are left out.

    python -m benchmarks.upload_memory
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

import httpx

from benchmarks import machine
from edge_node.console.local_cluster import LocalCluster

RESULTS = Path(__file__).parent / "results"
SAMPLE_S = 0.05
SETTLE_S = 2.0
GOAL_PEAK_MB, GOAL_AFTER_MB = 400.0, 150.0
# What a node takes as a file by default, and as many as it holds at once in base64.
FILE_BYTES_MAX, LARGEST = 16 * 2**20, 2
DECODER = b"edge_node.api.image_decoder"
# PNG's number of a colour type, bits of a channel, bytes of a pixel.
KINDS = {"RGB": (2, 8, 3), "RGBA": (6, 8, 4), "grey with alpha": (4, 8, 2), "grey": (0, 16, 2)}


def png(kind: str, side_px: int) -> bytes:
    """A square of one colour, made row by row: no more than its file is held."""
    colour_type, bits, pixel_bytes = KINDS[kind]
    header = side_px.to_bytes(4) * 2 + bytes((bits, colour_type, 0, 0, 0))
    packer = zlib.compressobj(9)
    row = b"\0" + b"\x55" * (side_px * pixel_bytes)
    packed = b"".join(packer.compress(row) for _ in range(side_px)) + packer.flush()
    return _file(header, packed)


def noise(file_bytes: int) -> bytes:
    """A square in which no two pixels are alike, of almost so many bytes as a file."""
    side_px = int((file_bytes * 0.998 / 3) ** 0.5)
    header = side_px.to_bytes(4) * 2 + bytes((8, 2, 0, 0, 0))
    rows = b"".join(b"\0" + os.urandom(3 * side_px) for _ in range(side_px))
    return _file(header, zlib.compress(rows, 0))


def _file(header: bytes, packed: bytes) -> bytes:
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4)
        for name, body in chunks
    )


def memory_mb(node_pid: int) -> float:
    """Proportional memory of a node and of the images' decoders among its children, in 10^6 B."""
    pids = [str(node_pid)]
    for listed in Path(f"/proc/{node_pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # its thread has just ended
            pids += listed.read_text().split()
    total = 0
    for pid in pids:
        # A child may be gone by now.
        with contextlib.suppress(OSError):
            if pid == pids[0] or DECODER in Path(f"/proc/{pid}/cmdline").read_bytes():
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                (pss,) = (line for line in rollup.splitlines() if line.startswith("Pss:"))
                total += int(pss.split()[1]) * 1024
    return total / 1e6


async def watched(node_pid: int, done: asyncio.Event) -> float:
    """The most that was seen until `done`, sampled beside the event loop."""
    most = 0.0
    while not done.is_set():
        most = max(most, await asyncio.to_thread(memory_mb, node_pid))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), SAMPLE_S)
    return most


async def measure(
    folder: Path, *, port: int, contents: list[bytes], times: int = 1
) -> dict[str, Any]:
    """Sends all of `contents` at once, `times` times, to a node that was idle.

    Raises:
        RuntimeError: one was not accepted.
    """
    settings = {"engine": "emulated", "time_scale": 1000}
    timeout = httpx.Timeout(300.0)
    bodies = [
        {"prompt": "a", "num_inference_steps": 1, "init_image": base64.b64encode(one).decode()}
        for one in contents
    ]
    async with (
        LocalCluster([settings], rest_port=port, folder=folder) as cluster,
        httpx.AsyncClient(base_url=cluster.urls[0], timeout=timeout, trust_env=False) as http,
    ):
        pid, done = cluster.pid(0), asyncio.Event()
        await asyncio.sleep(SETTLE_S)
        idle_mb = memory_mb(pid)
        watching = asyncio.create_task(watched(pid, done))
        start_s = time.perf_counter()
        for _ in range(times):
            answers = await asyncio.gather(*(http.post("/v1/tasks", json=one) for one in bodies))
            refused = [answer.text for answer in answers if answer.status_code != 202]
            if refused:
                raise RuntimeError(f"{len(refused)} were not accepted: {refused[0]}")
        seconds = time.perf_counter() - start_s
        done.set()
        peak_mb = await watching
        await asyncio.sleep(SETTLE_S)
        return {
            "idle_mb": round(idle_mb, 1),
            "peak_mb": round(peak_mb, 1),
            "after_mb": round(memory_mb(pid), 1),
            "seconds": round(seconds, 2),
        }


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uploads", type=int, default=8)
    parser.add_argument("--side-px", type=int, default=8000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--port", type=int, default=18950)
    parser.add_argument("--folder", type=Path, default=Path("out/upload_memory"))
    options = parser.parse_args()
    described = machine.describe()
    kinds = [list(KINDS)[index % len(KINDS)] for index in range(options.uploads)]
    contents = [png(kind, options.side_px) for kind in kinds]
    largest = [contents[0], *(noise(FILE_BYTES_MAX) for _ in range(LARGEST))]
    results = {}
    for name, sent in (("many_pixels", contents), ("largest_files", largest)):
        results[name] = asyncio.run(
            measure(options.folder / name, port=options.port, contents=sent, times=options.times)
        )
        print(name, ", ".join(f"{key} {value}" for key, value in results[name].items()))
    written = {
        "question": "memory of a node and its decoders while many large images are uploaded",
        "uploads_at_once": options.uploads,
        "times": options.times,
        "side_px": options.side_px,
        "kinds": kinds,
        "file_bytes": [len(content) for content in contents],
        "largest_file_bytes": [len(content) for content in largest],
        "goal": {"peak_mb_max": GOAL_PEAK_MB, "after_mb_max": GOAL_AFTER_MB},
        "reached": all(
            found["peak_mb"] < GOAL_PEAK_MB and found["after_mb"] < GOAL_AFTER_MB
            for found in results.values()
        ),
        "results": results,
        "machine": described,
    }
    (RESULTS / "upload_memory.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
