"""The denoising chain: its schedule and one pass through it.

Owns the arithmetic from beta to x_0; knows nothing of networks, agents or losses, and loads no
torch. One step is x_{i-1} = keep_i x_i - take_i eps(x_i, i, s) + spread_i z with z ~ N(0, 1), which
is the DDPM posterior mean of the x_0 that eps implies (paper eqs. 8-10; Ho et al., arXiv
2006.11239, eq. 7).
Arrays end in their dimension: I denoising steps; index 0 is the step that is taken last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.float64]
Noise = Literal["posterior", "paper", "none"]
Start = Literal["latent", "gaussian", "zero"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Coefficients of every denoising step.

    Attributes:
        recover_x_I, recover_eps_I: x_0 = recover_x x_i - recover_eps eps.
        mean_x0_I, mean_x_I: mean of x_{i-1} = mean_x0 x_0 + mean_x x_i.
        spread_I: factor of the noise z; 0 in the last step.
    """

    recover_x_I: FloatArray
    recover_eps_I: FloatArray
    mean_x0_I: FloatArray
    mean_x_I: FloatArray
    spread_I: FloatArray

    @property
    def steps(self) -> int:
        """I, the number of denoising steps."""
        return len(self.spread_I)

    @property
    def noisy_steps(self) -> int:
        """How many steps add noise."""
        return int(np.count_nonzero(self.spread_I))

    @cached_property
    def keep_I(self) -> FloatArray:
        """Factor of x_i in one whole step."""
        return self.mean_x0_I * self.recover_x_I + self.mean_x_I

    @cached_property
    def take_I(self) -> FloatArray:
        """Factor of eps in one whole step."""
        return self.mean_x0_I * self.recover_eps_I

    def composite(self) -> tuple[float, float, float]:
        """The chain with one and the same eps: x_0 = a x_I - b eps + N(0, c^2); returns a, b, c."""
        a, b, variance = 1.0, 0.0, 0.0
        for step in reversed(range(self.steps)):
            a *= self.keep_I[step]
            b = b * self.keep_I[step] + self.take_I[step]
            variance = variance * self.keep_I[step] ** 2 + self.spread_I[step] ** 2
        return a, b, float(np.sqrt(variance))


def variance_preserving(
    steps: int, *, beta_min: float = 0.1, beta_max: float = 10.0, noise: Noise = "posterior"
) -> Schedule:
    """The "vp" schedule (Xiao et al., arXiv 2112.07804) that the paper takes from Diffusion-QL.

    Args:
        steps: I.
        beta_min: where the continuous schedule begins; the paper's .1.
        beta_max: where it ends; the paper's 10.
        noise: "posterior": z times the posterior's standard deviation sqrt(beta~) (the authors'
            code); "paper": times beta~ / 2, as eq. (10) is printed; "none": deterministic.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1")
    i = np.arange(1, steps + 1)
    alpha_I = np.exp(-beta_min / steps - (beta_max - beta_min) * (2 * i - 1) / (2 * steps**2))
    product_I = np.cumprod(alpha_I)
    before_I = np.concatenate([[1.0], product_I[:-1]])
    variance_I = (1.0 - alpha_I) * (1.0 - before_I) / (1.0 - product_I)
    factors = {"posterior": np.sqrt(variance_I), "paper": variance_I / 2, "none": 0 * variance_I}
    return Schedule(
        recover_x_I=1.0 / np.sqrt(product_I),
        recover_eps_I=np.sqrt(1.0 / product_I - 1.0),
        mean_x0_I=(1.0 - alpha_I) * np.sqrt(before_I) / (1.0 - product_I),
        mean_x_I=(1.0 - before_I) * np.sqrt(alpha_I) / (1.0 - product_I),
        spread_I=factors[noise],
    )


def denoise(
    start: Tensor,
    predict: Callable[[Tensor, int], Tensor],
    schedule: Schedule,
    z_Z: Tensor,
    *,
    clamp: float | None = None,
) -> Tensor:
    """Runs the chain from x_I to x_0; shapes are the caller's and stay.

    Args:
        start: x_I.
        predict: the noise in x_i at step i.
        schedule: the coefficients.
        z_Z: standard normal noise shaped like the start, for each of the schedule's noisy steps in
            the order in which they are taken.
        clamp: bound of the recovered x_0 in every step; None leaves it free, as LAD-TS does.
    """
    x, taken = start, 0
    for step in reversed(range(schedule.steps)):
        recovered = float(schedule.recover_x_I[step]) * x
        recovered = recovered - float(schedule.recover_eps_I[step]) * predict(x, step)
        if clamp is not None:
            recovered = recovered.clamp(-clamp, clamp)
        x = float(schedule.mean_x0_I[step]) * recovered + float(schedule.mean_x_I[step]) * x
        if schedule.spread_I[step] > 0.0:
            x = x + float(schedule.spread_I[step]) * z_Z[taken]
            taken += 1
    return x
