"""Pictures as PNG, WebP or JPEG files, with the drawing's parameters inside a PNG.

Owns formats and metadata. It must not import torch or numpy: the emulated worker uses it, too.
"""

from __future__ import annotations

import io

from PIL import Image as PillowImage
from PIL.PngImagePlugin import PngInfo

from edge_node.domain import Drawing, TaskId

FORMATS = ("png", "webp", "jpeg")


def parameters_text(drawing: Drawing, *, model: str) -> str:
    """Parameters of a drawing in the words of AUTOMATIC1111, which image viewers read."""
    lines = [drawing.prompt]
    if drawing.negative_prompt:
        lines.append(f"Negative prompt: {drawing.negative_prompt}")
    lines.append(
        f"Steps: {drawing.steps}, Sampler: Euler, CFG scale: {drawing.guidance_scale:g}, "
        f"Seed: {drawing.seed}, Size: {drawing.width_px}x{drawing.height_px}, "
        f"Model: {model}"
    )
    return "\n".join(lines)


def png_metadata(
    drawing: Drawing, *, task_id: TaskId, model: str, emulated_device: str = ""
) -> PngInfo:
    """Text chunks of a PNG: tEXt, or iTXt where a prompt is not Latin-1."""
    info = PngInfo()
    info.add_text("parameters", parameters_text(drawing, model=model))
    info.add_text("task_id", task_id)
    if emulated_device:
        info.add_text("emulated_device", emulated_device)
    return info


def encode(
    picture: PillowImage.Image,
    *,
    image_format: str,
    image_quality: int = 90,
    metadata: PngInfo | None = None,
) -> bytes:
    """Encoded bytes of `picture`; `image_quality` is for webp and jpeg, `metadata` for png."""
    buffer = io.BytesIO()
    if image_format == "png":
        picture.save(buffer, format="PNG", pnginfo=metadata)
    else:
        picture.save(buffer, format=image_format.upper(), quality=image_quality)
    return buffer.getvalue()
