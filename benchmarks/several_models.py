"""What does it cost that one cluster draws two models, beside a cluster for each?

Three nodes with emulated devices, two of model a and one of model b, in one cluster: requests for
either model go to any node. Then the same devices as two clusters, one for each model, where each
request goes to a node of its own cluster. The same requests come at the same times. Delays are
measured at the client; which node drew an image is what the answer says.

    python -m benchmarks.several_models
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import Drawn, RestClient

RESULTS = Path(__file__).parent / "results"
# Of each node: its model and its device.
NODES = (("a", "orin-64gb-50w"), ("a", "orin-64gb-30w"), ("b", "orin-64gb-50w"))
STEPS = (10, 19)
BOOTSTRAPS = 2000


@dataclass(frozen=True, kw_only=True)
class Request:
    """When it comes, for which model, and to which of all nodes or of its model's."""

    at_s: float
    model: str
    node: int
    own_node: int
    steps: int
    seed: int


def planned(*, tasks: int, rate_hz: float, share_a: float, seed: int) -> list[Request]:
    """Requests as a Poisson process; the same for both arrangements."""
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(1.0 / rate_hz, size=tasks))
    requests = []
    for index in range(tasks):
        model = "a" if rng.random() < share_a else "b"
        own = [node for node, (name, _) in enumerate(NODES) if name == model]
        requests.append(
            Request(
                at_s=float(at_s[index]),
                model=model,
                node=int(rng.integers(len(NODES))),
                own_node=own[int(rng.integers(len(own)))],
                steps=int(rng.integers(STEPS[0], STEPS[1] + 1)),
                seed=index,
            )
        )
    return requests


def settings_of(node: int, *, time_scale: float) -> dict[str, Any]:
    """A node's settings."""
    model, profile = NODES[node]
    return {
        "engine": "emulated",
        "model_name": model,
        "emulated_profile": profile,
        "time_scale": time_scale,
        "policy_seed": node,
    }


async def drawn_by(urls: Sequence[str], requests: Sequence[Request], *, apart: bool) -> list[Drawn]:
    """Sends each at its time to its node, and waits for all images."""
    async with RestClient(timeout_s=300.0) as client:
        began_s = time.perf_counter()

        async def one(request: Request) -> Drawn:
            await asyncio.sleep(max(0.0, began_s + request.at_s - time.perf_counter()))
            return await client.draw(
                urls[request.own_node if apart else request.node],
                "a red circle",
                model=request.model,
                num_inference_steps=request.steps,
                seed=request.seed,
            )

        return list(await asyncio.gather(*map(one, requests)))


async def together(requests: Sequence[Request], options: argparse.Namespace) -> list[Drawn]:
    """One cluster of all nodes."""
    settings = [settings_of(node, time_scale=options.time_scale) for node in range(len(NODES))]
    async with LocalCluster(settings, rest_port=options.port) as cluster:
        return await drawn_by(cluster.urls, requests, apart=False)


async def apart(requests: Sequence[Request], options: argparse.Namespace) -> list[Drawn]:
    """A cluster for each model, of the same devices, at the same time."""
    of_model = {
        model: [node for node, (name, _) in enumerate(NODES) if name == model]
        for model in ("a", "b")
    }
    clusters = {
        model: LocalCluster(
            [settings_of(node, time_scale=options.time_scale) for node in nodes],
            rest_port=options.port + 10 * place,
        )
        for place, (model, nodes) in enumerate(of_model.items())
    }
    async with clusters["a"], clusters["b"]:
        urls = [""] * len(NODES)
        for model, nodes in of_model.items():
            for node, url in zip(nodes, clusters[model].urls, strict=True):
                urls[node] = url
        return await drawn_by(urls, requests, apart=True)


def summary(drawn: Sequence[Drawn], requests: Sequence[Request]) -> dict[str, Any]:
    """Delays in seconds by model and of all."""
    delays = np.array([one.delay_s for one in drawn])
    models = np.array([one.model for one in requests])
    return {
        "images": sum(one.status_code == 200 for one in drawn),
        "mean_s": float(delays.mean()),
        "p95_s": float(np.quantile(delays, 0.95)),
        "mean_s_by_model": {model: float(delays[models == model].mean()) for model in ("a", "b")},
    }


def misplaced(drawn: Sequence[Drawn], requests: Sequence[Request]) -> int:
    """Images of one cluster that a node of the other model drew, or nobody."""
    executors = {f"node-{node}": model for node, (model, _) in enumerate(NODES)}
    return sum(
        executors.get(one.executor) != request.model
        for one, request in zip(drawn, requests, strict=True)
    )


def interval(ours: Sequence[Drawn], theirs: Sequence[Drawn], *, seed: int) -> list[float]:
    """95 % interval of the ratio of the mean delays less 1, by pairs of the same request."""
    pairs = np.array([[a.delay_s, b.delay_s] for a, b in zip(ours, theirs, strict=True)])
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(pairs), size=(BOOTSTRAPS, len(pairs)))
    sums = pairs[chosen].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1] - 1.0, [0.025, 0.975])
    return [float(low), float(high)]


def main() -> None:
    """Measures both, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--rate", type=float, default=4.8, help="requests per second")
    parser.add_argument("--share-a", type=float, default=0.58, help="of requests for model a")
    parser.add_argument("--time-scale", type=float, default=20.0)
    parser.add_argument("--port", type=int, default=18_300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    requests = planned(
        tasks=options.tasks, rate_hz=options.rate, share_a=options.share_a, seed=options.seed
    )
    ours = asyncio.run(together(requests, options))
    theirs = asyncio.run(apart(requests, options))
    one, two = summary(ours, requests), summary(theirs, requests)
    result = {
        "question": "delays of one cluster of two models beside a cluster for each model",
        "emulated": True,
        "time": "seconds at the client; devices are time_scale times faster than the real ones",
        "nodes": [{"model": model, "profile": profile} for model, profile in NODES],
        "settings": machine.settings_of(options),
        "machine": machine.describe(),
        "one_cluster": one,
        "misplaced": misplaced(ours, requests),
        "two_clusters": two,
        "mean_ratio_less_1": one["mean_s"] / two["mean_s"] - 1.0,
        "mean_ratio_less_1_interval_95": interval(ours, theirs, seed=options.seed),
    }
    (RESULTS / "several_models.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k not in ("machine", "nodes")}, indent=1))


if __name__ == "__main__":
    main()
