"""The rules that a learned policy may be compared with, by the names that settings give them.

Owns what each candidate is; the choice among them is `scheduler.guard.live_replay`'s.

There are several because none is best everywhere: `slow_server_aware` is where nodes hear of each
other soon, and herds where many decide at once on the same old report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from scheduler.policy import Policy
from scheduler.registry import create, spec_of

PolicyFactory = Callable[[np.random.Generator], Policy]

# What a candidate is, where that is not the registry's default: as baselines of a cluster of
# several deciding nodes these two are meant by capacity, and with own work counted for all.
_OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "power_of_two": {"sample": "capacity", "own": "B"},
        "least_expected_delay": {"own": "B"},
    }
)


def rule_factory(name: str) -> PolicyFactory:
    """Makes the candidate of that name from a generator.

    Raises:
        ValueError: there is no such policy, it is learned, or it needs an option.
    """
    if spec_of(name).learned:
        raise ValueError(f"{name} is learned; name rules")

    def make(rng: np.random.Generator) -> Policy:
        return create(name, rng=rng, **_OPTIONS.get(name, {}))

    make(np.random.default_rng(0))
    return make


def rule_factories(names: tuple[str, ...]) -> dict[str, PolicyFactory]:
    """All candidates by name, in this order.

    Raises:
        ValueError: there is none, one is named twice, or as `rule_factory`.
    """
    if not names:
        raise ValueError("name one rule at least")
    if len(set(names)) < len(names):
        raise ValueError(f"{', '.join(names)} name a rule twice")
    return {name: rule_factory(name) for name in names}
