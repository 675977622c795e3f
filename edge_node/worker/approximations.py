"""What an operator may trade for speed: each changes the pictures, all are off by default.

Owns the choices, their bounds and their names, which go into every image's metadata and into the
model's fingerprint: a cluster does not mix nodes that draw differently. It applies nothing and
imports no torch.
"""

from __future__ import annotations

import hashlib
import pathlib
from dataclasses import dataclass

from edge_node.domain import ModelFingerprint

# A step may be skipped only between two that were computed, and never among the first and last.
CACHE_EDGE_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Approximations:
    """Lossy choices of an operator.

    Attributes:
        taesd3: folder of a diffusers AutoencoderTiny for SD3 (TAESD3) that decodes in the VAE's
            place; None for the model's own VAE. Previews and init images keep the VAE's encoder.
        int8_weights: the transformer's linear weights in int8, by torchao.
        guidance_interval: guide only while the noise level sigma is within (low, high];
            Kynkäänniemi et al. 2024, arXiv 2404.07724. Outside of it a step costs one row.
        step_cache: reuse a row's last velocity for one step when the two before it differed by
            less than this share of their size.
    """

    taesd3: pathlib.Path | None = None
    int8_weights: bool = False
    guidance_interval: tuple[float, float] | None = None
    step_cache: float | None = None

    def __post_init__(self) -> None:
        """Refuses values that cannot be meant."""
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if not 0.0 <= low < high <= 1.0:
                raise ValueError(
                    f"guidance_interval is {low},{high}: give two noise levels with "
                    "0 <= low < high <= 1"
                )
        if self.step_cache is not None and not 0.0 < self.step_cache < 1.0:
            raise ValueError(f"step_cache is {self.step_cache}: give a share between 0 and 1")

    @property
    def names(self) -> tuple[str, ...]:
        """What is in use, for metadata; empty when pictures are exact."""
        names = []
        if self.taesd3 is not None:
            names.append("taesd3")
        if self.int8_weights:
            names.append("int8_weights")
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            names.append(f"guidance_interval={low:g}..{high:g}")
        if self.step_cache is not None:
            names.append(f"step_cache={self.step_cache:g}")
        return tuple(names)

    def guides(self, sigma: float) -> bool:
        """Whether a step from noise level `sigma` is guided."""
        if self.guidance_interval is None:
            return True
        low, high = self.guidance_interval
        return low < sigma <= high


def served_fingerprint(
    weights: ModelFingerprint,
    *,
    context_mode: str,
    approximations: Approximations,
    long_prompts: str = "cut",
) -> ModelFingerprint:
    """Fingerprint of what is drawn: of the weights, and of all that changes their pictures."""
    parts = [weights, context_mode, *approximations.names]
    if long_prompts != "cut":
        parts.append(f"long_prompts={long_prompts}")
    if approximations.taesd3 is not None:
        decoder_path = approximations.taesd3 / "diffusion_pytorch_model.safetensors"
        parts.append(hashlib.sha256(decoder_path.read_bytes()).hexdigest())
    return ModelFingerprint(hashlib.sha256("\0".join(parts).encode()).hexdigest())
