"""Dispatchers by name, ready to place: compiled rules, and learned policies.

Owns the names, the spelling of options on command lines and the seeds: what a policy learns from,
what it is measured on and what it draws are never the same random numbers. Torch is imported only
when a learned policy is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scheduler import checkpoint
from scheduler.own_policy import is_own
from scheduler.policies import lad_ts_policy
from scheduler.policies.lad_ts_plus_policy import load_weights
from scheduler.policy import Policy
from scheduler.registry import create
from scheduler.simulator import rules
from scheduler.simulator.dispatch import Dispatcher
from scheduler.simulator.lad_ts_kernel import LadTsDispatcher
from scheduler.simulator.lad_ts_plus_kernel import LadTsPlusDispatcher
from scheduler.simulator.live_policy import LivePolicy
from scheduler.simulator.scenario import Scenario

Option = bool | int | float | str
# (scenario, seed, folder of checkpoints or None, options) -> a dispatcher that can place
Factory = Callable[[Scenario, int, Path | None, Mapping[str, Option]], Dispatcher]

# First words of every seed sequence; far from the seeds that training runs begin theirs with.
_MEASURING, _LEARNING, _PLACING = 910_001, 910_002, 910_003


class InvalidPolicy(ValueError):
    """A policy is unknown, misspelt, or lacks what it needs; the message says what."""


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """A policy as command lines give it: `shadow_price:kappa=1,fresh=true`.

    Attributes:
        name: one of `names()`, or `package.module:Class`.
        options: of its rule or algorithm.
    """

    name: str
    options: Mapping[str, Option] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> PolicySpec:
        """One policy from its spelling.

        Raises:
            InvalidPolicy: an option is not spelt `key=value`.
        """
        name, _, rest = text.strip().partition(":")
        # `package.module:Class:key=value` has its options after the class.
        class_name, _, more = rest.partition(":")
        if name not in names() and is_own(own := f"{name}:{class_name}"):
            name, rest = own, more
        options: dict[str, Option] = {}
        for item in filter(None, rest.split(",")):
            key, equals, value = item.partition("=")
            if not (equals and key.strip() and value.strip()):
                raise InvalidPolicy(f"{text!r}: option {item!r} is not spelt key=value")
            options[key.strip()] = _option(value.strip())
        return cls(name=name, options=options)

    def __str__(self) -> str:
        """The spelling that `parse` reads."""
        items = ",".join(f"{key}={_spelt(value)}" for key, value in self.options.items())
        return f"{self.name}:{items}" if items else self.name


def parse_policies(text: str) -> list[PolicySpec]:
    """Several policies with commas between them: `opt_ts,power_of_two:sample=capacity,own=B`.

    A part that is `key=value` and no policy of its own belongs to the policy before it.

    Raises:
        InvalidPolicy: an option stands before any policy or is misspelt.
    """
    spelt: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if "=" in part.partition(":")[0]:
            if not spelt:
                raise InvalidPolicy(f"option {part!r} stands before any policy")
            spelt[-1] += ("," if ":" in spelt[-1] else ":") + part
        else:
            spelt.append(part)
    return [PolicySpec.parse(one) for one in spelt]


def names() -> tuple[str, ...]:
    """Every name of ours that `dispatcher` knows."""
    return (*rules.names(), *LEARNED)


def dispatcher(
    policy: PolicySpec | str, scenario: Scenario, seed: int, *, checkpoints: Path | None = None
) -> Dispatcher:
    """A dispatcher that can place the scenario's episodes.

    Rules that learn are fitted here, on episodes that no measurement uses.

    Args:
        policy: name and options.
        scenario: that is to be placed.
        seed: of what the policy learns.
        checkpoints: folder of learned policies.

    Raises:
        InvalidPolicy: the name or an option is unknown or out of range, or there is no checkpoint.
    """
    spec = PolicySpec.parse(policy) if isinstance(policy, str) else policy
    try:
        if spec.name in LEARNED:
            return LEARNED[spec.name](scenario, seed, checkpoints, spec.options)
        if is_own(spec.name):
            return _own_policy(spec, seed)
        if spec.name not in rules.names():
            raise InvalidPolicy(
                f"unknown policy {spec.name!r}; choose one of {', '.join(names())}, or your own as "
                "package.module:Class"
            )
        rule = rules.create(spec.name, **spec.options)
        if isinstance(rule, rules.Learns):
            rule = rule.fit(scenario, learning_rng(seed))
    except (ValueError, TypeError) as error:
        raise InvalidPolicy(f"{spec}: {error}") from error
    return rule


def _own_policy(spec: PolicySpec, seed: int) -> LivePolicy:
    """Somebody's own class; what is wrong with it is said before any episode."""

    def make(*, rng: np.random.Generator) -> Policy:
        return create(spec.name, rng=rng, **spec.options)

    make(rng=np.random.default_rng(seed))
    return LivePolicy(make)


def measuring_rng(seed: int, episode: int) -> np.random.Generator:
    """Draws the arrivals that policies are measured on."""
    return np.random.default_rng([_MEASURING, seed, episode])


def learning_rng(seed: int) -> np.random.Generator:
    """Draws what a policy learns from."""
    return np.random.default_rng([_LEARNING, seed])


def placing_rng(seed: int, episode: int) -> np.random.Generator:
    """What a policy draws while it places; the same for every policy."""
    return np.random.default_rng([_PLACING, seed, episode])


def _option(text: str) -> Option:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _spelt(value: Option) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _algorithm(name: str) -> Factory:
    """A learning algorithm: trained on the spot for `episodes`, or as a run has left it.

    Of the runs in the checkpoints' folder, at any depth, that one is taken which has the seed, was
    trained on the scenario (or on the one that `trained_on` names) and has the other options in
    its configuration.
    """

    def build(
        scenario: Scenario, seed: int, checkpoints: Path | None, options: Mapping[str, Option]
    ) -> Dispatcher:
        torch = importlib.import_module("torch")
        torch.set_num_threads(1)
        trainer = importlib.import_module("scheduler.learning.trainer")
        wanted = dict(options)
        episodes, trained_on = wanted.pop("episodes", None), wanted.pop("trained_on", scenario.name)
        # Whether decisions are sampled is chosen anew; it changes nothing that was learned.
        how = {key: wanted.pop(key) for key in ("evaluation",) if key in wanted}
        if episodes is not None:
            learner = trainer.learners.create(name, scenario, {**wanted, **how}, seed=seed)
            for episode in range(int(episodes)):
                learner.train_episode(trainer.arrivals(scenario, seed=seed, episode=episode))
            return learner  # type: ignore[no-any-return]
        if checkpoints is None:
            raise InvalidPolicy("needs a folder of checkpoints, or episodes=... to train it now")
        path, kept = _run_in(
            checkpoints, name, str(trained_on), seed, wanted, trainer.TRAINING_FILE
        )
        config = {**kept.info.config, **how}
        learner = trainer.learners.create(name, scenario, config, seed=seed)
        arrays = {key.removeprefix("learner/"): array for key, array in kept.arrays.items()}
        shapes = {key: array.shape for key, array in trainer.snapshot(learner.parts()).items()}
        checkpoint.require_shapes(path, arrays, shapes)
        trainer.restore(learner.parts(), arrays)
        return learner  # type: ignore[no-any-return]

    return build


def _run_in(
    folder: Path, name: str, trained_on: str, seed: int, wanted: Mapping[str, Option], file: str
) -> tuple[Path, checkpoint.Checkpoint]:
    """The training checkpoint that fits what `_algorithm` says."""
    seen = []
    for path in sorted(folder.rglob(file)):
        kept = checkpoint.load(path, kind="training")
        info = kept.info
        if (info.policy, info.scenario["name"], info.seed) == (name, trained_on, seed) and all(
            str(info.config.get(key)) == str(value) for key, value in wanted.items()
        ):
            return path, kept
        seen.append(f"{info.policy} on {info.scenario['name']}, seed {info.seed}")
    raise InvalidPolicy(
        f"no run of it on {trained_on} with seed {seed} in {folder}; there: "
        + ("; ".join(seen) or "none at all")
    )


def _lad_ts_plus(
    scenario: Scenario, seed: int, checkpoints: Path | None, options: Mapping[str, Option]
) -> Dispatcher:
    """One set of weights for every scenario and seed: the shipped ones, or those of `weights`."""
    wanted: dict[str, Any] = dict(options)
    path = wanted.pop("weights", None)
    return LadTsPlusDispatcher(load_weights(None if path is None else Path(path)), **wanted)


def _lad_ts(
    scenario: Scenario, seed: int, checkpoints: Path | None, options: Mapping[str, Option]
) -> Dispatcher:
    """The shipped weights or those of `weights`, for any scenario; with `episodes` trained now."""
    if "episodes" in options:
        return _algorithm("lad_ts")(scenario, seed, checkpoints, options)
    wanted: dict[str, Any] = dict(options)
    path = wanted.pop("weights", None)
    weights = lad_ts_policy.load_weights(None if path is None else Path(path))
    return LadTsDispatcher(actor=weights.actor, chain=lad_ts_policy.Chain(**wanted))


# Learned policies; an entry is all that a new one needs.
LEARNED: dict[str, Factory] = {
    name: _algorithm(name)
    for name in ("dqn", "lstm_dqn", "sac", "d2sac", "lad_ts_published", "fdedge")
} | {"lad_ts": _lad_ts, "lad_ts_plus": _lad_ts_plus}
