"""What every router needs, kept on the application."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import Request

from edge_node.api.front_door import FrontDoor
from edge_node.domain import TaskId
from edge_node.telemetry.metrics import NodeMetrics


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The node behind the REST surface and the surface's own bounds.

    Attributes:
        request_bytes_max: of a request's body.
        keep_alive_s: silence on an event stream after which a comment is sent.
        started_unix_s: shown as the age of the models.
    """

    front_door: FrontDoor
    metrics: NodeMetrics
    request_bytes_max: int
    keep_alive_s: float
    started_unix_s: int
    _farewells: set[asyncio.Task[None]] = field(default_factory=set)

    def say_client_gone(self, task_ids: Sequence[TaskId]) -> None:
        """Tells the node without waiting: the request that finds out is being cancelled itself."""
        farewell = asyncio.create_task(self._client_gone(task_ids))
        self._farewells.add(farewell)  # or it might be collected while it runs
        farewell.add_done_callback(self._farewells.discard)

    async def _client_gone(self, task_ids: Sequence[TaskId]) -> None:
        await self.front_door.client_gone(task_ids)


def surface_of(request: Request) -> Surface:
    """The surface of the application that serves `request`."""
    surface: Surface = request.app.state.surface
    return surface
