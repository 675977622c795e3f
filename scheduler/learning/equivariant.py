"""Networks over a set of servers: one output for each, whatever their number or order.

Owns the shared encoder, the denoising actor, the twin critics and how they become the arrays of
`scheduler.policies.lad_ts_policy.Actor`. Sets of different sizes share a batch by padding.

Tensors end in their dimensions: M samples, B servers (padded), F inputs, V server features,
C context features, H hidden units, I denoising steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scheduler.checkpoint import Array
from scheduler.learning.diffusion import Schedule
from scheduler.policies.lad_ts_features import (
    HOME,
    IDLE,
    INPUTS,
    LINK,
    LINK_MAX,
    OWN,
    SIZE,
    SPEED,
    WAIT_MAX,
    WAITS,
)

_BY_TIME = 1
_FAR = 1e9


def encoded(server_MBV: Tensor, context_MC: Tensor, present_MB: Tensor) -> Tensor:
    """`lad_ts_features.inputs` of a batch, (M, B, F); 0 where no server is."""
    wait_MBW = server_MBV[..., :WAITS]
    absent_MB1 = (1.0 - present_MB)[..., None] * _FAR
    more_MBW = (wait_MBW - (wait_MBW + absent_MB1).amin(1, keepdim=True)).clamp(min=0.0)
    fields = [
        more_MBW.clamp(max=WAIT_MAX) / 4.0,
        torch.log1p(more_MBW),
        torch.log1p(server_MBV[..., OWN : SIZE + 1]),
        server_MBV[..., SIZE : SIZE + 1].clamp(max=WAIT_MAX) / 4.0,
        server_MBV[..., SPEED : SPEED + 1],
        server_MBV[..., LINK : LINK + 1].clamp(max=LINK_MAX),
        server_MBV[..., HOME : HOME + 1],
        (server_MBV[..., :1] < IDLE).float(),
        context_MC[:, None].expand(-1, server_MBV.shape[1], -1),
    ]
    return torch.cat(fields, -1) * present_MB[..., None]


def expected_delay(server_MBV: Tensor) -> Tensor:
    """Delay on each server with others guessed by time, in mean services, (M, B)."""
    return server_MBV[..., _BY_TIME] + server_MBV[..., SIZE] + server_MBV[..., LINK]


class Encoder(nn.Module):
    """Two layers, each followed by a mean over the servers, and a last linear one.

    Args:
        hidden: H.
        generator: of the initial values, uniform within +-1/sqrt(inputs of the layer).
    """

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()

        def uniform(*shape: int, fan: int) -> nn.Parameter:
            values = torch.empty(shape).uniform_(-1.0, 1.0, generator=generator)
            return nn.Parameter(values / math.sqrt(fan))

        self.first_FH = uniform(INPUTS, hidden, fan=INPUTS)
        self.first_bias_H = nn.Parameter(torch.zeros(hidden))
        self.second_HH = uniform(hidden, hidden, fan=hidden)
        self.second_pool_HH = uniform(hidden, hidden, fan=hidden)
        self.second_bias_H = nn.Parameter(torch.zeros(hidden))
        self.third_HH = uniform(hidden, hidden, fan=2 * hidden)
        self.third_pool_HH = uniform(hidden, hidden, fan=2 * hidden)
        self.out_H = uniform(hidden, fan=hidden)
        # Outputs are nearly linear in the inputs; what is not is learned on top.
        self.skip_F = nn.Parameter(torch.zeros(INPUTS))
        self.bias = nn.Parameter(torch.zeros(1))

    def base(self, input_MBF: Tensor, present_MB: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden units before the last rectifier (M, B, H), and the linear part (M, B)."""
        here_MB1 = present_MB[..., None]
        count_M1 = present_MB.sum(1, keepdim=True).clamp(min=1.0)
        lit = torch.relu(input_MBF @ self.first_FH + self.first_bias_H) * here_MB1
        pooled_MH = lit.sum(1) / count_M1 @ self.second_pool_HH + self.second_bias_H
        lit = torch.relu(lit @ self.second_HH + pooled_MH[:, None]) * here_MB1
        pooled_MH = lit.sum(1) / count_M1 @ self.third_pool_HH
        return lit @ self.third_HH + pooled_MH[:, None], input_MBF @ self.skip_F + self.bias


class DenoisingActor(Encoder):
    """Latent action diffusion: predicts the noise in x_i.

    Args:
        hidden: H.
        steps: I.
        generator: of the initial values.
    """

    def __init__(self, hidden: int, steps: int, generator: torch.Generator) -> None:
        super().__init__(hidden, generator)
        self.step_IH = nn.Parameter(
            torch.empty(steps, hidden).uniform_(-0.5, 0.5, generator=generator)
        )
        self.latent_H = nn.Parameter(torch.empty(hidden).uniform_(-1.0, 1.0, generator=generator))

    def forward(
        self,
        input_MBF: Tensor,
        present_MB: Tensor,
        x_MB: Tensor,
        schedule: Schedule,
        generator: torch.Generator,
    ) -> Tensor:
        """Log softmax(x_0), (M, B); far below 0 where no server is."""
        base_MBH, skip_MB = self.base(input_MBF, present_MB)
        for step in reversed(range(schedule.steps)):
            lit = torch.relu(base_MBH + x_MB[..., None] * self.latent_H + self.step_IH[step])
            eps_MB = lit @ self.out_H + skip_MB
            x_MB = float(schedule.keep_I[step]) * x_MB - float(schedule.take_I[step]) * eps_MB
            if schedule.spread_I[step] > 0.0:
                noise = torch.empty_like(x_MB).normal_(generator=generator)
                x_MB = x_MB + float(schedule.spread_I[step]) * noise
        return torch.log_softmax(x_MB.masked_fill(present_MB == 0.0, -_FAR), 1)

    def export(self) -> dict[str, Array]:
        """As `scheduler.policies.lad_ts_policy.Actor` reads them."""
        return {name: value.numpy().copy() for name, value in self.state_dict().items()}


class TwinCritic(nn.Module):
    """Two estimates of what a decision costs: the expected delay, and what it leaves out.

    Args:
        hidden: H.
        generator: of the initial values.
    """

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first, self.second = Encoder(hidden, generator), Encoder(hidden, generator)
        for encoder in (self.first, self.second):
            # So that at first the expected delay stands alone.
            nn.init.zeros_(encoder.out_H)

    def forward(
        self, server_MBV: Tensor, input_MBF: Tensor, present_MB: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Minus the cost of each server in mean services, twice, (M, B)."""
        known_MB = expected_delay(server_MBV)
        values = []
        for encoder in (self.first, self.second):
            base_MBH, skip_MB = encoder.base(input_MBF, present_MB)
            values.append(torch.relu(base_MBH) @ encoder.out_H + skip_MB - known_MB)
        return values[0], values[1]
