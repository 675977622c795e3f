"""Many clusters at once: how far a policy is from the best rule of each, with an interval.

Owns the summary of a comparison over drawn clusters, which have no names that anybody could tune a
policy to. A cluster counts once, whatever its delays: means are of logarithms of ratios, and
intervals are bootstrapped over clusters, for other clusters are what a reader will have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scheduler.simulator import rules
from scheduler.simulator.comparison import ScenarioResult
from scheduler.simulator.random_clusters import Family, clusters, weights_seed
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import mean_work

RESAMPLES = 10_000
# Where nodes that decide at once on old states herd.
MANY_NODES, OLD_STATE_S = 10, 0.5
# What most people have: a handful of devices that keep up with what is asked of them.
FEW_NODES, FULL_LOAD = 12, 1.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One policy over a group of clusters, per cent; intervals of 95 %.

    Attributes:
        policy: its spelling.
        group: which clusters.
        clusters: how many.
        over_best_rule: mean over that of the rule which is best on each cluster, and its interval.
        worst: the largest of it on a single cluster.
        over_opt_ts: mean over Opt-TS's, which sees the true state.
    """

    policy: str
    group: str
    clusters: int
    over_best_rule: float
    low: float
    high: float
    worst: float
    over_opt_ts: float


def drawn(
    seed: int | None, weights: Path | None, count: int, family: Family = "test"
) -> tuple[int, list[Scenario]]:
    """The seed, a reader's own or that of a file of weights, and its clusters of a family.

    Raises:
        ValueError: neither or both are given, or the seed is negative.
        OSError: the file cannot be read.
    """
    if (seed is None) == (weights is None):
        raise ValueError("give a seed or a file of weights")
    number = weights_seed(weights) if weights is not None else seed
    assert number is not None
    if number < 0:
        raise ValueError(f"the seed is {number}; it must be 0 or more")
    return number, clusters(number, count, family=family)


def standings(results: Sequence[ScenarioResult]) -> list[Standing]:
    """Every policy in every group that has clusters.

    Raises:
        ValueError: no policy is a rule that sees reports, so that there is no best one.
    """
    spelt = [one.policy for one in results[0].policies]
    blind = [index for index, policy in enumerate(spelt) if _is_rule(policy)]
    if not blind:
        raise ValueError("give a rule to compare with; opt_ts sees the true state and is none")
    log_PC = np.log([[one.delays.mean_s for one in result.policies] for result in results]).T
    over_best_PC = log_PC - log_PC[blind].min(axis=0)
    over_opt_ts_PC = log_PC - np.log([result.reference.delays.mean_s for result in results])
    many = np.array([result.scenario.servers >= MANY_NODES for result in results])
    old = np.array([result.scenario.refresh_s >= OLD_STATE_S for result in results])
    groups = {
        "all": np.ones(len(results), np.bool_),
        f"{MANY_NODES} nodes and more, state {OLD_STATE_S:g} s and older": many & old,
        "the others": ~(many & old),
        f"at most {FEW_NODES} nodes, load below {FULL_LOAD:g}": np.array(
            [_is_handful(result.scenario) for result in results]
        ),
    }
    found = []
    for group, member_C in groups.items():
        if not member_C.any():
            continue
        for policy, over_C, opt_C in zip(spelt, over_best_PC, over_opt_ts_PC, strict=True):
            low, high = _interval(over_C[member_C])
            found.append(
                Standing(
                    policy=policy,
                    group=group,
                    clusters=int(member_C.sum()),
                    over_best_rule=_per_cent(over_C[member_C].mean()),
                    low=low,
                    high=high,
                    worst=_per_cent(over_C[member_C].max()),
                    over_opt_ts=_per_cent(opt_C[member_C].mean()),
                )
            )
    return found


def markdown(found: Sequence[Standing]) -> str:
    """A table for each group."""
    lines: list[str] = []
    for group in dict.fromkeys(one.group for one in found):
        members = [one for one in found if one.group == group]
        lines += [f"**{group}: {members[0].clusters} clusters**", ""]
        lines += [
            "| policy | vs best rule of each (95 %) | worst | vs Opt-TS |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {one.policy} | {one.over_best_rule:+.1f} % ({one.low:+.1f}..{one.high:+.1f}) "
            f"| {one.worst:+.1f} % | {one.over_opt_ts:+.1f} % |"
            for one in members
        ]
        lines.append("")
    return "\n".join(lines)


def _is_rule(policy: str) -> bool:
    """Whether it is a rule that knows no more than a node can."""
    return policy.partition(":")[0] in rules.names() and not (
        policy.startswith("opt_ts") or "fresh=true" in policy or "shadow_price" in policy
    )


def _interval(log_C: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = log_C[rng.integers(len(log_C), size=(RESAMPLES, len(log_C)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return _per_cent(low), _per_cent(high)


def _per_cent(log: float) -> float:
    return 100.0 * math.expm1(log)


def _is_handful(scenario: Scenario) -> bool:
    return scenario.servers <= FEW_NODES and _load(scenario) < FULL_LOAD


def _load(scenario: Scenario) -> float:
    """Work that comes over work that all servers can do, of a cluster with given capacities."""
    if scenario.load is not None:
        return scenario.load
    assert scenario.capacities is not None  # drawn clusters have them
    tasks_a_slot = scenario.servers * (scenario.tasks_per_slot_max + 1) / 2
    work = tasks_a_slot * mean_work(scenario)
    return work / (scenario.slot_s * sum(scenario.capacities))
