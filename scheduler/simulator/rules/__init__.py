"""Compiled placement rules by name, for whole simulated episodes.

Every rule is a `Dispatcher`: a frozen dataclass whose fields are its options. Names and defaults
are those of the node's policies (`scheduler.registry`) where both exist. Rules with a `fit` method
learn from episodes first; `Learns` says how.

A server whose published capacity is 0 is never chosen while another lives; if none lives, placing
raises `NoServerAlive`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from scheduler.simulator.dispatch import Dispatcher
from scheduler.simulator.queueing import IntArray
from scheduler.simulator.rules.blind import CapacityRandom, Local, Random, RoundRobin, SmoothWrr
from scheduler.simulator.rules.greedy import LeastExpectedDelay, OptTs, SlowServerAware
from scheduler.simulator.rules.learned import PredOwn, ShadowPrice
from scheduler.simulator.rules.least_marginal_harm import LeastMarginalHarm
from scheduler.simulator.rules.least_queue import LeastQueue
from scheduler.simulator.rules.power_of_two import PowerOfTwo
from scheduler.simulator.rules.ring import Ring
from scheduler.simulator.rules.view import NoServerAlive
from scheduler.simulator.rules.water_filling import WaterFilling
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import Episode

__all__ = ["Learns", "NoServerAlive", "create", "names"]

_RULES: dict[str, type[Dispatcher]] = {
    "local": Local,
    "random": Random,
    "round_robin": RoundRobin,
    "smooth_wrr": SmoothWrr,
    "capacity_random": CapacityRandom,
    "least_expected_delay": LeastExpectedDelay,
    "power_of_two": PowerOfTwo,
    "least_queue": LeastQueue,
    "water_filling": WaterFilling,
    "pred_own": PredOwn,
    "slow_server_aware": SlowServerAware,
    "ring": Ring,
    "opt_ts": OptTs,
    "shadow_price": ShadowPrice,
    "least_marginal_harm": LeastMarginalHarm,
}


@runtime_checkable
class Learns(Protocol):
    """A rule that has to see episodes of a scenario before it can place."""

    def fit(self, scenario: Scenario, rng: np.random.Generator) -> Self:
        """The same rule, fitted; `rng` draws its episodes, so give it seeds of its own."""
        ...

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """As every dispatcher."""
        ...


def names() -> tuple[str, ...]:
    """Every name that `create` knows."""
    return tuple(_RULES)


def create(name: str, **options: Any) -> Dispatcher:
    """A rule; those that learn are not fitted yet.

    Raises:
        ValueError: the name or an option is unknown, or an option's value is out of range.
    """
    rule = _RULES.get(name)
    if rule is None:
        raise ValueError(f"unknown rule {name!r}; choose one of {', '.join(names())}")
    allowed = [field.name for field in dataclasses.fields(rule) if field.name != "tables"]  # type: ignore[arg-type]
    unknown = sorted(options.keys() - set(allowed))
    if unknown:
        raise ValueError(
            f"rule {name!r} has no option {', '.join(unknown)}; "
            f"its options: {', '.join(sorted(allowed)) or 'none'}"
        )
    return rule(**options)
