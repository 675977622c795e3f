"""Event loops on one virtual clock, one for each process of a simulated cluster.

All loops take their turns from one queue in the order of its times, so that a run is decided by
its seed alone. A loop can be frozen, as SIGSTOP does it, and ended, as `kill -9` does it: then
nothing of it runs ever again, not even a `finally`.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context
from typing import Any

# Callbacks without any time passing, after which the run hangs in a circle.
IDLE_CALLBACKS_MAX = 200_000


class VirtualTime:
    """The clock and the queue of everything that is to happen."""

    def __init__(self) -> None:
        self.now_s = 0.0
        # What a loop could not handle itself: a bug, of the shell or of the simulation.
        self.unhandled: list[str] = []
        self._queue: list[tuple[float, int, asyncio.Handle, ProcessLoop]] = []
        self._scheduled = 0
        self._generators: weakref.WeakKeyDictionary[AsyncGenerator[Any, Any], ProcessLoop]
        self._generators = weakref.WeakKeyDictionary()

    def push(self, when_s: float, handle: asyncio.Handle, loop: ProcessLoop) -> None:
        """Schedules a callback of a loop."""
        self._scheduled += 1
        heapq.heappush(self._queue, (when_s, self._scheduled, handle, loop))

    def run(self, *, until_s: float, on_advance: Callable[[], bool]) -> None:
        """Runs everything due before `until_s`, or until `on_advance` returns True.

        Args:
            until_s: the end.
            on_advance: called whenever all that was to happen at one time has happened.
        """
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._generator_begun, finalizer=self._generator_dropped)
        try:
            self._run(until_s, on_advance)
        finally:
            sys.set_asyncgen_hooks(*hooks)

    def _run(self, until_s: float, on_advance: Callable[[], bool]) -> None:
        idle = 0
        while self._queue and self._queue[0][0] <= until_s:
            when_s, _, handle, loop = heapq.heappop(self._queue)
            if loop.ended or handle.cancelled():
                continue
            if when_s < loop.frozen_until_s:
                self.push(loop.frozen_until_s, handle, loop)
                continue
            if when_s > self.now_s:
                if on_advance():
                    return
                self.now_s, idle = when_s, 0
            idle += 1
            assert idle < IDLE_CALLBACKS_MAX, f"time stands still at {self.now_s}"
            loop.run(handle)

    def _generator_begun(self, generator: AsyncGenerator[Any, Any]) -> None:
        running = asyncio.get_running_loop()
        assert isinstance(running, ProcessLoop)
        self._generators[generator] = running

    def _generator_dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        loop = self._generators.get(generator)
        if loop is not None and not loop.ended:
            loop.create_task(generator.aclose())


class ProcessLoop(asyncio.AbstractEventLoop):
    """What asyncio needs of a loop, for one process of the cluster; it has no sockets."""

    def __init__(self, time: VirtualTime, name: str) -> None:
        self.name = name
        self.ended = False
        self.frozen_until_s = 0.0
        self._time = time
        self._left: set[asyncio.Task[Any]] = set()

    def run(self, handle: asyncio.Handle) -> None:
        """Runs one callback of this loop."""
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(None)

    def end(self) -> None:
        """Nothing of this loop runs from now on."""
        self.ended = True
        # Or else the garbage collector would unwind them.
        self._left = asyncio.all_tasks(self)

    def freeze(self, lasts_s: float) -> None:
        """Nothing of this loop runs for so long; then all that was missed."""
        self.frozen_until_s = max(self.frozen_until_s, self._time.now_s + lasts_s)

    def bury(self) -> None:
        """Unwinds what is left of the loop, when the run is over and nothing can do harm."""
        self.ended = False
        self.frozen_until_s = 0.0
        for task in self._left | asyncio.all_tasks(self):
            task.cancel()

    # What asyncio calls.

    def time(self) -> float:
        return self._time.now_s

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._time.push(self._time.now_s, handle, self)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._time.push(max(when, self._time.now_s), handle, self)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """The queue passes cancelled ones over."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.ended:
            return
        problem = context.get("exception")
        self._time.unhandled.append(f"{self.name}: {context['message']}: {problem!r}")


def process_loop(time: VirtualTime, name: str) -> ProcessLoop:
    """A loop for a process; asyncio's abstract one has many methods that nobody here calls."""
    return ProcessLoop(time, name)  # type: ignore[abstract]
