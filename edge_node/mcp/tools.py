"""The tools: what each does with a client of the cluster, and what an agent is shown of it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mcp_types import CallToolResult, ImageContent, TextContent, Tool, ToolAnnotations

from edge_node.client import (
    AsyncClient,
    Cluster,
    DrawingOptions,
    Erased,
    Event,
    InvalidRequest,
    Node,
    Task,
)
from edge_node.errors import DEdgeAIError
from edge_node.mcp import arguments as takes
from edge_node.mcp.arguments import Json

Progress = Callable[[Event], Awaitable[None]]
# Of a task, what an agent can do something with.
_TOLD_OF_TASKS = (
    *("id", "status", "prompt", "negative_prompt", "model", "size", "seed"),
    *("num_inference_steps", "guidance_scale", "steps_done", "strength", "executor"),
    *("queue_position", "eta_s", "error", "image_url"),
)
_TOLD_OF_NODES = (
    *("node", "alive", "accepting", "queued", "running", "backlog", "capacity", "models"),
    *("device", "emulated_device"),
)


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One call: its arguments, checked; who is asked; and who hears how far it is."""

    arguments: Mapping[str, Any]
    client: AsyncClient
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class _Offered:
    """A tool and what it does."""

    about: Tool
    do: Callable[[ToolCall], Awaitable[CallToolResult]]


class Tools:
    """All tools of one server.

    Args:
        files: whether paths are those of whoever calls: over stdio, and nowhere else.
    """

    def __init__(self, *, files: bool) -> None:
        self._offered = {one.about.name: one for one in _offered(files=files)}

    @property
    def listed(self) -> list[Tool]:
        """What agents are told."""
        return [one.about for one in self._offered.values()]

    async def call(
        self, name: str, arguments: Mapping[str, Any], *, client: AsyncClient, progress: Progress
    ) -> CallToolResult:
        """Does it; what goes wrong is a result, too, for the agent to read."""
        offered = self._offered.get(name)
        try:
            if offered is None:
                known = ", ".join(self._offered)
                raise InvalidRequest(f"There is no tool {name[:60]!r}. Known are {known}.")
            takes.check(offered.about.input_schema, arguments)
            call = ToolCall(arguments=arguments, client=client, progress=progress)
            return await offered.do(call)
        except DEdgeAIError as error:
            told = {"code": error.code, "message": error.message}
            if error.retry_after_s is not None:
                told["retry_after_s"] = str(error.retry_after_s)
            return CallToolResult(
                content=[TextContent(text=error.message)],
                structured_content={"error": told},
                is_error=True,
            )


async def _generate(call: ToolCall) -> CallToolResult:
    return await _drawn(call, await call.client.submit(call.arguments["prompt"], **_options(call)))


async def _edit(call: ToolCall) -> CallToolResult:
    given = call.arguments
    picture: bytes | str | Path
    if "task_id" in given:
        picture = await call.client.image(given["task_id"])
    elif "image_file" in given:
        picture = Path(given["image_file"])
    else:
        picture = given["image"]
    task = await call.client.submit(
        given["prompt"],
        init_image=picture,
        strength=given.get("strength"),
        mask=given.get("mask"),
        **_options(call),
    )
    return await _drawn(call, task)


async def _get_task(call: ToolCall) -> CallToolResult:
    return await _drawn(call, await call.client.task(call.arguments["task_id"]), wait_s=0.0)


async def _cancel_task(call: ToolCall) -> CallToolResult:
    return _answer(_task_shown(await call.client.cancel(call.arguments["task_id"])))


async def _list_tasks(call: ToolCall) -> CallToolResult:
    page = await call.client.page(
        status=call.arguments.get("status"),
        limit=call.arguments.get("limit", 20),
        cursor=call.arguments.get("cursor"),
    )
    shown = [
        {"id": one.id, "erased": True} if isinstance(one, Erased) else _task_shown(one)
        for one in page.tasks
    ]
    missing = [dict(one.document) for one in page.missing]
    return _answer({"tasks": shown, "next_cursor": page.next_cursor, "missing": missing})


async def _cluster_status(call: ToolCall) -> CallToolResult:
    cluster = await call.client.cluster()
    ready = await call.client.readiness()
    return _answer({**_cluster_shown(cluster), "ready": ready.ready, "reasons": ready.reasons})


async def _list_models(call: ToolCall) -> CallToolResult:
    models = await call.client.models()
    own = [one for one in models if one.alias_of is None]
    shown = [{"id": one.id, "limits": one.limits, "defaults": one.defaults} for one in own]
    return _answer({"models": shown})


async def _drawn(
    call: ToolCall, task: Task, *, wait_s: float = takes.WAIT_S_DEFAULT
) -> CallToolResult:
    """A task with its image, once there is one, or as it is when the wait is over."""
    wait_s = call.arguments.get("wait_s", wait_s)
    if not task.is_over and wait_s > 0.0:
        try:
            async with asyncio.timeout(wait_s), aclosing(call.client.events(task.id)) as events:
                async for event in events:
                    await call.progress(event)
        except TimeoutError:
            pass  # it goes on without being watched
        task = await call.client.task(task.id)
    told = _task_shown(task)
    if not task.is_over:
        told["note"] = f"It is not drawn yet: ask get_task for {task.id}, with a wait_s."
    if task.status != "completed":
        return _answer(told, is_error=task.status == "failed")
    return _answer(told, image=await _image(call, task))


async def _image(call: ToolCall, task: Task) -> ImageContent | None:
    show = call.arguments.get("show", takes.SHOWN[0])
    if show == "none":
        return None
    if show == "thumbnail":
        content = await call.client.image(task.id, thumbnail_px=takes.THUMBNAIL_PX)
        media_type = "image/webp"
    else:
        content = await call.client.image(task.id)
        media_type = f"image/{task.document.get('output_format', 'png')}"
    return ImageContent(data=base64.b64encode(content).decode(), mime_type=media_type)


def _options(call: ToolCall) -> DrawingOptions:
    given = {name: call.arguments[name] for name in takes.DRAWING_OPTIONS if name in call.arguments}
    return cast(DrawingOptions, given)


def _task_shown(task: Task) -> Json:
    told = {name: task.document.get(name) for name in _TOLD_OF_TASKS}
    return {name: value for name, value in told.items() if value not in (None, "")}


def _cluster_shown(cluster: Cluster) -> Json:
    return {
        "asked": cluster.node,
        "policy": cluster.policy,
        "nodes": [_node_shown(one) for one in cluster.nodes],
    }


def _node_shown(node: Node) -> Json:
    told = {name: getattr(node, name) for name in _TOLD_OF_NODES}
    return {name: value for name, value in told.items() if value not in (None, "")}


def _answer(
    told: Json, *, image: ImageContent | None = None, is_error: bool = False
) -> CallToolResult:
    """As text for agents that read, and as an object for those that compute."""
    text = TextContent(text=json.dumps(told, ensure_ascii=False))
    content: list[Any] = [text] if image is None else [image, text]
    return CallToolResult(content=content, structured_content=told, is_error=is_error)


def _offered(*, files: bool) -> list[_Offered]:
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    draws = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
    ends = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True)
    table = [
        ("generate", "Draws an image from a text prompt.", takes.GENERATE, draws, _generate),
        (
            "edit",
            "Draws an image that starts from another one, and from a text prompt.",
            takes.edit(files=files),
            draws,
            _edit,
        ),
        (
            "get_task",
            "A task, and its image once it is completed.",
            takes.GET_TASK,
            reads,
            _get_task,
        ),
        ("list_tasks", "Tasks of all nodes, newest first.", takes.LIST_TASKS, reads, _list_tasks),
        ("cancel_task", "Ends a task that is open.", takes.CANCEL_TASK, ends, _cancel_task),
        (
            "cluster_status",
            "The nodes of the cluster, how busy they are, and whether it draws now.",
            takes.NOTHING,
            reads,
            _cluster_status,
        ),
        (
            "list_models",
            "Models that may be asked for, with their limits and defaults.",
            takes.NOTHING,
            reads,
            _list_models,
        ),
    ]
    return [
        _Offered(
            about=Tool(name=name, description=said, input_schema=schema, annotations=hints), do=do
        )
        for name, said, schema, hints, do in table
    ]
