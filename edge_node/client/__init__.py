"""A typed client of a node, sync and async: `from dedgeai.client import Client`.

Thin over httpx: what can be asked is `calls.py`, what is answered `objects.py`, what goes wrong
`problems.py`. It asks again only what may be asked twice, and for as long as the node says.
"""

from edge_node.client.async_client import AsyncClient
from edge_node.client.calls import DrawingOptions
from edge_node.client.objects import (
    Cancelled,
    Cluster,
    Erased,
    Event,
    Image,
    Job,
    Missing,
    Model,
    Node,
    NotUnderstood,
    Page,
    Readiness,
    Task,
)
from edge_node.client.problems import NodeUnreachable, Patience, RequestRefused
from edge_node.client.sync_client import Client
from edge_node.errors import DEdgeAIError, InvalidRequest, TaskFailed

__all__ = [
    "AsyncClient",
    "Cancelled",
    "Client",
    "Cluster",
    "DEdgeAIError",
    "DrawingOptions",
    "Erased",
    "Event",
    "Image",
    "InvalidRequest",
    "Job",
    "Missing",
    "Model",
    "Node",
    "NodeUnreachable",
    "NotUnderstood",
    "Page",
    "Patience",
    "Readiness",
    "RequestRefused",
    "Task",
    "TaskFailed",
]
