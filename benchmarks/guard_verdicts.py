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

*Rules that differ.* The guard's rules as they ship, judged against a policy that is about as good
as the best of them: one of them, left out of the candidates, LAD-TS+ and LAD-TS. How much worse
each really is, all windows together say; a verdict of more than the margin is false where that is
less.

*Cost.* CPU seconds of one judgement of LAD-TS+ on 2000 decisions of a node among 5 and among 20,
against one rule and against the four.

    python -m benchmarks.guard_verdicts
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
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
from scheduler.simulator.statistics import wilson_interval
from scheduler.simulator.workload import draw

RESULTS = Path(__file__).parent / "results"
EQUALS = "power_of_two"
CANDIDATES = 4
MARGINS = (0.0, 0.01)
LOADS = (0.5, 0.95)
AGE_S = 0.05
SIZES = (5, 20)
COST_TASKS = 2000
# Policies that are judged against the guard's rules; where one of these it is no candidate.
TESTED = ("slow_server_aware", "ring", "lad_ts_plus", "lad_ts")
RECORDED_UNDER = "slow_server_aware"
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
            name: {f"{margin:g}": _share(lows, margin) for margin in MARGINS}
            for name, lows in low.items()
        },
        "half_width": {name: float(np.mean(values)) for name, values in half.items()},
        "rule_changed": changed / windows,
    }


def differing_verdicts(load: float, *, windows: int, tasks: int) -> dict[str, Any]:
    """How often the guard's way calls a policy worse than rules that differ, and how much it is."""
    scenario = scenarios.get(f"orins_{load:g}")
    rules = rule_factories(NodeConfig().guard_rules)
    makers: dict[str, PolicyFactory] = dict(rules)
    makers |= {name: partial(_learned, name) for name in TESTED if name not in rules}
    mean_s: dict[str, list[float]] = {name: [] for name in makers}
    low: dict[str, list[float]] = {name: [] for name in TESTED}
    chosen: dict[str, Counter[str]] = {name: Counter() for name in TESTED}
    for number in range(windows):
        records = recorded(scenario, RECORDED_UNDER, tasks=tasks, seed=2000 + number)
        seed = 100 * number
        window = window_of(records, np.random.default_rng((seed, 0)))
        for name, make in makers.items():
            played = play(window, make, fallback=make, seed=seed)
            mean_s[name].append(float(played.delay_s_N.mean()))
        for name in TESTED:
            others = {rule: make for rule, make in rules.items() if rule != name}
            verdict = judged(records, makers[name], others, seed=seed)
            low[name].append(verdict.worse_low)
            chosen[name][verdict.rule] += 1
    return {
        "load": load,
        "windows": windows,
        "tasks": tasks,
        "mean_s": {name: float(np.mean(values)) for name, values in mean_s.items()},
        "tested": {
            name: _really(name, mean_s, rules)
            | {"called_worse": {f"{margin:g}": _share(low[name], margin) for margin in MARGINS}}
            | {"chosen": dict(chosen[name])}
            for name in TESTED
        },
    }


def _really(
    name: str, mean_s: dict[str, list[float]], rules: dict[str, PolicyFactory]
) -> dict[str, Any]:
    """How much worse than the best other rule a policy is over all windows, with its bounds."""
    best = min((rule for rule in rules if rule != name), key=lambda rule: np.mean(mean_s[rule]))
    ours_s_W, theirs_s_W = np.array(mean_s[name]), np.array(mean_s[best])
    return {
        "best_rule": best,
        "worse": float(ours_s_W.mean() / theirs_s_W.mean() - 1.0),
        "worse_bounds_95": relative_bounds(ours_s_W, theirs_s_W),
    }


def _share(lows: list[float], margin: float) -> dict[str, Any]:
    """Of windows that call a policy worse by more than the margin, with its 95 % interval."""
    count = sum(low > margin for low in lows)
    return {"share": count / len(lows), "interval_95": wilson_interval(count, len(lows))}


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
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--tasks", type=int, default=1000, help="decisions of a window")
    parser.add_argument("--json", type=Path, default=RESULTS / "guard_verdicts.json")
    options = parser.parse_args()
    costs = [cost(size) for size in SIZES]
    for one in costs:
        print(one, flush=True)
    rates, differing = [], []
    size = {"windows": options.windows, "tasks": options.tasks}
    for load in LOADS:
        rates.append(false_verdicts(load, **size))
        print(json.dumps(rates[-1], indent=1), flush=True)
        differing.append(differing_verdicts(load, **size))
        print(json.dumps(differing[-1], indent=1), flush=True)
    found = {
        "question": "how often an equal policy is called worse, and what a judgement costs",
        "false_verdicts": rates,
        "rules_that_differ": differing,
        "cost": costs,
        "machine": machine.describe(),
    }
    options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
