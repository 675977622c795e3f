"""Where Unix sockets are, and the bound on their paths, told before the kernel's riddle is.

Owns names, and that nothing else lies there: it makes no folder and no socket.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import tempfile

from edge_node.in_the_way import put_aside

# sun_path is 108 bytes long and ends in a zero byte.
SOCKET_PATH_BYTES_MAX = 107


def socket_folder(data_folder: pathlib.Path) -> pathlib.Path:
    """For a node's own sockets: its data folder, or a short name where that is too long."""
    folder = data_folder / "run"
    if len(os.fsencode(folder / "worker.sock")) <= SOCKET_PATH_BYTES_MAX:
        return folder
    digest = hashlib.sha256(str(data_folder).encode()).hexdigest()[:16]
    return pathlib.Path(tempfile.gettempdir()) / f"dedgeai-{digest}"


def cleared(path: pathlib.Path) -> pathlib.Path:
    """Where a child is to listen: it takes the place of a socket, and of nothing else."""
    if path.exists() and not path.is_socket():
        put_aside(path)
    return path


def check_socket_path(path: pathlib.Path) -> pathlib.Path:
    """Returns `path`; raises ValueError with what to do when no socket can have it."""
    size_bytes = len(os.fsencode(path))
    if size_bytes > SOCKET_PATH_BYTES_MAX:
        raise ValueError(
            f"the socket path {path} is {size_bytes} bytes long, but Linux allows "
            f"{SOCKET_PATH_BYTES_MAX}: choose a shorter data directory"
        )
    return path
