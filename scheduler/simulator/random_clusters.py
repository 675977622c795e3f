"""Clusters drawn at random: what a policy is trained on, chosen by, and measured on unseen.

Owns the distribution of clusters, how a number names a cluster, and which number a file of weights
is tested by. The three families never share a cluster: trained and chosen on one, reported on
another. Test clusters follow from the SHA-256 of the weights, so nobody can have looked at them
while the weights were made; a reader may take any other seed.

What `draw_cluster` draws, each independently unless it says otherwise:

| what | distribution |
|---|---|
| servers | log-uniform over 2..64 |
| capacities | the widest ratio of two servers log-uniform over 1..12; each server's log-uniform between the fastest possible, 50 Gcycles/s, and that many times less |
| load | uniform over .2..1.7 |
| arrivals | slotted or Poisson, half each; slotted stations take turns in random order |
| tasks per station and slot (slotted) | 1..N, N log-uniform over 2..50; the size of a task follows from the load |
| mean service (Poisson) | on a server of mean capacity, log-uniform over .05..5 s; the rate follows from the load |
| report period | Poisson: log-uniform over .02..2 s; slotted: a slot, log-uniform over .2..2 s |
| sizes of tasks | equal; 1..14 steps of a density that varies 3-fold, as in the paper; 3..300 steps of a Pareto distribution with exponent 1.5; a third each |
| transfers | half as in the paper (2..5 Mbit there, .6..1 back, 400..500 Mbit/s), half as live (a kilobyte there, 2..4 Mbit back, 940 Mbit/s) |
| length | 6000 tasks expected, but 30 to 300 slots (slotted) |
"""  # noqa: E501 (a table's row is one line)

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import mean_work

Family = Literal["training", "validation", "test"]
Sizes = Literal["equal", "even", "heavy"]

SERVERS = (2, 64)
SPREAD = (1.0, 12.0)
LOAD = (0.2, 1.7)
TASKS_PER_SLOT_MAX = (2, 50)
MEAN_SERVICE_S = (0.05, 5.0)
POISSON_REPORT_S = (0.02, 2.0)
SLOT_S = (0.2, 2.0)
FASTEST = 50.0
TASKS_EXPECTED = 6000
SLOTS = (30, 300)
# First words of the seeds; far from those of arrivals (`dispatchers`) and of training runs.
_FAMILY_WORD: dict[Family, int] = {"training": 920_001, "validation": 920_002, "test": 920_003}


def draw_cluster(rng: np.random.Generator) -> Scenario:
    """One cluster of the distribution above; the same generator state gives the same cluster."""
    servers = _whole(rng, *SERVERS)
    spread = _between(rng, *SPREAD)
    capacities = FASTEST * spread ** -rng.random(servers)
    load = float(rng.uniform(*LOAD))
    slotted = bool(rng.random() < 0.5)
    sizes: Sizes = rng.choice(get_args(Sizes))
    cluster = Scenario(
        name="random",
        servers=servers,
        capacities=tuple(capacities.tolist()),
        station_order="random",
        tasks_by_index=False,
        link_seed=int(rng.integers(2**32)),
    ).replace(**_sizes(sizes), **_transfers(rng))
    timed = _slotted(cluster, load, rng) if slotted else _poisson(cluster, load, rng)
    name = (
        f"random B={servers} load={load:.2f} {timed.task_arrivals} {sizes} "
        f"state={timed.refresh_s:.2g}s spread={spread:.1f}"
    )
    return timed.replace(name=name)


def clusters(seed: int, count: int, *, family: Family, first: int = 0) -> list[Scenario]:
    """The clusters that a seed names in a family; each depends on its place only.

    Args:
        seed: 0 or more, of any size.
        count: the place to end before.
        family: "training" to learn from, "validation" to choose by, "test" to report.
        first: place to begin at.
    """
    word = _FAMILY_WORD[family]
    return [
        draw_cluster(np.random.default_rng([word, seed, place])) for place in range(first, count)
    ]


def weights_seed(path: Path) -> int:
    """The seed of the test clusters of these weights: the first 8 bytes of the file's SHA-256.

    Raises:
        OSError: the file cannot be read.
    """
    return int.from_bytes(hashlib.sha256(path.read_bytes()).digest()[:8], "big")


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _whole(rng: np.random.Generator, low: int, high: int) -> int:
    """Log-uniform over whole numbers, both ends included."""
    return min(int(_between(rng, low, high + 1)), high)


def _sizes(sizes: Sizes) -> dict[str, object]:
    """Steps and relative density; the density is scaled to the load afterwards."""
    if sizes == "equal":
        return {"steps_range": (15, 16), "density_range": (1.0, 1.0)}
    if sizes == "even":
        return {"steps_range": (1, 15), "density_range": (1.0, 3.0)}
    return {"steps_range": (3, 301), "steps_tail": 1.5, "density_range": (1.0, 1.0)}


def _transfers(rng: np.random.Generator) -> dict[str, object]:
    if rng.random() < 0.5:
        return {}
    return {"input_mbit": (0.008, 0.008), "result_mbit": (2.0, 4.0), "link_mbit_s": (940, 940)}


def _slotted(cluster: Scenario, load: float, rng: np.random.Generator) -> Scenario:
    slot_s = _between(rng, *SLOT_S)
    most = _whole(rng, *TASKS_PER_SLOT_MAX)
    tasks = cluster.servers * (most + 1) / 2
    sized = _scaled(cluster, load * _capacity(cluster) * slot_s / tasks)
    slots = min(max(round(TASKS_EXPECTED / tasks), SLOTS[0]), SLOTS[1])
    return sized.replace(tasks_per_slot_max=most, slot_s=slot_s, refresh_s=slot_s, slots=slots)


def _poisson(cluster: Scenario, load: float, rng: np.random.Generator) -> Scenario:
    service_s = _between(rng, *MEAN_SERVICE_S)
    refresh_s = _between(rng, *POISSON_REPORT_S)
    sized = _scaled(cluster, service_s * _capacity(cluster) / cluster.servers)
    duration_s = TASKS_EXPECTED * service_s / (load * cluster.servers)
    return sized.replace(
        task_arrivals="poisson",
        load=load,
        refresh_s=refresh_s,
        slots=math.ceil(duration_s),
    )


def _capacity(cluster: Scenario) -> float:
    assert cluster.capacities is not None  # `draw_cluster` gives them
    return sum(cluster.capacities)


def _scaled(cluster: Scenario, work: float) -> Scenario:
    """The cluster with tasks of this mean work, Gcycles."""
    factor = work / mean_work(cluster)
    low, high = cluster.density_range
    return cluster.replace(density_range=(factor * low, factor * high))
