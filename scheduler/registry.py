"""Policies by name, as configurations and command lines give them, and what each of them is.

Owns the names and every fact about a policy that others act on; loads nothing heavier than numpy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from scheduler import own_policy
from scheduler.policies import heuristics, lad_ts_plus_policy, lad_ts_policy, published_lad_ts
from scheduler.policy import Policy


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """What a policy is.

    Attributes:
        factory: makes one in its initial state; its keyword parameters are the policy's options.
        by_expected_delay: it places a task where it is expected to be drawn soonest, so that a
            task which waits may be moved by the same measure.
        learned: it decides with weights that nobody has read; a guard stands beside it.
        validated: the weights that ship were measured against the rules (docs/scheduling.md) and
            may decide at once; others have to convince the guard first.
        any_candidates: it decides for any candidates; else it raises UnknownMembership for those
            that its weights are not for.
        takes_published: a node's learner publishes weights for it, unless options name others.
    """

    factory: Callable[..., Policy]
    by_expected_delay: bool = False
    learned: bool = False
    validated: bool = False
    any_candidates: bool = True
    takes_published: bool = False

    def __post_init__(self) -> None:
        has_weights = self.validated or self.takes_published or not self.any_candidates
        assert self.learned or not has_weights, "only a learned policy has weights"


SPECS: Mapping[str, PolicySpec] = MappingProxyType(
    {
        "local": PolicySpec(factory=heuristics.local),
        "random": PolicySpec(factory=heuristics.random),
        "round_robin": PolicySpec(factory=heuristics.round_robin),
        "smooth_wrr": PolicySpec(factory=heuristics.smooth_wrr),
        "capacity_random": PolicySpec(factory=heuristics.capacity_random),
        "power_of_two": PolicySpec(factory=heuristics.power_of_two),
        "least_queue": PolicySpec(factory=heuristics.least_queue),
        "least_expected_delay": PolicySpec(
            factory=heuristics.least_expected_delay, by_expected_delay=True
        ),
        "slow_server_aware": PolicySpec(
            factory=heuristics.slow_server_aware, by_expected_delay=True
        ),
        "ring": PolicySpec(factory=heuristics.ring, by_expected_delay=True),
        "lad_ts_plus": PolicySpec(
            factory=lad_ts_plus_policy.lad_ts_plus,
            by_expected_delay=True,
            learned=True,
            validated=True,
        ),
        "lad_ts": PolicySpec(
            factory=lad_ts_policy.lad_ts,
            by_expected_delay=True,
            learned=True,
            validated=True,
            takes_published=True,
        ),
        # As published it loses to a coin (docs/scheduling.md); kept to be compared with.
        "lad_ts_published": PolicySpec(
            factory=published_lad_ts.lad_ts_published,
            by_expected_delay=True,
            learned=True,
            any_candidates=False,
        ),
    }
)


def spec_of(name: str) -> PolicySpec:
    """What the policy of that name is: one of ours, or somebody's own `package.module:Class`.

    Raises:
        ValueError: there is none.
    """
    spec = SPECS.get(name)
    if spec is not None:
        return spec
    if own_policy.is_own(name):
        own = own_policy.own_class(name)
        return PolicySpec(
            factory=own,
            by_expected_delay=bool(getattr(own, "by_expected_delay", False)),
            learned=bool(getattr(own, "learned", False)),
        )
    raise ValueError(
        f"unknown policy {name!r}; choose one of {', '.join(SPECS)}, or your own as "
        "package.module:Class"
    )


def names() -> tuple[str, ...]:
    """Every policy that decides for any candidates."""
    return tuple(name for name, spec in SPECS.items() if spec.any_candidates)


def create(name: str, *, rng: np.random.Generator, **options: Any) -> Policy:
    """A policy in its initial state.

    Args:
        name: a key of SPECS, or `package.module:Class`.
        rng: the policy's only source of randomness.
        options: keyword parameters of that policy's factory.

    Raises:
        ValueError: the name or an option is unknown, an option is missing, or an option's value
            is out of range or names an unusable checkpoint.
    """
    factory = spec_of(name).factory
    parameters = inspect.signature(factory).parameters
    named = {one.name for one in parameters.values() if one.kind is not one.VAR_KEYWORD}
    allowed = sorted(named - {"rng"})
    takes_any = len(named) < len(parameters)
    unknown = [] if takes_any else sorted(options.keys() - set(allowed))
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
