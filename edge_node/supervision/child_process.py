"""One child process of the node: started, logged, stopped, restarted, and never twice.

Owns the process and its record on disk. Two nets keep a `kill -9` of the node from leaving
children behind: the kernel signals the child when the node dies (see launcher.py), and the next
node ends whatever the record still names. It knows nothing of what the child does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import logging
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from edge_node.in_the_way import put_aside
from edge_node.supervision import launcher

log = logging.getLogger(__name__)

# Lines of the child's output that are told when it dies.
LAST_LINES = 20
_READ_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class ChildCommand:
    """What to run and how to treat it.

    Attributes:
        name: for messages.
        arguments: program and its arguments.
        pid_path: record of the running child; one node at a time may use it.
        log_path: standard output and error; the previous part is kept with suffix `.1`.
        environment: variables added to the node's own.
        stop_signal: asks the child to end.
        stop_grace_s: after which it is killed.
        death_signal: what the kernel sends when the node dies.
        log_bytes_max: of both parts of the log together.
    """

    name: str
    arguments: tuple[str, ...]
    pid_path: pathlib.Path
    log_path: pathlib.Path
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 5.0
    death_signal: signal.Signals = signal.SIGKILL
    log_bytes_max: int = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class ChildExit:
    """How a child ended: `code` is negative for a signal, `last_lines` its last output."""

    code: int
    lived_s: float
    last_lines: tuple[str, ...]


class ChildProcess:
    """At most one living process of a command; start again after it has ended.

    The kernel watches the thread that starts the child, not the process: call `start` from a
    thread that lives as long as the node, such as the main one.
    """

    def __init__(self, command: ChildCommand) -> None:
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._exited: asyncio.Future[ChildExit] | None = None
        self._log: _BoundedLog | None = None
        self._started_s = 0.0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._exited is not None and not self._exited.done()

    @property
    def waits_for_disk(self) -> bool:
        """Whether the kernel holds it until a disk or a page is there: no end can help that."""
        return "D" in self._states()

    @property
    def is_busy(self) -> bool:
        """Whether it computes, or would if it were let: then it is slow, or starved, not frozen."""
        return "R" in self._states()

    @property
    def is_stopped(self) -> bool:
        """Whether a signal has stopped it, as a whole: then nothing of it goes on, whatever it did.

        A debugger's stop is another one.
        """
        return self._states() == {"T"}

    def _states(self) -> set[str]:
        """Of its threads, as /proc has them: R, S, D, T and others."""
        found = set()
        for path in pathlib.Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # a thread that has ended
                found.add(path.read_text(errors="replace").rpartition(")")[2].split()[0])
        return found

    async def start(self) -> int:
        """Ends what a former node left behind, then starts; returns the process id."""
        assert not self.running, "a child is started once at a time"
        command = self.command
        await asyncio.to_thread(
            end_recorded_process,
            command.pid_path,
            stop_signal=command.stop_signal,
            grace_s=command.stop_grace_s,
        )
        command.log_path.parent.mkdir(parents=True, exist_ok=True)
        command.pid_path.parent.mkdir(parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        output, child_output = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - fork and exec of a small program
                _launched(command),
                stdin=subprocess.DEVNULL,
                stdout=child_output,
                stderr=child_output,
                env={**os.environ, **command.environment},
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(child_output)
        self._started_s = time.monotonic()
        self._log = _BoundedLog(command, output=output, loop=loop)
        self._exited = loop.create_future()
        descriptor = os.pidfd_open(self._process.pid)
        loop.add_reader(descriptor, self._reap, descriptor)
        return self._process.pid

    async def wait(self) -> ChildExit:
        """Returns when the child has ended; it may be called by several at once."""
        assert self._exited is not None, "start comes first"
        return await asyncio.shield(self._exited)

    async def stop(self) -> None:
        """Asks the child to end, and kills it after the grace."""
        if not self.running:
            return
        self._signal(self.command.stop_signal)
        try:
            await asyncio.wait_for(self.wait(), self.command.stop_grace_s)
        except TimeoutError:
            self.kill()
            await self.wait()

    def kill(self) -> None:
        """Ends the child at once, even a stopped or a hung one."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Not reaped yet, so that the id cannot belong to another process.
        if self.running and self._process is not None:
            self._process.send_signal(number)

    def _reap(self, descriptor: int) -> None:
        assert self._process is not None
        assert self._exited is not None
        assert self._log is not None
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        code = self._process.wait()
        lived_s = time.monotonic() - self._started_s
        # Whatever the disk says to the rest: who waits for the end hears of it.
        try:
            self._log.close()
            self.command.pid_path.unlink(missing_ok=True)
        except OSError as problem:
            log.warning("what is left of %s cannot be put away: %s", self.command.name, problem)
        finally:
            ended = ChildExit(code=code, lived_s=lived_s, last_lines=self._log.last_lines)
            self._exited.set_result(ended)


def _launched(command: ChildCommand) -> list[str]:
    return [
        sys.executable,
        "-I",
        "-S",
        launcher.__file__,
        str(os.getpid()),
        str(int(command.death_signal)),
        str(command.pid_path),
        "--",
        *command.arguments,
    ]


def end_recorded_process(
    pid_path: pathlib.Path, *, stop_signal: signal.Signals, grace_s: float
) -> bool:
    """Ends the process that the record names, if it still is that very process.

    A process id alone may long belong to a stranger; together with its start time and the boot it
    cannot. Returns whether there was one to end; blocks until it is gone.
    """
    try:
        pid_text, ticks_text, boot_id = pid_path.read_text(encoding="ascii").split()
        ticks = int(ticks_text)
        descriptor = os.pidfd_open(int(pid_text))
    except (FileNotFoundError, ProcessLookupError):
        pid_path.unlink(missing_ok=True)
        return False
    except (ValueError, OverflowError, OSError) as problem:
        if isinstance(problem, OSError) and problem.errno not in (errno.EINVAL, errno.EISDIR):
            raise
        put_aside(pid_path)  # it is no record
        return False
    try:
        # Compared after the descriptor is held: from here on the id cannot pass to another.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            same = launcher.start_ticks(int(pid_text)) == ticks
            if same and launcher.boot_id() == boot_id:
                _end(descriptor, stop_signal=stop_signal, grace_s=grace_s)
                return True
        return False
    finally:
        os.close(descriptor)
        pid_path.unlink(missing_ok=True)


def _end(descriptor: int, *, stop_signal: signal.Signals, grace_s: float) -> None:
    # A process descriptor becomes readable when its process has ended.
    signal.pidfd_send_signal(descriptor, stop_signal)
    if not select.select([descriptor], [], [], grace_s)[0]:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [])


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Waits between restarts: `first_s`, doubled up to `max_s`, from the start after a spell."""

    first_s: float = 0.2
    max_s: float = 30.0
    healthy_s: float = 20.0

    def wait_s(self, *, previous_s: float | None, lived_s: float, worked: bool = False) -> float:
        """Wait after a life of `lived_s`, given the wait before it; `worked` as a longer one."""
        if previous_s is None or worked or lived_s >= self.healthy_s:
            return self.first_s
        return min(self.max_s, 2.0 * previous_s)


async def supervise(
    child: ChildProcess,
    *,
    backoff: Backoff,
    on_started: Callable[[int], Awaitable[None]],
    on_exited: Callable[[ChildExit], Awaitable[None]],
    worked: Callable[[], bool] = lambda: False,
) -> None:
    """Keeps `child` running until this coroutine is cancelled, and then stops it.

    A life in which it `worked` makes the next wait a first one: what it died of was its work.
    """
    wait_s: float | None = None
    try:
        while True:
            pid = await child.start()
            await on_started(pid)
            ended = await child.wait()
            had_worked = worked()
            await on_exited(ended)
            wait_s = backoff.wait_s(previous_s=wait_s, lived_s=ended.lived_s, worked=had_worked)
            await asyncio.sleep(wait_s)
    finally:
        await child.stop()


class _BoundedLog:
    """Copies a pipe into a file of bounded size; two parts, the older one is dropped."""

    def __init__(
        self, command: ChildCommand, *, output: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._lines: deque[str] = deque([""], maxlen=LAST_LINES + 1)
        self._path = command.log_path
        self._part_bytes_max = command.log_bytes_max // 2
        self._output = output
        self._loop = loop
        self._open = True
        self._file: io.FileIO | None = None
        self._refused = False
        self._keep(b"")
        os.set_blocking(output, False)
        loop.add_reader(output, self._copy)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines that are not empty, oldest first."""
        return tuple(line for line in self._lines if line)

    def close(self) -> None:
        """Takes what is left in the pipe; a grandchild that holds it open is not waited for."""
        while self._open and self._copy():
            pass
        self._end()

    def _copy(self) -> bool:
        try:
            content = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return False
        if not content:
            self._end()
            return False
        self._keep(content)
        # What was read last may be half a line, which the next reading completes.
        head, *tail = content.decode(errors="replace").split("\n")
        self._lines[-1] += head
        self._lines.extend(tail)
        return True

    def _keep(self, content: bytes) -> None:
        """Writes it, or loses it where the disk refuses: a log is only a comment."""
        try:
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            if self._file.tell() + len(content) > self._part_bytes_max:
                self._close_file()
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self._file = self._path.open("ab", buffering=0)
            self._file.write(content)
        except OSError as problem:
            self._close_file()
            if not self._refused:
                log.warning("%s loses lines: %s", self._path, problem)
            self._refused = True
        else:
            self._refused = False

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what a disk refused may be told again here
                file.close()

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._output)
            os.close(self._output)
            self._close_file()
