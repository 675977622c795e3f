"""Learned weights as files: one safetensors file with named arrays and what they are.

Owns the format, its checks and the safety of writing: a file appears whole or not at all, and the
last good one stays until then. Numpy only, for a node loads policies with it. Two kinds share the
format: a "policy" holds what decides, a "training" holds everything that a run needs to go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

Array = NDArray[Any]
Kind = Literal["policy", "training"]
FORMAT_VERSION = 1


class InvalidCheckpoint(ValueError):
    """A file is no checkpoint that can be used; the message names it and what is wrong with it."""


# Of a published policy's scenario: the version that it was shown to be better than.
BETTER_THAN = "better_than"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What the arrays of a checkpoint are.

    Attributes:
        kind: what it is for.
        policy: name of the algorithm that learned it, as the registry and `dedgeai train` know it.
        scenario: of the training, its name and every field that shapes the arrays.
        config: the algorithm's hyperparameters.
        seed: of the run.
        episodes: that were trained.
        code_version: of this package.
        metrics: how good it was, by name; seconds or ratios, as the name says.
        shapes: of every array; what was written, so that a file put together wrongly shows.
        format_version: of this layout.
    """

    kind: Kind
    policy: str
    scenario: dict[str, Any]
    config: dict[str, Any]
    seed: int
    episodes: int
    code_version: str
    metrics: dict[str, float] = field(default_factory=dict)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Arrays by name, and what they are."""

    info: CheckpointInfo
    arrays: dict[str, Array]


def version_of(weights: Checkpoint) -> str:
    """Names learned weights by their number and their contents: others are never of one name."""
    arrays = weights.arrays
    content = b"".join(np.asarray(arrays[name], order="C").tobytes() for name in sorted(arrays))
    digest = hashlib.sha256(content).hexdigest()[:12]
    return f"{weights.info.policy}-{weights.info.episodes}-{digest}"


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint; whatever was at `path` stays until the new one is whole on disk.

    Raises:
        InvalidCheckpoint: an array holds a value that is not finite; nothing is written.
        OSError: the disk refuses.
    """
    arrays = {name: np.asarray(value, order="C") for name, value in checkpoint.arrays.items()}
    _require_finite(path, arrays)
    info = asdict(checkpoint.info)
    info["shapes"] = {name: list(value.shape) for name, value in arrays.items()}
    content = safetensors.numpy.save(
        arrays, {name: json.dumps(value) for name, value in info.items()}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def load(path: Path, *, kind: Kind) -> Checkpoint:
    """Reads and checks a checkpoint of the kind that the caller can use.

    Raises:
        InvalidCheckpoint: the file is absent, truncated, of another format version or kind, or an
            array is missing, has another shape than was written or a value that is not finite.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            written = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InvalidCheckpoint(f"{path}: there is no such file") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InvalidCheckpoint(
            f"{path}: truncated or no checkpoint at all ({path.stat().st_size} bytes; {error})"
        ) from error
    info = _info(path, written)
    if info.kind != kind:
        raise InvalidCheckpoint(f"{path}: a {info.kind} checkpoint; a {kind} one is needed")
    require_shapes(path, arrays, info.shapes)
    _require_finite(path, arrays)
    return Checkpoint(info=info, arrays=arrays)


def require_shapes(
    path: Path, arrays: Mapping[str, Array], shapes: Mapping[str, Sequence[int]]
) -> None:
    """Refuses arrays that lack one of these or have another shape; more arrays are let through.

    Raises:
        InvalidCheckpoint: names the first that is wrong.
    """
    for name, shape in shapes.items():
        if name not in arrays:
            raise InvalidCheckpoint(f"{path}: array {name!r} is missing")
        if arrays[name].shape != tuple(shape):
            raise InvalidCheckpoint(
                f"{path}: array {name!r} has shape {arrays[name].shape}; it must be {tuple(shape)}"
            )


def _info(path: Path, written: Mapping[str, str]) -> CheckpointInfo:
    version = written.get("format_version")
    if version != str(FORMAT_VERSION):
        found = "no format version" if version is None else f"format version {version}"
        raise InvalidCheckpoint(f"{path}: {found}; this code reads version {FORMAT_VERSION}")
    names = {entry.name for entry in fields(CheckpointInfo)}
    missing = sorted(names - written.keys())
    if missing:
        raise InvalidCheckpoint(f"{path}: metadata lack {', '.join(missing)}")
    try:
        return CheckpointInfo(**{name: json.loads(written[name]) for name in names})
    except json.JSONDecodeError as error:
        raise InvalidCheckpoint(f"{path}: metadata are damaged ({error})") from error


def _require_finite(path: Path, arrays: Mapping[str, Array]) -> None:
    for name, value in arrays.items():
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            place = tuple(int(index) for index in np.argwhere(~np.isfinite(value))[0])
            raise InvalidCheckpoint(
                f"{path}: array {name!r} is {value[place]} at {place}; it must be finite"
            )
