"""Least marginal harm under the options that all rules share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.policies.heuristics import Own, check_own
from scheduler.simulator import marginal_harm
from scheduler.simulator.queueing import IntArray
from scheduler.simulator.rules.view import own_weight, placed, published_stretch_N
from scheduler.simulator.workload import Episode


@dataclass(frozen=True, kw_only=True)
class LeastMarginalHarm:
    """For servers that take short tasks first; `scheduler.simulator.marginal_harm` is the rule.

    Attributes:
        own: how often own unseen tasks count; see `LeastExpectedDelay`.
        fresh: the true queues instead of the published ones.
    """

    own: Own = "B"
    fresh: bool = False

    def __post_init__(self) -> None:
        check_own(self.own)

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); `rng` keeps stations that see the same apart."""
        own = own_weight(self.own, episode.scenario)
        rule = marginal_harm.LeastMarginalHarm(fresh=self.fresh, own_multiplier=own)
        alive_KB = episode.believed_KB > 0.0
        alive_KM = np.asarray((alive_KB[:, None] & episode.serves_MB).any(axis=2))
        stretch_N = published_stretch_N(episode, fresh=self.fresh)
        alive_N = alive_KM[stretch_N, episode.model_N]
        return placed(np.where(alive_N, rule.place(episode, rng), -1), episode)
