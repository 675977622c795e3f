"""Routes whose functions take the request itself: no dependencies to solve, no model to check.

FastAPI prepares for both at every request, which costs as much as the rest of its work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from fastapi.routing import APIRoute


class DirectRoute(APIRoute):
    """Calls its function with the request, if it wants it, and the parts of its path, as text."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What Starlette calls."""
        function = self.endpoint
        if self.dependant.dependencies:
            raise TypeError(f"{self.path} has dependencies, which a DirectRoute does not call")
        wants_request = "request" in inspect.signature(function).parameters
        in_thread = not inspect.iscoroutinefunction(function)

        async def handler(request: Request) -> Response:
            given = dict(request.path_params)
            if wants_request:
                given["request"] = request
            if in_thread:
                threaded: Response = await run_in_threadpool(function, **given)
                return threaded
            response: Response = await function(**given)
            return response

        return handler
