"""`dedgeai logs`: what the nodes of a cluster on this machine have written.

Owns finding the files and telling their lines apart. What runs in containers or under systemd keeps
its log there, and a sentence says how it is read.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

from edge_node.errors import InvalidRequest

LOOK_AGAIN_S = 0.3
# Of a process beside the node: worker, learner and store write there.
_BESIDE = "run"


def show_logs(folder: Path | None, names: list[str], *, lines: int, follow: bool) -> int:
    """Prints the last lines of each log, and what comes until Ctrl-C where they are followed.

    Args:
        folder: of a cluster (`dedgeai cluster --data`) or the data_folder of a node; None for the
            latest cluster of this user in a temporary folder.
        names: of nodes, or as node-0/worker; all if there are none.
        lines: of each.
        follow: whether to go on.

    Raises:
        InvalidRequest: there is no log, or none of that name.
    """
    root = folder or _latest_cluster()
    found = _logs_in(root)
    chosen = {
        name: path
        for name, path in found.items()
        if not names or name in names or name.partition("/")[0] in names
    }
    unknown = [one for one in names if not any(f"{name}/".startswith(f"{one}/") for name in found)]
    if unknown or not chosen:
        raise InvalidRequest(
            f"There is no log of {unknown[0]} in {root}: it has {', '.join(found)}."
            if unknown
            else f"There is no log in {root}: give --data the folder of a cluster or a node; "
            "containers have theirs at `docker compose logs node worker`."
        )
    width = max(map(len, chosen))
    ends = {name: _print_last(name, path, lines, width) for name, path in chosen.items()}
    while follow:
        time.sleep(LOOK_AGAIN_S)
        for name, path in chosen.items():
            ends[name] = _print_from(name, path, ends[name], width)
    return 0


def _latest_cluster() -> Path:
    """The newest temporary folder with a cluster's logs that is this user's."""
    temporary = Path(tempfile.gettempdir()).glob("dedgeai-*")
    mine = [path for path in temporary if path.is_dir() and path.stat().st_uid == os.getuid()]
    with_logs = [path for path in mine if _logs_in(path)]
    if not with_logs:
        raise InvalidRequest(
            "No cluster runs in a temporary folder: give --data the folder of one, or of a node; "
            "containers have their logs at `docker compose logs node worker`."
        )
    return max(with_logs, key=lambda path: path.stat().st_mtime)


def _logs_in(root: Path) -> dict[str, Path]:
    """By name: of the nodes of a cluster, or of one node's folder."""
    nodes = [path.parent for path in sorted(root.glob("*/node.log"))]
    found = {}
    for node in nodes or [root]:
        if (node / "node.log").exists():
            found[node.name] = node / "node.log"
        found |= {f"{node.name}/{one.stem}": one for one in sorted((node / _BESIDE).glob("*.log"))}
    return found


def _print_last(name: str, path: Path, lines: int, width: int) -> int:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in deque(file, maxlen=lines):
            _print(name, line, width)
        return file.tell()


def _print_from(name: str, path: Path, start: int, width: int) -> int:
    """What was written since; from the beginning where the file is a new one."""
    if not path.exists():
        return 0
    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(start if path.stat().st_size >= start else 0)
        for line in file:
            _print(name, line, width)
        return file.tell()


def _print(name: str, line: str, width: int) -> None:
    print(f"{name:<{width}} | {line.rstrip()}")
    sys.stdout.flush()
