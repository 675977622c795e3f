"""The denoising loop: rows join, leave and are parked between steps, in a thread of its own.

Owns the threads, cancellation, deadlines, pace and what a failed step costs. It draws through the
`Denoiser` interface and must import neither torch nor grpc. All shared state is guarded by one
condition. The denoiser is touched by the loop's thread only, but for the final pictures of one
that decodes beside the loop.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from PIL import Image as PillowImage

from edge_node.checkpoint import Checkpoint
from edge_node.clock import Clock
from edge_node.domain import (
    AttemptFailed,
    AttemptStarted,
    Drawing,
    Fence,
    TaskId,
    WorkerDescription,
    WorkerLoad,
)
from edge_node.errors import AdmissionRefused, StaleAttempt
from edge_node.shared_rows import RowWanted
from edge_node.worker import memory_guard, reporting, travelling
from edge_node.worker.active_rows import ActiveRows
from edge_node.worker.assisting import Assisting, OnGiven
from edge_node.worker.attempts import Attempt, AttemptBook, Report
from edge_node.worker.calibration import Calibration
from edge_node.worker.denoiser import (
    Denoiser,
    ModelFacts,
    ModelUnusable,
    describing,
    refuse_unless_drawable,
)
from edge_node.worker.device_errors import DeviceLost, is_device_lost
from edge_node.worker.engine_limits import EngineLimits
from edge_node.worker.places_told import PlacesTold
from edge_node.worker.sharing import SharedSteps

LOG = logging.getLogger(__name__)

# A lost device ends the process. The last reports get so long to be made, and then as long as
# gRPC, of whose threads the engine knows nothing, needs to send them to a node on this machine.
LAST_REPORTS_S_MAX = 1.0
LAST_SENDING_S = 0.25

Row = TypeVar("Row")


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
        self._reporter = reporting.Reporter()
        self._finisher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decoding")
        # Held while the finisher decodes.
        self._decoding = threading.Lock()
        self._description = WorkerDescription(
            state="loading", pace_s=limits.pace_s, order=limits.order.discipline
        )
        self._book: AttemptBook[Row] = AttemptBook()
        # There once the model is ready.
        self._rows: ActiveRows[Row] | None = None
        self._arrivals = 0
        self._steps_done = 0
        self._places = PlacesTold(self._book, self._reporter)
        # Rows that others compute for this device, and this one for others.
        self.sharing: SharedSteps[Row] = SharedSteps(clock)
        self._assisting: Assisting[Row] = Assisting(clock)
        # End of the last step, unless something else was done since.
        self._stepped_until_s: float | None = None
        # What ended the finisher, and is to end the loop.
        self._broken: Exception | None = None

    # Called by the service.

    def start(self) -> None:
        """Starts loading, and then drawing."""
        self._thread.start()

    def stop(self, *, wait_s: float) -> bool:
        """Ends the loop after the step under way; False when that takes longer than `wait_s`."""
        asked_s = self._clock.now_s()
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        self._thread.join(wait_s)
        self._finisher.shutdown(wait=False, cancel_futures=True)
        self._reporter.stop()
        left_s = max(0.0, wait_s - (self._clock.now_s() - asked_s))
        return self._decoding.acquire(timeout=left_s) and not self._thread.is_alive()

    def describe(self) -> WorkerDescription:
        """State, model, limits and calibration."""
        with self._changed:
            return self._description

    def load(self) -> WorkerLoad:
        """Queue and work at this moment."""
        with self._changed:
            return WorkerLoad(
                backlog=self._book.backlog(),
                queued=len(self._book.waiting),
                running=len(self._book.begun) + len(self._book.finishing),
                capacity=self._rows.capacity if self._rows else 0.0,
                steps_done=self._steps_done,
                resident_bytes=memory_guard.resident_bytes(),
            )

    def submit(
        self,
        *,
        task_id: TaskId,
        fence: Fence,
        drawing: Drawing,
        init_image: bytes = b"",
        priority: int,
        deadline_s: float | None = None,
        client: str = "",
        checkpoint_steps: int = 0,
        checkpoint: Checkpoint | None = None,
        age_s: float = 0.0,
        on_report: Callable[[Report], None],
    ) -> int:
        """Queues a drawing and returns its arrival number, by which it can be cancelled.

        Args:
            task_id: of the task, whose earlier attempts here end.
            fence: of this placement of the task.
            drawing: what to draw.
            init_image: PNG to start from, or empty.
            priority: larger is served first.
            deadline_s: seconds from now after which the image is of no use.
            client: who wants it; clients who wait share the device.
            checkpoint_steps: after which one is reported; 0 for never.
            checkpoint: to go on from; one that cannot be used costs its steps and nothing else.
            age_s: since it was asked for, wherever that was; it is served by it.
            on_report: called with what becomes of it.

        Raises:
            WorkerUnavailable: the model is not ready.
            InvalidRequest, ModelNotFound: this worker can never draw it.
            StaleAttempt: a later attempt of the task was seen.
            AdmissionRefused: the queue is full.
        """
        with self._changed:
            refuse_unless_drawable(drawing, self._description)
            if self._book.is_stale(task_id, fence):
                raise StaleAttempt(f"a later attempt than {fence} of task {task_id} was seen")
            for earlier in self._book.attempts_of(task_id):
                self._book.end(earlier)
                self._wake()
                self._reporter.send(earlier, reporting.PLACED_AGAIN)
            if len(self._book.waiting) >= self._limits.queue_max:
                raise AdmissionRefused(f"the worker's queue of {self._limits.queue_max} is full")
            self._arrivals += 1
            arrival, now_s = self._arrivals, self._clock.now_s()
            submitted: Attempt[Row] = Attempt(
                task_id=task_id,
                fence=fence,
                arrival=arrival,
                drawing=drawing,
                init_image=init_image,
                priority=priority,
                submitted_s=now_s,
                asked_s=now_s - age_s,
                deadline_s=None if deadline_s is None else now_s + deadline_s,
                client=client,
                work_model=self._description.work_model,
                unit_s=self._ready_rows.unit_s,
                on_report=on_report,
                checkpoint_steps=checkpoint_steps,
                checkpoint=travelling.usable(checkpoint, drawing=drawing, served=self._description),
            )
            self._ready_rows.arriving(now_s)
            self._book.add(submitted)
            self._tell_places()
            if submitted.position == 0:
                self._places.tell_one(submitted, len(self._book.waiting))
            self._ready_rows.arrived(submitted, now_s)
            self._changed.notify_all()
        self._on_change()
        return arrival

    def cancel(self, arrival: int) -> None:
        """Drops a drawing: at once when it waits, after the step under way when it runs."""
        with self._changed:
            attempt = self._book.find(arrival)
            if attempt is None:
                return
            self._book.end(attempt)
            self._tell_places()
            self._wake()
        self._on_change()

    def hand_over(self, arrival: int) -> None:
        """Ends a drawing after the step under way, with a checkpoint, to go on elsewhere."""
        with self._changed:
            attempt = self._book.find(arrival)
            if attempt is not None:
                attempt.leaving = True
                self._wake()

    def give_row(self, wanted: RowWanted, on_given: OnGiven) -> None:
        """Computes a row of a step elsewhere if there is nothing to draw; `on_given` is told."""
        with self._changed:
            served, rows = self._description, self._rows
            idle = rows is not None and not self._book.is_drawing
            room = rows is None or rows.has_room(wanted.drawing)
            self._assisting.ask(wanted, on_given, idle=idle, room=room, served=served)
            self._changed.notify_all()

    # The rest of what needs the lock; the caller holds it.

    @property
    def _ready_rows(self) -> ActiveRows[Row]:
        assert self._rows is not None, "drawings are taken once the model is ready"
        return self._rows

    def _wake(self) -> None:
        """Something has changed: the active rows are chosen again before the next step."""
        self._ready_rows.choose_again_s = -math.inf
        self._changed.notify_all()

    def _end(self, attempt: Attempt[Row], report: AttemptFailed) -> None:
        """Ends a drawing whose row is not in use; who is over already hears nothing more."""
        if not attempt.over:
            self._book.end(attempt)
            self._reporter.send(attempt, report)
        self._book.release(attempt)
        self._wake()

    def _end_unwanted(self, now_s: float) -> None:
        """Lets go of what was cancelled, and ends what is too late."""
        unwanted = [one for one in self._book.to_draw() if one.over or one.is_late(now_s)]
        for attempt in unwanted:
            self._end(attempt, reporting.TOO_LATE)
        leaving = [one for one in self._book.to_draw() if one.leaving]
        for attempt in leaving:
            checkpoint = self._exported(attempt)
            if checkpoint is not None:
                self._reporter.send(attempt, reporting.step_finished(attempt, checkpoint))
            elif attempt.row is not None and attempt.steps_done:
                attempt.leaving = False  # it cannot take its steps along: it is drawn here
                continue
            self._end(attempt, reporting.GOES_ON_ELSEWHERE)
        if unwanted or leaving:
            self._tell_places()

    def _tell_places(self) -> None:
        self._places.tell(self._ready_rows, now_s=self._clock.now_s())

    # The loop.

    def _run(self) -> None:
        if not self._prepare():
            return
        try:
            while not self._stopping.is_set():
                self._tick()
        except DeviceLost as lost:
            self._end_all(lost)
            raise

    def _prepare(self) -> bool:
        """Loads and calibrates; False when the worker cannot serve, which it goes on to say."""
        try:
            self._denoiser = self._build_denoiser()
            facts = self._denoiser.load()
            self._describe_as(describing(facts, self._description))
            calibrated = self._denoiser.calibrate()
        except ModelUnusable as error:
            self._describe_failure(str(error), fault=error.fault)
            return False
        except Exception as error:
            LOG.exception("the model could not be made ready")
            self._describe_failure(
                f"the model could not be made ready ({type(error).__name__}: {error}); "
                "the worker's log has the whole story"
            )
            return False
        self._become_ready(facts, calibrated)
        return True

    def _become_ready(self, facts: ModelFacts, calibrated: Calibration) -> None:
        # A paced device stands for a slower one, which would do one thing after the other.
        self._decodes_beside = facts.decodes_beside and self._limits.pace_s == 0.0
        self._choices = facts.approximations
        self._prompt_tokens = facts.prompt_tokens
        rows = ActiveRows(
            self._book,
            order=self._limits.order,
            calibration=calibrated,
            parked_max=self._limits.parked_max,
            floor_bytes=self._limits.memory_floor_bytes,
            available_bytes=facts.available_bytes,
        )
        with self._changed:
            self._rows = rows
        self._describe_as(
            dataclasses.replace(
                self._description,
                state="ready",
                capacity=calibrated.capacity,
                work_model=calibrated.work_model,
                rows_max=calibrated.rows_max,
            )
        )

    def _tick(self) -> None:
        """One step of the rows whose turn it is."""
        batch = self._next_batch()
        for attempt in batch:
            if attempt.row is None:
                self._begin(attempt)
        batch = [attempt for attempt in batch if not attempt.over]
        if batch:
            self._step(batch)
            self._finish_done(batch)
            self._on_change()
        elif (owed := self._assisting.take()) is not None:
            row_work = self._ready_rows.row_work(owed.wanted.drawing)
            self._assisting.compute(owed, self._denoiser, partial(self._hold_pace, work=row_work))

    def _next_batch(self) -> list[Attempt[Row]]:
        """Waits until there is something to step; nothing when the engine stops."""
        with self._changed:
            rows = self._ready_rows
            while not self._stopping.is_set():
                if self._broken is not None:
                    raise self._broken
                now_s = self._clock.now_s()
                if self._places.changed:
                    self._tell_places()
                if now_s >= rows.choose_again_s:
                    self._end_unwanted(now_s)
                    rows.choose(now_s)
                batch = rows.in_turn()
                if batch:
                    self._assisting.refuse()
                if batch or self._assisting.owes:
                    return batch
                self._stepped_until_s = None
                wait_s = rows.choose_again_s - now_s
                if self._places.changed:
                    wait_s = min(wait_s, self._places.due_s - now_s)
                self._changed.wait(wait_s if wait_s < threading.TIMEOUT_MAX else None)
            return []

    def _begin(self, attempt: Attempt[Row]) -> None:
        with self._changed:
            if attempt.over:
                return
            begun_s = self._clock.now_s()
            self._ready_rows.shares.begun(attempt.client, attempt.entry.left_s)
            self._book.begin(attempt, now_s=begun_s)
            self._tell_places()
        self._stepped_until_s = None
        try:
            attempt.row = travelling.resumed(self._denoiser, attempt)
            with self._changed:
                if attempt.over:
                    return
                if attempt.row is None:
                    attempt.from_the_beginning(self._ready_rows.unit_s)
                self._reporter.send(attempt, AttemptStarted(step=attempt.steps_done))
            if attempt.row is None:
                attempt.row = self._denoiser.begin(attempt.drawing, attempt.init_image)
            attempt.checkpoint = None
            attempt.prompt_tokens = self._prompt_tokens(attempt.drawing.prompt)
        except Exception as error:
            self._fail(attempt, error)
        attempt.begin_s = self._clock.now_s() - begun_s
        self._on_change()

    def _step(self, batch: list[Attempt[Row]]) -> None:
        before_s = self._clock.now_s()
        failure: Exception | None = None
        whole = True
        try:
            if self._ready_rows.is_lone(batch):
                whole = self._step_lone(batch[0])
            else:
                self._denoiser.step([attempt.row for attempt in batch if attempt.row is not None])
        except Exception as error:
            # Its frames hold tensors, whose memory another try may need.
            traceback.clear_frames(error.__traceback__)
            failure = error
        if failure is not None:
            self._stepped_until_s = None
            self._step_again(batch, failure)
            return
        width = sum(attempt.row_cost for attempt in batch)
        if whole:
            self._hold_pace(before_s, work=batch[0].size_cost * width)
        ended_s = self._clock.now_s()
        # What lies between two steps in a row is part of what a step takes.
        since_s = before_s if self._stepped_until_s is None else self._stepped_until_s
        self._stepped_until_s = ended_s
        with self._changed:
            # What a shared step takes says nothing of this device.
            self._ready_rows.record_step(batch, measured_s=ended_s - since_s if whole else None)
            self._steps_done += len(batch)
        for attempt in batch:
            self._report_step(attempt)

    def _step_lone(self, attempt: Attempt[Row]) -> bool:
        """A step that another device may share; whether it was computed here, as any."""
        with self._changed:
            times = self._ready_rows.step_times(attempt)
            row_work = self._ready_rows.row_work(attempt.drawing)
        hold = partial(self._hold_pace, work=row_work)
        served = self._description
        return self.sharing.step(self._denoiser, attempt, served=served, times=times, hold=hold)

    def _report_step(self, attempt: Attempt[Row]) -> None:
        if attempt.over or attempt.row is None:
            return
        checkpoint = self._exported(attempt) if attempt.checkpoint_due else None
        report = reporting.step_finished(attempt, checkpoint)
        if attempt.steps_done not in attempt.preview_steps:
            self._reporter.send(attempt, report)
            return
        try:
            picture = self._denoiser.picture(attempt.row)
        except Exception as error:
            self._fail(attempt, error)
            return
        self._reporter.send_preview(attempt, report, picture)

    def _finish_done(self, batch: list[Attempt[Row]]) -> None:
        """Rows that are done leave at once: others take their places while they are decoded."""
        for attempt in batch:
            if attempt.steps_done < attempt.steps:
                continue
            with self._changed:
                if attempt.over or attempt.is_late(self._clock.now_s()):
                    self._end(attempt, reporting.TOO_LATE)
                    continue
                self._book.finish(attempt)
                self._wake()
            if self._decodes_beside:
                self._finisher.submit(self._decode_beside, attempt)
            else:
                self._stepped_until_s = None
                self._decode(attempt)

    def _decode(self, attempt: Attempt[Row]) -> None:
        assert attempt.row is not None
        before_s = self._clock.now_s()
        try:
            picture = self._denoiser.picture(attempt.row)
        except Exception as error:
            self._fail(attempt, error)
            return
        # What is left after the last step is the fixed cost; part was paid at the beginning.
        self._hold_pace(before_s - attempt.begin_s, work=attempt.work_left)
        with self._changed:
            attempt.row, attempt.decoded = None, True
        self._reporter.run(partial(self._send_image, attempt, picture))

    def _exported(self, attempt: Attempt[Row]) -> Checkpoint | None:
        return travelling.exported(self._denoiser, attempt, served=self._description)

    def _hold_pace(self, since_s: float, *, work: float) -> None:
        left_s = work * self._limits.pace_s - (self._clock.now_s() - since_s)
        if left_s > 0.0:
            self._stopping.wait(left_s)

    # When something fails.

    def _step_again(self, batch: list[Attempt[Row]], error: Exception) -> None:
        """After a failed step: with fewer rows if memory ran out, else each row alone."""
        if memory_guard.is_out_of_memory(error):
            with self._changed:
                rest = self._ready_rows.shed(batch)
            LOG.warning("a step of %d rows ran out of memory: %d go on", len(batch), len(rest))
            if rest:
                self._step(rest)
                return
        if len(batch) == 1 or is_device_lost(error):
            self._fail(batch[0], error)
            return
        LOG.warning("a step of %d rows failed (%s): trying each alone", len(batch), error)
        for attempt in batch:
            self._step([attempt])

    def _fail(self, attempt: Attempt[Row], error: Exception) -> None:
        """Fails one drawing, unless the error is every drawing's."""
        if is_device_lost(error):
            raise DeviceLost(str(error)) from error
        with self._changed:
            self._end(attempt, reporting.failure(attempt.task_id, error))

    def _end_all(self, lost: DeviceLost) -> None:
        """Tells everyone that the device is lost, before the process ends."""
        self._describe_failure(f"the device was lost ({lost}): the worker is started anew")
        with self._changed:
            for attempt in list(self._book.held()):
                self._end(attempt, reporting.device_lost(lost))
        self._on_change()
        self._reporter.flush(wait_s=LAST_REPORTS_S_MAX)
        self._stopping.wait(LAST_SENDING_S)

    def _describe_as(self, description: WorkerDescription) -> None:
        with self._changed:
            self._description = description
        self._on_change()

    def _describe_failure(self, detail: str, *, fault: str = "") -> None:
        LOG.error("%s", detail)
        self._describe_as(
            dataclasses.replace(self._description, state="failed", detail=detail, fault=fault)
        )

    # On the finisher's thread.

    def _decode_beside(self, attempt: Attempt[Row]) -> None:
        try:
            with self._decoding:
                if not attempt.over:
                    self._decode(attempt)
                    return
            with self._changed:
                self._book.release(attempt)
                self._wake()
        except Exception as error:
            # A lost device, or a bug of ours: it must end the loop, not this thread in silence.
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    # On the reporter's thread.

    def _send_image(self, attempt: Attempt[Row], picture: PillowImage.Image) -> None:
        report = None
        if not attempt.over:
            report = reporting.finished(
                attempt,
                picture,
                made_by=self._description,
                choices=self._choices,
                told=self._limits.told,
                clock=self._clock,
            )
        # Given back first: who hears of the end must not find the drawing still running.
        with self._changed:
            wanted = not attempt.over
            self._ready_rows.image_gone()
            self._book.end(attempt)
            self._book.release(attempt)
            self._changed.notify_all()
        if wanted and report is not None:
            attempt.on_report(report)
        self._on_change()
