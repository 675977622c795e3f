"""Learning algorithms by name, as `dedgeai train` gives them.

Owns what every algorithm offers and how options given as text become its config. An algorithm's
module is imported when it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from scheduler.checkpoint import Array
from scheduler.learning.run_state import Part
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import Episode

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# name: module in scheduler.algorithms, learner, config
_ALGORITHMS = {
    "lad_ts": ("equivariant_lad_ts", "EquivariantLadTs", "EquivariantLadTsConfig"),
    "lad_ts_published": ("published_lad_ts", "PublishedLadTs", "PublishedLadTsConfig"),
    "sac": ("sac", "Sac", "SacConfig"),
    "dqn": ("dqn", "Dqn", "DqnConfig"),
    "lstm_dqn": ("lstm_dqn", "LstmDqn", "LstmDqnConfig"),
    "d2sac": ("d2sac", "D2Sac", "D2SacConfig"),
    "fdedge": ("fdedge", "FdEdge", "FdEdgeConfig"),
}

# Learn from whole episodes, whatever the arrivals; the others from slots.
ANY_ARRIVALS = ("lad_ts",)


class Learner(Protocol):
    """All agents of an algorithm on one scenario; a `Dispatcher` besides."""

    name: str
    config: Any

    def train_episode(self, episode: Episode) -> tuple[FloatArray, dict[str, float]]:
        """Decides an episode while learning from it: delays in seconds, means of what was learned.

        Raises:
            Diverged: a network's output is not finite.
        """
        ...

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """Decides an episode without learning."""
        ...

    def parts(self) -> dict[str, Part]:
        """Everything that changes in training."""
        ...

    def export(self) -> dict[str, Array]:
        """What is needed to decide."""
        ...


def names() -> tuple[str, ...]:
    """Every name that `create` knows."""
    return tuple(_ALGORITHMS)


def create(
    name: str, scenario: Scenario, options: Mapping[str, str | float | bool], *, seed: int
) -> Learner:
    """An algorithm before its first episode.

    Args:
        name: one of `names()`.
        scenario: slotted, but for `ANY_ARRIVALS`.
        options: fields of its config, as values or as text.
        seed: of everything random in it.

    Raises:
        ValueError: the name or an option is unknown, an option's value is none of its type, or
            the scenario cannot be learned in slots or has models that not all servers draw.
    """
    if name not in _ALGORITHMS:
        raise ValueError(f"unknown algorithm {name!r}; choose one of {', '.join(names())}")
    if scenario.task_arrivals != "slotted" and name not in ANY_ARRIVALS:
        raise ValueError(
            f"scenario {scenario.name!r} has {scenario.task_arrivals} arrivals, not slots"
        )
    if scenario.models and name not in ANY_ARRIVALS:
        raise ValueError(
            f"scenario {scenario.name!r} has several models; {name} chooses among all servers"
        )
    module_name, learner_name, config_name = _ALGORITHMS[name]
    module = importlib.import_module(f"scheduler.algorithms.{module_name}")
    config = getattr(module, config_name)(**values(name, options))
    learner: Learner = getattr(module, learner_name)(scenario, config, seed=seed)
    return learner


def values(name: str, options: Mapping[str, str | float | bool]) -> dict[str, Any]:
    """Options of an algorithm in the types of its config.

    Raises:
        ValueError: an option is unknown, or its value none of its type.
    """
    module_name, _, config_name = _ALGORITHMS[name]
    module = importlib.import_module(f"scheduler.algorithms.{module_name}")
    hints = typing.get_type_hints(getattr(module, config_name))
    unknown = sorted(options.keys() - hints.keys())
    if unknown:
        raise ValueError(
            f"{name!r} has no option {', '.join(unknown)}; its options: {', '.join(sorted(hints))}"
        )
    return {key: _value(key, hints[key], value) for key, value in options.items()}


def config_of(learner: Learner) -> dict[str, Any]:
    """The learner's hyperparameters by name."""
    return dataclasses.asdict(learner.config)


def _value(key: str, hint: Any, given: str | float | bool) -> Any:
    """An option's value in its type."""
    text = str(given)
    if typing.get_origin(hint) is Literal:
        if text not in typing.get_args(hint):
            raise ValueError(f"{key} is {text!r}; choose {', '.join(typing.get_args(hint))}")
        return text
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{key} is {text!r}; choose true or false")
        return text.lower() == "true"
    try:
        value = hint(text)
    except ValueError:
        raise ValueError(f"{key} is {text!r}; it must be {hint.__name__}") from None
    if not math.isfinite(value):
        raise ValueError(f"{key} is {text}; it must be finite")
    return value
