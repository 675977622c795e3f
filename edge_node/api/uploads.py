"""Uploads of init images: what is held of them at once, how large they are, how long they take.

Owns these bounds, where uploads wait, and where they are read and decoded, one at a time: what
that takes in memory is many times the size of the file. They wait in files without a name, which
take none. Small ones are decoded in a thread of their own, so that what the allocator keeps is kept
once; larger ones in a process of their own, whose end gives it all back.
What an image must be is init_image.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import IO, Literal, TypeVar

from edge_node.api import image_decoder, init_image
from edge_node.api.error_responses import RequestTooLarge
from edge_node.config import NodeConfig
from edge_node.errors import AdmissionRefused, DiskLow, InvalidRequest

_PLACE_RETRY_S = 1.0
# Decoded in the node: a process takes some tenths of a second to begin.
IN_NODE_BYTES_MAX = 8 * 2**20
# Of an upload that waits in memory; a larger one waits in a file.
IN_MEMORY_BYTES_MAX = 2**20

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """Bounds of uploaded images.

    Attributes:
        bytes_max: of one, as a file.
        pixels_max: of one, before it is scaled.
        decoding_bytes_max: of memory that decoding takes; one image is decoded at a time.
        at_once_max: uploads being read or decoded.
        held_bytes_max: of them together, as they are sent; a lone one is always held.
        arrival_s_max: from the first to the last byte of a request that may hold one.
    """

    bytes_max: int
    pixels_max: int
    decoding_bytes_max: int
    at_once_max: int
    held_bytes_max: int
    arrival_s_max: float

    @classmethod
    def of(cls, config: NodeConfig) -> UploadLimits:
        """From the node's settings."""
        return cls(
            bytes_max=config.init_image_upload_bytes_max,
            pixels_max=config.init_image_pixels_max,
            decoding_bytes_max=config.init_image_decoding_bytes_max,
            at_once_max=config.init_image_uploads_max,
            held_bytes_max=config.init_image_uploads_bytes_max,
            arrival_s_max=config.init_image_upload_s_max,
        )


@dataclass(frozen=True, kw_only=True)
class SentImage:
    """An image as it was sent.

    Attributes:
        param: the request's field.
        address: where it is to be fetched from into `file`, which is empty till then.
    """

    file: IO[bytes]
    param: str
    address: str = ""


@dataclass(frozen=True, kw_only=True)
class Mask:
    """What is to be kept of an upload.

    Attributes:
        keeps: what is opaque in it, or what is black or white.
        blur_px: radius by which its edges are made soft.
        any_size: it is scaled to the image's own size; else it must have that.
    """

    image: SentImage
    keeps: Literal["opaque", "black", "white"] = "opaque"
    blur_px: float = 0.0
    any_size: bool = False


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An image to start from, and a mask where only a part of it changes.

    Attributes:
        strength: as asked for.
    """

    image: SentImage
    strength: float | None
    mask: Mask | None = None

    @property
    def strength_meant(self) -> float | None:
        """What a mask gives free is drawn from noise alone, unless something else is asked for."""
        return 1.0 if self.mask is not None and self.strength is None else self.strength

    @property
    def sent(self) -> tuple[SentImage, ...]:
        """All that was sent for it."""
        return (self.image,) if self.mask is None else (self.image, self.mask.image)


class UploadPlace:
    """One request's right to hold an upload; not taken before it turns out to have one."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._taken_bytes: int | None = None
        self._files: list[IO[bytes]] = []

    def file(self) -> IO[bytes]:
        """An empty file for what is sent, which is gone with the place."""
        made = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES_MAX)  # noqa: SIM115
        self.keep(made)
        return made

    def keep(self, file: IO[bytes]) -> None:
        """The file is closed with the place."""
        self._files.append(file)

    def take(self, upload_bytes: int) -> None:
        """Takes a place for so many bytes, once; raises AdmissionRefused when there is none."""
        if self._taken_bytes is None:
            self._uploads.hold(upload_bytes)
            self._taken_bytes = upload_bytes

    def take_largest(self) -> None:
        """Takes a place for an image of which nobody knows yet how large it is."""
        self.take(self._uploads.limits.bytes_max)

    def release(self) -> None:
        """Gives back what was taken."""
        while self._files:
            with contextlib.suppress(OSError):
                self._files.pop().close()
        if self._taken_bytes is not None:
            self._uploads.let_go(self._taken_bytes)
            self._taken_bytes = None


class Uploads:
    """All init images that are on their way in."""

    def __init__(self, limits: UploadLimits) -> None:
        self.limits = limits
        self._held = 0
        self._held_bytes = 0
        self._alone = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="upload")

    @contextlib.contextmanager
    def place(self) -> Iterator[UploadPlace]:
        """A place that can be taken within the context."""
        place = UploadPlace(self)
        try:
            yield place
        finally:
            place.release()

    def hold(self, upload_bytes: int) -> None:
        """Counts one more; raises AdmissionRefused beyond a bound."""
        limits = self.limits
        if self._held and (
            self._held >= limits.at_once_max
            or self._held_bytes + upload_bytes > limits.held_bytes_max
        ):
            raise AdmissionRefused(
                f"This node reads {limits.at_once_max} uploads at once, of {limits.held_bytes_max} "
                "bytes together. Come back after the time in Retry-After, or ask another node.",
                retry_after_s=_PLACE_RETRY_S,
            )
        self._held += 1
        self._held_bytes += upload_bytes

    def let_go(self, upload_bytes: int) -> None:
        """Counts one less."""
        self._held -= 1
        self._held_bytes -= upload_bytes

    async def own_size_px(self, upload: Upload) -> tuple[int, int]:
        """As init_image.own_size_px, within the bounds on bytes and pixels.

        Raises:
            InvalidRequest: also where a mask has another size.
        """
        own_px = await self._own_size_px(upload.image)
        if upload.mask is not None:
            mask_px = await self._own_size_px(upload.mask.image)
            if mask_px != own_px and not upload.mask.any_size:
                (width_px, height_px), param = own_px, upload.mask.image.param
                raise InvalidRequest(
                    f"`{param}` has {mask_px[0]}x{mask_px[1]} pixels, and its image "
                    f"{width_px}x{height_px}: they must be of one size.",
                    param=param,
                )
        return own_px

    async def png_of_size(self, upload: Upload, *, size_px: tuple[int, int]) -> bytes:
        """As init_image.png_of_size, with a mask as its alpha; after the images that came before.

        Raises:
            InvalidRequest: also where decoding takes more memory than it may.
            AdmissionRefused: the system has not the memory now.
        """
        picture = await self._png_of_size(upload.image, size_px, "picture")
        if upload.mask is None:
            return picture
        mask, blur_px = upload.mask, upload.mask.blur_px
        kept = await self._png_of_size(mask.image, size_px, mask.keeps)
        return await self._in_thread(partial(init_image.masked, picture, kept, blur_px=blur_px))

    async def _own_size_px(self, sent: SentImage) -> tuple[int, int]:
        bytes_max = self.limits.bytes_max
        size_bytes = sent.file.seek(0, 2)
        if size_bytes > bytes_max:
            raise RequestTooLarge(
                f"`{sent.param}` has {size_bytes} bytes; at most {bytes_max} are allowed.",
                param=sent.param,
            )
        return await self._in_thread(
            partial(
                init_image.own_size_px,
                sent.file,
                pixels_max=self.limits.pixels_max,
                param=sent.param,
            )
        )

    async def _png_of_size(
        self, sent: SentImage, size_px: tuple[int, int], reading: init_image.Reading
    ) -> bytes:
        file, param = sent.file, sent.param
        decoding_bytes = await self._in_thread(
            partial(init_image.decoding_bytes, file, size_px=size_px, param=param)
        )
        if decoding_bytes > self.limits.decoding_bytes_max:
            raise InvalidRequest(
                f"`{param}` takes {decoding_bytes} bytes of memory to decode; at most "
                f"{self.limits.decoding_bytes_max} are taken. Scale it down, or send it as a plain "
                "JPEG.",
                param=param,
            )
        async with self._alone:
            if decoding_bytes > IN_NODE_BYTES_MAX:
                return await image_decoder.png_of_size(
                    file, size_px=size_px, param=param, reading=reading
                )
            return await self._in_thread(
                partial(init_image.png_of_size, file, size_px=size_px, param=param, reading=reading)
            )

    async def read_alone(self, work: Callable[[], Made]) -> Made:
        """What `work` makes of a large body, while no other is read or decoded."""
        async with self._alone:
            return await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


@contextlib.contextmanager
def kept_on_disk() -> Iterator[None]:
    """What cannot be kept while it arrives is refused; raises DiskLow."""
    try:
        yield
    except OSError as problem:
        raise DiskLow(
            f"An upload cannot be kept in {tempfile.gettempdir()} while it is read: {problem}. "
            "Come back after the time in Retry-After, or ask another node.",
            retry_after_s=_PLACE_RETRY_S,
        ) from problem
