"""What a file of an image says of itself: its format and size.

Owns the headers of the three formats that are drawn. Nothing is decoded, so that bytes of strangers
cost nothing; whoever shows the picture finds out whether the rest of it is whole.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_PNG = b"\x89PNG\r\n\x1a\n"
# Frames of a JPEG that carry its size: SOF0 to SOF15 without DHT, JPG and DAC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SEGMENTS_MAX = 64


class ImageHeader(NamedTuple):
    """`format` is png, webp or jpeg."""

    format: str
    width_px: int
    height_px: int


def image_header(content: bytes) -> ImageHeader | None:
    """What the bytes say to be; None where they are none of the three."""
    try:
        if content.startswith(_PNG):
            return _png(content)
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return _webp(content)
        if content.startswith(b"\xff\xd8\xff"):
            return _jpeg(content)
    except (struct.error, IndexError):
        pass  # cut short
    return None


def _png(content: bytes) -> ImageHeader | None:
    if content[12:16] != b"IHDR":
        return None
    width_px, height_px = struct.unpack_from(">II", content, 16)
    return ImageHeader("png", width_px, height_px)


def _webp(content: bytes) -> ImageHeader | None:
    kind = content[12:16]
    if kind == b"VP8X":
        width_px = int.from_bytes(content[24:27], "little") + 1
        height_px = struct.unpack_from("<I", content[:30] + b"\0", 27)[0] + 1
    elif kind == b"VP8L" and content[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", content, 21)
        width_px, height_px = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and content[23:26] == b"\x9d\x01\x2a":
        width_px, height_px = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    else:
        return None
    return ImageHeader("webp", width_px, height_px)


def _jpeg(content: bytes) -> ImageHeader | None:
    at = 2
    for _ in range(_JPEG_SEGMENTS_MAX):
        mark, kind, length = struct.unpack_from(">BBH", content, at)
        if mark != 0xFF:
            return None
        if kind in _JPEG_FRAMES:
            height_px, width_px = struct.unpack_from(">HH", content, at + 5)
            return ImageHeader("jpeg", width_px, height_px)
        at += 2 + length
    return None
