"""The node's worker as one thing: its process, its connection, its state and its watchdog.

Owns restarting a worker that died or hangs and knowing whether it is ready. It decides nothing
about tasks, and it imports nothing that the worker imports: no torch, no diffusers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from edge_node import start_note
from edge_node.checkpoint import Checkpoint
from edge_node.config import NodeConfig
from edge_node.domain import AttemptReport, Drawing, Fence, TaskId, WorkerDescription, WorkerLoad
from edge_node.errors import WorkerUnavailable
from edge_node.lasting import Loops
from edge_node.shared_rows import RowGiven, RowWanted
from edge_node.start_note import DEATHS_AT_START_MAX
from edge_node.supervision.child_process import (
    Backoff,
    ChildCommand,
    ChildExit,
    ChildProcess,
    supervise,
)
from edge_node.supervision.progress import Progress
from edge_node.supervision.row_sharing import sharing
from edge_node.supervision.worker_client import WorkerClient
from edge_node.worker_options import WorkerOptions

LOG = logging.getLogger(__name__)

# How soon an unsettled worker (away, loading) is asked again.
_ASK_AGAIN_S = 0.1
# That compiling the blocks for a size that is new may take.
COMPILE_S_MAX = 60.0
# A failed worker may have been attached to a repaired one.
_ASK_FAILED_AGAIN_S = 1.0
# After its start a node waits so long for an attached worker whose last word is of before: whoever
# started the one may have mended the other.
FORMER_WORD_S = 60.0
# Of which a worker says all there is to say itself.
_SETTLED = ("ready", "failed")
# Of what it said last, in the reason.
_LAST_WORDS_MAX = 300


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Where the worker is and when it is taken for dead.

    Attributes:
        socket_path: of WorkerService.
        command: how to spawn it; None when something else does and it is only attached.
        hang_s: a ready worker that says nothing for so long beyond its longest operation, as it
            was calibrated, hangs.
        no_step_s: the same for one that has something to draw and does no step. Longer where
            blocks may be compiled for a size that is new.
        startup_s: the same for one that does not answer yet or still loads.
        backoff: waits between restarts.
    """

    socket_path: pathlib.Path
    command: ChildCommand | None
    hang_s: float = 5.0
    no_step_s: float = 60.0
    startup_s: float = 600.0
    backoff: Backoff = field(default_factory=Backoff)

    @classmethod
    def of(
        cls, config: NodeConfig, *, socket_path: pathlib.Path, run_dir: pathlib.Path
    ) -> WorkerSettings:
        """From the node's settings; a worker that it starts serves `socket_path`."""
        hang_s = config.worker_hang_s
        compiles = config.engine == "sd3" and config.compile_model != "never"
        no_step_s = max(hang_s, COMPILE_S_MAX) if compiles else hang_s
        if config.worker_socket is not None:
            path = config.worker_socket
            return cls(socket_path=path, command=None, hang_s=hang_s, no_step_s=no_step_s)
        options = WorkerOptions.of(config)
        command = worker_command(socket_path=socket_path, run_dir=run_dir, options=options)
        return cls(socket_path=socket_path, command=command, hang_s=hang_s, no_step_s=no_step_s)


def worker_command(
    *, socket_path: pathlib.Path, run_dir: pathlib.Path, options: WorkerOptions
) -> ChildCommand:
    """Command that spawns a worker.

    Args:
        socket_path: that it shall serve.
        run_dir: of its pid file and log.
        options: what it is told.
    """
    return ChildCommand(
        name="worker",
        arguments=tuple(options.command(socket_path)),
        pid_path=run_dir / "worker.pid",
        log_path=run_dir / "worker.log",
    )


class WorkerProcess:
    """A worker that is kept running (spawned) or kept connected (attached)."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        on_change: Callable[[], None] = lambda: None,
        loops: Loops | None = None,
    ) -> None:
        """Starts nothing yet; `loops` keeps the keeping of it going."""
        self._loops = loops or Loops()
        self._settings = settings
        self._on_change = on_change
        self._child = ChildProcess(settings.command) if settings.command else None
        self._client: WorkerClient | None = None
        self._running: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._description: WorkerDescription | None = None
        self._load: WorkerLoad | None = None
        self._ask_for_row: Callable[[RowWanted], Awaitable[RowGiven]] | None = None
        # When the worker last said anything, and whether it gets on.
        self._heard_s = 0.0
        self._progress = Progress(began_s=0.0)
        # What stands for the words of an attached worker that hangs, until it speaks again, and of
        # one that ends at its start, until one is there that has loaded or says why it cannot.
        self._stand_in: WorkerDescription | None = None
        self._began_s = time.monotonic()
        # Of this life of the process.
        self._was_ready = False
        self._deaths_at_start = 0
        self.last_exit: ChildExit | None = None
        self.starts = 0
        self.hangs = 0

    @property
    def description(self) -> WorkerDescription | None:
        """What the worker said of itself; None while it is away."""
        return self._description

    @property
    def load(self) -> WorkerLoad | None:
        """Its queue at the last message; None while it is away or not ready."""
        return self._load

    @property
    def ready(self) -> bool:
        """Whether it can draw."""
        return self._description is not None and self._description.state == "ready"

    @property
    def pid(self) -> int | None:
        """Its process id, if it was spawned here and runs."""
        return self._child.pid if self._child else None

    async def start(self) -> None:
        """Begins to keep the worker; returns at once, `on_change` tells when it is ready."""
        assert self._running is None, "a worker is started once"
        keep = self._keep_spawned if self._child else self._keep_attached
        self._running = self._loops.start("keeping the worker", keep, vital=True)

    async def stop(self) -> None:
        """Ends the worker if it was spawned, and the connection in any case."""
        if self._running is None:
            return
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running
        await self._disconnect()
        self._running = None

    def draw(
        self,
        *,
        task_id: TaskId,
        fence: Fence,
        drawing: Drawing,
        priority: int = 0,
        init_image: bytes = b"",
        deadline_s: float | None = None,
        client: str = "",
        checkpoint_steps: int = 0,
        checkpoint: Checkpoint | None = None,
        age_s: float = 0.0,
    ) -> AsyncGenerator[AttemptReport, None]:
        """As WorkerClient.draw; raises WorkerUnavailable at once while it is not ready."""
        if self._client is None or not self.ready:
            raise WorkerUnavailable(self._why_not_ready())
        return self._client.draw(
            task_id=task_id,
            fence=fence,
            drawing=drawing,
            priority=priority,
            init_image=init_image,
            deadline_s=deadline_s,
            client=client,
            checkpoint_steps=checkpoint_steps,
            checkpoint=checkpoint,
            age_s=age_s,
        )

    def hand_over(self, task_id: TaskId, fence: Fence) -> None:
        """As WorkerClient.hand_over; a worker that is away has lost the drawing anyway."""
        if self._client is not None:
            self._client.hand_over(task_id, fence)

    def share_rows(self, ask: Callable[[RowWanted], Awaitable[RowGiven]]) -> None:
        """Other devices compute rows for it, which `ask` finds, from when it is ready next."""
        self._ask_for_row = ask

    async def give_row(self, wanted: RowWanted) -> RowGiven:
        """As WorkerClient.give_row; raises WorkerUnavailable at once while it is not ready."""
        if self._client is None or not self.ready:
            raise WorkerUnavailable(self._why_not_ready())
        return await self._client.give_row(wanted)

    def _why_not_ready(self) -> str:
        described = self._description
        if described is not None and described.state == "failed":
            return described.detail
        if described is not None:
            detail = f": {described.detail}" if described.detail else ""
            return f"the worker is {described.state}{detail}"
        if self.last_exit is not None and self.last_exit.last_lines:
            return f"the worker ended: {self.last_exit.last_lines[-1]}"
        return "the worker is not there yet"

    # Keeping it.

    async def _keep_spawned(self) -> None:
        assert self._child is not None
        await self._disconnect()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_for_hangs())
            group.create_task(
                supervise(
                    self._child,
                    backoff=self._settings.backoff,
                    on_started=self._connect,
                    on_exited=self._take_exit,
                    worked=lambda: self._was_ready,
                )
            )

    async def _keep_attached(self) -> None:
        await self._disconnect()
        await self._connect(0)
        await self._watch_for_hangs()

    async def _connect(self, pid: int) -> None:
        self.starts += 1
        self._was_ready = False
        self._begin_anew()
        self._client = WorkerClient(self._settings.socket_path)
        self._following = self._loops.start(
            "following the worker", partial(self._follow, self._client), vital=True
        )

    async def _take_exit(self, ended: ChildExit) -> None:
        LOG.warning(
            "worker ended with code %d after %.1f s: %s",
            ended.code,
            ended.lived_s,
            ended.last_lines[-1] if ended.last_lines else "no output",
        )
        self.last_exit = ended
        self._deaths_at_start = 0 if self._was_ready else self._deaths_at_start + 1
        if self._deaths_at_start >= DEATHS_AT_START_MAX:
            detail = _dies_at_start(ended, times=self._deaths_at_start)
            self._stand_in = WorkerDescription(state="failed", detail=detail)
        await self._disconnect()

    async def _disconnect(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
            self._following = None
        if self._client is not None:
            await self._client.close()
            self._client = None
        self._take(description=self._stand_in, load=None)

    # Following what it says.

    async def _follow(self, client: WorkerClient) -> None:
        while True:
            try:
                description = await client.describe()
                left = None if description.state in _SETTLED else await self._left_word()
                if left is not None and left.state == "failed":
                    description = left
                self._hear(client, description=description, load=None)
                if description.state == "ready":
                    async with sharing(client, self._ask_for_row):
                        async for load in client.watch_load():
                            self._hear(client, description=description, load=load)
                wait_s = _ASK_FAILED_AGAIN_S if description.state == "failed" else _ASK_AGAIN_S
            except WorkerUnavailable:
                absent = self._stand_in
                if self._child is None:
                    absent = await self._left_word() or absent or self._nothing_answers
                self._take(description=absent, load=None)
                wait_s = _ASK_AGAIN_S
            except Exception:
                # Nothing is known of it any more: it must not go on as ready.
                self._take(description=None, load=None)
                raise
            await asyncio.sleep(wait_s)

    @property
    def _nothing_answers(self) -> WorkerDescription:
        detail = f"nothing answers at {self._settings.socket_path}"
        return WorkerDescription(state="away", detail=detail)

    async def _left_word(self) -> WorkerDescription | None:
        """What an attached worker left beside its socket of starts that did not come up."""
        if self._child is not None:
            return None
        note = await asyncio.to_thread(start_note.read, self._settings.socket_path)
        if note is None or not note.sentence:
            return None
        stands = note.ended_s >= self._began_s or time.monotonic() - self._began_s > FORMER_WORD_S
        state = "failed" if note.has_failed and stands else "starting"
        word = WorkerDescription(state=state, detail=note.sentence)
        if word != self._description:
            LOG.warning("worker is %s: %s", state, note.sentence)
        return word

    def _hear(
        self, client: WorkerClient, *, description: WorkerDescription, load: WorkerLoad | None
    ) -> None:
        self._heard_s = time.monotonic()
        settled = description.state in _SETTLED
        if settled or self._deaths_at_start < DEATHS_AT_START_MAX:
            self._stand_in = None
        self._was_ready = self._was_ready or description.state == "ready"
        self._progress.heard(load, given=client.given, now_s=self._heard_s)
        self._take(description=self._stand_in or description, load=load)

    def _begin_anew(self) -> None:
        self._heard_s = time.monotonic()
        self._progress = Progress(began_s=self._heard_s)

    def _take(self, *, description: WorkerDescription | None, load: WorkerLoad | None) -> None:
        changed = description != self._description or _shown(load) != _shown(self._load)
        self._description, self._load = description, load
        if changed:
            self._on_change()

    # The watchdog.

    async def _watch_for_hangs(self) -> None:
        pause_s = min(1.0, self._settings.hang_s / 4)
        while True:
            asleep_s = time.monotonic()
            await asyncio.sleep(pause_s)
            late_s = time.monotonic() - asleep_s - pause_s
            if late_s > pause_s:  # this process itself stood still, and heard nobody
                self._heard_s += late_s
                self._progress.forgive(late_s)
            silence = self._silence()
            if silence is None or (self._child is not None and self._child.waits_for_disk):
                continue
            self.hangs += 1
            LOG.error("worker hangs, %s", silence)
            if self._child is not None:
                self._begin_anew()
                self._child.kill()
            else:
                self._stand_in = WorkerDescription(state="hanging", detail=silence)
                await self._disconnect()
                await self._connect(0)

    def _silence(self) -> str | None:
        """What makes the worker look hung, or None."""
        now_s = time.monotonic()
        settings = self._settings
        longest_s = self._longest_s()
        allowed_s = settings.hang_s + longest_s if self.ready else settings.startup_s
        if self._child is not None and not self._child.running:
            return None
        silence_s = now_s - self._heard_s
        if self._child is not None and self._child.is_stopped:
            allowed_s = min(allowed_s, settings.hang_s)
        if silence_s > allowed_s and not (self._computes() and silence_s < COMPILE_S_MAX):
            return f"it has said nothing for {silence_s:.1f} s"
        if not self.ready:
            return None
        return self._progress.stuck(now_s=now_s, allowed_s=settings.no_step_s + longest_s)

    def _computes(self) -> bool:
        return self._child is not None and self._child.is_busy

    def _longest_s(self) -> float:
        """Of all that a worker does in one go, what takes longest, as calibrated and tracked."""
        described = self._description
        if described is None or not described.capacity > 0.0:
            return 0.0
        capacity = described.capacity
        if self._load is not None and 0.0 < self._load.capacity < capacity:
            capacity = self._load.capacity
        return described.work_in_one_go / capacity


def _dies_at_start(ended: ChildExit, *, times: int) -> str:
    said = (ended.last_lines[-1] if ended.last_lines else "it said nothing")[:_LAST_WORDS_MAX]
    how = f"with code {ended.code}" if ended.code >= 0 else f"by signal {-ended.code}"
    return f"it ended {times} times in a row at its start, {how}: {said.rstrip('.')}"


def _shown(load: WorkerLoad | None) -> WorkerLoad | None:
    """The load without what changes all the time and matters to nobody's decision."""
    return dataclasses.replace(load, resident_bytes=0) if load else None
