"""One node to a data folder: its lock."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from edge_node.errors import InvalidRequest


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
