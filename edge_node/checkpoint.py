"""A drawing between two steps, as it travels from one device to another.

Owns what it is made of and what it may not be. It knows no tensors: a denoiser makes them of bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Bytes of a number by the name of its type; numbers are little-endian.
NUMBER_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
# Of one tensor: 1536x1536 pixels in float64 are 4.5 MiB of SD3's latent.
TENSOR_BYTES_MAX = 8 * 2**20
SIDES = 3
# What other nodes may send: twice what SD3's sixteen channels of float64 are.
LATENT_BYTES_PER_PX_MAX = 4


class CheckpointRefused(Exception):
    """A drawing cannot go on from it here, and is drawn from its beginning; says why."""


@dataclass(frozen=True, kw_only=True)
class Latents:
    """What a denoiser keeps of a row between two steps, but for what its request says.

    Attributes:
        dtype: of the numbers; a key of `NUMBER_BYTES`.
        shape_CHW: channels, rows and columns of each tensor.
        latent: numbers of the latent, row by row.
        velocity: of the last step that was computed; empty where no later step looks at it.
        change: relative difference of the last two velocities; infinite when unknown.
    """

    dtype: str
    shape_CHW: tuple[int, ...]
    latent: bytes
    velocity: bytes = b""
    change: float = math.inf

    @property
    def size_bytes(self) -> int:
        """That it takes in memory and on a link, about."""
        return len(self.latent) + len(self.velocity)

    def what_is_wrong(self) -> str:
        """Why these cannot be latents; empty if they can."""
        number_bytes = NUMBER_BYTES.get(self.dtype)
        if number_bytes is None:
            return f"its numbers are {self.dtype!r:.40}"
        if len(self.shape_CHW) != SIDES or min(self.shape_CHW) < 1:
            return f"its shape is {self.shape_CHW!r:.40}"
        expected = number_bytes * math.prod(self.shape_CHW)
        if expected > TENSOR_BYTES_MAX:
            return f"it has {expected} bytes, not at most {TENSOR_BYTES_MAX}"
        if len(self.latent) != expected or len(self.velocity) not in (0, expected):
            sizes = f"{len(self.latent)} and {len(self.velocity)}"
            return f"it has {sizes} bytes where its shape has {expected}"
        if not self.change >= 0.0:
            return f"its change is {self.change}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A drawing after so many of its steps.

    Attributes:
        drawing_sha256: of the drawing that it belongs to, `Drawing.sha256`.
        fingerprint: of the model as it was served where the steps were done.
        step: denoising steps done; at least 1, and at least one is left.
        latents: where it stands.
    """

    drawing_sha256: str
    fingerprint: str
    step: int
    latents: Latents

    @property
    def size_bytes(self) -> int:
        """That it takes in memory and on a link, about."""
        return self.latents.size_bytes

    def what_is_wrong(self, *, drawing_sha256: str, steps: int) -> str:
        """Why a drawing of so many denoising steps cannot go on from it; empty if it can."""
        if self.drawing_sha256 != drawing_sha256:
            return "it is of another drawing"
        if not 1 <= self.step < steps:
            return f"it is after step {self.step} of {steps}"
        return self.latents.what_is_wrong()


def share_done(step: int, *, steps: int) -> float:
    """Share of a drawing's work that is done after `step` of its `steps`.

    The rest is the decoding, which comes after the last step and counts as one.
    """
    return step / (steps + 1)
