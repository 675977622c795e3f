"""What stands in a worker's place at a node that draws nothing: a gateway to the others."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from edge_node.domain import AttemptReport, Fence, TaskId, WorkerDescription, WorkerLoad
from edge_node.errors import WorkerUnavailable
from edge_node.shared_rows import RowGiven, RowWanted


class NoWorker:
    """The worker port where `engine = "none"`: never ready, and no process."""

    description = WorkerDescription(state="none")
    ready = False
    load: WorkerLoad | None = None
    starts = 1

    async def start(self) -> None:
        """Nothing is started."""

    async def stop(self) -> None:
        """Nothing runs."""

    async def draw(self, **asked: Any) -> AsyncGenerator[AttemptReport, None]:
        """Refuses, if anything should ever be placed here; raises WorkerUnavailable."""
        if asked:
            raise WorkerUnavailable("This node draws nothing: it has no worker.")
        yield  # type: ignore[misc] # never reached: it makes this a generator

    def share_rows(self, ask: object) -> None:
        """Nothing is drawn that could be shared."""

    async def give_row(self, wanted: RowWanted) -> RowGiven:
        """Nothing can be computed here; raises WorkerUnavailable."""
        raise WorkerUnavailable("This node computes nothing: it has no worker.")

    def hand_over(self, task_id: TaskId, fence: Fence) -> None:
        """Nothing is drawn that could be."""
