"""What happens to all tasks of this node, in one order: for whoever follows the node as a whole.

Owns the numbers of what happened, and the latest of it, in memory. Numbers grow over lives of the
node. A reader is told when he has missed something: of a former life, or because more happened than
is kept since he read last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import replace

from edge_node.dispatch.expectations import Expectations
from edge_node.domain import TaskEvent, TaskId
from edge_node.happenings import Happened
from edge_node.tasks.lifecycle import Lifecycle

# The latest of all tasks; each without its preview, some 400 bytes.
KEPT_MAX = 10_000
# The latest pictures on the way, of whatever task: whoever reads as it happens is shown each.
PICTURES_BYTES_MAX = 8 * 2**20
# Who is told of none of so many is told how far he is, so that he does not come back too late.
QUIET_MAX = KEPT_MAX // 10
# Far more than can happen in one life of a node.
NUMBERS_OF_A_LIFE = 10**9


class Journal:
    """Of tasks accepted here.

    Args:
        term: this life of the node.
        lifecycle: says whose a task is.
        expected: says when open tasks are expected to end.
    """

    def __init__(self, *, term: int, lifecycle: Lifecycle, expected: Expectations) -> None:
        self._last = term * NUMBERS_OF_A_LIFE
        self._lifecycle = lifecycle
        self._expected = expected
        self._kept: deque[Happened] = deque(maxlen=KEPT_MAX)
        self._pictures: dict[int, bytes] = {}
        self._pictures_bytes = 0
        # In their order, so that a simulated run is the same every time.
        self._readers: dict[asyncio.Event, None] = {}

    def note(self, task_id: TaskId, event: TaskEvent) -> None:
        """Something happened to a task."""
        record = self._lifecycle.record(task_id)
        if record is None:
            return
        self._last += 1
        bare = event
        if event.preview:
            bare = replace(event, preview=b"")
            self._keep_picture(event.preview)
        self._kept.append(
            Happened(number=self._last, task_id=task_id, client=record.task.client, event=bare)
        )
        for changed in self._readers:
            changed.set()

    def _keep_picture(self, picture: bytes) -> None:
        self._pictures[self._last] = picture
        self._pictures_bytes += len(picture)
        while self._pictures_bytes > PICTURES_BYTES_MAX:
            self._pictures_bytes -= len(self._pictures.pop(next(iter(self._pictures))))

    async def read(
        self, *, after: int | None, client: str, previews: bool = False
    ) -> AsyncGenerator[Happened, None]:
        """First where the reader is, then what happens, for as long as it is read.

        Args:
            after: the last number seen; None for what happens from now on.
            client: whose tasks are meant; empty for all.
            previews: pictures on the way are wanted, as far as they are kept.
        """
        changed = asyncio.Event()
        self._readers[changed] = None
        seen = self._last if after is None else after
        try:
            missed = self._is_gone(seen)
            if missed:
                seen = self._oldest - 1
            told = seen
            yield Happened(number=seen, missed=missed)
            while True:
                changed.clear()
                if self._is_gone(seen):
                    seen = self._oldest - 1
                    yield Happened(number=seen, missed=True)
                # Read as it is now: more may happen, and some of it leave, while it is told.
                for happened in list(self._kept)[max(0, seen + 1 - self._oldest) :]:
                    seen = happened.number
                    if client in ("", happened.client):
                        told = seen
                        yield self._told(happened, previews=previews)
                if seen - told >= QUIET_MAX:
                    told = seen
                    yield Happened(number=seen)
                if seen == self._last:
                    await changed.wait()
        finally:
            del self._readers[changed]

    @property
    def _oldest(self) -> int:
        """Number of what is the first kept, or will be."""
        return self._kept[0].number if self._kept else self._last + 1

    def _is_gone(self, seen: int) -> bool:
        """Whether something is not kept that came after; or the number is none of this node's."""
        return not self._oldest - 1 <= seen <= self._last

    def _told(self, happened: Happened, *, previews: bool) -> Happened:
        assert happened.task_id is not None
        assert happened.event is not None
        event = self._expected.of_event(happened.task_id, happened.event)
        if previews and happened.number in self._pictures:
            event = replace(event, preview=self._pictures[happened.number])
        return replace(happened, event=event)
