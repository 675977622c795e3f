"""Networks of all agents side by side: A small perceptrons as one batched matrix product.

Owns their shapes, their initialisation (PyTorch's for `nn.Linear`, for each agent by itself) and
the embedding of the denoising step. Nothing passes between agents, so one backward pass through a
sum over agents gives each of them exactly its own gradient.

Tensors end in their dimensions, features before samples: A agents, I inputs, O outputs, M samples
of each agent, G networks of one agent (critics) or gates. With the samples last, bias, ReLU and
softmax over the features run along contiguous samples, which is worth a third of the time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn


class LinearStack(nn.Module):
    """A linear layer for every agent: y_AOM = W_AOI x_AIM + b_AO1.

    Args:
        agents: A.
        inputs: I.
        outputs: O.
        generator: of the initial values, uniform within +-1/sqrt(I) as `nn.Linear` has them.
    """

    def __init__(self, agents: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        self.weight_AOI = nn.Parameter(
            torch.empty(agents, outputs, inputs).uniform_(-bound, bound, generator=generator)
        )
        self.bias_AO1 = nn.Parameter(
            torch.empty(agents, outputs, 1).uniform_(-bound, bound, generator=generator)
        )

    def forward(self, x_AIM: Tensor) -> Tensor:
        """Applies each agent's layer to its own samples, (A, O, M)."""
        return torch.baddbmm(self.bias_AO1, self.weight_AOI, x_AIM)


class MlpStack(nn.Module):
    """Perceptrons with ReLU between the layers; the last layer is linear.

    Args:
        agents: A.
        sizes: features of the input, of each hidden layer and of the output.
        copies: G networks for every agent that read the same input (double critics).
        generator: of the initial values.
    """

    def __init__(
        self, agents: int, sizes: Sequence[int], generator: torch.Generator, *, copies: int = 1
    ) -> None:
        super().__init__()
        self.copies = copies
        self.layers = nn.ModuleList(
            LinearStack(agents * copies, inputs, outputs, generator)
            for inputs, outputs in itertools.pairwise(sizes)
        )

    def forward(self, x_AIM: Tensor) -> Tensor:
        """Outputs of each agent's networks, (A, G, O, M)."""
        agents, _, samples = x_AIM.shape
        first, *others = cast(Iterable[LinearStack], self.layers)
        # The copies read the same input: their first layers are one wide layer.
        weight_AFI = first.weight_AOI.view(agents, -1, x_AIM.shape[1])
        x = torch.baddbmm(first.bias_AO1.view(agents, -1, 1), weight_AFI, x_AIM)
        x = x.view(agents * self.copies, -1, samples)
        for layer in others:
            x = layer(torch.relu(x))
        return x.view(agents, self.copies, -1, samples)


class LstmStack(nn.Module):
    """A long short-term memory for every agent, as `nn.LSTM` with one layer (its gates' order too).

    Args:
        agents: A.
        inputs: I.
        hidden: H, also the bound of the initial values, 1/sqrt(H).
        generator: of the initial values.
    """

    def __init__(self, agents: int, inputs: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(hidden)
        self.input_AGI, self.hidden_AGH, self.bias_AG1 = (
            nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))
            for shape in (
                (agents, 4 * hidden, inputs),
                (agents, 4 * hidden, hidden),
                (agents, 4 * hidden, 1),
            )
        )

    def forward(self, x_LAIM: Tensor) -> Tensor:
        """What is remembered after the last of L inputs, (A, H, M)."""
        hidden = self.hidden_AGH.shape[2]
        h_AHM = x_LAIM.new_zeros(x_LAIM.shape[1], hidden, x_LAIM.shape[3])
        cell_AHM = h_AHM
        for x_AIM in x_LAIM:
            gate_AGM = torch.baddbmm(self.bias_AG1, self.input_AGI, x_AIM)
            gate_AGM = torch.baddbmm(gate_AGM, self.hidden_AGH, h_AHM)
            take, keep, new, show = gate_AGM.split(hidden, dim=1)  # type: ignore[no-untyped-call]
            cell_AHM = keep.sigmoid() * cell_AHM + take.sigmoid() * new.tanh()
            h_AHM = show.sigmoid() * cell_AHM.tanh()
        return h_AHM


class NoiseStack(nn.Module):
    """Each agent's noise prediction eps(x_i, i, s): two hidden layers on [x_i, step, state].

    The first layer is applied in three parts, for the state's part is the same at every step of a
    denoising chain.

    Args:
        agents: A.
        actions: B, length of x.
        state: S, length of the state.
        hidden: features of both hidden layers.
        steps: I, denoising steps.
        softmax: whether the prediction is a softmax (the authors' code) or free (their paper).
        generator: of the initial values.
    """

    embedding_IE: Tensor

    def __init__(
        self,
        agents: int,
        *,
        actions: int,
        state: int,
        hidden: int,
        steps: int,
        softmax: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.softmax = softmax
        self.actions = actions
        self.register_buffer("embedding_IE", step_embedding(steps))
        features = self.embedding_IE.shape[1]
        self.first = LinearStack(agents, actions + features + state, hidden, generator)
        self.second = LinearStack(agents, hidden, hidden, generator)
        self.third = LinearStack(agents, hidden, actions, generator)

    def condition(self, state_ASM: Tensor) -> tuple[Tensor, Tensor]:
        """What of the first layer does not depend on x: the state's part (A, H, M), the steps'."""
        features = self.embedding_IE.shape[1]
        weight_AHE = self.first.weight_AOI[:, :, self.actions : self.actions + features]
        weight_AHS = self.first.weight_AOI[:, :, self.actions + features :]
        state_AHM = torch.bmm(weight_AHS, state_ASM)
        step_AHI = torch.matmul(weight_AHE, self.embedding_IE.T) + self.first.bias_AO1
        return state_AHM, step_AHI

    def forward(self, x_ABM: Tensor, condition: tuple[Tensor, Tensor], step: int) -> Tensor:
        """Predicted noise at `step` (0 is the last to be taken off), (A, B, M)."""
        state_AHM, step_AHI = condition
        weight_AHB = self.first.weight_AOI[:, :, : self.actions]
        h_AHM = torch.baddbmm(state_AHM, weight_AHB, x_ABM) + step_AHI[:, :, step : step + 1]
        eps_ABM = self.third(torch.relu(self.second(torch.relu(h_AHM))))
        return torch.softmax(eps_ABM, 1) if self.softmax else eps_ABM


def step_embedding(steps: int, features: int = 16) -> Tensor:
    """Sinusoidal embedding of the step indices 0..I-1, (I, E): sines, then cosines."""
    half = features // 2
    frequency_F = torch.exp(torch.arange(half) * (-math.log(10_000.0) / (half - 1)))
    angle_IF = torch.arange(steps)[:, None] * frequency_F
    return torch.cat([angle_IF.sin(), angle_IF.cos()], dim=1)


@torch.no_grad()
def move_towards(target: nn.Module, source: nn.Module, share: float) -> None:
    """Moves the target's parameters by `share` of the way to the source's (soft update)."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), share)
