"""When a worker is taken to hang, or to have failed: a scripted one says all by the clock."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest
from dedgeai.v1 import worker_pb2, worker_pb2_grpc

from edge_node.domain import (
    AttemptQueued,
    Drawing,
    Fence,
    TaskId,
    WorkerDescription,
    WorkerLoad,
)
from edge_node.errors import WorkerUnavailable
from edge_node.peering import codec
from edge_node.supervision.child_process import Backoff, ChildCommand
from edge_node.supervision.worker_process import WorkerProcess, WorkerSettings

HANG_S = 0.4
DRAWING = Drawing(
    prompt="p", width_px=64, height_px=64, steps=3, guidance_scale=5.0, seed=1, model="m"
)
# What is said, and how soon after what was said before; None is silence for good.
Script = Iterator[WorkerLoad | None]


def load(*, running: int, steps_done: int, queued: int = 0) -> WorkerLoad:
    return WorkerLoad(
        backlog=1.0,
        queued=queued,
        running=running,
        capacity=0.0,
        steps_done=steps_done,
        resident_bytes=0,
    )


@dataclass
class ScriptedWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Says what its script does; `connected_s` is when somebody began to listen."""

    script: Callable[[], Script]
    state: str = "ready"
    connected_s: list[float] = field(default_factory=list)
    told: int = 0
    capacity: float = 1e6

    async def Describe(self, request: Any, context: Any) -> worker_pb2.DescribeResponse:
        if self.state == "silent":
            await asyncio.sleep(60.0)
        described = WorkerDescription(
            state=self.state, capacity=self.capacity, size_px_max=128, rows_max=2
        )
        return codec.description_to_proto(described)

    async def Draw(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield worker_pb2.DrawResponse(queued=worker_pb2.DrawResponse.Queued(position=1))
        await asyncio.sleep(60.0)

    async def WatchLoad(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.connected_s.append(time.monotonic())
        for said in self.script():
            if said is None:
                await asyncio.sleep(60.0)
            else:
                self.told += 1
                yield codec.load_to_proto(said)
            await asyncio.sleep(HANG_S / 8)


@contextlib.asynccontextmanager
async def attached_to(
    scripted: ScriptedWorker, run_dir: pathlib.Path, *, startup_s: float = 60.0
) -> AsyncIterator[WorkerProcess]:
    server = grpc.aio.server()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(scripted, server)
    server.add_insecure_port(f"unix:{run_dir / 'w.sock'}")
    await server.start()
    worker = WorkerProcess(
        WorkerSettings(
            socket_path=run_dir / "w.sock",
            command=None,
            hang_s=HANG_S,
            no_step_s=HANG_S,
            startup_s=startup_s,
        )
    )
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()
        await server.stop(None)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20.0):
        while not condition():
            await asyncio.sleep(0.01)


def stuck() -> Script:
    while True:
        yield load(running=1, steps_done=7)


def waiting() -> Script:
    while True:
        yield load(running=0, steps_done=7, queued=2)


def silent() -> Script:
    yield load(running=0, steps_done=7)
    yield None


def idle() -> Script:
    while True:
        yield load(running=0, steps_done=7)


def slow() -> Script:
    """A step takes half of what a hang does."""
    for said in range(10_000):
        yield load(running=1, steps_done=said // 4)


def busy_by_turns() -> Script:
    """Never a step while it is looked at, but it was idle in between."""
    for said in range(10_000):
        yield load(running=said // 4 % 2, steps_done=7)


@pytest.mark.parametrize("script", [stuck, waiting, silent])
def test_a_worker_that_hangs_is_given_up_and_the_next_gets_as_long(
    script: Callable[[], Script], run_dir: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        scripted = ScriptedWorker(script)  # type: ignore[abstract]
        async with attached_to(scripted, run_dir) as worker:
            await until(lambda: len(scripted.connected_s) == 3)
            assert (worker.hangs, worker.starts) == (2, 3)
            # The account begins anew with each connection: no hang is found sooner than it may.
            first_s, second_s, third_s = scripted.connected_s
            assert min(second_s - first_s, third_s - second_s) > HANG_S

    asyncio.run(scenario())
    said = {
        stuck: "it draws but has done no step for 0.",
        waiting: "it lets 2 drawings wait and has drawn nothing for 0.",
        silent: "it has said nothing for 0.",
    }[script]
    assert caplog.text.count(f"worker hangs, {said}") == 2


@pytest.mark.parametrize("script", [stuck, silent])
def test_a_hang_is_found_after_the_longest_operation_and_not_before(
    script: Callable[[], Script], run_dir: pathlib.Path
) -> None:
    longest_s = 1.0

    async def scenario() -> None:
        scripted = ScriptedWorker(script)  # type: ignore[abstract]
        # Two rows of four work units each, at twice the reference size.
        scripted.capacity = 2 * 4 / longest_s
        async with attached_to(scripted, run_dir) as worker:
            await until(lambda: len(scripted.connected_s) == 2)
            assert worker.hangs == 1
            first_s, second_s = scripted.connected_s
            assert HANG_S + longest_s < second_s - first_s < HANG_S + longest_s + 1.0

    asyncio.run(scenario())


@pytest.mark.parametrize("script", [idle, slow, busy_by_turns])
def test_a_worker_that_is_idle_or_slow_does_not_hang(
    script: Callable[[], Script], run_dir: pathlib.Path
) -> None:
    async def scenario() -> None:
        scripted = ScriptedWorker(script)  # type: ignore[abstract]
        async with attached_to(scripted, run_dir) as worker:
            # As long as two hangs.
            await until(lambda: scripted.told > 16)
            assert (worker.hangs, worker.starts) == (0, 1)
            assert worker.ready

    asyncio.run(scenario())


def test_a_worker_that_forgets_a_drawing_is_given_up(
    run_dir: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is idle by its own account; whoever waits for the image is told that it is lost."""

    async def scenario() -> None:
        scripted = ScriptedWorker(idle)  # type: ignore[abstract]
        async with attached_to(scripted, run_dir) as worker:
            await until(lambda: worker.ready)
            reports = worker.draw(task_id=TaskId("a-1"), fence=Fence(1, 1), drawing=DRAWING)
            assert await anext(reports) == AttemptQueued(position=1)
            with pytest.raises(WorkerUnavailable):
                await anext(reports)
            assert worker.hangs == 1
            # What has ended is not waited for.
            told = scripted.told
            await until(lambda: scripted.told > told + 16)
            assert worker.hangs == 1

    asyncio.run(scenario())
    assert "it has not known of the 1 drawings that it was given for 0." in caplog.text


@pytest.mark.parametrize("state", ["loading", "silent"])
def test_a_worker_that_starts_gets_longer(state: str, run_dir: pathlib.Path) -> None:
    async def scenario() -> None:
        scripted = ScriptedWorker(idle, state=state)  # type: ignore[abstract]
        started_s = time.monotonic()
        async with attached_to(scripted, run_dir, startup_s=2 * HANG_S) as worker:
            if state == "silent":
                await until(lambda: worker.hangs == 1)
                assert time.monotonic() - started_s > 2 * HANG_S
            else:
                # It answers that it loads: for as long as it says so, it does.
                await asyncio.sleep(3 * HANG_S)
                assert worker.hangs == 0

    asyncio.run(scenario())


def test_time_in_which_the_node_itself_stood_still_is_nobodys_silence(
    run_dir: pathlib.Path,
) -> None:
    async def scenario() -> None:
        async with attached_to(ScriptedWorker(idle), run_dir) as worker:  # type: ignore[abstract]
            await until(lambda: worker.ready)
            time.sleep(3 * HANG_S)
            await asyncio.sleep(HANG_S)
            assert (worker.hangs, worker.starts) == (0, 1)

    asyncio.run(scenario())


def test_one_that_ends_while_it_loads_has_failed_until_it_is_ready(run_dir: pathlib.Path) -> None:
    scripted = ScriptedWorker(idle, state="loading")  # type: ignore[abstract]
    program = "import sys, time; time.sleep(0.3); sys.exit('no memory.')"
    command = ChildCommand(
        name="worker",
        arguments=(sys.executable, "-c", program),
        pid_path=run_dir / "worker.pid",
        log_path=run_dir / "worker.log",
    )
    said: list[str] = []

    async def scenario() -> None:
        server = grpc.aio.server()
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(scripted, server)
        server.add_insecure_port(f"unix:{run_dir / 'w.sock'}")
        await server.start()
        worker = WorkerProcess(
            WorkerSettings(
                socket_path=run_dir / "w.sock", command=command, backoff=Backoff(max_s=0.2)
            ),
            on_change=lambda: said.append(worker.description.state if worker.description else ""),
        )
        await worker.start()
        try:
            await until(lambda: worker.starts == 4)
            # One end may have been an accident; that it loads says nothing after the second.
            assert said.index("failed") == 3
            assert set(said[3:]) == {"failed"}
            assert worker.description is not None
            assert worker.description.detail == (
                "it ended 3 times in a row at its start, with code 1: no memory"
            )
            scripted.state = "ready"
            await until(lambda: worker.ready)
            scripted.state = "loading"
            await until(lambda: worker.description and worker.description.state == "loading")
        finally:
            await worker.stop()
            await server.stop(None)

    asyncio.run(scenario())
