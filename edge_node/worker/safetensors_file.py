"""Safetensors files without a second copy of them: headers, and bytes read where they belong.

Owns the file format: what a header says, whether the file keeps what its header promises, and
reading a stored tensor's bytes into a caller's buffer. Nothing is mapped, because mapped pages
count as resident, and what was read is dropped from the page cache, which a device with unified
memory shares with its accelerator. It knows no model and must not import torch.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from edge_node.json_text import parsed
from edge_node.worker.denoiser import ModelUnusable

# Bytes of an element of each dtype that a header may name.
ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
# The format's own bound; more is no header but some other file's first bytes.
_HEADER_BYTES_MAX = 100 * 2**20
# What a header gives of each tensor.
_FIELDS = {"dtype", "shape", "data_offsets"}
# How files begin that are taken for weights.
_OTHERS = (
    (b"GGUF", "a GGUF file, quantized for another program"),
    (b"PK\x03\x04", "a checkpoint of pickles (.ckpt, .pt, .bin), which may run code"),
    (b"\x80\x02", "a checkpoint of pickles (.ckpt, .pt, .bin), which may run code"),
    (b"<!DOCTYP", "an HTML page, such as a login or an error page"),
    (b"<!doctyp", "an HTML page, such as a login or an error page"),
    (b"<html", "an HTML page, such as a login or an error page"),
)
# Dimensions from which on a parameter is a matrix.
_MATRIX = 2
# What is looked at of a file's end, and zeros in a row there that no matrix has.
_TAIL_BYTES = 64 * 1024
_ZEROS_BYTES_MAX = 4096
_INSTEAD = "download the .safetensors file of the model, with `hf download`"
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor as it lies in a file, or rows of it.

    Attributes:
        path: the file.
        key: the tensor's name in the file.
        dtype: as the header names it, such as F16.
        shape: of what the ranges hold together.
        ranges: (first byte, byte after the last) in the file, in the tensor's order.
    """

    path: pathlib.Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return sum(stop - start for start, stop in self.ranges)

    def rows(self, *spans: tuple[int, int]) -> StoredTensor:
        """The rows of each (first, after the last) span, one span after the other."""
        ((start, _),) = self.ranges
        row_bytes = self.size_bytes // self.shape[0]
        return dataclasses.replace(
            self,
            shape=(sum(stop - first for first, stop in spans), *self.shape[1:]),
            ranges=tuple(
                (start + first * row_bytes, start + stop * row_bytes) for first, stop in spans
            ),
        )

    def without_trailing_ones(self) -> StoredTensor:
        """The weight of a 1x1 convolution as that of a linear layer."""
        assert set(self.shape[2:]) <= {1}
        return dataclasses.replace(self, shape=self.shape[:2])


def read_header(path: pathlib.Path) -> dict[str, StoredTensor]:
    """All tensors of a file by name, read from its header alone.

    Raises:
        ModelUnusable: the file is not safetensors, or not whole.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        first_bytes = file.read(8)
        header_bytes = int.from_bytes(first_bytes, "little")
        if first_bytes == _LFS_POINTER[:8]:
            raise ModelUnusable(
                f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` where it was "
                "cloned and copy it again"
            )
        kind = next((what for start, what in _OTHERS if first_bytes.startswith(start)), None)
        if kind is not None:
            raise ModelUnusable(f"{path} is {kind}, not safetensors: {_INSTEAD}")
        if 8 + header_bytes > size_bytes:
            raise _damaged(path, f"{size_bytes} bytes long", f"at least {8 + header_bytes}")
        entries = _entries(path, file.read(min(header_bytes, _HEADER_BYTES_MAX)))
    data_start = 8 + header_bytes
    promised_bytes = data_start + max((e["data_offsets"][1] for e in entries.values()), default=0)
    if size_bytes != promised_bytes:
        raise _damaged(path, f"{size_bytes} bytes long", str(promised_bytes))
    return {
        key: _stored_tensor(path, key, entry, data_start=data_start)
        for key, entry in entries.items()
    }


def read_metadata(path: pathlib.Path) -> dict[str, str]:
    """What the header of a file that `read_header` took says beside its tensors."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        found = parsed(file.read(min(header_bytes, _HEADER_BYTES_MAX))).get("__metadata__", {})
    if not isinstance(found, dict):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, str)}


def zeros_at_the_end(path: pathlib.Path, tensors: Iterable[StoredTensor]) -> StoredTensor | None:
    """A matrix that the zeros in which the file ends reach far into, or None.

    An aborted download leaves a file of its full length. Biases may be zeros; no training leaves
    so many in a row in a matrix.

    Args:
        path: the file; its last bytes are read.
        tensors: of it.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size_bytes - _TAIL_BYTES))
        tail = file.read()
    zeros_start = size_bytes - (len(tail) - len(tail.rstrip(b"\0")))
    for tensor in tensors:
        for start, stop in tensor.ranges if len(tensor.shape) >= _MATRIX else ():
            within = stop - max(start, zeros_start)
            if within >= min(stop - start, _ZEROS_BYTES_MAX):
                return tensor
    return None


def _entries(path: pathlib.Path, header: bytes) -> dict[str, dict[str, Any]]:
    try:
        content = parsed(header)
        entries = {key: entry for key, entry in content.items() if key != "__metadata__"}
        if not all(entry.keys() >= _FIELDS for entry in entries.values()):
            raise ValueError(
                f"its header does not give {', '.join(sorted(_FIELDS))} of all tensors"
            )
    except (ValueError, AttributeError) as error:
        raise ModelUnusable(
            f"{path} is no safetensors file, or a damaged one ({error}): point at a .safetensors "
            "file, or copy it again"
        ) from error
    return entries


def _stored_tensor(
    path: pathlib.Path, key: str, entry: dict[str, Any], *, data_start: int
) -> StoredTensor:
    shape = tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    item_bytes = ITEM_BYTES.get(entry["dtype"])
    if item_bytes is not None and stop - start != math.prod(shape) * item_bytes:
        raise _damaged(path, f"given {stop - start} bytes for {key}", f"{entry['dtype']} {shape}")
    return StoredTensor(
        path=path,
        key=key,
        dtype=entry["dtype"],
        shape=shape,
        ranges=((data_start + start, data_start + stop),),
    )


def _damaged(path: pathlib.Path, found: str, promised: str) -> ModelUnusable:
    return ModelUnusable(
        f"{path} is {found} where its header promises {promised}: the copy is damaged or "
        "incomplete, copy it again"
    )


class TensorReader:
    """Reads stored tensors of any files into buffers; a context manager that closes the files."""

    def __init__(self) -> None:
        self._descriptors: dict[pathlib.Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def read_into(self, buffer: memoryview, path: pathlib.Path, *, start: int) -> None:
        """Fills `buffer`, of single bytes, with the file's bytes from `start` on.

        Raises:
            ModelUnusable: the file ends before the buffer is full.
        """
        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        descriptor = self._descriptors[path]
        done = 0
        while done < len(buffer):
            count = os.preadv(descriptor, [buffer[done:]], start + done)
            if count == 0:
                raise ModelUnusable(f"{path} became shorter while it was read: copy it again")
            done += count
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, start, done, os.POSIX_FADV_DONTNEED)


def chunks(stored: StoredTensor, *, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """(first byte in the file, count) of pieces of at most `chunk_bytes`, in the tensor's order."""
    for range_start, range_stop in stored.ranges:
        for start in range(range_start, range_stop, chunk_bytes):
            yield start, min(chunk_bytes, range_stop - start)
