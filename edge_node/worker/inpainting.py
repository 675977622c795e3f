"""The part of a picture that a mask keeps, while the rest is drawn anew.

Pure functions of tensors and of a PNG's alpha channel, in which a mask travels with its init image:
opaque is kept. They follow diffusers' StableDiffusion3InpaintPipeline for models without channels
of their own for masks: after each step what is kept is put back, with the noise that it would have
then.

differs: a mask is averaged over each latent's pixels, where diffusers takes one pixel of them, so
that an edge which goes through them is soft, as is one that its maker has feathered.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional
from PIL import Image as PillowImage

from edge_node.worker import sampling


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptPart:
    """What stays of an init image.

    Attributes:
        share_1HW: of each place of the latent, from 0, drawn anew, to 1, kept.
        clean_CHW: latent of the init image.
        noise_CHW: the drawing's first noise.
    """

    share_1HW: torch.Tensor
    clean_CHW: torch.Tensor
    noise_CHW: torch.Tensor

    def put_back(
        self, latent_CHW: torch.Tensor, *, schedule: sampling.FlowSchedule, step: int
    ) -> torch.Tensor:
        """The latent before `step`, with what is kept as it would be then."""
        then_CHW = sampling.noised(self.clean_CHW, self.noise_CHW, schedule=schedule, step=step)
        return self.share_1HW * then_CHW + (1.0 - self.share_1HW) * latent_CHW


def kept_share(init_image: bytes, *, scale_px: int) -> torch.Tensor:
    """How much of each place of the latent is kept, (1, H, W); all where there is no alpha."""
    with PillowImage.open(io.BytesIO(init_image)) as picture:
        alpha_HW = np.asarray(picture.convert("RGBA").getchannel("A"), dtype=np.float32) / 255.0
    return torch.nn.functional.avg_pool2d(torch.from_numpy(alpha_HW)[None], scale_px)
