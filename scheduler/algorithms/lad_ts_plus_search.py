"""LAD-TS+ learns how much each term of its cost counts: policy search across clusters and loads.

Why not by gradient as LAD-TS does: the cost has some ninety numbers, an episode is simulated
in milliseconds, and what is to be minimised (delays of all, with tails) is then measured instead
of estimated by a critic. CMA-ES (Hansen, arXiv 1604.00772; library `cma`) proposes weights; each
generation sees other episodes of the same scenarios, so that none is learned by heart.

Three stages, each a search of its own, because each fixes what the next builds on:
1. gains: price 0, first come first served; mean delay relative to Opt-TS on the same arrivals.
2. price: prices .35 and 1; at 1 the mean, at .35 the mean with p95 and p99 held near Opt-TS's.
3. reorder: short tasks first; the mean relative to the lower bound, and with promotion by due time
   the mean with p99 held at Opt-TS's.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from scheduler import checkpoint
from scheduler.policies.lad_ts_plus_policy import CONTEXT, GAINS, SHAPES, LadTsPlus, Weights
from scheduler.simulator import rules
from scheduler.simulator.bounds import mean_delay_bound_s
from scheduler.simulator.lad_ts_plus_kernel import LadTsPlusDispatcher
from scheduler.simulator.queueing import FloatArray
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, capacities, draw, mean_work

Stage = Literal["gains", "price", "reorder"]
PRICE_ROW = CONTEXT.index("price")
FCFS = Discipline()
SRPT = Discipline(order="srpt")


@dataclass(frozen=True, kw_only=True)
class Config:
    """How long and how widely to search.

    Attributes:
        population: weights tried per generation; more is slower and less easily misled by noise.
        step: first standard deviation of the weights; they are logarithms of factors.
        episodes: pool per scenario; generation g uses episode g modulo their number.
        seconds: wall time of a stage.
        shrinkage: added to the objective per squared weight: what does not help stays unlearned.
        tail: weight of exceeding the tail that is held, per unit of its logarithm.
    """

    population: int = 14
    step: float = 0.3
    episodes: int = 8
    seconds: float = 600.0
    shrinkage: float = 1e-3
    tail: float = 4.0


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """One training episode and what its delays are measured by, seconds."""

    episode: Episode
    mean_s: float
    p95_s: float
    p99_s: float
    bound_s: float


def train(
    stage: Stage,
    weights: Weights,
    config: Config,
    *,
    seed: int,
    progress: Callable[[int, float, Weights], None] = lambda generation, objective, weights: None,
) -> Weights:
    """Searches one stage from `weights`; returns the centre of the last generation.

    Args:
        stage: which weights may change.
        weights: where to start; those of other stages stay as they are.
        config: length and width of the search.
        seed: of episodes and search.
        progress: told the generation, the objective of its best weights, and its centre.
    """
    import cma

    pool = _pool(stage, config.episodes, seed)
    start = _unpack(stage, weights)
    options = {"popsize": config.population, "seed": seed + 1, "verbose": -9}
    search = cma.CMAEvolutionStrategy(start, config.step, options)
    end_s = time.monotonic() + config.seconds
    generation = 0
    while time.monotonic() < end_s and not search.stop():
        yardsticks = [episodes[generation % len(episodes)] for episodes in pool]
        tried = search.ask()
        objectives = [
            _objective(stage, _pack(stage, weights, vector), yardsticks, config.tail)
            + config.shrinkage * float(np.sum(np.square(vector)))
            for vector in tried
        ]
        search.tell(tried, objectives)
        generation += 1
        progress(generation, min(objectives), _pack(stage, weights, search.mean))
    return _pack(stage, weights, search.mean)


def save_weights(
    path: Path, weights: Weights, config: Config, *, seed: int, metrics: dict[str, float]
) -> None:
    """Writes weights as a policy checkpoint, atomically."""
    info = checkpoint.CheckpointInfo(
        kind="policy",
        policy=LadTsPlus.name,
        scenario={"name": "clusters of 5 to 40 servers, loads .35 to 1.7, five Orins"},
        config=dataclasses.asdict(config),
        seed=seed,
        episodes=config.episodes,
        code_version=importlib.metadata.version("dedgeai"),
        metrics=metrics,
    )
    arrays = {name: np.asarray(getattr(weights, name)) for name in SHAPES}
    checkpoint.save(path, checkpoint.Checkpoint(info=info, arrays=arrays))


def _unpack(stage: Stage, weights: Weights) -> FloatArray:
    rows = [row for row in range(len(CONTEXT)) if row != PRICE_ROW]
    if stage == "gains":
        return weights.gains_CG[rows, :4].ravel()
    if stage == "price":
        return np.concatenate([weights.gains_CG[PRICE_ROW, :4], weights.price_SM.ravel()])
    return weights.reorder_gains_CG[rows].ravel()


def _pack(stage: Stage, weights: Weights, vector: FloatArray) -> Weights:
    rows = [row for row in range(len(CONTEXT)) if row != PRICE_ROW]
    gains_CG = weights.gains_CG.copy()
    if stage == "gains":
        gains_CG[rows, :4] = vector.reshape(len(rows), 4)
        return dataclasses.replace(weights, gains_CG=gains_CG)
    if stage == "price":
        gains_CG[PRICE_ROW, :4] = vector[:4]
        price_SM = vector[4:].reshape(weights.price_SM.shape)
        return dataclasses.replace(weights, gains_CG=gains_CG, price_SM=price_SM)
    reorder_gains_CG = weights.reorder_gains_CG.copy()
    reorder_gains_CG[rows] = vector.reshape(len(rows), len(GAINS))
    return dataclasses.replace(weights, reorder_gains_CG=reorder_gains_CG)


def _objective(stage: Stage, weights: Weights, yardsticks: list[Yardstick], tail: float) -> float:
    """Mean logarithm of delays relative to what they are measured by; lower is better."""
    if stage == "gains":
        return float(np.mean([_relative(weights, one, 0.0, FCFS)[0] for one in yardsticks]))
    if stage == "price":
        open_ended = [_relative(weights, one, 1.0, FCFS)[0] for one in yardsticks]
        held = [_held(_relative(weights, one, 0.35, FCFS), 1.14, 1.16, tail) for one in yardsticks]
        return float(np.mean(open_ended) + 0.5 * np.mean(held))
    promoted = Discipline(order="srpt", promotion_load=0.9)
    short_first = []
    for one in yardsticks:
        mean = _relative(weights, one, 0.0, SRPT, reorder=True)[0] + np.log(one.mean_s)
        short_first.append(mean - np.log(one.bound_s))
    held = [
        _held(_relative(weights, one, 0.0, promoted, reorder=True), math.inf, 1.0, tail)
        for one in yardsticks
    ]
    return float(np.mean(short_first) + 0.5 * np.mean(held))


def _held(relative: tuple[float, float, float], p95: float, p99: float, tail: float) -> float:
    mean, over_p95, over_p99 = relative
    excess = max(over_p95 - math.log(p95), 0.0) + max(over_p99 - math.log(p99), 0.0)
    return mean + tail * excess


def _relative(
    weights: Weights, one: Yardstick, price: float, discipline: Discipline, *, reorder: bool = False
) -> tuple[float, float, float]:
    """Logarithms of mean, p95 and p99 over the yardstick's."""
    dispatcher = LadTsPlusDispatcher(weights, price=price, reorder=reorder)
    server_N = dispatcher.place(one.episode, np.random.default_rng(0))
    mean_s, p95_s, p99_s = _summary(service_delay_s(one.episode, server_N, discipline))
    return (
        float(np.log(mean_s / one.mean_s)),
        float(np.log(p95_s / one.p95_s)),
        float(np.log(p99_s / one.p99_s)),
    )


def _summary(delay_s_N: FloatArray) -> tuple[float, float, float]:
    last = len(delay_s_N) - 1
    places = int(0.95 * last), int(0.99 * last)
    parted = np.partition(delay_s_N, places)
    return float(delay_s_N.mean()), float(parted[places[0]]), float(parted[places[1]])


def _pool(stage: Stage, episodes: int, seed: int) -> list[list[Yardstick]]:
    """Episodes of every training scenario, with Opt-TS's delays on the same arrivals."""
    opt_ts = rules.create("opt_ts")
    pool: list[list[Yardstick]] = []
    for index, scenario in enumerate(training_scenarios(stage, seed)):
        pool.append([])
        for number in range(episodes):
            episode = draw(scenario, np.random.default_rng((seed, index, number)))
            server_N = opt_ts.place(episode, np.random.default_rng(0))
            mean_s, p95_s, p99_s = _summary(service_delay_s(episode, server_N, FCFS))
            bound_s = mean_delay_bound_s(episode).mean_s if stage == "reorder" else mean_s
            yardstick = Yardstick(
                episode=episode, mean_s=mean_s, p95_s=p95_s, p99_s=p99_s, bound_s=bound_s
            )
            pool[-1].append(yardstick)
    return pool


def training_scenarios(stage: Stage, seed: int) -> list[Scenario]:
    """Clusters of 5 to 40 servers of drawn capacities at loads .35 to 1.7, and of mixed Orins."""
    rng = np.random.default_rng(seed)
    loads = {
        "gains": (0.35, 0.75, 0.92, 0.97, 1.25),
        "price": (0.9, 1.3),
        "reorder": (0.92, 1.25),
    }[stage]
    found = [Scenario(name="default"), Scenario(name="N=38", tasks_per_slot_max=38)]
    if stage == "gains":
        found.append(Scenario(name="N=40", tasks_per_slot_max=40, slots=120))
    for servers in (5, 10, 20) if stage == "reorder" else (5, 10, 20, 40):
        for load in loads:
            found.append(_drawn_cluster(servers, load, rng))
    if stage == "gains":
        found.append(Scenario(name="stale", tasks_per_slot_max=38, refresh_s=5.0))
    if stage == "price":
        # The paper's own sweeps, whose printed points are to be beaten.
        found += [Scenario(name="default")] * 3
        found += [
            Scenario(name="N=70", tasks_per_slot_max=70, slots=40),
            Scenario(name="f_max=30", capacity_range=(10, 30), slots=40),
            Scenario(name="f_max=70", capacity_range=(10, 70)),
            Scenario(name="z_max=20", steps_range=(1, 20), slots=40),
            _orins(0.95, 0.05),
        ]
    if stage == "gains":
        found += [_orins(load, age_s) for load in (0.5, 0.8, 0.95) for age_s in (0.05, 1.0, 5.0)]
    return found


def _drawn_cluster(servers: int, load: float, rng: np.random.Generator) -> Scenario:
    fastest = int(rng.choice([30, 50, 70]))
    scenario = Scenario(
        name=f"B={servers}, load {load}",
        servers=servers,
        capacity_range=(10, fastest),
        slots={5: 59, 10: 59, 20: 40, 40: 15}[servers],
        tasks_by_index=bool(rng.random() < 0.7),
        capacity_seed=int(rng.integers(10_000)),
        link_seed=int(rng.integers(10_000)),
        task_seed=int(rng.integers(10_000)),
    )
    per_slot = load * float(capacities(scenario).sum()) / mean_work(scenario) / servers
    return scenario.replace(tasks_per_slot_max=max(2, round(2.0 * per_slot - 1.0)))


def _orins(load: float, refresh_s: float) -> Scenario:
    """Five Orins in mixed power modes, long enough for two thousand tasks."""
    return Scenario(
        name=f"Orins, load {load}, refresh {refresh_s} s",
        servers=5,
        capacities=(42.6, 26.7, 26.7, 10.0, 5.0),
        task_arrivals="poisson",
        load=load,
        slots=3600,
        density_range=(10.283, 10.284),
        steps_range=(10, 20),
        tasks_by_index=False,
        link_mbit_s=(940, 940),
        refresh_s=refresh_s,
    )
