"""Tasks accepted here: who submits them, who waits for them, and what is written of them.

Owns the clients' side of every task of this origin (answers that are due, watchers, recent jobs)
and carries out what the lifecycle wants of ledger and image files.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.dispatch.background import Background
from edge_node.dispatch.entrance import Entrance, EntranceSettings
from edge_node.dispatch.expectations import Expectations
from edge_node.dispatch.inbox import Inbox
from edge_node.dispatch.known_models import KnownModels
from edge_node.dispatch.own_node import OwnNode
from edge_node.dispatch.patient_images import PatientImages
from edge_node.domain import (
    SEQUENCE_LAST,
    Drawing,
    Durability,
    JobId,
    Task,
    TaskEvent,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.erasure import refuse_erased
from edge_node.errors import (
    DEdgeAIError,
    ImageNotReady,
    ModerationBlocked,
    ModerationUnavailable,
    NodeNotReady,
    StoreUnavailable,
    TaskNotFound,
)
from edge_node.ports import Images, InitImages, Ledger, Moderation
from edge_node.requests import AlreadyAccepted, Idempotency, Submission
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.fate import END_KINDS
from edge_node.tasks.in_flight import ClientLoad
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.telemetry.metrics import NodeMetrics

log = logging.getLogger(__name__)

# When to ask again a node that is being stopped: after a restart, say.
STOPPED_RETRY_S = 5.0
# Recent jobs remembered here; older ones are read from the ledger.
JOBS_KEPT_MAX = 2000
# Pauses before the end of a task is written again where the ledger failed as it never should.
RECORD_AGAIN_S = (0.1, 0.5, 2.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class OwnTasksSettings:
    """Who is let in, and how long a task lasts that names no deadline."""

    entrance: EntranceSettings
    deadline_s_default: float

    @classmethod
    def of(cls, config: NodeConfig) -> OwnTasksSettings:
        """From the node's settings."""
        return cls(
            entrance=EntranceSettings.of(config),
            deadline_s_default=config.deadline_s_default,
        )


class OwnTasks:
    """Everything that clients can do with tasks of this node, here or through a peer.

    Args:
        settings: bounds of what is let in.
        node: this node.
        models: says what a task costs.
        inbox: takes what happens to tasks.
        lifecycle: is read here, and changed through the inbox alone.
        view: tells how busy the cluster is.
        ledger: durable memory of accepted tasks.
        images: files of what was drawn.
        init_images: files of what drawings start from.
        metrics: counts accepted, refused and ended tasks.
        clock: dates tasks.
        new_ulid: names tasks and jobs.
    """

    def __init__(
        self,
        settings: OwnTasksSettings,
        *,
        node: OwnNode,
        models: KnownModels,
        inbox: Inbox,
        lifecycle: Lifecycle,
        view: ClusterView,
        ledger: Ledger,
        images: Images,
        init_images: InitImages,
        metrics: NodeMetrics,
        clock: Clock,
        new_ulid: Callable[[], str],
    ) -> None:
        self.settings = settings
        self._node = node
        self._models = models
        self._inbox = inbox
        self._lifecycle = lifecycle
        self._entrance = Entrance(lifecycle=lifecycle, view=view, metrics=metrics, clock=clock)
        self._view = view
        self.expected = Expectations(node=node, lifecycle=lifecycle, view=view, clock=clock)
        self._ledger = ledger
        self._images = images
        self._patient = PatientImages(images)
        self._init_images = init_images
        self._metrics = metrics
        self._clock = clock
        self._new_ulid = new_ulid
        self._idempotency: dict[TaskId, Idempotency | None] = {}
        self._answers: dict[TaskId, asyncio.Future[AlreadyAccepted | None]] = {}
        self._refusals: dict[TaskId, DEdgeAIError | AlreadyAccepted] = {}
        self._jobs: OrderedDict[JobId, tuple[TaskId, ...]] = OrderedDict()
        # In their order, so that a simulated run is the same every time.
        self._watchers: defaultdict[TaskId, dict[asyncio.Event, None]] = defaultdict(dict)
        self._ends: defaultdict[TaskId, dict[asyncio.Future[TaskRecord], None]] = defaultdict(dict)
        self._writing: Background[TaskId] = Background()
        self.refusal: Callable[[], DEdgeAIError | None] = lambda: None
        self.moderator: Moderation | None = None
        self._dismissed = False

    async def stop(self) -> None:
        """Ends all writing; the ledger knows what is owed."""
        await self._writing.stop()

    def dismiss(self) -> None:
        """The node ends now: who waits for a task hears that it is not over."""
        self._dismissed = True
        for waiting in self._ends.values():
            for ended in waiting:
                if not ended.done():
                    ended.set_exception(_stopped())
        for task_id in self._watchers:
            self.wake_watchers(task_id)

    # For clients.

    @property
    def in_flight(self) -> int:
        """Tasks accepted here and not final."""
        return self._lifecycle.in_flight

    def in_flight_of(self, client: str) -> ClientLoad:
        """What a client has accepted here and not final."""
        return self._lifecycle.load.of(client)

    async def submit(
        self,
        drawings: Sequence[Drawing],
        *,
        durable: bool,
        init_image: bytes = b"",
        deadline_s: float | None = None,
        priority: int = 0,
        idempotency: Idempotency | None = None,
        client: str = "",
        turns: str = "",
    ) -> Submission:
        """Accepts one task per drawing, all or none.

        Args:
            drawings: what to draw; more than one makes a job.
            durable: return only once the tasks are on disk.
            init_image: PNG that all of them name as the one to start from; empty when none does.
            deadline_s: seconds from now after which the images are of no use.
            priority: larger is served first.
            idempotency: a durable request that may come again.
            client: id of the API key that asks; empty where none is asked for.
            turns: whose turn at devices the tasks take; the client's if not said.

        Raises:
            ModelNotFound, ModelAway: as KnownModels.find.
            NodeNotReady, AdmissionRefused, StoreUnavailable, IdempotencyConflict, DiskLow.
            ModerationBlocked, ModerationUnavailable: the operator's judge.
        """
        if self.moderator is not None:  # who watches sees nothing before it was judged
            drawings = [replace(drawing, previews=0) for drawing in drawings]

        def let_in() -> tuple[Task, ...]:
            tasks = self._new_tasks(
                drawings,
                durable=durable,
                init_image_bytes=len(init_image),
                deadline_s=deadline_s,
                priority=priority,
                client=client,
                turns=turns or client,
            )
            self._entrance.refuse(len(tasks), self.refusal())
            self._entrance.admit(tasks, self.settings.entrance)
            return tasks

        tasks = let_in()
        if self.moderator is not None:
            await self._judge_request(self.moderator, drawings, init_image, client)
            tasks = let_in()  # again, because the node and its queues are others by now
        if init_image:
            await self._keep_init_image(init_image, tasks)
            # Again, because others came in while it was written.
            self._entrance.admit(tasks, self.settings.entrance)
        first = tasks[0].id
        answer: asyncio.Future[AlreadyAccepted | None]
        answer = asyncio.get_running_loop().create_future()
        self._answers[first] = answer
        self._idempotency[first] = idempotency
        self._inbox.apply(life.TasksSubmitted(tasks=tasks))
        try:
            earlier = await answer
        finally:
            self._answers.pop(first, None)
        if earlier is not None:
            return await self._again(earlier)
        self._metrics.tasks_accepted(len(tasks))
        self._remember_job(tasks)
        records = [await self.read_task(task.id) for task in tasks]
        return Submission(job_id=tasks[0].job_id, records=tuple(records), replayed=False)

    async def find_submitted(self, idempotency: Idempotency) -> Submission | None:
        """What a key brought in, if it did: also where it could not be accepted now.

        Raises:
            StoreUnavailable, IdempotencyConflict.
        """
        earlier = await self._ledger.find_accepted(idempotency)
        return None if earlier is None else await self._again(earlier)

    async def _again(self, earlier: AlreadyAccepted) -> Submission:
        records = [await self.read_task(task_id) for task_id in earlier.task_ids]
        refuse_erased(*records)
        return Submission(job_id=earlier.job_id, records=tuple(records), replayed=True)

    def client_gone(self, task_ids: Sequence[TaskId]) -> None:
        """A synchronous client hung up: nobody wants what it had asked for."""
        for task_id in task_ids:
            self._inbox.apply(life.CancelRequested(task_id=task_id))

    async def read_task(self, task_id: TaskId) -> TaskRecord:
        """A task accepted here."""
        record = self._lifecycle.record(task_id)
        if record is not None:
            return self.expected.of(record)
        record = await self._ledger.read(task_id)
        if record is None:
            raise TaskNotFound.of(task_id)
        return record

    async def read_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        """The tasks of a job accepted here."""
        task_ids = self._jobs.get(job_id) or await self._ledger.read_job(job_id)
        if not task_ids:
            raise TaskNotFound.of(job_id)
        return tuple([await self.read_task(task_id) for task_id in task_ids])

    async def cancel(self, task_id: TaskId) -> TaskRecord:
        """Cancels a task accepted here and waits until it is final or past cancelling."""
        record = await self.read_task(task_id)
        if record.status.is_final:
            return record
        self._inbox.apply(life.CancelRequested(task_id=task_id))
        async with aclosing(self.watch(task_id, after=0)) as events:
            async for event in events:
                if event.kind.is_final:
                    break
        return await self.read_task(task_id)

    async def watch(self, task_id: TaskId, *, after: int) -> AsyncGenerator[TaskEvent, None]:
        """Events of a task accepted here."""
        changed = asyncio.Event()
        self._watchers[task_id][changed] = None
        try:
            while True:
                events = self._lifecycle.events(task_id, after=after)
                if events is None:
                    yield _final_event(await self.read_task(task_id))
                    return
                for event in events:
                    after = event.sequence
                    yield self.expected.of_event(task_id, event)
                    if event.kind.is_final:
                        return
                record = self._lifecycle.record(task_id)
                if not events and record is not None and record.status.is_final:
                    return  # the watcher has seen the end before
                if self._dismissed:
                    raise _stopped()
                await changed.wait()
                changed.clear()
        finally:
            del self._watchers[task_id][changed]
            if not self._watchers[task_id]:
                del self._watchers[task_id]

    async def until_final(self, task_id: TaskId) -> TaskRecord:
        """A task accepted here, once all are told of its end; what comes before wakes nobody.

        Raises:
            NodeNotReady: the node stops before it is over.
        """
        told = self._lifecycle.events(task_id)
        if told is None or (told and told[-1].kind.is_final):
            return await self.read_task(task_id)
        if self._dismissed:
            raise _stopped()
        ended: asyncio.Future[TaskRecord] = asyncio.get_running_loop().create_future()
        self._ends[task_id][ended] = None
        try:
            return await ended
        finally:
            del self._ends[task_id][ended]
            if not self._ends[task_id]:
                del self._ends[task_id]

    async def read_image(self, task_id: TaskId) -> tuple[bytes, str]:
        """The image of a task accepted here."""
        record = await self.read_task(task_id)
        refuse_erased(record)
        if record.status is not TaskStatus.COMPLETED:
            raise ImageNotReady(
                f"Task {task_id} is {record.status.value}; its image can be fetched once it is "
                "completed."
            )
        return await self._images.read(task_id)

    # What the lifecycle wants.

    def append(self, tasks: tuple[Task, ...]) -> None:
        """Writes new tasks to the ledger; the lifecycle hears of it."""
        self._writing.start(self._append(tasks))

    def journal(self, tasks: tuple[Task, ...]) -> None:
        """Writes new tasks to the ledger without waiting for it."""
        self._ledger.journal_accepted(tasks, job_id=tasks[0].job_id)

    def accepted(self, task_ids: Sequence[TaskId]) -> None:
        """The client of these tasks hears yes."""
        now_s = self._clock.now_s()
        for task_id in task_ids:
            record = self._lifecycle.record(task_id)
            if record is not None:
                task = record.task
                self._view.task_accepted(task.work, model=task.drawing.model, now_s=now_s)
        self._answer(task_ids[0], None)

    def refused(self, task_ids: Sequence[TaskId]) -> None:
        """The client of these tasks hears no, and why."""
        self._answer(task_ids[0], self._refusals.pop(task_ids[0]))

    def store_image(self, wanted: life.StoreImage) -> None:
        """Writes the image file; the lifecycle hears of it."""
        self._writing.start(self._store_image(wanted))

    def note(self, record: TaskRecord) -> None:
        """Writes a record behind."""
        self._ledger.note(record)

    def record_final(self, record: TaskRecord) -> None:
        """Writes an end to the ledger; the lifecycle hears of it."""
        self._writing.start(self._record_final(record))

    def wake_watchers(self, task_id: TaskId) -> None:
        """There is an event that they have not seen."""
        for changed in self._watchers.get(task_id, ()):
            changed.set()

    def ended(self, record: TaskRecord) -> None:
        """Counts a task that is final, and tells who waits for nothing else."""
        for ended in self._ends.get(record.task.id, ()):
            if not ended.done():
                ended.set_result(record)
        self._metrics.task_ended(
            status=record.status.value,
            code="" if record.error is None else record.error.code,
            remote=record.executor != self._node.id,
            service_delay_s=record.service_delay_s,
            queue_s=record.queue_s,
            compute_s=record.compute_s,
        )
        what = record.status.value if record.error is None else record.error.code
        level = logging.DEBUG if record.error is None else logging.INFO
        log.log(level, "task %s: %s, attempt %d", record.task.id, what, record.attempt)

    async def _append(self, tasks: tuple[Task, ...]) -> None:
        task_ids = tuple(task.id for task in tasks)
        idempotency = self._idempotency.pop(task_ids[0], None)
        try:
            appended = await self._ledger.append_accepted(
                tasks, job_id=tasks[0].job_id, idempotency=idempotency
            )
        except Exception as problem:
            error = _ours(problem, what=f"task {task_ids[0]} was not written")
            self._metrics.tasks_refused(len(tasks), code=error.code)
            self._refusals[task_ids[0]] = error
            self._inbox.apply(life.AppendFailed(task_ids=task_ids))
            return
        if isinstance(appended, AlreadyAccepted):
            self._refusals[task_ids[0]] = appended
            self._inbox.apply(life.AppendFailed(task_ids=task_ids))
            return
        self._inbox.apply(life.TasksAppended(task_ids=task_ids))

    def _answer(self, task_id: TaskId, answer: DEdgeAIError | AlreadyAccepted | None) -> None:
        self._idempotency.pop(task_id, None)
        waiting = self._answers.get(task_id)
        if waiting is None or waiting.done():
            return  # the client hung up before its answer
        if isinstance(answer, DEdgeAIError):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    async def _store_image(self, wanted: life.StoreImage) -> None:
        task_id, fence, size = wanted.task_id, wanted.fence, len(wanted.image.content)
        try:
            await self._judge_image(wanted)
        except (ModerationBlocked, ModerationUnavailable) as error:
            refused = life.ImageStoreFailed(
                task_id=task_id, fence=fence, code=error.code, message=error.message
            )
            self._inbox.apply(refused)
            return
        try:
            await self._patient.write(task_id, wanted.image)
        except Exception as error:
            # The disk's word says it all; anything else is a bug of ours.
            traced = not isinstance(error, OSError)
            log.error("image of %s not stored: %s", task_id, error, exc_info=traced)
            message = f"The image was drawn and could not be stored: {error}."
            failed = life.ImageStoreFailed(task_id=task_id, fence=fence, message=message)
            self._inbox.apply(failed)
            return
        self._inbox.apply(life.ImageStored(task_id=task_id, fence=fence, image_bytes=size))

    async def _judge_request(
        self,
        moderator: Moderation,
        drawings: Sequence[Drawing],
        init_image: bytes,
        client: str,
    ) -> None:
        try:
            await moderator.judge_request(drawings, init_image=init_image, client=client)
        except DEdgeAIError as error:
            self._metrics.tasks_refused(len(drawings), code=error.code)
            raise

    async def _judge_image(self, wanted: life.StoreImage) -> None:
        """Before it is anywhere where a client, or a later life of this node, could find it."""
        record = self._lifecycle.record(wanted.task_id)
        if self.moderator is None or record is None:
            return
        await self.moderator.judge_image(
            wanted.image,
            task_id=wanted.task_id,
            drawing=record.task.drawing,
            client=record.task.client,
        )

    async def _record_final(self, record: TaskRecord) -> None:
        for pause_s in (*RECORD_AGAIN_S, None):
            try:
                await self._ledger.append_final(record)
                break
            except StoreUnavailable:
                log.warning("store away: the end of %s is held and written later", record.task.id)
                break
            except Exception:
                log.exception("the end of %s was not written", record.task.id)
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
        self._inbox.apply(life.FinalRecorded(task_id=record.task.id))

    # Small parts.

    def _new_tasks(
        self,
        drawings: Sequence[Drawing],
        *,
        durable: bool,
        init_image_bytes: int,
        deadline_s: float | None,
        priority: int,
        client: str,
        turns: str,
    ) -> tuple[Task, ...]:
        if self._node.draining:
            self._refuse_where_nobody_draws(drawings)
        costed = [
            (drawing, self._models.find(drawing.model).work_model.work(drawing))
            for drawing in drawings
        ]
        now_unix_s = self._clock.unix_s()
        job_id = JobId(f"{self._node.id}-{self._new_ulid()}") if len(drawings) > 1 else None
        durability = Durability.DISK
        if not durable:
            away = not self._ledger.available
            durability = Durability.NONE if away else Durability.JOURNALLED
        return tuple(
            Task(
                id=TaskId(f"{self._node.id}-{self._new_ulid()}"),
                job_id=job_id,
                drawing=drawing,
                work=work,
                input_bits=8
                * (len((drawing.prompt + drawing.negative_prompt).encode()) + init_image_bytes),
                created_unix_s=now_unix_s,
                deadline_unix_s=now_unix_s + (deadline_s or self.settings.deadline_s_default),
                priority=priority,
                durability=durability,
                client=client,
                turns=turns,
                term=self._node.identity.term,
            )
            for drawing, work in costed
        )

    def _refuse_where_nobody_draws(self, drawings: Sequence[Drawing]) -> None:
        """A node that is being stopped goes on to take what others can draw."""
        now_s = self._clock.now_s()
        for model in {drawing.model for drawing in drawings}:
            _, capacity = self._view.backlog_and_capacity(model, now_s=now_s)
            if self._dismissed or capacity <= 0.0:
                raise NodeNotReady(
                    "This node is being stopped. Ask another node.", retry_after_s=STOPPED_RETRY_S
                )

    async def _keep_init_image(self, init_image: bytes, tasks: tuple[Task, ...]) -> None:
        """On disk before the tasks are accepted: an accepted task must survive a crash."""
        try:
            await self._init_images.write(
                tasks[0].drawing.init_image_sha256,
                init_image,
                needed_until_unix_s=tasks[0].deadline_unix_s,
            )
        except DEdgeAIError as error:
            self._metrics.tasks_refused(len(tasks), code=error.code)
            raise

    def _remember_job(self, tasks: tuple[Task, ...]) -> None:
        if tasks[0].job_id is not None:
            self._jobs[tasks[0].job_id] = tuple(task.id for task in tasks)
            while len(self._jobs) > JOBS_KEPT_MAX:
                self._jobs.popitem(last=False)


def _ours(problem: Exception, *, what: str) -> DEdgeAIError:
    """What a client is told; what is none of our errors is a bug, and logged."""
    if isinstance(problem, DEdgeAIError):
        return problem
    log.error("%s", what, exc_info=problem)
    return DEdgeAIError("The node failed to write the task. Try again, or ask another node.")


def _stopped() -> NodeNotReady:
    return NodeNotReady(
        "This node is being stopped, and the task was not over in the time that it had left. Ask "
        "another node, or this one after the time in Retry-After.",
        retry_after_s=STOPPED_RETRY_S,
    )


def _final_event(record: TaskRecord) -> TaskEvent:
    """Where a task stands that only the ledger remembers; almost always its end."""
    return TaskEvent(
        sequence=SEQUENCE_LAST,
        kind=END_KINDS.get(record.status, TaskEventKind.QUEUED),
        unix_s=record.finished_unix_s or record.task.created_unix_s,
        attempt=record.attempt,
        executor=record.executor,
        step=record.step,
        steps=record.task.drawing.denoising_steps,
        error=record.error,
    )
