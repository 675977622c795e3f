"""The bound on the length of a Unix socket's path, told before the kernel's riddle is.

Owns the check only.
"""

from __future__ import annotations

import os
import pathlib

# sun_path is 108 bytes long and ends in a zero byte.
SOCKET_PATH_BYTES_MAX = 107


def check_socket_path(path: pathlib.Path) -> pathlib.Path:
    """Returns `path`; raises ValueError with what to do when no socket can have it."""
    size_bytes = len(os.fsencode(path))
    if size_bytes > SOCKET_PATH_BYTES_MAX:
        raise ValueError(
            f"the socket path {path} is {size_bytes} bytes long, but Linux allows "
            f"{SOCKET_PATH_BYTES_MAX}: choose a shorter data directory"
        )
    return path
