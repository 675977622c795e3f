"""Trains the LAD-TS weights that ship: one small network for each number of servers, 2 to 40.

    python -m scheduler.learning.pretraining --out out/pretraining --jobs 2

Owns the clusters that are trained on and the measurement beside the weights. Every episode is
another cluster (capacities up to 8.5-fold apart, as an Orin's power modes spread them, sorted;
load .8 to 1), so that a network learns to read queues instead of servers by heart. All stations
of a node's cluster run the same weights, so one agent learns from all stations' tasks.

differs from the paper's LAD-TS, each found by one short run (mean delay in s while measured on 20
servers after 60 episodes, hidden 32, alpha falling from .05; Opt-TS .84, capacity random 2.25):
    zero start, no noise, gamma 0, actor_lr 3e-3   1.73
    ... actor_lr 1e-3                              1.95
    ... and gamma .95                              2.60
    ... and x_I from the previous slot             124    (its latents are another cluster's)
    x_I from the previous slot, DDPM noise         4.13   (gamma 0, actor_lr 3e-3)
    the paper's hyperparameters, 100 episodes      4.45
With few servers a falling alpha ends in one server that gets everything (3 servers: 11.6 after 100
episodes, worse than random); with alpha held at .3 the same gets 1.44 after 40, but 20 servers only
3.79, where .05 gets 3.58 after 50 (2.90 with hidden 32). So the chain starts at zero without noise,
and alpha stays at 1 over the number of servers, .3 at most; a node's own learner goes back to the
paper's latents, for its cluster stays the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from scheduler import checkpoint
from scheduler.algorithms.lad_ts import LadTs, LadTsConfig
from scheduler.checkpoint import Checkpoint, CheckpointInfo
from scheduler.features import StateScale
from scheduler.learning.run_state import restore, snapshot
from scheduler.policies.pretrained_lad_ts import (
    PRETRAINED,
    SERVERS_MAX,
    SERVERS_MIN,
    UNITS,
    packed,
)
from scheduler.simulator import rules
from scheduler.simulator.queueing import IntArray
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, draw, mean_work

# Hyperparameters; the paper's values and what raising them does are in LadTsConfig.
CONFIG = LadTsConfig(
    actor_lr=3e-3,
    critic_lr=3e-3,
    batch=128,
    pool=20_000,
    hidden=32,
    alpha_lr=0.0,
    # A task's own delay only: what it does to the next 20 tasks of all stations is noise to it.
    gamma=0.0,
    noise="none",
    start="zero",
    memory="slot",
    pool_latents="copied",
    next_state="fixed",
)
ALPHA_MAX = 0.3
EPISODES = 100
# Trainings for each number of servers, of which the best validated ships: some end in a bad place.
SEEDS = 2
# The actor that ships is the best of those met every so many episodes, on so many others.
VALIDATED_EVERY, VALIDATED_EPISODES = 5, 8
MEASURED_EPISODES = 20
RULES = ("opt_ts", "power_of_two", "smooth_wrr", "capacity_random", "slow_server_aware", "random")
# Fastest over slowest at most: Orin at MAXN and at 15 W, fp16 dense: docs/facts.md.
CAPACITY_SPREAD_MAX = 8.5
LOAD_RANGE = (0.8, 1.0)
# Slots of one second, in which every station has one or two tasks.
TASKS_PER_SLOT_MAX = 2
SLOTS = 60
STEPS = (10, 20)
_TRAINING, _MEASURING, _VALIDATING = 920_001, 920_002, 920_003


def cluster(servers: int, rng: np.random.Generator) -> Scenario:
    """Another cluster of so many servers, fastest first, with its load."""
    spread = rng.uniform(size=servers) * rng.uniform()
    capacity_B = np.sort(CAPACITY_SPREAD_MAX**spread)[::-1]
    tasks_per_s = servers * (1 + TASKS_PER_SLOT_MAX) / 2
    work = rng.uniform(*LOAD_RANGE) * capacity_B.sum() / tasks_per_s
    density = work / ((STEPS[0] + STEPS[1] - 1) / 2)
    return Scenario(
        name="pretraining",
        servers=servers,
        capacities=tuple(capacity_B.tolist()),
        tasks_per_slot_max=TASKS_PER_SLOT_MAX,
        slots=SLOTS,
        station_order="random",
        input_mbit=(0.008, 5.0),  # a prompt of a kilobyte up to an initial image
        density_range=(density, density),
        steps_range=STEPS,
        tasks_by_index=False,
        link_mbit_s=(940, 940),
    )


def config_for(servers: int) -> LadTsConfig:
    """Hyperparameters for so many servers."""
    return dataclasses.replace(CONFIG, alpha=min(ALPHA_MAX, 1.0 / servers))


def as_one_station(episode: Episode) -> Episode:
    """The same tasks as those of a single station: all stations share one network."""
    scenario = _one_station(episode.scenario)
    first_of_slot_N = np.searchsorted(episode.slot_N, episode.slot_N)
    return dataclasses.replace(
        episode,
        scenario=scenario,
        origin_N=np.zeros_like(episode.origin_N),
        index_N=np.arange(episode.tasks) - first_of_slot_N,
    )


def scale(scenario: Scenario) -> StateScale:
    """The units of `pretrained_lad_ts.in_units_of_training` for one cluster."""
    assert scenario.capacities is not None  # `cluster` gives them
    capacity_B, work = np.array(scenario.capacities), mean_work(scenario)
    backlog_B = UNITS.backlog_B[0] * work * capacity_B / capacity_B.mean()
    return StateScale(
        input_mbit=UNITS.input_mbit, work=UNITS.work * work, backlog_B=tuple(backlog_B.tolist())
    )


def train_one(servers: int, *, episodes: int, seed: int) -> Checkpoint:
    """Trains the weights for one number of servers and measures them."""
    torch.set_num_threads(1)
    rng = np.random.default_rng([_TRAINING, seed, servers])
    config = config_for(servers)
    agent = LadTs(_one_station(cluster(servers, rng)), config, seed=seed)
    start_s = time.process_time()
    best_s, best = np.inf, snapshot({"actor": agent.actor})
    for episode in range(1, episodes + 1):
        scenario = cluster(servers, rng)
        agent.scale = scale(scenario)
        agent.train_episode(as_one_station(draw(scenario, rng)))
        if episode % VALIDATED_EVERY == 0:
            # Learning swings: the last actor is at times far worse than one ten episodes ago.
            mean_s = _validated_s(agent, servers)
            if mean_s < best_s:
                best_s, best = mean_s, snapshot({"actor": agent.actor})
    restore({"actor": agent.actor}, best)
    metrics = {
        "cpu_s": time.process_time() - start_s,
        "validated_s": best_s,
        **_measured(agent, servers),
    }
    info = CheckpointInfo(
        kind="policy",
        policy=LadTs.name,
        scenario={"name": "pretraining", "servers": servers},
        config=dataclasses.asdict(config),
        seed=seed,
        episodes=episodes,
        code_version=importlib.metadata.version("dedgeai"),
        metrics=metrics,
    )
    return Checkpoint(info=info, arrays=agent.export() | {"state_scale": UNITS.array()})


def _one_station(scenario: Scenario) -> Scenario:
    return scenario.replace(
        dispatchers="first", tasks_per_slot_max=TASKS_PER_SLOT_MAX * scenario.servers
    )


def _validated_s(agent: LadTs, servers: int) -> float:
    """Mean delay on clusters that are neither trained nor measured on, always the same."""
    rng = np.random.default_rng([_VALIDATING, servers])
    means_s = []
    for _ in range(VALIDATED_EPISODES):
        scenario = cluster(servers, rng)
        episode = draw(scenario, rng)
        agent.scale = scale(scenario)
        server_N = agent.place(as_one_station(episode), np.random.default_rng(servers))
        means_s.append(service_delay_s(episode, server_N, Discipline()).mean())
    return float(np.mean(means_s))


def _measured(agent: LadTs, servers: int) -> dict[str, float]:
    """Mean delays in seconds on common arrivals of clusters that were not trained on."""
    rng = np.random.default_rng([_MEASURING, servers])
    means: dict[str, list[float]] = {name: [] for name in ("lad_ts", *RULES)}
    for index in range(MEASURED_EPISODES):
        scenario = cluster(servers, rng)
        episode = draw(scenario, rng)
        agent.scale = scale(scenario)
        for name, delays in means.items():
            placing = np.random.default_rng([_MEASURING, index])
            server_N: IntArray
            if name == "lad_ts":
                server_N = agent.place(as_one_station(episode), placing)
            else:
                server_N = rules.create(name).place(episode, placing)
            delays.append(float(service_delay_s(episode, server_N, Discipline()).mean()))
    return {f"{name}_s": float(np.mean(delays)) for name, delays in means.items()}


def _train_and_keep(servers: int, folder: Path, episodes: int, seed: int) -> Path:
    path = folder / f"lad_ts_{servers:02d}_{seed}.safetensors"
    if not path.exists():
        checkpoint.save(path, train_one(servers, episodes=episodes, seed=seed))
    return path


def best_validated(candidates: Sequence[Checkpoint]) -> Checkpoint:
    """The one with the least mean delay on the clusters that choose, not on those measured."""
    return min(candidates, key=lambda one: one.info.metrics["validated_s"])


def _report(checkpoints: dict[int, Checkpoint]) -> dict[str, object]:
    """Delays by number of servers, and gaps to Opt-TS and to the best rule that is no oracle."""
    rows = []
    for servers, one in sorted(checkpoints.items()):
        metrics = one.info.metrics
        honest = {name: metrics[f"{name}_s"] for name in RULES if name != "opt_ts"}
        best = min(honest, key=lambda name: honest[name])
        rows.append(
            {
                "servers": servers,
                **{name: round(value, 4) for name, value in metrics.items()},
                "gap_to_opt_ts": round(metrics["lad_ts_s"] / metrics["opt_ts_s"] - 1.0, 4),
                "best_rule": best,
                "gap_to_best_rule": round(metrics["lad_ts_s"] / honest[best] - 1.0, 4),
            }
        )
    return {
        "what": "pretrained LAD-TS; mean service delay in s over episodes on common arrivals",
        "clusters": f"capacities up to {CAPACITY_SPREAD_MAX}-fold apart, loads {LOAD_RANGE}, "
        f"{SLOTS} slots, queues seen once a slot (Opt-TS sees them always)",
        "trainings_per_row": SEEDS,
        "episodes_trained": sorted({one.info.episodes for one in checkpoints.values()}),
        "episodes_measured": MEASURED_EPISODES,
        "config": dataclasses.asdict(CONFIG),
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what `--out` lacks, then packs and reports."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="weights by number of servers")
    parser.add_argument("--pack", type=Path, default=PRETRAINED)
    parser.add_argument("--json", type=Path, help="write the measurement there")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    options = parser.parse_args(arguments)
    sizes = range(SERVERS_MIN, SERVERS_MAX + 1)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        futures = {
            servers: [
                pool.submit(_train_and_keep, servers, options.out, options.episodes, seed)
                for seed in range(SEEDS)
            ]
            for servers in sizes
        }
        paths = {servers: [one.result() for one in ones] for servers, ones in futures.items()}
    checkpoints = {
        servers: best_validated([checkpoint.load(path, kind="policy") for path in ones])
        for servers, ones in paths.items()
    }
    checkpoint.save(options.pack, packed(checkpoints))
    if options.json is not None:
        options.json.write_text(json.dumps(_report(checkpoints), indent=1) + "\n")


if __name__ == "__main__":
    main()
