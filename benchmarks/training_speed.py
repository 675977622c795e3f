"""How much processor time does an episode of training cost?

Ours (all agents stacked, chains compiled) against agents one by one in plain torch, which is how
the published code works, in the same process on one thread: the default scenario, 59 slots of
twenty agents with some 510 decisions and one update of every agent each. The peer is timed over a
few slots in which all agents train and scaled to an episode.

    python -m benchmarks.training_speed
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.unbatched_agents import slot_cpu_s
from scheduler.learning import learners
from scheduler.learning.trainer import arrivals
from scheduler.simulator import scenarios

RESULTS = Path(__file__).parent / "results"
GOAL_CPU_S = 0.6
PUBLISHED_CPU_S = {"lad_ts_published": 29.9, "sac": 8.7, "dqn": 2.7}  # measured elsewhere, one core
PEERS = ("lad_ts_published", "sac", "dqn")
SCENARIOS = {"fdedge": "fdedge"}  # trained on another scenario than "default"
WARM_EPISODES = 2
PEER_WARM_SLOTS = 25  # after which every agent has more than 300 transitions


def ours_cpu_s(name: str, episodes: int) -> list[float]:
    """Processor seconds of each of some episodes, once every agent trains."""
    scenario = scenarios.get(SCENARIOS.get(name, "default"))
    learner = learners.create(name, scenario, {}, seed=0)
    times = []
    for index in range(WARM_EPISODES + episodes):
        episode = arrivals(scenario, seed=0, episode=index)
        start_s = time.process_time()
        learner.train_episode(episode)
        times.append(time.process_time() - start_s)
    return times[WARM_EPISODES:]


def peer_cpu_s(name: str, timed_slots: int) -> float:
    """Processor seconds of an episode of the peer."""
    scenario = scenarios.get("default")
    episode = arrivals(scenario, seed=0, episode=0)
    slot_s = slot_cpu_s(
        name,  # type: ignore[arg-type]
        episode,
        warm_slots=PEER_WARM_SLOTS,
        timed_slots=timed_slots,
    )
    return slot_s * scenario.slots


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=7, help="of ours, timed")
    parser.add_argument("--peer-slots", type=int, default=8, help="of the peer, timed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, Any]] = {}
    print(f"{'':<10}{'ours':>9}{'best':>9}{'one by one':>13}{'ratio':>8}   CPU s per episode")
    for name in learners.names():
        times = ours_cpu_s(name, options.episodes)
        ours = statistics.median(times)
        peer = peer_cpu_s(name, options.peer_slots) if name in PEERS else None
        ratio = None if peer is None else peer / ours
        results[name] = {
            "scenario": SCENARIOS.get(name, "default"),
            "ours_cpu_s_median": ours,
            "ours_cpu_s": times,
            "one_by_one_cpu_s": peer,
            "ratio": ratio,
            "published_code_cpu_s": PUBLISHED_CPU_S.get(name),
        }
        beside = f"{'':>21}" if peer is None else f"{peer:>13.1f}{ratio:>7.1f}x"
        print(f"{name:<10}{ours:>9.3f}{min(times):>9.3f}{beside}", flush=True)
    written = {
        "question": "processor time of a training episode, one thread",
        "goal": {"lad_ts_cpu_s_max": GOAL_CPU_S},
        "reached": results["lad_ts_published"]["ours_cpu_s_median"] <= GOAL_CPU_S,
        "results": results,
        "machine": machine.describe(),
    }
    (RESULTS / "training_speed.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
