"""An uploaded image made into the PNG that a drawing starts from, and a mask into its alpha.

Owns the rule for its size, what decoding takes in memory, and with thumbnails.py all that touches
Pillow in the node process. Pillow is imported with the first upload, so that a node which draws
from text alone never loads it. Nothing here waits or bounds how much is done at once: uploads.py
does.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Literal

from edge_node.errors import InvalidRequest
from edge_node.requests import DrawingLimits

if TYPE_CHECKING:
    from PIL import Image as PillowImage

# What is read of an upload: its picture, or how much of one it keeps. A mask keeps what is opaque
# in it (OpenAI), or what is black, or white (AUTOMATIC1111).
Reading = Literal["picture", "opaque", "black", "white"]

# Pillow reads dozens more, with decoders that few have ever looked at.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")

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
# What a decoder holds for each pixel, in bytes, by the mode in which Pillow decodes; 4 for others.
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}
_MODE_BYTES_MAX = 4
# libwebp's canvas, the one before it, their copy for Python and Pillow's own, and what a lossless
# file unpacks to: measured with Pillow 12.
_WEBP_BYTES = 20
# A progressive JPEG's coefficients are held at full size, however small it is decoded.
_COEFFICIENT_BYTES = 2
# Side of the pieces in which an image is scaled, and how far Lanczos looks beyond an edge.
_PIECE_PX = 512
_LANCZOS_PX = 3


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


def own_size_px(content: bytes | IO[bytes], *, pixels_max: int, param: str) -> tuple[int, int]:
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


def decoding_bytes(content: bytes | IO[bytes], *, size_px: tuple[int, int], param: str) -> int:
    """Memory that `png_of_size` takes for the decoded image, told from its header.

    What else it takes is bounded whatever the image, some MiB.

    Raises:
        InvalidRequest: naming `param`; it is no image.
    """
    with _opened(content, param=param) as image:
        width_px, height_px = image.size
        pixels = width_px * height_px
        if image.format == "WEBP":
            return _WEBP_BYTES * pixels
        coefficients = 0
        if image.format == "JPEG":
            if "progressive" in image.info:
                coefficients = _COEFFICIENT_BYTES * len(image.getbands()) * pixels
            _draft(image, size_px)
            pixels = image.size[0] * image.size[1]
        return coefficients + _MODE_BYTES.get(image.mode, _MODE_BYTES_MAX) * pixels


def png_of_size(
    content: bytes | IO[bytes],
    *,
    size_px: tuple[int, int],
    param: str,
    reading: Reading = "picture",
) -> bytes:
    """The upload as a PNG of `size_px`: upright and without its metadata.

    A picture is RGB, on white; a mask is grey, white where it keeps.

    Raises:
        InvalidRequest: naming `param`; the image is cut short or damaged, or is to keep what is
            opaque and has no transparency.
    """
    from PIL import Image as PillowImage

    with _opened(content, param=param) as image:
        if reading == "opaque" and not image.has_transparency_data:
            raise InvalidRequest(
                f"`{param}` has no transparency: what is to be drawn anew must be transparent in "
                "it, and what is to stay must not. Save it as a PNG with an alpha channel.",
                param=param,
            )
        turn = _UPRIGHT.get(_orientation(image))
        _draft(image, size_px)
        flat = _scaled(image, size_px[::-1] if _is_sideways(image) else size_px, reading)
    if turn is not None:
        flat = flat.transpose(PillowImage.Transpose[turn])
    png = io.BytesIO()
    flat.save(png, "PNG")
    return png.getvalue()


def masked(picture: bytes, mask: bytes, *, blur_px: float = 0.0) -> bytes:
    """The PNG of a picture with the PNG of a mask of its size as its alpha.

    Args:
        picture: as png_of_size makes it.
        mask: as it makes that.
        blur_px: radius by which the mask's edges are made soft.
    """
    from PIL import Image as PillowImage
    from PIL import ImageFilter

    with PillowImage.open(io.BytesIO(picture)) as shown, PillowImage.open(io.BytesIO(mask)) as kept:
        alpha = kept.filter(ImageFilter.GaussianBlur(blur_px)) if blur_px else kept
        shown.putalpha(alpha)
        png = io.BytesIO()
        shown.save(png, "PNG")
    return png.getvalue()


def _draft(image: PillowImage.Image, size_px: tuple[int, int]) -> None:
    """A JPEG need not be decoded larger than this to be scaled well; other formats ignore it."""
    width_px, height_px = size_px[::-1] if _is_sideways(image) else size_px
    image.draft("RGB", (2 * width_px, 2 * height_px))


def _scaled(
    image: PillowImage.Image, size_px: tuple[int, int], reading: Reading
) -> PillowImage.Image:
    """What is read of the image, scaled to `size_px` in pieces, so that little memory is needed.

    The pixels are those of scaling it whole, but for rounding: each piece is cut out with all that
    Lanczos looks at.
    Whole, its colours would be converted in copies of 4 bytes for each pixel, up to three.
    """
    from PIL import Image as PillowImage
    from PIL import ImageChops

    image.load()
    coloured = _colouring(image)
    flat = PillowImage.new("RGB" if reading == "picture" else "L", size_px, "white")
    for left, right, from_x, to_x, box_x in _pieces(image.width, size_px[0]):
        for top, bottom, from_y, to_y, box_y in _pieces(image.height, size_px[1]):
            piece = coloured(image.crop((from_x, from_y, to_x, to_y))).resize(
                (right - left, bottom - top),
                PillowImage.Resampling.LANCZOS,
                box=(box_x[0], box_y[0], box_x[1], box_y[1]),
            )
            if reading == "opaque":
                flat.paste(piece.getchannel("A"), (left, top))
            elif reading == "white":
                flat.paste(piece.convert("L"), (left, top))
            elif reading == "black":
                flat.paste(ImageChops.invert(piece.convert("L")), (left, top))
            else:
                mask = piece.getchannel("A") if piece.mode == "RGBA" else None
                flat.paste(piece, (left, top), mask)
    return flat


def _pieces(
    own_px: int, scaled_px: int
) -> Iterator[tuple[int, int, int, int, tuple[float, float]]]:
    """Pieces of one side: where each is in the result, what is cut out for it, its box therein."""
    ratio = own_px / scaled_px
    beyond_px = math.ceil(_LANCZOS_PX * max(ratio, 1.0)) + 1
    step_px = max(1, int(_PIECE_PX / ratio))
    for start in range(0, scaled_px, step_px):
        stop = min(start + step_px, scaled_px)
        first, last = start * ratio, min(stop * ratio, own_px)
        cut_from = max(0, math.floor(first) - beyond_px)
        cut_to = min(own_px, math.ceil(last) + beyond_px)
        yield start, stop, cut_from, cut_to, (first - cut_from, last - cut_from)


@contextlib.contextmanager
def _opened(content: bytes | IO[bytes], *, param: str) -> Iterator[PillowImage.Image]:
    from PIL import Image as PillowImage
    from PIL import UnidentifiedImageError

    file = io.BytesIO(content) if isinstance(content, bytes) else content
    file.seek(0)
    try:
        with PillowImage.open(file, formats=FORMATS) as image:
            yield image
    except (InvalidRequest, MemoryError):
        raise
    # On damaged bytes the decoders raise what they like, SyntaxError included.
    except Exception as problem:
        why = "" if isinstance(problem, UnidentifiedImageError) else f" ({problem})"
        raise InvalidRequest(
            f"`{param}` cannot be read{why}; it must be a whole PNG, JPEG, WebP or GIF image.",
            param=param,
        ) from problem


def _colouring(image: PillowImage.Image) -> Callable[[PillowImage.Image], PillowImage.Image]:
    """What makes RGB or RGBA of a piece of `image`."""
    mode = "RGBA" if image.has_transparency_data else "RGB"

    def coloured(piece: PillowImage.Image) -> PillowImage.Image:
        if piece.mode.startswith("I"):
            # 16-bit grey, which convert() alone would cut off at 255.
            piece = piece.point(lambda grey: grey / 256)
        return piece.convert(mode)

    return coloured


def _is_sideways(image: PillowImage.Image) -> bool:
    return _orientation(image) >= _FIRST_SIDEWAYS


def _orientation(image: PillowImage.Image) -> int:
    """EXIF orientation, 1 when there is none; damaged EXIF does not make an image unreadable."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        return 1
    return orientation if orientation in _UPRIGHT else 1
