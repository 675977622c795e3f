"""Loops that go on for as long as their process: one that fails is begun again, counted and told.

Owns what becomes of a loop that ends, whatever it was for: no part of a process stands still
without a word. What a process cannot do without is vital: when it keeps failing, whoever runs the
process is told to end it, so that it is started anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

log = logging.getLogger(__name__)

# A task that swallowed its cancellation is told again.
CANCEL_AGAIN_S = 1.0

Run = Callable[[], Coroutine[Any, Any, None]]
Result = TypeVar("Result")
One = TypeVar("One")
Other = TypeVar("Other")


async def cancellable(waited_for: Awaitable[Result]) -> Result:
    """What is waited for; a cancellation meanwhile holds, even if a library has swallowed it.

    Raises:
        asyncio.CancelledError: the current task was told to end, whatever has come of it.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        return await waited_for
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


async def both(
    first: Coroutine[Any, Any, One], second: Coroutine[Any, Any, Other]
) -> tuple[One, Other]:
    """What two things come to that go on at the same time.

    Raises:
        Exception: of the one that failed; the other was told to end, and has ended.
    """
    one, other = asyncio.create_task(first), asyncio.create_task(second)
    try:
        await asyncio.gather(one, other)
        return one.result(), other.result()
    finally:
        one.cancel()
        other.cancel()
        await asyncio.gather(one, other, return_exceptions=True)


async def _outcome(task: asyncio.Task[None]) -> Exception | None:
    """What a task failed with; None if it ended. It ends when this is cancelled.

    A task of its own: what cancels within it, as a group of tasks does of which one fails, is no
    word to whoever keeps it going, and a word to that one cannot be swallowed within it.
    """
    try:
        await asyncio.wait([task])
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_AGAIN_S)
        error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error


@dataclass(frozen=True, kw_only=True)
class Patience:
    """With a loop that fails.

    Attributes:
        pause_s: before it is begun again; doubled each time up to `pause_s_max` for one that is
            not vital.
        pause_s_max: see above.
        failures_max: of a vital loop within `within_s`, after which it is given up.
        within_s: see above; failures longer ago are forgotten.
        tell_again_s: between two accounts of one loop's failures in the log.
    """

    pause_s: float = 0.5
    pause_s_max: float = 10.0
    failures_max: int = 8
    within_s: float = 60.0
    tell_again_s: float = 10.0


class Loops:
    """The loops of one process.

    Args:
        on_failed: told the name of a loop at each of its failures.
        give_up: told the name of a vital loop that keeps failing; by default it is tried for ever.
        patience: with each.
    """

    def __init__(
        self,
        *,
        on_failed: Callable[[str], None] = lambda name: None,
        give_up: Callable[[str], None] = lambda name: None,
        patience: Patience | None = None,
    ) -> None:
        self._on_failed = on_failed
        self._give_up = give_up
        self._patience = patience or Patience()
        self._given_up: dict[str, None] = {}
        # Of each name: failures that the log does not have, and when it was told last.
        self._untold: dict[str, tuple[int, float]] = {}

    @property
    def given_up(self) -> tuple[str, ...]:
        """Vital loops that keep failing."""
        return tuple(self._given_up)

    def start(self, name: str, run: Run, *, vital: bool) -> asyncio.Task[None]:
        """Keeps `run` going until the task that is returned is cancelled."""
        return asyncio.create_task(self.keep(name, run, vital=vital), name=name)

    async def keep(self, name: str, run: Run, *, vital: bool) -> None:
        """Runs `run`, and again whenever it raises or ends, until this is cancelled."""
        patience = self._patience
        failed_s: deque[float] = deque(maxlen=patience.failures_max)
        while True:
            self._failed(name, await _outcome(asyncio.create_task(run(), name=name)))
            now_s = asyncio.get_running_loop().time()
            while failed_s and now_s - failed_s[0] > patience.within_s:
                failed_s.popleft()
            failed_s.append(now_s)
            pause_s = patience.pause_s
            if not vital:
                pause_s = min(patience.pause_s_max, pause_s * 2.0 ** (len(failed_s) - 1))
            elif len(failed_s) == patience.failures_max and name not in self._given_up:
                self._given_up[name] = None
                log.critical("%s failed %d times and is given up", name, len(failed_s))
                self._give_up(name)
            await asyncio.sleep(pause_s)

    def attempt(self, name: str, do: Callable[[], None]) -> None:
        """Does what a loop can do without: a failure is counted and told, and nothing else."""
        try:
            do()
        except Exception as error:
            self._failed(name, error)

    def _failed(self, name: str, error: Exception | None) -> None:
        self._on_failed(name)
        now_s = asyncio.get_running_loop().time()
        untold, told_s = self._untold.get(name, (0, float("-inf")))
        if now_s - told_s < self._patience.tell_again_s:
            self._untold[name] = (untold + 1, told_s)
            return
        self._untold[name] = (0, now_s)
        more = f", {untold} times more since it was told last" if untold else ""
        what = "ended" if error is None else "failed"
        log.error("%s %s%s", name, what, more, exc_info=error)
