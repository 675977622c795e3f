"""The picture of a latent, decoded once more in float32 where that is needed.

Owns the decoder's arithmetic. Which decoder it is, is the denoiser's choice.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from PIL import Image as PillowImage

from edge_node.errors import NotFinite
from edge_node.worker import torch_device

# Memory for a decoder in float32 and its work, in sizes of its weights.
FLOAT32_ROOM = 4


class Decoder:
    """Decodes with an SD3 model's VAE, or with what stands in for it.

    Args:
        module: a diffusers AutoencoderKL or AutoencoderTiny.
        device, dtype: of its weights and of the latents.
    """

    def __init__(self, module: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        self._module = module
        self._device = device
        self._dtype = dtype

    def picture(self, latent_CHW: torch.Tensor) -> PillowImage.Image:
        """The picture of a finished latent.

        Raises:
            NotFinite: latent or pixels are no numbers; such a picture would be black.
        """
        if not bool(torch.isfinite(latent_CHW).all()):
            raise NotFinite(f"The latent drawn in {self._dtype} is not finite.")
        decoded_1CHW = self._decoded(self._module, latent_CHW)
        if not bool(torch.isfinite(decoded_1CHW).all()) and self._has_room_for_float32():
            module = copy.deepcopy(self._module).float()
            decoded_1CHW = self._decoded(module, latent_CHW.float())
        if not bool(torch.isfinite(decoded_1CHW).all()):
            raise NotFinite(f"The image decoded in {self._dtype} is not finite.")
        pixels_HWC = (decoded_1CHW[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).float().cpu()
        bytes_HWC = (pixels_HWC * 255).round().to(torch.uint8).contiguous()
        height_px, width_px, _ = bytes_HWC.shape
        return PillowImage.frombytes("RGB", (width_px, height_px), bytes_HWC.numpy().tobytes())

    def _decoded(self, module: Any, latent_CHW: torch.Tensor) -> torch.Tensor:
        config = self._module.config
        latent_1CHW = latent_CHW[None] / config.scaling_factor + config.shift_factor
        decoded: torch.Tensor = module.decode(latent_1CHW, return_dict=False)[0]
        return decoded

    def _has_room_for_float32(self) -> bool:
        """For a copy of the decoder, and what it computes with."""
        if self._dtype in (torch.float32, torch.float64):
            return False  # it would be the same again
        weights = 4 * sum(weight.numel() for weight in self._module.parameters())
        return bool(torch_device.available_bytes(self._device)() > FLOAT32_ROOM * weights)
