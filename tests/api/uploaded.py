"""Small images to upload."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decoded(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.copy()


def halves(width_px: int = 96, height_px: int = 64) -> Image.Image:
    """Left red, right blue."""
    image = Image.new("RGB", (width_px, height_px), "blue")
    image.paste((255, 0, 0), (0, 0, width_px // 2, height_px))
    return image


def noise(width_px: int, height_px: int, *, seed: int = 0) -> Image.Image:
    """Does not compress."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8))


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
