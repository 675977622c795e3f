"""Uploads of init images: how many are held at once, how large they are, how long they take.

Owns these bounds, and the threads in which images are decoded, one at a time: what decoding takes
in memory is many times the size of the file. What an image must be is init_image.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from edge_node.api import init_image
from edge_node.api.error_responses import RequestTooLarge
from edge_node.config import NodeConfig
from edge_node.errors import AdmissionRefused

_PLACE_RETRY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """Bounds of uploaded images.

    Attributes:
        bytes_max: of one, as a file.
        pixels_max: of one, before it is scaled.
        at_once_max: uploads being read or decoded.
        arrival_s_max: from the first to the last byte of a request that may hold one.
    """

    bytes_max: int
    pixels_max: int
    at_once_max: int
    arrival_s_max: float

    @classmethod
    def of(cls, config: NodeConfig) -> UploadLimits:
        """From the node's settings."""
        return cls(
            bytes_max=config.init_image_upload_bytes_max,
            pixels_max=config.init_image_pixels_max,
            at_once_max=config.init_image_uploads_max,
            arrival_s_max=config.init_image_upload_s_max,
        )


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An image as it was sent, in the request's field `param`, with the strength asked for."""

    content: bytes
    param: str
    strength: float | None


class UploadPlace:
    """One request's right to hold an upload; not taken before it turns out to have one."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._taken = False

    def take(self) -> None:
        """Takes a place, once; raises AdmissionRefused when there is none."""
        if not self._taken:
            self._uploads.count(1)
            self._taken = True

    def release(self) -> None:
        """Gives back what was taken."""
        if self._taken:
            self._uploads.count(-1)
            self._taken = False


class Uploads:
    """All init images that are on their way in."""

    def __init__(self, limits: UploadLimits) -> None:
        self.limits = limits
        self._held = 0
        self._decoding = asyncio.Lock()

    @contextlib.contextmanager
    def place(self) -> Iterator[UploadPlace]:
        """A place that can be taken within the context."""
        place = UploadPlace(self)
        try:
            yield place
        finally:
            place.release()

    def count(self, change: int) -> None:
        """Takes or returns places; raises AdmissionRefused beyond the bound."""
        if self._held + change > self.limits.at_once_max:
            raise AdmissionRefused(
                f"This node reads {self.limits.at_once_max} uploads at once. Come back after the "
                "time in Retry-After, or ask another node.",
                retry_after_s=_PLACE_RETRY_S,
            )
        self._held += change

    async def own_size_px(self, upload: Upload) -> tuple[int, int]:
        """As init_image.own_size_px, within the bounds on bytes and pixels."""
        bytes_max = self.limits.bytes_max
        if len(upload.content) > bytes_max:
            raise RequestTooLarge(
                f"`{upload.param}` has {len(upload.content)} bytes; at most {bytes_max} are "
                "allowed.",
                param=upload.param,
            )
        return await asyncio.to_thread(
            init_image.own_size_px,
            upload.content,
            pixels_max=self.limits.pixels_max,
            param=upload.param,
        )

    async def png_of_size(self, upload: Upload, *, size_px: tuple[int, int]) -> bytes:
        """As init_image.png_of_size, after the images that came before."""
        async with self._decoding:
            return await asyncio.to_thread(
                init_image.png_of_size, upload.content, size_px=size_px, param=upload.param
            )
