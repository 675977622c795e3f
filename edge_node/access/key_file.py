"""The keys that a node asks for: in a file, looked at while the node runs, or handed to it.

A node without the file asks for no keys. One that has had it goes on with the last list that it
could read, whatever becomes of the file: that somebody damages or removes it opens nothing.

Where the cluster has certificates a list counts that its authority has signed, and of two the
greater one, wherever it comes from: the file, what came with the certificate, another node, whoever
operates. So it is written to the file in the place of what is less.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edge_node.access.keys import ANYBODY, NO_KEYS, Client, KeyList, KeysHeld, UnreadableKeys
from edge_node.access.signed_list import NotSigned, SignedKeys
from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
_MODE = 0o600

# The list in a text, if its signature is good; raises NotSigned or UnreadableKeys.
Verify = Callable[[bytes], SignedKeys]


def path_of(config: NodeConfig) -> Path:
    """Where a node's keys are."""
    return config.keys_file or config.data_folder / "keys.json"


class _Found(NamedTuple):
    """A list, and how it was signed; nothing where nobody asks for that."""

    keys: KeyList
    held: KeysHeld = NO_KEYS
    text: bytes = b""


class KeyFile:
    """What a node knows of keys.

    Args:
        path: of the file.
        verify: where only signed lists count.
        beside: another file, looked at and never written.

    Raises:
        InvalidRequest: there is a file, and it cannot be read.
    """

    def __init__(
        self, path: Path, *, verify: Verify | None = None, beside: Path | None = None
    ) -> None:
        self._path = path
        self._verify = verify
        self._on_changed: Callable[[KeysHeld], None] = lambda held: None
        paths = (path,) if beside is None else (path, beside)
        self._seen = {one: _stamp(one) for one in paths}
        there = {one: self._read(one) for one, seen in self._seen.items() if seen is not None}
        self._found = max(there.values(), key=lambda found: found.held, default=None)
        self._behind = there.get(path) is not self._found
        self._passed_on = self._found is not None
        self._offering = asyncio.Lock()

    @property
    def asked_for(self) -> bool:
        """Whether requests need a key."""
        return self._found is not None

    @property
    def held(self) -> KeysHeld:
        """Which signed list is in force."""
        return NO_KEYS if self._found is None else self._found.held

    @property
    def passed_on(self) -> KeysHeld:
        """Which signed list others can have of this node."""
        return self.held if self._passed_on else NO_KEYS

    def tell(self, on_changed: Callable[[KeysHeld], None]) -> None:
        """From now on, and now, `on_changed` is told which signed list is passed on."""
        self._on_changed = on_changed
        on_changed(self.passed_on)

    def signed(self) -> bytes:
        """The list in force with its signature; empty where others can have none."""
        return b"" if self._found is None or not self._passed_on else self._found.text

    def client(self, key: str | None) -> Client | None:
        """Who asks with this key, or with none; None for nobody who may."""
        if self._found is None:
            return ANYBODY
        return None if key is None else self._found.keys.client(key)

    async def run(self) -> None:
        """Looks for another list until it is cancelled."""
        if self._behind:
            self._write_back()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Takes the list up if a file has changed, or writes the one in force over a lesser."""
        for path, seen in self._seen.items():
            stamp = _stamp(path)
            if stamp != seen:
                self._seen[path] = stamp
                self._look_at(path)

    def _look_at(self, path: Path) -> None:
        own = path == self._path
        try:
            found = self._read(path)
        except InvalidRequest as error:
            log.error("the keys stay as they are: %s", error.message)
            if own:
                self._write_back()
            return
        if self._verify is None or found.held > self.held:
            self._take(found)
            if not own:
                self._write_back()
        elif own and found.held < self.held:
            log.error(
                "the keys stay as they are: those in %s are older (version %d, not %d)",
                path,
                found.held.version,
                self.held.version,
            )
            self._write_back()

    async def offer(self, text: bytes) -> KeysHeld:
        """Takes a signed list that is greater than the one in force; returns which one it is.

        Raises:
            NotSigned, UnreadableKeys: it is not taken; nor is any where nobody's signature counts.
        """
        if self._verify is None:
            raise NotSigned("this node has no tls_folder by which a signature could be checked")
        async with self._offering:  # anybody may offer: no more than one thread is busy with it
            offered = await asyncio.to_thread(self._verify, text)
            if offered.held > self.held:
                self._take(_Found(offered.keys, offered.held, offered.text))
                await asyncio.to_thread(self._write_back)
        return offered.held

    async def check_again(self) -> None:
        """The authorities may be others: what they have not signed is not passed on to anybody."""
        if self._verify is None or self._found is None:
            return
        try:
            await asyncio.to_thread(self._verify, self._found.text)
            good = True
        except (NotSigned, UnreadableKeys) as problem:
            good = False
            if self._passed_on:
                log.error("the keys in force are passed on no more (%s): sign them again", problem)
        if good != self._passed_on:
            self._passed_on = good
            self._on_changed(self.passed_on)

    def _take(self, found: _Found) -> None:
        self._found, self._passed_on = found, True
        log.info("keys in force: version %d", found.keys.version)
        self._on_changed(self.passed_on)

    def _write_back(self) -> None:
        """The signed list in force, so that it is in force after a restart, too."""
        if not self.held.version or self._found is None:
            return
        try:
            with _locked(self._path.parent):
                _write(self._path, self._found.text)
        except OSError as problem:
            log.error("the keys in force cannot be written to %s: %s", self._path, problem)
        self._seen[self._path] = _stamp(self._path)

    def _read(self, path: Path) -> _Found:
        if self._verify is None:
            return _Found(read(path))
        try:
            signed = self._verify(path.read_bytes())
        except NotSigned as problem:
            raise InvalidRequest(
                f"The API keys in {path} do not count, because {problem}. Nodes with "
                "certificates take a list that the cluster's authority has signed: give keys out "
                "with dedgeai keys where the authority is.",
                param="keys_file",
            ) from None
        except (OSError, UnreadableKeys) as problem:
            raise _unreadable(path, problem) from None
        return _Found(signed.keys, signed.held, signed.text)


def read(path: Path) -> KeyList:
    """The list in a file that nobody has to have signed.

    Raises:
        InvalidRequest: it cannot be read.
    """
    try:
        return KeyList.decode(path.read_bytes())
    except (OSError, UnreadableKeys) as problem:
        raise _unreadable(path, problem) from None


def change(path: Path, changed: Callable[[KeyList], KeyList]) -> KeyList:
    """Puts another list in place of the one in a file, or of none; two at once take turns.

    Raises:
        InvalidRequest: the file cannot be read or written.
        ValueError: of `changed`.
    """

    def encoded(former: bytes | None) -> tuple[KeyList, bytes]:
        keys = changed(KeyList.empty() if former is None else read(path))
        return keys, keys.encode()

    return rewrite(path, encoded)


def rewrite(path: Path, changed: Callable[[bytes | None], tuple[KeyList, bytes]]) -> KeyList:
    """As `change`, of what stands in the file.

    Raises:
        InvalidRequest: the file cannot be read or written.
        ValueError: of `changed`.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.parent):
            keys, content = changed(path.read_bytes() if path.exists() else None)
            _write(path, content)
    except OSError as problem:
        raise InvalidRequest(
            f"The API keys in {path} cannot be written ({problem}).", param="keys_file"
        ) from None
    return keys


def _unreadable(path: Path, problem: Exception) -> InvalidRequest:
    return InvalidRequest(
        f"The API keys in {path} cannot be read ({problem}). Restore the file, or remove it "
        "and restart the node to give out new ones.",
        param="keys_file",
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns, status.st_size
