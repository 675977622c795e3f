"""All drawings travel in one call, apart from each other but for its end."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest
from dedgeai.v1 import worker_pb2, worker_pb2_grpc

from edge_node.domain import AttemptFailed, AttemptReport, AttemptStarted, Fence, TaskId
from edge_node.errors import AdmissionRefused, WorkerUnavailable
from edge_node.peering import codec
from edge_node.supervision.worker_client import WorkerClient
from tests.supervision.test_worker_client import DRAWING

FAILED = AttemptFailed(code="draw_failed", message="it was", retryable=True)


class Desk(worker_pb2_grpc.WorkerServiceServicer):
    """Says what the test wants it to, in every call of DrawMany."""

    def __init__(self) -> None:
        self.calls = 0
        self.messages = 0
        self.wanted: dict[str, int] = {}
        self.not_wanted: list[int] = []
        self.to_say: asyncio.Queue[worker_pb2.DrawManyResponse | None] = asyncio.Queue()

    async def DrawMany(
        self, requests: AsyncIterator[worker_pb2.DrawManyRequest], context: Any
    ) -> AsyncIterator[worker_pb2.DrawManyResponse]:
        self.calls += 1
        listening = asyncio.create_task(self._listen(requests))
        try:
            while (said := await self.to_say.get()) is not None:
                yield said
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the process is gone")
        finally:
            listening.cancel()

    async def _listen(self, requests: AsyncIterator[worker_pb2.DrawManyRequest]) -> None:
        async for request in requests:
            self.messages += 1
            for wanted in request.wanted:
                if wanted.HasField("draw"):
                    self.wanted[wanted.draw.task_id] = wanted.number
                else:
                    self.not_wanted.append(wanted.number)

    def say(self, *told: tuple[str, AttemptReport | worker_pb2.DrawManyResponse.Refused]) -> None:
        message = worker_pb2.DrawManyResponse()
        for task_id, what in told:
            one = message.told.add(number=self.wanted[task_id])
            if isinstance(what, worker_pb2.DrawManyResponse.Refused):
                one.refused.CopyFrom(what)
            else:
                one.response.CopyFrom(codec.report_to_draw_response(what))  # type: ignore[arg-type]
        self.to_say.put_nowait(message)

    async def until_wanted(self, count: int) -> None:
        async with asyncio.timeout(10.0):
            while len(self.wanted) < count:
                await asyncio.sleep(0.01)


def run(
    run_dir: pathlib.Path,
    story: Callable[[Desk, Callable[[int], Awaitable[list[AttemptReport]]]], Awaitable[None]],
) -> None:
    async def life() -> None:
        desk = Desk()  # type: ignore[abstract]
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", 2**26)])
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(desk, server)
        server.add_insecure_port(f"unix:{run_dir / 'w.sock'}")
        await server.start()
        client = WorkerClient(run_dir / "w.sock")

        async def draw(number: int, *, init_image: bytes = b"") -> list[AttemptReport]:
            reports = client.draw(
                task_id=TaskId(f"a-{number}"),
                fence=Fence(1, 1),
                drawing=DRAWING,
                init_image=init_image,
            )
            async with contextlib.aclosing(reports) as open_reports:
                return [report async for report in open_reports]

        try:
            await story(desk, draw)
        finally:
            await client.close()
            await server.stop(None)

    asyncio.run(life())


Draw = Callable[[int], Awaitable[list[AttemptReport]]]


def test_a_hundred_drawings_take_one_call_and_fewer_messages_and_hear_only_of_themselves(
    run_dir: pathlib.Path,
) -> None:
    async def story(desk: Desk, draw: Draw) -> None:
        drawings = [asyncio.ensure_future(draw(number)) for number in range(100)]
        await desk.until_wanted(100)
        desk.say(*((f"a-{number}", AttemptStarted()) for number in range(100)))
        for number in reversed(range(100)):
            failed = AttemptFailed(code="draw_failed", message=f"{number}", retryable=True)
            desk.say((f"a-{number}", failed))
        for number, drawing in enumerate(drawings):
            failed = AttemptFailed(code="draw_failed", message=f"{number}", retryable=True)
            assert await drawing == [AttemptStarted(), failed]
        assert (desk.calls, desk.not_wanted) == (1, [])
        assert desk.messages < 20

    run(run_dir, story)


def test_one_that_is_closed_is_taken_back_and_the_others_go_on(run_dir: pathlib.Path) -> None:
    async def story(desk: Desk, draw: Draw) -> None:
        one, other = (asyncio.ensure_future(draw(number)) for number in range(2))
        await desk.until_wanted(2)
        one.cancel()
        async with asyncio.timeout(10.0):
            while not desk.not_wanted:
                await asyncio.sleep(0.01)
        desk.say(("a-0", FAILED), ("a-1", FAILED))
        assert await other == [FAILED]
        assert desk.not_wanted == [desk.wanted["a-0"]]

    run(run_dir, story)


def test_a_refusal_is_the_error_that_its_status_stands_for(run_dir: pathlib.Path) -> None:
    async def story(desk: Desk, draw: Draw) -> None:
        one, other = (asyncio.ensure_future(draw(number)) for number in range(2))
        await desk.until_wanted(2)
        refused = worker_pb2.DrawManyResponse.Refused(
            status="RESOURCE_EXHAUSTED", message="the queue is full"
        )
        desk.say(("a-0", refused), ("a-1", FAILED))
        with pytest.raises(AdmissionRefused, match="the queue is full"):
            await one
        assert await other == [FAILED]
        assert desk.not_wanted == []

    run(run_dir, story)


def test_a_broken_call_ends_all_that_is_under_way_and_the_next_drawing_begins_another(
    run_dir: pathlib.Path,
) -> None:
    async def story(desk: Desk, draw: Draw) -> None:
        drawings = [asyncio.ensure_future(draw(number)) for number in range(3)]
        await desk.until_wanted(3)
        desk.to_say.put_nowait(None)
        for drawing in drawings:
            with pytest.raises(WorkerUnavailable, match="the process is gone"):
                await drawing
        again = asyncio.ensure_future(draw(3))
        await desk.until_wanted(4)
        desk.say(("a-3", FAILED))
        assert await again == [FAILED]
        assert desk.calls == 2

    run(run_dir, story)


def test_large_init_images_do_not_travel_together(run_dir: pathlib.Path) -> None:
    async def story(desk: Desk, draw: Any) -> None:
        large = bytes(20 * 2**20)
        drawings = [asyncio.ensure_future(draw(n, init_image=large)) for n in range(5)]
        await desk.until_wanted(5)
        desk.say(*((f"a-{number}", FAILED) for number in range(5)))
        assert await asyncio.gather(*drawings) == [[FAILED]] * 5

    run(run_dir, story)
