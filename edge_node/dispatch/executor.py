"""Attempts that this node draws, whoever their origin: between the hosting machine and the worker.

Owns the drawings under way in the worker and the queues of reports to other origins.
"""

from __future__ import annotations

import logging
import math
from contextlib import aclosing
from dataclasses import replace

from edge_node.attempt_codes import WORKER_DIED, WORKER_DIED_SHARED
from edge_node.clock import Clock
from edge_node.dispatch.background import Background
from edge_node.dispatch.inbox import Inbox
from edge_node.dispatch.init_images import init_image_lost, init_image_of
from edge_node.dispatch.own_node import OwnNode
from edge_node.dispatch.told_reports import ToldReports
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptReport,
    AttemptStarted,
    Fence,
    Offload,
    StepFinished,
    TaskId,
    owner,
)
from edge_node.errors import DEdgeAIError, InitImageGone, WorkerUnavailable
from edge_node.ports import InitImages, Worker
from edge_node.tasks import hosting as hosted
from edge_node.tasks.hosting import Hosting

log = logging.getLogger(__name__)

# Of the work that an origin sees in a drawing to what this device does.
COST_FACTOR_MAX = 10.0
# Within which all that the worker drew hears of its death.
DEATH_S = 1.0


class Executor:
    """The executor's side of the offload protocol.

    Args:
        node: this node.
        inbox: takes what happens to attempts.
        hosting: is read here, and changed through the inbox alone.
        worker: draws.
        init_images: files of what drawings start from.
        clock: says until when an init image is needed.
    """

    def __init__(
        self,
        *,
        node: OwnNode,
        inbox: Inbox,
        hosting: Hosting,
        worker: Worker,
        init_images: InitImages,
        clock: Clock,
    ) -> None:
        self._node = node
        self._inbox = inbox
        self._hosting = hosting
        self._worker = worker
        self._init_images = init_images
        self._clock = clock
        self._reports: dict[tuple[TaskId, Fence], ToldReports] = {}
        self._drawings: Background[tuple[TaskId, Fence]] = Background()
        # What the worker has begun, and what it had begun when it died last.
        self._begun: dict[tuple[TaskId, Fence], None] = {}
        self._died_s = -math.inf
        self._died_drawing = 0

    async def stop(self) -> None:
        """Ends every drawing."""
        await self._drawings.stop()

    # For other origins.

    async def host(self, offload: Offload, *, init_image: bytes = b"") -> ToldReports:
        """Takes an attempt of another origin; what happens to it comes out of the queue.

        `init_image` is kept before anything else happens, so that drawing it finds it here.
        """
        reports = ToldReports()
        key = (offload.task_id, offload.fence)
        try:
            if init_image:
                await self._keep_sent_image(init_image, offload)
        except DEdgeAIError as error:
            failure = AttemptFailed(code=error.code, message=error.message, retryable=True)
            reports.put_nowait(failure)
            return reports
        refusal = self._why_not(offload)
        if refusal:
            message = f"Node {self._node.id} cannot take the task."
            reports.put_nowait(AttemptFailed(code=refusal, message=message, retryable=True))
            return reports
        self._reports[key] = reports
        now_s = self._clock.now_s()
        self._inbox.apply(hosted.OffloadReceived(offload=self._costed(offload), now_s=now_s))
        return reports

    def _why_not(self, offload: Offload) -> str:
        """The code of what keeps an attempt out; empty where nothing does.

        What an origin knew of this node's models may be of before it was started with others.
        """
        if not self._node.accepting:
            return "not_accepting"
        if self._node.served_as(offload.drawing.model) is None:
            return "model_not_served"
        return "stale_attempt" if self._hosting.is_hosted(offload.task_id, offload.fence) else ""

    def _costed(self, offload: Offload) -> Offload:
        """An attempt whose work is what its origin says, as far as this device can believe that.

        Devices differ in their calibration, and not by an order: the backlog that all others count
        on is not for one of them to invent.
        """
        own = self._node.described.work_model.work(offload.drawing)
        return replace(offload, work=min(offload.work, COST_FACTOR_MAX * own))

    @property
    def telling(self) -> bool:
        """Whether an origin that listens has not heard the end of an attempt."""
        return bool(self._reports)

    def unhost(self, task_id: TaskId, fence: Fence, reports: ToldReports) -> None:
        """The origin no longer listens to `reports`."""
        if self._reports.get((task_id, fence)) is reports:
            del self._reports[task_id, fence]
            self._inbox.apply(hosted.OffloadCancelled(task_id=task_id, fence=fence))

    def cancel_hosted(self, task_id: TaskId, fence: Fence) -> None:
        """The origin does not want the attempt any more."""
        self._inbox.apply(hosted.OffloadCancelled(task_id=task_id, fence=fence))

    def hand_over_hosted(self, task_id: TaskId, fence: Fence) -> None:
        """The origin wants the attempt to go on elsewhere."""
        portable = self._node.described.portable
        self._inbox.apply(hosted.HandOverWanted(task_id=task_id, fence=fence, portable=portable))

    # What the hosting machine wants.

    def start_drawing(self, start: hosted.StartDrawing) -> None:
        """Hands an attempt to the worker; the hosting machine hears of it."""
        self._drawings.start(self._draw(start), key=(start.task_id, start.fence))

    def stop_drawing(self, task_id: TaskId, fence: Fence) -> None:
        """Takes an attempt back from the worker."""
        self._drawings.cancel((task_id, fence))

    def hand_over(self, task_id: TaskId, fence: Fence) -> None:
        """Has the worker end a drawing after the step under way, to go on elsewhere."""
        self._worker.hand_over(task_id, fence)

    def report(self, task_id: TaskId, fence: Fence, report: AttemptReport) -> None:
        """Tells another origin, if it still listens."""
        reports = self._reports.get((task_id, fence))
        if reports is not None:
            reports.put_nowait(report)

    async def _draw(self, start: hosted.StartDrawing) -> None:
        try:
            failure = await self._drawn_until_failure(start)
        finally:
            self._begun.pop((start.task_id, start.fence), None)
        if failure is not None:
            # Of an attempt that has ended this is not heard any more.
            self._reported(start, failure)

    async def _drawn_until_failure(self, start: hosted.StartDrawing) -> AttemptFailed | None:
        """Draws; why it failed, None where the worker has said how it ended."""
        failure: AttemptFailed | None = None
        ended = False
        try:
            drawing = self._worker.draw(
                task_id=start.task_id,
                fence=start.fence,
                drawing=start.drawing,
                priority=start.priority,
                init_image=await init_image_of(start.drawing, self._init_images),
                deadline_s=start.deadline_s,
                client=start.client,
                checkpoint_steps=start.checkpoint_steps,
                checkpoint=start.checkpoint,
                age_s=start.age_s,
            )
            async with aclosing(drawing) as reports:
                async for report in reports:
                    ended = isinstance(report, AttemptFinished | AttemptFailed)
                    if isinstance(report, AttemptFailed) and report.code == "worker_lost":
                        self._node.doubt_worker()  # it was told to stop, and says so
                    self._reported(start, report)
        except WorkerUnavailable as error:
            self._node.doubt_worker()
            failure = self._worker_lost(start, error)
        except InitImageGone as error:
            # What an executor has lost, its origin can send again.
            hosted_for_another = owner(start.task_id) != self._node.id
            failure = init_image_lost(error, retryable=hosted_for_another)
        except DEdgeAIError as error:
            failure = AttemptFailed(code=error.code, message=error.message, retryable=True)
        except Exception:
            # Our own bug must not leave the attempt hosted for ever.
            log.exception("drawing %s failed", start.task_id)
        if failure is None and not ended:
            message = "The worker ended the drawing without a result."
            failure = AttemptFailed(code="worker_lost", message=message, retryable=True)
        return failure

    def _worker_lost(self, start: hosted.StartDrawing, error: WorkerUnavailable) -> AttemptFailed:
        """Whether the worker died of this drawing, perhaps: only of what it had begun."""
        code = "worker_lost"
        if (start.task_id, start.fence) in self._begun:
            now_s = self._clock.now_s()
            if now_s - self._died_s > DEATH_S:  # the first to hear of this death
                self._died_s, self._died_drawing = now_s, len(self._begun)
            code = WORKER_DIED if self._died_drawing == 1 else WORKER_DIED_SHARED
        return AttemptFailed(code=code, message=error.message, retryable=True)

    def _reported(self, start: hosted.StartDrawing, report: AttemptReport) -> None:
        if isinstance(report, AttemptStarted | StepFinished):
            self._begun[start.task_id, start.fence] = None
        event = hosted.DrawingReported(task_id=start.task_id, fence=start.fence, report=report)
        self._inbox.apply(event)

    async def _keep_sent_image(self, init_image: bytes, offload: Offload) -> None:
        until_unix_s = None
        if offload.deadline_s is not None:
            until_unix_s = self._clock.unix_s() + offload.deadline_s
        await self._init_images.write(
            offload.drawing.init_image_sha256, init_image, needed_until_unix_s=until_unix_s
        )
