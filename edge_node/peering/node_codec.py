"""Between domain.py and the messages of node.proto.

What both protos share is in codec.py, what concerns learning in learning_codec.py. Owns the mapping
alone: no connection, no state, no decision.
"""

from __future__ import annotations

from functools import lru_cache

from dedgeai.v1 import node_pb2, worker_pb2

from edge_node.checkpoint import LATENT_BYTES_PER_PX_MAX, Checkpoint
from edge_node.device_summary import DeviceSummary
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptHeartbeat,
    AttemptQueued,
    AttemptReport,
    AttemptStarted,
    Drawing,
    Durability,
    JobId,
    ModelFingerprint,
    NodeId,
    NodeState,
    Offload,
    ServedModel,
    StepFinished,
    Task,
    TaskError,
    TaskEvent,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.errors import MalformedMessage
from edge_node.image_header import ImageHeader, image_header
from edge_node.peering import codec, learning_codec, message_rules, moves_codec
from edge_node.prompt_tokens import PromptTokens
from edge_node.removal import Removal

# What is expected of a device that hardly works may be any time.
ETA_S_MAX = 1e9
# Of an image, within which its header is found: a JPEG may have a profile before it.
HEADER_BYTES = 512 * 1024


def state_to_proto(state: NodeState) -> node_pb2.NodeState:
    """A node's queue state as a message; the same one while every peer is told the same state."""
    global _told
    if _told is None or _told[0] is not state:
        _told = (state, _state_to_proto(state))
    return _told[1]


_told: tuple[NodeState, node_pb2.NodeState] | None = None


def _summary_to_proto(summary: DeviceSummary) -> node_pb2.DeviceSummary:
    return node_pb2.DeviceSummary(**vars(summary))


def _summary_of(state: node_pb2.NodeState) -> DeviceSummary | None:
    if not state.HasField("device_summary"):
        return None
    told = {field.name: value for field, value in state.device_summary.ListFields()}
    return DeviceSummary(**told)


def _state_to_proto(state: NodeState) -> node_pb2.NodeState:
    return node_pb2.NodeState(
        node_id=state.node_id,
        incarnation=state.incarnation,
        sequence=state.sequence,
        backlog=state.backlog,
        capacity=state.capacity,
        model=state.model,
        model_fingerprint=state.model_fingerprint,
        accepting=state.accepting,
        queued=state.queued,
        running=state.running,
        dispatches_seen=[
            node_pb2.DispatchSeen(origin=origin, incarnation=incarnation, dispatch=dispatch)
            for origin, (incarnation, dispatch) in state.dispatches_seen.items()
        ],
        rest_url=state.rest_url,
        grpc_address=state.grpc_address,
        device=state.device,
        emulated_device=state.emulated_device,
        accepted_work_s=state.accepted_work_s,
        changed_s=state.changed_s,
        sent_s=state.sent_s,
        cluster_name=state.cluster_name,
        leaving=state.leaving,
        serves=[served_to_proto(served) for served in state.serves],
        learning=None
        if state.learning is None
        else learning_codec.learning_to_proto(state.learning),
        sent_at=state.sent_unix_s,
        keys=_keys_to_proto(*state.keys),
        clients=state.clients,
        key_use=[
            node_pb2.KeyUse(client=client, day=day, images=images, open_tasks=open_tasks)
            for client, day, images, open_tasks in state.key_use
        ],
        accepted_by_model=[
            node_pb2.AcceptedWork(model=model, work_s=work_s)
            for model, work_s in state.accepted_by_model
        ],
        paused=state.paused,
        device_summary=None if state.summary is None else _summary_to_proto(state.summary),
        held=map(moves_codec.held_to_proto, state.held),
        removals=[
            node_pb2.Removal(
                node_id=one.node_id,
                address=one.address,
                removed=one.removed,
                said_at=one.at_unix_s,
            )
            for one in state.removals
        ],
        helped_by=state.helped_by or "",
    )


def state_from_proto(message: node_pb2.NodeState) -> NodeState:
    """A node's queue state of a message; raises MalformedMessage."""
    message_rules.check(message)
    return NodeState(
        node_id=NodeId(message.node_id),
        incarnation=message.incarnation,
        sequence=message.sequence,
        backlog=max(0.0, message.backlog),
        capacity=message.capacity,
        model=message.model,
        model_fingerprint=ModelFingerprint(message.model_fingerprint),
        accepting=message.accepting,
        queued=message.queued,
        running=message.running,
        dispatches_seen={
            NodeId(seen.origin): (seen.incarnation, seen.dispatch)
            for seen in message.dispatches_seen
        },
        rest_url=message.rest_url,
        grpc_address=message.grpc_address,
        device=message.device,
        emulated_device=message.emulated_device,
        accepted_work_s=max(0.0, message.accepted_work_s),
        changed_s=message.changed_s,
        sent_s=message.sent_s,
        cluster_name=message.cluster_name,
        leaving=message.leaving,
        serves=tuple(map(_served, message.serves)),
        learning=learning_codec.learning_from_proto(message.learning)
        if message.HasField("learning")
        else None,
        sent_unix_s=message.sent_at,
        keys=(message.keys.version, message.keys.sha256),
        clients=message.clients,
        key_use=tuple((one.client, one.day, one.images, one.open_tasks) for one in message.key_use),
        accepted_by_model=tuple(
            (one.model, max(0.0, one.work_s)) for one in message.accepted_by_model
        ),
        paused=message.paused,
        summary=_summary_of(message),
        held=tuple(map(moves_codec.held_from_proto, message.held)),
        removals=tuple(
            Removal(
                node_id=one.node_id,
                address=one.address,
                removed=one.removed,
                at_unix_s=one.said_at,
            )
            for one in message.removals
        ),
        helped_by=NodeId(message.helped_by) if message.helped_by else None,
    )


def _keys_to_proto(version: int, sha256: str) -> node_pb2.KeysHeld | None:
    return node_pb2.KeysHeld(version=version, sha256=sha256) if version else None


def served_to_proto(served: ServedModel) -> node_pb2.ServedModel:
    """A model that a node serves, as a message."""
    return node_pb2.ServedModel(
        name=served.name,
        fingerprint=served.fingerprint,
        work_model=codec.work_model_to_proto(served.work_model),
        size_px_min=served.size_px_min,
        size_px_max=served.size_px_max,
        size_px_multiple=served.size_px_multiple,
        steps_max=served.steps_max,
        steps_default=served.steps_default,
        guidance_scale_default=served.guidance_scale_default,
        guidance_scale_max=served.guidance_scale_max,
        strength_default=served.strength_default,
        prompt_chars_max=served.prompt_chars_max,
        masks=served.masks,
    )


def _served(message: node_pb2.ServedModel) -> ServedModel:
    """As `served_from_proto`: with every state comes the same."""
    content = message.SerializeToString()
    if len(content) > message_rules.SAID_AGAIN_BYTES_MAX:
        return served_from_proto(message)
    return _served_again(content)


@lru_cache(maxsize=256)
def _served_again(content: bytes) -> ServedModel:
    return served_from_proto(node_pb2.ServedModel.FromString(content))


def served_from_proto(message: node_pb2.ServedModel) -> ServedModel:
    """A model that a node serves, of a message."""
    return ServedModel(
        name=message.name,
        fingerprint=ModelFingerprint(message.fingerprint),
        work_model=codec.work_model_from_proto(message.work_model),
        size_px_min=message.size_px_min,
        size_px_max=message.size_px_max,
        size_px_multiple=message.size_px_multiple,
        steps_max=message.steps_max,
        steps_default=message.steps_default,
        guidance_scale_default=message.guidance_scale_default,
        guidance_scale_max=message.guidance_scale_max,
        strength_default=message.strength_default,
        prompt_chars_max=message.prompt_chars_max,
        masks=message.masks,
    )


def offload_to_proto(offload: Offload, *, init_image: bytes = b"") -> node_pb2.OffloadRequest:
    """An attempt as a message, with the PNG that it starts from."""
    return node_pb2.OffloadRequest(
        task_id=offload.task_id,
        attempt=offload.fence.integer,
        fence=codec.fence_to_proto(offload.fence),
        origin=offload.origin,
        origin_incarnation=offload.incarnation,
        dispatch=offload.dispatch,
        drawing=codec.drawing_to_proto(offload.drawing),
        work=offload.work,
        priority=offload.priority,
        deadline_s=codec.deadline_to_proto(offload.deadline_s),
        client=offload.client,
        init_image=init_image,
        checkpoint_steps=offload.checkpoint_steps,
        checkpoint=codec.checkpoint_to_proto(offload.checkpoint),
        age_s=offload.age_s,
        moves_left=offload.moves_left,
    )


def offload_from_proto(message: node_pb2.OffloadRequest) -> Offload:
    """An attempt of a message; its init image stays with the message.

    Raises:
        MalformedMessage: it could not be of a task.
    """
    message_rules.check(message)
    if not message.work > 0.0:
        raise MalformedMessage(f"OffloadRequest.work is {message.work:g}: a task is work.")
    drawing = codec.drawing_from_proto(message.drawing)
    checkpoint = codec.checkpoint_from_proto(message)
    if checkpoint is not None:
        _check_checkpoint(checkpoint, drawing)
    return Offload(
        task_id=TaskId(message.task_id),
        fence=codec.fence_from_proto(message),
        origin=NodeId(message.origin),
        incarnation=message.origin_incarnation,
        dispatch=message.dispatch,
        drawing=drawing,
        work=message.work,
        priority=message.priority,
        deadline_s=message.deadline_s or None,
        client=message.client,
        checkpoint_steps=message.checkpoint_steps,
        checkpoint=checkpoint,
        age_s=max(0.0, message.age_s),
        moves_left=message.moves_left,
    )


def check_init_image(message: node_pb2.OffloadRequest) -> None:
    """Raises MalformedMessage where the image that came along is no PNG of the drawing's size."""
    if not message.init_image:
        return
    header, drawing = image_header(message.init_image[:HEADER_BYTES]), message.drawing
    wanted = ImageHeader("png", drawing.width_px, drawing.height_px)
    if not drawing.init_image_sha256 or header != wanted:
        raise MalformedMessage(f"The init image is {_shown(header)}, not {_shown(wanted)}.")


def report_to_proto(report: AttemptReport) -> node_pb2.OffloadResponse:
    """What the executor tells the origin, as a message."""
    match report:
        case AttemptQueued(position=position):
            queued = node_pb2.OffloadResponse.Queued(position=position)
            return node_pb2.OffloadResponse(queued=queued)
        case AttemptHeartbeat(queue_position=position):
            heartbeat = node_pb2.OffloadResponse.Heartbeat(queue_position=position)
            return node_pb2.OffloadResponse(heartbeat=heartbeat)
        case AttemptStarted(step=step):
            return node_pb2.OffloadResponse(started=worker_pb2.DrawResponse.Started(step=step))
        case StepFinished():
            done = codec.step_finished_to_proto(report)
            return node_pb2.OffloadResponse(step_finished=done)
        case AttemptFinished():
            return node_pb2.OffloadResponse(finished=codec.finished_to_proto(report))
        case AttemptFailed():
            return node_pb2.OffloadResponse(failed=codec.failed_to_proto(report))


def report_from_proto(message: node_pb2.OffloadResponse) -> AttemptReport | None:
    """What the executor tells the origin; None for a report that this version does not know.

    Raises:
        MalformedMessage: it means nothing. Whether it was asked for is `check_as_asked`'s.
    """
    message_rules.check(message)
    match message.WhichOneof("report"):
        case "queued":
            return AttemptQueued(position=message.queued.position)
        case "heartbeat":
            return AttemptHeartbeat(queue_position=message.heartbeat.queue_position)
        case "started":
            return AttemptStarted(step=message.started.step)
        case "step_finished":
            return codec.step_finished_from_proto(message.step_finished)
        case "finished":
            return codec.finished_from_proto(message.finished)
        case "failed":
            return codec.failed_from_proto(message.failed)
        case _:
            return None


def check_as_asked(report: AttemptReport, drawing: Drawing) -> None:
    """Raises MalformedMessage where a report is not of that drawing."""
    match report:
        case AttemptStarted(step=step):
            if not 0 <= step < drawing.denoising_steps:
                raise MalformedMessage(f"It began after step {step}.")
        case StepFinished(step=step, steps=steps, preview=preview, checkpoint=checkpoint):
            if not 1 <= step <= steps:
                raise MalformedMessage(f"Step {step} of {steps} is none.")
            if steps != drawing.denoising_steps:
                raise MalformedMessage(
                    f"A step of {steps} was reported, and {drawing.denoising_steps} were asked for."
                )
            if preview and not (drawing.previews and image_header(preview[:HEADER_BYTES])):
                raise MalformedMessage("A preview is no image, or was not asked for.")
            if checkpoint is not None:
                _check_checkpoint(checkpoint, drawing)
                if checkpoint.step != step:
                    raise MalformedMessage(f"A checkpoint of {checkpoint.step} came with {step}.")
        case AttemptFinished(image=image):
            wanted = ImageHeader(drawing.image_format, drawing.width_px, drawing.height_px)
            header = image_header(image.content[:HEADER_BYTES])
            told = ImageHeader(image.format, image.width_px, image.height_px)
            if not header == told == wanted:
                raise MalformedMessage(
                    f"The image is {_shown(header)} and called {_shown(told)}; asked for was "
                    f"{_shown(wanted)}."
                )


def _check_checkpoint(checkpoint: Checkpoint, drawing: Drawing) -> None:
    wrong = checkpoint.what_is_wrong(drawing_sha256=drawing.sha256, steps=drawing.denoising_steps)
    if not wrong and len(checkpoint.latents.latent) > _latent_bytes_max(drawing):
        wrong = f"its latent has {len(checkpoint.latents.latent)} bytes"
    if wrong:
        raise MalformedMessage(f"A checkpoint came that is none: {wrong}.")


def _latent_bytes_max(drawing: Drawing) -> int:
    return LATENT_BYTES_PER_PX_MAX * drawing.width_px * drawing.height_px


def _shown(header: ImageHeader | None) -> str:
    if header is None:
        return "no image"
    return f"{header.format} of {header.width_px}x{header.height_px}"


def record_to_proto(record: TaskRecord) -> node_pb2.TaskView:
    """A task as clients are shown it, as a message."""
    task, error = record.task, record.error
    return node_pb2.TaskView(
        task_id=task.id,
        job_id=task.job_id or "",
        status=record.status.value,
        drawing=codec.drawing_to_proto(task.drawing),
        origin=task.origin,
        executor=record.executor or "",
        attempt=record.attempt,
        step=record.step,
        queue_position=record.queue_position,
        eta_s=min(record.eta_s, ETA_S_MAX),
        durability=task.durability.value,
        created_at=task.created_unix_s,
        started_at=record.started_unix_s or 0.0,
        finished_at=record.finished_unix_s or 0.0,
        error_code="" if error is None else error.code,
        error_message="" if error is None else error.message,
        image_bytes=record.image_bytes,
        emulated_device=record.emulated_device,
        prompt_tokens=record.prompt_tokens.counted,
        prompt_tokens_drawn=record.prompt_tokens.drawn,
        queue_s=record.queue_s,
        compute_s=record.compute_s,
        policy=record.policy,
        policy_reason=record.policy_reason,
        work=task.work,
        deadline_at=task.deadline_unix_s or 0.0,
        priority=task.priority,
        client=task.client,
        moves=map(moves_codec.move_to_proto, record.moves),
    )


def record_from_proto(message: node_pb2.TaskView) -> TaskRecord:
    """A task as its origin shows it; raises MalformedMessage."""
    message_rules.check(message)
    task = Task(
        id=TaskId(message.task_id),
        job_id=JobId(message.job_id) if message.job_id else None,
        drawing=codec.drawing_from_proto(message.drawing),
        work=message.work,
        input_bits=0,
        created_unix_s=message.created_at,
        deadline_unix_s=message.deadline_at or None,
        priority=message.priority,
        durability=Durability(message.durability),
        client=message.client,
    )
    return TaskRecord(
        task=task,
        status=TaskStatus(message.status),
        executor=NodeId(message.executor) if message.executor else None,
        attempt=message.attempt,
        step=message.step,
        queue_position=message.queue_position,
        eta_s=message.eta_s,
        started_unix_s=message.started_at or None,
        finished_unix_s=message.finished_at or None,
        error=_error(message.error_code, message.error_message),
        image_bytes=message.image_bytes,
        emulated_device=message.emulated_device,
        prompt_tokens=PromptTokens(message.prompt_tokens, message.prompt_tokens_drawn),
        queue_s=message.queue_s,
        compute_s=message.compute_s,
        policy=message.policy,
        policy_reason=message.policy_reason,
        moves=tuple(map(moves_codec.move_from_proto, message.moves)),
    )


def event_to_proto(event: TaskEvent) -> node_pb2.WatchTaskResponse:
    """A task event as a message."""
    return node_pb2.WatchTaskResponse(
        sequence=event.sequence,
        # A node of version 0.1.0 knows no moves.
        kind=(TaskEventKind.PLACED if event.kind is TaskEventKind.MOVED else event.kind).value,
        at=event.unix_s,
        attempt=event.attempt,
        executor=event.executor or "",
        step=event.step,
        steps=event.steps,
        queue_position=event.queue_position,
        error_code="" if event.error is None else event.error.code,
        error_message="" if event.error is None else event.error.message,
        preview=event.preview,
        eta_s=min(event.eta_s, ETA_S_MAX),
        move=None if event.move is None else moves_codec.move_to_proto(event.move),
    )


def event_from_proto(message: node_pb2.WatchTaskResponse) -> TaskEvent:
    """A task event of a message; raises MalformedMessage."""
    message_rules.check(message)
    moved = message.HasField("move") and message.kind == TaskEventKind.PLACED
    return TaskEvent(
        sequence=message.sequence,
        kind=TaskEventKind.MOVED if moved else TaskEventKind(message.kind),
        unix_s=message.at,
        attempt=message.attempt,
        executor=NodeId(message.executor) if message.executor else None,
        step=message.step,
        steps=message.steps,
        queue_position=message.queue_position,
        error=_error(message.error_code, message.error_message),
        preview=message.preview,
        eta_s=message.eta_s,
        move=moves_codec.move_from_proto(message.move) if message.HasField("move") else None,
    )


def _error(code: str, message: str) -> TaskError | None:
    if not code:
        return None
    return TaskError(code=code, message=message[: codec.SENTENCE_CHARS_MAX])
