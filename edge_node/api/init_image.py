"""An uploaded image made into the PNG that a drawing starts from.

Owns the rule for its size and all that touches Pillow in the node process. Pillow is imported with
the first upload, so that a node which draws from text alone never loads it. Nothing here waits or
bounds how much is done at once: uploads.py does.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge_node.errors import InvalidRequest
from edge_node.requests import DrawingLimits

if TYPE_CHECKING:
    from PIL import Image as PillowImage

# Pillow reads dozens more, with decoders that few have ever looked at.
FORMATS = ("PNG", "JPEG", "WEBP")

_EXIF_ORIENTATION = 0x0112
# What turns the stored pixels upright, by EXIF orientation; from 5 on width and height change
# places.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_FIRST_SIDEWAYS = 5


def fitted_size_px(own_px: tuple[int, int], limits: DrawingLimits) -> tuple[int, int]:
    """Width and height of a drawing that starts from an image of `own_px`. Pure.

    The image's own size, scaled into the model's limits and rounded to its multiple. The aspect
    ratio is kept as well as the multiple allows; an image too narrow for both limits is stretched.
    """
    multiple_px = limits.size_px_multiple
    low_px = math.ceil(limits.size_px_min / multiple_px) * multiple_px
    high_px = limits.size_px_max // multiple_px * multiple_px
    scale = max(1.0, low_px / min(own_px))
    scale = min(scale, high_px / max(own_px))
    width_px, height_px = (
        min(max(round(side_px * scale / multiple_px) * multiple_px, low_px), high_px)
        for side_px in own_px
    )
    return width_px, height_px


def own_size_px(content: bytes, *, pixels_max: int, param: str) -> tuple[int, int]:
    """Width and height of an upload as it is looked at, from its header alone.

    Raises:
        InvalidRequest: naming `param`; it is no image, or has more pixels than are decoded.
    """
    with _opened(content, param=param) as image:
        width_px, height_px = image.size
        if width_px * height_px > pixels_max:
            raise InvalidRequest(
                f"`{param}` has {width_px}x{height_px} pixels; at most {pixels_max} are decoded. "
                "Scale it down.",
                param=param,
            )
        return (height_px, width_px) if _is_sideways(image) else (width_px, height_px)


def png_of_size(content: bytes, *, size_px: tuple[int, int], param: str) -> bytes:
    """The upload as an RGB PNG of `size_px`: upright, on white, and without its metadata.

    Raises:
        InvalidRequest: naming `param`; the image is cut short or damaged.
    """
    from PIL import Image as PillowImage

    with _opened(content, param=param) as image:
        stored_px = size_px[::-1] if _is_sideways(image) else size_px
        # A JPEG need not be decoded larger than this to be scaled well; other formats ignore it.
        image.draft("RGB", (2 * stored_px[0], 2 * stored_px[1]))
        scaled = _coloured(image).resize(stored_px, PillowImage.Resampling.LANCZOS)
        turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        scaled = scaled.transpose(PillowImage.Transpose[turn])
    flat = PillowImage.new("RGB", size_px, "white")
    flat.paste(scaled, mask=scaled.getchannel("A") if scaled.mode == "RGBA" else None)
    png = io.BytesIO()
    flat.save(png, "PNG")
    return png.getvalue()


@contextlib.contextmanager
def _opened(content: bytes, *, param: str) -> Iterator[PillowImage.Image]:
    from PIL import Image as PillowImage
    from PIL import UnidentifiedImageError

    try:
        with PillowImage.open(io.BytesIO(content), formats=FORMATS) as image:
            yield image
    except (InvalidRequest, MemoryError):
        raise
    # On damaged bytes the decoders raise what they like, SyntaxError included.
    except Exception as problem:
        why = "" if isinstance(problem, UnidentifiedImageError) else f" ({problem})"
        raise InvalidRequest(
            f"`{param}` cannot be read{why}; it must be a whole PNG, JPEG or WebP image.",
            param=param,
        ) from problem


def _coloured(image: PillowImage.Image) -> PillowImage.Image:
    if image.mode.startswith("I"):
        # 16-bit grey, which convert() alone would cut off at 255.
        image = image.point(lambda grey: grey / 256)
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _is_sideways(image: PillowImage.Image) -> bool:
    return _orientation(image) >= _FIRST_SIDEWAYS


def _orientation(image: PillowImage.Image) -> int:
    """EXIF orientation, 1 when there is none; damaged EXIF does not make an image unreadable."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        return 1
    return orientation if orientation in _UPRIGHT else 1
