"""What a node makes of the note that an attached worker leaves when it does not come up."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from edge_node import start_note
from edge_node.supervision import worker_process
from edge_node.supervision.worker_process import WorkerProcess, WorkerSettings
from tests.supervision.test_hangs import ScriptedWorker, attached_to, idle, until


def shown(worker: WorkerProcess) -> tuple[str, str]:
    described = worker.description
    return (described.state, described.detail) if described else ("", "")


def leave(socket_path: pathlib.Path, reason: str, *, permanent: bool = False) -> None:
    start_note.begin(socket_path)
    start_note.tell(socket_path, reason, permanent=permanent)


def test_of_one_that_is_away_its_last_word_is_told(
    run_dir: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = run_dir / "w.sock"
    ended = "it ended at its start: no lock"

    async def scenario() -> None:
        worker = WorkerProcess(WorkerSettings(socket_path=path, command=None))
        await worker.start()
        await until(lambda: shown(worker) == ("away", f"nothing answers at {path}"))
        leave(path, "no lock")
        await until(lambda: shown(worker) == ("starting", ended))
        leave(path, "no lock")
        await until(lambda: shown(worker)[0] == "failed")
        assert shown(worker)[1] == "it ended 2 times in a row at its start: no lock"
        start_note.forget(path)
        await until(lambda: shown(worker)[0] == "away")
        leave(path, "no such option", permanent=True)
        await until(lambda: shown(worker) == ("failed", "no such option"))
        start_note.begin(path)  # that it is tried again says nothing yet
        await asyncio.sleep(0.3)
        assert shown(worker) == ("failed", "no such option")
        await worker.stop()

    asyncio.run(scenario())
    assert caplog.text.count(f"worker is starting: {ended}") == 1
    assert caplog.text.count("worker is failed: no such option") == 1


def test_a_word_of_before_the_nodes_own_start_may_be_mended_already(
    run_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run_dir / "w.sock"
    leave(path, "no such option", permanent=True)

    async def scenario() -> None:
        worker = WorkerProcess(WorkerSettings(socket_path=path, command=None))
        await worker.start()
        await until(lambda: shown(worker) == ("starting", "no such option"))
        monkeypatch.setattr(worker_process, "FORMER_WORD_S", 0.0)
        await until(lambda: shown(worker) == ("failed", "no such option"))
        assert not worker.ready
        await worker.stop()

    asyncio.run(scenario())


def test_one_that_keeps_ending_has_failed_until_it_is_ready(run_dir: pathlib.Path) -> None:
    scripted = ScriptedWorker(idle, state="loading")  # type: ignore[abstract]
    path = run_dir / "w.sock"

    async def scenario() -> None:
        async with attached_to(scripted, run_dir) as worker:
            await until(lambda: shown(worker)[0] == "loading")
            leave(path, "no lock")
            await asyncio.sleep(0.3)
            assert shown(worker)[0] == "loading"
            leave(path, "no lock")
            await until(lambda: shown(worker)[0] == "failed")
            scripted.state = "ready"
            await until(lambda: worker.ready)

    asyncio.run(scenario())
