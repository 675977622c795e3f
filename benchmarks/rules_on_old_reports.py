"""Which rule places tasks best where nodes decide on old reports of each other?

Clusters of 5, 20 and 40 devices, equal or in mixed power modes, all of which place tasks: at once
at the start of each second, many small tasks or one to three large ones of each node; and at random
times, on reports that are .05, 1 and 2 s apart. The guard's four rules, LAD-TS+, LAD-TS and Opt-TS
on the same arrivals: mean delay in seconds, and over a *coordinated blind bound*. There one
water-filling places all tasks of a report period; it sees the same old report as everybody, and all
that has been placed since. No node can do that: it is the most that coordination without newer
reports could give. It is greedy or, if that is less, discounts a task's own work as
`slow_server_aware` does.

The constants of `ring` were searched on other draws of such clusters; those of LAD-TS+ and of
LAD-TS on others.

    python -m benchmarks.rules_on_old_reports
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from benchmarks import machine
from scheduler.policies.heuristics import DEEP_TASKS
from scheduler.simulator.dispatchers import dispatcher, measuring_rng, placing_rng
from scheduler.simulator.queueing import IntArray
from scheduler.simulator.rules.greedy import cheapest
from scheduler.simulator.rules.view import Facts, facts_of, look, open_view, placed
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.scenarios import ORIN_15W, ORIN_30W, ORIN_50W, ORIN_MAXN
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, draw, mean_work

RESULTS = Path(__file__).parent / "results"
POLICIES = {
    "power of two": "power_of_two:sample=capacity,own=B",
    "slow-server aware": "slow_server_aware",
    "least expected delay": "least_expected_delay:own=B",
    "ring": "ring",
    "LAD-TS+": "lad_ts_plus",
    "LAD-TS": "lad_ts",
    "Opt-TS": "opt_ts",
}
BOUND = "blind bound"
SIZES = (5, 20, 40)
MODES = {"equal": (ORIN_50W,), "mixed": (ORIN_MAXN, ORIN_50W, ORIN_50W, ORIN_30W, ORIN_15W)}
SLOT_LOADS = (0.6, 0.8, 0.95)
REPORTS_S = (0.05, 1.0, 2.0)
POISSON_LOAD = 0.8
LARGE_SERVICE_S = 3.5  # of a mean task on the fastest device
FEW_TASKS = 3  # at most, of a node and slot
SECONDS = {"small": 100, "large": 600}


@dataclass(frozen=True, kw_only=True)
class Blind:
    """The bound's placement; `discount` is how often a task's own work counts."""

    discount: float

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws nothing."""
        return placed(_place_blind(facts_of(episode), self.discount), episode)


@njit(cache=True)
def _place_blind(facts: Facts, discount: float) -> IntArray:
    view = open_view(facts)
    nothing_B = np.zeros(len(view.capacity_B))
    weights = (1.0, discount, DEEP_TASKS, np.inf)
    server_N = np.full(len(facts.work_N), -1)
    for task in range(len(server_N)):
        look(facts, view, facts.arrival_s_N[task])
        server = cheapest(facts, view, task, weights, nothing_B, nothing_B)
        if server < 0:
            break
        server_N[task] = server
        view.true_B[server] += facts.work_N[task]
        for station in range(facts.stations):  # everybody knows of it
            view.own_SB[station, server] += facts.work_N[task]
    return server_N


def clusters() -> Iterator[Scenario]:
    """Every cluster that is measured; the name says what it is."""
    for size in SIZES:
        for mode, devices in MODES.items():
            capacities = tuple(devices[index % len(devices)] for index in range(size))
            base = Scenario(
                name="", servers=size, capacities=capacities, tasks_by_index=False, slots=100
            )
            for load in SLOT_LOADS:
                yield from _at_once(base, load, f"{size} {mode}, load {load:g}, at once")
            for refresh_s in REPORTS_S:
                yield from _at_random(
                    base, refresh_s, f"{size} {mode}, reports {refresh_s:g} s apart"
                )


def _at_once(base: Scenario, load: float, name: str) -> Iterator[Scenario]:
    """Everybody decides at the start of each second, in an order that changes."""
    work_s = load * sum(base.capacities or ()) * base.slot_s / base.servers
    once = base.replace(station_order="random", refresh_s=base.slot_s)
    tasks = max(1, round(2.0 * work_s / mean_work(base) - 1.0))
    yield once.replace(
        name=f"{name}, 1 to {tasks} small", tasks_per_slot_max=tasks, slots=SECONDS["small"]
    )
    larger = work_s / ((1 + FEW_TASKS) / 2) / mean_work(base)
    low, high = base.density_range
    yield once.replace(
        name=f"{name}, 1 to {FEW_TASKS} large",
        tasks_per_slot_max=FEW_TASKS,
        density_range=(low * larger, high * larger),
        slots=SECONDS["small"],
    )


def _at_random(base: Scenario, refresh_s: float, name: str) -> Iterator[Scenario]:
    """Poisson arrivals at every node, of the paper's tasks and of a diffusion model's."""
    poisson = base.replace(task_arrivals="poisson", load=POISSON_LOAD, refresh_s=refresh_s)
    yield poisson.replace(name=f"{name}, small", slots=SECONDS["small"])
    steps = (10, 20)
    step = LARGE_SERVICE_S * ORIN_MAXN / ((steps[0] + steps[1] - 1) / 2)
    yield poisson.replace(
        name=f"{name}, large",
        density_range=(step, step),
        steps_range=steps,
        slots=SECONDS["large"],
    )


def measured(scenario: Scenario, episodes: int) -> dict[str, Any]:
    """Mean delay of every policy in each episode, seconds, and the bound's."""
    placing = {name: dispatcher(policy, scenario, 0) for name, policy in POLICIES.items()}
    blind = [Blind(discount=1.0), Blind(discount=0.3)]
    mean_s_E: dict[str, list[float]] = {name: [] for name in (*placing, BOUND)}
    for number in range(episodes):
        episode = draw(scenario, measuring_rng(0, number))

        def delay_s(one: Any, episode: Episode = episode, number: int = number) -> float:
            server_N = one.place(episode, placing_rng(0, number))
            return float(service_delay_s(episode, server_N, Discipline()).mean())

        for name, one in placing.items():
            mean_s_E[name].append(delay_s(one))
        mean_s_E[BOUND].append(min(map(delay_s, blind)))
    return {
        "cluster": scenario.name,
        "mean_s": {name: float(np.mean(values)) for name, values in mean_s_E.items()},
        "mean_s_E": mean_s_E,
    }


def over_bound(rows: list[dict[str, Any]], name: str, containing: str) -> float:
    """Geometric mean over the clusters so named of a policy's mean delay over the bound's."""
    ratios = [
        row["mean_s"][name] / row["mean_s"][BOUND]
        for row in rows
        if all(part in row["cluster"] for part in containing.split(" & "))
    ]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


GROUPS = (
    *(f"{size} {mode} & at once" for size in SIZES for mode in MODES),
    *(f"reports {one:g} s" for one in REPORTS_S),
)


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULTS / "rules_on_old_reports.json")
    options = parser.parse_args()
    columns = (*POLICIES, BOUND)
    print("| cluster | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|", sep="\n")
    rows = []
    for scenario in clusters():
        rows.append(measured(scenario, options.episodes))
        cells = (f"{rows[-1]['mean_s'][name]:.3f}" for name in columns)
        print(f"| {scenario.name} | " + " | ".join(cells) + " |", flush=True)
    summary = {
        group: {name: over_bound(rows, name, group) for name in POLICIES} for group in GROUPS
    }
    print("\n| mean over the blind bound's | " + " | ".join(POLICIES) + " |")
    print("|---" * (1 + len(POLICIES)) + "|")
    for group, over in summary.items():
        print(f"| {group} | " + " | ".join(f"{over[name]:.3f}" for name in POLICIES) + " |")
    found = {
        "question": "mean service delay of rules where nodes decide on old reports, simulated",
        "settings": {"episodes": options.episodes, "poisson_load": POISSON_LOAD},
        "over_blind_bound": summary,
        "clusters": rows,
        "machine": machine.describe(),
    }
    options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
