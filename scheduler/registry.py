"""Policies by name, as configurations and command lines give them.

Owns the names; loads nothing heavier than numpy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from scheduler.policies import heuristics, lad_ts_plus, pretrained_lad_ts
from scheduler.policy import Policy

_FACTORIES: dict[str, Callable[..., Policy]] = {
    "local": heuristics.local,
    "random": heuristics.random,
    "round_robin": heuristics.round_robin,
    "smooth_wrr": heuristics.smooth_wrr,
    "capacity_random": heuristics.capacity_random,
    "power_of_two": heuristics.power_of_two,
    "least_queue": heuristics.least_queue,
    "least_expected_delay": heuristics.least_expected_delay,
    "slow_server_aware": heuristics.slow_server_aware,
    "lad_ts_plus": lad_ts_plus.lad_ts_plus,
}
# These raise UnknownMembership for candidates that their weights are not for.
_LEARNED: dict[str, Callable[..., Policy]] = {"lad_ts": pretrained_lad_ts.lad_ts}


def names() -> tuple[str, ...]:
    """Every name that `create` knows and that decides for any candidates."""
    return tuple(_FACTORIES)


def learned_names() -> tuple[str, ...]:
    """Every other name that `create` knows: policies whose weights are for some candidates."""
    return tuple(_LEARNED)


def create(name: str, *, rng: np.random.Generator, **options: Any) -> Policy:
    """A policy in its initial state.

    Args:
        name: one of `names()` or `learned_names()`.
        rng: the policy's only source of randomness.
        options: keyword parameters of that policy's factory.

    Raises:
        ValueError: the name or an option is unknown, an option is missing, or an option's value
            is out of range or names an unusable checkpoint.
    """
    factory = (_FACTORIES | _LEARNED).get(name)
    if factory is None:
        known = ", ".join((*names(), *learned_names()))
        raise ValueError(f"unknown policy {name!r}; choose one of {known}")
    parameters = inspect.signature(factory).parameters
    allowed = sorted(parameters.keys() - {"rng"})
    unknown = sorted(options.keys() - set(allowed))
    if unknown:
        raise ValueError(
            f"policy {name!r} has no option {', '.join(unknown)}; "
            f"its options: {', '.join(allowed) or 'none'}"
        )
    needed = {key for key in allowed if parameters[key].default is inspect.Parameter.empty}
    missing = sorted(needed - options.keys())
    if missing:
        raise ValueError(f"policy {name!r} needs the option {', '.join(missing)}")
    return factory(rng=rng, **options)
