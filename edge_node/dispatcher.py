"""The asynchronous shell around the pure task machines: carries out what they say.

Owns the event loop's side of every task: who waits for an answer, who watches, which streams are
open. It decides nothing about a task; Lifecycle, Hosting, admission and placement do. All their
events pass through one inbox, so that each is applied whole before the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ulid import ULID

from edge_node.clock import Clock
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptReport,
    Drawing,
    Durability,
    JobId,
    NodeId,
    NodeState,
    Offload,
    Task,
    TaskEvent,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
    WorkerDescription,
    origin_of,
)
from edge_node.errors import (
    AdmissionRefused,
    DEdgeAIError,
    ImageNotReady,
    InitImageGone,
    NodeNotReady,
    StoreUnavailable,
    TaskNotFound,
    WorkerUnavailable,
)
from edge_node.ports import (
    AlreadyAccepted,
    ExperiencePool,
    GuardStatus,
    Idempotency,
    Images,
    InitImages,
    LatentStore,
    Ledger,
    Peers,
    Submission,
    Worker,
)
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle as life
from edge_node.tasks.admission import AdmissionLimits, admit
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.guard import Guard, reason_word
from edge_node.tasks.hosting import Hosting
from edge_node.tasks.lifecycle import Lifecycle, Moment
from edge_node.tasks.moving import is_turn, task_to_move
from edge_node.tasks.placement import Placement, place
from edge_node.tasks.slots import Place, SlotMemory
from edge_node.telemetry.metrics import NodeMetrics
from scheduler.experience import RecordedDecision
from scheduler.policy import Outcome, Policy

log = logging.getLogger(__name__)

# What a failed task counts as when its delay is reported to the policy, in seconds.
FAILURE_PENALTY_S = 60.0
# A worker that dropped a drawing is not chosen again before its supervision has had a look.
WORKER_DOUBT_S = 0.5
# Recent jobs remembered here; older ones are read from the ledger.
JOBS_KEPT_MAX = 2000
# How often within a lease its executor says that it still holds the attempt.
LEASE_RENEWALS = 4
# Share by which capacity must change before peers are told at once.
CAPACITY_CHANGE_SHOWN = 0.02


@dataclass(frozen=True, kw_only=True)
class DispatcherSettings:
    """Who this node is, and the bounds that the dispatcher itself keeps; units in the names."""

    node_id: NodeId
    incarnation: int
    rest_url: str
    grpc_address: str
    admission: AdmissionLimits
    deadline_s_default: float
    tick_s: float
    heartbeat_s: float
    lease_s: float
    move_waiting: bool = False


class Dispatcher:
    """Everything that a node does with tasks, for the REST surface and for peers."""

    def __init__(
        self,
        settings: DispatcherSettings,
        *,
        lifecycle: Lifecycle,
        hosting: Hosting,
        view: ClusterView,
        policy: Policy,
        memory: SlotMemory,
        ledger: Ledger,
        images: Images,
        init_images: InitImages,
        worker: Worker,
        metrics: NodeMetrics,
        clock: Clock,
        latent_store: LatentStore | None = None,
        pool: ExperiencePool | None = None,
    ) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._hosting = hosting
        self._view = view
        self._policy = policy
        self._memory = memory
        self._latent_store = latent_store
        self._pool = pool
        # Kinds of failure that were logged; a failing policy fails for every task.
        self._policy_failures: set[str] = set()
        self._ledger = ledger
        self._images = images
        self._init_images = init_images
        self._worker = worker
        self._metrics = metrics
        self._clock = clock
        self._peers: Peers | None = None
        self._inbox: deque[life.Event | hosted.Event] = deque()
        self._applying = False
        self._draining = False
        self._sequence = 0
        self._changed_s = 0.0
        self._worker_doubted_until_s = 0.0
        self._described = WorkerDescription(state="loading")
        self._shown: tuple[bool, str, float] = (False, "", 0.0)
        self._alive: frozenset[NodeId] = frozenset()
        self._idempotency: dict[TaskId, Idempotency | None] = {}
        self._answers: dict[TaskId, asyncio.Future[AlreadyAccepted | None]] = {}
        self._refusals: dict[TaskId, DEdgeAIError | AlreadyAccepted] = {}
        self._jobs: OrderedDict[JobId, tuple[TaskId, ...]] = OrderedDict()
        self._watchers: defaultdict[TaskId, set[asyncio.Event]] = defaultdict(set)
        self._reports: dict[tuple[TaskId, int], asyncio.Queue[AttemptReport]] = {}
        self._offloads: dict[tuple[TaskId, int], asyncio.Task[None]] = {}
        self._drawings: dict[tuple[TaskId, int], asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()

    # Start, change and stop, called by node.py.

    def start(self, peers: Peers, recovered: Sequence[Task]) -> None:
        """Begins to work: takes up what a former life owed, and lets time pass."""
        self._peers = peers
        self._state_changed()
        self._apply(life.TasksRecovered(tasks=tuple(recovered)))
        self._spawn(self._let_time_pass())

    def reconfigure(self, settings: DispatcherSettings) -> None:
        """Takes other bounds for what is to come."""
        self._settings = settings

    async def drain(self, *, timeout_s: float) -> None:
        """Refuses new work and waits for what is under way, `timeout_s` at most."""
        self._draining = True
        self._state_changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._lifecycle.in_flight or self._hosting.hosted():  # noqa: ASYNC110
                    await asyncio.sleep(self._settings.tick_s)

    async def stop(self) -> None:
        """Ends all that is under way; the ledger knows what is owed."""
        tasks = [*self._background, *self._offloads.values(), *self._drawings.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What can be read at any time.

    @property
    def described(self) -> WorkerDescription:
        """The worker as it last was ready; without a model before it ever was."""
        return self._described

    @property
    def in_flight(self) -> int:
        """Tasks accepted here and not final."""
        return self._lifecycle.in_flight

    def guard_status(self) -> GuardStatus | None:
        """Who decides placements and why; None where a rule is wanted, which needs no guard."""
        return self._policy.status() if isinstance(self._policy, Guard) else None

    @property
    def draining(self) -> bool:
        """Whether the node takes no new work because it is about to stop."""
        return self._draining

    # Tasks of this node, for its clients and for peers.

    async def submit(
        self,
        drawings: Sequence[Drawing],
        *,
        durable: bool,
        init_image: bytes = b"",
        deadline_s: float | None = None,
        priority: int = 0,
        idempotency: Idempotency | None = None,
    ) -> Submission:
        """Accepts one task per drawing, all or none.

        Args:
            drawings: what to draw; more than one makes a job.
            durable: return only once the tasks are on disk.
            init_image: PNG that all of them name as the one to start from; empty when none does.
            deadline_s: seconds from now after which the images are of no use.
            priority: larger is served first.
            idempotency: a durable request that may come again.

        Raises:
            NodeNotReady, AdmissionRefused, StoreUnavailable, IdempotencyConflict.
        """
        tasks = self._new_tasks(
            drawings,
            durable=durable,
            init_image_bytes=len(init_image),
            deadline_s=deadline_s,
            priority=priority,
        )
        self._admit(tasks)
        if init_image:
            await self._keep_init_image(init_image, tasks)
            self._admit(tasks)  # again, because others came in while it was written
        first = tasks[0].id
        answer: asyncio.Future[AlreadyAccepted | None]
        answer = asyncio.get_running_loop().create_future()
        self._answers[first] = answer
        self._idempotency[first] = idempotency
        self._apply(life.TasksSubmitted(tasks=tasks))
        try:
            earlier = await answer
        finally:
            self._answers.pop(first, None)
        if earlier is not None:
            records = [await self.read_own_task(task_id) for task_id in earlier.task_ids]
            return Submission(job_id=earlier.job_id, records=tuple(records), replayed=True)
        self._metrics.tasks_accepted(len(tasks))
        self._remember_job(tasks)
        records = [await self.read_own_task(task.id) for task in tasks]
        return Submission(job_id=tasks[0].job_id, records=tuple(records), replayed=False)

    def client_gone(self, task_ids: Sequence[TaskId]) -> None:
        """A synchronous client hung up: nobody wants what it had asked for."""
        for task_id in task_ids:
            self._apply(life.CancelRequested(task_id=task_id))

    async def read_own_task(self, task_id: TaskId) -> TaskRecord:
        """A task accepted here."""
        record = self._lifecycle.record(task_id) or await self._ledger.read(task_id)
        if record is None:
            raise TaskNotFound(f"There is no task {task_id}, or it was removed after its time.")
        return record

    async def read_own_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        """The tasks of a job accepted here."""
        task_ids = self._jobs.get(job_id) or await self._ledger.read_job(job_id)
        if not task_ids:
            raise TaskNotFound(f"There is no job {job_id}, or it was removed after its time.")
        return tuple([await self.read_own_task(task_id) for task_id in task_ids])

    async def cancel_own_task(self, task_id: TaskId) -> TaskRecord:
        """Cancels a task accepted here and waits until it is final or past cancelling."""
        record = await self.read_own_task(task_id)
        if record.status.is_final:
            return record
        self._apply(life.CancelRequested(task_id=task_id))
        async with aclosing(self.watch_own_task(task_id, after=0)) as events:
            async for event in events:
                if event.kind.is_final:
                    break
        return await self.read_own_task(task_id)

    async def watch_own_task(
        self, task_id: TaskId, *, after: int
    ) -> AsyncGenerator[TaskEvent, None]:
        """Events of a task accepted here."""
        changed = asyncio.Event()
        self._watchers[task_id].add(changed)
        try:
            while True:
                events = self._lifecycle.events(task_id, after=after)
                if events is None:
                    yield _final_event(await self.read_own_task(task_id))
                    return
                for event in events:
                    after = event.sequence
                    yield event
                    if event.kind.is_final:
                        return
                record = self._lifecycle.record(task_id)
                if not events and record is not None and record.status.is_final:
                    return  # the watcher has seen the end before
                await changed.wait()
                changed.clear()
        finally:
            self._watchers[task_id].discard(changed)
            if not self._watchers[task_id]:
                del self._watchers[task_id]

    async def read_own_image(self, task_id: TaskId) -> tuple[bytes, str]:
        """The image of a task accepted here."""
        record = await self.read_own_task(task_id)
        if record.status is not TaskStatus.COMPLETED:
            raise ImageNotReady(
                f"Task {task_id} is {record.status.value}; its image can be fetched once it is "
                "completed."
            )
        return await self._images.read(task_id)

    def own_state(self) -> NodeState:
        """This node's queue state, as it is now."""
        described = self._described
        now_s = self._clock.now_s()
        return NodeState(
            node_id=self._settings.node_id,
            incarnation=self._settings.incarnation,
            sequence=self._sequence,
            backlog=self._hosting.backlog,
            capacity=self._capacity(),
            model=described.model,
            model_fingerprint=described.model_fingerprint,
            accepting=self._accepting(),
            queued=self._hosting.queued,
            running=self._hosting.running,
            dispatches_seen=self._hosting.dispatches_seen,
            rest_url=self._settings.rest_url,
            grpc_address=self._settings.grpc_address,
            device=described.device,
            emulated_device=described.emulated_device,
            accepted_work_s=self._view.accepted_work_s(now_s=now_s),
            changed_s=self._changed_s,
            sent_s=now_s,
        )

    def peer_state_received(self, state: NodeState) -> None:
        """A peer pushed its state."""
        if state.node_id == self._settings.node_id:
            log.error(
                "another node calls itself %s: give every node its own node_id", state.node_id
            )
            return
        self._view.state_received(state, now_s=self._clock.now_s())

    def peer_forgotten(self, node_id: NodeId) -> None:
        """A peer left, or is given up: its attempts are placed again."""
        self._alive -= {node_id}
        self._view.forget(node_id)
        self._apply(life.PeerFailed(node_id=node_id))

    def round_trip_measured(self, node_id: NodeId, round_trip_s: float) -> None:
        """A link was measured."""
        self._view.round_trip_measured(node_id, round_trip_s)

    def worker_changed(self) -> None:
        """The worker said something: others should know if it is ready, gone or of another pace."""
        description = self._worker.description
        if description is not None and description.state == "ready":
            self._described = description
        accepting, fingerprint, capacity = self._shown
        same_pace = abs(self._capacity() - capacity) <= CAPACITY_CHANGE_SHOWN * capacity
        same_worker = (self._accepting(), self._described.model_fingerprint) == (
            accepting,
            fingerprint,
        )
        if not (same_pace and same_worker):
            self._state_changed()

    async def host(
        self, offload: Offload, *, init_image: bytes = b""
    ) -> asyncio.Queue[AttemptReport]:
        """Takes an attempt of another origin; what happens to it comes out of the queue.

        `init_image` is kept before anything else happens, so that drawing it finds it here.
        """
        reports: asyncio.Queue[AttemptReport] = asyncio.Queue()
        key = (offload.task_id, offload.attempt)
        try:
            if init_image:
                await self._keep_sent_image(init_image, offload)
        except DEdgeAIError as error:
            failure = AttemptFailed(code=error.code, message=error.message, retryable=True)
            reports.put_nowait(failure)
            return reports
        if not self._accepting() or self._hosting.is_hosted(*key):
            code = "not_accepting" if not self._accepting() else "stale_attempt"
            message = f"Node {self._settings.node_id} cannot take the task."
            reports.put_nowait(AttemptFailed(code=code, message=message, retryable=True))
            return reports
        self._reports[key] = reports
        self._apply(hosted.OffloadReceived(offload=offload))
        return reports

    async def _keep_sent_image(self, init_image: bytes, offload: Offload) -> None:
        until_unix_s = None
        if offload.deadline_s is not None:
            until_unix_s = self._clock.unix_s() + offload.deadline_s
        await self._init_images.write(
            offload.drawing.init_image_sha256, init_image, needed_until_unix_s=until_unix_s
        )

    def unhost(self, task_id: TaskId, attempt: int, reports: asyncio.Queue[AttemptReport]) -> None:
        """The origin no longer listens to `reports`."""
        if self._reports.get((task_id, attempt)) is reports:
            del self._reports[task_id, attempt]
            self._apply(hosted.OffloadCancelled(task_id=task_id, attempt=attempt))

    def cancel_hosted(self, task_id: TaskId, attempt: int) -> None:
        """The origin does not want the attempt any more."""
        self._apply(hosted.OffloadCancelled(task_id=task_id, attempt=attempt))

    # The inbox.

    def _apply(self, event: life.Event | hosted.Event) -> None:
        self._inbox.append(event)
        if self._applying:
            return
        self._applying = True
        try:
            while self._inbox:
                self._apply_one(self._inbox.popleft())
        finally:
            self._applying = False

    def _apply_one(self, event: life.Event | hosted.Event) -> None:
        if isinstance(event, hosted.Event):
            before = self._hosting.changes
            for hosted_instruction in self._hosting.handle(event):
                self._obey_hosting(hosted_instruction)
            if self._hosting.changes != before:
                self._state_changed()
            return
        for instruction in self._lifecycle.handle(event, self._moment()):
            self._obey_lifecycle(instruction)

    def _obey_lifecycle(self, instruction: life.Instruction) -> None:
        match instruction:
            case life.AppendTasks(tasks=tasks):
                self._spawn(self._append(tasks))
            case life.JournalTasks(tasks=tasks):
                self._ledger.journal_accepted(tasks, job_id=tasks[0].job_id)
            case life.AnswerAccepted(task_ids=task_ids):
                self._count_accepted(task_ids)
                self._answer(task_ids[0], None)
            case life.AnswerRefused(task_ids=task_ids):
                self._answer(task_ids[0], self._refusals.pop(task_ids[0]))
            case life.PlaceTask():
                self._place(instruction)
            case life.StartAttempt(executor=executor, offload=offload):
                self._start_attempt(executor, offload)
            case life.StopAttempt(executor=executor, task_id=task_id, attempt=attempt):
                self._stop_attempt(executor, task_id, attempt)
            case life.StoreImage():
                self._spawn(self._store_image(instruction))
            case life.NoteRecord(record=record):
                self._ledger.note(record)
            case life.RecordFinal(record=record):
                self._spawn(self._record_final(record))
            case life.PublishEvent(task_id=task_id):
                for changed in self._watchers.get(task_id, ()):
                    changed.set()
            case life.AttemptEnded(executor=executor, dispatch=dispatch, reason=reason):
                self._view.dispatch_ended(executor, dispatch)
                remote = executor != self._settings.node_id
                self._metrics.attempt_ended(remote=remote, reason=reason)
            case life.TaskEnded(record=record, attempts=attempts):
                self._task_ended(record, attempts)

    def _obey_hosting(self, instruction: hosted.Instruction) -> None:
        match instruction:
            case hosted.StartDrawing(task_id=task_id, attempt=attempt):
                self._start(self._drawings, (task_id, attempt), self._draw(instruction))
            case hosted.StopDrawing(task_id=task_id, attempt=attempt):
                drawing = self._drawings.get((task_id, attempt))
                if drawing is not None:
                    drawing.cancel()
            case hosted.ReportAttempt(origin=origin):
                self._report(instruction, origin)

    # Carrying out.

    async def _append(self, tasks: tuple[Task, ...]) -> None:
        task_ids = tuple(task.id for task in tasks)
        idempotency = self._idempotency.pop(task_ids[0], None)
        try:
            appended = await self._ledger.append_accepted(
                tasks, job_id=tasks[0].job_id, idempotency=idempotency
            )
        except DEdgeAIError as error:
            self._metrics.tasks_refused(len(tasks), code=error.code)
            self._refusals[task_ids[0]] = error
            self._apply(life.AppendFailed(task_ids=task_ids))
            return
        if isinstance(appended, AlreadyAccepted):
            self._refusals[task_ids[0]] = appended
            self._apply(life.AppendFailed(task_ids=task_ids))
            return
        self._apply(life.TasksAppended(task_ids=task_ids))

    def _answer(self, task_id: TaskId, answer: DEdgeAIError | AlreadyAccepted | None) -> None:
        self._idempotency.pop(task_id, None)
        waiting = self._answers.get(task_id)
        if waiting is None or waiting.done():
            return  # the client hung up before its answer
        if isinstance(answer, DEdgeAIError):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def _count_accepted(self, task_ids: Sequence[TaskId]) -> None:
        now_s = self._clock.now_s()
        for task_id in task_ids:
            record = self._lifecycle.record(task_id)
            if record is not None:
                self._view.task_accepted(record.task.work, now_s=now_s)

    def _place(self, wanted: life.PlaceTask) -> None:
        task, attempt = wanted.task, wanted.attempt
        start_s = self._clock.now_s()
        self._view.state_received(self.own_state(), now_s=start_s)
        self._let_slot_pass(start_s)
        nth = self._memory.place()
        placement = place(
            task,
            avoided=wanted.avoided,
            view=self._view,
            policy=self._policy,
            now_s=start_s,
            recall=lambda node_ids: self._memory.recall(nth, node_ids),
        )
        if placement is None:
            self._apply(life.PlacementImpossible(task_id=task.id, attempt=attempt))
            return
        self._memory.decided(nth, placement.observation.node_ids, placement.decision)
        seconds = self._clock.now_s() - start_s
        self._note_decision(wanted, placement, nth, seconds=seconds)
        self._apply(
            life.PlacementMade(
                task_id=task.id,
                attempt=attempt,
                executor=placement.executor,
                incarnation=self._settings.incarnation,
                dispatch=placement.dispatch,
                policy=placement.decision.policy,
                policy_reason=placement.decision.reason,
                eta_s=placement.eta_s,
            )
        )

    def _note_decision(
        self, wanted: life.PlaceTask, placement: Placement, nth: Place, *, seconds: float
    ) -> None:
        """Everything about a decision that the task does not wait for."""
        seen, decision = placement.observation, placement.decision
        failure = placement.policy_failure
        if failure is not None and type(failure).__name__ not in self._policy_failures:
            self._policy_failures.add(type(failure).__name__)
            log.error("the policy failed; %s decides", decision.policy, exc_info=failure)
        self._metrics.decided(
            policy=decision.policy,
            seconds=seconds,
            staleness_s=float(seen.staleness_s_B[seen.alive_B].max()),
            reason=reason_word(decision.reason),
        )
        if decision.latent_B is not None:
            self._metrics.latent_read(found=seen.latent_B is not None)
        recorded = RecordedDecision(
            decision_id=f"{wanted.task.id}/{wanted.attempt}",
            node_id=self._settings.node_id,
            decided_unix_s=self._clock.unix_s(),
            slot=nth.slot,
            index_in_slot=nth.index,
            steps=wanted.task.drawing.denoising_steps,
            observation=seen,
            decision=decision,
        )
        if isinstance(self._policy, Guard):
            self._policy.note_decision(recorded)
        if self._pool is not None:
            self._pool.note_decision(recorded)

    def _let_slot_pass(self, now_s: float) -> None:
        """Begins a new slot when it is time, and hands what the last one left to the store."""
        former = self._memory.slot
        service_s = partial(self._view.service_s, now_s=now_s)
        left_latents = self._memory.advance(now_s=now_s, service_s=service_s)
        self._metrics.slots_passed(self._memory.slot - former)
        if left_latents and self._latent_store is not None:
            snapshot = self._memory.snapshot(self._moment())
            if snapshot is not None:
                self._latent_store.note(snapshot)

    def _start_attempt(self, executor: NodeId, offload: Offload) -> None:
        if executor == self._settings.node_id:
            self._apply(hosted.OffloadReceived(offload=offload))
        else:
            key = (offload.task_id, offload.attempt)
            self._start(self._offloads, key, self._follow_offload(executor, offload))

    def _stop_attempt(self, executor: NodeId, task_id: TaskId, attempt: int) -> None:
        if executor == self._settings.node_id:
            self._apply(hosted.OffloadCancelled(task_id=task_id, attempt=attempt))
            return
        stream = self._offloads.get((task_id, attempt))
        if stream is not None:
            stream.cancel()
        self._spawn(self._cancel_offload(executor, task_id, attempt))

    async def _cancel_offload(self, executor: NodeId, task_id: TaskId, attempt: int) -> None:
        peer = self._peers.client(executor) if self._peers else None
        if peer is not None:
            # Best effort: a peer that does not answer learns it from the broken stream.
            with contextlib.suppress(DEdgeAIError):
                await peer.cancel_offload(task_id, attempt)

    async def _follow_offload(self, executor: NodeId, offload: Offload) -> None:
        peer = self._peers.client(executor) if self._peers else None
        failure = AttemptFailed(
            code="peer_unreachable", message=f"node {executor} cannot be reached", retryable=True
        )
        ended = answered = False
        if peer is not None:
            try:
                init_image = await self._init_image_of(offload.drawing)
                bits = 8 * len(init_image)
                following = peer.offload(offload, init_image=init_image)
                del init_image  # the call holds it
                start_s = self._clock.now_s()
                async with aclosing(following) as reports:
                    async for report in reports:
                        if not answered and not isinstance(report, AttemptFailed):
                            answered = True
                            seconds = self._clock.now_s() - start_s
                            self._view.offload_answered(executor, input_bits=bits, seconds=seconds)
                        ended = isinstance(report, AttemptFinished | AttemptFailed)
                        self._attempt_reported(executor, offload, report)
            except InitImageGone as error:
                failure = _without_init_image(error, retryable=False)
            except DEdgeAIError as error:
                failure = replace(failure, message=error.message)
            except Exception:
                # Our own bug must not leave the task with a peer that has ended it.
                log.exception("following %s at %s failed", offload.task_id, executor)
        if not ended:
            self._attempt_reported(executor, offload, failure)

    def _attempt_reported(self, executor: NodeId, offload: Offload, report: AttemptReport) -> None:
        self._apply(
            life.AttemptReported(
                task_id=offload.task_id,
                attempt=offload.attempt,
                executor=executor,
                report=report,
            )
        )

    async def _draw(self, start: hosted.StartDrawing) -> None:
        failure: AttemptFailed | None = None
        try:
            drawing = self._worker.draw(
                task_id=start.task_id,
                attempt=start.attempt,
                drawing=start.drawing,
                priority=start.priority,
                init_image=await self._init_image_of(start.drawing),
                deadline_s=start.deadline_s,
            )
            async with aclosing(drawing) as reports:
                async for report in reports:
                    self._drawing_reported(start, report)
        except WorkerUnavailable as error:
            self._worker_doubted_until_s = self._clock.now_s() + WORKER_DOUBT_S
            failure = AttemptFailed(code="worker_lost", message=error.message, retryable=True)
        except InitImageGone as error:
            # What an executor has lost, its origin can send again.
            hosted_for_another = origin_of(start.task_id) != self._settings.node_id
            failure = _without_init_image(error, retryable=hosted_for_another)
        except DEdgeAIError as error:
            failure = AttemptFailed(code=error.code, message=error.message, retryable=True)
        except Exception:
            # Our own bug must not leave the attempt hosted for ever.
            log.exception("drawing %s failed", start.task_id)
        if failure is None:
            # Of an attempt that has ended this is not heard any more.
            message = "The worker ended the drawing without a result."
            failure = AttemptFailed(code="worker_lost", message=message, retryable=True)
        self._drawing_reported(start, failure)

    def _drawing_reported(self, start: hosted.StartDrawing, report: AttemptReport) -> None:
        event = hosted.DrawingReported(task_id=start.task_id, attempt=start.attempt, report=report)
        self._apply(event)

    def _report(self, instruction: hosted.ReportAttempt, origin: NodeId) -> None:
        task_id, attempt, report = instruction.task_id, instruction.attempt, instruction.report
        if origin == self._settings.node_id:
            event = life.AttemptReported(
                task_id=task_id, attempt=attempt, executor=origin, report=report
            )
            self._apply(event)
            return
        reports = self._reports.get((task_id, attempt))
        if reports is not None:
            reports.put_nowait(report)

    async def _store_image(self, wanted: life.StoreImage) -> None:
        task_id, attempt = wanted.task_id, wanted.attempt
        try:
            await self._images.write(task_id, wanted.image)
        except (OSError, ValueError) as error:
            log.exception("image of %s not stored", task_id)
            message = f"The image was drawn and could not be stored: {error}."
            self._apply(life.ImageStoreFailed(task_id=task_id, attempt=attempt, message=message))
            return
        size = len(wanted.image.content)
        self._apply(life.ImageStored(task_id=task_id, attempt=attempt, image_bytes=size))

    async def _record_final(self, record: TaskRecord) -> None:
        try:
            await self._ledger.append_final(record)
        except StoreUnavailable:
            log.warning("store away: the end of %s is held and written later", record.task.id)
        self._apply(life.FinalRecorded(task_id=record.task.id))

    def _task_ended(self, record: TaskRecord, attempts: Sequence[int]) -> None:
        completed = record.status is TaskStatus.COMPLETED
        assert record.finished_unix_s is not None
        delay_s = record.finished_unix_s - record.task.created_unix_s
        self._metrics.task_ended(
            status=record.status.value,
            code="" if record.error is None else record.error.code,
            remote=record.executor != self._settings.node_id,
            service_delay_s=delay_s,
            queue_s=record.queue_s,
            compute_s=record.compute_s,
        )
        if record.status is TaskStatus.CANCELLED:
            return
        for attempt in attempts:
            outcome = Outcome(
                decision_id=f"{record.task.id}/{attempt}",
                service_delay_s=delay_s if completed else FAILURE_PENALTY_S,
                completed=completed,
            )
            self._policy.record(outcome)
            if self._pool is not None:
                self._pool.note_outcome(outcome)

    # Time and state.

    async def _let_time_pass(self) -> None:
        settings = self._settings
        observe_due_s = renewal_due_s = 0.0
        while True:
            now_s = self._clock.now_s()
            alive = frozenset(
                n for n in self._view.node_ids() if self._view.is_alive(n, now_s=now_s)
            )
            for lost in sorted(self._alive - alive):
                log.warning("node %s fell silent; its attempts are placed again", lost)
                self._apply(life.PeerFailed(node_id=lost))
            self._alive = alive
            self._apply(life.ClockAdvanced())
            self._move_waiting(now_s, alive)
            self._let_slot_pass(now_s)
            if now_s >= renewal_due_s:
                renewal_due_s = now_s + settings.lease_s / LEASE_RENEWALS
                self._apply(hosted.HeartbeatDue())
            if now_s >= observe_due_s:
                observe_due_s = now_s + settings.heartbeat_s
                self._observe()
            await asyncio.sleep(settings.tick_s)

    def _move_waiting(self, now_s: float, alive: frozenset[NodeId]) -> None:
        """Moves a task that waits to a node that would draw it sooner, in this node's turn."""
        settings = self._settings
        nodes = sorted(alive | {settings.node_id})
        if not settings.move_waiting or len(nodes) == 1:
            return
        unix_s = self._clock.unix_s()
        if is_turn(settings.node_id, nodes, unix_s=unix_s, turn_s=settings.tick_s):
            task_id = task_to_move(self._lifecycle.waiting(), view=self._view, now_s=now_s)
            if task_id is not None:
                self._apply(life.MoveRequested(task_id=task_id))

    def _observe(self) -> None:
        """Gauges, once per heartbeat."""
        views = self._view.views(now_s=self._clock.now_s())
        others = [v for v in views if v.state.node_id != self._settings.node_id]
        own = self.own_state()
        guard = self.guard_status()
        if guard is not None:
            worse = None if guard.verdict is None else guard.verdict.worse
            self._metrics.guarded(learned_share=guard.learned_share, worse=worse)
        self._metrics.state_observed(
            backlog=own.backlog,
            capacity=own.capacity,
            peers_alive=sum(view.alive for view in others),
            staleness_s=max((v.staleness_s for v in others if v.alive), default=0.0),
            tasks_in_flight=self._lifecycle.in_flight,
            worker_ready=self._worker.ready,
            store_available=self._ledger.available,
        )

    def _state_changed(self) -> None:
        self._sequence += 1
        self._changed_s = self._clock.now_s()
        fingerprint = self._described.model_fingerprint
        self._shown = (self._accepting(), fingerprint, self._capacity())
        self._view.state_received(self.own_state(), now_s=self._clock.now_s())
        if self._peers is not None:
            self._peers.push_state()

    def _capacity(self) -> float:
        load = self._worker.load
        return self._described.capacity if load is None else load.capacity

    def _accepting(self) -> bool:
        doubted = self._clock.now_s() < self._worker_doubted_until_s
        return self._worker.ready and not self._draining and not doubted

    # Small parts.

    def _new_tasks(
        self,
        drawings: Sequence[Drawing],
        *,
        durable: bool,
        init_image_bytes: int,
        deadline_s: float | None,
        priority: int,
    ) -> tuple[Task, ...]:
        if self._draining:
            raise NodeNotReady("This node is being stopped. Ask another node.", retry_after_s=5.0)
        if not self._described.model:
            raise NodeNotReady("The model is still being loaded.", retry_after_s=2.0)
        now_unix_s = self._clock.unix_s()
        prefix = self._settings.node_id
        job_id = JobId(f"{prefix}-{ULID()}") if len(drawings) > 1 else None
        durability = Durability.DISK
        if not durable:
            away = not self._ledger.available
            durability = Durability.NONE if away else Durability.JOURNALLED
        return tuple(
            Task(
                id=TaskId(f"{prefix}-{ULID()}"),
                job_id=job_id,
                drawing=drawing,
                work=self._described.work_model.work(drawing),
                input_bits=8
                * (len((drawing.prompt + drawing.negative_prompt).encode()) + init_image_bytes),
                created_unix_s=now_unix_s,
                deadline_unix_s=now_unix_s + (deadline_s or self._settings.deadline_s_default),
                priority=priority,
                durability=durability,
            )
            for drawing in drawings
        )

    def _admit(self, tasks: tuple[Task, ...]) -> None:
        backlog, capacity = self._view.backlog_and_capacity(now_s=self._clock.now_s())
        refusal = admit(
            works=tuple(task.work for task in tasks),
            in_flight=self._lifecycle.in_flight,
            backlog=backlog,
            capacity=capacity,
            limits=self._settings.admission,
        )
        if refusal is not None:
            self._metrics.tasks_refused(len(tasks))
            raise AdmissionRefused(refusal.message, retry_after_s=refusal.retry_after_s)

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

    async def _init_image_of(self, drawing: Drawing) -> bytes:
        sha256 = drawing.init_image_sha256
        return await self._init_images.read(sha256) if sha256 else b""

    def _remember_job(self, tasks: tuple[Task, ...]) -> None:
        if tasks[0].job_id is not None:
            self._jobs[tasks[0].job_id] = tuple(task.id for task in tasks)
            while len(self._jobs) > JOBS_KEPT_MAX:
                self._jobs.popitem(last=False)

    def _moment(self) -> Moment:
        return Moment(now_s=self._clock.now_s(), unix_s=self._clock.unix_s())

    def _start(
        self,
        running: dict[tuple[TaskId, int], asyncio.Task[None]],
        key: tuple[TaskId, int],
        coroutine: Coroutine[Any, Any, None],
    ) -> None:
        task = asyncio.create_task(coroutine)
        running[key] = task
        task.add_done_callback(lambda _: running.pop(key, None))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background_ended)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("a background task of the dispatcher failed", exc_info=bug)


def _without_init_image(error: InitImageGone, *, retryable: bool) -> AttemptFailed:
    return AttemptFailed(code=error.code, message=error.message, retryable=retryable)


def _final_event(record: TaskRecord) -> TaskEvent:
    """Where a task stands that only the ledger remembers; almost always its end."""
    kinds = {
        TaskStatus.COMPLETED: TaskEventKind.FINISHED,
        TaskStatus.FAILED: TaskEventKind.FAILED,
        TaskStatus.CANCELLED: TaskEventKind.CANCELLED,
    }
    return TaskEvent(
        sequence=1,
        kind=kinds.get(record.status, TaskEventKind.QUEUED),
        unix_s=record.finished_unix_s or record.task.created_unix_s,
        attempt=record.attempt,
        executor=record.executor,
        step=record.step,
        steps=record.task.drawing.denoising_steps,
        error=record.error,
    )
