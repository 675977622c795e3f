"""The file of a node's keys: written whole by `dedgeai keys`, read by the node while it runs.

A node without the file asks for no keys. One that has had it goes on with the last list that it
could read, whatever becomes of the file: that somebody damages or removes it opens nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_node.access.keys import ANYBODY, Client, KeyList, UnreadableKeys
from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
_MODE = 0o600


def path_of(config: NodeConfig) -> Path:
    """Where a node's keys are."""
    return config.keys_file or config.data_folder / "keys.json"


class KeyFile:
    """What a node knows of keys.

    Raises:
        InvalidRequest: there is a file, and it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problem = ""
        self._seen = _stamp(path)
        self._keys = None if self._seen is None else read(path)

    @property
    def asked_for(self) -> bool:
        """Whether requests need a key."""
        return self._keys is not None

    def client(self, key: str | None) -> Client | None:
        """Who asks with this key, or with none; None for nobody who may."""
        if self._keys is None:
            return ANYBODY
        return None if key is None else self._keys.client(key)

    async def run(self) -> None:
        """Looks for another list until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Takes the list up if it has changed."""
        stamp = _stamp(self._path)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = read(self._path)
        except InvalidRequest as error:
            log.error("the keys stay as they are: %s", error.message)
        else:
            log.info("keys in force: version %d", self._keys.version)


def read(path: Path) -> KeyList:
    """The list in a file.

    Raises:
        InvalidRequest: it cannot be read.
    """
    try:
        return KeyList.decode(path.read_bytes())
    except (OSError, UnreadableKeys) as problem:
        raise InvalidRequest(
            f"The API keys in {path} cannot be read ({problem}). Restore the file, or remove it "
            "and restart the node to give out new ones.",
            param="keys_file",
        ) from None


def change(path: Path, changed: Callable[[KeyList], KeyList]) -> KeyList:
    """Puts another list in place of the one in a file, or of none; two at once take turns.

    Raises:
        InvalidRequest: the file cannot be read or written.
        ValueError: of `changed`.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path):
            keys = changed(read(path) if path.exists() else KeyList.empty())
            _write(path, keys.encode())
    except OSError as problem:
        raise InvalidRequest(
            f"The API keys in {path} cannot be written ({problem}).", param="keys_file"
        ) from None
    return keys


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
