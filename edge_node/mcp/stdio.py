"""`dedgeai mcp`: the server on standard input and output, for an agent on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from mcp.server.stdio import stdio_server

from edge_node.client import AsyncClient
from edge_node.mcp.server import Context, mcp_server


async def serve_stdio(node_url: str) -> None:
    """Serves until standard input ends. The API key is that of the environment."""
    async with AsyncClient(node_url) as client:

        @contextlib.asynccontextmanager
        async def the_client(context: Context) -> AsyncIterator[AsyncClient]:
            yield client

        server = mcp_server(the_client, files=True)
        async with stdio_server() as (heard, said):
            await server.run(heard, said, server.create_initialization_options())
