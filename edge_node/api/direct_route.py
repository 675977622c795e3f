"""Routes whose functions take the request itself: no dependencies to solve, no model to check.

FastAPI prepares for both at every request, which costs as much as the rest of its work. Of it they
keep the table of addresses and the document that describes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send


class DirectRoute(APIRoute):
    """Calls its function with the request, if it wants it, and the parts of its path, as text."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As APIRoute, which this replaces where a request passes."""
        super().__init__(*arguments, **options)
        if self.dependant.dependencies:
            raise TypeError(f"{self.path} has dependencies, which a DirectRoute does not call")
        self.app = _answering(self.endpoint)


def _answering(function: Callable[..., Any]) -> ASGIApp:
    """Calls it, in a thread if it is no coroutine, and sends what it returns."""
    wants_request = "request" in inspect.signature(function).parameters
    in_thread = not inspect.iscoroutinefunction(function)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        given: dict[str, Any] = scope["path_params"]
        if wants_request:
            given = {**given, "request": Request(scope, receive, send)}
        response: Response
        if in_thread:
            response = await run_in_threadpool(function, **given)
        else:
            response = await function(**given)
        await response(scope, receive, send)

    return answer
