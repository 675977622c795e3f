r"""Which policy places tasks best, on which scenario, and who pays for it?

Measures rules and learned policies on the same arrivals and prints a Markdown table for each
scenario: the mean, its gap to Opt-TS with the 95 % interval over all episodes, the tail, the means
by thirds of the tasks by work, and the lower bound for any policy and order of service.

    python -m benchmarks.compare_policies --policies opt_ts,capacity_random,shadow_price:kappa=1
    python -m benchmarks.compare_policies --scenarios default,N=38 --seeds 5 --jobs 2 \
        --policies power_of_two:sample=capacity,own=B --discipline srpt --promotion 15,1
    python -m benchmarks.compare_policies --policies lad_ts:state=normal --checkpoints runs
    python -m benchmarks.compare_policies --unseen 7 --episodes 3 --policies lad_ts_plus,ring

With --unseen SEED, or --unseen-by with a file of weights, the clusters are drawn: test clusters
that nothing here was trained or chosen on, summed up against the best rule of each. Defaults are
chosen on the validation family (--family validation), which reports nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, unseen
from scheduler.simulator import dispatchers, scenarios
from scheduler.simulator.comparison import Plan, PolicyResult, ScenarioResult, compare
from scheduler.simulator.dispatchers import InvalidPolicy, parse_policies
from scheduler.simulator.rules import NoServerAlive
from scheduler.simulator.scenario import InvalidScenario, Scenario
from scheduler.simulator.service import Discipline, InvalidDiscipline

DEFAULT_POLICIES = (
    "opt_ts,local,random,round_robin,capacity_random,smooth_wrr,smooth_wrr:by_work=true,"
    "least_expected_delay:own=0,least_expected_delay,least_expected_delay:own=B,"
    "least_expected_delay:own=B,use_capacity=false,least_queue,slow_server_aware,"
    "power_of_two:own=0,power_of_two:sample=capacity,own=B,"
    "water_filling,water_filling:split=deficit,pred_own,"
    "shadow_price:kappa=0.35,shadow_price:kappa=1"
)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join(dispatchers.names())
    parser.add_argument("--policies", default=DEFAULT_POLICIES, help=f"of {known}; with options")
    parser.add_argument("--scenarios", default="default", help="names or .toml files, with commas")
    parser.add_argument("--unseen", type=int, metavar="SEED", help="of drawn clusters instead")
    parser.add_argument("--unseen-by", type=Path, metavar="FILE", help="of a file's SHA-256")
    parser.add_argument("--family", choices=("test", "validation"), default="test", help="drawn")
    parser.add_argument("--clusters", type=int, default=30, help="drawn")
    parser.add_argument("--episodes", type=int, default=30, help="for each seed")
    parser.add_argument("--seeds", type=int, default=1, help="of arrivals and of learning")
    parser.add_argument("--discipline", choices=("fcfs", "sjf", "srpt"), default="fcfs")
    parser.add_argument("--promotion", metavar="C0,C1", help="due after c0 s + c1 x service time")
    parser.add_argument("--promotion-load", metavar="BETA", help="due later by beta x the wait")
    parser.add_argument("--ageing", metavar="A", help="remaining seconds - a x age")
    parser.add_argument("--checkpoints", type=Path, help="folder of learned policies")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser.parse_args()


def scenario_of(text: str) -> Scenario:
    """A named scenario or that of a file."""
    return scenarios.load(Path(text)) if text.endswith(".toml") else scenarios.get(text)


def plan_of(options: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    discipline = Discipline.parse(
        options.discipline,
        ageing=options.ageing,
        promotion=options.promotion,
        promotion_load=options.promotion_load,
    )
    return Plan(
        policies=tuple(parse_policies(options.policies)),
        episodes=options.episodes,
        seeds=options.seeds,
        discipline=discipline,
        checkpoints=options.checkpoints,
    )


def seconds(value: float) -> str:
    """Three digits that matter."""
    if not math.isfinite(value):
        return "never"
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def row_of(result: PolicyResult) -> list[str]:
    """One policy as cells of the table."""
    delays, gap = result.delays, result.gap
    paired = "-" if gap is None else f"{gap.gap:+.1f} % ({gap.low:+.1f}..{gap.high:+.1f})"
    tail = (delays.p50_s, delays.p95_s, delays.p99_s)
    thirds = (delays.small_mean_s, delays.mid_mean_s, delays.large_mean_s)
    over = f"{result.over_bound:+.0f} %" if math.isfinite(result.over_bound) else "-"
    return [
        result.policy,
        f"{seconds(delays.mean_s)} ± {seconds(result.mean_half_s)}",
        paired,
        " / ".join(map(seconds, tail)),
        " / ".join(map(seconds, thirds)),
        over,
    ]


def markdown(result: ScenarioResult, plan: Plan) -> str:
    """One scenario as a Markdown table, columns aligned."""
    head = [
        "policy",
        "mean s",
        "vs Opt-TS (95 %)",
        "p50 / p95 / p99 s",
        "small / mid / large s",
        "over bound",
    ]
    rows = [head, *(row_of(one) for one in result.policies)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    runs = plan.episodes * plan.seeds
    title = (
        f"{result.scenario.name}, {plan.discipline.order}, {runs} episodes: "
        f"Opt-TS fcfs {seconds(result.reference.delays.mean_s)} s, "
        f"no policy below {seconds(result.bound_s)} s"
    )
    return "\n".join([f"**{title}**", "", *lines, ""])


def written(
    results: Sequence[ScenarioResult], plan: Plan, settings: dict[str, Any]
) -> dict[str, Any]:
    """The results as JSON has them; what is infinite becomes null."""
    return {
        "question": "service delay of policies on common arrivals, simulated",
        "settings": settings,
        "discipline": dataclasses.asdict(plan.discipline),
        "scenarios": [plain(dataclasses.asdict(result)) for result in results],
        "machine": machine.describe(),
    }


def plain(value: Any) -> Any:
    """The same without tuples and without numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    """Measures, prints, writes."""
    options = parse()
    try:
        plan = plan_of(options)
        drawn = (options.unseen, options.unseen_by) != (None, None)
        if drawn:
            options.unseen, wanted = unseen.drawn(
                options.unseen, options.unseen_by, options.clusters, options.family
            )
        else:
            wanted = [scenario_of(text) for text in options.scenarios.split(",")]
        results = compare(plan, wanted, jobs=options.jobs)
        standings = unseen.standings(results) if drawn else []
    except (
        *(InvalidDiscipline, InvalidPolicy, InvalidScenario, NoServerAlive),
        *(ValueError, OSError),
    ) as error:
        sys.exit(f"compare_policies: {error}")
    if drawn:
        print(f"seed {options.unseen}\n\n{unseen.markdown(standings)}")
    else:
        for result in results:
            print(markdown(result, plan))
    if options.json:
        report = written(results, plan, machine.settings_of(options))
        if drawn:
            report["standings"] = plain([dataclasses.asdict(one) for one in standings])
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
