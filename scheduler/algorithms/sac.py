"""SAC-TS: discrete soft actor-critic, the paper's baseline without diffusion (section VI).

Every station has an agent of its own, as in LAD-TS; actor, two critics with targets, a temperature
and an experience pool. The defaults are the authors' code (Baselines/SAC-TS), which is LAD-TS's
with a perceptron for an actor; what differs from it is an option.

Tensors end in their dimensions: A agents, B servers, S features of a state, M tasks of an agent in
a slot, N tasks of a slot together, K samples of a batch, G critics of an agent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scheduler.checkpoint import Array
from scheduler.learning import choice
from scheduler.learning.networks import MlpStack, move_towards
from scheduler.learning.replay import ReplayStack
from scheduler.learning.run_state import Part
from scheduler.learning.station_slots import (
    NextState,
    StateKind,
    StationSlot,
    StationSlots,
    agents,
    state_scale,
)
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import Episode

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SacConfig:
    """Hyperparameters; each with the paper's value (Table IV), ours, and the effect of raising it.

    Attributes:
        hidden: of actor and critics, two layers; paper 20, ours 20. Larger learns faster per
            episode and costs more per decision.
        actor_lr: paper 1e-4, ours the same. Higher learns sooner and settles worse.
        critic_lr: paper 1e-3, ours the same.
        alpha_lr: of the temperature's logarithm; paper 3e-4, ours the same.
        alpha: first temperature; paper .05, ours the same. Higher keeps decisions more random.
        target_entropy: paper -1, ours the same: the temperature only falls. A positive target
            holds the policy's entropy there.
        gamma: discount per task; paper .95, ours the same.
        tau: share by which targets follow; paper .005, ours the same.
        batch: K; paper 64, ours the same.
        pool: transitions kept of each agent; paper 1000, ours the same.
        pool_min: training starts above it; paper 300, ours the same.
        next_state: "code" or "fixed", see `StationSlots`.
        state: "raw" (paper and code) or "normal", see `state_scale`.
        evaluation: "sample" (code) or "argmax" when decisions are only evaluated.
    """

    hidden: int = 20
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    alpha_lr: float = 3e-4
    alpha: float = 0.05
    target_entropy: float = -1.0
    gamma: float = 0.95
    tau: float = 0.005
    batch: int = 64
    pool: int = 1000
    pool_min: int = 300
    next_state: NextState = "code"
    state: StateKind = "raw"
    evaluation: Literal["sample", "argmax"] = "sample"


class Sac:
    """All stations' SAC agents.

    Args:
        scenario: slotted; gives the sizes.
        config: the hyperparameters.
        seed: of networks, decisions and batches.
    """

    name = "sac"

    def __init__(self, scenario: Scenario, config: SacConfig, *, seed: int) -> None:
        self.scenario, self.config = scenario, config
        self.scale = state_scale(scenario, config.state)
        self.generator = torch.Generator().manual_seed(seed)
        self.agents, servers = agents(scenario), scenario.servers
        state = 2 + servers
        sizes = [state, config.hidden, config.hidden, servers]
        self.actor = MlpStack(self.agents, sizes, self.generator)
        self.critics = MlpStack(self.agents, sizes, self.generator, copies=2)
        self.targets = MlpStack(self.agents, sizes, self.generator, copies=2)
        self.targets.load_state_dict(self.critics.state_dict())
        self.targets.requires_grad_(False)
        self.log_alpha_A = torch.full((self.agents,), math.log(config.alpha))
        self.actor_optimiser = torch.optim.Adam(
            [
                {"params": list(self.actor.parameters()), "lr": config.actor_lr},
                {"params": [self.log_alpha_A], "lr": config.alpha_lr},
            ],
            fused=True,
        )
        self.critic_optimiser = torch.optim.Adam(
            self.critics.parameters(), lr=config.critic_lr, fused=True
        )
        self.pool = ReplayStack(
            self.agents,
            config.pool,
            {
                "state": (state, torch.float32),
                "next_state": (state, torch.float32),
                "action": (1, torch.int64),
                "reward": (1, torch.float32),
            },
        )

    def parts(self) -> dict[str, Part]:
        """Everything that changes in training, for a run that is to be resumed."""
        return {
            "actor": self.actor,
            "critics": self.critics,
            "targets": self.targets,
            "log_alpha": self.log_alpha_A,
            "actor_optimiser": self.actor_optimiser,
            "critic_optimiser": self.critic_optimiser,
            "pool": self.pool,
            "generator": self.generator,
        }

    def export(self) -> dict[str, Array]:
        """What decides: the actor and the scale of its states."""
        actor = {name: value.numpy() for name, value in self.actor.state_dict().items()}
        return {"state_scale": self.scale.array(), **actor}

    # Acting.

    def train_episode(self, episode: Episode) -> tuple[FloatArray, dict[str, float]]:
        """Decides an episode while learning from it.

        Returns:
            service delay of each task, seconds, and the episode's means of what was learned.
        """
        slots = StationSlots(episode, self.scale, next_state=self.config.next_state)
        delay_s_N = np.empty(episode.tasks)
        learned: list[Tensor] = []
        while (slot := slots.slot) is not None:
            tasks = slots.tasks
            server_N = self._decide(slot, self.generator)
            placed = slots.place(server_N.numpy())
            delay_s_N[tasks] = placed.delay_s_N
            self.pool.add(
                slot.agent_N,
                slot.order_N,
                state=torch.from_numpy(slot.state_NS),
                next_state=torch.from_numpy(placed.following_NS),
                action=server_N,
                reward=torch.from_numpy(placed.reward_N),
            )
            if (self.pool.size_A > self.config.pool_min).any():
                learned.append(self._learn())
        names = ("critic_loss", "actor_loss", "entropy", "alpha")
        means = torch.stack(learned).mean(0).tolist() if learned else []
        return delay_s_N, dict(zip(names, means, strict=False))

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """Decides an episode without learning."""
        slots = StationSlots(episode, self.scale, next_state=self.config.next_state)
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        greedy = self.config.evaluation == "argmax"
        server_N = np.empty(episode.tasks, np.int64)
        while (slot := slots.slot) is not None:
            tasks = slots.tasks
            server_N[tasks] = self._decide(slot, generator, greedy=greedy).numpy()
            slots.place(server_N[tasks])
        return server_N

    @torch.no_grad()
    def _decide(
        self, slot: StationSlot, generator: torch.Generator, *, greedy: bool = False
    ) -> Tensor:
        chance_ABM = torch.softmax(self.actor(torch.from_numpy(slot.state_ASM))[:, 0], 1)
        chance_NB = slot.rows(chance_ABM)
        return choice.best(chance_NB) if greedy else choice.drawn(chance_NB, generator)

    # Learning.

    def _learn(self) -> Tensor:
        """One update of every agent whose pool is full enough; returns means of its losses.

        differs: Adam counts steps for all agents together, so an agent whose pool fills some
        slots later takes somewhat smaller first steps (docs/paper.md, "agents' counters").
        """
        config, batch = self.config, self.config.batch
        ready_A = torch.from_numpy((self.pool.size_A > config.pool_min).astype(np.float32))
        rows = self.pool.sample(batch, self.generator)
        table = (self.agents, batch, -1)
        state_ASK = self.pool.field("state", rows).view(table).transpose(1, 2)
        next_state_ASK = self.pool.field("next_state", rows).view(table).transpose(1, 2)
        alpha_A = self.log_alpha_A.exp()

        with torch.no_grad():  # target of the critics
            log_ABK = torch.log_softmax(self.actor(next_state_ASK)[:, 0], 1)
            value_ABK = self.targets(next_state_ASK).amin(1) - alpha_A[:, None, None] * log_ABK
            reward_AK = self.pool.field("reward", rows).view(self.agents, batch)
            target_AK = reward_AK + config.gamma * (log_ABK.exp() * value_ABK).sum(1)
        action_A1K = self.pool.field("action", rows).view(self.agents, 1, 1, batch)
        chosen_AGK = self.critics(state_ASK).gather(2, action_A1K.expand(-1, 2, -1, -1))[:, :, 0]
        critic_loss_A = (chosen_AGK - target_AK[:, None]).square().mean(2).sum(1)
        self.critic_optimiser.zero_grad()
        (critic_loss_A @ ready_A).backward()
        self.critic_optimiser.step()

        with torch.no_grad():
            value_ABK = self.critics(state_ASK).amin(1)
        log_ABK = torch.log_softmax(self.actor(state_ASK)[:, 0], 1)
        chance_ABK = log_ABK.exp()
        entropy_A = -(chance_ABK * log_ABK).sum(1).mean(1)
        actor_loss_A = -alpha_A * entropy_A - (chance_ABK * value_ABK).sum(1).mean(1)
        self.actor_optimiser.zero_grad()
        (actor_loss_A @ ready_A).backward()
        entropy_A = entropy_A.detach()
        self.log_alpha_A.grad = ready_A * alpha_A * (entropy_A - config.target_entropy)
        self.actor_optimiser.step()

        move_towards(self.targets, self.critics, config.tau)
        losses = (critic_loss_A.detach(), actor_loss_A.detach(), entropy_A, alpha_A)
        return torch.stack([loss_A @ ready_A for loss_A in losses]) / ready_A.sum()
