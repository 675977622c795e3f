"""The node's children beside its worker: the embedded store and the learner.

Owns how each is kept running; the worker is `supervision.worker_process`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_node.store.embedded_valkey import AnswerWatch, valkey_command, watch
from edge_node.supervision.child_process import (
    Backoff,
    ChildCommand,
    ChildExit,
    ChildProcess,
    supervise,
)

log = logging.getLogger(__name__)

# Without an answer, for a store that computes.
BUSY_S_MAX = 60.0


async def keep_store(
    folder: Path, *, socket_path: Path, on_exited: Callable[[ChildExit], None] = lambda ended: None
) -> None:
    """Keeps a Valkey that serves `socket_path` from `folder`/store, until it is cancelled.

    `on_exited` is told each of its ends.
    """
    child = _child("store", valkey_command(folder / "store", socket_path), run_dir=folder / "run")
    watched = AnswerWatch(socket_path)

    def hung(silence_s: float) -> None:
        if child.waits_for_disk or (child.is_busy and silence_s < BUSY_S_MAX):
            return  # it waits for its disk, or works, or would if it were let
        watched.began_anew()
        log.error("store hangs, it has not answered for %.1f s", silence_s)
        child.kill()

    async with asyncio.TaskGroup() as group:
        group.create_task(watch(watched, hung=hung, is_stopped=lambda: child.is_stopped))
        group.create_task(
            _keep(
                child,
                backoff=Backoff(first_s=0.1, max_s=5.0),
                level=logging.ERROR,
                began=watched.began_anew,
                on_exited=on_exited,
            )
        )


async def keep_learner(command: Sequence[str], *, folder: Path) -> None:
    """Keeps a learner, until it is cancelled.

    One that cannot work here is tried again seldom, and nothing waits for it.
    """
    await _keep(
        _child("learner", command, run_dir=folder / "run"),
        backoff=Backoff(first_s=1.0, max_s=300.0, healthy_s=60.0),
        level=logging.WARNING,
    )


async def _keep(
    child: ChildProcess,
    *,
    backoff: Backoff,
    level: int,
    began: Callable[[], None] = lambda: None,
    on_exited: Callable[[ChildExit], None] = lambda ended: None,
) -> None:
    name = child.command.name

    async def started(pid: int) -> None:
        log.info("%s runs as process %d", name, pid)
        began()

    async def exited(ended: ChildExit) -> None:
        said = " | ".join(ended.last_lines)
        log.log(level, "%s ended with code %d: %s", name, ended.code, said)
        on_exited(ended)

    await supervise(child, backoff=backoff, on_started=started, on_exited=exited)


def _child(name: str, arguments: Sequence[str], *, run_dir: Path) -> ChildProcess:
    command = ChildCommand(
        name=name,
        arguments=tuple(arguments),
        pid_path=run_dir / f"{name}.pid",
        log_path=run_dir / f"{name}.log",
    )
    return ChildProcess(command)
