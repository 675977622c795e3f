"""Small copies of finished images, for lists: made when they are asked for, in a thread.

Owns their size and form, and how many wait. Nothing is kept here: clients keep them, as an image
never changes. Pillow is imported with the first.
"""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

from edge_node.errors import AdmissionRefused, DEdgeAIError, InvalidRequest
from edge_node.image_header import image_header

SIDE_PX_MIN, SIDE_PX_MAX = 16, 512
MEDIA_TYPE = "image/webp"
# Of an image that is decoded for it; ours are far smaller, and another node's may be anything.
PIXELS_MAX = 2**24
WAITING_MAX = 64
RETRY_S = 1.0
_QUALITY = 80


class Thumbnails:
    """One is made at a time: what decoding takes in memory is many times what a file has."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="thumbnails")
        self._waiting = 0

    async def of(self, content: bytes, *, side_px: int) -> bytes:
        """The image scaled to fit a square of that side, never up; WebP.

        Raises:
            AdmissionRefused: too many wait.
            DEdgeAIError: the file is damaged.
        """
        if self._waiting >= WAITING_MAX:
            raise AdmissionRefused(
                f"{WAITING_MAX} thumbnails are waiting to be made at this node. Come back after "
                "the time in Retry-After, or fetch the image itself.",
                retry_after_s=RETRY_S,
            )
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, thumbnail_of, content, side_px)
        finally:
            self._waiting -= 1


def side_px_in(text: str) -> int:
    """What a query asks for; raises InvalidRequest."""
    plain = text.isascii() and text.isdigit() and len(text) <= 4
    if not (plain and SIDE_PX_MIN <= int(text) <= SIDE_PX_MAX):
        raise InvalidRequest(
            f"`thumbnail` is {text[:60]!r}; it is the side of a square in pixels, from "
            f"{SIDE_PX_MIN} to {SIDE_PX_MAX}.",
            param="thumbnail",
        )
    return int(text)


def thumbnail_of(content: bytes, side_px: int) -> bytes:
    """The image scaled to fit a square; raises DEdgeAIError where it cannot be read."""
    from PIL import Image

    header = image_header(content)
    if header is None or header.width_px * header.height_px > PIXELS_MAX:
        raise DEdgeAIError("The stored image is none, or too large for a thumbnail.")
    try:
        with Image.open(io.BytesIO(content), formats=[header.format.upper()]) as image:
            image.draft("RGB", (side_px, side_px))  # a JPEG need not be decoded at full size
            small = image.convert("RGB")
            small.thumbnail((side_px, side_px))
            made = io.BytesIO()
            small.save(made, "WEBP", quality=_QUALITY)
            return made.getvalue()
    except (OSError, SyntaxError, ValueError) as problem:
        raise DEdgeAIError(f"The stored image cannot be read: {problem}.") from problem
