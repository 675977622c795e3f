"""The one place where the words of domain.py become protobuf messages and come back.

Owns the mapping between dataclasses and wire messages. It must not open a connection, keep state
or decide anything; callers of both sides see domain types only. A figure of a worker's that is
not finite means nothing and would spread through sums: it is read as 0, as if it were absent.
Another node's is refused: `message_rules.py`.
"""

from __future__ import annotations

import math
from typing import Protocol

from dedgeai.v1 import worker_pb2

from edge_node.checkpoint import Checkpoint, Latents
from edge_node.domain import (
    ATTEMPTS_OF_A_TERM,
    TERMS_MAX,
    AttemptFailed,
    AttemptFinished,
    AttemptQueued,
    AttemptStarted,
    Drawing,
    Fence,
    Image,
    ModelFingerprint,
    StepFinished,
    WorkerDescription,
    WorkerLoad,
    WorkModel,
)
from edge_node.errors import MalformedMessage
from edge_node.prompt_tokens import PromptTokens

# What every channel of this project takes: the largest message carries one PNG, which at 1536x1536
# pixels is at most some 7 MB.
MESSAGE_BYTES_MAX = 64 * 2**20

# Of a task in one life of its owner: the most that attempts_max allows, its moves, and a few that
# led nowhere.
PLACEMENTS_MAX = 1100

# Of why something failed, as it is kept and shown.
SENTENCE_CHARS_MAX = 2000

# A deadline that is as good as over still is one: on the wire 0 says that there is none.
DEADLINE_S_MIN = 0.001

# What a worker reports of an attempt; leases between nodes add AttemptHeartbeat.
DrawReport = AttemptQueued | AttemptStarted | StepFinished | AttemptFinished | AttemptFailed

_STATE_NUMBERS = {
    "loading": worker_pb2.DescribeResponse.STATE_LOADING,
    "warming_up": worker_pb2.DescribeResponse.STATE_WARMING_UP,
    "ready": worker_pb2.DescribeResponse.STATE_READY,
    "failed": worker_pb2.DescribeResponse.STATE_FAILED,
}
_NO_CALIBRATION = (
    "the worker says that it is ready, and its calibration has numbers that mean nothing (not "
    "finite, or below 0); start it again, and see its log"
)
_STATE_NAMES = {number: name for name, number in _STATE_NUMBERS.items()}


def figure(number: float) -> float:
    """A number of a message; 0 for one that is not finite."""
    return number if math.isfinite(number) else 0.0


def deadline_to_proto(deadline_s: float | None) -> float:
    """Seconds left as they are sent."""
    return 0.0 if deadline_s is None else max(deadline_s, DEADLINE_S_MIN)


# Which placement of a task something belongs to.


class HasFence(Protocol):
    """A message of this version, with a fence, or of version 0.1.0, with a number instead."""

    attempt: int

    @property
    def fence(self) -> worker_pb2.Fence:
        """All zeros where there is none."""
        ...


def fence_to_proto(fence: Fence) -> worker_pb2.Fence:
    """Fence as a message; `attempt` beside it is `fence.integer`."""
    return worker_pb2.Fence(term=fence.term, attempt=fence.attempt)


def fence_from_proto(message: HasFence) -> Fence:
    """Fence of a message of either version.

    Raises:
        MalformedMessage: no owner can have come so far.
    """
    fence = Fence.of_integer(message.attempt)
    if message.fence.attempt:
        fence = Fence(message.fence.term, message.fence.attempt)
    # Recovery begins a new term, and a life of version 0.1.0 the second half of the former one.
    placed = fence.attempt % (ATTEMPTS_OF_A_TERM // 2)
    beyond = fence.term > TERMS_MAX or fence.attempt >= ATTEMPTS_OF_A_TERM
    if beyond or not 0 < placed <= PLACEMENTS_MAX:
        raise MalformedMessage(f"No task can be in its attempt {fence}.")
    return fence


# What to draw, and the image.


def drawing_to_proto(drawing: Drawing) -> worker_pb2.Drawing:
    """Drawing as a message."""
    return worker_pb2.Drawing(
        prompt=drawing.prompt,
        negative_prompt=drawing.negative_prompt,
        width_px=drawing.width_px,
        height_px=drawing.height_px,
        steps=drawing.steps,
        guidance_scale=drawing.guidance_scale,
        seed=drawing.seed,
        model=drawing.model,
        image_format=drawing.image_format,
        image_quality=drawing.image_quality,
        previews=drawing.previews,
        init_image_sha256=drawing.init_image_sha256,
        strength=drawing.strength,
        masked=drawing.masked,
    )


def drawing_from_proto(message: worker_pb2.Drawing) -> Drawing:
    """Drawing of a message; its fields are taken as they are, defaults were applied before."""
    return Drawing(
        prompt=message.prompt,
        negative_prompt=message.negative_prompt,
        width_px=message.width_px,
        height_px=message.height_px,
        steps=message.steps,
        guidance_scale=message.guidance_scale,
        seed=message.seed,
        model=message.model,
        image_format=message.image_format,
        image_quality=message.image_quality,
        previews=message.previews,
        init_image_sha256=message.init_image_sha256,
        strength=message.strength,
        masked=message.masked,
    )


def image_to_proto(image: Image) -> worker_pb2.Image:
    """Encoded image as a message."""
    return worker_pb2.Image(
        content=image.content,
        format=image.format,
        width_px=image.width_px,
        height_px=image.height_px,
        emulated_device=image.emulated_device,
        prompt_tokens=image.prompt_tokens.counted,
        prompt_tokens_drawn=image.prompt_tokens.drawn,
    )


def image_from_proto(message: worker_pb2.Image) -> Image:
    """Encoded image of a message."""
    return Image(
        content=message.content,
        format=message.format,
        width_px=message.width_px,
        height_px=message.height_px,
        emulated_device=message.emulated_device,
        prompt_tokens=PromptTokens(message.prompt_tokens, message.prompt_tokens_drawn),
    )


class HasCheckpoint(Protocol):
    """A message with room for a checkpoint."""

    @property
    def checkpoint(self) -> worker_pb2.Checkpoint:
        """Empty where there is none."""
        ...


def checkpoint_to_proto(checkpoint: Checkpoint | None) -> worker_pb2.Checkpoint | None:
    """Checkpoint as a message."""
    if checkpoint is None:
        return None
    latents = checkpoint.latents
    return worker_pb2.Checkpoint(
        drawing_sha256=checkpoint.drawing_sha256,
        model_fingerprint=checkpoint.fingerprint,
        step=checkpoint.step,
        dtype=latents.dtype,
        shape=latents.shape_CHW,
        latent=latents.latent,
        velocity=latents.velocity,
        change=latents.change if math.isfinite(latents.change) else None,
    )


def checkpoint_from_proto(message: HasCheckpoint) -> Checkpoint | None:
    """Checkpoint that a message carries; what it is worth, `Checkpoint.what_is_wrong` says."""
    told = message.checkpoint
    if not told.step:
        return None
    return Checkpoint(
        drawing_sha256=told.drawing_sha256,
        fingerprint=told.model_fingerprint,
        step=told.step,
        latents=Latents(
            dtype=told.dtype,
            shape_CHW=tuple(told.shape),
            latent=told.latent,
            velocity=told.velocity,
            change=told.change if told.HasField("change") else math.inf,
        ),
    )


# What a worker says of itself.


def work_model_to_proto(work_model: WorkModel) -> worker_pb2.WorkModel:
    """Calibrated work model as a message."""
    return worker_pb2.WorkModel(
        fixed_steps=work_model.fixed_steps,
        unguided_ratio=work_model.unguided_ratio,
        reference_px=work_model.reference_px,
        size_costs=[
            worker_pb2.WorkModel.SizeCost(width_px=width_px, height_px=height_px, rho=rho)
            for width_px, height_px, rho in work_model.size_costs
        ],
        init_image_steps=work_model.init_image_steps,
    )


def work_model_from_proto(message: worker_pb2.WorkModel) -> WorkModel:
    """Calibrated work model of a message."""
    return WorkModel(
        fixed_steps=figure(message.fixed_steps),
        unguided_ratio=figure(message.unguided_ratio),
        reference_px=message.reference_px,
        size_costs=tuple(
            (cost.width_px, cost.height_px, figure(cost.rho)) for cost in message.size_costs
        ),
        init_image_steps=figure(message.init_image_steps),
    )


def _is_calibrated(message: worker_pb2.DescribeResponse) -> bool:
    model = message.work_model
    costs = (model.fixed_steps, model.unguided_ratio, model.init_image_steps)
    measured = (message.capacity, *(cost.rho for cost in model.size_costs))
    meant = all(0.0 <= cost < math.inf for cost in costs) and model.reference_px > 0
    return meant and all(0.0 < one < math.inf for one in measured)


def description_to_proto(description: WorkerDescription) -> worker_pb2.DescribeResponse:
    """Description of a worker as a message."""
    return worker_pb2.DescribeResponse(
        state=_STATE_NUMBERS[description.state],
        detail=description.detail,
        fault=description.fault,
        engine=description.engine,
        model=description.model,
        model_fingerprint=description.model_fingerprint,
        capacity=description.capacity,
        work_model=work_model_to_proto(description.work_model),
        size_px_min=description.size_px_min,
        size_px_max=description.size_px_max,
        size_px_multiple=description.size_px_multiple,
        steps_max=description.steps_max,
        masks=description.masks,
        variants=[
            worker_pb2.ModelVariant(name=name, fingerprint=fingerprint)
            for name, fingerprint in description.variants
        ],
        rows_max=description.rows_max,
        emulated_device=description.emulated_device,
        pace_s=description.pace_s,
        device=description.device,
        order=description.order,
        portable=description.portable,
    )


def description_from_proto(message: worker_pb2.DescribeResponse) -> WorkerDescription:
    """Description of a worker; a state that this node does not know is read as `loading`.

    One that would draw and whose calibration means nothing has failed: no task could be costed.
    """
    state, detail = _STATE_NAMES.get(message.state, "loading"), message.detail
    if state == "ready" and not _is_calibrated(message):
        state, detail = "failed", _NO_CALIBRATION
    return WorkerDescription(
        state=state,
        detail=detail,
        fault=message.fault,
        engine=message.engine,
        model=message.model,
        model_fingerprint=ModelFingerprint(message.model_fingerprint),
        capacity=figure(message.capacity),
        work_model=work_model_from_proto(message.work_model),
        size_px_min=message.size_px_min,
        size_px_max=message.size_px_max,
        size_px_multiple=message.size_px_multiple,
        steps_max=message.steps_max,
        masks=message.masks,
        variants=tuple((one.name, ModelFingerprint(one.fingerprint)) for one in message.variants),
        rows_max=message.rows_max,
        emulated_device=message.emulated_device,
        pace_s=figure(message.pace_s),
        device=message.device,
        # Empty from a worker that knows no other.
        order=message.order or "fcfs",
        portable=message.portable,
    )


def load_to_proto(load: WorkerLoad) -> worker_pb2.WatchLoadResponse:
    """Load of a worker as a message."""
    return worker_pb2.WatchLoadResponse(
        backlog=load.backlog,
        queued=load.queued,
        running=load.running,
        capacity=load.capacity,
        steps_done=load.steps_done,
        resident_bytes=load.resident_bytes,
    )


def load_from_proto(message: worker_pb2.WatchLoadResponse) -> WorkerLoad:
    """Load of a worker."""
    return WorkerLoad(
        backlog=figure(message.backlog),
        queued=message.queued,
        running=message.running,
        capacity=figure(message.capacity),
        steps_done=message.steps_done,
        resident_bytes=message.resident_bytes,
    )


# What is reported of an attempt. The parts serve OffloadResponse, too, which shares the messages.


def step_finished_to_proto(report: StepFinished) -> worker_pb2.DrawResponse.StepFinished:
    """One denoising step, with its preview and its checkpoint if there are any."""
    return worker_pb2.DrawResponse.StepFinished(
        step=report.step,
        steps=report.steps,
        preview=report.preview,
        checkpoint=checkpoint_to_proto(report.checkpoint),
    )


def step_finished_from_proto(message: worker_pb2.DrawResponse.StepFinished) -> StepFinished:
    """One denoising step, with its preview and its checkpoint if there are any."""
    return StepFinished(
        step=message.step,
        steps=message.steps,
        preview=message.preview,
        checkpoint=checkpoint_from_proto(message),
    )


def finished_to_proto(report: AttemptFinished) -> worker_pb2.DrawResponse.Finished:
    """The image and how long it took."""
    return worker_pb2.DrawResponse.Finished(
        image=image_to_proto(report.image), queue_s=report.queue_s, compute_s=report.compute_s
    )


def finished_from_proto(message: worker_pb2.DrawResponse.Finished) -> AttemptFinished:
    """The image and how long it took."""
    return AttemptFinished(
        image=image_from_proto(message.image),
        queue_s=figure(message.queue_s),
        compute_s=figure(message.compute_s),
    )


def failed_to_proto(report: AttemptFailed) -> worker_pb2.DrawResponse.Failed:
    """Why there is no image."""
    return worker_pb2.DrawResponse.Failed(
        code=report.code, message=report.message, retryable=report.retryable
    )


def failed_from_proto(message: worker_pb2.DrawResponse.Failed) -> AttemptFailed:
    """Why there is no image."""
    return AttemptFailed(
        code=message.code or "unknown",
        message=message.message[:SENTENCE_CHARS_MAX],
        retryable=message.retryable,
    )


def report_to_draw_response(report: DrawReport) -> worker_pb2.DrawResponse:
    """What a worker reports, as the message of its stream."""
    match report:
        case AttemptQueued(position=position):
            return worker_pb2.DrawResponse(queued=worker_pb2.DrawResponse.Queued(position=position))
        case AttemptStarted(step=step):
            return worker_pb2.DrawResponse(started=worker_pb2.DrawResponse.Started(step=step))
        case StepFinished():
            return worker_pb2.DrawResponse(step_finished=step_finished_to_proto(report))
        case AttemptFinished():
            return worker_pb2.DrawResponse(finished=finished_to_proto(report))
        case AttemptFailed():
            return worker_pb2.DrawResponse(failed=failed_to_proto(report))


def report_from_draw_response(message: worker_pb2.DrawResponse) -> DrawReport | None:
    """What a worker reports; None for an event that this version does not know."""
    match message.WhichOneof("event"):
        case "queued":
            return AttemptQueued(position=message.queued.position)
        case "started":
            return AttemptStarted(step=message.started.step)
        case "step_finished":
            return step_finished_from_proto(message.step_finished)
        case "finished":
            return finished_from_proto(message.finished)
        case "failed":
            return failed_from_proto(message.failed)
        case _:
            return None
