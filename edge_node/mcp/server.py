"""An MCP server with the tools, whatever carries it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
)

from edge_node.client import AsyncClient, Event
from edge_node.mcp.tools import Tools

Context = ServerRequestContext[Any, Any]
INSTRUCTIONS = (
    "Draws images on a cluster of edge devices. `generate` waits for the image and tells how far "
    "it is; what takes longer than wait_s goes on, and get_task has it later."
)


def mcp_server(
    client_of: Callable[[Context], AbstractAsyncContextManager[AsyncClient]], *, files: bool
) -> Server[Any]:
    """The server.

    Args:
        client_of: a client of the cluster with the rights of whoever calls.
        files: as Tools.
    """
    tools = Tools(files=files)

    async def listed(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=tools.listed)

    async def called(context: Context, params: CallToolRequestParams) -> CallToolResult:
        async def progress(event: Event) -> None:
            where = f"{event.executor}: " if event.executor else ""
            what = f"step {event.step} of {event.steps}" if event.type == "step" else event.type
            # What is told has to grow with every message, and steps are not all that happens.
            await context.session.report_progress(event.sequence, message=f"{where}{what}")

        async with client_of(context) as client:
            return await tools.call(
                params.name, params.arguments or {}, client=client, progress=progress
            )

    return Server(
        "dedgeai",
        version=importlib.metadata.version("dedgeai"),
        title="DEdgeAI",
        instructions=INSTRUCTIONS,
        on_list_tools=listed,
        on_call_tool=called,
    )
