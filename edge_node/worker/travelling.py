"""How a drawing leaves this worker between two steps, and how one that was begun elsewhere goes on.

Owns which checkpoints are taken and what is done where one is not. Called by the engine's loop,
which knows when; the denoiser knows how.
"""

from __future__ import annotations

import logging
from typing import TypeVar

from edge_node.checkpoint import Checkpoint, CheckpointRefused
from edge_node.domain import Drawing, ModelFingerprint, WorkerDescription
from edge_node.worker.attempts import Attempt
from edge_node.worker.denoiser import Denoiser
from edge_node.worker.device_errors import DeviceLost, is_device_lost

LOG = logging.getLogger(__name__)

Row = TypeVar("Row")


def usable(
    checkpoint: Checkpoint | None, *, drawing: Drawing, served: WorkerDescription
) -> Checkpoint | None:
    """The checkpoint, if the drawing may go on from it with this model; else none, and it is said.

    Whatever else is wrong with it, its image would be another one.
    """
    if checkpoint is None:
        return None
    wrong = checkpoint.what_is_wrong(drawing_sha256=drawing.sha256, steps=drawing.denoising_steps)
    if not wrong and checkpoint.fingerprint != _fingerprint(drawing, served):
        wrong = "it is of a model that draws otherwise"
    if wrong:
        LOG.warning("a checkpoint cannot be used (%s): drawn from the beginning", wrong)
        return None
    return checkpoint


def resumed(denoiser: Denoiser[Row], attempt: Attempt[Row]) -> Row | None:
    """Row of a drawing that goes on from its checkpoint; None where it has to begin."""
    checkpoint = attempt.checkpoint
    if checkpoint is None:
        return None
    try:
        return denoiser.resume(attempt.drawing, step=checkpoint.step, latents=checkpoint.latents)
    except CheckpointRefused as refusal:
        LOG.warning(
            "the checkpoint of %s is refused (%s): drawn from the beginning",
            attempt.task_id,
            refusal,
        )
        return None


def exported(
    denoiser: Denoiser[Row], attempt: Attempt[Row], *, served: WorkerDescription
) -> Checkpoint | None:
    """Checkpoint of a drawing whose row is not in use; None where it cannot leave.

    That it stays is no reason to fail.

    Raises:
        DeviceLost: nothing can be drawn any more.
    """
    if attempt.row is None or not 0 < attempt.steps_done < attempt.steps:
        return None
    try:
        latents = denoiser.export(attempt.row)
    except Exception as error:
        if is_device_lost(error):
            raise DeviceLost(str(error)) from error
        LOG.warning("%s was not exported (%s)", attempt.task_id, error)
        return None
    if latents is None:
        return None
    return Checkpoint(
        drawing_sha256=attempt.drawing.sha256,
        fingerprint=_fingerprint(attempt.drawing, served),
        step=attempt.steps_done,
        latents=latents,
    )


def _fingerprint(drawing: Drawing, served: WorkerDescription) -> ModelFingerprint:
    """Of what the drawing is drawn with: the model, or one of its variants."""
    return dict(served.variants).get(drawing.model, served.model_fingerprint)
