"""Examples for /openapi.json: what to send and what comes back, operation by operation.

Answers are made by what makes them for clients, of one drawing on two nodes.
"""

from __future__ import annotations

from typing import Any

from edge_node.api import schemas
from edge_node.api.automatic1111 import LISTS
from edge_node.api.cluster_object import cluster_object
from edge_node.api.error_responses import error_body
from edge_node.api.event_stream import encode_event
from edge_node.api.job_object import job_object
from edge_node.api.task_lists import cursor_of, missing_object, page_object
from edge_node.domain import (
    Drawing,
    Durability,
    JobId,
    ModelFingerprint,
    NodeId,
    NodeState,
    Task,
    TaskEvent,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.errors import NodeNotReady
from edge_node.listing import Cancelled, ClusterPage, Listed, Missing, Place, TaskPage
from edge_node.moves import Move
from edge_node.requests import DrawingLimits, NodeAction
from edge_node.snapshot import ClusterSnapshot, PeerView

Json = dict[str, Any]
TASK_ID = TaskId("orin-1-01JB9Z6Q4M7X8Y2K3N5P6R7S8T")
JOB_ID = JobId("orin-1-01JB9Z6Q4M7X8Y2K3N5P6R7S8V")
MODEL = "sd3-medium"
_NOW_UNIX_S = 1_767_225_600.0
_PROMPT = "a lighthouse on a cliff at dawn"
# The smallest PNG there is, of one pixel.
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg"
    "=="
)
_DRAWING = Drawing(
    prompt=_PROMPT,
    width_px=1024,
    height_px=1024,
    steps=15,
    guidance_scale=5.0,
    seed=7,
    model=MODEL,
)


def _record(*, over: bool) -> TaskRecord:
    task = Task(
        id=TASK_ID,
        job_id=None,
        drawing=_DRAWING,
        work=16.0,
        input_bits=1000,
        created_unix_s=_NOW_UNIX_S,
        durability=Durability.DISK,
    )
    if not over:
        return TaskRecord(task=task, eta_s=9.4)
    return TaskRecord(
        task=task,
        status=TaskStatus.COMPLETED,
        executor=NodeId("orin-2"),
        attempt=2,
        step=15,
        started_unix_s=_NOW_UNIX_S + 0.3,
        finished_unix_s=_NOW_UNIX_S + 9.1,
        image_bytes=1_402_113,
        queue_s=0.2,
        compute_s=8.8,
        policy="lad_ts",
        moves=(Move(source="orin-4", target="orin-2", reason="idle", gain_s=2.7),),
    )


_NODE = NodeState(
    node_id=NodeId("orin-1"),
    incarnation=3,
    sequence=812,
    accepting=True,
    capacity=1.8,
    model=MODEL,
    model_fingerprint=ModelFingerprint("9f2c"),
    device="Jetson AGX Orin",
)
_LIMITS = DrawingLimits(
    model=MODEL,
    fingerprint="9f2c",
    size_px_min=256,
    size_px_max=1536,
    size_px_multiple=16,
    size_px_default=1024,
    steps_max=100,
    steps_default=15,
    guidance_scale_max=30.0,
    guidance_scale_default=5.0,
    strength_default=0.6,
    prompt_chars_max=32_000,
    images_per_request_max=10,
    deadline_s_max=86_400.0,
)
_AWAY = Missing(node_id=NodeId("orin-3"), address="orin-3:9080", why="no answer within 2 s")
_STEP = TaskEvent(
    sequence=4, kind=TaskEventKind.STEP, unix_s=_NOW_UNIX_S + 2.0, attempt=1, step=3, steps=15
)


def _stream(name: str, data: Json) -> str:
    return encode_event(name, data, event_id=4).decode()


def _page() -> Json:
    listed = (Listed(place=Place(_NOW_UNIX_S, TASK_ID), record=_record(over=True)),)
    page = TaskPage(listed=listed, until=Place(_NOW_UNIX_S, TASK_ID))
    return page_object(ClusterPage(page=page, missing=(_AWAY,)), prefix="")


def _cluster() -> Json:
    peer = PeerView(address="orin-2:9080", state=_NODE, alive=True, staleness_s=0.2, link_s=0.001)
    return cluster_object(
        ClusterSnapshot(
            node_id=_NODE.node_id, policy="lad_ts", own=_NODE, peers=(peer,), tasks_in_flight=0
        )
    )


_WANTED: Json = {"prompt": _PROMPT, "size": "1024x1024", "seed": 7, "num_inference_steps": 15}
_EDIT: Json = {"image": _PNG, "prompt": "the same in red", "strength": 0.6, "size": "auto"}
_MODEL = schemas.model_object(MODEL, _LIMITS, created_unix_s=int(_NOW_UNIX_S))
_QUEUED = schemas.task_object(_record(over=False))
_DONE = schemas.task_object(_record(over=True))
_JOB = job_object(JOB_ID, [_record(over=True)])
_IMAGES: Json = {
    "created": int(_NOW_UNIX_S),
    "model": MODEL,
    "data": [{"b64_json": _PNG, "seed": 7, "task_id": TASK_ID}],
    **schemas.image_properties(_DRAWING, quality=None),
}
_TO_IMAGE: Json = {"prompt": _PROMPT, "steps": 15, "cfg_scale": 5, "width": 1024, "height": 1024}
_THEIR_IMAGES: Json = {"images": [_PNG], "parameters": _TO_IMAGE, "info": "{}"}
BODIES: dict[tuple[str, str], Json] = {
    ("/v1/images/generations", "post"): _WANTED,
    ("/v1/images/edits", "post"): _EDIT,
    ("/v1/images/variations", "post"): {"image": _PNG, "strength": 0.4},
    ("/v1/tasks", "post"): _WANTED,
    ("/v1/keys", "put"): {"signed_list": "what `dedgeai keys push` sends"},
    ("/sdapi/v1/txt2img", "post"): _TO_IMAGE,
    ("/sdapi/v1/img2img", "post"): {**_TO_IMAGE, "init_images": [_PNG], "denoising_strength": 0.6},
    ("/sdapi/v1/options", "post"): {"sd_model_checkpoint": MODEL},
    ("/internal/progress", "post"): {"id_task": "task(1)", "id_live_preview": -1},
}
_EVENTS = _stream("step", schemas.task_event(_STEP))
_OF_A_TASK = _stream("step", {"task_id": TASK_ID, **schemas.task_event(_STEP)})
ANSWERS: dict[tuple[str, str], Any] = {
    **{(f"/v1/images/{one}", "post"): _IMAGES for one in ("generations", "edits", "variations")},
    ("/v1/models", "get"): {"object": "list", "data": [_MODEL]},
    ("/v1/models/{model}", "get"): _MODEL,
    ("/v1/tasks", "get"): _page(),
    ("/v1/tasks", "post"): _QUEUED,
    ("/v1/tasks", "delete"): {
        "object": "tasks.cancelled",
        "cancelled": Cancelled(count=12, missing=()).count,
        "missing": [missing_object(_AWAY)],
    },
    ("/v1/tasks/{task_id}", "get"): _DONE,
    ("/v1/tasks/{task_id}", "delete"): _DONE,
    ("/v1/tasks/{task_id}/erase", "post"): {"id": TASK_ID, "object": "image.task", "erased": True},
    ("/v1/tasks/{task_id}/events", "get"): _EVENTS,
    ("/v1/jobs/{job_id}", "get"): _JOB,
    ("/v1/jobs/{job_id}", "delete"): _JOB,
    ("/v1/jobs/{job_id}/erase", "post"): {"id": JOB_ID, "object": "image.job", "erased": True},
    ("/v1/jobs/{job_id}/events", "get"): _OF_A_TASK,
    ("/v1/events", "get"): _OF_A_TASK,
    ("/v1/cluster", "get"): _cluster(),
    **{
        (f"/v1/nodes/{{node_id}}/{action}", "post"): {
            "object": "node",
            "node": "orin-2",
            "paused": action is not NodeAction.RESUME,
        }
        for action in NodeAction
    },
    **{
        (f"/v1/nodes/{{node_id}}/{word}", "post"): {
            "object": "node",
            "node": "orin-2",
            "removed": word == "remove",
        }
        for word in ("remove", "readmit")
    },
    ("/v1/dead_letters", "get"): {"object": "list", "data": []},
    ("/v1/dead_letters/{task_id}/retry", "post"): _QUEUED,
    ("/livez", "get"): {"status": "ok", "node": "orin-1"},
    ("/readyz", "get"): {"status": "ready"},
    ("/metrics", "get"): "dedgeai_worker_ready 1.0\n",
    ("/v1/keys", "put"): {"object": "key_list", "version": 4},
    ("/sdapi/v1/txt2img", "post"): _THEIR_IMAGES,
    ("/sdapi/v1/img2img", "post"): _THEIR_IMAGES,
    ("/sdapi/v1/progress", "get"): {"progress": 0.2, "eta_relative": 7.1, "state": {}},
    ("/internal/progress", "post"): {"active": True, "queued": False, "progress": 0.2},
    ("/sdapi/v1/options", "get"): {"sd_model_checkpoint": MODEL, "samples_format": "png"},
    ("/sdapi/v1/sd-models", "get"): [{"title": MODEL, "model_name": MODEL, "filename": MODEL}],
    **{
        (f"/sdapi/v1/{one}", "post"): {}
        for one in ("options", "interrupt", "skip", "refresh-checkpoints")
    },
    **{(f"/sdapi/v1/{name}", "get"): listed for name, listed in LISTS.items()},
}
# Of a node that is alive no more, or takes nothing, and says so.
UNWELL: dict[str, Json] = {
    path: {"status": status, "reasons": [why], **error_body(NodeNotReady(f"{said}: {why}."))}
    for path, status, said, why in (
        ("/livez", "stuck", "Stuck", "housekeeping keeps failing"),
        ("/readyz", "not ready", "Not ready", "the worker is loading"),
    )
}
PARAMETERS: dict[str, Any] = {
    "task_id": TASK_ID,
    "job_id": JOB_ID,
    "node_id": "orin-2",
    "model": MODEL,
    "status": "queued,in_progress",
    "owner": "3f1c5a7e",
    "limit": 20,
    "cursor": cursor_of(Place(_NOW_UNIX_S, TASK_ID)),
    "all": "true",
    "thumbnail": 256,
    "previews": "true",
    "Idempotency-Key": "order-4711",
    "Last-Event-ID": "4",
    "Range": "bytes=0-1023",
    "If-None-Match": '"9f2c"',
}
