"""Policies by name, as configurations and command lines give them.

Owns the names; loads nothing heavier than numpy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from scheduler.policies import heuristics
from scheduler.policy import Policy

_FACTORIES: dict[str, Callable[..., Policy]] = {
    "local": heuristics.local,
    "random": heuristics.random,
    "round_robin": heuristics.round_robin,
    "capacity_random": heuristics.capacity_random,
    "power_of_two": heuristics.power_of_two,
    "least_expected_delay": heuristics.least_expected_delay,
    "slow_server_aware": heuristics.slow_server_aware,
}


def names() -> tuple[str, ...]:
    """Every name that `create` knows."""
    return tuple(_FACTORIES)


def create(name: str, *, rng: np.random.Generator, **options: Any) -> Policy:
    """A policy in its initial state.

    Args:
        name: one of `names()`.
        rng: the policy's only source of randomness.
        options: keyword parameters of that policy's factory.

    Raises:
        ValueError: the name or an option is unknown, or an option's value is out of range.
    """
    factory = _FACTORIES.get(name)
    if factory is None:
        raise ValueError(f"unknown policy {name!r}; choose one of {', '.join(names())}")
    allowed = sorted(inspect.signature(factory).parameters.keys() - {"rng"})
    unknown = sorted(options.keys() - set(allowed))
    if unknown:
        raise ValueError(
            f"policy {name!r} has no option {', '.join(unknown)}; "
            f"its options: {', '.join(allowed) or 'none'}"
        )
    return factory(rng=rng, **options)
