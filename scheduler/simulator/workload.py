"""Draws one episode of a scenario: every task, every server, every change of capacity.

Owns the order in which tasks are placed and served and the use of random numbers; common arrivals
for several policies are the same Episode given to each.

Arrays end in their dimension: N tasks of the episode in the order in which they are placed,
B servers, K stretches of constant capacity, M models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.simulator.scenario import Scenario

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Everything about one run but where its tasks go.

    Attributes:
        arrival_s_N: not falling; in a slotted scenario the start of the task's slot.
        slot_N: index of the slot that the arrival lies in.
        origin_N: station of the task.
        index_N: n, the index of the task among those of its station and slot.
        input_mbit_N, result_mbit_N: sizes on the link, Mbit.
        steps_N: z; the places at which a server may switch tasks.
        work_N: rho z, Gcycles.
        link_mbit_s_B: rate to and from each destination, Mbit/s.
        since_s_K: start of each stretch of constant capacity, since_s_K[0] = 0.
        capacity_KB: Gcycles/s in each stretch; 0 while a server is away.
        believed_KB: what the dispatchers are told of it.
        model_N: index of the model that each task asks for.
        serves_MB: whether a server draws a model.
    """

    scenario: Scenario
    arrival_s_N: FloatArray
    slot_N: IntArray
    origin_N: IntArray
    index_N: IntArray
    input_mbit_N: FloatArray
    result_mbit_N: FloatArray
    steps_N: IntArray
    work_N: FloatArray
    link_mbit_s_B: FloatArray
    since_s_K: FloatArray
    capacity_KB: FloatArray
    believed_KB: FloatArray
    model_N: IntArray
    serves_MB: BoolArray

    @property
    def tasks(self) -> int:
        """N, the number of tasks."""
        return len(self.work_N)

    @property
    def servers(self) -> int:
        """B, the number of servers."""
        return len(self.link_mbit_s_B)

    @property
    def serves_all(self) -> bool:
        """Whether every server draws every task."""
        return bool(self.serves_MB.all())

    def transfer_s(self, server_N: IntArray) -> FloatArray:
        """Upload and return of each task placed on `server_N`, seconds, (N,).

        The upload is paid only when offloaded, the return always (docs/paper.md, "upload").
        """
        rate_N = self.link_mbit_s_B[server_N]
        upload_N = np.where(server_N == self.origin_N, 0.0, self.input_mbit_N) / rate_N
        return upload_N + self.result_mbit_N / rate_N


def capacities(scenario: Scenario) -> FloatArray:
    """First capacity of each server, Gcycles/s, (B,)."""
    if scenario.capacities is not None:
        return np.array(scenario.capacities)
    low, high = scenario.capacity_range
    legacy = np.random.RandomState(scenario.capacity_seed)
    return legacy.randint(low, high + 1, size=scenario.servers).astype(np.float64)


def draw(scenario: Scenario, rng: np.random.Generator) -> Episode:
    """One episode; the same generator state gives the same episode for every policy."""
    if scenario.task_arrivals == "slotted":
        arrival_s_N, slot_N, origin_N, index_N = _slotted_arrivals(scenario, rng)
    else:
        arrival_s_N, slot_N, origin_N, index_N = _poisson_arrivals(scenario, rng)
    density_N, steps_N, result_mbit_N = _tasks(scenario, index_N, rng)
    input_mbit_N = rng.uniform(*scenario.input_mbit, len(slot_N))
    legacy = np.random.RandomState(scenario.link_seed)
    low, high = scenario.link_mbit_s
    link_mbit_s_B = legacy.randint(low, high + 1, size=scenario.servers).astype(np.float64)
    since_s_K, capacity_KB = _capacity_over_time(scenario)
    believed_KB = (
        capacity_KB
        if scenario.capacity_published
        else np.tile(capacity_KB[:1], (len(since_s_K), 1))
    )
    model_N, serves_MB = _models(scenario, len(slot_N), rng)
    return Episode(
        scenario=scenario,
        arrival_s_N=arrival_s_N,
        slot_N=slot_N,
        origin_N=origin_N,
        index_N=index_N,
        input_mbit_N=input_mbit_N,
        result_mbit_N=result_mbit_N,
        steps_N=steps_N,
        work_N=density_N * (input_mbit_N if scenario.work_per_mbit else steps_N),
        link_mbit_s_B=link_mbit_s_B,
        since_s_K=since_s_K,
        capacity_KB=capacity_KB,
        believed_KB=believed_KB,
        model_N=model_N,
        serves_MB=serves_MB,
    )


def one_model(*, tasks: int, servers: int) -> dict[str, Any]:
    """`model_N` and `serves_MB` where every server draws every task."""
    return {"model_N": np.zeros(tasks, np.int64), "serves_MB": np.ones((1, servers), np.bool_)}


def mean_work(scenario: Scenario) -> float:
    """Expected work of a task, Gcycles; exact, for the load of Poisson arrivals."""
    density = sum(scenario.density_range) / 2
    if scenario.work_per_mbit:
        return density * sum(scenario.input_mbit) / 2
    steps = np.arange(*scenario.steps_range)
    return density * float(steps @ _steps_probability(scenario))


def _slotted_arrivals(
    scenario: Scenario, rng: np.random.Generator
) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
    stations = scenario.servers if scenario.dispatchers == "all" else 1
    counts_TS = rng.integers(1, scenario.tasks_per_slot_max + 1, size=(scenario.slots, stations))
    order_TS = np.tile(np.arange(stations), (scenario.slots, 1))
    if scenario.station_order == "random":
        order_TS = rng.permuted(order_TS, axis=1)
    ordered_TS = np.take_along_axis(counts_TS, order_TS, axis=1)
    slot_N = np.repeat(np.arange(scenario.slots), counts_TS.sum(axis=1)).astype(np.int64)
    origin_N = np.repeat(order_TS.ravel(), ordered_TS.ravel()).astype(np.int64)
    starts = np.cumsum(ordered_TS.ravel()) - ordered_TS.ravel()
    index_N = np.arange(len(slot_N)) - np.repeat(starts, ordered_TS.ravel())
    arrival_s_N = np.asarray(slot_N * scenario.slot_s, np.float64)
    return arrival_s_N, slot_N, origin_N, index_N.astype(np.int64)


def _poisson_arrivals(
    scenario: Scenario, rng: np.random.Generator
) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
    assert scenario.load is not None  # Scenario holds it
    stations = scenario.servers if scenario.dispatchers == "all" else 1
    duration_s = scenario.slots * scenario.slot_s
    rate_per_s = scenario.load * float(capacities(scenario).sum()) / mean_work(scenario)
    arrival_s_N = np.sort(rng.uniform(0.0, duration_s, rng.poisson(rate_per_s * duration_s)))
    slot_N = (arrival_s_N / scenario.slot_s).astype(np.int64)
    origin_N = rng.integers(0, stations, len(arrival_s_N))
    index_N = np.zeros(len(slot_N), np.int64)
    counts: dict[tuple[int, int], int] = {}
    for task, key in enumerate(zip(slot_N.tolist(), origin_N.tolist(), strict=True)):
        index_N[task] = counts.get(key, 0)
        counts[key] = counts.get(key, 0) + 1
    return arrival_s_N, slot_N, origin_N, index_N


def _tasks(
    scenario: Scenario, index_N: IntArray, rng: np.random.Generator
) -> tuple[FloatArray, IntArray, FloatArray]:
    """Density, steps and result size of each task."""
    if not scenario.tasks_by_index:
        size = len(index_N)
        return (
            rng.uniform(*scenario.density_range, size),
            rng.choice(np.arange(*scenario.steps_range), size, p=_steps_probability(scenario)),
            rng.uniform(*scenario.result_mbit, size),
        )
    rows = max(scenario.tasks_per_slot_max, int(index_N.max(initial=0)) + 1)
    # The authors seed their generator anew before each of the three draws.
    density = _legacy(scenario).uniform(*scenario.density_range, size=rows)
    if scenario.steps_tail is None:
        steps = _legacy(scenario).randint(*scenario.steps_range, size=rows)
    else:
        steps = _legacy(scenario).choice(
            np.arange(*scenario.steps_range), rows, p=_steps_probability(scenario)
        )
    result = _legacy(scenario).uniform(*scenario.result_mbit, size=rows)
    return density[index_N], steps[index_N].astype(np.int64), result[index_N]


def _models(scenario: Scenario, tasks: int, rng: np.random.Generator) -> tuple[IntArray, BoolArray]:
    """The model of each task, and who draws each; draws nothing where there is one for all."""
    if not scenario.models:
        all_of_one = one_model(tasks=tasks, servers=scenario.servers)
        return all_of_one["model_N"], all_of_one["serves_MB"]
    by_speed = np.argsort(-capacities(scenario), kind="stable")
    serves_MB = np.zeros((len(scenario.models), scenario.servers), np.bool_)
    for index, model in enumerate(scenario.models):
        serves_MB[index, by_speed[list(model.servers)]] = True
    share_M = np.array([model.share for model in scenario.models])
    return rng.choice(len(share_M), tasks, p=share_M / share_M.sum()), serves_MB


def _legacy(scenario: Scenario) -> np.random.RandomState:
    return np.random.RandomState(scenario.task_seed)


def _steps_probability(scenario: Scenario) -> FloatArray:
    steps = np.arange(*scenario.steps_range, dtype=np.float64)
    if scenario.steps_tail is None:
        return np.full(len(steps), 1.0 / len(steps))
    weight = steps ** -(scenario.steps_tail + 1.0)
    return np.asarray(weight / weight.sum(), np.float64)


def _capacity_over_time(scenario: Scenario) -> tuple[FloatArray, FloatArray]:
    first_B = capacities(scenario)
    by_speed = np.argsort(-first_B, kind="stable")
    since_s_K = np.unique([0.0, *(change.at_s for change in scenario.changes)])
    capacity_KB = np.tile(first_B, (len(since_s_K), 1))
    for change in sorted(scenario.changes, key=lambda change: change.at_s):
        server = by_speed[change.server]
        capacity_KB[since_s_K >= change.at_s, server] = first_B[server] * change.factor
    return since_s_K, capacity_KB
