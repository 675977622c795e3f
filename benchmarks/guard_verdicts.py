"""How often does the guard call an equal policy worse, and what does a judgement cost?

*False verdicts.* A simulated cluster of five mixed Orins places tasks; one node's decisions are
judged. The learned policy and all candidates for the best rule are the same policy, power of two
choices, each with a coin of its own: whoever is called worse is called so by chance. Four ways:
one rule, compared on the whole window, as it was when there was only one, or on its newest two
thirds; the best of four on the same window that then compares; and the way of
`scheduler.guard.live_replay`, where the oldest third chooses, the rest compares, and the rule in
force stays until another is surely better. A verdict says worse at 95 %, beyond the margin of 0 and
of 1 %. As `replay` gives the chosen rule the same coins whichever it is, the last way equals one
rule on two thirds by construction: it tells the price of the shorter window, and cannot tell
whether a choice among rules that differ would favour the chosen one.

*Cost.* CPU seconds of one judgement of LAD-TS+ on 2000 decisions of a node among 5 and among 20,
against one rule and against the four.

    python -m benchmarks.guard_verdicts
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.recorded_cluster import run_cluster
from edge_node.config import NodeConfig
from scheduler.experience import PooledDecision, RecordedDecision
from scheduler.guard.candidates import PolicyFactory, rule_factories, rule_factory
from scheduler.guard.live_replay import CHOOSING_SHARE, judge, play, relative_bounds, window_of
from scheduler.guard.verdict import ReplayVerdict
from scheduler.registry import create
from scheduler.simulator import scenarios
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import draw

RESULTS = Path(__file__).parent / "results"
EQUALS = "power_of_two"
CANDIDATES = 4
MARGINS = (0.0, 0.01)
LOADS = (0.5, 0.95)
AGE_S = 0.05
SIZES = (5, 20)
COST_TASKS = 2000
MODES = (42.6, 26.7, 26.7, 10.0, 5.0)


def recorded(scenario: Scenario, policy: str, *, tasks: int, seed: int) -> list[RecordedDecision]:
    """The first decisions of one node of a cluster under a policy."""
    rate = sum(scenario.capacities or ()) * (scenario.load or 0.0) / scenario.servers
    work = draw(scenario.replace(slots=200), np.random.default_rng(seed)).work_N.mean()
    long_enough = scenario.replace(slots=int(1.3 * tasks * work / rate))
    episode = draw(long_enough, np.random.default_rng(seed))
    make = rule_factory(policy)
    records, _ = run_cluster(
        episode, lambda station: make(np.random.default_rng((seed, station))), age_s=AGE_S
    )
    return [record for record in records if record.node_id == "node-0"][:tasks]


def judged(
    records: list[RecordedDecision],
    learned: PolicyFactory,
    rules: dict[str, PolicyFactory],
    *,
    seed: int,
) -> ReplayVerdict:
    """As the learner judges."""
    verdict = judge(
        (PooledDecision(life="1", sequence=i, recorded=one) for i, one in enumerate(records)),
        window_tasks=len(records),
        version="equal",
        learned=learned,
        rules=rules,
        in_force=next(iter(rules)),
        judged_unix_s=0.0,
        seed=seed,
    )
    assert verdict is not None, "the window is long enough"
    return verdict


def best_of_the_same(records: list[RecordedDecision], coin: PolicyFactory, *, seed: int) -> float:
    """Lower bound of how much worse an equal is than the best of four on the same window."""
    window = window_of(records, np.random.default_rng((seed, 0)))
    delay_s_PN = [
        play(window, coin, fallback=coin, seed=seed + number).delay_s_N
        for number in range(1 + CANDIDATES)
    ]
    best_s_N = min(delay_s_PN[1:], key=lambda delay_s_N: float(delay_s_N.mean()))
    return relative_bounds(delay_s_PN[0], best_s_N)[0]


def false_verdicts(load: float, *, windows: int, tasks: int) -> dict[str, Any]:
    """Shares of windows in which an equal policy is called worse, and how sharp the bounds are."""
    scenario = scenarios.get(f"orins_{load:g}")
    coin = rule_factory(EQUALS)
    four = {f"equal {number}": coin for number in range(CANDIDATES)}
    one = {"equal 0": coin}
    same = "best of the same window"
    ways = ("one rule", "one rule, two thirds", "chosen before")
    low: dict[str, list[float]] = {name: [] for name in (*ways, same)}
    half: dict[str, list[float]] = {name: [] for name in ways}
    changed = 0
    for number in range(windows):
        records = recorded(scenario, EQUALS, tasks=tasks, seed=1000 + number)
        seed = 100 * number
        low[same].append(best_of_the_same(records, coin, seed=seed))
        newest = records[int(tasks * CHOOSING_SHARE) :]
        judging = ((records, one), (newest, one), (records, four))
        for name, (part, rules) in zip(ways, judging, strict=True):
            verdict = judged(part, coin, rules, seed=seed)
            low[name].append(verdict.worse_low)
            half[name].append((verdict.worse_high - verdict.worse_low) / 2.0)
            changed += verdict.rule != "equal 0"
    return {
        "load": load,
        "windows": windows,
        "tasks": tasks,
        "called_worse": {
            name: {f"{margin:g}": float(np.mean(np.array(lows) > margin)) for margin in MARGINS}
            for name, lows in low.items()
        },
        "half_width": {name: float(np.mean(values)) for name, values in half.items()},
        "rule_changed": changed / windows,
    }


def cost(size: int) -> dict[str, Any]:
    """CPU seconds of one judgement, against one rule and against all."""
    scenario = scenarios.get("orins_0.8").replace(
        servers=size, capacities=tuple(MODES[index % len(MODES)] for index in range(size))
    )
    records = recorded(scenario, "slow_server_aware", tasks=COST_TASKS, seed=7)
    names = NodeConfig().guard_rules
    learned = partial(_learned, "lad_ts_plus")
    found: dict[str, float] = {}
    for name, rules in (("one rule", names[:1]), ("four rules", names)):
        factories = rule_factories(rules)
        times_s = []
        for _ in range(3):  # the first compiles
            start_s = time.process_time()
            judged(records, learned, factories, seed=0)
            times_s.append(time.process_time() - start_s)
        found[name] = min(times_s)
    return {"nodes": size, "tasks": len(records), "cpu_s": found}


def _learned(name: str, rng: np.random.Generator) -> Any:
    return create(name, rng=rng)


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--tasks", type=int, default=1000, help="decisions of a window")
    parser.add_argument("--json", type=Path, default=RESULTS / "guard_verdicts.json")
    options = parser.parse_args()
    costs = [cost(size) for size in SIZES]
    for one in costs:
        print(one, flush=True)
    rates = []
    for load in LOADS:
        rates.append(false_verdicts(load, windows=options.windows, tasks=options.tasks))
        print(json.dumps(rates[-1], indent=1), flush=True)
    found = {
        "question": "how often an equal policy is called worse, and what a judgement costs",
        "false_verdicts": rates,
        "cost": costs,
        "machine": machine.describe(),
    }
    options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
