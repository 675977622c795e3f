"""gRPC health that looks before it answers, for the node's listener and the worker's.

Owns when what is said is brought up to date. It does not know what it is that serves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from grpc_health.v1 import health, health_pb2


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """The standard servicer; `look`, where it is set, is awaited before each answer to a check.

    Whoever sets statuses when it hears of a change is late by a moment, and in that moment a check
    would contradict what the process says of itself elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.look: Callable[[], Awaitable[None]] | None = None

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:
        """As the protocol has it."""
        if self.look is not None:
            await self.look()
        return await super().Check(request, context)

    async def tell(self, serving: bool, services: tuple[str, ...]) -> None:
        """Sets what checks and watchers of the `services` are told."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for service in services:
            await self.set(service, status.SERVING if serving else status.NOT_SERVING)
