"""Between shared_rows.py and its messages, which node and worker share.

Owns the mapping, and what a row that comes from another node must be.
"""

from __future__ import annotations

from dedgeai.v1 import worker_pb2

from edge_node.checkpoint import LATENT_BYTES_PER_PX_MAX, Latents
from edge_node.domain import Fence, ModelFingerprint, NodeId, TaskId
from edge_node.errors import MalformedMessage
from edge_node.peering import codec
from edge_node.shared_rows import REFUSALS, UNUSABLE, RowGiven, RowWanted


def wanted_to_proto(wanted: RowWanted) -> worker_pb2.RowWanted:
    """A row that is asked for."""
    return worker_pb2.RowWanted(
        task_id=wanted.task_id,
        fence=codec.fence_to_proto(wanted.fence),
        drawing=codec.drawing_to_proto(wanted.drawing),
        model_fingerprint=wanted.fingerprint,
        step=wanted.step,
        latent=_numbers_to_proto(wanted.latents),
        pair_s=wanted.pair_s,
        row_s=wanted.row_s,
        leader=wanted.leader,
    )


def wanted_from_proto(message: worker_pb2.RowWanted) -> RowWanted:
    """A row that is asked for.

    Raises:
        MalformedMessage: its latent cannot be one of its drawing.
    """
    drawing = codec.drawing_from_proto(message.drawing)
    latents = _numbers_from_proto(message.latent)
    wrong = latents.what_is_wrong()
    if not wrong and len(latents.latent) > LATENT_BYTES_PER_PX_MAX * (
        drawing.width_px * drawing.height_px
    ):
        wrong = f"it has {len(latents.latent)} bytes"
    if wrong:
        raise MalformedMessage(f"A latent came that is none: {wrong}.")
    return RowWanted(
        task_id=TaskId(message.task_id),
        fence=Fence(message.fence.term, message.fence.attempt),
        drawing=drawing,
        fingerprint=ModelFingerprint(message.model_fingerprint),
        step=message.step,
        latents=latents,
        pair_s=max(0.0, message.pair_s),
        row_s=max(0.0, message.row_s),
        leader=NodeId(message.leader),
    )


def given_to_proto(given: RowGiven) -> worker_pb2.RowGiven:
    """What came of it."""
    return worker_pb2.RowGiven(
        task_id=given.task_id,
        fence=codec.fence_to_proto(given.fence),
        drawing_sha256=given.drawing_sha256,
        step=given.step,
        velocity=None if given.velocity is None else _numbers_to_proto(given.velocity),
        refused=given.refused,
        took_s=given.took_s,
    )


def given_from_proto(message: worker_pb2.RowGiven) -> RowGiven:
    """What came of it; one that is neither a velocity nor a refusal is unusable.

    What a velocity is worth, the device says that uses it.
    """
    velocity = None if message.refused else _numbers_from_proto(message.velocity)
    refused = message.refused if message.refused in ("", *REFUSALS) else UNUSABLE
    if velocity is not None and velocity.what_is_wrong():
        velocity, refused = None, UNUSABLE
    return RowGiven(
        task_id=TaskId(message.task_id),
        fence=Fence(message.fence.term, message.fence.attempt),
        drawing_sha256=message.drawing_sha256,
        step=message.step,
        velocity=velocity,
        refused=refused,
        took_s=max(0.0, message.took_s),
    )


def _numbers_to_proto(latents: Latents) -> worker_pb2.Numbers:
    return worker_pb2.Numbers(dtype=latents.dtype, shape=latents.shape_CHW, content=latents.latent)


def _numbers_from_proto(message: worker_pb2.Numbers) -> Latents:
    return Latents(dtype=message.dtype, shape_CHW=tuple(message.shape), latent=message.content)
