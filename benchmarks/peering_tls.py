"""What does TLS between nodes add to an offload's round trip?

Two ends on one machine, each in a process of its own, with the node's own listener, client, codec
and checks; the executor answers at once with an image, as if the drawing took no time. In clear and
over mutual TLS by turns, so that what else the machine does meets both. Rows: an offload that is
refused (no image), one that brings an image of SD3's size back, and one that takes an init image
there, too. The share is of that round trip, which no task has, and of one with a drawing in it: of
STEPS steps, as by default, of STEP_S each, which only the tiny model is as quick as.

    python -m benchmarks.peering_tls
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import struct
import tempfile
import time
import zlib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from edge_node.console.certs import Authority
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptReport,
    Drawing,
    Fence,
    Image,
    NodeId,
    NodeState,
    Offload,
    TaskId,
)
from edge_node.peering.client import PeerClient
from edge_node.peering.server import NodeServicer, PeerServer
from edge_node.peering.service import PeerService
from edge_node.peering.tls import NodeTls

RESULTS = Path(__file__).parent / "results"
ROUNDS, CALLS = 30, 15
# A PNG of 1024x1024 pixels, as SD3-medium draws them, is some 1.5 MB.
IMAGE_BYTES = 1_500_000
SIDE_PX = 1024
STEPS, STEP_S = 15, 0.02
CLUSTER = "benchmark"


def png(size_bytes: int) -> bytes:
    """The header of a PNG of SIDE_PX, and bytes that cannot be compressed."""
    header = struct.pack(">II", SIDE_PX, SIDE_PX) + b"\x08\x02\0\0\0"
    chunk = b"IHDR" + header
    start = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )
    return start + os.urandom(size_bytes - len(start))


IMAGE = Image(content=png(IMAGE_BYTES), format="png", width_px=SIDE_PX, height_px=SIDE_PX)


class AtOnce:
    """The rest of a node that has drawn before it is asked; what is to be refused says so."""

    id = NodeId("executor")

    def __init__(self) -> None:
        self.executor = self.own_node = self

    def state(self) -> NodeState:
        """As little as there may be."""
        return NodeState(node_id=self.id, incarnation=1, sequence=1)

    async def host(self, offload: Offload, *, init_image: bytes) -> asyncio.Queue[AttemptReport]:
        """An end, at once."""
        reports: asyncio.Queue[AttemptReport] = asyncio.Queue()
        if offload.drawing.prompt == "refused":
            reports.put_nowait(AttemptFailed(code="queue_full", message="Full.", retryable=True))
        else:
            reports.put_nowait(AttemptFinished(image=IMAGE, queue_s=0.0, compute_s=0.0))
        return reports

    def unhost(self, *_: object) -> None:
        """Nothing is held."""


def serve(ports: Connection, folder: Path) -> None:
    """Listens in clear and over TLS, until it is ended."""

    async def run() -> None:
        parts: Any = AtOnce()
        found = []
        for tls in (None, NodeTls(folder, node_id=AtOnce.id, cluster_name=CLUSTER)):
            servicer = NodeServicer(PeerService(parts, parts, parts), version="0", tls=tls)
            server = PeerServer(servicer, host="127.0.0.1", port=0, tls=tls)
            found.append((server, await server.start()))
        ports.send([port for _, port in found])
        await asyncio.Event().wait()

    asyncio.run(run())


def offload(kind: str, number: int) -> Offload:
    """A task of `origin`."""
    return Offload(
        task_id=TaskId(f"origin-{number:026d}"),
        fence=Fence(1, 1),
        origin=NodeId("origin"),
        incarnation=1,
        dispatch=number,
        drawing=Drawing(
            prompt=kind,
            width_px=SIDE_PX,
            height_px=SIDE_PX,
            steps=15,
            guidance_scale=5.0,
            seed=number,
            model="m",
            init_image_sha256="ab" * 32 if kind == "with init image" else "",
        ),
        work=15.0,
        deadline_s=60.0,
    )


async def round_trip_s(client: PeerClient, kind: str, number: int) -> float:
    """Seconds from the offload to its end."""
    init_image = IMAGE.content if kind == "with init image" else b""
    start_s = time.perf_counter()
    reports = [one async for one in client.offload(offload(kind, number), init_image=init_image)]
    assert len(reports) == 1, "one end"
    return time.perf_counter() - start_s


async def measure(ports: list[int], folder: Path) -> dict[str, dict[str, float]]:
    """Medians of both, and the shares that TLS adds."""
    tls = NodeTls(folder, node_id="origin", cluster_name=CLUSTER)
    clients = [
        PeerClient(f"127.0.0.1:{port}", tls=one)
        for port, one in zip(ports, (None, tls), strict=True)
    ]
    rows: dict[str, dict[str, float]] = {}
    number = 0
    for kind in ("refused", "drawn", "with init image"):
        clear_s, secure_s = list[float](), list[float]()
        for round_ in range(ROUNDS):
            for client, times in zip(clients, (clear_s, secure_s), strict=True):
                for _ in range(CALLS):
                    number += 1
                    seconds = await round_trip_s(client, kind, number)
                    if round_:  # the first opens the connection
                        times.append(seconds)
        clear, secure = float(np.median(clear_s)), float(np.median(secure_s))
        rows[kind] = {
            "clear_ms": 1e3 * clear,
            "tls_ms": 1e3 * secure,
            "added_ms": 1e3 * (secure - clear),
            "added_share": secure / clear - 1.0,
            "added_share_with_one_step": (secure - clear) / (clear + STEP_S),
            "added_share_with_a_drawing": (secure - clear) / (clear + STEPS * STEP_S),
        }
    for client in clients:
        await client.close()
    return rows


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "peering_tls.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        authority = Authority.begin(Path(name) / "certs", cluster_name=CLUSTER)
        executor, origin = (authority.issue(one, days=1) for one in (AtOnce.id, "origin"))
        here, there = multiprocessing.get_context("spawn").Pipe()
        serving = multiprocessing.get_context("spawn").Process(target=serve, args=(there, executor))
        serving.start()
        try:
            rows = asyncio.run(measure(here.recv(), origin))
        finally:
            serving.terminate()
            serving.join()
    result = {
        "machine": machine.describe(),
        "image_bytes": IMAGE_BYTES,
        "calls": (ROUNDS - 1) * CALLS,
        "step_s": STEP_S,
        "steps": STEPS,
        "offload": rows,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    for kind, row in rows.items():
        print(f"{kind:>16}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
