"""In place of the ledger's erasures: nothing is to be erased, and nothing can be."""

from __future__ import annotations

from collections.abc import Sequence

from edge_node.dispatch.eraser import EraserSettings
from edge_node.domain import TaskId, TaskRecord
from edge_node.erasure import Owed
from edge_node.errors import StoreUnavailable

FOR_EVER = EraserSettings(prompt_keep_s=1e9, task_keep_s=1e9)


class NothingErased:
    """A store that keeps what it has."""

    async def begin(self) -> None:
        """Nothing was left."""

    async def erase(self, record: TaskRecord) -> Owed:
        raise StoreUnavailable("It keeps what it has.")

    async def take_words(self, *, finished_before_unix_s: float) -> list[TaskId]:
        return []

    async def owed(self) -> list[Owed]:
        return []

    async def settled(self, task_ids: Sequence[TaskId]) -> None:
        """Nothing was owed."""

    async def rewrite_file(self) -> None:
        """Nothing was taken out."""
