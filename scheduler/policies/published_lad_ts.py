"""LAD-TS as published, as a node runs it: the trained denoiser of one station, in numpy.

Owns nothing but weights and a generator: the latent x_I comes with the observation and x_0 goes
back with the decision, so whoever calls keeps X_b[n]. Learning is
`scheduler.algorithms.published_lad_ts`.

The weights are for a fixed number of servers in a fixed order, as the paper has it: candidate i of
an observation is server i of the training. Arrays end in their dimensions: A trained stations,
B servers, S features of a state, H hidden features, E features and I number of denoising steps.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scheduler import checkpoint
from scheduler.checkpoint import Array, CheckpointInfo, InvalidCheckpoint
from scheduler.features import StateScale, encode
from scheduler.observation import BoolArray, FloatArray, Observation
from scheduler.policy import Decision, Outcome, Policy, UnknownMembership

SingleArray = NDArray[np.float32]
# Algorithms whose export is this denoiser.
TRAINED_BY = ("lad_ts_published", "fdedge")


class PublishedLadTsPolicy:
    """Decides with one trained station's weights.

    Args:
        info: what was trained.
        arrays: as `PublishedLadTs.export` gives them, of all stations.
        station: whose weights to use; None takes the station of the observation's local node,
            or the only one there is.
        evaluation: "sample" from the distribution (the authors' code) or "argmax" (eq. 8).
        rng: of noise and sampling.

    Attributes:
        version: of the weights, for decisions to carry.
        servers: B, how many candidates an observation must have.
    """

    def __init__(
        self,
        info: CheckpointInfo,
        arrays: dict[str, Array],
        *,
        station: int | None,
        evaluation: Literal["sample", "argmax"],
        rng: np.random.Generator,
    ) -> None:
        self._name = info.policy
        self._station = station
        self._evaluation = evaluation
        self._rng = rng
        self._scale = StateScale.from_array(arrays["state_scale"])
        self._softmax = bool(arrays["softmax"])
        self._start = info.config.get("start", "latent")
        # Weights of a live node know their servers by name, those of the simulator by number.
        self.node_ids = tuple(info.scenario.get("node_ids", ()))
        # Python numbers keep single-precision arrays single, and cost less than array elements.
        self._keep, self._take, self._spread = arrays["coefficients"].tolist()
        weight_AHF = arrays["first.weight_AOI"]
        self.servers = arrays["third.weight_AOI"].shape[1]
        self.stations = len(weight_AHF)
        state = 2 + self.servers
        self._x_AHB = np.ascontiguousarray(weight_AHF[:, :, : self.servers])
        self._state_AHS = np.ascontiguousarray(weight_AHF[:, :, -state:])
        step_AHE = weight_AHF[:, :, self.servers : -state]
        # The step's part of the first layer is the same for every task.
        given_AHI = step_AHE @ arrays["embedding_IE"].T + arrays["first.bias_AO1"]
        self._given_AIH = np.ascontiguousarray(given_AHI.transpose(0, 2, 1))
        self._second_AHH = arrays["second.weight_AOI"]
        self._second_bias_AH = arrays["second.bias_AO1"][:, :, 0]
        self._third_ABH = arrays["third.weight_AOI"]
        self._third_bias_AB = arrays["third.bias_AO1"][:, :, 0]
        digest = hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays)))
        self.version = f"{info.policy}-{info.episodes}-{digest.hexdigest()[:12]}"

    def decide(self, observation: Observation) -> Decision:
        """Denoises the observation's latent and chooses by the distribution that it becomes.

        Raises:
            ValueError: the observation has another number of candidates than the weights have
                servers, or others than they were trained for (UnknownMembership), holds a feature
                that is not finite, or comes from a station of its own that was not trained.
        """
        if len(observation.node_ids) != self.servers:
            raise UnknownMembership(
                f"{len(observation.node_ids)} candidates; weights {self.version} are for "
                f"{self.servers} servers"
            )
        if self.node_ids and observation.node_ids != self.node_ids:
            raise UnknownMembership(
                f"candidates {', '.join(observation.node_ids)}; weights {self.version} are for "
                f"{', '.join(self.node_ids)}"
            )
        chance_B = self.chances(observation)
        open_B = open_chances(chance_B, observation.alive_B)
        if self._evaluation == "argmax":
            chosen = int(open_B.argmax())
        else:
            bound_B = np.cumsum(open_B)
            drawn = np.searchsorted(bound_B, self._rng.random() * bound_B[-1], side="right")
            chosen = min(int(drawn), int(np.flatnonzero(open_B)[-1]))
        return Decision(
            choice=chosen, policy=self._name, latent_B=chance_B, weights_version=self.version
        )

    def record(self, outcome: Outcome) -> None:
        """Learns nothing here: transitions go to the learner."""

    def chances(self, observation: Observation) -> FloatArray:
        """softmax(x_0): the distribution over all servers, living or not, (B,)."""
        station = self._station_of(observation)
        state_S = encode(
            np.array([observation.input_bits / 1e6]),
            np.array([observation.work]),
            observation.load_B,
            self._scale,
        )[0]
        x0_B = self._denoise(station, state_S, self._x_I(observation))
        if not np.isfinite(x0_B).all():
            raise ValueError(f"weights {self.version} give {x0_B} for state {state_S}")
        grown_B: FloatArray = np.exp(x0_B.astype(np.float64) - x0_B.max())
        grown_B /= grown_B.sum()
        return grown_B

    def _x_I(self, observation: Observation) -> FloatArray:
        """Where the chain starts; as in the training."""
        if self._start == "zero":
            return np.zeros(self.servers)
        if self._start == "gaussian":
            return np.asarray(self._rng.standard_normal(self.servers))
        if observation.latent_B is None:
            # A uniform latent says nothing; the training's N(0, 1) would be noise of twelve logits.
            return np.full(self.servers, 1.0 / self.servers)
        return observation.latent_B

    def _denoise(self, station: int, state_S: SingleArray, latent_B: FloatArray) -> SingleArray:
        """x_0. In place throughout: on arrays this small the calls are the cost."""
        x_HB, second_HH = self._x_AHB[station], self._second_AHH[station]
        third_BH = self._third_ABH[station]
        second_bias_H, third_bias_B = self._second_bias_AH[station], self._third_bias_AB[station]
        given_IH = self._given_AIH[station] + self._state_AHS[station] @ state_S
        noise_IB = self._rng.standard_normal((len(given_IH), self.servers), dtype=np.float32)
        x_B = latent_B.astype(np.float32)
        for step in reversed(range(len(given_IH))):
            one_H = x_HB.dot(x_B)
            one_H += given_IH[step]
            two_H = second_HH.dot(np.maximum(one_H, 0.0, out=one_H))
            two_H += second_bias_H
            eps_B = third_BH.dot(np.maximum(two_H, 0.0, out=two_H))
            eps_B += third_bias_B
            if self._softmax:
                eps_B -= eps_B.max()
                np.exp(eps_B, out=eps_B)
                eps_B *= self._take[step] / eps_B.sum()
            else:
                eps_B *= self._take[step]
            x_B *= self._keep[step]
            x_B -= eps_B
            if self._spread[step] > 0.0:
                noise_B = noise_IB[step]
                noise_B *= self._spread[step]
                x_B += noise_B
        return x_B

    def _station_of(self, observation: Observation) -> int:
        if self._station is not None:
            return self._station
        if self.stations == 1:
            return 0
        if observation.local is None:
            raise ValueError("the deciding node is no candidate; give the policy a station")
        return observation.local


def open_chances(chance_B: FloatArray, alive_B: BoolArray) -> FloatArray:
    """The chances of the living; equal ones where the network gives them none, (B,)."""
    open_B: FloatArray = np.where(alive_B, chance_B, 0.0)
    return open_B if open_B.any() else alive_B.astype(np.float64)


def lad_ts_published(
    *,
    rng: np.random.Generator,
    checkpoint_path: str,
    station: int | None = None,
    evaluation: Literal["sample", "argmax"] = "sample",
) -> Policy:
    """LAD-TS or FDEdge from a policy checkpoint of `dedgeai train`.

    Args:
        rng: of noise and sampling.
        checkpoint_path: the run's policy.safetensors.
        station: whose weights to use; by default those of the deciding node's own index.
        evaluation: "sample" or "argmax".

    Raises:
        InvalidCheckpoint: the file is none of these, damaged, or lacks the station.
        ValueError: an option's value is unknown.
    """
    path = Path(checkpoint_path)
    loaded = checkpoint.load(path, kind="policy")
    if loaded.info.policy not in TRAINED_BY:
        raise InvalidCheckpoint(f"{path}: of {loaded.info.policy}, not of {TRAINED_BY}")
    if evaluation not in ("sample", "argmax"):
        raise ValueError(f"evaluation is {evaluation!r}; choose sample or argmax")
    policy = PublishedLadTsPolicy(
        loaded.info, loaded.arrays, station=station, evaluation=evaluation, rng=rng
    )
    if station is not None and not 0 <= station < policy.stations:
        raise InvalidCheckpoint(f"{path}: {policy.stations} stations; there is no {station}")
    return policy
