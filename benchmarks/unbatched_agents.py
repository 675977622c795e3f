"""The peer of the training benchmark: agents one by one, decisions one by one, in plain torch.

This is how the published code of LAD-TS and its baselines works (a module, an optimiser, a deque
and a forward pass per decision for each of the twenty agents); written anew from the paper, so
that both sides of the comparison run in the same process on the same machine. It trains the same
networks with the same hyperparameters; it is not meant to be used.
"""

from __future__ import annotations

import collections
import math
import random
import time
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scheduler.learning.diffusion import variance_preserving
from scheduler.learning.networks import step_embedding
from scheduler.simulator.slotted_cluster import SlottedCluster
from scheduler.simulator.workload import Episode

Kind = Literal["lad_ts_published", "sac", "dqn"]
HIDDEN, STEPS, BATCH, POOL, POOL_MIN, GAMMA, TAU = 20, 5, 64, 1000, 300, 0.95, 0.005


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of 20."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, outputs),
    )


class Denoiser(nn.Module):
    """A diffusion actor of one agent."""

    def __init__(self, state: int, actions: int) -> None:
        super().__init__()
        self.embedding = step_embedding(STEPS)
        self.network = perceptron(actions + self.embedding.shape[1] + state, actions)
        self.schedule = variance_preserving(STEPS)

    def forward(self, state: Tensor, latent: Tensor) -> Tensor:
        """Distribution over the servers for each row."""
        x, schedule = latent, self.schedule
        for step in reversed(range(STEPS)):
            embedded = self.embedding[step].expand(len(x), -1)
            eps = self.network(torch.cat([x, embedded, state], dim=1)).softmax(1)
            x0 = float(schedule.recover_x_I[step]) * x - float(schedule.recover_eps_I[step]) * eps
            x = float(schedule.mean_x0_I[step]) * x0 + float(schedule.mean_x_I[step]) * x
            x = x + float(schedule.spread_I[step]) * torch.randn_like(x)
        return x.softmax(1)


class SoftAgent:
    """LAD-TS or SAC of one station."""

    def __init__(self, state: int, actions: int, *, diffusion: bool) -> None:
        self.diffusion = diffusion
        self.actor = Denoiser(state, actions) if diffusion else perceptron(state, actions)
        self.critics = [perceptron(state, actions) for _ in range(2)]
        self.targets = [perceptron(state, actions) for _ in range(2)]
        for target, critic in zip(self.targets, self.critics, strict=True):
            target.load_state_dict(critic.state_dict())
        self.log_alpha = torch.tensor(math.log(0.05), requires_grad=True)
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), lr=1e-4)
        self.critic_optimisers = [torch.optim.Adam(c.parameters(), lr=1e-3) for c in self.critics]
        self.alpha_optimiser = torch.optim.Adam([self.log_alpha], lr=3e-4)

    def chances(self, state: Tensor, latent: Tensor) -> Tensor:
        """Distribution over the servers for each row."""
        chances: Tensor = (
            self.actor(state, latent) if self.diffusion else self.actor(state).softmax(1)
        )
        return chances

    def decide(self, state: np.ndarray, latent: np.ndarray) -> tuple[int, np.ndarray]:
        """A server, and the distribution that it was drawn from."""
        chances = self.chances(
            torch.tensor(state[None], dtype=torch.float),
            torch.tensor(latent[None], dtype=torch.float),
        )
        action = torch.distributions.Categorical(chances).sample()  # type: ignore[no-untyped-call]
        return int(action.item()), chances.detach().numpy()[0]

    def learn(self, batch: list[Tensor]) -> None:
        """One update."""
        state, action, reward, next_state, latent, next_latent = batch
        chances = self.chances(next_state, next_latent)
        entropy = -(chances * torch.log(chances + 1e-8)).sum(1)
        values = torch.min(*(target(next_state) for target in self.targets))
        goal = reward + GAMMA * ((chances * values).sum(1) + self.log_alpha.exp() * entropy)
        for critic, optimiser in zip(self.critics, self.critic_optimisers, strict=True):
            chosen = critic(state).gather(1, action[:, None])[:, 0]
            _step(optimiser, nn.functional.mse_loss(chosen, goal.detach()))
        chances = self.chances(state, latent)
        entropy = -(chances * torch.log(chances + 1e-8)).sum(1)
        values = torch.min(*(critic(state) for critic in self.critics))
        loss = -self.log_alpha.exp() * entropy - (chances * values).sum(1)
        _step(self.actor_optimiser, loss.mean())
        _step(self.alpha_optimiser, ((entropy + 1.0).detach() * self.log_alpha.exp()).mean())
        for target, critic in zip(self.targets, self.critics, strict=True):
            for moved, source in zip(target.parameters(), critic.parameters(), strict=True):
                moved.data.copy_(moved.data * (1 - TAU) + source.data * TAU)


class ValueAgent:
    """DQN of one station."""

    def __init__(self, state: int, actions: int) -> None:
        self.network, self.target = perceptron(state, actions), perceptron(state, actions)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.actions, self.updates = actions, 0

    def decide(self, state: np.ndarray, latent: np.ndarray) -> tuple[int, np.ndarray]:
        """Epsilon-greedy."""
        if random.random() < 0.01:
            return random.randrange(self.actions), latent
        values = self.network(torch.tensor(state[None], dtype=torch.float))
        return int(values.argmax().item()), latent

    def learn(self, batch: list[Tensor]) -> None:
        """One update."""
        if self.updates % 200 == 0:
            self.target.load_state_dict(self.network.state_dict())
        self.updates += 1
        state, action, reward, next_state, _, _ = batch
        chosen = self.network(state).gather(1, action[:, None])[:, 0]
        goal = reward + GAMMA * self.target(next_state).max(1)[0]
        _step(self.optimiser, nn.functional.mse_loss(chosen, goal))


def slot_cpu_s(kind: Kind, episode: Episode, *, warm_slots: int, timed_slots: int) -> float:
    """Processor seconds of one slot of all agents, deciding and learning, once pools are full.

    Args:
        kind: algorithm.
        episode: at least warm_slots + timed_slots long.
        warm_slots: placed before the clock starts; enough that every agent trains.
        timed_slots: over which the mean is taken.
    """
    servers = episode.servers
    agents: list[SoftAgent | ValueAgent] = [
        ValueAgent(2 + servers, servers)
        if kind == "dqn"
        else SoftAgent(2 + servers, servers, diffusion=kind == "lad_ts_published")
        for _ in range(servers)
    ]
    pools: list[collections.deque[Any]] = [collections.deque(maxlen=POOL) for _ in agents]
    latents = np.random.default_rng(0).standard_normal((servers, 50, servers))
    cluster, start_s = SlottedCluster(episode), 0.0
    for slot in range(warm_slots + timed_slots):
        if slot == warm_slots:
            start_s = time.process_time()
        tasks, queue = cluster.tasks, cluster.backlog_B.copy()
        origin = episode.origin_N[tasks]
        states = [
            np.hstack([episode.input_mbit_N[task], episode.work_N[task], queue])
            for task in range(tasks.start, tasks.stop)
        ]
        decided = []
        for row, station in enumerate(origin):
            index = episode.index_N[tasks.start + row]
            latent = latents[station, index].copy()
            action, latents[station, index] = agents[station].decide(states[row], latent)
            decided.append((action, latent))
        delays = cluster.place(np.array([action for action, _ in decided]))
        for row, station in enumerate(origin):
            after = min(row + 1, len(origin) - 1)
            transition = (states[row], decided[row][0], -delays[row], states[after])
            pools[station].append((*transition, decided[row][1], decided[after][1]))
        for agent, pool in zip(agents, pools, strict=True):
            if len(pool) > POOL_MIN:
                agent.learn(_batch(pool))
    return (time.process_time() - start_s) / timed_slots


def _batch(pool: collections.deque[Any]) -> list[Tensor]:
    columns = zip(*random.sample(pool, BATCH), strict=True)
    kinds = (torch.float, torch.long, torch.float, torch.float, torch.float, torch.float)
    return [
        torch.tensor(np.array(column), dtype=kind)
        for column, kind in zip(columns, kinds, strict=True)
    ]


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
