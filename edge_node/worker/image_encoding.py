"""Pictures as PNG, WebP or JPEG files, with the drawing's parameters inside a PNG.

Owns formats and metadata. It must not import torch or numpy: the emulated worker uses it, too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image as PillowImage
from PIL.PngImagePlugin import PngInfo

from edge_node.domain import Drawing, Image, TaskId
from edge_node.prompt_tokens import NOT_COUNTED, PromptTokens

FORMATS = ("png", "webp", "jpeg")


def parameters_text(drawing: Drawing, *, model: str, choices: Sequence[str] = ()) -> str:
    """Parameters of a drawing in the words of AUTOMATIC1111, which image viewers read.

    `choices` are those of the operator that change pictures.
    """
    lines = [drawing.prompt]
    if drawing.negative_prompt:
        lines.append(f"Negative prompt: {drawing.negative_prompt}")
    parameters = [
        f"Steps: {drawing.steps}, Sampler: Euler, CFG scale: {drawing.guidance_scale:g}",
        f"Seed: {drawing.seed}, Size: {drawing.width_px}x{drawing.height_px}, Model: {model}",
    ]
    if drawing.init_image_sha256:
        parameters.append(f"Denoising strength: {drawing.strength:g}")
    if drawing.masked:
        parameters.append("Masked: the rest is of the init image")
    if choices:
        parameters.append(f"Approximations: {' '.join(choices)}")
    lines.append(", ".join(parameters))
    return "\n".join(lines)


def png_metadata(
    drawing: Drawing,
    *,
    task_id: TaskId,
    model: str,
    choices: Sequence[str] = (),
    emulated_device: str = "",
) -> PngInfo:
    """Text chunks of a PNG: tEXt, or iTXt where a prompt is not Latin-1."""
    info = PngInfo()
    info.add_text("parameters", parameters_text(drawing, model=model, choices=choices))
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
        full_colour = picture.convert("RGB")
        full_colour.save(buffer, format=image_format.upper(), quality=image_quality)
    return buffer.getvalue()


def image_of(
    picture: PillowImage.Image,
    *,
    drawing: Drawing,
    task_id: TaskId,
    model: str,
    choices: Sequence[str],
    emulated_device: str,
    metadata: bool,
    prompt_tokens: PromptTokens = NOT_COUNTED,
) -> Image:
    """The finished image of a drawing in the format that it asks for."""
    text = None
    if metadata:
        text = png_metadata(
            drawing,
            task_id=task_id,
            model=model,
            choices=choices,
            emulated_device=emulated_device,
        )
    content = encode(
        picture,
        image_format=drawing.image_format,
        image_quality=drawing.image_quality,
        metadata=text,
    )
    return Image(
        content=content,
        format=drawing.image_format,
        width_px=picture.width,
        height_px=picture.height,
        emulated_device=emulated_device,
        prompt_tokens=prompt_tokens,
    )
