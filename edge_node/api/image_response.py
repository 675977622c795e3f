"""An image as an answer: whole, a part of it (Range), or only that it is still the same (ETag)."""

from __future__ import annotations

import hashlib
import re

from fastapi import Request
from fastapi.responses import Response

_RANGE = re.compile(r"bytes=(\d{0,12})-(\d{0,12})")
# An image never changes; only whoever may ask for it may keep it.
_CACHE = "private, max-age=31536000, immutable"


def image_response(request: Request, content: bytes, *, media_type: str) -> Response:
    """200 with the image, 206 with the part asked for, 304, or 416 (RFC 9110, 13 and 14)."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"Cache-Control": _CACHE, "ETag": etag, "Accept-Ranges": "bytes"}
    if _names(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    if wanted is None or request.headers.get("if-range", etag) != etag:
        return Response(content, media_type=media_type, headers=headers)
    part = _part(wanted, len(content))
    if part is None:  # another unit, or several parts: the whole is a good answer
        return Response(content, media_type=media_type, headers=headers)
    if not part:
        headers["Content-Range"] = f"bytes */{len(content)}"
        return Response(status_code=416, headers=headers)
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
    body = content[part.start : part.stop]
    return Response(body, status_code=206, media_type=media_type, headers=headers)


def _part(wanted: str, size_bytes: int) -> range | None:
    """The bytes of one range; empty where there are none of it, None for what is not one range."""
    found = _RANGE.fullmatch(wanted.strip())
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":
        return range(max(0, size_bytes - int(found[2])), size_bytes)
    first = int(found[1])
    last = int(found[2]) if found[2] else size_bytes - 1
    if found[2] and last < first:
        return None
    return range(first, min(last + 1, size_bytes))


def _names(if_none_match: str, etag: str) -> bool:
    names = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in names or etag in names
