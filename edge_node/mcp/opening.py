"""Whether the SDK is there, said before it is needed; and a node's /mcp, if it is to have one."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest

if TYPE_CHECKING:
    from edge_node.mcp.endpoint import McpEndpoint


def require_mcp(what: str, *, param: str | None = None) -> None:
    """Raises InvalidRequest where the extra is not installed."""
    if importlib.util.find_spec("mcp") is None or importlib.util.find_spec("mcp_types") is None:
        raise InvalidRequest(
            f"{what} needs the SDK of the Model Context Protocol: install dedgeai[mcp].",
            param=param,
        )


def open_endpoint(config: NodeConfig) -> McpEndpoint | None:
    """What answers at /mcp; None where nothing is to, and then nothing of the SDK is loaded.

    Raises:
        InvalidRequest: it is to, and the extra is not installed.
    """
    if not config.mcp:
        return None
    require_mcp("mcp = true", param="mcp")
    from edge_node.mcp.endpoint import EndpointLimits, McpEndpoint

    return McpEndpoint(EndpointLimits.of(config))
