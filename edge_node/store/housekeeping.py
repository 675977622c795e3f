"""Removes what is older than the operator wants to keep: images, init images, tasks.

Owns how often; a round that fails is for whoever keeps this going.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from edge_node.clock import Clock
from edge_node.errors import StoreUnavailable
from edge_node.store.image_files import ImageFiles
from edge_node.store.init_images import InitImages
from edge_node.store.task_ledger import TaskLedger

HOUSEKEEPING_S = 60.0
EXPIRED_AT_ONCE = 1000


class Housekeeper:
    """One round after another.

    Args:
        ledger, images, init_images: what is looked through.
        task_keep_s: gives how long finished tasks are kept, as configured now.
        on_stored: told the bytes of all images kept.
        clock: tells how old things are.
    """

    def __init__(
        self,
        *,
        ledger: TaskLedger,
        images: ImageFiles,
        init_images: InitImages,
        task_keep_s: Callable[[], float],
        on_stored: Callable[[int], None],
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._images = images
        self._init_images = init_images
        self._task_keep_s = task_keep_s
        self._on_stored = on_stored
        self._clock = clock

    async def run(self) -> None:
        """Keeps house until it is cancelled, or a round fails."""
        while True:
            await self.clean()
            await asyncio.sleep(HOUSEKEEPING_S)

    async def clean(self) -> None:
        """One round; without the store, of files alone."""
        await self._images.evict()
        await self._init_images.evict()
        finished_before = self._clock.unix_s() - self._task_keep_s()
        with contextlib.suppress(StoreUnavailable):
            while expired := await self._ledger.expire(
                finished_before_unix_s=finished_before, count_max=EXPIRED_AT_ONCE
            ):
                await self._images.remove(expired)
            await self._ledger.forget_keys()
        self._on_stored(self._images.bytes_stored)
