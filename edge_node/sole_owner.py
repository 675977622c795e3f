"""One node to a data folder: that it can be used, by one user and one node alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_node.errors import InvalidRequest


def keep_to_oneself() -> None:
    """What this process and its children write from here on is for their user alone."""
    os.umask(0o077)


def make_data_folder(data_folder: Path, *, parts: Sequence[str] = ()) -> Path:
    """The folder without links, made if it is not there.

    Args:
        data_folder: whatever its path.
        parts: folders in it, outer ones first, and patterns of files, that are to be read and
            written where they are there.

    Raises:
        InvalidRequest: it, or one of them, cannot be used.
    """
    try:
        data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_access(data_folder)
        for part in parts:
            for path in data_folder.glob(part):
                _require_access(path)
    except OSError as problem:
        raise InvalidRequest(
            f"The data folder {data_folder} cannot be used: {problem}. Mend that, or set "
            "data_folder to another one.",
            param="data_folder",
        ) from problem
    return data_folder.resolve()


def _require_access(path: Path) -> None:
    needed = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
    if not os.access(path, needed):
        raise PermissionError(
            f"user {os.getuid()}, as whom this runs, may not read and write {path}"
        )


@contextlib.contextmanager
def sole_owner(data_folder: Path) -> Iterator[None]:
    """Holds a data folder; a second node on it would end the first one's children.

    Raises:
        InvalidRequest: another node holds it, or it cannot be held.
    """
    path = data_folder / "node.lock"
    try:
        lock = path.open("w")
    except OSError as problem:
        raise InvalidRequest(
            f"{path}, by which a node holds its data folder, cannot be opened: {problem}.",
            param="data_folder",
        ) from problem
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRequest(
                f"Another node uses {data_folder}. Stop it, or give this one its own data_folder.",
                param="data_folder",
            ) from None
        yield
