"""LAD-TS: latent action diffusion over servers, with one set of weights for any number of them.

The paper's actor on a permutation-equivariant network: the action distribution softmax(x_0) comes
from a reverse process of I steps that begins at the latent x_I which this station left at the same
place of an earlier slot. Every server has the same weights and its own features
(`lad_ts_features`), and hears of the others through means over all of them; so no server can be
learned by heart and any number will do. `scheduler.algorithms.equivariant_lad_ts` learns the
weights; docs/scheduling.md says on what and how good they are.

Numpy only. Arrays end in their dimension: B servers, F inputs, H hidden units, I denoising steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from scheduler import checkpoint
from scheduler.learning.diffusion import Noise, Schedule, Start, variance_preserving
from scheduler.observation import FloatArray, Observation
from scheduler.policies.lad_ts_features import INPUTS, inputs, look
from scheduler.policy import Decision, Outcome

NAME = "lad_ts"
PRETRAINED = Path(__file__).parents[1] / "pretrained" / "lad_ts.safetensors"
Evaluation = Literal["sample", "argmax"]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """How a network is read.

    Attributes:
        start: x_I: the kept "latent", "zero", or "gaussian" noise.
        noise: between steps: "posterior" as in DDPM, "paper", or "none".
        evaluation: "argmax" takes the most likely server, "sample" draws one.
    """

    start: Start = "latent"
    noise: Noise = "none"
    evaluation: Evaluation = "argmax"

    def __post_init__(self) -> None:
        for field, known in (("start", Start), ("noise", Noise), ("evaluation", Evaluation)):
            value = getattr(self, field)
            if value not in get_args(known):
                choices = ", ".join(get_args(known))
                raise ValueError(f"{field} is {value!r}; it must be one of {choices}")

    def schedule(self, steps: int) -> Schedule:
        """The chain's coefficients; `steps` is I."""
        return variance_preserving(steps, noise=self.noise)


@dataclass(frozen=True, kw_only=True)
class Actor:
    """The weights.

    Two layers with a mean over the servers after each give every server its `base`; a step of the
    chain adds what x_i and i contribute and reads the predicted noise off. `skip_F` reads it off
    the inputs directly as well, for costs are nearly linear in them.
    """

    first_FH: FloatArray
    first_bias_H: FloatArray
    second_HH: FloatArray
    second_pool_HH: FloatArray
    second_bias_H: FloatArray
    third_HH: FloatArray
    third_pool_HH: FloatArray
    step_IH: FloatArray
    latent_H: FloatArray
    out_H: FloatArray
    skip_F: FloatArray
    bias: float

    @property
    def steps(self) -> int:
        """I, the number of denoising steps."""
        return len(self.step_IH)

    def arrays(self) -> dict[str, FloatArray]:
        """All but the bias, by name."""
        return {name: value for name, value in vars(self).items() if name != "bias"}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], path: Path) -> Actor:
        """From a checkpoint's arrays; `path` is for messages.

        Raises:
            InvalidCheckpoint: an array is missing or has another shape.
        """
        steps, hidden = arrays["step_IH"].shape if "step_IH" in arrays else (0, 0)
        checkpoint.require_shapes(path, arrays, shapes(steps=steps, hidden=hidden))
        wide = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
        return cls(**{**wide, "bias": float(wide["bias"][0])})  # type: ignore[arg-type]

    def denoised(
        self,
        input_BF: FloatArray,
        x_B: FloatArray,
        schedule: Schedule,
        rng: np.random.Generator,
    ) -> FloatArray:
        """x_0 from x_I, (B,)."""
        total = np.add.reduce
        share = 1.0 / len(input_BF)
        lit_BH = input_BF @ self.first_FH
        lit_BH += self.first_bias_H
        np.maximum(lit_BH, 0.0, out=lit_BH)
        pooled_H = (total(lit_BH, axis=0) * share) @ self.second_pool_HH
        pooled_H += self.second_bias_H
        lit_BH = lit_BH @ self.second_HH
        lit_BH += pooled_H
        np.maximum(lit_BH, 0.0, out=lit_BH)
        pooled_H = (total(lit_BH, axis=0) * share) @ self.third_pool_HH
        base_BH = lit_BH @ self.third_HH
        base_BH += pooled_H
        skip_B = input_BF @ self.skip_F
        skip_B += self.bias
        base_IBH = base_BH + self.step_IH[:, None]
        skip_IB = schedule.take_I[:, None] * skip_B
        out_IH = schedule.take_I[:, None] * self.out_H
        for step, (keep, spread) in reversed(
            list(enumerate(zip(schedule.keep_I.tolist(), schedule.spread_I.tolist(), strict=True)))
        ):
            np.multiply(x_B[:, None], self.latent_H, out=lit_BH)
            lit_BH += base_IBH[step]
            np.maximum(lit_BH, 0.0, out=lit_BH)
            x_B = keep * x_B
            x_B -= lit_BH @ out_IH[step]
            x_B -= skip_IB[step]
            if spread > 0.0:
                x_B += spread * rng.standard_normal(len(x_B))
        return x_B


def shapes(*, steps: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Of the arrays of a checkpoint."""
    square = (hidden, hidden)
    return {
        "first_FH": (INPUTS, hidden),
        "first_bias_H": (hidden,),
        "second_HH": square,
        "second_pool_HH": square,
        "second_bias_H": (hidden,),
        "third_HH": square,
        "third_pool_HH": square,
        "step_IH": (steps, hidden),
        "latent_H": (hidden,),
        "out_H": (hidden,),
        "skip_F": (INPUTS,),
        "bias": (1,),
    }


@dataclass(frozen=True, kw_only=True)
class Weights:
    """An actor with the name that decisions carry."""

    actor: Actor
    version: str


def load_weights(path: Path | None = None) -> Weights:
    """Weights from a checkpoint; without a path those that ship with the package.

    Raises:
        InvalidCheckpoint: the file is no checkpoint of LAD-TS, or damaged.
    """
    path = path or PRETRAINED
    return weights_of(checkpoint.load(path, kind="policy"), path)


def weights_of(kept: checkpoint.Checkpoint, path: Path) -> Weights:
    """Weights of a checkpoint; `path` is for messages.

    Raises:
        InvalidCheckpoint: it is not of LAD-TS, or of other shapes.
    """
    if kept.info.policy != NAME:
        raise checkpoint.InvalidCheckpoint(
            f"{path} holds weights of {kept.info.policy}; {NAME} cannot use them"
        )
    actor = Actor.of_arrays(kept.arrays, path)
    return Weights(actor=actor, version=checkpoint.version_of(kept))


class LadTs:
    """The live policy: one decision for one observation.

    Args:
        rng: of guesses, noise and samples.
        weights: what was learned.
        chain: how the network is read.
    """

    name = NAME

    def __init__(self, *, rng: np.random.Generator, weights: Weights, chain: Chain) -> None:
        self._rng = rng
        self._actor = weights.actor
        self.version = weights.version
        self._chain = chain
        self._schedule = chain.schedule(weights.actor.steps)

    def decide(self, observation: Observation) -> Decision:
        """The most likely server, or a sample; the decision carries softmax(x_0).

        Raises:
            ValueError: the observation has a value that is not finite.
        """
        usable_B = np.flatnonzero(observation.alive_B & (observation.capacity_B > 0.0))
        if len(usable_B) == 0:
            choice = int(observation.alive_B.argmax())
            return self._decision(observation, choice, np.array([choice]), np.ones(1))
        chance_B = self.chances(observation, usable_B)
        if self._chain.evaluation == "argmax":
            chosen = int(chance_B.argmax())
        else:
            drawn = np.searchsorted(np.cumsum(chance_B), self._rng.random(), side="right")
            chosen = min(int(drawn), len(usable_B) - 1)
        return self._decision(observation, int(usable_B[chosen]), usable_B, chance_B)

    def chances(self, observation: Observation, usable_B: np.ndarray) -> FloatArray:
        """softmax(x_0) over the usable servers."""
        seen = look(observation, usable_B, self._rng)
        x_B = self._actor.denoised(
            inputs(seen), self._x_I(observation, usable_B), self._schedule, self._rng
        )
        x_B -= np.maximum.reduce(x_B)
        chance_B: FloatArray = np.exp(x_B)
        chance_B /= np.add.reduce(chance_B)
        if not np.isfinite(chance_B[0]):
            raise ValueError(f"weights {self.version} give no number for {observation}")
        return chance_B

    def record(self, outcome: Outcome) -> None:
        """Learns nothing here: transitions go to the learner."""

    def _x_I(self, observation: Observation, usable_B: np.ndarray) -> FloatArray:
        if self._chain.start == "zero":
            return np.zeros(len(usable_B))
        if self._chain.start == "gaussian":
            return np.asarray(self._rng.standard_normal(len(usable_B)))
        if observation.latent_B is None:
            return np.full(len(usable_B), 1.0 / len(observation.node_ids))
        latent_B: FloatArray = observation.latent_B[usable_B]
        return latent_B

    def _decision(
        self, observation: Observation, choice: int, usable_B: np.ndarray, chance_B: FloatArray
    ) -> Decision:
        latent_B = np.zeros(len(observation.node_ids))
        latent_B[usable_B] = chance_B
        return Decision(choice=choice, policy=NAME, latent_B=latent_B, weights_version=self.version)


def lad_ts(
    *,
    rng: np.random.Generator,
    weights: str | None = None,
    start: Start = "latent",
    noise: Noise = "none",
    evaluation: Evaluation = "argmax",
) -> LadTs:
    """The policy for a registry; `weights` is a checkpoint's path, without it the shipped one."""
    return LadTs(
        rng=rng,
        weights=load_weights(None if weights is None else Path(weights)),
        chain=Chain(start=start, noise=noise, evaluation=evaluation),
    )
