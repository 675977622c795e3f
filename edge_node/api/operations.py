"""What operators and their tools ask: /v1/cluster, /livez, /readyz, /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edge_node.api import schemas
from edge_node.api.addressing import path_prefix_of
from edge_node.api.cluster_object import cluster_object
from edge_node.api.direct_route import DirectRoute
from edge_node.api.error_responses import error_body
from edge_node.api.key_check import client_of
from edge_node.api.surface import surface_of
from edge_node.domain import NodeId, TaskId
from edge_node.errors import NodeNotReady
from edge_node.requests import NodeAction
from edge_node.telemetry.metrics import CONTENT_TYPE

router = APIRouter(route_class=DirectRoute)

_NOT_READY_RETRY_AFTER_S = 2


@router.get("/v1/cluster", response_model=None)
async def read_cluster(request: Request) -> JSONResponse:
    """All nodes as this one sees them; and who asks, and what he may."""
    client = client_of(request)
    you = {"key": client.id or None, "scopes": sorted(client.scopes)}
    return JSONResponse({**cluster_object(surface_of(request).front_desk.cluster()), "you": you})


@router.post("/v1/nodes/{node_id}/pause", response_model=None)
async def pause_node(node_id: str, request: Request) -> JSONResponse:
    """Has a node take no new work; it ends what it has."""
    return await _operated(node_id, NodeAction.PAUSE, request)


@router.post("/v1/nodes/{node_id}/drain", response_model=None)
async def drain_node(node_id: str, request: Request) -> JSONResponse:
    """The same, and gives back to other nodes what it has of theirs, if others draw it."""
    return await _operated(node_id, NodeAction.DRAIN, request)


@router.post("/v1/nodes/{node_id}/resume", response_model=None)
async def resume_node(node_id: str, request: Request) -> JSONResponse:
    """Has a node take work again."""
    return await _operated(node_id, NodeAction.RESUME, request)


@router.post("/v1/nodes/{node_id}/remove", response_model=None)
async def remove_node(node_id: str, request: Request) -> JSONResponse:
    """Takes a node that is dead out of the cluster, with its tasks; it stays out."""
    await surface_of(request).front_desk.remove(NodeId(node_id))
    return JSONResponse({"object": "node", "node": node_id, "removed": True})


@router.post("/v1/nodes/{node_id}/readmit", response_model=None)
async def readmit_node(node_id: str, request: Request) -> JSONResponse:
    """Lets a node back in that was removed."""
    await surface_of(request).front_desk.readmit(NodeId(node_id))
    return JSONResponse({"object": "node", "node": node_id, "removed": False})


async def _operated(node_id: str, action: NodeAction, request: Request) -> JSONResponse:
    await surface_of(request).front_desk.operate(NodeId(node_id), action)
    paused = action is not NodeAction.RESUME
    return JSONResponse({"object": "node", "node": node_id, "paused": paused})


@router.get("/v1/dead_letters", response_model=None)
async def read_dead_letters(request: Request) -> JSONResponse:
    """Tasks of this node that were tried and given up, newest first."""
    records = await surface_of(request).front_desk.dead_letters()
    prefix = path_prefix_of(request)
    data = [schemas.task_object(record, prefix=prefix) for record in records]
    return JSONResponse({"object": "list", "data": data})


@router.post("/v1/dead_letters/{task_id}/retry", status_code=202, response_model=None)
async def retry_dead_letter(task_id: str, request: Request) -> JSONResponse:
    """Accepts its drawing as a new task; the same one however often it is asked for."""
    record = await surface_of(request).front_desk.retry_dead_letter(TaskId(task_id))
    prefix = path_prefix_of(request)
    headers = {"Location": f"{prefix}/v1/tasks/{record.task.id}"}
    shown = schemas.task_object(record, prefix=prefix)
    return JSONResponse(shown, status_code=202, headers=headers)


@router.get("/livez", response_model=None)
async def is_alive(request: Request) -> JSONResponse:
    """Whether the node goes on, or only a restart can help it, and why."""
    front_desk = surface_of(request).front_desk
    reasons, node_id = front_desk.liveness(), front_desk.node_id
    if not reasons:
        return JSONResponse({"status": "ok", "node": node_id})
    body = error_body(NodeNotReady(f"Stuck: {'; '.join(reasons)}."))
    return JSONResponse(
        {"status": "stuck", "node": node_id, "reasons": list(reasons), **body},
        status_code=NodeNotReady.http_status,
    )


@router.get("/readyz", response_model=None)
async def is_ready(request: Request) -> JSONResponse:
    """Whether requests should come here, and if not, why; and what the operator should see to."""
    front_desk = surface_of(request).front_desk
    reasons, notes = front_desk.readiness(), front_desk.notes()
    if not reasons:
        return JSONResponse({"status": "ready", **({"notes": list(notes)} if notes else {})})
    body = error_body(NodeNotReady(f"Not ready: {'; '.join(reasons)}."))
    return JSONResponse(
        {"status": "not ready", "reasons": list(reasons), **body},
        status_code=NodeNotReady.http_status,
        headers={"Retry-After": str(_NOT_READY_RETRY_AFTER_S)},
    )


@router.get("/metrics", response_model=None)
def read_metrics(request: Request) -> Response:
    """Prometheus text; in a thread, because the device's sensors may answer slowly."""
    return Response(surface_of(request).metrics.render(), media_type=CONTENT_TYPE)
