"""What a latent will look like, by a linear map: a preview that costs next to nothing.

Each latent cell of a VAE mostly holds the mean colour of the pixels it stands for, so red, green
and blue are close to linear in its channels. Owns fitting that map to the VAE at hand, by least
squares on made-up pictures, and applying it. It loads nothing and knows no schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image as PillowImage
from torch.nn import functional

FIT_PICTURES = 12
FIT_CELLS_PER_SIDE = 16


@dataclass(frozen=True, kw_only=True)
class LatentPreview:
    """weight_C3 and bias_3 map a latent's channels to colours from -1 to 1."""

    weight_C3: torch.Tensor
    bias_3: torch.Tensor

    def colours(self, latent_CHW: torch.Tensor) -> torch.Tensor:
        """Colours of all cells, (H, W, 3)."""
        return torch.einsum("chw,cr->hwr", latent_CHW.float(), self.weight_C3) + self.bias_3

    def picture(self, latent_CHW: torch.Tensor, *, scale_px: int) -> PillowImage.Image:
        """Preview of the whole size, `scale_px` pixels for each cell, smoothed."""
        bytes_HW3 = ((self.colours(latent_CHW) + 1) * 127.5).round().clamp(0, 255).byte().cpu()
        height, width, _ = bytes_HW3.shape
        small = PillowImage.frombytes("RGB", (width, height), bytes_HW3.numpy().tobytes())
        return small.resize((width * scale_px, height * scale_px), PillowImage.Resampling.BILINEAR)


def fitted(
    encode: Callable[[torch.Tensor], torch.Tensor],
    *,
    scale_px: int,
    device: torch.device,
    dtype: torch.dtype,
) -> LatentPreview:
    """The map that is best in the mean square over made-up pictures.

    Args:
        encode: pictures from -1 to 1, (B, 3, H, W), to latents as the transformer sees them.
        scale_px: pixels of a latent cell's side.
        device: to encode and to apply the map on.
        dtype: that `encode` takes.
    """
    pictures_B3HW = made_up_pictures(FIT_PICTURES, side_px=FIT_CELLS_PER_SIDE * scale_px)
    latents = [encode(one[None].to(device, dtype))[0] for one in pictures_B3HW]
    latent_NC = torch.stack(latents).float().permute(0, 2, 3, 1).flatten(0, 2).cpu()
    colour_N3 = functional.avg_pool2d(pictures_B3HW, scale_px).permute(0, 2, 3, 1).flatten(0, 2)
    design_NC = torch.cat([latent_NC, torch.ones(len(latent_NC), 1)], dim=1).double()
    # Ridge, because some channels hardly vary; small beside the number of cells.
    gram_CC = design_NC.T @ design_NC + 1e-3 * torch.eye(design_NC.shape[1]).double()
    solution_C3 = torch.linalg.solve(gram_CC, design_NC.T @ colour_N3.double()).float()
    return LatentPreview(weight_C3=solution_C3[:-1].to(device), bias_3=solution_C3[-1].to(device))


def made_up_pictures(count: int, *, side_px: int) -> torch.Tensor:
    """Soft gradients with a hard-edged rectangle and a disc each, (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(20260101)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    coarse_B3HW = uniform(count, 3, 4, 4) * 2 - 1
    pictures_B3HW = functional.interpolate(coarse_B3HW, size=(side_px, side_px), mode="bilinear")
    axis = (torch.arange(side_px) + 0.5) / side_px
    for picture_3HW in pictures_B3HW:
        left, top, wide, high = (float(value) for value in uniform(4))
        inside_W = (axis > left) & (axis < left + 0.2 + wide / 2)
        inside_H = (axis > top) & (axis < top + 0.2 + high / 2)
        rectangle_HW = inside_H[:, None] & inside_W[None]
        picture_3HW[:, rectangle_HW] = uniform(3, 1) * 2 - 1
        x, y, radius = (float(value) for value in uniform(3))
        distance_HW = ((axis[:, None] - y) ** 2 + (axis[None] - x) ** 2).sqrt()
        picture_3HW[:, distance_HW < 0.1 + radius / math.pi] = uniform(3, 1) * 2 - 1
    return pictures_B3HW
