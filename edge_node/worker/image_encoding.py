"""Pictures as PNG, WebP or JPEG files, with the drawing's parameters inside.

Owns formats and metadata. It must not import torch or numpy: the emulated worker uses it, too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image as PillowImage
from PIL.PngImagePlugin import PngInfo

from edge_node.domain import Drawing, Image, TaskId
from edge_node.image_words import EXIF_IFD, PARAMETERS, UNICODE, USER_COMMENT
from edge_node.prompt_tokens import NOT_COUNTED, PromptTokens

FORMATS = ("png", "webp", "jpeg")
# A segment of a JPEG has 64 KiB, of which 2 bytes are its length and 6 its name.
EXIF_BYTES_MAX = 65_533 - 6
# Tags of Exif: of the file, "the camera" and in its own directory a name that no other image has.
_MADE_BY, _IMAGE_ID = 0x0110, 0xA420


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What images tell beside what is seen.

    Attributes:
        parameters: prompt, seed and the rest, as `parameters_text` has them.
        task_ids: which task it was; without it equal drawings are equal files.
    """

    parameters: bool = True
    task_ids: bool = True


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


def texts_of(
    drawing: Drawing,
    *,
    told: Metadata,
    task_id: TaskId,
    model: str,
    choices: Sequence[str] = (),
    emulated_device: str = "",
) -> dict[str, str]:
    """What is written into a file, by the names that a PNG's texts have."""
    texts = {}
    if told.parameters:
        texts[PARAMETERS.decode()] = parameters_text(drawing, model=model, choices=choices)
        if emulated_device:
            texts["emulated_device"] = emulated_device
    if told.task_ids:
        texts["task_id"] = task_id
    return texts


def encode(
    picture: PillowImage.Image,
    *,
    image_format: str,
    image_quality: int = 90,
    texts: Mapping[str, str] | None = None,
) -> bytes:
    """Encoded bytes of `picture`; `image_quality` is for webp and jpeg."""
    buffer = io.BytesIO()
    if image_format == "png":
        picture.save(buffer, format="PNG", pnginfo=_png_info(texts or {}))
    else:
        full_colour = picture.convert("RGB")
        told = {"exif": exif} if (exif := _exif(texts or {})) else {}
        full_colour.save(buffer, format=image_format.upper(), quality=image_quality, **told)
    return buffer.getvalue()


def _png_info(texts: Mapping[str, str]) -> PngInfo:
    """Text chunks of a PNG: tEXt, or iTXt where a prompt is not Latin-1."""
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    return info


def _exif(texts: Mapping[str, str]) -> bytes:
    """The Exif block of a JPEG or WebP; empty where there is nothing to tell.

    Parameters that do not fit into a JPEG's segment are left out: half of them would say that
    something else was asked for.
    """
    block = PillowImage.Exif()
    if device := texts.get("emulated_device"):
        block[_MADE_BY] = device
    if task_id := texts.get("task_id"):
        block.get_ifd(EXIF_IFD)[_IMAGE_ID] = task_id
    if parameters := texts.get(PARAMETERS.decode()):
        comment = UNICODE + parameters.encode("utf-16-be", "surrogatepass")
        block.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
        if len(block.tobytes()) > EXIF_BYTES_MAX:
            del block.get_ifd(EXIF_IFD)[USER_COMMENT]
    return block.tobytes() if texts else b""


def image_of(
    picture: PillowImage.Image,
    *,
    drawing: Drawing,
    task_id: TaskId,
    model: str,
    choices: Sequence[str],
    emulated_device: str,
    told: Metadata,
    prompt_tokens: PromptTokens = NOT_COUNTED,
) -> Image:
    """The finished image of a drawing in the format that it asks for."""
    texts = texts_of(
        drawing,
        told=told,
        task_id=task_id,
        model=model,
        choices=choices,
        emulated_device=emulated_device,
    )
    content = encode(
        picture,
        image_format=drawing.image_format,
        image_quality=drawing.image_quality,
        texts=texts,
    )
    return Image(
        content=content,
        format=drawing.image_format,
        width_px=picture.width,
        height_px=picture.height,
        emulated_device=emulated_device,
        prompt_tokens=prompt_tokens,
    )
