"""A stack of agents is that many separate PyTorch networks, and starts as they do."""

from __future__ import annotations

import math

import torch
from torch import nn

from scheduler.learning.networks import (
    LinearStack,
    LstmStack,
    MlpStack,
    NoiseStack,
    move_towards,
    step_embedding,
)

AGENTS, STATE, HIDDEN, ACTIONS, SAMPLES, STEPS = 3, 6, 5, 4, 7, 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def separate(layer: LinearStack, agent: int) -> nn.Linear:
    """The agent's layer as a module of its own."""
    outputs, inputs = layer.weight_AOI.shape[1:]
    single = nn.Linear(inputs, outputs)
    with torch.no_grad():
        single.weight.copy_(layer.weight_AOI[agent])
        single.bias.copy_(layer.bias_AO1[agent, :, 0])
    return single


def test_a_stack_equals_separate_modules_in_values_and_gradients() -> None:
    stack = MlpStack(AGENTS, [STATE, HIDDEN, HIDDEN, ACTIONS], generator(), copies=2)
    x_ASM = torch.randn(AGENTS, STATE, SAMPLES, generator=generator(1))
    weight_AGBM = torch.randn(AGENTS, 2, ACTIONS, SAMPLES, generator=generator(2))
    out_AGBM = stack(x_ASM)
    (out_AGBM * weight_AGBM).sum().backward()
    for agent in range(AGENTS):
        for copy in range(2):
            row = agent * 2 + copy
            layers = [separate(layer, row) for layer in stack.layers]
            network = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
            out_MB = network(x_ASM[agent].T)
            torch.testing.assert_close(out_AGBM[agent, copy], out_MB.T)
            (out_MB.T * weight_AGBM[agent, copy]).sum().backward()
            for stacked, single in zip(stack.layers, layers, strict=True):
                torch.testing.assert_close(stacked.weight_AOI.grad[row], single.weight.grad)
                torch.testing.assert_close(stacked.bias_AO1.grad[row, :, 0], single.bias.grad)


def test_agents_do_not_touch_each_other() -> None:
    stack = MlpStack(AGENTS, [STATE, HIDDEN, ACTIONS], generator())
    x_ASM = torch.randn(AGENTS, STATE, SAMPLES, generator=generator(1))
    stack(x_ASM)[1].sum().backward()
    grad = stack.layers[0].weight_AOI.grad
    assert grad[1].abs().sum() > 0
    assert grad[0].abs().sum() == grad[2].abs().sum() == 0


def test_a_layer_starts_as_pytorch_starts_one() -> None:
    # nn.Linear: weights and bias uniform within 1/sqrt(inputs), so of variance 1 / (3 inputs).
    layer = LinearStack(400, 16, 25, generator())
    for tensor in (layer.weight_AOI.detach(), layer.bias_AO1.detach()):
        assert tensor.abs().max() <= 1 / math.sqrt(16)
        assert abs(float(tensor.var()) * 3 * 16 - 1) < 0.03
    torch.manual_seed(0)
    theirs = torch.cat([nn.Linear(16, 25).weight.detach().flatten() for _ in range(400)])
    assert abs(float(theirs.var() / layer.weight_AOI.detach().var()) - 1) < 0.03


def test_the_noise_prediction_reads_action_step_and_state_in_this_order() -> None:
    for softmax in (True, False):
        network = NoiseStack(
            AGENTS,
            actions=ACTIONS,
            state=STATE,
            hidden=HIDDEN,
            steps=STEPS,
            softmax=softmax,
            generator=generator(),
        )
        x_ABM = torch.randn(AGENTS, ACTIONS, SAMPLES, generator=generator(1))
        state_ASM = torch.randn(AGENTS, STATE, SAMPLES, generator=generator(2))
        eps_ABM = network(x_ABM, network.condition(state_ASM), 3)
        for agent in range(AGENTS):
            layers = [
                separate(layer, agent) for layer in (network.first, network.second, network.third)
            ]
            single = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
            step_ME = step_embedding(STEPS)[3].expand(SAMPLES, -1)
            out_MB = single(torch.cat([x_ABM[agent].T, step_ME, state_ASM[agent].T], dim=1))
            wanted_MB = out_MB.softmax(1) if softmax else out_MB
            torch.testing.assert_close(eps_ABM[agent], wanted_MB.T)


def test_the_step_embedding_has_sines_then_cosines() -> None:
    embedding_IE = step_embedding(5, 16)
    assert embedding_IE.shape == (5, 16)
    torch.testing.assert_close(embedding_IE[0], torch.tensor([0.0] * 8 + [1.0] * 8))
    # Frequencies fall from 1 to 1/10000 in seven equal ratios.
    assert math.isclose(float(embedding_IE[3, 0]), math.sin(3.0), rel_tol=1e-5)
    assert math.isclose(float(embedding_IE[3, 15]), math.cos(3e-4), rel_tol=1e-5)


def test_a_stacked_lstm_equals_separate_ones() -> None:
    stack = LstmStack(AGENTS, STATE, HIDDEN, generator())
    x_LASM = torch.randn(4, AGENTS, STATE, SAMPLES, generator=generator(1))
    out_AHM = stack(x_LASM)
    for agent in range(AGENTS):
        single = nn.LSTM(STATE, HIDDEN)
        with torch.no_grad():
            single.weight_ih_l0.copy_(stack.input_AGI[agent])
            single.weight_hh_l0.copy_(stack.hidden_AGH[agent])
            single.bias_ih_l0.copy_(stack.bias_AG1[agent, :, 0])
            single.bias_hh_l0.zero_()
        out_LMH, _ = single(x_LASM[:, agent].transpose(1, 2))
        torch.testing.assert_close(out_AHM[agent], out_LMH[-1].T)


def test_targets_move_by_their_share_and_all_the_way() -> None:
    target = MlpStack(AGENTS, [STATE, ACTIONS], generator(0))
    source = MlpStack(AGENTS, [STATE, ACTIONS], generator(1))
    before, goal = target.layers[0].weight_AOI.clone(), source.layers[0].weight_AOI
    move_towards(target, source, 0.25)
    torch.testing.assert_close(target.layers[0].weight_AOI, 0.75 * before + 0.25 * goal)
    move_towards(target, source, 1.0)
    assert torch.equal(target.layers[0].weight_AOI, goal)
