"""Latents as bytes and back: what leaves a denoiser, and the checks of what comes in.

Owns the order of numbers, which is little-endian as on every device that is served. No model lives
here.
"""

from __future__ import annotations

import math

import torch

from edge_node.checkpoint import CheckpointRefused, Latents


def to_latents(
    latent_CHW: torch.Tensor, velocity_CHW: torch.Tensor | None = None, *, change: float = math.inf
) -> Latents | None:
    """Copies of both in the memory of the host; None where a number is not finite."""
    tensors = [latent_CHW] if velocity_CHW is None else [latent_CHW, velocity_CHW]
    hosted = torch.stack(tensors).cpu()
    if not bool(torch.isfinite(hosted).all()):
        return None
    content = [one.contiguous().view(torch.uint8).numpy().tobytes() for one in hosted]
    return Latents(
        dtype=str(hosted.dtype).removeprefix("torch."),
        shape_CHW=tuple(latent_CHW.shape),
        latent=content[0],
        velocity=b"" if velocity_CHW is None else content[1],
        change=change,
    )


def to_tensors(
    latents: Latents, *, shape_CHW: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Latent and velocity for a model that draws in `dtype` and `shape_CHW`.

    Raises:
        CheckpointRefused: they are another model's, or not finite.
    """
    wrong = latents.what_is_wrong()
    if wrong:
        raise CheckpointRefused(wrong)
    served = str(dtype).removeprefix("torch.")
    if (latents.dtype, latents.shape_CHW) != (served, shape_CHW):
        raise CheckpointRefused(
            f"it has {latents.dtype} of {latents.shape_CHW} where {served} of {shape_CHW} is drawn"
        )
    tensors = [
        torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape_CHW)
        for content in (latents.latent, latents.velocity)
        if content
    ]
    if not all(bool(torch.isfinite(one).all()) for one in tensors):
        raise CheckpointRefused("it has numbers that are not finite")
    moved = [one.to(device) for one in tensors]
    return moved[0], moved[1] if len(moved) > 1 else None
