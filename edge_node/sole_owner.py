"""One node to a data folder: that it can be used, and its lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edge_node.errors import InvalidRequest


def make_data_folder(data_folder: Path) -> Path:
    """The folder without links, made if it is not there.

    Raises:
        InvalidRequest: it cannot be made or written to.
    """
    try:
        data_folder.mkdir(parents=True, exist_ok=True)
        if not os.access(data_folder, os.W_OK | os.X_OK):
            raise PermissionError(f"user {os.getuid()} may not write to it")
    except OSError as problem:
        raise InvalidRequest(
            f"The data folder {data_folder} cannot be used: {problem}. Mend that, or set "
            "data_folder to another one.",
            param="data_folder",
        ) from problem
    return data_folder.resolve()


@contextlib.contextmanager
def sole_owner(data_folder: Path) -> Iterator[None]:
    """Holds a data folder; a second node on it would end the first one's children.

    Raises:
        InvalidRequest: another node holds it.
    """
    with (data_folder / "node.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRequest(
                f"Another node uses {data_folder}. Stop it, or give this one its own data_folder.",
                param="data_folder",
            ) from None
        yield
