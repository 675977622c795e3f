"""A front door that keeps everything in memory and draws placeholders at once or on request."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from edge_node.domain import (
    Drawing,
    Durability,
    JobId,
    NodeId,
    NodeState,
    Task,
    TaskError,
    TaskEvent,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.erasure import erased
from edge_node.errors import (
    DEdgeAIError,
    IdempotencyConflict,
    ImageNotReady,
    ModelNotFound,
    NodeAlive,
    NodeNotFound,
    NodeNotReady,
    TaskNotFound,
    not_served,
)
from edge_node.happenings import ClusterEvent
from edge_node.listing import Cancelled, ClusterPage, Missing, Place, TaskFilter, newest
from edge_node.prompt_tokens import NOT_COUNTED
from edge_node.requests import DrawingLimits, Idempotency, NodeAction, Submission
from edge_node.snapshot import ClusterSnapshot, PeerView

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)

LIMITS = DrawingLimits(
    model="tiny-sd3",
    fingerprint="f",
    size_px_min=32,
    size_px_max=128,
    size_px_multiple=16,
    size_px_default=64,
    steps_max=50,
    steps_default=4,
    guidance_scale_max=30.0,
    guidance_scale_default=5.0,
    strength_default=0.6,
    prompt_chars_max=200,
    images_per_request_max=10,
    deadline_s_max=600.0,
)

ENDS = {
    TaskStatus.COMPLETED: TaskEventKind.FINISHED,
    TaskStatus.FAILED: TaskEventKind.FAILED,
    TaskStatus.CANCELLED: TaskEventKind.CANCELLED,
}


class MemoryFrontDesk:
    """`held` tasks wait for `finish`; prompts with "fails" fail."""

    def __init__(self, *, held: bool = False, ready: bool = True) -> None:
        self.held = held
        self.ready = ready
        self.stuck: tuple[str, ...] = ()
        self.noted: tuple[str, ...] = ()
        self.served = {LIMITS.model: LIMITS}
        self.refusal: DEdgeAIError | None = None
        self.unforeseen: Exception | None = None
        self.submitted: list[tuple[tuple[Drawing, ...], bool, float | None, int]] = []
        self.init_images: list[bytes] = []
        self.gone: list[TaskId] = []
        self.prompt_tokens = NOT_COUNTED
        self.missing: tuple[Missing, ...] = ()
        self.happening: list[ClusterEvent] = []
        self.followed: list[tuple[dict[NodeId, int], str]] = []
        self.previews_wanted: list[bool] = []
        self.operated: list[NodeAction] = []
        self.removed = False
        self._records: dict[TaskId, TaskRecord] = {}
        self._events: dict[TaskId, list[TaskEvent]] = {}
        self._changed = asyncio.Condition()
        self._jobs: dict[JobId, tuple[TaskId, ...]] = {}
        self._keys: dict[str, tuple[str, Submission]] = {}

    async def submit(
        self,
        drawings: Sequence[Drawing],
        *,
        durable: bool,
        init_image: bytes,
        deadline_s: float | None,
        priority: int,
        idempotency: Idempotency | None,
        client: str,
        turns: str,
    ) -> Submission:
        if self.unforeseen is not None:
            raise self.unforeseen
        if self.refusal is not None:
            raise self.refusal
        earlier = None if idempotency is None else await self.find_submitted(idempotency)
        if earlier is not None:
            return earlier
        self.submitted.append((tuple(drawings), durable, deadline_s, priority))
        self.init_images.append(init_image)
        count = len(self._records)
        job_id = JobId(f"orin-a-01J{count:023d}") if len(drawings) > 1 else None
        durability = Durability.DISK if durable else Durability.JOURNALLED
        records = tuple(
            TaskRecord(
                task=Task(
                    id=TaskId(f"orin-a-01K{count + index:023d}"),
                    job_id=job_id,
                    drawing=drawing,
                    work=1.0,
                    input_bits=1,
                    created_unix_s=time.time(),
                    priority=priority,
                    client=client,
                    turns=turns,
                    durability=durability,
                )
            )
            for index, drawing in enumerate(drawings)
        )
        for record in records:
            self._records[record.task.id] = record
            self._events[record.task.id] = []
            await self.publish(record.task.id, TaskEventKind.QUEUED)
            if not self.held:
                await self.finish(record.task.id)
        submission = Submission(job_id=job_id, records=records, replayed=False)
        if job_id is not None:
            self._jobs[job_id] = tuple(record.task.id for record in records)
        if idempotency is not None:
            self._keys[idempotency.key] = (idempotency.request_digest, submission)
        return submission

    async def find_submitted(self, idempotency: Idempotency) -> Submission | None:
        if idempotency.key not in self._keys:
            return None
        digest, earlier = self._keys[idempotency.key]
        if digest != idempotency.request_digest:
            raise IdempotencyConflict("used before with a different request")
        records = tuple(self._records[record.task.id] for record in earlier.records)
        return replace(earlier, records=records, replayed=True)

    async def finish(self, task_id: TaskId) -> None:
        """Draws a held task: steps with previews, then its end."""
        record = self._records[task_id]
        drawing = record.task.drawing
        for index in range(drawing.previews):
            await self.publish(task_id, TaskEventKind.STEP, step=index + 1, preview=PNG)
        if "fails" in drawing.prompt:
            code = "deadline_exceeded" if "late" in drawing.prompt else "attempts_exhausted"
            await self.end(task_id, TaskStatus.FAILED, TaskError(code=code, message="No luck."))
        else:
            await self.end(task_id, TaskStatus.COMPLETED)

    async def end(
        self, task_id: TaskId, status: TaskStatus, error: TaskError | None = None
    ) -> None:
        self._records[task_id] = replace(
            self._records[task_id],
            status=status,
            executor=NodeId("orin-b"),
            attempt=1,
            finished_unix_s=time.time(),
            error=error,
            prompt_tokens=self.prompt_tokens,
        )
        await self.publish(task_id, ENDS[status], error=error)

    async def publish(
        self,
        task_id: TaskId,
        kind: TaskEventKind,
        *,
        step: int = 0,
        preview: bytes = b"",
        error: TaskError | None = None,
    ) -> None:
        events = self._events[task_id]
        event = TaskEvent(
            sequence=len(events) + 1,
            kind=kind,
            unix_s=time.time(),
            step=step,
            steps=self._records[task_id].task.drawing.denoising_steps,
            preview=preview,
            error=error,
        )
        async with self._changed:
            events.append(event)
            self._changed.notify_all()

    async def read_task(self, task_id: TaskId) -> TaskRecord:
        if task_id not in self._records:
            raise TaskNotFound.of(task_id)
        return self._records[task_id]

    async def read_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        if job_id not in self._jobs:
            raise TaskNotFound.of(job_id)
        return tuple(self._records[task_id] for task_id in self._jobs[job_id])

    async def list_tasks(
        self, wanted: TaskFilter, *, before: Place | None, count: int
    ) -> ClusterPage:
        page = newest(self._records.values(), wanted, before=before, count=count)
        return ClusterPage(page=page, missing=self.missing)

    async def cancel_tasks(self, wanted: TaskFilter) -> Cancelled:
        open_ones = [
            one.task.id
            for one in self._records.values()
            if not one.status.is_final and wanted.wants(one)
        ]
        for task_id in open_ones:
            await self.cancel_task(task_id)
        return Cancelled(count=len(open_ones), missing=self.missing)

    async def cancel_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        for record in await self.read_job(job_id):
            await self.cancel_task(record.task.id)
        return await self.read_job(job_id)

    async def cancel_task(self, task_id: TaskId) -> TaskRecord:
        record = await self.read_task(task_id)
        if not record.status.is_final:
            await self.end(task_id, TaskStatus.CANCELLED)
        return self._records[task_id]

    async def erase_task(self, task_id: TaskId) -> None:
        self._records[task_id] = erased(await self.cancel_task(task_id))

    async def watch_task(
        self, task_id: TaskId, *, after: int = 0
    ) -> AsyncGenerator[TaskEvent, None]:
        await self.read_task(task_id)
        while True:
            async with self._changed:
                while len(self._events[task_id]) <= after:
                    await self._changed.wait()
            event = self._events[task_id][after]
            yield event
            after = event.sequence
            if event.kind.is_final:
                return

    async def watch_cluster(
        self, *, after: Mapping[NodeId, int], client: str, previews: bool
    ) -> AsyncGenerator[ClusterEvent, None]:
        self.followed.append((dict(after), client))
        self.previews_wanted.append(previews)
        for event in self.happening:
            yield event
        await asyncio.Event().wait()

    async def until_final(self, task_id: TaskId) -> TaskRecord:
        async for event in self.watch_task(task_id):
            if event.kind.is_final:
                break
        return self._records[task_id]

    async def read_image(self, task_id: TaskId) -> tuple[bytes, str]:
        record = await self.read_task(task_id)
        if record.status is not TaskStatus.COMPLETED:
            raise ImageNotReady(f"Task {task_id} is {record.status.value}.")
        return PNG, "image/png"

    async def operate(self, node_id: NodeId, action: NodeAction) -> None:
        if node_id != "orin-a":
            raise NodeNotFound(f"There is no node {node_id} that this one has met.")
        self.operated.append(action)

    async def remove(self, node_id: NodeId) -> None:
        if node_id == "orin-a":
            raise NodeAlive(f"Node {node_id} is alive.")
        if node_id != "orin-b":
            raise NodeNotFound(f"There is no node {node_id} that this one has met.")
        self.removed = True

    async def readmit(self, node_id: NodeId) -> None:
        if node_id != "orin-b" or not self.removed:
            raise NodeNotFound(f"There is no node {node_id} that was removed.")
        self.removed = False

    async def client_gone(self, task_ids: Sequence[TaskId]) -> None:
        self.gone += task_ids
        for task_id in task_ids:
            await self.cancel_task(task_id)

    def limits(self, model: str | None = None) -> DrawingLimits:
        if not self.ready:
            raise NodeNotReady("The model is still being loaded.", retry_after_s=1.2)
        name = LIMITS.model if model is None else model
        if name not in self.models():
            raise ModelNotFound(not_served(name, self.models()), param="model")
        return self.served[name]

    def models(self) -> tuple[str, ...]:
        return tuple(sorted(self.served)) if self.ready else ()

    def cluster(self) -> ClusterSnapshot:
        own = NodeState(node_id=NodeId("orin-a"), incarnation=1, sequence=1, accepting=True)
        heard = replace(own, node_id=NodeId("orin-b"), backlog=2.5)
        return ClusterSnapshot(
            node_id=own.node_id,
            policy="random",
            own=own,
            peers=(
                PeerView(address="b:1", state=heard, alive=True, staleness_s=0.1, link_s=0.002),
                PeerView(address="c:1", state=None, alive=False, staleness_s=0.0, link_s=0.0),
            ),
            tasks_in_flight=0,
        )

    async def dead_letters(self) -> list[TaskRecord]:
        return []

    async def retry_dead_letter(self, task_id: TaskId) -> TaskRecord:
        return await self.read_task(task_id)

    node_id = NodeId("orin-a")

    def liveness(self) -> tuple[str, ...]:
        return self.stuck

    def readiness(self) -> tuple[str, ...]:
        return () if self.ready else ("the worker is loading", "the store is away")

    def notes(self) -> tuple[str, ...]:
        return self.noted
