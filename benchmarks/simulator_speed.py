"""How many tasks a second does the simulator place and serve on one core?

Runs whole episodes of the default scenario through the compiled kernels, and beside them, in the
same run, an event loop in plain Python with numpy arrays that does the same: what one would write
first. Compilation is not timed; every figure is the median over several runs of the best of three.

    python -m benchmarks.simulator_speed
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from scheduler.simulator import rules, scenarios
from scheduler.simulator.bounds import mean_delay_bound_s
from scheduler.simulator.marginal_harm import LeastMarginalHarm
from scheduler.simulator.queueing import FloatArray, IntArray, serve_fcfs
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, draw

RESULTS = Path(__file__).parent / "results"
GOAL_TASKS_PER_S = 3e6
FCFS = Discipline()
PROMOTED = Discipline(order="srpt", promotion=(15.0, 1.0))


def plain_opt_ts(episode: Episode) -> FloatArray:
    """Opt-TS and its first-come-first-served delays, one task after another in Python."""
    backlog_B = np.zeros(episode.servers)
    capacity_B, rate_B = episode.capacity_KB[0], episode.link_mbit_s_B
    delay_s_N = np.empty(episode.tasks)
    now_s = 0.0
    for task in range(episode.tasks):
        passed_s = episode.arrival_s_N[task] - now_s
        if passed_s > 0.0:
            backlog_B = np.maximum(backlog_B - capacity_B * passed_s, 0.0)
            now_s = episode.arrival_s_N[task]
        size_B = np.full(episode.servers, episode.input_mbit_N[task])
        size_B[episode.origin_N[task]] = 0.0
        delay_s_B = (backlog_B + episode.work_N[task]) / capacity_B
        delay_s_B += (size_B + episode.result_mbit_N[task]) / rate_B
        server = int(np.argmin(delay_s_B))
        backlog_B[server] += episode.work_N[task]
        delay_s_N[task] = delay_s_B[server]
    return delay_s_N


def plain_fcfs(episode: Episode, server_N: IntArray) -> FloatArray:
    """First-come-first-served delays of given placements, one task after another in Python."""
    backlog_B = np.zeros(episode.servers)
    capacity_B = episode.capacity_KB[0]
    delay_s_N = np.empty(episode.tasks)
    now_s = 0.0
    for task in range(episode.tasks):
        passed_s = episode.arrival_s_N[task] - now_s
        if passed_s > 0.0:
            backlog_B = np.maximum(backlog_B - capacity_B * passed_s, 0.0)
            now_s = episode.arrival_s_N[task]
        server = server_N[task]
        backlog_B[server] += episode.work_N[task]
        delay_s_N[task] = backlog_B[server] / capacity_B[server]
    return delay_s_N


def cases(episode: Episode) -> dict[str, Callable[[], object]]:
    """What is timed: a whole episode each."""
    scenario = episode.scenario
    opt_ts, blind = rules.create("opt_ts"), rules.create("capacity_random")
    harm = LeastMarginalHarm(fresh=True)
    rng = np.random.default_rng(1)
    server_N = blind.place(episode, rng)
    arguments = (episode.arrival_s_N, server_N, episode.work_N)
    capacities = (episode.since_s_K, episode.capacity_KB)

    def run(rule: Any, discipline: Discipline) -> FloatArray:
        return service_delay_s(episode, rule.place(episode, rng), discipline)

    def everything() -> FloatArray:
        drawn = draw(scenario, np.random.default_rng(0))
        return service_delay_s(drawn, opt_ts.place(drawn, rng), FCFS)

    return {
        "serve fcfs": lambda: serve_fcfs(*arguments, *capacities),
        "serve fcfs, plain Python": lambda: plain_fcfs(episode, server_N),
        "serve srpt": lambda: service_delay_s(episode, server_N, Discipline(order="srpt")),
        "serve srpt, promotion 15+1w": lambda: service_delay_s(episode, server_N, PROMOTED),
        "capacity random + fcfs": lambda: run(blind, FCFS),
        "Opt-TS + fcfs": lambda: run(opt_ts, FCFS),
        "Opt-TS + fcfs, plain Python": lambda: plain_opt_ts(episode),
        "draw + Opt-TS + fcfs": everything,
        "least marginal harm + srpt": lambda: run(harm, Discipline(order="srpt")),
        "lower bounds": lambda: mean_delay_bound_s(episode),
    }


def seconds(case: Callable[[], object]) -> float:
    """The best of three runs."""
    best_s = float("inf")
    for _ in range(3):
        start_s = time.perf_counter()
        case()
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    episode = draw(scenarios.get("default"), np.random.default_rng(0))
    rule = rules.create("opt_ts")
    ours = service_delay_s(episode, rule.place(episode, np.random.default_rng(1)), FCFS)
    np.testing.assert_allclose(ours, plain_opt_ts(episode), atol=1e-9)
    measured: dict[str, dict[str, float]] = {}
    for name, case in cases(episode).items():
        case()  # compiles
        median_s = statistics.median(seconds(case) for _ in range(options.runs))
        measured[name] = {"s": median_s, "tasks_per_s": episode.tasks / median_s}
        print(f"{name:<30}{1e3 * median_s:>10.2f} ms{episode.tasks / median_s / 1e6:>10.3f} M/s")
    ratio = {
        name: measured[f"{name}, plain Python"]["s"] / measured[name]["s"]
        for name in ("serve fcfs", "Opt-TS + fcfs")
    }
    for name, times in ratio.items():
        print(f"{name}: {times:.0f} times the plain event loop")
    fast = {
        name: measured[name]["tasks_per_s"] for name in ("capacity random + fcfs", "Opt-TS + fcfs")
    }
    written = {
        "question": "tasks per second placed and served by the simulator on one core",
        "goal": {"tasks_per_s_min": GOAL_TASKS_PER_S, "of": "placement and service, compiled rule"},
        "reached": {name: speed >= GOAL_TASKS_PER_S for name, speed in fast.items()},
        "tasks": episode.tasks,
        "runs": options.runs,
        "results": measured,
        "ratio_to_plain_python": ratio,
        "machine": machine.describe(),
    }
    (RESULTS / "simulator_speed.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
