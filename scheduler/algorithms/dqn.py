"""DQN-TS: deep Q-learning, the paper's simplest learning baseline (section VI).

Every station has an agent of its own: a Q-network, a target that is copied from it now and then,
and an experience pool. The defaults are the authors' code (Baselines/DQN-TS).

Tensors end in their dimensions: A agents, B servers, S features of a state, N tasks of a slot
together, K samples of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

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
class DqnConfig:
    """Hyperparameters; each with the authors' value, ours, and the effect of raising it.

    Attributes:
        hidden: two layers; authors 20, ours 20. Larger learns faster and costs more per decision.
        lr: authors 1e-4, ours the same. Higher learns sooner; above 1e-3 it oscillates.
        gamma: discount per task; authors .95, ours the same.
        epsilon: share of decisions that are taken at random; authors .01, ours the same. Higher
            explores more and, as the network herds otherwise, delays less on the default scenario.
        copy_every: updates between two copies to the target; authors 200, ours the same.
        batch: K; authors 64, ours the same.
        pool: transitions kept of each agent; authors 1000, ours the same.
        pool_min: training starts above it; authors 300, ours the same.
        next_state: "code" or "fixed", see `StationSlots`.
        state: "raw" (paper and code) or "normal", see `state_scale`.
    """

    hidden: int = 20
    lr: float = 1e-4
    gamma: float = 0.95
    epsilon: float = 0.01
    copy_every: int = 200
    batch: int = 64
    pool: int = 1000
    pool_min: int = 300
    next_state: NextState = "code"
    state: StateKind = "raw"


class Dqn:
    """All stations' DQN agents.

    Args:
        scenario: slotted; gives the sizes.
        config: the hyperparameters.
        seed: of networks, exploration and batches.
    """

    name = "dqn"

    def __init__(self, scenario: Scenario, config: DqnConfig, *, seed: int) -> None:
        self.scenario, self.config = scenario, config
        self.scale = state_scale(scenario, config.state)
        self.generator = torch.Generator().manual_seed(seed)
        self.agents, servers = agents(scenario), scenario.servers
        state = 2 + servers
        sizes = [state, config.hidden, config.hidden, servers]
        self.network = MlpStack(self.agents, sizes, self.generator)
        self.target = MlpStack(self.agents, sizes, self.generator)
        self.target.requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.lr, fused=True)
        self.updates = torch.zeros((), dtype=torch.int64)
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
            "network": self.network,
            "target": self.target,
            "optimiser": self.optimiser,
            "updates": self.updates,
            "pool": self.pool,
            "generator": self.generator,
        }

    def export(self) -> dict[str, Array]:
        """What decides: the network and the scale of its states."""
        network = {name: value.numpy() for name, value in self.network.state_dict().items()}
        return {"state_scale": self.scale.array(), **network}

    # Acting.

    def train_episode(self, episode: Episode) -> tuple[FloatArray, dict[str, float]]:
        """Decides an episode, epsilon-greedily, while learning from it.

        Returns:
            service delay of each task, seconds, and the episode's means of what was learned.
        """
        slots = StationSlots(episode, self.scale, next_state=self.config.next_state)
        delay_s_N = np.empty(episode.tasks)
        learned: list[Tensor] = []
        while (slot := slots.slot) is not None:
            tasks = slots.tasks
            server_N = choice.explored(self._values(slot), self.config.epsilon, self.generator)
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
        return delay_s_N, {"loss": float(torch.stack(learned).mean())} if learned else {}

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """Decides an episode without exploring or learning."""
        slots = StationSlots(episode, self.scale, next_state=self.config.next_state)
        server_N = np.empty(episode.tasks, np.int64)
        while (slot := slots.slot) is not None:
            tasks = slots.tasks
            server_N[tasks] = choice.best(self._values(slot)).numpy()
            slots.place(server_N[tasks])
        return server_N

    @torch.no_grad()
    def _values(self, slot: StationSlot) -> Tensor:
        return slot.rows(self.network(torch.from_numpy(slot.state_ASM))[:, 0])

    # Learning.

    def _learn(self) -> Tensor:
        """One update of every agent whose pool is full enough; returns the mean loss.

        differs: updates are counted for all agents together, where in the code an agent whose
        pool fills some slots later also copies its target some slots later
        (docs/paper.md, "agents' counters").
        """
        config, batch = self.config, self.config.batch
        if int(self.updates) % config.copy_every == 0:
            move_towards(self.target, self.network, 1.0)
        self.updates += 1
        ready_A = torch.from_numpy((self.pool.size_A > config.pool_min).astype(np.float32))
        rows = self.pool.sample(batch, self.generator)
        table = (self.agents, batch, -1)
        state_ASK = self.pool.field("state", rows).view(table).transpose(1, 2)
        next_state_ASK = self.pool.field("next_state", rows).view(table).transpose(1, 2)
        reward_AK = self.pool.field("reward", rows).view(self.agents, batch)
        with torch.no_grad():
            target_AK = reward_AK + config.gamma * self.target(next_state_ASK)[:, 0].amax(1)
        action_A1K = self.pool.field("action", rows).view(self.agents, 1, batch)
        chosen_AK = self.network(state_ASK)[:, 0].gather(1, action_A1K)[:, 0]
        loss_A = (chosen_AK - target_AK).square().mean(1)
        self.optimiser.zero_grad()
        (loss_A @ ready_A).backward()
        self.optimiser.step()
        mean: Tensor = loss_A.detach() @ ready_A / ready_A.sum()
        return mean
