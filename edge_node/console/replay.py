"""Replays captions against running nodes and measures delays where the paper does: at the client.

Owns the arrival processes and the statistics. Equation 2 of the paper counts a task's delay from
its arrival to its result; its section VI measures the total generation delay of N tasks at the
client, which is `total_s` here.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from edge_node.console.rest_client import Drawn, RestClient

# The paper's workload, section VI: steps uniform in 10..19, guidance 5.
STEPS_MIN = 10
STEPS_MAX = 19
GUIDANCE_SCALE = 5.0


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """When tasks come and to whom.

    Attributes:
        kind: `batch` all at once; `slots` the paper's: at the start of every slot each node gets
            1..tasks_per_slot_max tasks; `poisson` independent tasks.
        slot_s: length of a slot in seconds.
        rate_hz: tasks per second over all nodes, for poisson.
        to: every node in turn, or the first alone (slots and batch as well).
    """

    kind: Literal["batch", "slots", "poisson"] = "batch"
    tasks_per_slot_max: int = 5
    slot_s: float = 1.0
    rate_hz: float = 1.0
    to: Literal["one", "all"] = "all"


@dataclass(frozen=True, kw_only=True)
class PlannedTask:
    """One request of a plan: when in seconds from the start, to which node, and what."""

    at_s: float
    node: int
    prompt: str
    steps: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class ReplaySummary:
    """Delays in seconds over the tasks that ended as an image; shares are of those tasks.

    Attributes:
        total_s: from the first request to the last image, the paper's total generation delay.
        offload_share: drawn by another node than the one asked.
    """

    tasks: int
    images: int
    failed: int
    total_s: float
    mean_s: float
    median_s: float
    p95_s: float
    p99_s: float
    offload_share: float
    per_node: dict[str, int]
    errors: dict[str, int]


def plan(
    arrivals: Arrivals, *, captions: Sequence[str], tasks: int, nodes: int, seed: int
) -> tuple[PlannedTask, ...]:
    """The same seed plans the same requests, whatever policy will place them."""
    rng = np.random.default_rng(seed)
    targets = 1 if arrivals.to == "one" else nodes
    planned: list[tuple[float, int]] = []
    if arrivals.kind == "batch":
        planned = [(0.0, index % targets) for index in range(tasks)]
    elif arrivals.kind == "poisson":
        times = np.cumsum(rng.exponential(1.0 / arrivals.rate_hz, size=tasks))
        planned = [(float(at), int(rng.integers(targets))) for at in times]
    else:
        slot = 0
        while len(planned) < tasks:
            for node in range(targets):
                count = int(rng.integers(1, arrivals.tasks_per_slot_max + 1))
                planned += [(slot * arrivals.slot_s, node)] * count
            slot += 1
    chosen = rng.permutation(len(captions))
    return tuple(
        PlannedTask(
            at_s=at_s,
            node=node,
            prompt=captions[chosen[index % len(captions)]],
            steps=int(rng.integers(STEPS_MIN, STEPS_MAX + 1)),
            seed=int(rng.integers(2**32)),
        )
        for index, (at_s, node) in enumerate(planned[:tasks])
    )


async def replay(
    planned: Sequence[PlannedTask],
    *,
    node_urls: Sequence[str],
    timeout_s: float,
    on_drawn: Callable[[Drawn], None],
    **options: Any,
) -> list[Drawn]:
    """Sends every planned task at its time and waits for all of them.

    Args:
        planned: what to send.
        node_urls: of the nodes that the plan counts.
        timeout_s: for one request.
        on_drawn: called as each one ends, for progress.
        options: further fields of every request.
    """
    start_s = time.perf_counter()

    async def one(client: RestClient, task: PlannedTask) -> Drawn:
        await asyncio.sleep(max(0.0, start_s + task.at_s - time.perf_counter()))
        drawn = await client.draw(
            node_urls[task.node],
            task.prompt,
            num_inference_steps=task.steps,
            guidance_scale=GUIDANCE_SCALE,
            seed=task.seed,
            **options,
        )
        on_drawn(drawn)
        return drawn

    async with RestClient(timeout_s=timeout_s) as client:
        return await asyncio.gather(*(one(client, task) for task in planned))


def summarise(drawn: Sequence[Drawn], *, node_of_url: dict[str, str]) -> ReplaySummary:
    """Statistics of a replay; `node_of_url` names the node that answers at each URL."""
    images = [d for d in drawn if d.content]
    delays = np.array([d.delay_s for d in images]) if images else np.array([float("nan")])
    first_s = min(d.sent_s for d in drawn)
    last_s = max(d.sent_s + d.delay_s for d in drawn)
    offloaded = sum(d.executor != node_of_url[d.node_url] for d in images)
    return ReplaySummary(
        tasks=len(drawn),
        images=len(images),
        failed=len(drawn) - len(images),
        total_s=last_s - first_s,
        mean_s=float(delays.mean()),
        median_s=float(np.median(delays)),
        p95_s=float(np.percentile(delays, 95)),
        p99_s=float(np.percentile(delays, 99)),
        offload_share=offloaded / max(1, len(images)),
        per_node=dict(sorted(Counter(d.executor for d in images).items())),
        errors=dict(Counter(d.error for d in drawn if not d.content)),
    )


async def replay_with_progress(
    planned: Sequence[PlannedTask],
    *,
    node_urls: Sequence[str],
    timeout_s: float,
    title: str,
    **options: Any,
) -> ReplaySummary:
    """`replay` under a progress bar; asks every node for its name first."""
    async with RestClient(timeout_s=10.0) as client:
        names = {url: (await client.cluster(url))["node"] for url in node_urls}
    with Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ) as progress:
        bar = progress.add_task(title, total=len(planned))
        drawn = await replay(
            planned,
            node_urls=node_urls,
            timeout_s=timeout_s,
            on_drawn=lambda _: progress.advance(bar),
            **options,
        )
    return summarise(drawn, node_of_url=names)
