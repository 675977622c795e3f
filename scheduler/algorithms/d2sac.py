"""D2SAC: deep diffusion soft actor-critic (Du et al., arXiv 2303.13052; code Lizonghang/AGOD).

The paper compares with it, but its repository has none, so this is D2SAC as its own paper and code
have it: the noise prediction is a Mish perceptron that ends in tanh, with an embedding of the step
that is learned; chains start from Gaussian noise and their x_0 is clamped; actor and critics have
targets; returns run over three steps; the temperature is fixed. Every station has an agent of its
own, as in LAD-TS, and the sizes are LAD-TS's (Table IV) so that the two can be compared.

Tensors end in their dimensions: A agents, B servers, S features of a state, H hidden features,
E features and I number of the denoising steps, M samples of an agent, N tasks of a slot together,
K samples of a batch, G critics of an agent, L transitions of a return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scheduler.checkpoint import Array
from scheduler.learning import choice
from scheduler.learning.diffusion import denoise, variance_preserving
from scheduler.learning.networks import LinearStack, move_towards, step_embedding
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
class D2SacConfig:
    """Hyperparameters; each with the value of D2SAC's own code, ours, and the effect of raising it.

    Attributes:
        denoising_steps: own 5, ours 5. More steps cost as many passes through the actor.
        hidden: of actor and critics, two layers; own 256, ours 20 as LAD-TS has. Larger learns
            faster per episode and costs more per decision.
        actor_lr: own 1e-4, ours the same.
        critic_lr: own 1e-3, ours the same.
        weight_decay: of both; own 1e-4, ours the same. Higher keeps decisions more alike.
        alpha: weight of the entropy; own .05, ours the same.
        clamp: bound of the recovered x_0; 1, as the paper has it (in the code the clamp exists and
            is off). The chances of two servers then differ by a factor of e^2 at most.
        gamma: discount per task; own .95, ours the same.
        tau: share by which targets follow; own .005, ours the same.
        returns: L, transitions whose rewards are summed; own 3, ours the same.
        batch: K; own 512, ours 64 as LAD-TS has.
        pool: transitions kept of each agent; own 1000000 for one agent, ours 1000 as LAD-TS has.
        pool_min: training starts above it; ours 300 as LAD-TS has.
        next_state: "fixed" or "code", see `StationSlots`.
        state: "raw" or "normal", see `state_scale`.
        evaluation: "argmax" (own) or "sample" when decisions are only evaluated.
    """

    denoising_steps: int = 5
    hidden: int = 20
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    weight_decay: float = 1e-4
    alpha: float = 0.05
    clamp: float = 1.0
    gamma: float = 0.95
    tau: float = 0.005
    returns: int = 3
    batch: int = 64
    pool: int = 1000
    pool_min: int = 300
    next_state: NextState = "fixed"
    state: StateKind = "raw"
    evaluation: Literal["sample", "argmax"] = "argmax"


class MishStack(nn.Module):
    """Each agent's perceptron with Mish between its layers, (A, I, M) to (A, O, M)."""

    def __init__(
        self, agents: int, sizes: tuple[int, int, int, int], generator: torch.Generator
    ) -> None:
        super().__init__()
        first, second, third, last = sizes
        self.first = LinearStack(agents, first, second, generator)
        self.second = LinearStack(agents, second, third, generator)
        self.third = LinearStack(agents, third, last, generator)

    def forward(self, x_AIM: Tensor) -> Tensor:
        """Applies each agent's network to its own samples."""
        mish = nn.functional.mish
        out_AOM: Tensor = self.third(mish(self.second(mish(self.first(x_AIM)))))
        return out_AOM


class DiffusionActor(nn.Module):
    """Each agent's noise prediction on [x_i, step, state], with a learned embedding of the step."""

    embedding_EI: Tensor

    def __init__(self, agents: int, config: D2SacConfig, servers: int, g: torch.Generator) -> None:
        super().__init__()
        embedding_IE = step_embedding(config.denoising_steps)
        features, state = embedding_IE.shape[1], 2 + servers
        self.register_buffer("embedding_EI", embedding_IE.T.contiguous())
        self.widen = LinearStack(agents, features, 2 * features, g)
        self.narrow = LinearStack(agents, 2 * features, features, g)
        sizes = (servers + features + state, config.hidden, config.hidden, servers)
        self.network = MishStack(agents, sizes, g)

    def steps(self) -> Tensor:
        """Embeddings of all steps, (A, E, I)."""
        embedding_AEI = self.embedding_EI.expand(len(self.widen.weight_AOI), -1, -1)
        steps_AEI: Tensor = self.narrow(nn.functional.mish(self.widen(embedding_AEI)))
        return steps_AEI

    def forward(self, x_ABM: Tensor, step_AE1: Tensor, state_ASM: Tensor) -> Tensor:
        """Predicted noise, (A, B, M), within +-1."""
        step_AEM = step_AE1.expand(-1, -1, x_ABM.shape[2])
        eps_ABM: Tensor = self.network(torch.cat([x_ABM, step_AEM, state_ASM], dim=1)).tanh()
        return eps_ABM


class DoubleCritic(nn.Module):
    """Each agent's two Mish critics."""

    def __init__(self, agents: int, sizes: tuple[int, int, int, int], g: torch.Generator) -> None:
        super().__init__()
        self.first = MishStack(agents, sizes, g)
        self.second = MishStack(agents, sizes, g)

    def forward(self, state_ASM: Tensor) -> Tensor:
        """Values of every server, (A, G, B, M)."""
        return torch.stack([self.first(state_ASM), self.second(state_ASM)], dim=1)


class D2Sac:
    """All stations' D2SAC agents.

    Args:
        scenario: slotted; gives the sizes.
        config: the hyperparameters.
        seed: of networks, noise, decisions and batches.
    """

    name = "d2sac"

    def __init__(self, scenario: Scenario, config: D2SacConfig, *, seed: int) -> None:
        self.scenario, self.config = scenario, config
        self.scale = state_scale(scenario, config.state)
        self.schedule = variance_preserving(config.denoising_steps)
        self.generator = torch.Generator().manual_seed(seed)
        self.noise = NoiseSource(seed)
        self.agents, servers = agents(scenario), scenario.servers
        state = 2 + servers
        self.actor = DiffusionActor(self.agents, config, servers, self.generator)
        self.target_actor = DiffusionActor(self.agents, config, servers, self.generator)
        sizes = (state, config.hidden, config.hidden, servers)
        self.critics = DoubleCritic(self.agents, sizes, self.generator)
        self.target_critics = DoubleCritic(self.agents, sizes, self.generator)
        for target, source in (
            (self.target_actor, self.actor),
            (self.target_critics, self.critics),
        ):
            target.load_state_dict(source.state_dict())
            target.requires_grad_(False)
        decay = config.weight_decay
        self.actor_optimiser = torch.optim.Adam(
            self.actor.parameters(), lr=config.actor_lr, weight_decay=decay, fused=True
        )
        self.critic_optimiser = torch.optim.Adam(
            self.critics.parameters(), lr=config.critic_lr, weight_decay=decay, fused=True
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
            "target_actor": self.target_actor,
            "critics": self.critics,
            "target_critics": self.target_critics,
            "actor_optimiser": self.actor_optimiser,
            "critic_optimiser": self.critic_optimiser,
            "pool": self.pool,
            "generator": self.generator,
            "noise": self.noise,
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
            server_N = self._decide(slot, self.noise, self.generator)
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
        names = ("critic_loss", "actor_loss", "entropy")
        means = torch.stack(learned).mean(0).tolist() if learned else []
        return delay_s_N, dict(zip(names, means, strict=False))

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """Decides an episode without learning."""
        slots = StationSlots(episode, self.scale, next_state=self.config.next_state)
        noise = NoiseSource(int(rng.integers(2**63)))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        greedy = self.config.evaluation == "argmax"
        server_N = np.empty(episode.tasks, np.int64)
        while (slot := slots.slot) is not None:
            tasks = slots.tasks
            server_N[tasks] = self._decide(slot, noise, generator, greedy=greedy).numpy()
            slots.place(server_N[tasks])
        return server_N

    @torch.no_grad()
    def _decide(
        self,
        slot: StationSlot,
        noise: NoiseSource,
        generator: torch.Generator,
        *,
        greedy: bool = False,
    ) -> Tensor:
        x0_ABM = self._chain(self.actor, torch.from_numpy(slot.state_ASM), noise)
        chance_NB = slot.rows(torch.softmax(x0_ABM, 1))
        return choice.best(chance_NB) if greedy else choice.drawn(chance_NB, generator)

    def _chain(self, actor: DiffusionActor, state_ASM: Tensor, noise: NoiseSource) -> Tensor:
        """x_0 of every sample, from Gaussian noise, (A, B, M)."""
        shape = (self.agents, self.scenario.servers, state_ASM.shape[2])
        steps_AEI = actor.steps()
        return denoise(
            noise.normal(*shape),
            lambda x_ABM, step: actor(x_ABM, steps_AEI[:, :, step : step + 1], state_ASM),
            self.schedule,
            noise.normal(self.schedule.noisy_steps, *shape),
            clamp=self.config.clamp,
        )

    # Learning.

    def _learn(self) -> Tensor:
        """One update of every agent whose pool is full enough; returns means of its losses.

        differs: Adam counts steps for all agents together, so an agent whose pool fills some
        slots later takes somewhat smaller first steps (docs/paper.md, "agents' counters").
        """
        config, batch = self.config, self.config.batch
        ready_A = torch.from_numpy((self.pool.size_A > config.pool_min).astype(np.float32))
        rows_XL = self.pool.sample_runs(batch, config.returns, self.generator)
        rows = rows_XL[:, 0]
        table = (self.agents, batch, -1)
        state_ASK = self.pool.field("state", rows).view(table).transpose(1, 2)
        later_state_ASK = self.pool.field("next_state", rows_XL[:, -1]).view(table).transpose(1, 2)

        with torch.no_grad():  # target of the critics
            chance_ABK = torch.softmax(
                self._chain(self.target_actor, later_state_ASK, self.noise), 1
            )
            value_ABK = self.target_critics(later_state_ASK).amin(1)
            reward_AKL = self.pool.field("reward", rows_XL).view(self.agents, batch, -1)
            discount_L = config.gamma ** torch.arange(config.returns)
            target_AK = (reward_AKL * discount_L).sum(2)
            target_AK += config.gamma**config.returns * (chance_ABK * value_ABK).sum(1)
        action_A1K = self.pool.field("action", rows).view(self.agents, 1, 1, batch)
        chosen_AGK = self.critics(state_ASK).gather(2, action_A1K.expand(-1, 2, -1, -1))[:, :, 0]
        critic_loss_A = (chosen_AGK - target_AK[:, None]).square().mean(2).sum(1)
        self.critic_optimiser.zero_grad()
        (critic_loss_A @ ready_A).backward()
        self.critic_optimiser.step()

        with torch.no_grad():
            value_ABK = self.critics(state_ASK).amin(1)
        log_ABK = torch.log_softmax(self._chain(self.actor, state_ASK, self.noise), 1)
        chance_ABK = log_ABK.exp()
        entropy_A = -(chance_ABK * log_ABK).sum(1).mean(1)
        actor_loss_A = -config.alpha * entropy_A - (chance_ABK * value_ABK).sum(1).mean(1)
        self.actor_optimiser.zero_grad()
        (actor_loss_A @ ready_A).backward()
        self.actor_optimiser.step()

        move_towards(self.target_actor, self.actor, config.tau)
        move_towards(self.target_critics, self.critics, config.tau)
        losses = (critic_loss_A.detach(), actor_loss_A.detach(), entropy_A.detach())
        return torch.stack([loss_A @ ready_A for loss_A in losses]) / ready_A.sum()
