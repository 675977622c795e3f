"""Reading a request: its JSON or form within bounds, its Idempotency-Key, its client's presence.

A body that is too long is refused as soon as that is known; uvicorn reads the rest of it and throws
it away, so that a client in mid-sending is not cut off before it reads its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, TypeVar

from fastapi import Request
from starlette.formparsers import MultiPartException, MultiPartParser

from edge_node.api.error_responses import RequestTooLarge, UnsupportedMediaType, UploadTooSlow
from edge_node.api.key_check import client_of
from edge_node.api.uploads import IN_MEMORY_BYTES_MAX, UploadPlace, Uploads, kept_on_disk
from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest
from edge_node.requests import Idempotency

_KEY_CHARS_MAX = 255
# OpenAI allows 16 images and a mask: more than one is refused in words, not by the parser.
_FORM_FILES_MAX = 17
_FORM_FIELDS_MAX = 100
# zlib's word for gzip's header with the largest window.
_GZIP_WBITS = 31
Made = TypeVar("Made")

_SMALLER_IMAGE = "Send a smaller image, or raise init_image_upload_s_max."


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """Bounds of a request's body without an init image: its bytes, and seconds to its last one."""

    bytes_max: int
    arrival_s_max: float

    @classmethod
    def of(cls, config: NodeConfig) -> BodyLimits:
        """From the node's settings."""
        return cls(bytes_max=config.request_bytes_max, arrival_s_max=config.request_body_s_max)


@dataclass(frozen=True, kw_only=True)
class Form:
    """A multipart form; of a field given twice the last value counts."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[IO[bytes]]] = field(default_factory=dict)


async def read_json(request: Request, *, limits: BodyLimits) -> Any:
    """The body as JSON.

    Raises:
        UnsupportedMediaType: it does not say that it is JSON.
        RequestTooLarge: it is longer than it may be; no more than that is kept.
        UploadTooSlow: it did not arrive in time.
        InvalidRequest: it is no JSON. NaN and Infinity, which JSON does not have and some clients
            send, pass here, so that the check of the field can name it.
    """
    _demand_json(request)
    async with _in_time(limits.arrival_s_max, "Send it faster, or raise request_body_s_max."):
        body = await _read(request, bytes_max=limits.bytes_max)
    return _json(body)


async def read_json_with_image(
    request: Request,
    *,
    limits: BodyLimits,
    uploads: Uploads,
    place: UploadPlace,
    images_in: Callable[[Any], Iterable[str]],
    understand: Callable[[Any], Made],
) -> Made:
    """What is understood of a body in JSON that may hold uploads in base64.

    A large one waits in a file for its turn, and is understood in a thread while no other is.

    Args:
        request: not read yet.
        limits: of all but the images.
        uploads: of these, together.
        images_in: their texts in a document; may raise LookupError or TypeError where none is.
        place: taken when the body is longer than `bytes_max`, or does not say how long it is.
        understand: makes something of the document that does not hold its images.

    Raises:
        UnsupportedMediaType, RequestTooLarge, InvalidRequest: as read_json; and what
            `understand` raises.
        AdmissionRefused: there is no place.
        DiskLow: there is no room for it on the disk.
        UploadTooSlow: it did not arrive in time.
    """
    bytes_max, declared_bytes = limits.bytes_max, _declared_bytes(request)
    packed = "content-encoding" in request.headers  # or it would be as long as it says
    if declared_bytes is not None and declared_bytes <= bytes_max and not packed:
        return understand(await read_json(request, limits=limits))
    _demand_json(request)
    async with _in_time(uploads.limits.arrival_s_max, _SMALLER_IMAGE):
        read_bytes_max = bytes_max + _base64_bytes(uploads.limits.bytes_max)
        place.take(_at_most(None if packed else declared_bytes, read_bytes_max))
        file = place.file()
        with kept_on_disk():
            await _read_into(file, request, bytes_max=read_bytes_max)
    return await uploads.read_alone(partial(_understood, file, bytes_max, images_in, understand))


async def read_form(
    request: Request, *, limits: BodyLimits, uploads: Uploads, place: UploadPlace
) -> Form:
    """The body as multipart/form-data that may hold an upload.

    Args:
        request: not read yet.
        limits: of all but the upload; only its bytes count.
        uploads: of that.
        place: taken in any case; keeps the files.

    Raises:
        UnsupportedMediaType: it is something else.
        RequestTooLarge: it is longer than both bounds together; no more than that is kept.
        InvalidRequest: it is damaged, or has too many parts.
        AdmissionRefused: there is no place.
        DiskLow: there is no room for it on the disk.
        UploadTooSlow: it did not arrive in time.
    """
    async with _in_time(uploads.limits.arrival_s_max, _SMALLER_IMAGE):
        if _media_type(request) != "multipart/form-data":
            raise UnsupportedMediaType(
                f"{request.url.path} takes multipart/form-data, as the OpenAI SDK sends it, or "
                "JSON with the image in base64."
            )
        read_bytes_max = limits.bytes_max + uploads.limits.bytes_max
        packed = "content-encoding" in request.headers  # or it would be as long as it says
        place.take(_at_most(None if packed else _declared_bytes(request), read_bytes_max))
        chunks = _chunks(request, bytes_max=read_bytes_max)
        parser = MultiPartParser(
            request.headers, chunks, max_files=_FORM_FILES_MAX, max_fields=_FORM_FIELDS_MAX
        )
        try:
            with kept_on_disk():
                parsed = await parser.parse()
        except MultiPartException as problem:
            said = problem.message.rstrip(".")
            raise InvalidRequest(f"The body is not valid multipart/form-data: {said}.") from None
    form = Form()
    for name, value in parsed.multi_items():
        if isinstance(value, str):
            form.fields[name] = value
        else:
            place.keep(value.file)
            form.files.setdefault(name, []).append(value.file)
    return form


def idempotency_of(request: Request, document: Any) -> Idempotency | None:
    """The Idempotency-Key of a request, bound to its path and body; None without one.

    It is its client's own: what another API key calls the same is something else.

    Raises:
        InvalidRequest: the key is empty or too long.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= _KEY_CHARS_MAX:
        raise InvalidRequest(
            f"The Idempotency-Key must have 1 to {_KEY_CHARS_MAX} characters.",
            param="Idempotency-Key",
        )
    canonical = json.dumps([request.url.path, document], sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    client_id = client_of(request).id
    return Idempotency(key=f"{client_id} {key}" if client_id else key, request_digest=digest)


async def hung_up(request: Request) -> None:
    """Returns when the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _demand_json(request: Request) -> None:
    """A page of another site can have a browser send any text, but nothing that is called JSON."""
    if not is_json(request):
        media_type = _media_type(request)
        said = f"is {media_type}" if media_type else "has no Content-Type"
        raise UnsupportedMediaType(
            f"The body {said}: send JSON, with the header Content-Type: application/json."
        )


def is_json(request: Request) -> bool:
    """Whether the body says that it is JSON."""
    media_type = _media_type(request)
    return media_type == "application/json" or media_type.endswith("+json")


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read(request: Request, *, bytes_max: int) -> bytearray:
    body = bytearray()
    async for chunk in _chunks(request, bytes_max=bytes_max):
        body += chunk
    return body


async def _read_into(file: IO[bytes], request: Request, *, bytes_max: int) -> None:
    """The body as it arrives; what the disk takes long for is no wait for others."""
    pending = bytearray()
    async for chunk in _chunks(request, bytes_max=bytes_max):
        pending += chunk
        if len(pending) >= IN_MEMORY_BYTES_MAX:
            await asyncio.to_thread(file.write, pending)
            pending = bytearray()
    await asyncio.to_thread(file.write, pending)


def _understood(
    file: IO[bytes],
    bytes_max: int,
    images_in: Callable[[Any], Iterable[str]],
    understand: Callable[[Any], Made],
) -> Made:
    size_bytes = file.tell()
    file.seek(0)
    without = " without its image"
    try:
        document = _json(file.read())
    except InvalidRequest:
        if size_bytes > bytes_max:  # of whatever it is, none is an image
            raise _too_large(bytes_max, without=without) from None
        raise
    try:
        image_bytes = sum(map(len, images_in(document)))
    except (InvalidRequest, LookupError, TypeError):
        image_bytes = 0
    if size_bytes - image_bytes > bytes_max:
        raise _too_large(bytes_max, without=without)
    return understand(document)


async def _chunks(request: Request, *, bytes_max: int) -> AsyncGenerator[bytes, None]:
    """The body as it arrives; nothing of one that says that it is too long."""
    if (_declared_bytes(request) or 0) > bytes_max:
        raise _too_large(bytes_max)
    received_bytes = 0
    async for chunk in _plain(request, bytes_max=bytes_max):
        received_bytes += len(chunk)
        if received_bytes > bytes_max:
            raise _too_large(bytes_max)
        yield chunk


async def _plain(request: Request, *, bytes_max: int) -> AsyncGenerator[bytes, None]:
    """The body without its Content-Encoding, never more than a little beyond `bytes_max` at once.

    Raises:
        UnsupportedMediaType: it is compressed otherwise than by gzip.
        InvalidRequest: it is no gzip, or ends too soon.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        async for chunk in request.stream():
            yield chunk
        return
    if encoding not in ("gzip", "x-gzip"):
        raise UnsupportedMediaType(
            f"The body is encoded as {encoding[:40]}: send it as it is, or compressed by gzip."
        )
    unpacking = zlib.decompressobj(wbits=_GZIP_WBITS)
    try:
        async for chunk in request.stream():
            while chunk and not unpacking.eof:
                yield unpacking.decompress(chunk, bytes_max + 1)
                chunk = unpacking.unconsumed_tail
    except zlib.error as problem:
        raise InvalidRequest(f"The body is not valid gzip: {problem}.") from None
    if not unpacking.eof:
        raise InvalidRequest("The body is not valid gzip: it ends too soon.")


def _at_most(declared_bytes: int | None, bytes_max: int) -> int:
    """What a body may take: no more is read, whatever it says."""
    return bytes_max if declared_bytes is None else min(declared_bytes, bytes_max)


def _base64_bytes(size_bytes: int) -> int:
    return -(-size_bytes // 3) * 4


def _declared_bytes(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


@contextlib.asynccontextmanager
async def _in_time(arrival_s_max: float, advice: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(arrival_s_max):
            yield
    except TimeoutError:
        raise UploadTooSlow(
            f"The body did not arrive within {arrival_s_max:g} s. {advice}"
        ) from None


def _json(body: bytes | bytearray) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise InvalidRequest(f"The body is not valid JSON: {problem}.") from None


def _too_large(bytes_max: int, *, without: str = "") -> RequestTooLarge:
    return RequestTooLarge(
        f"The body has more than the {bytes_max} bytes that are allowed{without}."
    )
