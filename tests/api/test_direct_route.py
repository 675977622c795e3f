from __future__ import annotations

import asyncio
import threading

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from edge_node.api.direct_route import DirectRoute


def test_functions_get_the_request_and_the_parts_of_the_path_they_ask_for() -> None:
    router = APIRouter(route_class=DirectRoute)

    @router.get("/both/{name}", response_model=None)
    async def both(name: str, request: Request) -> JSONResponse:
        return JSONResponse([name, request.query_params["q"]])

    @router.get("/none", response_model=None)
    def none() -> Response:
        return JSONResponse(threading.current_thread() is threading.main_thread())

    app = FastAPI()
    app.router.routes.extend(router.routes)

    async def story() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as http:
            assert (await http.get("/both/a%2Fb?q=1")).status_code == 404
            assert (await http.get("/both/a%20b?q=1")).json() == ["a b", "1"]
            assert (await http.get("/none")).json() is False, "it may wait, in a thread"

    asyncio.run(story())


def test_a_dependency_that_nobody_would_call_is_refused() -> None:
    """Or a check of who may ask would be passed by, in silence."""

    def who() -> None: ...

    router = APIRouter(route_class=DirectRoute)
    with pytest.raises(TypeError, match="/a has dependencies"):

        @router.get("/a", response_model=None, dependencies=[Depends(who)])
        async def answer() -> Response:
            return Response()

    guarded = APIRouter(route_class=DirectRoute, dependencies=[Depends(who)])
    with pytest.raises(TypeError, match="/b has dependencies"):

        @guarded.get("/b", response_model=None)
        async def other() -> Response:
            return Response()
