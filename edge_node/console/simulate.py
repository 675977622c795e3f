"""`dedgeai simulate`: compares policies in the simulator, or replays a reference trace.

Owns the tables that are printed; the simulator raises its own errors, which become sentences here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_node.errors import InvalidRequest
from scheduler.simulator import scenarios
from scheduler.simulator.comparison import Plan, PolicyResult, ScenarioResult, compare
from scheduler.simulator.dispatchers import InvalidPolicy, parse_policies
from scheduler.simulator.live_policy import WrongChoice
from scheduler.simulator.reference_trace import InvalidTrace, load_trace, replay
from scheduler.simulator.rules import NoServerAlive
from scheduler.simulator.scenario import InvalidScenario
from scheduler.simulator.service import Discipline, InvalidDiscipline

TRACE_TOLERANCE_S = 1e-9
HEADINGS = ("mean", "p50", "p95", "p99", "max", "small", "mid", "large")


@dataclass(frozen=True, kw_only=True)
class SimulateRequest:
    """What to compare, as the command line has it.

    Attributes:
        scenario: a name, or the path of a TOML file.
        policies: with options, as `scheduler.simulator.dispatchers` spells them.
        episodes: for each seed.
        seeds: of arrivals, and of what a policy learns.
        order, ageing, promotion, promotion_load: of the servers; see `Discipline`.
        checkpoints: folder of learned policies.
    """

    scenario: str
    policies: str
    episodes: int
    seeds: int
    order: str
    ageing: str | None
    promotion: str | None
    promotion_load: str | None
    checkpoints: Path | None


def list_scenarios() -> int:
    """Prints the named scenarios."""
    for name in scenarios.names():
        print(f"{name:<24}{scenarios.description(name)}")
    return 0


def replay_trace(path: Path) -> int:
    """Replays a trace of the authors' code; 1 if the simulator departs from it."""
    with _as_sentences():
        found = replay(load_trace(path))
    print(f"tasks                          {found.tasks}")
    print(f"largest difference of a delay  {found.delay_s_max:.1e} s")
    print(f"largest difference of a queue  {found.queue_s_max:.1e} s at its server's capacity")
    agrees = max(found.delay_s_max, found.queue_s_max) <= TRACE_TOLERANCE_S
    verdict = "agrees with" if agrees else "DEPARTS from"
    print(f"The simulator {verdict} the trace; {TRACE_TOLERANCE_S:g} s are allowed.")
    return 0 if agrees else 1


def simulate(request: SimulateRequest) -> int:
    """Runs every policy on the same episodes and prints their delays with tail and terciles."""
    if request.episodes < 1 or request.seeds < 1:
        raise InvalidRequest("--episodes and --seeds must be 1 or more.")
    with _as_sentences():
        name = request.scenario
        scenario = scenarios.load(Path(name)) if name.endswith(".toml") else scenarios.get(name)
        discipline = Discipline.parse(
            request.order,
            ageing=request.ageing,
            promotion=request.promotion,
            promotion_load=request.promotion_load,
        )
        plan = Plan(
            policies=tuple(parse_policies(request.policies)),
            episodes=request.episodes,
            seeds=request.seeds,
            discipline=discipline,
            checkpoints=request.checkpoints,
        )
        result = compare(plan, [scenario])[0]
    print(_table(result, plan))
    return 0


@contextmanager
def _as_sentences() -> Iterator[None]:
    """Turns what the simulator refuses into what the command prints."""
    try:
        yield
    except (
        InvalidDiscipline,
        InvalidPolicy,
        InvalidScenario,
        InvalidTrace,
        NoServerAlive,
        WrongChoice,
    ) as error:
        text = str(error)
        raise InvalidRequest(text if text.endswith("?") else f"{text}.") from error


def _table(result: ScenarioResult, plan: Plan) -> str:
    labels = [one.policy for one in result.policies]
    width = max(map(len, labels)) + 2
    lines = [
        f"{result.scenario.name}: {plan.episodes * plan.seeds} episodes, seconds. "
        f"Opt-TS first come first served: {_seconds(result.reference.delays.mean_s).strip()}; "
        f"no policy is below {_seconds(result.bound_s).strip()}.",
        f"{plan.discipline.order:<{width}}{'vs Opt-TS':>18}{'bound':>9}"
        + "".join(f"{heading:>8}" for heading in HEADINGS),
    ]
    return "\n".join([*lines, *(_row(one, width) for one in result.policies)])


def _row(one: PolicyResult, width: int) -> str:
    delays, gap = one.delays, one.gap
    versus = "-"
    if gap is not None:
        versus = f"{gap.gap:+.1f} +-{gap.high - gap.gap:.1f} %"
    above = f"{one.over_bound:+.1f} %" if math.isfinite(one.over_bound) else "-"
    tail = (delays.mean_s, delays.p50_s, delays.p95_s, delays.p99_s, delays.max_s)
    thirds = (delays.small_mean_s, delays.mid_mean_s, delays.large_mean_s)
    return f"{one.policy:<{width}}{versus:>18}{above:>9}" + "".join(map(_seconds, tail + thirds))


def _seconds(value: float) -> str:
    if not math.isfinite(value):
        return f"{'never':>8}"
    return f"{value:>8.3f}" if value < 100 else f"{value:>8.1f}"
