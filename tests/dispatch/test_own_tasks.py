"""What clients of a task's origin are told, and what is written of it, by values."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_node.dispatch import own_tasks, patient_images
from edge_node.dispatch.entrance import EntranceSettings
from edge_node.dispatch.own_tasks import OwnTasks
from edge_node.domain import (
    SEQUENCE_LAST,
    Durability,
    Image,
    JobId,
    Task,
    TaskError,
    TaskEvent,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.errors import (
    AdmissionRefused,
    DEdgeAIError,
    ImageNotReady,
    InitImagesFull,
    NodeNotReady,
    StoreUnavailable,
    TaskNotFound,
)
from edge_node.listing import Place, TaskFilter, TaskPage, newest
from edge_node.requests import AlreadyAccepted, Appended, Idempotency
from edge_node.tasks.admission import AdmissionLimits
from tests.dispatch.one_node import DRAWING, OWN, PNG, SHA256, Device, Node, run
from tests.dispatch.parts import READY, HandClock, text

KEY = Idempotency(key="k", request_digest="d")
TASK = Task(
    id=TaskId("own-9"),
    job_id=None,
    drawing=text(),
    work=5.0,
    input_bits=8,
    created_unix_s=50.0,
)


class ScriptedLedger:
    """A ledger that does as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.available = True
        self.appended: list[tuple[tuple[Task, ...], JobId | None, Idempotency | None]] = []
        self.journalled: list[tuple[tuple[Task, ...], JobId | None]] = []
        self.finals: list[TaskRecord] = []
        self.noted: list[TaskRecord] = []
        self.records: dict[TaskId, TaskRecord] = {}
        self.jobs: dict[JobId, tuple[TaskId, ...]] = {}
        self.says: AlreadyAccepted | Exception | None = None
        self.final_problems: list[Exception] = []
        self.may_append = asyncio.Event()
        self.may_append.set()

    async def append_accepted(
        self, tasks: Sequence[Task], *, job_id: JobId | None, idempotency: Idempotency | None
    ) -> Appended | AlreadyAccepted:
        self.appended.append((tuple(tasks), job_id, idempotency))
        await self.may_append.wait()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says or Appended(task_ids=tuple(task.id for task in tasks), job_id=job_id)

    def journal_accepted(self, tasks: Sequence[Task], *, job_id: JobId | None) -> None:
        self.journalled.append((tuple(tasks), job_id))

    async def append_final(self, record: TaskRecord) -> None:
        self.finals.append(record)
        if self.final_problems:
            raise self.final_problems.pop(0)

    def note(self, record: TaskRecord) -> None:
        self.noted.append(record)

    async def read(self, task_id: TaskId) -> TaskRecord | None:
        return self.records.get(task_id)

    async def read_job(self, job_id: JobId) -> tuple[TaskId, ...] | None:
        return self.jobs.get(job_id)

    async def list_finished(
        self, wanted: TaskFilter, *, before: Place | None, count: int
    ) -> TaskPage:
        if not self.available:
            raise StoreUnavailable("The store is away.")
        return newest(self.records.values(), wanted, before=before, count=count)


class ScriptedImages:
    """Image files in memory, which can be full."""

    def __init__(self) -> None:
        self.kept: dict[TaskId, bytes] = {}
        self.problem: Exception | None = None
        self.shed_bytes: list[int] = []
        self.room_comes: int | None = None

    async def shed(self, bytes_wanted: int) -> int:
        self.shed_bytes.append(bytes_wanted)
        if len(self.shed_bytes) == self.room_comes:
            self.problem = None
        return 0

    async def write(self, task_id: TaskId, image: Image) -> tuple[TaskId, ...]:
        if self.problem is not None:
            raise self.problem
        self.kept[task_id] = image.content
        return ()

    async def read(self, task_id: TaskId) -> tuple[bytes, str]:
        return self.kept[task_id], "image/png"


class Origin(Node):
    """A node on a clock set by hand, whose stores do as they are told."""

    def __init__(self, folder: Path) -> None:
        self.stores, self.images, self.clock = ScriptedLedger(), ScriptedImages(), HandClock()
        super().__init__(folder, stores=self.stores, images=self.images, clock=self.clock)
        self.own_device.description = READY
        self.tasks: OwnTasks = self.dispatcher.own_tasks

    def counted(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(f"dedgeai_{name}", labels)
        return 0.0 if value is None else value

    def admits(self, count: int) -> None:
        limits = AdmissionLimits(tasks_in_flight_max=count)
        self.tasks.settings = replace(
            self.tasks.settings, entrance=EntranceSettings(admission=limits)
        )

    async def until(self, task_id: TaskId, status: TaskStatus) -> TaskRecord:
        while (record := await self.tasks.read_task(task_id)).status is not status:
            await asyncio.sleep(0.001)
        return record


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path)


def test_a_job_is_accepted_whole_as_it_was_asked_for(origin: Origin) -> None:
    async def story() -> None:
        await origin.start()
        origin.own_device.held = True
        drawings = [text(), replace(text(), steps=8, negative_prompt="ü")]
        submission = await origin.tasks.submit(
            drawings, durable=True, deadline_s=30.0, priority=2, idempotency=KEY
        )
        (written,) = origin.stores.appended
        tasks, job_id, key = written
        assert (job_id, key, submission.replayed) == (submission.job_id, KEY, False)
        assert job_id is not None
        assert job_id.startswith("own-")
        assert [record.task for record in submission.records] == list(tasks)
        assert len({task.id for task in tasks}) == 2
        first, second = tasks
        assert first == Task(
            id=first.id,
            job_id=job_id,
            drawing=text(),
            work=5.0,
            input_bits=32,
            created_unix_s=5100.0,
            deadline_unix_s=5130.0,
            priority=2,
            durability=Durability.DISK,
        )
        assert (second.work, second.input_bits) == (9.0, 48)
        assert origin.counted("tasks_accepted_total") == 2.0
        origin.clock.time_s += 1.0
        assert sum(origin.view.accepted_work_s(now_s=origin.clock.now_s()).values()) > 0.0
        assert [r.task for r in await origin.tasks.read_job(job_id)] == list(tasks)
        assert origin.tasks.in_flight == 2

    run(origin, story)


@pytest.mark.parametrize(
    ("available", "durability"), [(True, Durability.JOURNALLED), (False, Durability.NONE)]
)
def test_a_synchronous_task_is_journalled_where_the_store_is_there(
    origin: Origin, available: bool, durability: Durability
) -> None:
    origin.stores.available = available

    async def story() -> None:
        await origin.start()
        submission = await origin.tasks.submit([text()], durable=False)
        (record,) = submission.records
        assert submission.job_id is record.task.job_id is None
        assert record.task.durability is durability
        assert record.task.deadline_unix_s == 5200.0
        journalled = [((record.task,), None)] if available else []
        assert origin.stores.journalled == journalled
        assert origin.stores.appended == []
        await origin.until(record.task.id, TaskStatus.COMPLETED)
        assert bool(origin.stores.noted) is available
        assert origin.stores.finals == []

    run(origin, story)


def test_a_node_that_loads_or_drains_says_when_to_ask_again(origin: Origin) -> None:
    async def story() -> None:
        with pytest.raises(NodeNotReady) as refused:
            await origin.tasks.submit([text()], durable=True)
        assert refused.value.retry_after_s == 2.0
        await origin.start()
        origin.dispatcher.own_node.drain()
        with pytest.raises(NodeNotReady) as refused:
            await origin.tasks.submit([text()], durable=True)
        assert refused.value.retry_after_s == 5.0
        assert origin.stores.appended == []

    run(origin, story)


def test_a_full_node_refuses_at_once_and_counts_it(origin: Origin) -> None:
    async def story() -> None:
        await origin.start()
        with pytest.raises(AdmissionRefused) as refused:
            await origin.tasks.submit([text()] * 3, durable=True)
        assert refused.value.retry_after_s is not None
        assert origin.counted("tasks_refused_total", code="queue_full") == 3.0
        assert origin.counted("tasks_accepted_total") == 0.0
        assert origin.stores.appended == []

    run(origin, story)


@pytest.mark.parametrize(
    ("problem", "code"),
    [(StoreUnavailable("away"), "store_unavailable"), (RuntimeError("bug"), "internal_error")],
)
def test_what_the_ledger_cannot_take_is_refused_and_forgotten(
    origin: Origin, problem: Exception, code: str
) -> None:
    origin.stores.says = problem

    async def story() -> None:
        await origin.start()
        with pytest.raises(DEdgeAIError) as refused:
            await origin.tasks.submit([text()] * 2, durable=True, idempotency=KEY)
        assert refused.value.code == code
        assert origin.counted("tasks_refused_total", code=code) == 2.0
        assert origin.tasks.in_flight == 0
        assert origin.own_device.asked == []
        check_nothing_is_kept(origin.tasks)

    run(origin, story)


def check_nothing_is_kept(tasks: OwnTasks) -> None:
    """Of requests that have been answered."""
    kept = (tasks._answers, tasks._idempotency, tasks._refusals, tasks._watchers, tasks._ends)
    assert [len(one) for one in kept] == [0] * 5


def test_a_request_that_came_before_gets_the_tasks_it_got_then(origin: Origin) -> None:
    done = TaskRecord(task=TASK, status=TaskStatus.COMPLETED)
    origin.stores.records[TASK.id] = done
    origin.stores.says = AlreadyAccepted(task_ids=(TASK.id,), job_id=JobId("own-8"))

    async def story() -> None:
        await origin.start()
        submission = await origin.tasks.submit([text()], durable=True, idempotency=KEY)
        assert (submission.replayed, submission.records) == (True, (done,))
        assert submission.job_id == "own-8"
        assert origin.counted("tasks_accepted_total") == 0.0
        assert origin.tasks.in_flight == 0
        check_nothing_is_kept(origin.tasks)

    run(origin, story)


def test_a_client_that_hangs_up_before_its_answer_leaves_nothing_behind(
    origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        await origin.start()
        origin.stores.may_append.clear()
        asking = asyncio.create_task(origin.tasks.submit([text()], durable=True, idempotency=KEY))
        while not origin.stores.appended:
            await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        origin.stores.may_append.set()
        ((task,), _, _) = origin.stores.appended[0]
        # It was accepted, and is drawn.
        while origin.stores.records.get(task.id) is None and not origin.stores.finals:
            await asyncio.sleep(0.001)
        check_nothing_is_kept(origin.tasks)

    run(origin, story)
    assert not caplog.records


def test_what_is_being_written_ends_with_the_node(origin: Origin) -> None:
    async def story() -> None:
        await origin.start()
        origin.stores.may_append.clear()
        asking = asyncio.create_task(origin.tasks.submit([text()], durable=True))
        while not origin.stores.appended:
            await asyncio.sleep(0.001)
        await origin.tasks.stop()
        running = asyncio.all_tasks() - {asyncio.current_task(), asking}
        assert not [one for one in running if "append" in repr(one)]
        asking.cancel()

    run(origin, story)


def test_what_was_never_accepted_is_not_found(origin: Origin) -> None:
    origin.stores.records[TASK.id] = record = TaskRecord(task=TASK)
    origin.stores.jobs[JobId("own-8")] = (TASK.id,)

    async def story() -> None:
        assert await origin.tasks.read_task(TASK.id) is record
        assert await origin.tasks.read_job(JobId("own-8")) == (record,)
        with pytest.raises(TaskNotFound):
            await origin.tasks.read_task(TaskId("own-0"))
        with pytest.raises(TaskNotFound):
            await origin.tasks.read_job(JobId("own-0"))

    run(origin, story)


def test_only_recent_jobs_are_remembered(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_tasks.JOBS_KEPT_MAX == 2000
    monkeypatch.setattr(own_tasks, "JOBS_KEPT_MAX", 2)
    origin.admits(100)

    async def story() -> None:
        await origin.start()
        jobs = []
        for _ in range(3):
            submission = await origin.tasks.submit([text()] * 2, durable=True)
            assert submission.job_id is not None
            jobs.append(submission.job_id)
        await origin.tasks.submit([text()], durable=True)  # no job
        with pytest.raises(TaskNotFound):  # only the ledger would know
            await origin.tasks.read_job(jobs[0])
        assert [len(await origin.tasks.read_job(job)) for job in jobs[1:]] == [2, 2]

    run(origin, story)


def test_a_cancel_waits_for_the_end_and_changes_none(origin: Origin) -> None:
    async def story() -> None:
        await origin.start()
        origin.own_device.held = True
        task_id = await origin.submit(text(), b"")
        record = await origin.tasks.cancel(task_id)
        assert record.status is TaskStatus.CANCELLED
        assert (await origin.tasks.cancel(task_id)) == record
        assert [one.status for one in origin.stores.finals] == [TaskStatus.CANCELLED]
        assert origin.counted("tasks_finished_total", status="cancelled", code="") == 1.0
        check_nothing_is_kept(origin.tasks)
        with pytest.raises(ImageNotReady):
            await origin.tasks.read_image(task_id)

    run(origin, story)


def test_a_cancel_that_comes_too_late_leaves_the_image(origin: Origin) -> None:
    async def story() -> None:
        await origin.start()
        origin.stores.may_append.set()
        task_id = await origin.submit(text(), b"")
        await origin.until(task_id, TaskStatus.COMPLETED)
        assert (await origin.tasks.cancel(task_id)).status is TaskStatus.COMPLETED
        assert await origin.tasks.read_image(task_id) == (b"drawn", "image/png")

    run(origin, story)


def test_nobody_wants_what_a_synchronous_client_had_asked_for(origin: Origin) -> None:
    async def story() -> None:
        await origin.start()
        origin.own_device.held = True
        submission = await origin.tasks.submit([text()] * 2, durable=False)
        ids = [record.task.id for record in submission.records]
        origin.tasks.client_gone(ids)
        for task_id in ids:
            await origin.until(task_id, TaskStatus.CANCELLED)
        assert origin.tasks.in_flight == 0

    run(origin, story)


def test_a_watcher_sees_every_event_once_and_then_the_stream_ends(origin: Origin) -> None:
    async def story() -> None:
        await origin.start()
        origin.own_device.held = True
        task_id = await origin.submit(text(), b"")
        seen: list[TaskEvent] = []

        async def watch() -> None:
            async for event in origin.tasks.watch(task_id, after=0):
                seen.append(event)

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.01)
        origin.own_device.held = False
        await watching
        assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
        assert seen[-1].kind is TaskEventKind.FINISHED
        after = seen[1].sequence
        assert [e async for e in origin.tasks.watch(task_id, after=after)] == seen[2:]
        assert [e async for e in origin.tasks.watch(task_id, after=len(seen))] == []
        check_nothing_is_kept(origin.tasks)

    run(origin, story)


def test_who_waits_for_the_end_alone_hears_of_it_once_all_are_told(origin: Origin) -> None:
    async def story() -> None:
        await origin.start()
        origin.own_device.held = True
        task_id = await origin.submit(text(), b"")
        waiting = [asyncio.create_task(origin.tasks.until_final(task_id)) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(one.done() for one in waiting)
        waiting[1].cancel()
        origin.stores.final_problems = [RuntimeError("a bug")] * 3
        origin.own_device.held = False
        await origin.until(task_id, TaskStatus.COMPLETED)  # and its end is not written yet
        late = asyncio.create_task(origin.tasks.until_final(task_id))
        await asyncio.sleep(0.01)
        assert not any(one.done() for one in (waiting[0], waiting[2], late))
        for one in (waiting[0], waiting[2], late):
            assert (await one).status is TaskStatus.COMPLETED
        assert (await origin.tasks.until_final(task_id)).image_bytes == 5
        with pytest.raises(TaskNotFound):
            await origin.tasks.until_final(TASK.id)
        check_nothing_is_kept(origin.tasks)

    run(origin, story)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (TaskStatus.COMPLETED, TaskEventKind.FINISHED),
        (TaskStatus.FAILED, TaskEventKind.FAILED),
        (TaskStatus.CANCELLED, TaskEventKind.CANCELLED),
        (TaskStatus.QUEUED, TaskEventKind.QUEUED),
    ],
)
def test_of_a_task_that_only_the_ledger_knows_the_end_is_told(
    origin: Origin, status: TaskStatus, kind: TaskEventKind
) -> None:
    error = TaskError(code="c", message="m") if status is TaskStatus.FAILED else None
    record = TaskRecord(
        task=TASK,
        status=status,
        executor=OWN,
        attempt=3,
        step=4,
        error=error,
        finished_unix_s=77.0 if status.is_final else None,
    )
    origin.stores.records[TASK.id] = record

    async def story() -> None:
        (told,) = [event async for event in origin.tasks.watch(TASK.id, after=0)]
        assert told == TaskEvent(
            sequence=SEQUENCE_LAST,
            kind=kind,
            unix_s=77.0 if status.is_final else 50.0,
            attempt=3,
            executor=OWN,
            step=4,
            steps=4,
            error=error,
        )

    run(origin, story)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 60.0 < sum(patient_images.STORE_AGAIN_S) < 61.0
    monkeypatch.setattr(patient_images, "STORE_AGAIN_S", (0.001, 0.001, 0.001))


def test_an_image_waits_for_room_that_old_ones_make(origin: Origin, impatient: None) -> None:
    origin.images.problem, origin.images.room_comes = OSError(28, "no space left"), 2

    async def story() -> None:
        await origin.start()
        task_id = await origin.submit(text(), b"")
        await origin.until(task_id, TaskStatus.COMPLETED)
        assert origin.images.shed_bytes == [4 * len(origin.images.kept[task_id])] * 2

    run(origin, story)


@pytest.mark.parametrize("problem", [RuntimeError("a bug"), OSError(28, "no space left")])
def test_too_many_images_do_not_wait(
    origin: Origin, impatient: None, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    monkeypatch.setattr(patient_images, "HELD_BYTES_MAX", 3)
    origin.images.problem = problem

    async def story() -> None:
        await origin.start()
        await origin.until(await origin.submit(text(), b""), TaskStatus.FAILED)
        assert origin.images.shed_bytes == []

    run(origin, story)


def test_an_image_that_cannot_be_stored_fails_its_task_and_says_why(
    origin: Origin, impatient: None
) -> None:
    origin.images.problem = OSError(28, "no space left")

    async def story() -> None:
        await origin.start()
        record = await origin.tasks.until_final(await origin.submit(text(), b""))
        assert record.error is not None
        assert record.error.code == "image_store_failed"
        assert "no space left" in record.error.message
        failed = {"status": "failed", "code": "image_store_failed"}
        assert origin.counted("tasks_finished_total", **failed) == 1.0

    run(origin, story)


def test_an_image_that_is_stored_has_its_size_and_its_delay(origin: Origin) -> None:
    async def story() -> None:
        await origin.start()
        origin.own_device.held = True
        task_id = await origin.submit(text(), b"")
        origin.clock.time_s += 3.0
        origin.own_device.held = False
        record = await origin.until(task_id, TaskStatus.COMPLETED)
        assert (record.image_bytes, record.service_delay_s) == (5, 3.0)
        assert [one.task.id for one in origin.stores.finals] == [task_id]
        local = {"executor": "local"}
        assert origin.counted("service_delay_seconds_sum", **local) == 3.0
        assert origin.counted("compute_seconds_sum", **local) == 0.1
        assert origin.counted("queue_seconds_count", **local) == 1.0

    run(origin, story)


@pytest.mark.parametrize(
    ("problems", "tries"),
    [
        ([StoreUnavailable("away")], 1),
        ([RuntimeError("a bug")], 2),
        ([RuntimeError("a bug")] * 9, 3),
    ],
)
def test_an_end_that_cannot_be_written_is_not_waited_for_for_ever(
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    problems: list[Exception],
    tries: int,
) -> None:
    assert own_tasks.RECORD_AGAIN_S == (0.1, 0.5, 2.0, 5.0)
    monkeypatch.setattr(own_tasks, "RECORD_AGAIN_S", (0.001, 0.002))
    origin.stores.final_problems = list(problems)

    async def story() -> None:
        await origin.start()
        record = await origin.until(await origin.submit(text(), b""), TaskStatus.COMPLETED)
        while origin.tasks.in_flight:
            await asyncio.sleep(0.001)
        assert len(origin.stores.finals) == tries
        assert (await origin.tasks.read_task(record.task.id)).status is TaskStatus.COMPLETED

    run(origin, story)


def test_an_init_image_is_kept_until_the_deadline_or_refused_and_counted(
    origin: Origin,
) -> None:
    kept: list[tuple[str, bytes, float | None]] = []

    async def note(sha256: str, content: bytes, *, needed_until_unix_s: float | None) -> None:
        kept.append((sha256, content, needed_until_unix_s))
        if len(kept) > 1:
            raise InitImagesFull("full", retry_after_s=1.0)

    origin.init_images.write = note  # type: ignore[method-assign]

    async def story() -> None:
        await origin.start()
        origin.own_device.held = True
        asked: Any = {"durable": True, "init_image": PNG, "deadline_s": 20.0}
        await origin.tasks.submit([DRAWING], **asked)
        assert kept == [(SHA256, PNG, 5120.0)]
        with pytest.raises(InitImagesFull):
            await origin.tasks.submit([DRAWING], **asked)
        assert origin.counted("tasks_refused_total", code="init_images_full") == 1.0
        assert origin.tasks.in_flight == 1

    run(origin, story)


def test_the_device_is_asked_of_its_own_model(origin: Origin) -> None:
    """The work of a task is by the work model of the worker that was last ready."""
    assert isinstance(origin.own_device, Device)

    async def story() -> None:
        await origin.start()
        model = replace(READY.work_model, fixed_steps=3.0)
        origin.own_device.description = replace(READY, work_model=model)
        origin.dispatcher.own_node.worker_changed()
        submission = await origin.tasks.submit([text()], durable=True)
        assert submission.records[0].task.work == 7.0

    run(origin, story)
