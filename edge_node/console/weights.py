"""`dedgeai weights verify`: whether a model's files are still those that were recorded.

Owns the list of sums, which is one that `sha256sum --check` takes, and the comparison. What the
loader can tell of weights by themselves it refuses; that a byte is another than where they came
from, a sum alone tells.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest
from edge_node.worker import model_files
from edge_node.worker.denoiser import ModelUnusable
from edge_node.worker.safetensors_file import StoredTensor
from edge_node.worker.tiny_sd3 import model_folder

SUMS_NAME = "SHA256SUMS"
_LINE = re.compile(r"\\?([0-9a-fA-F]{64}) [ *](.+)")


def verify_weights(config: NodeConfig, *, sums: Path | None, record: bool) -> int:
    """Compares the model's files with the list, or writes the list where there is none.

    Args:
        config: names the model.
        sums: the list; beside the weights when None.
        record: write it anew, whatever it says.

    Returns:
        0 when all are as recorded, 1 when one is not.

    Raises:
        InvalidRequest: there is no model, or the list is none or cannot be written.
    """
    model = (config.model or model_folder()).absolute()
    folder = model if model.is_dir() else model.parent
    listed = sums or folder / SUMS_NAME
    if record or not listed.exists():
        paths = sorted(_weights_of(config, model))
        lines = [f"{_sha256(path)}  {os.path.relpath(path, folder)}\n" for path in paths]
        try:
            listed.write_text("".join(lines), encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(
                f"{listed} cannot be written ({error.strerror}): name another place with --sums."
            ) from None
        print(f"Recorded the sums of {len(paths)} files in {listed}.")
        return 0
    wanted = _read(listed)
    wrong = [said for name, digest in wanted.items() if (said := _wrong(folder / name, digest))]
    for said in wrong:
        print(said)
    if wrong:
        print(f"{len(wrong)} of {len(wanted)} files are not as {listed} has them: copy them again.")
        return 1
    print(f"All {len(wanted)} files are as {listed} has them.")
    return 0


def _weights_of(config: NodeConfig, model: Path) -> set[Path]:
    """The files that the worker reads weights from."""
    try:
        files = model_files.find(
            model, config.clip_files or (), config_folder=config.single_file_configs
        )
    except ModelUnusable as error:
        raise InvalidRequest(f"{error}.") from None
    sources = (source for part in files.parts.values() for source in part.sources.values())
    return {source.path for source in sources if isinstance(source, StoredTensor)}


def _read(listed: Path) -> dict[str, str]:
    """Sums by name."""
    wanted = {}
    for number, line in enumerate(_lines(listed), start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise InvalidRequest(
                f"Line {number} of {listed} is no sum and name, as sha256sum writes them: mend "
                "it, or write it anew with --record."
            )
        wanted[found[2]] = found[1].lower()
    if not wanted:
        raise InvalidRequest(f"{listed} has no sums: write it anew with --record.")
    return wanted


def _lines(listed: Path) -> Iterable[str]:
    try:
        return listed.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{listed} cannot be read: {error}.") from None


def _wrong(path: Path, digest: str) -> str:
    try:
        found = _sha256(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}."
    return "" if found == digest else f"{path} has the sum {found}, not {digest}."


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        # Weights that are hashed are not about to be read: a Jetson's GPU shares this memory.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return digest
