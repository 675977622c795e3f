"""The executor's side: what is taken, refused, drawn, given back and told, by values."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_node.dispatch.executor import Executor
from edge_node.dispatch.told_reports import ToldReports
from edge_node.domain import (
    AttemptFailed,
    AttemptQueued,
    AttemptReport,
    AttemptStarted,
    Fence,
    TaskId,
)
from edge_node.errors import InvalidRequest, WorkerUnavailable
from edge_node.store.init_images import InitImages
from edge_node.tasks import hosting as hosted
from edge_node.tasks.hosting import Hosting, HostingLimits
from tests.dispatch.one_node import DONE, OFFLOAD, PNG, SHA256
from tests.dispatch.parts import HandClock, Heard, SetWorker, own_node, text, turns

OFFERED = replace(OFFLOAD, drawing=text())
ID, FENCE = OFFERED.task_id, OFFERED.fence
RECEIVED = hosted.OffloadReceived(offload=OFFERED, now_s=100.0)
CANCELLED = hosted.OffloadCancelled(task_id=ID, fence=FENCE)
START = hosted.StartDrawing(
    task_id=ID, fence=FENCE, drawing=OFFERED.drawing, priority=3, deadline_s=9.0, client="alice"
)


class Drawn:
    """An executor over a scripted worker."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.heard, self.worker = HandClock(), Heard(), SetWorker()
        self.hosting = Hosting(HostingLimits())
        self.init_images = InitImages(folder, bytes_max=1000, keep_s_max=1000.0, clock=self.clock)
        inbox: Any = self.heard
        self.node = own_node(self.clock, self.worker, hosting=self.hosting)
        self.executor = Executor(
            node=self.node,
            inbox=inbox,
            hosting=self.hosting,
            worker=self.worker,
            init_images=self.init_images,
            clock=self.clock,
        )

    def reports(self) -> list[AttemptReport]:
        """What was heard of the worker; what comes after an end is not heard by the machine."""
        for event in self.heard:
            assert isinstance(event, hosted.DrawingReported)
            assert (event.task_id, event.fence) == (ID, FENCE)
        return [event.report for event in self.heard]


def run(drawn: Drawn, story: Callable[[], Awaitable[None]]) -> None:
    async def life() -> None:
        async with asyncio.timeout(5):
            await drawn.init_images.start()
            await story()
            await drawn.executor.stop()

    asyncio.run(life())


def test_an_attempt_is_taken_and_what_happens_to_it_is_told(tmp_path: Path) -> None:
    drawn = Drawn(tmp_path)

    async def story() -> None:
        reports = await drawn.executor.host(OFFERED)
        assert drawn.heard == [RECEIVED]
        assert reports.empty()
        drawn.executor.report(ID, FENCE, AttemptStarted())
        drawn.executor.report(ID, Fence(1, 9), DONE)  # of an attempt that nobody listens to
        assert reports.get_nowait() == AttemptStarted()
        assert reports.empty()

    run(drawn, story)


@pytest.mark.parametrize("why", ["not_accepting", "stale_attempt"])
def test_what_cannot_be_taken_is_refused_and_no_machine_hears_of_it(
    tmp_path: Path, why: str
) -> None:
    drawn = Drawn(tmp_path)

    async def story() -> None:
        first = await drawn.executor.host(OFFERED)
        drawn.hosting.handle(RECEIVED)
        drawn.heard.clear()
        offered = OFFERED
        if why == "not_accepting":
            drawn.node.drain()
            offered = replace(OFFERED, task_id=TaskId("peer-2"))
        reports = await drawn.executor.host(offered)
        message = "Node own cannot take the task."
        assert reports.get_nowait() == AttemptFailed(code=why, message=message, retryable=True)
        assert drawn.heard == []
        # The first listener goes on hearing of its attempt.
        drawn.executor.report(ID, FENCE, DONE)
        assert first.get_nowait() == DONE

    run(drawn, story)


def test_an_origin_that_hangs_up_gives_the_attempt_back_once(tmp_path: Path) -> None:
    drawn = Drawn(tmp_path)

    async def story() -> None:
        reports = await drawn.executor.host(OFFERED)
        drawn.heard.clear()
        drawn.executor.unhost(ID, FENCE, ToldReports())  # somebody else's
        assert drawn.heard == []
        drawn.executor.unhost(ID, FENCE, reports)
        drawn.executor.unhost(ID, FENCE, reports)
        assert drawn.heard == [CANCELLED]
        drawn.executor.report(ID, FENCE, DONE)
        assert reports.empty()

    run(drawn, story)


def test_an_origin_that_cancels_still_hears_the_rest(tmp_path: Path) -> None:
    drawn = Drawn(tmp_path)

    async def story() -> None:
        reports = await drawn.executor.host(OFFERED)
        drawn.heard.clear()
        drawn.executor.cancel_hosted(ID, FENCE)
        assert drawn.heard == [CANCELLED]
        drawn.executor.report(ID, FENCE, DONE)
        assert reports.get_nowait() == DONE

    run(drawn, story)


def test_the_worker_is_asked_for_all_and_its_reports_are_heard(tmp_path: Path) -> None:
    drawn = Drawn(tmp_path)
    drawn.worker.reports = [AttemptStarted(), DONE]

    async def story() -> None:
        drawn.executor.start_drawing(START)
        await turns()
        assert drawn.reports()[:2] == [AttemptStarted(), DONE]
        (asked,) = drawn.worker.asked
        assert asked == {
            "age_s": 0.0,
            "task_id": ID,
            "fence": FENCE,
            "drawing": OFFERED.drawing,
            "priority": 3,
            "init_image": b"",
            "deadline_s": 9.0,
            "client": "alice",
            "checkpoint_steps": 0,
            "checkpoint": None,
        }
        assert drawn.worker.closed == 1

    run(drawn, story)


NO_RESULT = "The worker ended the drawing without a result."


@pytest.mark.parametrize(
    ("problem", "failure", "doubted"),
    [
        (None, AttemptFailed(code="worker_lost", message=NO_RESULT, retryable=True), False),
        (
            WorkerUnavailable("it died"),
            AttemptFailed(code="worker_died", message="it died", retryable=True),
            True,
        ),
        (
            InvalidRequest("too large"),
            AttemptFailed(code="invalid_request", message="too large", retryable=True),
            False,
        ),
        (
            RuntimeError("a bug"),
            AttemptFailed(code="worker_lost", message=NO_RESULT, retryable=True),
            False,
        ),
    ],
)
def test_a_drawing_that_ends_without_a_result_is_a_failed_attempt(
    tmp_path: Path, problem: Exception | None, failure: AttemptFailed, doubted: bool
) -> None:
    drawn = Drawn(tmp_path)
    drawn.worker.reports = [AttemptStarted(), *([problem] if problem else [])]

    async def story() -> None:
        drawn.executor.start_drawing(START)
        await turns()
        assert drawn.reports() == [AttemptStarted(), failure]
        assert drawn.node.accepting is not doubted

    run(drawn, story)


def test_a_drawing_that_is_stopped_is_taken_from_the_worker_and_heard_no_more(
    tmp_path: Path,
) -> None:
    drawn = Drawn(tmp_path)
    drawn.worker.reports = [AttemptQueued(position=1) for _ in range(1000)]

    async def story() -> None:
        drawn.executor.start_drawing(START)
        await turns(10)
        drawn.executor.stop_drawing(ID, Fence(1, 9))  # another one
        await turns(10)
        assert drawn.worker.closed == 0
        drawn.executor.stop_drawing(ID, FENCE)
        await turns(10)
        heard = len(drawn.heard)
        assert drawn.worker.closed == 1
        await turns(10)
        assert 0 < len(drawn.heard) == heard < 1000

    run(drawn, story)


@pytest.mark.parametrize(("deadline_s", "until_unix_s"), [(60.0, 5160.0), (None, None)])
def test_an_init_image_is_kept_until_the_attempts_deadline(
    tmp_path: Path, deadline_s: float | None, until_unix_s: float | None
) -> None:
    drawn = Drawn(tmp_path)
    kept: list[tuple[str, bytes, float | None]] = []

    async def note(sha256: str, content: bytes, *, needed_until_unix_s: float | None) -> None:
        kept.append((sha256, content, needed_until_unix_s))

    drawn.init_images.write = note  # type: ignore[method-assign]

    async def story() -> None:
        await drawn.executor.host(replace(OFFLOAD, deadline_s=deadline_s), init_image=PNG)
        await drawn.executor.host(OFFERED)
        assert kept == [(SHA256, PNG, until_unix_s)]

    run(drawn, story)


@pytest.mark.parametrize(("task_id", "retryable"), [("peer-1", True), ("own-1", False)])
def test_only_an_attempt_of_another_origin_may_come_again_with_its_init_image(
    tmp_path: Path, task_id: str, retryable: bool
) -> None:
    drawn = Drawn(tmp_path)

    async def story() -> None:
        start = replace(START, task_id=TaskId(task_id), drawing=OFFLOAD.drawing)
        drawn.executor.start_drawing(start)
        async with asyncio.timeout(5):
            while not drawn.heard:
                await asyncio.sleep(0.001)
        (event,) = drawn.heard
        assert (event.report.code, event.report.retryable) == ("init_image_gone", retryable)
        assert drawn.worker.asked == []

    run(drawn, story)


def test_work_is_believed_as_far_as_this_device_would_find_it(tmp_path: Path) -> None:
    drawn = Drawn(tmp_path)
    own = drawn.node.described.work_model.work(OFFERED.drawing)

    async def story() -> None:
        for number, work in ((1, 3.0), (2, 1e9)):
            offered = replace(OFFERED, task_id=TaskId(f"peer-{number}"), work=work)
            await drawn.executor.host(offered)
        works = [event.offload.work for event in drawn.heard]
        assert works == [3.0, 10.0 * own]

    run(drawn, story)


def test_an_attempt_for_another_model_is_placed_elsewhere(tmp_path: Path) -> None:
    drawn = Drawn(tmp_path)

    async def story() -> None:
        another = replace(OFFERED, drawing=replace(OFFERED.drawing, model="another"))
        reports = await drawn.executor.host(another)
        refused = reports.get_nowait()
        assert isinstance(refused, AttemptFailed)
        assert (refused.code, refused.retryable) == ("model_not_served", True)
        assert drawn.heard == []

    run(drawn, story)
