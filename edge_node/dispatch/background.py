"""Coroutines that run beside the inbox: started, found by a key, cancelled, awaited at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Hashable
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)


class Background(Generic[Key]):
    """Running coroutines; one that fails is logged, and takes nothing else with it."""

    def __init__(self) -> None:
        self._keyed: dict[Key, asyncio.Task[None]] = {}
        # In their order, so that a simulated run is the same every time.
        self._running: dict[asyncio.Task[None], None] = {}

    def start(self, coroutine: Coroutine[Any, Any, None], *, key: Key | None = None) -> None:
        """Runs `coroutine`; `key` finds it until it has ended."""
        task = asyncio.create_task(coroutine)
        self._running[task] = None
        if key is not None:
            self._keyed[key] = task
        task.add_done_callback(lambda _: self._ended(task, key))

    def cancel(self, key: Key) -> None:
        """Cancels the one of that key, if it runs."""
        task = self._keyed.get(key)
        if task is not None:
            task.cancel()

    async def stop(self) -> None:
        """Cancels all of them and waits for their end."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None], key: Key | None) -> None:
        self._running.pop(task, None)
        if key is not None and self._keyed.get(key) is task:
            del self._keyed[key]
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("a background task of the dispatcher failed", exc_info=bug)
