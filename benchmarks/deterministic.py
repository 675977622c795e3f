"""Do a busy node's pictures differ from an idle one's, and what does it cost that they do not?

One real node with the tiny model, the same mixed drawings twice: one after the other, then all at
once. Three settings beside each other: rows that share a step as calibration finds it to pay, four
of them, and `deterministic`. Prints how many pictures differ and by how much, images per second
when busy, and the cost as a ratio; writes results/deterministic.json.

    python -m benchmarks.deterministic
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from benchmarks import machine
from edge_node.client import AsyncClient
from edge_node.console.local_cluster import LocalCluster, free_rest_port

Picture = NDArray[np.int64]
RESULTS = Path(__file__).parent / "results"
COLOURS = ("red", "blue", "green", "yellow")
SETTINGS: dict[str, dict[str, Any]] = {
    "as calibration finds": {},
    "four rows a step": {"rows_max": 4},
    "deterministic": {"deterministic": True},
}


def drawings(count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """Requests of mixed steps and guidance."""
    rng = np.random.default_rng(seed)
    return [
        {
            "prompt": f"a large {COLOURS[number % 4]} circle",
            "seed": number,
            "num_inference_steps": int(rng.integers(8, 16)),
            "guidance_scale": float(rng.choice([1.0, 5.0, 7.5])),
        }
        for number in range(count)
    ]


async def drawn(client: AsyncClient, one: dict[str, Any]) -> Picture:
    """The picture of a request, (H, W, 3)."""
    image = await client.wait((await client.submit(**one)).id)
    return np.asarray(PillowImage.open(io.BytesIO(image.content)).convert("RGB"), np.int64)


async def measured(settings: dict[str, Any], count: int) -> dict[str, Any]:
    """The drawings alone and all at once on a node of its own."""
    wanted, port = drawings(count), free_rest_port(first=21_000, nodes=1)
    with tempfile.TemporaryDirectory() as folder:
        nodes = [{"torch_threads": 1, **settings}]
        async with (
            LocalCluster(nodes, rest_port=port, folder=Path(folder)) as cluster,
            AsyncClient(cluster.urls[0], timeout_s=120.0) as client,
        ):
            await drawn(client, wanted[0])
            before_s = time.perf_counter()
            alone = [await drawn(client, one) for one in wanted]
            alone_s = time.perf_counter() - before_s
            before_s = time.perf_counter()
            busy = await asyncio.gather(*(drawn(client, one) for one in wanted))
            busy_s = time.perf_counter() - before_s
    differing = [np.abs(a - b) for a, b in zip(alone, busy, strict=True) if (a != b).any()]
    return {
        "images": count,
        "images_that_differ": len(differing),
        "values_that_differ": int(sum((one > 0).sum() for one in differing)),
        "largest_difference": int(max((one.max() for one in differing), default=0)),
        "alone_images_per_s": count / alone_s,
        "busy_images_per_s": count / busy_s,
    }


async def compared(count: int, rounds: int) -> dict[str, Any]:
    """All settings in turn, several times; the counts of all rounds and the median speeds."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
    for _ in range(rounds):
        for name, settings in SETTINGS.items():
            runs[name].append(await measured(settings, count))
    return {name: _summed(found) for name, found in runs.items()}


def _summed(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counts = ("images", "images_that_differ", "values_that_differ")
    summed = {name: sum(one[name] for one in found) for name in counts}
    speeds = ("alone_images_per_s", "busy_images_per_s")
    medians = {name: statistics.median(one[name] for one in found) for name in speeds}
    return {
        **summed,
        "largest_difference": max(one["largest_difference"] for one in found),
        **medians,
    }


def main() -> None:
    """Measures, prints and writes results/deterministic.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="of all settings")
    parser.add_argument("--out", type=Path, default=RESULTS / "deterministic.json")
    options = parser.parse_args()
    by_setting = asyncio.run(compared(options.images, options.rounds))
    shared_per_s = by_setting["as calibration finds"]["busy_images_per_s"]
    print(f"{'':22}{'differ':>12}{'by at most':>12}{'busy images/s':>15}{'ratio':>8}")
    for name, one in by_setting.items():
        one["busy_ratio"] = one["busy_images_per_s"] / shared_per_s
        differ = f"{one['images_that_differ']} of {one['images']}"
        print(
            f"{name:22}{differ:>12}{one['largest_difference']:>12}"
            f"{one['busy_images_per_s']:15.2f}{one['busy_ratio']:8.3f}"
        )
    document = {
        "benchmark": "deterministic",
        "model": "tiny-sd3, float32, one CPU thread",
        "settings": SETTINGS,
        "results": by_setting,
        "machine": machine.describe(),
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
