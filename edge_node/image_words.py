"""Where a file of an image keeps the words that it was drawn from, and taking them out of it.

A PNG has them in the text chunk `parameters`; a JPEG and a WebP in the UserComment of their Exif
block (CIPA DC-008, "Exif 2.32"), where image viewers look that know AUTOMATIC1111's. Nothing is
decoded: every other byte stays as it is.
"""

from __future__ import annotations

import struct

# Of the chunk in which image viewers look for a drawing's prompt and parameters.
PARAMETERS = b"parameters"
# Tags of Exif, and the eight bytes that say how a UserComment is written.
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
UNICODE = b"UNICODE\0"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"iTXt", b"zTXt")
_JPEG_EXIF = b"Exif\0\0"
_ENTRY_BYTES = 12


def without_parameters(content: bytes) -> bytes:
    """The file without the prompt and parameters in it; what has none stays as it is.

    From a PNG their chunk is taken. In a JPEG and a WebP zeros take their place, for everything
    behind is found by its distance.
    """
    if content.startswith(_PNG):
        return _without_text(content)
    try:
        start, end = _comment(content)
    except (struct.error, LookupError):
        return content
    return content[:start] + bytes(end - start) + content[end:]


def _without_text(content: bytes) -> bytes:
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 12 + length
        kind, body = content[at + 4 : at + 8], content[at + 8 : end]
        if kind not in _PNG_TEXTS or not body.startswith(PARAMETERS + b"\0"):
            kept.append(content[at:end])
        at = end
    kept.append(content[at:])
    return b"".join(kept)


def _comment(content: bytes) -> tuple[int, int]:
    """Where the characters of the UserComment lie.

    Raises:
        LookupError, struct.error: there is none, or the file is cut short.
    """
    base = _jpeg_exif(content) if content.startswith(b"\xff\xd8\xff") else _webp_exif(content)
    order = {b"II": "<", b"MM": ">"}[content[base : base + 2]]
    (first,) = struct.unpack_from(order + "I", content, base + 4)
    _, exif = _entry(content, base, first, EXIF_IFD, order)
    size, start = _entry(content, base, exif, USER_COMMENT, order)
    start += base
    if content[start : start + len(UNICODE)] != UNICODE or start + size > len(content):
        raise LookupError("no comment in Unicode")
    return start + len(UNICODE), start + size


def _entry(content: bytes, base: int, ifd: int, wanted: int, order: str) -> tuple[int, int]:
    """Count and value of a tag in a directory of the Exif block; the value is an offset here."""
    (entries,) = struct.unpack_from(order + "H", content, base + ifd)
    for index in range(entries):
        at = base + ifd + 2 + index * _ENTRY_BYTES
        tag, _, count, value = struct.unpack_from(order + "HHII", content, at)
        if tag == wanted:
            return count, value
    raise LookupError(f"no tag {wanted:#x}")


def _jpeg_exif(content: bytes) -> int:
    """Start of the Exif block in a JPEG."""
    at = 2
    while content[at] == 0xFF and content[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", content, at + 2)
        if content[at + 1] == 0xE1 and content[at + 4 :].startswith(_JPEG_EXIF):
            return at + 4 + len(_JPEG_EXIF)
        at += 2 + length
    raise LookupError("no Exif block")


def _webp_exif(content: bytes) -> int:
    """Start of the Exif block in a WebP; some writers begin it as in a JPEG."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        raise LookupError("no WebP")
    at = 12
    while at + 8 <= len(content):
        (length,) = struct.unpack_from("<I", content, at + 4)
        if content[at : at + 4] == b"EXIF":
            begins = content[at + 8 : at + 8 + len(_JPEG_EXIF)] == _JPEG_EXIF
            return at + 8 + (len(_JPEG_EXIF) if begins else 0)
        at += 8 + length + length % 2
    raise LookupError("no Exif block")
