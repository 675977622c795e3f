"""LAD-TS before a node has learned anything of its own: shipped weights for 2 to 40 candidates.

Owns which weights decide and how a live observation becomes one of their training: candidates in
the order of falling capacity, work in mean tasks, backlog in what the mean candidate works off
during them. So the weights depend on neither names, units nor the speed of a cluster.

The training is `scheduler.learning.pretraining`; these are the units in which both agree. Arrays
end in their dimension: B candidates.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scheduler import checkpoint
from scheduler.checkpoint import Checkpoint
from scheduler.features import StateScale
from scheduler.observation import Observation
from scheduler.policies.lad_ts import LadTsPolicy
from scheduler.policies.lad_ts import lad_ts as trained_lad_ts
from scheduler.policy import Decision, Outcome, Policy, UnknownMembership

IntArray = NDArray[np.intp]
PRETRAINED = Path(__file__).parents[1] / "pretrained" / "lad_ts.safetensors"
SERVERS_MIN, SERVERS_MAX = 2, 40
# In mean tasks: twice the mean is about the largest; eight in front of each server is a long queue.
UNITS = StateScale(input_mbit=5.0, work=2.0, backlog_B=(8.0,))
# A candidate that measures (almost) nothing must not turn a backlog into an infinite feature.
CAPACITY_SHARE_MIN = 0.01


class PretrainedLadTs:
    """Chooses the weights for the observation's number of candidates, loaded when first needed.

    Args:
        evaluation: "sample" from the distribution or "argmax".
        rng: of noise and sampling.
        path: of the packed weights.
    """

    def __init__(
        self,
        *,
        evaluation: Literal["sample", "argmax"],
        rng: np.random.Generator,
        path: Path = PRETRAINED,
    ) -> None:
        self._evaluation: Literal["sample", "argmax"] = evaluation
        self._rng = rng
        self._path = path
        self._packed: Checkpoint | None = None
        self._policies: dict[int, LadTsPolicy] = {}

    def decide(self, observation: Observation) -> Decision:
        """Decides as the weights for so many candidates do.

        Raises:
            UnknownMembership: the number of candidates is not in 2..40.
            InvalidCheckpoint: the shipped weights are damaged.
            ValueError: a feature is not finite.
        """
        policy = self._policy(len(observation.node_ids))
        order_B, seen = in_units_of_training(observation)
        decision = policy.decide(seen)
        latent_B = decision.latent_B
        if latent_B is not None:
            kept_B = np.empty_like(latent_B)
            kept_B[order_B] = latent_B
            latent_B = kept_B
        return replace(decision, choice=int(order_B[decision.choice]), latent_B=latent_B)

    def record(self, outcome: Outcome) -> None:
        """Learns nothing here: transitions go to the learner."""

    def _policy(self, servers: int) -> LadTsPolicy:
        policy = self._policies.get(servers)
        if policy is None:
            if not SERVERS_MIN <= servers <= SERVERS_MAX:
                raise UnknownMembership(
                    f"{servers} candidates; LAD-TS ships for {SERVERS_MIN} to {SERVERS_MAX}"
                )
            if self._packed is None:
                self._packed = checkpoint.load(self._path, kind="policy")
            one = unpacked(self._packed, servers)
            policy = LadTsPolicy(
                one.info, one.arrays, station=0, evaluation=self._evaluation, rng=self._rng
            )
            self._policies[servers] = policy
        return policy


def lad_ts(
    *,
    rng: np.random.Generator,
    checkpoint_path: str | None = None,
    station: int | None = None,
    evaluation: Literal["sample", "argmax"] = "sample",
) -> Policy:
    """LAD-TS from a checkpoint as `scheduler.policies.lad_ts` has it, or as it ships.

    Args:
        rng: of noise and sampling.
        checkpoint_path: a run's policy.safetensors; None takes the weights that ship.
        station: of that checkpoint.
        evaluation: "sample" or "argmax".

    Raises:
        InvalidCheckpoint: the file is none of these, damaged, or lacks the station.
        ValueError: an option's value is unknown.
    """
    if checkpoint_path is not None:
        return trained_lad_ts(
            rng=rng, checkpoint_path=checkpoint_path, station=station, evaluation=evaluation
        )
    if station is not None:
        raise ValueError("a station belongs to a checkpoint; give a checkpoint_path with it")
    if evaluation not in ("sample", "argmax"):
        raise ValueError(f"evaluation is {evaluation!r}; choose sample or argmax")
    return PretrainedLadTs(evaluation=evaluation, rng=rng)


def in_units_of_training(observation: Observation) -> tuple[IntArray, Observation]:
    """Candidates in the order of the training, (B,), and what they look like in its units.

    Raises:
        ValueError: no candidate has a capacity.
    """
    capacity_B = observation.capacity_B
    if not capacity_B.max() > 0.0:
        raise ValueError("no candidate has a finite capacity above 0")
    capacity_B = np.maximum(capacity_B, CAPACITY_SHARE_MIN * capacity_B.max())
    order_B = np.argsort(-capacity_B, kind="stable")
    traffic = observation.traffic
    # Before anything was measured, the task itself is the mean task.
    mean_work = (traffic.mean_work if traffic else 0.0) or observation.work or 1.0
    tasks_B = capacity_B.mean() / (capacity_B[order_B] * mean_work)
    latent_B = observation.latent_B
    seen = replace(
        observation,
        local=None,
        work=observation.work / mean_work,
        backlog_B=observation.backlog_B[order_B] * tasks_B,
        own_B=observation.own_B[order_B] * tasks_B,
        alive_B=observation.alive_B[order_B],
        latent_B=None if latent_B is None else latent_B[order_B],
    )
    return order_B, seen


def packed(checkpoints: dict[int, Checkpoint]) -> Checkpoint:
    """All weights in one checkpoint, by number of servers; what they share is the first's."""
    first = next(iter(checkpoints.values())).info
    arrays = {
        f"{servers}/{name}": array
        for servers, one in sorted(checkpoints.items())
        for name, array in one.arrays.items()
    }
    scenario = {"name": "pretraining", "servers": sorted(checkpoints)}
    return Checkpoint(info=replace(first, scenario=scenario, metrics={}), arrays=arrays)


def unpacked(pack: Checkpoint, servers: int) -> Checkpoint:
    """The weights for so many servers.

    Raises:
        UnknownMembership: the pack has none.
    """
    prefix = f"{servers}/"
    arrays = {
        name.removeprefix(prefix): array
        for name, array in pack.arrays.items()
        if name.startswith(prefix)
    }
    if not arrays:
        raise UnknownMembership(f"{servers} candidates; there are no weights for so many")
    return Checkpoint(info=replace(pack.info, scenario={"servers": servers}), arrays=arrays)
