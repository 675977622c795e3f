"""What is the latent memory worth to users? LAD-TS+ and LAD-TS live, each with three starts.

Real nodes on emulated Orins serve the same requests under each policy, pinned, whose reverse
process starts at the latents that each node keeps in its store (on), at no latent (off: LAD-TS+
at its ring, LAD-TS at zero) or at Gaussian noise. LAD-TS+ decides with the weights that ship. Of
LAD-TS none know these devices, so per seed it learns in the simulator from their slotted twin, once
with latents for the first two and once with Gaussian starts. Beside them the best rule. Delays are
measured at the client, in seconds of the emulated devices.

    python -m benchmarks.warm_start --captions FILE
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.cluster_delay import MIXED, RESULTS, Cell, poisson_requests, run
from benchmarks.cluster_twin import Request
from scheduler import checkpoint
from scheduler.algorithms.lad_ts import LadTs, LadTsConfig
from scheduler.checkpoint import Checkpoint, CheckpointInfo
from scheduler.learning.pretraining import as_one_station
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import draw

STARTS = ("on", "off", "gaussian")
PLUS_STARTS = {"on": "memory", "off": "ring", "gaussian": "gaussian"}
ARMS = tuple((policy, start) for policy in ("lad_ts_plus", "lad_ts") for start in STARTS)
RULE = "slow_server_aware"
LOAD = 0.8
TASKS_PER_SLOT_MAX = 2
STEPS = (10, 20)
# The paper's but for what a live agent has (LIVE_OPTIONS), a task's own delay as its reward, an
# entropy that is held up, and faster rates, for so short a training.
CONFIG = LadTsConfig(
    actor_lr=1e-3,
    critic_lr=3e-3,
    gamma=0.0,
    pool=20_000,
    batch=128,
    alpha=0.3,
    target_entropy=1.0,
    memory="slot",
    pool_latents="copied",
    next_state="fixed",
    state="normal",
)


def twin() -> Scenario:
    """The mixed devices, in slots as the paper has them, at the same load."""
    servers = len(MIXED.profiles)
    steps_mean = (STEPS[0] + STEPS[1] - 1) / 2
    work_per_slot = servers * (1 + TASKS_PER_SLOT_MAX) / 2 * MIXED.work_mean
    density = MIXED.work_mean / steps_mean
    return Scenario(
        name="slotted twin of mixed Orins",
        servers=servers,
        capacities=MIXED.capacities,
        tasks_per_slot_max=TASKS_PER_SLOT_MAX,
        slots=60,
        slot_s=work_per_slot / (LOAD * MIXED.capacity),
        station_order="random",
        input_mbit=(0.008, 0.008),
        density_range=(density, density),
        steps_range=STEPS,
        tasks_by_index=False,
        link_mbit_s=(940, 940),
    )


def trained(config: LadTsConfig, *, episodes: int, seed: int) -> Checkpoint:
    """LAD-TS after `episodes` of the twin; all stations share the weights."""
    torch.set_num_threads(1)
    rng = np.random.default_rng([31, seed])
    scenario = twin()
    merged = as_one_station(draw(scenario, rng)).scenario
    agent = LadTs(merged, config, seed=seed)
    for _ in range(episodes):
        agent.train_episode(as_one_station(draw(scenario, rng)))
    info = CheckpointInfo(
        kind="policy",
        policy=LadTs.name,
        scenario={"name": scenario.name, "servers": scenario.servers},
        config=dataclasses.asdict(config),
        seed=seed,
        episodes=episodes,
        code_version=importlib.metadata.version("dedgeai"),
        metrics={},
    )
    return Checkpoint(info=info, arrays=agent.export())


def weights(folder: Path, *, episodes: int, seed: int) -> dict[str, Path]:
    """File of LAD-TS's weights for each start."""
    warm = trained(CONFIG, episodes=episodes, seed=seed)
    cold_info = dataclasses.replace(warm.info, config={**warm.info.config, "start": "zero"})
    gaussian = dataclasses.replace(CONFIG, start="gaussian")
    by_start = {
        "on": warm,
        "off": dataclasses.replace(warm, info=cold_info),
        "gaussian": trained(gaussian, episodes=episodes, seed=seed),
    }
    paths = {start: folder / f"{start}-{seed}.safetensors" for start in STARTS}
    for start, path in paths.items():
        checkpoint.save(path, by_start[start])
    return paths


def measure(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Every arm and the rule on each seed's requests."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="warm-start-") as name:
        for seed in range(options.seeds):
            paths = weights(Path(name), episodes=options.episodes, seed=seed)
            requests = poisson_requests(
                MIXED, load=LOAD, seconds=options.seconds, seed=100 * seed + 7
            )
            for policy, start in (*ARMS, (RULE, "")):
                cell = _cell(policy, start, paths, requests, options)
                found = run(cell, options, seed=seed)
                rows.append({"seed": seed, "policy": policy, "start": start, **found.told()})
                shown = ("seed", "policy", "start", "mean_s", "failed")
                console.print({key: rows[-1][key] for key in shown})
    return rows


def _cell(
    policy: str,
    start: str,
    paths: dict[str, Path],
    requests: tuple[Request, ...],
    options: argparse.Namespace,
) -> Cell:
    more: dict[str, Any] = {}
    if policy != RULE:
        chosen = f"start={PLUS_STARTS[start]}"
        if policy == "lad_ts":
            chosen = f"checkpoint_path={paths[start]}"
        more = {"pin_policy": True, "policy_options": chosen}
    return Cell(
        devices=MIXED,
        policy=policy,
        requests=requests,
        time_scale=options.time_scale,
        settings_more=more,
    )


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Mean over seeds of every arm, and against the rule."""
    table = Table(title=f"Live at load {LOAD:g}: delay at the client, emulated seconds")
    for column in ("policy", "start", "mean", "p99", f"against {RULE}"):
        table.add_column(column)
    rule_s = np.mean([row["mean_s"] for row in rows if row["policy"] == RULE])
    for policy, start in (*ARMS, (RULE, "")):
        own = [row for row in rows if (row["policy"], row["start"]) == (policy, start)]
        mean_s = np.mean([row["mean_s"] for row in own])
        p99_s = np.mean([row["p99_s"] for row in own])
        table.add_row(policy, start, f"{mean_s:.2f}", f"{p99_s:.1f}", f"{mean_s / rule_s - 1:+.1%}")
    return table


def main() -> None:
    """Trains, measures, prints, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=Path, help="Flickr8k file; a small sample without it")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=100, help="of LAD-TS's training")
    parser.add_argument("--seconds", type=float, default=600.0, help="emulated, of a run")
    parser.add_argument("--time-scale", type=float, default=10.0)
    parser.add_argument("--port", type=int, default=18180)
    parser.add_argument("--out", type=Path, default=RESULTS / "warm_start.json")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    console = Console(width=120)
    rows = measure(options, console)
    console.print(table_of(rows))
    written = {
        "question": "delay live with a warm start, without one, and with a Gaussian one",
        "time": "seconds of the emulated devices",
        "time_scale": options.time_scale,
        "load": LOAD,
        "training_episodes": options.episodes,
        "machine": machine.describe(),
        "rows": rows,
    }
    options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    console.print(f"written: {options.out}")


if __name__ == "__main__":
    main()
