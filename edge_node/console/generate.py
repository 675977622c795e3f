"""Draws one prompt on a running cluster and shows how it goes."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from rich.progress import Progress

from edge_node.console.rest_client import key_header, trusted
from edge_node.errors import DEdgeAIError, InvalidRequest, OriginUnavailable, TaskFailed


async def generate(node_url: str, request: Mapping[str, Any], *, out: Path) -> int:
    """Submits `request`, follows its events with a bar, saves the image at `out`.

    Raises:
        InvalidRequest, OriginUnavailable, TaskFailed: with what to do.
    """
    try:
        async with httpx.AsyncClient(
            base_url=node_url, timeout=30.0, trust_env=False, verify=trusted(), headers=key_header()
        ) as http:
            task = _checked(await http.post("/v1/tasks", json=dict(request))).json()
            executor = await _follow(http, task["id"])
            image = _checked(await http.get(f"/v1/tasks/{task['id']}/image"))
    except httpx.TransportError as error:
        raise OriginUnavailable(
            f"No node answers at {node_url} ({type(error).__name__}). Start one with `dedgeai "
            "cluster`, or name another with --node."
        ) from None
    out.write_bytes(image.content)
    print(f"{executor} drew {out} (task {task['id']})")
    return 0


def init_image_field(path: Path | None) -> str | None:
    """An image file as the field of a request; None for none.

    Raises:
        InvalidRequest: it cannot be read.
    """
    if path is None:
        return None
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise InvalidRequest(f"The init image cannot be read: {error}.") from None


async def _follow(http: httpx.AsyncClient, task_id: str) -> str:
    """Shows the events of a task; returns the node that drew it."""
    executor = ""
    with Progress(transient=True) as progress:
        bar = progress.add_task("queued", total=None)
        async for kind, event in _events(http, task_id):
            executor = event.get("executor") or executor
            if kind == "step":
                progress.update(
                    bar,
                    description=f"{executor} draws",
                    total=event["steps"],
                    completed=event["step"],
                )
            elif kind in ("failed", "cancelled", "error"):
                error = event.get("error") or {"code": kind, "message": f"The task was {kind}."}
                raise TaskFailed(error["message"], code=error["code"])
            else:
                progress.update(bar, description=f"{kind} {executor}".strip())
    return executor


async def _events(
    http: httpx.AsyncClient, task_id: str
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    async with http.stream("GET", f"/v1/tasks/{task_id}/events", timeout=None) as response:
        kind = ""
        async for line in response.aiter_lines():
            if line.startswith("event:"):
                kind = line.removeprefix("event:").strip()
            elif line.startswith("data:"):
                yield kind, json.loads(line.removeprefix("data:"))


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    message = response.json()["error"]["message"]
    error: DEdgeAIError = InvalidRequest(message)
    if response.status_code >= 500:
        error = OriginUnavailable(message)
    raise error
