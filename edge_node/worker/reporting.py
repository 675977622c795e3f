"""What is told of a drawing, and the thread that tells it.

Owns the order of reports and the words of failures. It decides nothing about drawings.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from PIL import Image as PillowImage

from edge_node.attempt_codes import HANDED_OVER
from edge_node.checkpoint import Checkpoint
from edge_node.clock import Clock
from edge_node.domain import AttemptFailed, AttemptFinished, StepFinished, TaskId, WorkerDescription
from edge_node.errors import InvalidRequest, NotFinite, StaleAttempt
from edge_node.worker import image_encoding
from edge_node.worker.attempts import Attempt, Report
from edge_node.worker.memory_guard import is_out_of_memory

LOG = logging.getLogger(__name__)

PLACED_AGAIN = AttemptFailed(
    code=StaleAttempt.code,
    message="the task was placed on this worker again",
    retryable=False,
)
GOES_ON_ELSEWHERE = AttemptFailed(
    code=HANDED_OVER, message="this node is about to stop", retryable=True
)
TOO_LATE = AttemptFailed(
    code="deadline_exceeded",
    message="the deadline passed before the image was drawn: give it more time",
    retryable=False,
)


class Reporter:
    """Keeps the reports of a drawing in order, and compression off the loop, in a thread.

    What needs no compression, while the thread has nothing to do, is told by whoever reports it: a
    thread more to wake costs several times as much.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reports")
        self._stopped = threading.Event()
        self._counting = threading.Lock()
        self._unfinished = 0

    def send(self, attempt: Attempt[Any], report: Report) -> None:
        """Tells `report` after all that was told before; whoever hears of it must not wait."""
        with self._counting:
            at_once = self._unfinished == 0 and not self._stopped.is_set()
        # Nobody else reports of this drawing meanwhile: its reports come from one thread at a time.
        if at_once:
            attempt.on_report(report)
        else:
            self.run(functools.partial(attempt.on_report, report))

    def send_preview(
        self, attempt: Attempt[Any], step: StepFinished, picture: PillowImage.Image
    ) -> None:
        """Tells that a step is done, with its picture."""
        self.run(functools.partial(_send_preview, attempt, step, picture))

    def run(self, job: Callable[[], None]) -> None:
        """Does something after all that was told before; nothing any more once stopped."""
        if not self._stopped.is_set():
            with self._counting:
                self._unfinished += 1
            self._thread.submit(self._finish, job)

    def _finish(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:
            LOG.exception("a report was not told")
        finally:
            with self._counting:
                self._unfinished -= 1

    def flush(self, *, wait_s: float) -> None:
        """Waits until all is told, but not for ever."""
        if not self._stopped.is_set():
            wait([self._thread.submit(_nothing)], timeout=wait_s)

    def stop(self) -> None:
        """Drops what is not told yet."""
        self._stopped.set()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _send_preview(attempt: Attempt[Any], step: StepFinished, picture: PillowImage.Image) -> None:
    preview = image_encoding.encode(picture, image_format="png")
    attempt.on_report(dataclasses.replace(step, preview=preview))


def _nothing() -> None:
    """What is waited for when all before it is."""


def step_finished(attempt: Attempt[Any], checkpoint: Checkpoint | None) -> StepFinished:
    """The last step that was done, with its checkpoint if there is one."""
    return StepFinished(step=attempt.steps_done, steps=attempt.steps, checkpoint=checkpoint)


def finished(
    attempt: Attempt[Any],
    picture: PillowImage.Image,
    *,
    made_by: WorkerDescription,
    choices: tuple[str, ...],
    told: image_encoding.Metadata,
    clock: Clock,
) -> AttemptFinished | AttemptFailed:
    """The image of a drawing, encoded; or why there is none."""
    assert attempt.started_s is not None
    try:
        image = image_encoding.image_of(
            picture,
            drawing=attempt.drawing,
            task_id=attempt.task_id,
            model=attempt.drawing.model or made_by.model,
            choices=choices,
            emulated_device=made_by.emulated_device,
            told=told,
            prompt_tokens=attempt.prompt_tokens,
        )
    except Exception as error:
        return failure(attempt.task_id, error)
    return AttemptFinished(
        image=image,
        queue_s=attempt.started_s - attempt.submitted_s,
        compute_s=clock.now_s() - attempt.started_s,
    )


def failure(task_id: TaskId, error: Exception) -> AttemptFailed:
    """Why a drawing has failed, from what the denoiser raised; the log gets the whole story."""
    LOG.error("task %s failed", task_id, exc_info=error)
    if isinstance(error, InvalidRequest):
        return AttemptFailed(code=error.code, message=error.message, retryable=False)
    if isinstance(error, NotFinite):
        # Another device may draw in another precision.
        return AttemptFailed(code=error.code, message=error.message, retryable=True)
    return AttemptFailed(
        code="out_of_memory" if is_out_of_memory(error) else "draw_failed",
        message=f"drawing failed on this device ({type(error).__name__}: {error})",
        retryable=True,
    )


def device_lost(error: Exception) -> AttemptFailed:
    """Why every drawing fails now."""
    return AttemptFailed(
        code="device_lost",
        message=f"the device was lost while drawing ({error})",
        retryable=True,
    )
