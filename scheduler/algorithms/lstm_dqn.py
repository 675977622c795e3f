"""LDQN: deep Q-learning with a long short-term memory over the station's last few tasks.

A baseline of FDEdge (Xu et al., IEEE TMC 2025) and of the project's slides; neither gives its
code, so this is DQN-TS with the first layer of the Q-network replaced by an LSTM. It reads the
states of the task and of those that the same station decided before it; a transition is learned
with the transitions before it in the pool.

Tensors end in their dimensions: A agents, B servers, S features of a state, H hidden features,
L states of a history, M tasks of an agent in a slot, N tasks of a slot together, K samples of a
batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scheduler.checkpoint import Array
from scheduler.learning import choice
from scheduler.learning.networks import LinearStack, LstmStack, move_towards
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
class LstmDqnConfig:
    """Hyperparameters; DQN-TS's where FDEdge's paper gives none.

    Attributes:
        history: L, states that are read; ours 4. Longer costs as many passes through the LSTM.
        hidden: of the LSTM and of the layer after it; ours 20 as DQN-TS has.
        lr: ours 1e-4 as DQN-TS has. Higher learns sooner; above 1e-3 it oscillates.
        gamma: discount per task; ours .95.
        epsilon: share of decisions that are taken at random; ours .01.
        copy_every: updates between two copies to the target; ours 200.
        batch: K; ours 64.
        pool: transitions kept of each agent; ours 1000.
        pool_min: training starts above it; ours 300.
        next_state: "fixed" or "code", see `StationSlots`.
        state: "raw" or "normal", see `state_scale`.
    """

    history: int = 4
    hidden: int = 20
    lr: float = 1e-4
    gamma: float = 0.95
    epsilon: float = 0.01
    copy_every: int = 200
    batch: int = 64
    pool: int = 1000
    pool_min: int = 300
    next_state: NextState = "fixed"
    state: StateKind = "raw"


class RecurrentStack(nn.Module):
    """Each agent's Q-network: LSTM, ReLU layer, values."""

    def __init__(
        self, agents: int, state: int, hidden: int, servers: int, g: torch.Generator
    ) -> None:
        super().__init__()
        self.memory = LstmStack(agents, state, hidden, g)
        self.second = LinearStack(agents, hidden, hidden, g)
        self.third = LinearStack(agents, hidden, servers, g)

    def forward(self, state_LASM: Tensor) -> Tensor:
        """Values of every server, (A, B, M)."""
        value_ABM: Tensor = self.third(torch.relu(self.second(self.memory(state_LASM))))
        return value_ABM


class LstmDqn:
    """All stations' LDQN agents.

    Args:
        scenario: slotted; gives the sizes.
        config: the hyperparameters.
        seed: of networks, exploration and batches.
    """

    name = "lstm_dqn"

    def __init__(self, scenario: Scenario, config: LstmDqnConfig, *, seed: int) -> None:
        self.scenario, self.config = scenario, config
        self.scale = state_scale(scenario, config.state)
        self.generator = torch.Generator().manual_seed(seed)
        self.agents, servers = agents(scenario), scenario.servers
        state = 2 + servers
        sizes = (self.agents, state, config.hidden, servers)
        self.network = RecurrentStack(*sizes, self.generator)
        self.target = RecurrentStack(*sizes, self.generator)
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
        before_PAS = self._no_history()
        while (slot := slots.slot) is not None:
            tasks = slots.tasks
            value_NB, before_PAS = self._values(slot, before_PAS)
            server_N = choice.explored(value_NB, self.config.epsilon, self.generator)
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
        before_PAS = self._no_history()
        while (slot := slots.slot) is not None:
            tasks = slots.tasks
            value_NB, before_PAS = self._values(slot, before_PAS)
            server_N[tasks] = choice.best(value_NB).numpy()
            slots.place(server_N[tasks])
        return server_N

    def _no_history(self) -> Tensor:
        """Zeros in place of the states before an episode's first, (P, A, S) with P = L - 1."""
        return torch.zeros(self.config.history - 1, self.agents, 2 + self.scenario.servers)

    @torch.no_grad()
    def _values(self, slot: StationSlot, before_PAS: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the slot's tasks, (N, B), and the states before the next slot's first."""
        history = self.config.history
        ahead_ASM = before_PAS.permute(1, 2, 0)
        states_ASX = torch.cat([ahead_ASM, torch.from_numpy(slot.state_ASM)], dim=2)
        state_LASM = states_ASX.unfold(2, history, 1).permute(3, 0, 1, 2)
        value_NB = slot.rows(self.network(state_LASM))
        # An agent's last states end where its own tasks end, not where the table does.
        ends_A = torch.from_numpy(np.bincount(slot.agent_N, minlength=self.agents))
        last_AP = ends_A[:, None] + torch.arange(history - 1)
        last_ASP = last_AP[:, None].expand(-1, states_ASX.shape[1], -1)
        return value_NB, states_ASX.gather(2, last_ASP).permute(2, 0, 1)

    # Learning.

    def _learn(self) -> Tensor:
        """One update of every agent whose pool is full enough; returns the mean loss."""
        config, batch = self.config, self.config.batch
        if int(self.updates) % config.copy_every == 0:
            move_towards(self.target, self.network, 1.0)
        self.updates += 1
        ready_A = torch.from_numpy((self.pool.size_A > config.pool_min).astype(np.float32))
        rows_XL = self.pool.sample_runs(batch, config.history, self.generator)
        rows = rows_XL[:, -1]
        state_AKLS = self.pool.field("state", rows_XL).view(self.agents, batch, config.history, -1)
        next_state_AKS = self.pool.field("next_state", rows).view(self.agents, batch, -1)
        later_AKLS = torch.cat([state_AKLS[:, :, 1:], next_state_AKS[:, :, None]], dim=2)
        reward_AK = self.pool.field("reward", rows).view(self.agents, batch)
        with torch.no_grad():
            value_ABK = self.target(later_AKLS.permute(2, 0, 3, 1))
            target_AK = reward_AK + config.gamma * value_ABK.amax(1)
        action_A1K = self.pool.field("action", rows).view(self.agents, 1, batch)
        chosen_AK = self.network(state_AKLS.permute(2, 0, 3, 1)).gather(1, action_A1K)[:, 0]
        loss_A = (chosen_AK - target_AK).square().mean(1)
        self.optimiser.zero_grad()
        (loss_A @ ready_A).backward()
        self.optimiser.step()
        mean: Tensor = loss_A.detach() @ ready_A / ready_A.sum()
        return mean
