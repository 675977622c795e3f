"""The demonstration: three nodes of unequal speed, real images, with and without offloading.

Everything is real but the differences in speed: each worker has one torch thread and a floor on
the time of a step (`pace_s`), so that one machine stands in for three unequal ones.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edge_node.config import NodeConfig
from edge_node.console import scene_classifier
from edge_node.console.captions import SAMPLE
from edge_node.console.contact_sheet import write_contact_sheet
from edge_node.console.local_cluster import LocalCluster
from edge_node.console.replay import Arrivals, PlannedTask, ReplaySummary, plan, replay, summarise
from edge_node.console.rest_client import Drawn
from edge_node.worker.tiny_sd3 import scenes

# Seconds per work unit of the three nodes; the node that is asked is the middle one.
PACES_S = (0.16, 0.10, 0.30)
ONE_OBJECT_SCENES = 18
TWO_OBJECT_SCENES = 4
CAPTIONS = 6
SEED = 7
OFFLOADING_POLICY = NodeConfig().policy


def demo_scenes() -> dict[str, scenes.Scene]:
    """Scene prompts of the demonstration, none of which training has seen."""
    rng = np.random.default_rng(SEED)
    wanted: dict[str, scenes.Scene] = {}
    for objects, count in ((1, ONE_OBJECT_SCENES), (2, TWO_OBJECT_SCENES)):
        enough = len(wanted) + count
        while len(wanted) < enough:
            scene = scenes.sample_scene(rng, objects=objects, want_held_out=True)
            wanted[scenes.caption(scene)] = scene
    return wanted


async def run_demo(*, out: Path, rest_port: int, console: Console) -> bool:
    """Draws the same prompts local-only and with offloading; leaves its results in `out`.

    Returns:
        Whether every prompt became an image and offloading shortened the total delay.
    """
    wanted = demo_scenes()
    prompts = (*wanted, *SAMPLE[:CAPTIONS])
    planned = plan(
        Arrivals(kind="batch", to="one"), captions=prompts, tasks=len(prompts), nodes=3, seed=SEED
    )
    summaries: dict[str, ReplaySummary] = {}
    drawn: list[Drawn] = []
    for policy in ("local", OFFLOADING_POLICY):
        drawn, summaries[policy] = await _run(policy, planned, rest_port=rest_port, console=console)
    right, judged = _count_right(drawn, wanted)
    out.mkdir(parents=True, exist_ok=True)
    title = f"DEdgeAI: {len(drawn)} prompts to one node, drawn by three"
    write_contact_sheet(drawn, out / "contact_sheet.png", title=title)
    result = _result(summaries, right=right, judged=judged)
    (out / "demo.json").write_text(json.dumps(result, indent=2) + "\n")
    console.print(_table(summaries))
    for policy, summary in summaries.items():
        shares = ", ".join(f"{node} {count}" for node, count in summary.per_node.items())
        console.print(f"Images by node, {policy}: {shares}")
    console.print(f"Scene images that show what was asked: {right} of {judged}")
    console.print(f"Images: {out / 'contact_sheet.png'}   figures: {out / 'demo.json'}")
    complete = all(summary.failed == 0 for summary in summaries.values())
    return complete and bool(result["offloading_shortens_total"])


async def _run(
    policy: str, planned: Sequence[PlannedTask], *, rest_port: int, console: Console
) -> tuple[list[Drawn], ReplaySummary]:
    settings = [
        {"torch_threads": 1, "rows_max": 1, "pace_s": pace_s, "policy": policy}
        for pace_s in PACES_S
    ]
    with console.status(f"Starting three nodes, policy {policy}: node, store and worker each"):
        cluster = LocalCluster(settings, rest_port=rest_port)
        await cluster.__aenter__()
    try:
        with Progress(
            TextColumn(f"{policy:>18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}"),
            console=console,
        ) as progress:
            bar = progress.add_task(policy, total=len(planned), last="")

            def show(drawn: Drawn) -> None:
                last = f"{drawn.executor or 'failed'}: {drawn.prompt[:48]}"
                progress.update(bar, advance=1, last=last)

            drawn = await replay(planned, node_urls=cluster.urls, timeout_s=300.0, on_drawn=show)
    finally:
        cluster.stop()
    names = dict(zip(cluster.urls, cluster.node_ids, strict=True))
    return drawn, summarise(drawn, node_of_url=names)


def _count_right(drawn: Sequence[Drawn], wanted: dict[str, scenes.Scene]) -> tuple[int, int]:
    right = judged = 0
    for item in drawn:
        scene = wanted.get(item.prompt)
        if scene is None or not item.content:
            continue
        with Image.open(io.BytesIO(item.content)) as image:
            seen = scene_classifier.classify(np.asarray(image.convert("RGB")))
        judged += 1
        right += scene_classifier.judge(scene, seen)["all"][0]
    return right, judged


def _result(summaries: dict[str, ReplaySummary], *, right: int, judged: int) -> dict[str, Any]:
    local, offloading = summaries["local"], summaries[OFFLOADING_POLICY]
    return {
        "model": "tiny SD3, 64x64, real",
        "pace_s": dict(zip(("node-0", "node-1", "node-2"), PACES_S, strict=True)),
        "pace_note": "Floor on the seconds per step of each worker, so that three nodes on one "
        "machine differ in speed; the drawing is untouched. All prompts go to node-0.",
        "policies": {policy: asdict(summary) for policy, summary in summaries.items()},
        "total_ratio": offloading.total_s / local.total_s,
        "offloading_shortens_total": offloading.total_s < local.total_s,
        "scene_images_right": right,
        "scene_images_judged": judged,
    }


def _table(summaries: dict[str, ReplaySummary]) -> Table:
    table = Table(title="Delay at the client, seconds")
    table.add_column("policy", no_wrap=True)
    for column in ("images", "total", "mean", "median", "p95", "offloaded"):
        table.add_column(column, justify="right", no_wrap=True)
    for policy, s in summaries.items():
        times = (f"{value:.1f}" for value in (s.total_s, s.mean_s, s.median_s, s.p95_s))
        table.add_row(policy, f"{s.images}/{s.tasks}", *times, f"{s.offload_share:.0%}")
    return table
