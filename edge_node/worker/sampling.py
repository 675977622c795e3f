"""Rectified-flow sampling of one row: sigmas, noise, guidance and the Euler step.

Pure functions of tensors. They follow diffusers' FlowMatchEulerDiscreteScheduler and
StableDiffusion3Pipeline to the bit, but keep no step index, so rows at different steps can share a
transformer call. No model and no cache lives here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

# Fields of a scheduler's config that change its sigmas and that this module does not follow.
_UNSUPPORTED = (
    "use_dynamic_shifting",
    "shift_terminal",
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)


@dataclass(frozen=True, kw_only=True)
class FlowSchedule:
    """Noise levels of `steps` denoising steps.

    Attributes:
        sigma_S: float32, steps + 1 levels from sigma_max down to 0.
        timestep_S: float32, what the transformer is told at each step.
    """

    sigma_S: torch.Tensor
    timestep_S: torch.Tensor

    @property
    def steps(self) -> int:
        """Number of denoising steps."""
        return len(self.timestep_S)


def unsupported_settings(scheduler_config: Mapping[str, object]) -> list[str]:
    """Settings of the scheduler that would make its sigmas differ from ours."""
    return [name for name in _UNSUPPORTED if scheduler_config.get(name)]


def flow_schedule(scheduler_config: Mapping[str, object], *, steps: int) -> FlowSchedule:
    """Sigmas and timesteps as diffusers computes them.

    diffusers applies the shift twice: in the scheduler's constructor, which gives the ends of the
    range, and again in `set_timesteps` to all levels between them. Models are tuned to that.
    """
    timesteps_trained = int(str(scheduler_config.get("num_train_timesteps", 1000)))
    shift = float(str(scheduler_config.get("shift", 1.0)))
    trained = torch.linspace(1, timesteps_trained, timesteps_trained).flip(0) / timesteps_trained
    shifted = shift * trained / (1 + (shift - 1) * trained)
    ends = (shifted[0].item() * timesteps_trained, shifted[-1].item() * timesteps_trained)
    levels = np.linspace(ends[0], ends[1], steps) / timesteps_trained
    levels = shift * levels / (1 + (shift - 1) * levels)
    sigma_S = torch.from_numpy(levels).to(torch.float32)
    return FlowSchedule(
        sigma_S=torch.cat([sigma_S, torch.zeros(1)]), timestep_S=sigma_S * timesteps_trained
    )


def noise_generator(seed: int) -> torch.Generator:
    """A row's own source of noise, on the CPU: a seed means the same picture on every device."""
    return torch.Generator(device="cpu").manual_seed(seed)


def noise(
    shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """The next normal draws of a row's generator."""
    return torch.randn(shape, generator=generator, device="cpu", dtype=dtype)


def noised(
    clean: torch.Tensor, noise: torch.Tensor, *, schedule: FlowSchedule, step: int
) -> torch.Tensor:
    """A clean latent with the noise that it would have before `step` (image-to-image)."""
    sigma = schedule.sigma_S[step].to(clean.dtype).to(clean.device)
    return sigma * noise + (1.0 - sigma) * clean


def guided(
    unconditional: torch.Tensor, conditional: torch.Tensor, *, guidance_scale: float
) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6, in diffusers' form)."""
    return unconditional + guidance_scale * (conditional - unconditional)


def euler_step(
    latent: torch.Tensor, velocity: torch.Tensor, *, schedule: FlowSchedule, step: int
) -> torch.Tensor:
    """Latent after denoising step `step`, counted from 0.

    differs: a float64 latent stays float64, because rounding it to float32 between steps, as
    diffusers does, would hide whether two ways of computing agree.
    """
    sigma_step = schedule.sigma_S[step + 1] - schedule.sigma_S[step]
    return (_at_least_float32(latent) + sigma_step * velocity).to(velocity.dtype)


def clean_estimate(
    latent: torch.Tensor, velocity: torch.Tensor, *, schedule: FlowSchedule, step: int
) -> torch.Tensor:
    """What the latent would be without its noise, as seen from before `step`: x0 = x - sigma v."""
    estimate = _at_least_float32(latent) - schedule.sigma_S[step] * velocity
    return estimate.to(velocity.dtype)


def _at_least_float32(latent: torch.Tensor) -> torch.Tensor:
    return latent if latent.dtype == torch.float64 else latent.to(torch.float32)
