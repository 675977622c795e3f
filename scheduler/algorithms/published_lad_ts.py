"""LAD-TS: soft actor-critic whose actor denoises what it chose last time (paper section V).

Every station has an agent of its own: a diffusion actor, two critics and their targets, a
temperature and an experience pool. All agents decide and learn side by side in stacked tensors;
nothing passes between them. The defaults are the authors' code (github.com/ChangfuXu/DEdgeAI),
for that is what produced the paper's figures; each departure from it is an option of the config and
a row of docs/paper.md.

Tensors end in their dimensions: A agents, B servers, S features of a state, M tasks of an agent
in a slot (as many columns as the busiest agent has), N tasks of a slot together, K samples of a
batch, R chains run at once.
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
from scheduler.learning.compiled_actor import CompiledActor
from scheduler.learning.diffusion import Noise, Start, variance_preserving
from scheduler.learning.latent_memory import LatentMemory, Period
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
    reward,
    state_scale,
)
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import Episode

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class PublishedLadTsConfig:
    """Hyperparameters; each with the paper's value (Table IV), ours, and the effect of raising it.

    Attributes:
        denoising_steps: I; paper 5, ours 5. More steps multiply the cost of a decision and the
            factor between x_I and the logits (12.5 for 5 steps).
        hidden: of actor and critics, two layers; paper 20, ours 20. Larger learns faster per
            episode and costs more per decision.
        actor_lr: paper 1e-4, ours the same. Higher learns sooner and settles worse.
        critic_lr: paper 1e-3, ours the same.
        alpha_lr: of the temperature's logarithm; paper 3e-4, ours the same.
        alpha: first temperature; paper .05, ours the same. Higher keeps decisions more random.
        target_entropy: H~; paper -1, ours the same. In the code's rule any target below the
            policy's entropy lets alpha fall for ever; a positive one holds the entropy there.
        temperature: "code": the loss (H - H~) alpha; "paper": eq. (16), (-H - H~) alpha.
        squared: the actor's loss squared, as eq. (15) is printed; the code does not.
        gamma: discount per task; paper .95, ours the same.
        tau: share by which targets follow; paper .005, ours the same.
        batch: K; paper 64, ours the same.
        pool: transitions kept of each agent; paper 1000, ours the same.
        pool_min: training starts above it; paper 300, ours the same.
        noise: of a denoising step, "posterior" (code), "paper" (eq. 10) or "none".
        start: x_I from the "latent" memory (both), or "gaussian", or "zero".
        softmax: whether the predicted noise is a softmax (code) or free (paper).
        memory: the latent is that of the same slot an "episode" ago (code) or of the previous
            "slot" (paper).
        keeps: what of x_0 the memory keeps for x_I: its "softmax" (code), or x_0 itself, "raw"
            (paper; docs/paper.md, "stored action"). Raw it leaves the range of numbers: a chain
            multiplies x_I by 12.5.
        update: once a "slot" (code), or after each "task" (paper, Algorithm 1; docs/paper.md,
            "update"), see `_by_task`.
        pool_latents: "shared": a transition refers to its place in the memory and so is learned
            with what is there at the time, as the code's arrays are views of it; "copied": it
            keeps the x_I that was decided with. Measured: no difference in the delay.
        next_state: "code" or "fixed", see `StationSlots`.
        state: "raw" (both), or "normal": divided by constants of the scenario, with which the gap
            to Opt-TS after 60 episodes falls from some 15 to 2.5 %.
        evaluation: "sample" (code) or "argmax" (eq. 8) when decisions are only evaluated.
    """

    denoising_steps: int = 5
    hidden: int = 20
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    alpha_lr: float = 3e-4
    alpha: float = 0.05
    target_entropy: float = -1.0
    temperature: Literal["code", "paper"] = "code"
    squared: bool = False
    gamma: float = 0.95
    tau: float = 0.005
    batch: int = 64
    pool: int = 1000
    pool_min: int = 300
    noise: Noise = "posterior"
    start: Start = "latent"
    softmax: bool = True
    memory: Period = "episode"
    keeps: Literal["softmax", "raw"] = "softmax"
    update: Literal["slot", "task"] = "slot"
    pool_latents: Literal["shared", "copied"] = "shared"
    next_state: NextState = "code"
    state: StateKind = "raw"
    evaluation: Literal["sample", "argmax"] = "sample"


class PublishedLadTs:
    """All stations' LAD-TS agents.

    Args:
        scenario: slotted; gives the sizes.
        config: the hyperparameters.
        seed: of networks, noise, decisions and batches.
    """

    name = "lad_ts_published"

    def __init__(self, scenario: Scenario, config: PublishedLadTsConfig, *, seed: int) -> None:
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
            softmax=config.softmax,
            generator=self.generator,
        )
        schedule = variance_preserving(config.denoising_steps, noise=config.noise)
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
        self.memory = LatentMemory(scenario, config.memory, self.generator)
        copied = config.pool_latents == "copied"
        latent = (servers, torch.float32) if copied else (1, torch.int64)
        self.pool = ReplayStack(
            self.agents,
            config.pool,
            {
                "state": (state, torch.float32),
                "next_state": (state, torch.float32),
                "action": (1, torch.int64),
                "reward": (1, torch.float32),
                "latent": latent,
                "next_latent": latent,
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
            "softmax": np.array(self.config.softmax),
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
            rows, following = self.memory.rows(slot), self.memory.following_rows(slot)
            latents = (rows, following)
            if self.config.pool_latents == "copied":
                latents = (self.memory.flat[rows], self.memory.flat[following])
            if self.config.update == "task":
                delay_s_N[tasks] = self._by_task(slots, slot, latents, learned)
                continue
            server_N = self._decide(slot, self.memory, self.noise, self.generator)
            placed = slots.place(server_N.numpy())
            delay_s_N[tasks] = placed.delay_s_N
            self.pool.add(
                slot.agent_N,
                slot.order_N,
                state=torch.from_numpy(slot.state_NS),
                next_state=torch.from_numpy(placed.following_NS),
                action=server_N,
                reward=torch.from_numpy(placed.reward_N),
                latent=latents[0],
                next_latent=latents[1],
            )
            if (self.pool.size_A > self.config.pool_min).any():
                learned.append(self.learn())
        names = ("critic_loss", "actor_loss", "entropy", "alpha")
        means = torch.stack(learned).mean(0).tolist() if learned else []
        return delay_s_N, dict(zip(names, means, strict=False))

    def _by_task(
        self,
        slots: StationSlots,
        slot: StationSlot,
        latents: tuple[Tensor, Tensor],
        learned: list[Tensor],
    ) -> FloatArray:
        """Decides and learns from a slot task by task; the delays, seconds, (N,).

        All stations' first tasks are decided, served and learned from, then all second ones, as
        stations act side by side in the paper. A station's last task is learned from once the next
        slot has shown the state that follows it.
        """
        server_N = torch.empty(len(slot.agent_N), dtype=torch.int64)
        following_NS = np.empty_like(slot.state_NS)
        following_NS[:-1] = slot.state_NS[1:]
        delay_s_N = np.empty(len(slot.agent_N))

        def learn_from(row_M: IntArray) -> None:
            agent_M, rows = slot.agent_N[row_M], torch.from_numpy(row_M)
            self.pool.add(
                agent_M,
                np.zeros_like(agent_M),
                state=torch.from_numpy(slot.state_NS[row_M]),
                next_state=torch.from_numpy(following_NS[row_M]),
                action=server_N[rows],
                reward=torch.from_numpy(reward(delay_s_N[row_M])),
                latent=latents[0][rows],
                next_latent=latents[1][rows],
            )
            learning_A = np.bincount(agent_M, minlength=self.agents) > 0
            if (learning_A & (self.pool.size_A > self.config.pool_min)).any():
                learned.append(self.learn(learning_A))

        for turn in range(int(slot.order_N.max()) + 1):
            row_M = np.flatnonzero(slot.order_N == turn)
            placed_M = self._decide(slot, self.memory, self.noise, self.generator, turn=turn)
            server_N[torch.from_numpy(row_M)] = placed_M
            delay_s_N[row_M] = slots.serve(row_M, placed_M.numpy())
            if len(going_on_M := row_M[~slot.last_N[row_M]]):
                learn_from(going_on_M)
        following_NS = slots.end_slot()
        learn_from(np.flatnonzero(slot.last_N))
        return delay_s_N

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """Decides an episode without learning; what was learned stays as it is."""
        slots = StationSlots(episode, self.scale, next_state=self.config.next_state)
        noise = NoiseSource(int(rng.integers(2**63)))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        memory = self.memory.copy()
        server_N = np.empty(episode.tasks, np.int64)
        while (slot := slots.slot) is not None:
            tasks = slots.tasks
            greedy = self.config.evaluation == "argmax"
            server_N[tasks] = self._decide(slot, memory, noise, generator, greedy=greedy).numpy()
            slots.place(server_N[tasks])
        return server_N

    def _decide(
        self,
        slot: StationSlot,
        memory: LatentMemory,
        noise: NoiseSource,
        generator: torch.Generator,
        *,
        greedy: bool = False,
        turn: int | None = None,
    ) -> Tensor:
        """Servers of a slot's tasks, (N,); what they denoised to becomes the memory's latents.

        With `turn`, of every station's task of that index only.
        """
        columns = slice(None) if turn is None else slice(turn, turn + 1)
        row_N = slice(None) if turn is None else np.flatnonzero(slot.order_N == turn)
        agent_N = slot.agent_N[row_N]
        start_ABM = self._start(memory.table(slot)[:, :, columns], noise)
        x0_ABM = self.chain.run(
            start_ABM[None],
            torch.from_numpy(slot.state_ASM)[None, :, :, columns],
            noise,
            count_A=np.bincount(agent_N, minlength=self.agents),
        )[0]
        column_N = torch.from_numpy(slot.order_N[row_N] - (turn or 0))
        x0_NB = x0_ABM.transpose(1, 2)[torch.from_numpy(agent_N), column_N]
        chance_NB = torch.softmax(x0_NB, 1)
        kept_NB = chance_NB if self.config.keeps == "softmax" else x0_NB
        memory.flat[memory.rows(slot)[row_N]] = kept_NB
        return choice.best(chance_NB) if greedy else choice.drawn(chance_NB, generator)

    def _start(self, latent: Tensor, noise: NoiseSource) -> Tensor:
        if self.config.start == "gaussian":
            return noise.normal(*latent.shape)
        return torch.zeros(latent.shape) if self.config.start == "zero" else latent

    # Learning.

    def learn(self, learning_A: BoolArray | None = None) -> Tensor:
        """One update of every agent whose pool is full enough; returns means of its losses.

        Losses are those of critics and actor, the entropy and the temperature. Where `learning_A`
        says no, an agent stays as it is.

        differs: Adam counts steps for all agents together, so an agent whose pool fills some
        slots later takes somewhat smaller first steps (docs/paper.md, "agents' counters").
        """
        config, batch = self.config, self.config.batch
        learns_A = self.pool.size_A > config.pool_min
        held: list[tuple[Tensor, Tensor, Tensor]] = []
        if learning_A is not None:
            learns_A &= learning_A
            held = self._kept_rows(~learning_A)
        ready_A = torch.from_numpy(learns_A.astype(np.float32))
        rows = self.pool.sample(batch, self.generator)
        table = (self.agents, batch, -1)
        state_ASK = self.pool.field("state", rows).view(table).transpose(1, 2)
        next_state_ASK = self.pool.field("next_state", rows).view(table).transpose(1, 2)
        latent, next_latent = self.pool.field("latent", rows), self.pool.field("next_latent", rows)
        if config.pool_latents == "shared":
            latent = self.memory.flat.index_select(0, latent.view(-1))
            next_latent = self.memory.flat.index_select(0, next_latent.view(-1))
        # Both chains of an update at once: the actor stays the same between them.
        start_RABK = torch.stack([latent, next_latent]).view(2, *table).transpose(2, 3)
        state_RASK = torch.stack([state_ASK, next_state_ASK])
        x0_RABK = self.chain.run(
            self._start(start_RABK, self.noise), state_RASK, self.noise, learn=True
        )
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
        actor_loss_A = (loss_AK.square() if config.squared else loss_AK).mean(1)
        (actor_loss_A @ ready_A).backward()
        assert x0_ABK.grad is not None
        self.chain.backward(x0_ABK.grad)

        entropy_A = entropy_AK.detach().mean(1)
        surplus_A = entropy_A if config.temperature == "code" else -entropy_A
        self.log_alpha_A.grad = ready_A * alpha_A * (surplus_A - config.target_entropy)
        self.actor_optimiser.step()
        move_towards(self.targets, self.critics, config.tau)
        for tensor, held_rows, before in held:
            tensor[held_rows] = before
        losses = (critic_loss_A.detach(), actor_loss_A.detach(), entropy_A, alpha_A)
        return torch.stack([loss_A @ ready_A for loss_A in losses]) / ready_A.sum()

    def _kept_rows(self, held_A: BoolArray) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Every tensor that an update changes, agent by agent; rows to hold, and their values.

        Adam moves a parameter without a gradient along its former ones.
        """
        changing = [parameter.data for parameter in self.targets.parameters()]
        for optimiser in (self.actor_optimiser, self.critic_optimiser):
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    moments = optimiser.state[parameter]
                    changing.append(parameter.data)
                    changing += [moments[key] for key in ("exp_avg", "exp_avg_sq") if moments]
        rows = torch.from_numpy(np.flatnonzero(held_A))
        tables = [tensor.view(self.agents, -1) for tensor in changing]
        return [(table, rows, table[rows]) for table in tables]
