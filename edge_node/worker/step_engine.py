"""The denoising loop: rows join and leave between steps, in a thread of its own.

Owns the queue, the running rows, cancellation, fencing, pace and the tracked capacity. It draws
through the `Denoiser` interface and must import neither torch nor grpc. All shared state is
guarded by one condition; the denoiser itself is touched by the loop's thread only.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from PIL import Image as PillowImage

from edge_node.clock import Clock
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptQueued,
    AttemptStarted,
    Drawing,
    Image,
    ModelFingerprint,
    StepFinished,
    TaskId,
    WorkerDescription,
    WorkerLoad,
    WorkModel,
)
from edge_node.errors import (
    AdmissionRefused,
    InvalidRequest,
    ModelNotFound,
    StaleAttempt,
    WorkerUnavailable,
)
from edge_node.worker import calibration, image_encoding, queue_order
from edge_node.worker.calibration import Calibration, CapacityTracker
from edge_node.worker.memory import is_out_of_memory, resident_bytes

LOG = logging.getLogger(__name__)

# Drawings whose last step is done and whose image is still being encoded beside the loop.
ENCODING_MAX = 4
# Places at the head of the queue of which every change is told; further back once is enough.
POSITIONS_TOLD_MAX = 10
# Tasks whose highest attempt is remembered; far more than can be in flight at once.
FENCED_TASKS_MAX = 10_000

Report = AttemptQueued | AttemptStarted | StepFinished | AttemptFinished | AttemptFailed
Row = TypeVar("Row")


class ModelUnusable(Exception):
    """The model cannot be served; the message says what to do about it."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a loaded model is and can draw; fields as in `WorkerDescription`."""

    engine: str
    model: str
    fingerprint: ModelFingerprint
    size_px_min: int
    size_px_max: int
    size_px_multiple: int
    steps_max: int
    device: str
    emulated_device: str = ""


class Denoiser(Protocol[Row]):
    """What turns noise into pictures: a real SD3 or an emulated device."""

    def load(self) -> ModelFacts:
        """Loads everything; raises ModelUnusable when it cannot serve."""
        ...

    def calibrate(self) -> Calibration:
        """Warms up and says what work costs here."""
        ...

    def begin(self, drawing: Drawing, init_image: bytes) -> Row:
        """Row of a new drawing: prompt encoded, noise drawn, a PNG to start from encoded."""
        ...

    def step(self, rows: Sequence[Row]) -> None:
        """One denoising step of all `rows`, which are of one size; changes all or none."""
        ...

    def picture(self, row: Row) -> PillowImage.Image:
        """Image of the row: the final one after the last step, before it a cheap estimate.

        The final one may be asked for from another thread while `step` runs.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """Bounds that the operator sets.

    Attributes:
        queue_max: drawings that may wait.
        pace_s: least duration of a work unit; 0 is off.
        metadata: whether images carry prompt and parameters.
    """

    queue_max: int = 64
    pace_s: float = 0.0
    metadata: bool = True


class _Attempt(Generic[Row]):
    """One drawing in the worker, from submission to its last report."""

    def __init__(
        self,
        *,
        task_id: TaskId,
        attempt: int,
        drawing: Drawing,
        init_image: bytes,
        order: queue_order.Waiting,
        work_model: WorkModel,
        on_report: Callable[[Report], None],
        submitted_s: float,
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.drawing = drawing
        self.init_image = init_image
        self.order = order
        self.on_report = on_report
        self.submitted_s = submitted_s
        self.started_s = submitted_s
        self.begin_s = 0.0
        self.row: Row | None = None
        self.steps_done = 0
        self.position = 0
        self.cancelled = False
        self.steps = drawing.denoising_steps
        self.preview_steps = preview_steps(steps=self.steps, previews=drawing.previews)
        # A step's cost is its size's times its row's: half-ish for an unguided one.
        self.size_cost = calibration.size_cost(work_model, drawing)
        self.row_cost = 1.0 if drawing.guidance_scale > 1.0 else work_model.unguided_ratio
        self.work = work_model.work(drawing)

    @property
    def work_left(self) -> float:
        """Work units still to be done."""
        return self.work - self.size_cost * self.row_cost * self.steps_done


def preview_steps(*, steps: int, previews: int) -> frozenset[int]:
    """Steps, counted from 1, after which a preview is sent: evenly spaced, never the last."""
    wanted = min(previews, steps - 1)
    return frozenset(k * steps // (wanted + 1) for k in range(1, wanted + 1))


class StepEngine(Generic[Row]):
    """Queue and denoising loop of one denoiser.

    `submit`, `cancel`, `describe` and `load` may be called from any thread; reports arrive on a
    thread of the engine, in order for each drawing.
    """

    def __init__(
        self,
        build_denoiser: Callable[[], Denoiser[Row]],
        *,
        limits: EngineLimits,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        self._build_denoiser = build_denoiser
        self._limits = limits
        self._clock = clock
        self._on_change = on_change
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="step-engine", daemon=True)
        # One thread keeps the reports of a drawing in order and PNG compression off the loop.
        self._reporter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reports")
        self._description = WorkerDescription(state="loading", pace_s=limits.pace_s)
        self._calibration: Calibration | None = None
        self._tracker: CapacityTracker | None = None
        self._waiting: dict[int, _Attempt[Row]] = {}
        self._running: dict[int, _Attempt[Row]] = {}
        self._encoding = 0
        self._arrivals = 0
        self._steps_done = 0
        self._attempts_seen: OrderedDict[TaskId, int] = OrderedDict()

    # Called by the service.

    def start(self) -> None:
        """Starts loading, and then drawing."""
        self._thread.start()

    def stop(self, *, wait_s: float) -> bool:
        """Ends the loop after the step under way; False when that takes longer than `wait_s`."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        self._thread.join(wait_s)
        self._reporter.shutdown(wait=False, cancel_futures=True)
        return not self._thread.is_alive()

    def describe(self) -> WorkerDescription:
        """State, model, limits and calibration."""
        with self._changed:
            return self._description

    def load(self) -> WorkerLoad:
        """Queue and work at this moment."""
        with self._changed:
            return WorkerLoad(
                backlog=self._backlog(),
                queued=len(self._waiting),
                running=len(self._running) + self._encoding,
                capacity=self._tracker.capacity if self._tracker else 0.0,
                steps_done=self._steps_done,
                resident_bytes=resident_bytes(),
            )

    def submit(
        self,
        *,
        task_id: TaskId,
        attempt: int,
        drawing: Drawing,
        init_image: bytes = b"",
        priority: int,
        on_report: Callable[[Report], None],
    ) -> int:
        """Queues a drawing and returns its arrival number, by which it can be cancelled.

        Raises:
            WorkerUnavailable: the model is not ready.
            InvalidRequest, ModelNotFound: this worker can never draw it.
            StaleAttempt: a later attempt of the task was seen.
            AdmissionRefused: the queue is full.
        """
        with self._changed:
            self._refuse_unless_drawable(drawing)
            if attempt < self._attempts_seen.get(task_id, 0):
                raise StaleAttempt(f"a later attempt than {attempt} of task {task_id} was seen")
            self._end_earlier_attempts(task_id)
            if len(self._waiting) >= self._limits.queue_max:
                raise AdmissionRefused(f"the worker's queue of {self._limits.queue_max} is full")
            self._attempts_seen[task_id] = attempt
            self._attempts_seen.move_to_end(task_id)
            if len(self._attempts_seen) > FENCED_TASKS_MAX:
                self._attempts_seen.popitem(last=False)
            self._arrivals += 1
            self._waiting[self._arrivals] = _Attempt(
                task_id=task_id,
                attempt=attempt,
                drawing=drawing,
                init_image=init_image,
                order=queue_order.Waiting(
                    arrival=self._arrivals,
                    priority=priority,
                    size_px=(drawing.width_px, drawing.height_px),
                ),
                work_model=self._description.work_model,
                on_report=on_report,
                submitted_s=self._clock.now_s(),
            )
            self._report_positions()
            self._changed.notify_all()
            arrival = self._arrivals
        self._on_change()
        return arrival

    def cancel(self, arrival: int) -> None:
        """Drops a drawing: at once when it waits, after the step under way when it runs."""
        with self._changed:
            waiting = self._waiting.pop(arrival, None)
            running = self._running.get(arrival)
            if waiting is None and running is None:
                return
            if running is not None:
                running.cancelled = True
            self._report_positions()
            self._changed.notify_all()
        self._on_change()

    # The rest of what needs the lock; the caller holds it.

    def _refuse_unless_drawable(self, drawing: Drawing) -> None:
        facts = self._description
        if facts.state != "ready":
            raise WorkerUnavailable(facts.detail or f"the worker is {facts.state}: try again soon")
        if drawing.model not in ("", facts.model):
            raise ModelNotFound(f"this worker serves {facts.model}, not {drawing.model}")
        for name, side_px in (("width_px", drawing.width_px), ("height_px", drawing.height_px)):
            if side_px % facts.size_px_multiple or not (
                facts.size_px_min <= side_px <= facts.size_px_max
            ):
                raise InvalidRequest(
                    f"{name} is {side_px}: give a multiple of {facts.size_px_multiple} from "
                    f"{facts.size_px_min} to {facts.size_px_max}",
                    param=name,
                )
        if not 1 <= drawing.steps <= facts.steps_max:
            raise InvalidRequest(
                f"steps is {drawing.steps}: give 1 to {facts.steps_max}", param="steps"
            )
        if drawing.image_format not in image_encoding.FORMATS:
            raise InvalidRequest(
                f"image_format is {drawing.image_format!r}: give one of "
                f"{', '.join(image_encoding.FORMATS)}",
                param="image_format",
            )

    def _end_earlier_attempts(self, task_id: TaskId) -> None:
        """A task is placed here again: whoever asked before no longer owns it."""
        for held in (self._waiting, self._running):
            for arrival, earlier in list(held.items()):
                if earlier.task_id != task_id or earlier.cancelled:
                    continue
                earlier.cancelled = True
                if held is self._waiting:
                    del held[arrival]
                self._report(
                    earlier,
                    AttemptFailed(
                        code=StaleAttempt.code,
                        message="the task was placed on this worker again",
                        retryable=False,
                    ),
                )

    def _backlog(self) -> float:
        """Work units of all that waits or runs and is still wanted."""
        held = (*self._waiting.values(), *self._running.values())
        return sum(attempt.work_left for attempt in held if not attempt.cancelled)

    def _report_positions(self) -> None:
        places = queue_order.positions(attempt.order for attempt in self._waiting.values())
        for arrival, position in places.items():
            attempt = self._waiting[arrival]
            near = position <= POSITIONS_TOLD_MAX or attempt.position == 0
            if attempt.position != position and near:
                attempt.position = position
                self._report(attempt, AttemptQueued(position=position))

    # The loop.

    def _run(self) -> None:
        if not self._prepare():
            return
        while not self._stopping.is_set():
            for attempt in self._admit():
                self._begin(attempt)
            rows = self._rows_to_step()
            if rows:
                self._step(rows)
                self._finish_done(rows)
                self._on_change()

    def _prepare(self) -> bool:
        """Loads and calibrates; False when the worker cannot serve, which it goes on to say."""
        try:
            self._denoiser = self._build_denoiser()
            facts = self._denoiser.load()
            self._describe_as(
                WorkerDescription(
                    state="warming_up",
                    engine=facts.engine,
                    model=facts.model,
                    model_fingerprint=facts.fingerprint,
                    size_px_min=facts.size_px_min,
                    size_px_max=facts.size_px_max,
                    size_px_multiple=facts.size_px_multiple,
                    steps_max=facts.steps_max,
                    emulated_device=facts.emulated_device,
                    pace_s=self._limits.pace_s,
                    device=facts.device,
                )
            )
            calibrated = self._denoiser.calibrate()
        except ModelUnusable as error:
            self._describe_failure(str(error))
            return False
        except Exception as error:
            LOG.exception("the model could not be made ready")
            self._describe_failure(
                f"the model could not be made ready ({type(error).__name__}: {error}); "
                "the worker's log has the whole story"
            )
            return False
        with self._changed:
            self._calibration = calibrated
            self._tracker = CapacityTracker(calibrated)
        self._describe_as(
            dataclasses.replace(
                self._description,
                state="ready",
                capacity=calibrated.capacity,
                work_model=calibrated.work_model,
                rows_max=calibrated.rows_max,
            )
        )
        return True

    def _admit(self) -> list[_Attempt[Row]]:
        """Waits until there is something to do and moves rows from the queue to the step."""
        assert self._calibration is not None
        with self._changed:
            while True:
                for arrival in [a for a, one in self._running.items() if one.cancelled]:
                    del self._running[arrival]
                admitted = self._admissible(self._calibration.rows_max)
                if admitted or self._running or self._stopping.is_set():
                    break
                self._changed.wait()
            for attempt in admitted:
                self._running[attempt.order.arrival] = self._waiting.pop(attempt.order.arrival)
                attempt.started_s = self._clock.now_s()
            self._report_positions()
            return admitted

    def _admissible(self, rows_max: int) -> list[_Attempt[Row]]:
        running = next(iter(self._running.values()), None)
        if self._encoding >= ENCODING_MAX:
            return []
        joining = queue_order.joining(
            (attempt.order for attempt in self._waiting.values()),
            running_size_px=running.order.size_px if running else None,
            places=rows_max - len(self._running),
        )
        return [self._waiting[one.arrival] for one in joining]

    def _begin(self, attempt: _Attempt[Row]) -> None:
        self._report(attempt, AttemptStarted())
        try:
            attempt.row = self._denoiser.begin(attempt.drawing, attempt.init_image)
        except Exception as error:
            self._fail(attempt, error)
        attempt.begin_s = self._clock.now_s() - attempt.started_s
        self._on_change()

    def _rows_to_step(self) -> list[_Attempt[Row]]:
        with self._changed:
            return [
                one for one in self._running.values() if one.row is not None and not one.cancelled
            ]

    def _step(self, attempts: list[_Attempt[Row]]) -> None:
        """One step of all; when it fails, of each alone, so that one bad row fails alone."""
        before_s = self._clock.now_s()
        try:
            self._denoiser.step([attempt.row for attempt in attempts if attempt.row is not None])
        except Exception as error:
            if len(attempts) == 1:
                self._fail(attempts[0], error)
                return
            LOG.warning("a step of %d rows failed (%s): trying each alone", len(attempts), error)
            for attempt in attempts:
                self._step([attempt])
            return
        rho, width = attempts[0].size_cost, sum(attempt.row_cost for attempt in attempts)
        self._hold_pace(work=rho * width, since_s=before_s)
        with self._changed:
            assert self._tracker is not None
            self._tracker.record_step(
                rho=rho, width=width, measured_s=self._clock.now_s() - before_s
            )
            for attempt in attempts:
                attempt.steps_done += 1
                self._steps_done += 1
        for attempt in attempts:
            self._report_step(attempt)

    def _report_step(self, attempt: _Attempt[Row]) -> None:
        step = attempt.steps_done
        if step not in attempt.preview_steps or attempt.row is None:
            self._report(attempt, StepFinished(step=step, steps=attempt.steps))
            return
        try:
            picture = self._denoiser.picture(attempt.row)
        except Exception as error:
            self._fail(attempt, error)
            return
        self._on_reporter(
            functools.partial(self._send_preview, attempt, step=step, picture=picture)
        )

    def _finish_done(self, attempts: list[_Attempt[Row]]) -> None:
        for attempt in attempts:
            if attempt.steps_done < attempt.steps or attempt.row is None:
                continue
            before_s = self._clock.now_s()
            try:
                picture = self._denoiser.picture(attempt.row)
            except Exception as error:
                self._fail(attempt, error)
                continue
            # What is left after the last step is the fixed cost; part was paid at the beginning.
            self._hold_pace(work=attempt.work_left, since_s=before_s - attempt.begin_s)
            with self._changed:
                if self._running.pop(attempt.order.arrival, None) and not attempt.cancelled:
                    self._encoding += 1
                    self._on_reporter(functools.partial(self._send_image, attempt, picture))

    def _hold_pace(self, *, work: float, since_s: float) -> None:
        left_s = work * self._limits.pace_s - (self._clock.now_s() - since_s)
        if left_s > 0.0:
            self._stopping.wait(left_s)

    def _fail(self, attempt: _Attempt[Row], error: Exception) -> None:
        with self._changed:
            self._running.pop(attempt.order.arrival, None)
            attempt.row = None
        self._report(attempt, _failure(attempt.task_id, error))

    def _describe_as(self, description: WorkerDescription) -> None:
        with self._changed:
            self._description = description
        self._on_change()

    def _describe_failure(self, detail: str) -> None:
        LOG.error("%s", detail)
        self._describe_as(dataclasses.replace(self._description, state="failed", detail=detail))

    # On the reporter's thread.

    def _report(self, attempt: _Attempt[Row], report: Report) -> None:
        self._on_reporter(functools.partial(attempt.on_report, report))

    def _on_reporter(self, send: Callable[[], None]) -> None:
        if not self._stopping.is_set():
            self._reporter.submit(send)

    def _send_preview(
        self, attempt: _Attempt[Row], *, step: int, picture: PillowImage.Image
    ) -> None:
        preview = image_encoding.encode(picture, image_format="png")
        attempt.on_report(StepFinished(step=step, steps=attempt.steps, preview=preview))

    def _send_image(self, attempt: _Attempt[Row], picture: PillowImage.Image) -> None:
        report: Report
        try:
            image = self._encoded(attempt, picture)
            report = AttemptFinished(
                image=image,
                queue_s=attempt.started_s - attempt.submitted_s,
                compute_s=self._clock.now_s() - attempt.started_s,
            )
        except Exception as error:
            report = _failure(attempt.task_id, error)
        # Given back first: who hears of the end must not find the drawing still running.
        with self._changed:
            self._encoding -= 1
            self._changed.notify_all()
        attempt.on_report(report)
        self._on_change()

    def _encoded(self, attempt: _Attempt[Row], picture: PillowImage.Image) -> Image:
        drawing, served = attempt.drawing, self._description
        metadata = None
        if self._limits.metadata:
            metadata = image_encoding.png_metadata(
                drawing,
                task_id=attempt.task_id,
                model=served.model,
                emulated_device=served.emulated_device,
            )
        content = image_encoding.encode(
            picture,
            image_format=drawing.image_format,
            image_quality=drawing.image_quality,
            metadata=metadata,
        )
        return Image(
            content=content,
            format=drawing.image_format,
            width_px=picture.width,
            height_px=picture.height,
            emulated_device=served.emulated_device,
        )


def _failure(task_id: TaskId, error: Exception) -> AttemptFailed:
    LOG.error("task %s failed", task_id, exc_info=error)
    return AttemptFailed(
        code="out_of_memory" if is_out_of_memory(error) else "draw_failed",
        message=f"drawing failed on this device ({type(error).__name__}: {error})",
        retryable=True,
    )
