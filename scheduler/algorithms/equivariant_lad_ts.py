"""LAD-TS on networks over sets of servers: latent action diffusion inside soft actor-critic.

The paper's method (section V, algorithm 1) with one actor for all stations and any number of
servers. Owns the update and what it learns from; features, networks and chain are elsewhere.

- Actor loss: the mean over states of sum_i pi_i (alpha log pi_i - min(Q1, Q2)_i), through the whole
  reverse process with its noise (paper eq. 15).
- Critic target: r + gamma (soft value of the next decision under target critics), as in the paper
  (eqs. 12-14).
- Reward, in mean services u: minus (own delay + `harm` x delay that the task causes on its server).
  A task of work w delays every task that joins server i before it idles by w / f_i; in hindsight
  their number is known. With it gamma may be 0; without it gamma 0 learns greedy placement. Later
  tasks count less, e-fold in `HARM_HORIZON` mean services: by time, because two servers that never
  idle get tasks as they are fast, and so placing work on either harms alike.

Arrays end in their dimension: N decisions, M samples, B servers, V server features, C context
features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from scheduler.checkpoint import Array
from scheduler.learning.choice import Diverged
from scheduler.learning.diffusion import Noise, Start, variance_preserving
from scheduler.learning.equivariant import DenoisingActor, TwinCritic, encoded
from scheduler.learning.run_state import Part
from scheduler.learning.set_replay import SetReplay
from scheduler.policies.lad_ts_policy import Actor, Chain
from scheduler.simulator import lad_ts_kernel
from scheduler.simulator.queueing import FloatArray, IntArray
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import Episode

SingleArray = NDArray[np.float32]
HARM_HORIZON = 50.0
# Rewards beyond say that a server was lost, not how good it was.
REWARD_MIN = -1e4
GRADIENT_MAX = 2.0


@dataclass(frozen=True, kw_only=True)
class EquivariantLadTsConfig:
    """Hyperparameters; each with the paper's value where it has one.

    Attributes:
        hidden: H of actor and critics; paper 20.
        steps: I, denoising steps; paper 5.
        actor_lr, critic_lr: paper 1e-4 and 1e-3; shared weights bear more.
        alpha: entropy's weight, in mean services; paper .05 of other units, falling.
        gamma: discount per decision; paper .95. See the module on `harm`.
        harm: weight of the delay caused to others.
        tau: share of the critics that their targets take over with each update; paper .005.
        batch: M; paper 64.
        pool: decisions kept for each class of cluster sizes; paper 1000 for a station.
        pool_min: no update before; paper 300.
        decisions_per_update: paper: a slot's.
        start: x_I while learning and deciding.
        noise: between steps while learning; what decides has none.
    """

    hidden: int = 32
    steps: int = 5
    actor_lr: float = 2e-3
    critic_lr: float = 2e-3
    alpha: float = 0.03
    gamma: float = 0.0
    harm: float = 0.0
    tau: float = 0.005
    batch: int = 192
    pool: int = 30_000
    pool_min: int = 1000
    decisions_per_update: int = 60
    start: Start = "latent"
    noise: Noise = "posterior"


class EquivariantLadTs:
    """One agent for all stations.

    Args:
        scenario: that `train_episode` is given episodes of; None for any.
        config: the hyperparameters.
        seed: of networks, noise and batches.

    Attributes:
        updates: made so far.
        episodes: trained so far.
    """

    name = "lad_ts"

    def __init__(
        self, scenario: Scenario | None, config: EquivariantLadTsConfig, *, seed: int
    ) -> None:
        self.scenario, self.config, self.seed = scenario, config, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.actor = DenoisingActor(config.hidden, config.steps, self.generator)
        self.critic = TwinCritic(config.hidden, self.generator)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        adam = torch.optim.Adam
        self.actor_optimiser = adam(self.actor.parameters(), lr=config.actor_lr)
        self.critic_optimiser = adam(self.critic.parameters(), lr=config.critic_lr)
        servers = None if scenario is None else scenario.servers
        self.pool = SetReplay(config.pool, servers=servers)
        self.schedule = variance_preserving(config.steps, noise=config.noise)
        self.updates = torch.zeros((), dtype=torch.int64)
        self.episodes = torch.zeros((), dtype=torch.int64)
        self._due = torch.zeros((), dtype=torch.float64)

    # Deciding.

    def parts(self) -> dict[str, Part]:
        """Everything that changes in training."""
        return {
            "actor": self.actor,
            "critic": self.critic,
            "target": self.target,
            "actor_optimiser": self.actor_optimiser,
            "critic_optimiser": self.critic_optimiser,
            "updates": self.updates,
            "episodes": self.episodes,
            "due": self._due,
            "pool": self.pool,
            "generator": self.generator,
        }

    def export(self) -> dict[str, Array]:
        """What decides."""
        return self.actor.export()

    def resume(self, arrays: dict[str, Array]) -> None:
        """Goes on from an exported actor; critics begin anew."""
        self.actor.load_state_dict(
            {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
        )

    def deciding(self) -> Actor:
        """The actor as a policy has it."""
        return Actor.of_arrays(self.export(), Path(self.name))

    def chain(self, *, learning: bool) -> Chain:
        """How the actor is read."""
        if not learning:
            return Chain(start=self.config.start, noise="none", evaluation="argmax")
        return Chain(start=self.config.start, noise=self.config.noise, evaluation="sample")

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """Decides an episode without learning."""
        return lad_ts_kernel.play(
            episode, self.deciding(), self.chain(learning=False), rng
        ).server_N

    # Learning.

    def train_episode(self, episode: Episode) -> tuple[FloatArray, dict[str, float]]:
        """Decides an episode slot by slot while learning from it.

        The whole episode is decided with the weights at its start; updates follow.

        Raises:
            Diverged: a network's output is not finite.
        """
        for name, array in self.export().items():
            if not np.isfinite(array).all():
                raise Diverged(f"output nan for servers: the actor's {name} is not finite")
        played = lad_ts_kernel.play(
            episode,
            self.deciding(),
            self.chain(learning=True),
            np.random.default_rng([self.seed, 1, int(self.episodes)]),
            record=True,
        )
        self.episodes += 1
        self.add_episode(episode, played)
        self._due += episode.tasks / self.config.decisions_per_update
        losses = []
        while self._due >= 1.0 and self.can_update:
            self._due -= 1.0
            losses.append(self.update())
        mean = torch.stack(losses).mean(0).tolist() if losses else [float("nan")] * 3
        names = ("critic_loss", "actor_loss", "entropy")
        return played.delay_s_N, dict(zip(names, mean, strict=True))

    def add_episode(self, episode: Episode, played: lad_ts_kernel.Played) -> None:
        """Takes a recorded episode's decisions into the pool, in order."""
        served_s_N = played.delay_s_N - episode.transfer_s(played.server_N)
        later_N = later_on_server(episode.arrival_s_N, played.server_N, served_s_N, played.unit_s_N)
        capacity_N = episode.capacity_KB[0, played.server_N]
        harm_s_N = self.config.harm * episode.work_N / capacity_N * later_N
        self.pool.add(
            server_NBV=played.server_NBV,
            context_NC=played.context_NC,
            latent_NB=played.latent_NB,
            action_N=played.server_N,
            reward_N=-(played.delay_s_N + harm_s_N) / played.unit_s_N,
        )

    @property
    def can_update(self) -> bool:
        """Whether the pool is full enough to learn from."""
        return len(self.pool) > self.config.pool_min

    def update(self, *, actor: bool = True) -> Tensor:
        """One update of all networks; losses of critic and actor, and the entropy.

        Args:
            actor: whether it is updated too; while it imitates, only the critics are.

        Raises:
            Diverged: a loss is not finite.
        """
        config = self.config
        # From the count, so that a resumed run draws on as the uninterrupted one.
        rng = np.random.default_rng([self.seed, 2, int(self.updates)])
        now = self.pool.sample(config.batch, rng, following=config.gamma > 0.0)
        target_M = now.reward_M.clamp(min=REWARD_MIN)
        if config.gamma > 0.0:
            target_M = target_M + config.gamma * self._soft_value(now.following())
        input_MBF = encoded(now.server_MBV, now.context_MC, now.present_MB)
        both = self.critic(now.server_MBV, input_MBF, now.present_MB)
        at_M1 = now.action_M[:, None]
        critic_loss = sum(
            torch.nn.functional.smooth_l1_loss(value_MB.gather(1, at_M1)[:, 0], target_M)
            for value_MB in both
        )
        assert isinstance(critic_loss, Tensor)
        self._step(self.critic_optimiser, critic_loss, self.critic.parameters())
        value_MB = torch.minimum(*both).detach()
        loss = entropy = torch.zeros(())
        if actor:
            loss, entropy = self._improve(now.present_MB, input_MBF, now.latent_MB, value_MB)
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                old.lerp_(new, config.tau)
        self.updates += 1
        losses = torch.stack([critic_loss.detach(), loss, entropy])
        if not torch.isfinite(losses).all():
            raise Diverged(f"losses {losses.tolist()} after {int(self.updates)} updates")
        return losses

    def imitate(
        self,
        server_MBV: Tensor,
        context_MC: Tensor,
        present_MB: Tensor,
        latent_MB: Tensor,
        cost_MB: Tensor,
    ) -> Tensor:
        """One update of the actor towards least given cost, (M, B), in mean services."""
        input_MBF = encoded(server_MBV, context_MC, present_MB)
        loss, _ = self._improve(present_MB, input_MBF, latent_MB, -cost_MB)
        return loss

    def _improve(
        self, present_MB: Tensor, input_MBF: Tensor, latent_MB: Tensor, value_MB: Tensor
    ) -> tuple[Tensor, Tensor]:
        log_MB = self._log_chances(input_MBF, present_MB, latent_MB)
        chance_MB = log_MB.exp()
        entropy = -(chance_MB * log_MB * present_MB).sum(1).mean()
        best_M1 = value_MB.masked_fill(present_MB == 0.0, -1e9).amax(1, keepdim=True)
        regret_MB = (best_M1 - value_MB) * present_MB
        loss = (chance_MB * regret_MB).sum(1).mean() - self.config.alpha * entropy
        self._step(self.actor_optimiser, loss, self.actor.parameters())
        return loss.detach(), entropy.detach()

    def _log_chances(self, input_MBF: Tensor, present_MB: Tensor, latent_MB: Tensor) -> Tensor:
        x_MB: Tensor = latent_MB
        if self.config.start == "zero":
            x_MB = torch.zeros_like(latent_MB)
        elif self.config.start == "gaussian":
            x_MB = torch.empty_like(latent_MB).normal_(generator=self.generator)
        log_MB: Tensor = self.actor(input_MBF, present_MB, x_MB, self.schedule, self.generator)
        return log_MB

    @torch.no_grad()
    def _soft_value(self, state: SetReplay.Batch) -> Tensor:
        """Value of the following decision under target critics; 0 where none follows, (M,)."""
        input_MBF = encoded(state.server_MBV, state.context_MC, state.present_MB)
        log_MB = self._log_chances(input_MBF, state.present_MB, state.latent_MB)
        value_MB = torch.minimum(*self.target(state.server_MBV, input_MBF, state.present_MB))
        soft_M = (log_MB.exp() * (value_MB - self.config.alpha * log_MB) * state.present_MB).sum(1)
        return soft_M * state.follows_M

    @staticmethod
    def _step(optimiser: torch.optim.Optimizer, loss: Tensor, parameters: Iterable[Tensor]) -> None:
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_MAX)
        optimiser.step()


@njit(cache=True)
def later_on_server(
    arrival_s_N: FloatArray, server_N: IntArray, served_s_N: FloatArray, unit_s_N: FloatArray
) -> FloatArray:
    """Tasks that join each task's server before it idles, discounted by time, (N,).

    Args:
        arrival_s_N: not falling.
        server_N: where each task went.
        served_s_N: from its arrival until it was done, transfers excluded.
        unit_s_N: mean service time when it was placed.
    """
    later_N = np.zeros(len(server_N))
    next_B = np.full(server_N.max() + 1, -1)
    for task in range(len(server_N) - 1, -1, -1):
        following = next_B[server_N[task]]
        now_s = arrival_s_N[task]
        if following >= 0 and arrival_s_N[following] < now_s + served_s_N[task]:
            passed = (arrival_s_N[following] - now_s) / (HARM_HORIZON * unit_s_N[task])
            later_N[task] = math.exp(-passed) * (1.0 + later_N[following])
        next_B[server_N[task]] = task
    return later_N
