"""One drawing of SD3 between two of its steps.

Owns its update with a velocity. Who computes that, and for how many rows at once, is the
denoiser's business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from edge_node.worker import sampling
from edge_node.worker.inpainting import KeptPart
from edge_node.worker.variants import Variant


@dataclass(kw_only=True, eq=False)
class Sd3Row:
    """One drawing between two steps.

    Attributes:
        prompts: (negative and) positive prompt; two when guided, in the pipeline's order.
        chunks: pieces as which each of them is encoded.
        schedule: noise levels of this row's own number of steps.
        guidance_scale: used when there are two prompts.
        latent_CHW: changes with every step.
        clean_CHW: estimate of the final latent; equals it after the last step.
        step: index of the next step; begins above 0 when there is an init image.
        velocity_CHW: of the last step that was computed.
        change: relative difference of the last two velocities; infinite when unknown.
        kept: what a mask keeps of the init image.
        variant: the weights that draw it.
    """

    prompts: tuple[str, ...]
    chunks: int
    schedule: sampling.FlowSchedule
    guidance_scale: float
    latent_CHW: torch.Tensor
    clean_CHW: torch.Tensor
    variant: Variant
    step: int = 0
    velocity_CHW: torch.Tensor | None = None
    change: float = math.inf
    kept: KeptPart | None = None

    def take(self, velocity_CHW: torch.Tensor, *, compare: bool) -> None:
        """Takes in what was computed for the next step.

        Args:
            velocity_CHW: with guidance.
            compare: whether a later step looks at `change`.
        """
        if compare:
            self.change = _relative_change(self.velocity_CHW, velocity_CHW)
        self.velocity_CHW = velocity_CHW

    def advance(self) -> None:
        """One step on, with the velocity that it has."""
        assert self.velocity_CHW is not None
        self.clean_CHW = sampling.clean_estimate(
            self.latent_CHW, self.velocity_CHW, schedule=self.schedule, step=self.step
        )
        self.latent_CHW = sampling.euler_step(
            self.latent_CHW, self.velocity_CHW, schedule=self.schedule, step=self.step
        )
        self.step += 1
        if self.kept is not None:
            steps = self.schedule.steps
            self.clean_CHW = self.kept.put_back(self.clean_CHW, schedule=self.schedule, step=steps)
            self.latent_CHW = self.kept.put_back(
                self.latent_CHW, schedule=self.schedule, step=self.step
            )


def _relative_change(before_CHW: torch.Tensor | None, after_CHW: torch.Tensor) -> float:
    if before_CHW is None:
        return math.inf
    change = (after_CHW - before_CHW).float().abs().mean() / after_CHW.float().abs().mean()
    return float(change)
