"""The node's children beside its worker: the embedded store and the learner.

Owns how each is kept running; the worker is `supervision.worker_process`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from edge_node.store.embedded_valkey import valkey_command
from edge_node.supervision.child_process import (
    Backoff,
    ChildCommand,
    ChildExit,
    ChildProcess,
    supervise,
)

log = logging.getLogger(__name__)


async def keep_store(folder: Path, *, socket_path: Path) -> None:
    """Keeps a Valkey that serves `socket_path` from `folder`/store, until it is cancelled."""
    await _keep(
        "store",
        valkey_command(folder / "store", socket_path),
        run_dir=folder / "run",
        backoff=Backoff(first_s=0.1, max_s=5.0),
        level=logging.ERROR,
    )


async def keep_learner(command: Sequence[str], *, folder: Path) -> None:
    """Keeps a learner, until it is cancelled.

    One that cannot work here is tried again seldom, and nothing waits for it.
    """
    await _keep(
        "learner",
        command,
        run_dir=folder / "run",
        backoff=Backoff(first_s=1.0, max_s=300.0, healthy_s=60.0),
        level=logging.WARNING,
    )


async def _keep(
    name: str, arguments: Sequence[str], *, run_dir: Path, backoff: Backoff, level: int
) -> None:
    async def started(pid: int) -> None:
        log.info("%s runs as process %d", name, pid)

    async def exited(ended: ChildExit) -> None:
        said = " | ".join(ended.last_lines)
        log.log(level, "%s ended with code %d: %s", name, ended.code, said)

    command = ChildCommand(
        name=name,
        arguments=tuple(arguments),
        pid_path=run_dir / f"{name}.pid",
        log_path=run_dir / f"{name}.log",
    )
    await supervise(ChildProcess(command), backoff=backoff, on_started=started, on_exited=exited)
