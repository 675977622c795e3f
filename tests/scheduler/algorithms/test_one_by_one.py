"""An update of all agents at once is the update of each by itself, as the published code does it.

The other side is `benchmarks.unbatched_agents`: modules, optimisers and losses of one agent in
plain torch. Both start from the same weights and see the same batches; the denoising noise is off.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.unbatched_agents import BATCH, SoftAgent, ValueAgent
from scheduler.algorithms.dqn import Dqn
from scheduler.algorithms.published_lad_ts import PublishedLadTs
from scheduler.algorithms.sac import Sac
from scheduler.learning import learners
from scheduler.learning.diffusion import variance_preserving
from scheduler.learning.networks import LinearStack
from scheduler.simulator.scenario import Scenario

SCENARIO = Scenario(name="tiny", servers=3, tasks_per_slot_max=4, slots=4)
AGENTS = SERVERS = 3
STATE = 5
UPDATES = 3


def linears(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def give(network: nn.Module, layers: list[LinearStack], row: int) -> None:
    """Sets one agent's module to its row of the stack."""
    with torch.no_grad():
        for single, stacked in zip(linears(network), layers, strict=True):
            single.weight.copy_(stacked.weight_AOI[row])
            single.bias.copy_(stacked.bias_AO1[row, :, 0])


def check_same(network: nn.Module, layers: list[LinearStack], row: int) -> None:
    for single, stacked in zip(linears(network), layers, strict=True):
        torch.testing.assert_close(single.weight, stacked.weight_AOI[row], rtol=1e-4, atol=2e-6)
        torch.testing.assert_close(single.bias, stacked.bias_AO1[row, :, 0], rtol=1e-4, atol=2e-6)


def transitions() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = AGENTS * BATCH
    return {
        "state": torch.rand((rows, STATE), generator=generator) * 5,
        "next_state": torch.rand((rows, STATE), generator=generator) * 5,
        "action": torch.randint(SERVERS, (rows,), generator=generator),
        "reward": -torch.rand(rows, generator=generator) * 10,
        "latent": torch.randn((rows, SERVERS), generator=generator),
        "next_latent": torch.randn((rows, SERVERS), generator=generator),
    }


def batch_of(fields: dict[str, Tensor], agent: int) -> list[Tensor]:
    own = slice(agent * BATCH, (agent + 1) * BATCH)
    names = ("state", "action", "reward", "next_state", "latent", "next_latent")
    return [fields[name][own] for name in names]


def filled(name: str, **options: str) -> tuple[PublishedLadTs | Sac | Dqn, dict[str, Tensor]]:
    """A learner whose every batch is the same: all that its pools hold, in order."""
    options |= {"pool": str(BATCH), "pool_min": "1", "batch": str(BATCH)}
    learner = learners.create(name, SCENARIO, options, seed=3)
    assert isinstance(learner, PublishedLadTs | Sac | Dqn)
    fields = transitions()
    stored = (
        fields
        if name == "lad_ts_published"
        else {k: v for k, v in fields.items() if "latent" not in k}
    )
    agent_N = np.repeat(np.arange(AGENTS), BATCH)
    learner.pool.add(agent_N, np.tile(np.arange(BATCH), AGENTS), **stored)
    learner.pool.sample = lambda batch, generator: torch.arange(AGENTS * batch)  # type: ignore[method-assign]
    return learner, fields


@pytest.mark.parametrize("name", ["lad_ts_published", "sac"])
def test_soft_actor_critics(name: str) -> None:
    diffusion = name == "lad_ts_published"
    options = {"pool_latents": "copied", "noise": "none"} if diffusion else {}
    learner, fields = filled(name, **options)
    assert isinstance(learner, PublishedLadTs | Sac)
    actor = (
        [learner.actor.first, learner.actor.second, learner.actor.third]
        if isinstance(learner, PublishedLadTs)
        else list(learner.actor.layers)
    )
    critics, targets = list(learner.critics.layers), list(learner.targets.layers)
    singles = [SoftAgent(STATE, SERVERS, diffusion=diffusion) for _ in range(AGENTS)]
    for agent, single in enumerate(singles):
        if diffusion:
            single.actor.schedule = variance_preserving(5, noise="none")
        give(single.actor, actor, agent)
        for copy in range(2):
            give(single.critics[copy], critics, agent * 2 + copy)
            give(single.targets[copy], critics, agent * 2 + copy)
    for _ in range(UPDATES):
        learner.learn() if isinstance(learner, PublishedLadTs) else learner._learn()
        for agent, single in enumerate(singles):
            single.learn(batch_of(fields, agent))
    for agent, single in enumerate(singles):
        check_same(single.actor, actor, agent)
        for copy in range(2):
            check_same(single.critics[copy], critics, agent * 2 + copy)
            check_same(single.targets[copy], targets, agent * 2 + copy)
        torch.testing.assert_close(single.log_alpha.detach(), learner.log_alpha_A[agent])


def test_q_learning() -> None:
    learner, fields = filled("dqn")
    assert isinstance(learner, Dqn)
    layers = list(learner.network.layers)
    singles = [ValueAgent(STATE, SERVERS) for _ in range(AGENTS)]
    for agent, single in enumerate(singles):
        give(single.network, layers, agent)
    for _ in range(UPDATES):
        learner._learn()
        for agent, single in enumerate(singles):
            single.learn(batch_of(fields, agent))
    for agent, single in enumerate(singles):
        check_same(single.network, layers, agent)
        check_same(single.target, list(learner.target.layers), agent)
