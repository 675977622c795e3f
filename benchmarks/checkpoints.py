"""What a checkpoint of a half-drawn image costs: from the row to the memory of its origin.

CPU seconds of this process, which is worker, node and origin at once, over real sockets: a Unix
socket between worker and node, TCP on loopback between nodes, both without a step's own work. The
latent is SD3's at 512x512 pixels. Each figure is the difference to the same steps without
checkpoints, the median of several rounds.

    python -m benchmarks.checkpoints
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import torch

from benchmarks import machine
from edge_node.checkpoint import Checkpoint, Latents
from edge_node.clock import SystemClock
from edge_node.domain import (
    AttemptFailed,
    AttemptReport,
    Drawing,
    Fence,
    NodeId,
    Offload,
    StepFinished,
    Task,
    TaskId,
)
from edge_node.peering.client import PeerClient
from edge_node.peering.server import NodeServicer, PeerServer
from edge_node.supervision.worker_client import WorkerClient
from edge_node.tasks import checkpoints as kept
from edge_node.worker import emulated, latent_bytes
from edge_node.worker.engine_limits import EngineLimits
from edge_node.worker.service import ChangeSignal, serve
from edge_node.worker.step_engine import StepEngine

RESULTS = pathlib.Path(__file__).parent / "results"
SHAPE_CHW = (16, 64, 64)
STEPS = 50
# Longer than steps that are told together, so that each is told by itself.
STEP_S = 0.03
DRAWING = Drawing(
    prompt="p", width_px=512, height_px=512, steps=STEPS, guidance_scale=5.0, seed=1, model="m"
)
TASK_ID, FENCE = TaskId("a-01ARZ3NDEKTSV4RRFFQ69G5FAV"), Fence(1, 1)
OFFLOAD = Offload(
    task_id=TASK_ID,
    fence=FENCE,
    origin=NodeId("a"),
    incarnation=1,
    dispatch=1,
    drawing=DRAWING,
    work=60.0,
    checkpoint_steps=1,
)
END = AttemptFailed(code="over", message="", retryable=True)


def export_s(dtype: torch.dtype, *, rounds: int) -> float:
    """Seconds to take a latent out of a row."""
    latent_CHW = torch.randn(SHAPE_CHW).to(dtype)
    times_s = []
    for _ in range(rounds):
        before_s = time.perf_counter()
        latent_bytes.to_latents(latent_CHW)
        times_s.append(time.perf_counter() - before_s)
    return statistics.median(times_s)


async def worker_s(checkpoint_steps: int, *, rounds: int) -> float:
    """CPU seconds of a step that travels from worker to node."""
    profile = emulated.profile("orin-64gb-maxn")
    scale = profile.guided_step_s / STEP_S
    with tempfile.TemporaryDirectory() as folder:
        path, loop = pathlib.Path(folder) / "w.sock", asyncio.get_running_loop()
        changes, stopped = ChangeSignal(loop), asyncio.Event()
        engine: StepEngine[Any] = StepEngine(
            lambda: emulated.EmulatedDenoiser(profile, model_name="m", time_scale=scale),
            limits=EngineLimits(),
            clock=SystemClock(),
            on_change=changes.announce,
        )
        serving = asyncio.create_task(
            serve(socket_path=path, engine=engine, changes=changes, stopped=stopped)
        )
        client = WorkerClient(path)
        while engine.describe().state != "ready":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        times_s = []
        for attempt in range(1, rounds + 1):
            before_s = time.process_time()
            drawing = client.draw(
                task_id=TASK_ID,
                fence=Fence(1, attempt),
                drawing=DRAWING,
                checkpoint_steps=checkpoint_steps,
            )
            async with aclosing(drawing) as reports:
                async for _ in reports:
                    pass
            times_s.append((time.process_time() - before_s) / STEPS)
        await client.close()
        stopped.set()
        await serving
        await asyncio.to_thread(engine.stop, wait_s=1.0)
    return statistics.median(times_s)


class Executor:
    """Stands for the service of the node that draws: it reports its steps at once."""

    def __init__(self, checkpoint: bool) -> None:
        self._checkpoint = checkpoint

    async def offload(self, *_: object, **__: object) -> AsyncGenerator[AttemptReport, None]:
        """All steps, and an end."""
        latents = Latents(dtype="float16", shape_CHW=SHAPE_CHW, latent=bytes(2 * 16 * 64 * 64))
        for step in range(1, STEPS):
            at_step = Checkpoint(
                drawing_sha256=DRAWING.sha256, fingerprint="f", step=step, latents=latents
            )
            yield StepFinished(
                step=step, steps=STEPS, checkpoint=at_step if self._checkpoint else None
            )
        yield END


@asynccontextmanager
async def peer(checkpoint: bool) -> AsyncIterator[PeerClient]:
    """An executor on loopback."""
    servicer = NodeServicer(Executor(checkpoint), version="0")  # type: ignore[arg-type]
    server = PeerServer(servicer, host="127.0.0.1", port=0)
    client = PeerClient(f"127.0.0.1:{await server.start()}")
    try:
        yield client
    finally:
        await client.close()
        await server.stop(grace_s=0)


async def origin_s(checkpoint: bool, *, rounds: int) -> float:
    """CPU seconds of a step that travels from executor to origin, and is kept there."""
    task = Task(
        id=TASK_ID, job_id=None, drawing=DRAWING, work=60.0, input_bits=8, created_unix_s=0.0
    )
    times_s = []
    async with peer(checkpoint) as client:
        for _ in range(rounds):
            memory = kept.Checkpoints(bytes_max=2**26)
            before_s = time.process_time()
            async with aclosing(client.offload(OFFLOAD)) as reports:
                async for report in reports:
                    if isinstance(report, StepFinished) and report.checkpoint is not None:
                        memory.keep(task, report.checkpoint)
            times_s.append((time.process_time() - before_s) / STEPS)
    return statistics.median(times_s)


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = options.rounds
    to_node_s = asyncio.run(worker_s(1, rounds=rounds)) - asyncio.run(worker_s(0, rounds=rounds))
    to_origin_s = asyncio.run(origin_s(True, rounds=5 * rounds)) - asyncio.run(
        origin_s(False, rounds=5 * rounds)
    )
    export = {
        name: 1e3 * export_s(getattr(torch, name), rounds=200) for name in ("float16", "float32")
    }
    total_s = max(export.values()) / 1e3 + to_node_s + to_origin_s
    step_s = emulated.profile("orin-64gb-maxn").guided_step_s
    results = {
        "checkpoint_bytes_float16": 2 * 16 * 64 * 64,
        "export_ms": export,
        "worker_to_node_cpu_ms": 1e3 * to_node_s,
        "executor_to_origin_cpu_ms": 1e3 * to_origin_s,
        "all_cpu_ms": 1e3 * total_s,
        "counted_as_ms": 1e3 * kept.COST_S,
        "share_of_an_emulated_maxn_step": total_s / step_s,
        "share_of_a_gigabit_link": 8 * 2 * 16 * 64 * 64 / 1e9 / step_s,
    }
    written = {
        "question": "what a checkpoint of a 512x512 drawing costs, each step",
        "results": results,
        "settings": machine.settings_of(options),
        "machine": machine.describe(),
    }
    (RESULTS / "checkpoints.json").write_text(json.dumps(written, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
