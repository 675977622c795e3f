"""FDEdge: feedback diffusion scheduling by one master (Xu et al., IEEE TMC 2025).

LAD-TS's predecessor by the same group: one agent dispatches all tasks, its networks are larger,
and it takes the most likely server even while it learns; what explores is the noise of the
denoising chain. "Feedback" is LAD-TS's latent: the chain starts at what it ended with at the same
place of the previous episode. Defaults are its paper's and what is known of its code. Works for
any number of dispatching stations; its own scenario has one.

Tensors end in their dimensions: A agents, B servers, S features of a state, M tasks of an agent
in a slot, N tasks of a slot together, K samples of a batch, R chains run at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scheduler.checkpoint import Array
from scheduler.learning import choice
from scheduler.learning.compiled_actor import CompiledActor
from scheduler.learning.diffusion import variance_preserving
from scheduler.learning.latent_memory import LatentMemory
from scheduler.learning.networks import MlpStack, NoiseStack, move_towards
from scheduler.learning.noise import NoiseSource
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
class FdEdgeConfig:
    """Hyperparameters; each with FDEdge's value, ours, and the effect of raising it.

    Attributes:
        denoising_steps: I; FDEdge 5, ours 5. More steps multiply the cost of a decision.
        hidden: of actor and critics, two layers; FDEdge 128, ours 128. Larger learns faster per
            episode and costs more per decision.
        actor_lr: FDEdge 1e-4, ours the same. Higher learns sooner and settles worse.
        critic_lr: FDEdge 1e-3, ours the same.
        alpha_lr: of the temperature's logarithm; FDEdge 3e-4, ours the same.
        alpha: first temperature; FDEdge .05, ours the same.
        target_entropy: FDEdge -1, ours the same: the temperature only falls.
        gamma: discount per task; FDEdge .95, ours the same.
        tau: share by which targets follow; FDEdge .005, ours the same.
        batch: K; FDEdge 64, ours the same.
        pool: transitions kept; FDEdge 10000, ours the same.
        pool_min: training starts above it; FDEdge 500, ours the same. One update per slot.
        next_state: "code" (as in LAD-TS) or "fixed", see `StationSlots`.
        state: "raw" (FDEdge) or "normal", see `state_scale`.
    """

    denoising_steps: int = 5
    hidden: int = 128
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    alpha_lr: float = 3e-4
    alpha: float = 0.05
    target_entropy: float = -1.0
    gamma: float = 0.95
    tau: float = 0.005
    batch: int = 64
    pool: int = 10_000
    pool_min: int = 500
    next_state: NextState = "code"
    state: StateKind = "raw"


class FdEdge:
    """All dispatching stations' agents; in FDEdge's own scenario one.

    Args:
        scenario: slotted; gives the sizes.
        config: the hyperparameters.
        seed: of networks, noise, decisions and batches.
    """

    name = "fdedge"

    def __init__(self, scenario: Scenario, config: FdEdgeConfig, *, seed: int) -> None:
        self.scenario, self.config = scenario, config
        self.scale = state_scale(scenario, config.state)
        self.generator = torch.Generator().manual_seed(seed)
        self.noise = NoiseSource(seed)
        self.agents, servers = agents(scenario), scenario.servers
        state = 2 + servers
        self.actor = NoiseStack(
            self.agents,
            actions=servers,
            state=state,
            hidden=config.hidden,
            steps=config.denoising_steps,
            softmax=True,
            generator=self.generator,
        )
        schedule = variance_preserving(config.denoising_steps)
        self.chain = CompiledActor(self.actor, schedule)
        sizes = [state, config.hidden, config.hidden, servers]
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
        self.memory = LatentMemory(scenario, "episode", self.generator)
        self.pool = ReplayStack(
            self.agents,
            config.pool,
            {
                "state": (state, torch.float32),
                "next_state": (state, torch.float32),
                "action": (1, torch.int64),
                "reward": (1, torch.float32),
                "latent": (1, torch.int64),
                "next_latent": (1, torch.int64),
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
            "memory": self.memory,
            "pool": self.pool,
            "generator": self.generator,
            "noise": self.noise,
        }

    def export(self) -> dict[str, Array]:
        """What `scheduler.policies.published_lad_ts` decides with."""
        return {
            "state_scale": self.scale.array(),
            "coefficients": self.chain.coefficients,
            "softmax": np.array(True),
            **{name: value.numpy() for name, value in self.actor.state_dict().items()},
        }

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
            server_N = self._decide(slot, self.memory, self.noise)
            placed = slots.place(server_N.numpy())
            delay_s_N[tasks] = placed.delay_s_N
            self.pool.add(
                slot.agent_N,
                slot.order_N,
                state=torch.from_numpy(slot.state_NS),
                next_state=torch.from_numpy(placed.following_NS),
                action=server_N,
                reward=torch.from_numpy(placed.reward_N),
                latent=self.memory.rows(slot),
                next_latent=self.memory.following_rows(slot),
            )
            if (self.pool.size_A > self.config.pool_min).any():
                learned.append(self._learn())
        names = ("critic_loss", "actor_loss", "entropy", "alpha")
        means = torch.stack(learned).mean(0).tolist() if learned else []
        return delay_s_N, dict(zip(names, means, strict=False))

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """Decides an episode without learning; what was learned stays as it is."""
        slots = StationSlots(episode, self.scale, next_state=self.config.next_state)
        noise = NoiseSource(int(rng.integers(2**63)))
        memory = self.memory.copy()
        server_N = np.empty(episode.tasks, np.int64)
        while (slot := slots.slot) is not None:
            tasks = slots.tasks
            server_N[tasks] = self._decide(slot, memory, noise).numpy()
            slots.place(server_N[tasks])
        return server_N

    def _decide(self, slot: StationSlot, memory: LatentMemory, noise: NoiseSource) -> Tensor:
        """Servers of a slot's tasks, (N,); their distributions become the memory's latents."""
        x0_ABM = self.chain.run(
            memory.table(slot)[None],
            torch.from_numpy(slot.state_ASM)[None],
            noise,
            count_A=np.bincount(slot.agent_N, minlength=self.agents),
        )[0]
        chance_NB = slot.rows(torch.softmax(x0_ABM, 1))
        memory.flat[memory.rows(slot)] = chance_NB
        return choice.best(chance_NB)

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
        # A transition refers to its place in the memory, as the code's arrays are views of it.
        place, next_place = self.pool.field("latent", rows), self.pool.field("next_latent", rows)
        latent = self.memory.flat.index_select(0, place.view(-1))
        next_latent = self.memory.flat.index_select(0, next_place.view(-1))
        # Both chains of an update at once: the actor stays the same between them.
        start_RABK = torch.stack([latent, next_latent]).view(2, *table).transpose(2, 3)
        state_RASK = torch.stack([state_ASK, next_state_ASK])
        x0_RABK = self.chain.run(start_RABK, state_RASK, self.noise, learn=True)
        alpha_A = self.log_alpha_A.exp()

        with torch.no_grad():  # target of the critics
            log_ABK = torch.log_softmax(x0_RABK[1], 1)
            chance_ABK = log_ABK.exp()
            value_ABK = self.targets(next_state_ASK).amin(1) - alpha_A[:, None, None] * log_ABK
            reward_AK = self.pool.field("reward", rows).view(self.agents, batch)
            target_AK = reward_AK + config.gamma * (chance_ABK * value_ABK).sum(1)
        action_A1K = self.pool.field("action", rows).view(self.agents, 1, 1, batch)
        chosen_AGK = self.critics(state_ASK).gather(2, action_A1K.expand(-1, 2, -1, -1))[:, :, 0]
        critic_loss_A = (chosen_AGK - target_AK[:, None]).square().mean(2).sum(1)
        self.critic_optimiser.zero_grad()
        (critic_loss_A @ ready_A).backward()
        self.critic_optimiser.step()

        with torch.no_grad():
            value_ABK = self.critics(state_ASK).amin(1)
        x0_ABK = x0_RABK[0].requires_grad_()
        log_ABK = torch.log_softmax(x0_ABK, 1)
        chance_ABK = log_ABK.exp()
        entropy_AK = -(chance_ABK * log_ABK).sum(1)
        loss_AK = -alpha_A[:, None] * entropy_AK - (chance_ABK * value_ABK).sum(1)
        actor_loss_A = loss_AK.mean(1)
        (actor_loss_A @ ready_A).backward()
        assert x0_ABK.grad is not None
        self.chain.backward(x0_ABK.grad)

        entropy_A = entropy_AK.detach().mean(1)
        self.log_alpha_A.grad = ready_A * alpha_A * (entropy_A - config.target_entropy)
        self.actor_optimiser.step()
        move_towards(self.targets, self.critics, config.tau)
        losses = (critic_loss_A.detach(), actor_loss_A.detach(), entropy_A, alpha_A)
        return torch.stack([loss_A @ ready_A for loss_A in losses]) / ready_A.sum()
