"""The store's memory: finished tasks leave by space as well as by age, before any is refused.

Owns the look at how full the store is. Above its bound the oldest finished tasks go; only where
open ones alone are more than that, nothing new is taken. What lies above is for ends, for lives of
the node and for what is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from edge_node.domain import TaskId
from edge_node.errors import DEdgeAIError, StoreFull, StoreUnavailable
from edge_node.store.fill import PartFill
from edge_node.store.task_ledger import TaskLedger

LOOK_EVERY_S = 1.0
# What parts take is asked for once in so many looks: the store counts it anew each time.
LOOKS_PER_PARTS = 10
RETRY_AFTER_S = 10.0
# Of the bound: where removing ends, and where refusing begins.
REMOVED_TO = 0.95
REFUSED_FROM = 1.2
# Of what the store lets itself grow to, where an operator's store has such a limit.
SHARE_MAX = 0.75
# Tasks that leave together: few at first, for a single one may be large, then up to twice as many
# each time, for removing has to be quicker than the clients of a fast device are.
REMOVED_AT_ONCE = 20
REMOVED_AT_ONCE_MAX = 640
# The append-only file is rewritten once it has doubled, and above so many bytes.
FILE_GROWTH = 2
FILE_BYTES_MIN = 64 << 20


@dataclass(frozen=True, kw_only=True)
class StoreFill:
    """How full a store is.

    Attributes:
        used_bytes: of its memory.
        memory_bytes_max: that it lets itself take; 0 where it does not say.
        aof_bytes: of its append-only file.
    """

    used_bytes: int
    memory_bytes_max: int
    aof_bytes: int

    def against(self, bound: int) -> tuple[PartFill, PartFill]:
        """All memory and the file, as parts with the bounds that follow from that of the memory."""
        file_bound = FILE_GROWTH * max(bound, FILE_BYTES_MIN)
        return (
            PartFill(part="memory", used_bytes=self.used_bytes, share=self.used_bytes / bound),
            PartFill(part="file", used_bytes=self.aof_bytes, share=self.aof_bytes / file_bound),
        )


class StoreSpace:
    """Looks once a second.

    Args:
        ledger: whose tasks leave.
        forget_images: removes the images of tasks that left.
        bytes_max: gives the bound, as configured now.
        parts: each says how full a part is that keeps its bound by itself.
        on_looked: told how full the store and its parts are.
    """

    def __init__(
        self,
        ledger: TaskLedger,
        *,
        forget_images: Callable[[Sequence[TaskId]], Awaitable[None]],
        bytes_max: Callable[[], int],
        parts: Sequence[Callable[[], Awaitable[PartFill]]] = (),
        on_looked: Callable[[Sequence[PartFill]], None] = lambda fills: None,
    ) -> None:
        self._ledger = ledger
        self._forget_images = forget_images
        self._bytes_max = bytes_max
        self._parts = parts
        self._on_looked = on_looked
        self._looks = 0
        self._refusal: DEdgeAIError | None = None

    def refusal(self) -> DEdgeAIError | None:
        """Why nothing more is taken at present; None where it is."""
        return self._refusal

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            with contextlib.suppress(StoreUnavailable):  # the connection logs it
                await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Looks now, and removes what is too much; raises StoreUnavailable."""
        fill = await self._fill()
        bound = self._bytes_max()
        if fill.memory_bytes_max:
            bound = min(bound, int(SHARE_MAX * fill.memory_bytes_max))
        if fill.used_bytes > bound:
            fill = await self._remove(fill, bound)
        self._judge(fill, bound)
        self._on_looked((*fill.against(bound), *await self._look_at_parts()))

    def _judge(self, fill: StoreFill, bound: int) -> None:
        self._refusal = None
        if fill.used_bytes > REFUSED_FROM * bound:
            self._refusal = StoreFull(
                f"The task store holds {fill.used_bytes >> 20} MiB, and {bound >> 20} are its "
                "bound: tasks come faster than finished ones leave. Come back after the time in "
                "Retry-After, ask another node, or raise store_bytes_max.",
                retry_after_s=RETRY_AFTER_S,
            )

    async def _look_at_parts(self) -> list[PartFill]:
        self._looks += 1
        if self._looks % LOOKS_PER_PARTS != 1:
            return []
        return [await part() for part in self._parts]

    async def _remove(self, fill: StoreFill, bound: int) -> StoreFill:
        count = REMOVED_AT_ONCE
        while fill.used_bytes > REMOVED_TO * bound:
            former = fill
            gone = await self._ledger.expire(finished_before_unix_s=float("inf"), count_max=count)
            if not gone:
                break
            await self._forget_images(gone)
            fill = await self._fill()
            # Where clients are quicker all the same, they must not be taken until the store's end.
            if count == REMOVED_AT_ONCE_MAX and fill.used_bytes >= former.used_bytes:
                self._judge(fill, bound)
            freed_bytes = former.used_bytes - fill.used_bytes
            left_bytes = fill.used_bytes - REMOVED_TO * bound
            if left_bytes > freed_bytes:  # another round of as many would not do
                count = min(2 * count, REMOVED_AT_ONCE_MAX)
        return fill

    async def _fill(self) -> StoreFill:
        memory, persistence = await self._ledger.info("memory", "persistence")
        return StoreFill(
            used_bytes=int(memory["used_memory"]),
            memory_bytes_max=int(memory.get("maxmemory", 0)),
            aof_bytes=int(persistence.get("aof_current_size", 0)),
        )
