"""Policies measured against each other on common arrivals.

Owns the pairing: every policy places the same episodes, and every gap is to Opt-TS served first
come first served on them, the paper's own reference, whatever the order of service that is asked
for. Prints nothing; may use several processes.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scheduler.simulator.bounds import mean_delay_bound_s
from scheduler.simulator.dispatch import Dispatcher
from scheduler.simulator.dispatchers import (
    PolicySpec,
    dispatcher,
    measuring_rng,
    placing_rng,
)
from scheduler.simulator.rules.greedy import OptTs
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.statistics import DelayStatistics, Gap, paired_gap, student_quantile
from scheduler.simulator.workload import draw


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured on each scenario.

    Attributes:
        policies: in the order of the result.
        episodes: per seed.
        seeds: 0..seeds - 1; each has its own arrivals and its own learned policies.
        discipline: order of service for all policies.
        checkpoints: folder of learned policies.
    """

    policies: tuple[PolicySpec, ...]
    episodes: int = 30
    seeds: int = 1
    discipline: Discipline = field(default_factory=Discipline)
    checkpoints: Path | None = None

    def __post_init__(self) -> None:
        """Refuses a plan that measures nothing."""
        if not (self.policies and self.episodes >= 1 and self.seeds >= 1):
            raise ValueError("a comparison needs a policy, an episode and a seed at least")


@dataclass(frozen=True, kw_only=True)
class PolicyResult:
    """One policy on one scenario.

    Attributes:
        policy: its spelling.
        delays: every figure is the mean of that figure over the episodes.
        mean_half_s: half the 95 % interval of the mean delay over episodes, seconds.
        gap: to Opt-TS first come first served, per cent; None when a delay is infinite.
        over_bound: mean over the lower bound, per cent.
        mean_s_E: mean delay of each episode, seed by seed.
    """

    policy: str
    delays: DelayStatistics
    mean_half_s: float
    gap: Gap | None
    over_bound: float
    mean_s_E: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ScenarioResult:
    """All policies on one scenario.

    Attributes:
        reference: Opt-TS, first come first served.
        bound_s: mean over the episodes of the lower bound for any policy and order of service.
    """

    scenario: Scenario
    reference: PolicyResult
    bound_s: float
    policies: tuple[PolicyResult, ...]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One seed on one scenario: an entry per episode; the reference is the first row of P + 1."""

    delays_PE: tuple[tuple[DelayStatistics, ...], ...]
    bound_s_E: tuple[float, ...]


def compare(plan: Plan, scenarios: Sequence[Scenario], *, jobs: int = 1) -> list[ScenarioResult]:
    """Measures all policies on all scenarios.

    Args:
        plan: what to measure.
        scenarios: each on its own.
        jobs: processes; each measures one seed of one scenario at a time.

    Raises:
        InvalidPolicy: a policy is unknown, misspelt or lacks its checkpoint.
        NoServerAlive: a rule finds no server at all.
    """
    tasks = [(plan, scenario, seed) for scenario in scenarios for seed in range(plan.seeds)]
    if jobs <= 1:
        measured = [_measure(*task) for task in tasks]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=_one_thread) as pool:
            measured = list(pool.map(_measure, *zip(*tasks, strict=True)))
    return [
        _result(plan, scenario, measured[index * plan.seeds : (index + 1) * plan.seeds])
        for index, scenario in enumerate(scenarios)
    ]


def _one_thread() -> None:
    """Keeps torch in each process from using all cores; it reads this when it is imported."""
    os.environ["OMP_NUM_THREADS"] = "1"


def _measure(plan: Plan, scenario: Scenario, seed: int) -> _Measured:
    rows: list[tuple[Dispatcher, Discipline]] = [(OptTs(), Discipline())]
    for spec in plan.policies:
        chosen = dispatcher(spec, scenario, seed, checkpoints=plan.checkpoints)
        rows.append((chosen, plan.discipline))
    delays: list[list[DelayStatistics]] = [[] for _ in rows]
    bounds = []
    for number in range(plan.episodes):
        episode = draw(scenario, measuring_rng(seed, number))
        bounds.append(mean_delay_bound_s(episode).mean_s)
        for row, (chosen, discipline) in zip(delays, rows, strict=True):
            server_N = chosen.place(episode, placing_rng(seed, number))
            delay_s_N = service_delay_s(episode, server_N, discipline)
            row.append(DelayStatistics.of(delay_s_N, episode.work_N))
    return _Measured(delays_PE=tuple(map(tuple, delays)), bound_s_E=tuple(bounds))


def _result(plan: Plan, scenario: Scenario, measured: Sequence[_Measured]) -> ScenarioResult:
    bound_s = float(np.mean([bound for one in measured for bound in one.bound_s_E]))
    labels = ("opt_ts", *map(str, plan.policies))
    rows = [
        [delays for one in measured for delays in one.delays_PE[index]]
        for index in range(len(labels))
    ]
    reference_E = [delays.mean_s for delays in rows[0]]
    results = [
        _policy_result(label, row, reference_E, bound_s)
        for label, row in zip(labels, rows, strict=True)
    ]
    return ScenarioResult(
        scenario=scenario, reference=results[0], bound_s=bound_s, policies=tuple(results[1:])
    )


def _policy_result(
    label: str, row: Sequence[DelayStatistics], reference_E: Sequence[float], bound_s: float
) -> PolicyResult:
    fields = [entry.name for entry in dataclasses.fields(DelayStatistics)]
    mean_of = {name: float(np.mean([getattr(one, name) for one in row])) for name in fields}
    mean_E = tuple(one.mean_s for one in row)
    finite = all(map(math.isfinite, (*mean_E, *reference_E)))
    half_s = math.inf
    if finite and len(mean_E) > 1:
        half_s = student_quantile(0.975, len(mean_E) - 1) * float(np.std(mean_E, ddof=1))
        half_s /= len(mean_E) ** 0.5
    return PolicyResult(
        policy=label,
        delays=DelayStatistics(**mean_of),
        mean_half_s=half_s,
        gap=paired_gap(mean_E, reference_E) if finite else None,
        over_bound=100.0 * (mean_of["mean_s"] / bound_s - 1.0),
        mean_s_E=mean_E,
    )
