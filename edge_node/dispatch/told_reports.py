"""What another origin is yet to be told of an attempt.

Owns that a link which is slow holds up one checkpoint and not each: only the newest is of use.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from edge_node.domain import AttemptReport, StepFinished


class ToldReports(asyncio.Queue[AttemptReport]):
    """Reports of one attempt, in their order; a checkpoint takes the place of those not told."""

    _queue: deque[AttemptReport]

    def _put(self, item: AttemptReport) -> None:
        if isinstance(item, StepFinished) and item.checkpoint is not None:
            for index, earlier in enumerate(self._queue):
                if isinstance(earlier, StepFinished) and earlier.checkpoint is not None:
                    self._queue[index] = replace(earlier, checkpoint=None)
        self._queue.append(item)
