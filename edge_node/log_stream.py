"""Standard error for a log that holds nobody up: a line that cannot be written is lost, no more.

Owns the lines that wait and the thread that writes them. Behind standard error there may be a pipe
that nobody reads, and a write to it never returns: whoever logs must not wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator

WAITING_BYTES_MAX = 2**20
# That the last lines of a process may take.
DRAIN_S_MAX = 1.0


class LossyStream:
    """What a log handler writes to; beyond `waiting_bytes_max` the newest lines are lost."""

    def __init__(self, descriptor: int, *, waiting_bytes_max: int = WAITING_BYTES_MAX) -> None:
        self._descriptor = descriptor
        self._waiting_bytes_max = waiting_bytes_max
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._changed = threading.Condition()
        # The interpreter does not wait for it at its end, wherever it is.
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def write(self, text: str) -> None:
        """Takes it, and returns at once."""
        content = text.encode(errors="backslashreplace")
        with self._changed:
            if self._waiting_bytes + len(content) > self._waiting_bytes_max:
                self._lost += 1
                return
            if self._lost:
                content = b"%d lines of this log were lost: nobody read it\n" % self._lost + content
                self._lost = 0
            self._waiting.append(content)
            self._waiting_bytes += len(content)
            self._changed.notify_all()

    def flush(self) -> None:
        """Nothing to do: see `drain`."""

    def drain(self, *, within_s: float) -> None:
        """Returns when all is written, or after `within_s`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, within_s)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                content = self._waiting[0]
            with contextlib.suppress(OSError):
                rest = memoryview(content)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            with self._changed:
                self._waiting.popleft()
                self._waiting_bytes -= len(content)
                self._changed.notify_all()


@contextlib.contextmanager
def log_holds_nobody_up() -> Iterator[None]:
    """What this process logs to standard error goes there by a stream that does not wait."""
    error = sys.__stderr__
    handlers = [
        one
        for one in logging.getLogger().handlers
        if isinstance(one, logging.StreamHandler) and one.stream is error
    ]
    if error is None or not handlers:
        yield
        return
    stream = LossyStream(error.fileno())
    for handler in handlers:
        handler.setStream(stream)
    try:
        yield
    finally:
        stream.drain(within_s=DRAIN_S_MAX)
