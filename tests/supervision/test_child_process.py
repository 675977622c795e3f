"""Real children: ended, recorded, logged and restarted as promised."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edge_node.supervision import launcher
from edge_node.supervision.child_process import (
    Backoff,
    ChildCommand,
    ChildExit,
    ChildProcess,
    end_recorded_process,
    supervise,
)

pytestmark = pytest.mark.system

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('deaf', flush=True); time.sleep(60)"
)


def command(run_dir: pathlib.Path, *arguments: str, **changes: Any) -> ChildCommand:
    return ChildCommand(
        name="test",
        arguments=arguments,
        pid_path=run_dir / "child.pid",
        log_path=run_dir / "child.log",
        **changes,
    )


def python(run_dir: pathlib.Path, source: str, **changes: Any) -> ChildCommand:
    return command(run_dir, sys.executable, "-S", "-c", source, str(run_dir), **changes)


async def until(condition: Callable[[], object], wait_s: float = 10.0) -> None:
    give_up_s = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < give_up_s, "waited in vain"
        await asyncio.sleep(0.01)


def test_a_child_is_recorded_logged_and_told_how_it_ended(run_dir: pathlib.Path) -> None:
    async def scenario() -> ChildExit:
        child = ChildProcess(
            python(run_dir, "import time; print('hello'); time.sleep(.3); raise SystemExit(3)")
        )
        pid = await child.start()
        assert child.running
        assert child.pid == pid
        await until((run_dir / "child.pid").exists)
        recorded = (run_dir / "child.pid").read_text().split()
        assert recorded == [str(pid), str(launcher.start_ticks(pid)), launcher.boot_id()]
        ended = await child.wait()
        assert child.pid is None
        return ended

    ended = asyncio.run(scenario())
    assert ended.code == 3
    assert ended.last_lines == ("hello",)
    assert ended.lived_s >= 0.3
    assert (run_dir / "child.log").read_text() == "hello\n"
    assert not (run_dir / "child.pid").exists()


def test_stop_asks_and_then_kills(run_dir: pathlib.Path) -> None:
    async def scenario() -> tuple[int, int]:
        codes = []
        for source in ("import time; print('up', flush=True); time.sleep(60)", STUBBORN):
            child = ChildProcess(python(run_dir, source, stop_grace_s=0.3))
            await child.start()
            await until(lambda: (run_dir / "child.log").read_text() != "")
            await child.stop()
            codes.append((await child.wait()).code)
            (run_dir / "child.log").unlink()
        return codes[0], codes[1]

    assert asyncio.run(scenario()) == (-signal.SIGTERM, -signal.SIGKILL)


def test_a_missing_program_is_an_exit_with_a_sentence(run_dir: pathlib.Path) -> None:
    async def scenario() -> ChildExit:
        child = ChildProcess(command(run_dir, str(run_dir / "no-such-program")))
        await child.start()
        return await child.wait()

    ended = asyncio.run(scenario())
    assert ended.code == launcher.EXIT_NO_PROGRAM
    assert "no-such-program cannot be started" in ended.last_lines[-1]


def test_the_log_is_bounded(run_dir: pathlib.Path) -> None:
    async def scenario() -> None:
        child = ChildProcess(
            python(
                run_dir,
                "for n in range(20000): print(f'line {n}')",
                log_bytes_max=40_000,
            )
        )
        await child.start()
        ended = await child.wait()
        assert ended.last_lines[-1] == "line 19999"

    asyncio.run(scenario())
    sizes = [path.stat().st_size for path in run_dir.glob("child.log*")]
    assert len(sizes) == 2
    assert sum(sizes) <= 40_000 + 2 * 65536


def test_a_grandchild_that_keeps_the_output_open_is_not_waited_for(run_dir: pathlib.Path) -> None:
    source = "import subprocess; print(subprocess.Popen(['sleep', '30']).pid, flush=True)"

    async def scenario() -> ChildExit:
        child = ChildProcess(python(run_dir, source))
        await child.start()
        return await asyncio.wait_for(child.wait(), 10)

    ended = asyncio.run(scenario())
    os.kill(int(ended.last_lines[0]), signal.SIGKILL)
    assert ended.code == 0


def test_only_the_recorded_process_is_ended(run_dir: pathlib.Path) -> None:
    pid_path = run_dir / "child.pid"
    stranger = subprocess.Popen(["sleep", "30"])
    try:
        ticks = launcher.start_ticks(stranger.pid)
        untrue = (
            f"{stranger.pid} {ticks + 1} {launcher.boot_id()}",
            f"{stranger.pid} {ticks} another-boot",
            f"{stranger.pid}",
            "",
            "4194303 1 x",
        )
        for record in untrue:
            pid_path.write_text(record)
            assert not end_recorded_process(pid_path, stop_signal=signal.SIGTERM, grace_s=1)
            assert stranger.poll() is None
            assert not pid_path.exists()
        pid_path.write_text(f"{stranger.pid} {ticks} {launcher.boot_id()}")
        assert end_recorded_process(pid_path, stop_signal=signal.SIGTERM, grace_s=1)
        assert stranger.wait(1) == -signal.SIGTERM
    finally:
        stranger.kill()
        stranger.wait()


@contextlib.contextmanager
def deaf_and_recorded(run_dir: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """A process that does not end when asked to, by the record of a node that is gone."""
    deaf = subprocess.Popen(
        [sys.executable, "-S", "-c", STUBBORN, str(run_dir)], stdout=subprocess.PIPE, text=True
    )
    with deaf:
        try:
            assert deaf.stdout is not None
            assert deaf.stdout.readline() == "deaf\n"
            record = f"{deaf.pid} {launcher.start_ticks(deaf.pid)} {launcher.boot_id()}"
            (run_dir / "child.pid").write_text(record)
            yield deaf
        finally:
            deaf.kill()


def test_a_recorded_process_that_does_not_listen_is_killed_after_the_grace(
    run_dir: pathlib.Path,
) -> None:
    with deaf_and_recorded(run_dir) as deaf:
        pid_path = run_dir / "child.pid"
        assert end_recorded_process(pid_path, stop_signal=signal.SIGTERM, grace_s=0.1)
        assert not pid_path.exists()
        # Ended when it returned, not at some time after.
        assert deaf.poll() == -signal.SIGKILL


def test_a_child_that_is_started_ends_what_a_former_node_left(run_dir: pathlib.Path) -> None:
    async def scenario(left: subprocess.Popen[str]) -> None:
        child = ChildProcess(python(run_dir, "pass", stop_grace_s=0.1))
        await child.start()
        assert left.poll() == -signal.SIGKILL
        assert (await child.wait()).code == 0

    with deaf_and_recorded(run_dir) as deaf:
        asyncio.run(scenario(deaf))


def test_the_child_dies_with_its_parent(run_dir: pathlib.Path) -> None:
    node = subprocess.Popen(
        [sys.executable, "-c", NODE_OF_A_SLEEPER, str(run_dir)], stdout=subprocess.PIPE, text=True
    )
    with node:
        assert node.stdout is not None
        child_pid = int(node.stdout.readline())
        descriptor = os.pidfd_open(child_pid)
        node.kill()
    assert select.select([descriptor], [], [], 5.0)[0], "the child outlived its parent"
    os.close(descriptor)


NODE_OF_A_SLEEPER = """
import asyncio, pathlib, sys
from edge_node.supervision.child_process import ChildCommand, ChildProcess
async def main():
    run_dir = pathlib.Path(sys.argv[1])
    child = ChildProcess(ChildCommand(
        name="sleeper", arguments=("sleep", "60"),
        pid_path=run_dir / "child.pid", log_path=run_dir / "child.log"))
    print(await child.start(), flush=True)
    await child.wait()
asyncio.run(main())
"""


def test_backoff_doubles_is_bounded_and_resets() -> None:
    backoff = Backoff(first_s=1.0, max_s=5.0, healthy_s=10.0)
    waits_s = [backoff.wait_s(previous_s=None, lived_s=0.0)]
    for _ in range(4):
        waits_s.append(backoff.wait_s(previous_s=waits_s[-1], lived_s=0.0))
    assert waits_s == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.wait_s(previous_s=5.0, lived_s=10.0) == 1.0


def test_supervise_restarts_and_stops(run_dir: pathlib.Path) -> None:
    async def scenario() -> tuple[list[int], list[int]]:
        started: list[int] = []
        codes: list[int] = []

        async def on_started(pid: int) -> None:
            started.append(pid)

        async def on_exited(ended: ChildExit) -> None:
            codes.append(ended.code)

        child = ChildProcess(python(run_dir, "raise SystemExit(7)"))
        backoff = Backoff(first_s=0.01, max_s=0.02, healthy_s=60)
        keeping = asyncio.create_task(
            supervise(child, backoff=backoff, on_started=on_started, on_exited=on_exited)
        )
        await until(lambda: len(codes) >= 3)
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        assert not child.running
        return started, codes

    started, codes = asyncio.run(scenario())
    assert len(set(started)) == len(started) >= 3
    assert codes[:3] == [7, 7, 7]


TALKER = "import time\nfor i in range(200): print('line', i, 'x' * 200, flush=True)\n"


@pytest.mark.parametrize("after", ["", "time.sleep(60)"], ids=["ends", "goes on"])
def test_a_disk_that_takes_no_log_costs_lines_and_nothing_else(
    run_dir: pathlib.Path, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    (run_dir / "child.log").symlink_to("/dev/full")

    async def scenario() -> ChildExit:
        child = ChildProcess(python(run_dir, TALKER + after))
        await child.start()
        if after:
            await until(lambda: child._log and "line 199" in "".join(child._log.last_lines))
            await asyncio.wait_for(child.stop(), 5.0)
        return await asyncio.wait_for(child.wait(), 5.0)

    ended = asyncio.run(scenario())
    assert ended.code == (-signal.SIGTERM if after else 0)
    assert "line 199" in ended.last_lines[-1]
    assert sum("loses lines" in message for message in caplog.messages) == 1


def test_a_full_disk_stops_no_child_and_its_log_goes_on_when_there_is_room(
    small_disk: pathlib.Path,
) -> None:
    ballast = small_disk / "ballast"

    async def scenario() -> None:
        talks_for_ever = "import time\nwhile True: print('x' * 500, flush=True); time.sleep(.001)"
        child = ChildProcess(python(small_disk, talks_for_ever, log_bytes_max=2**18))
        await child.start()
        await until(lambda: (small_disk / "child.log").exists())
        fill(ballast)
        await asyncio.sleep(0.3)
        assert child.running
        ballast.unlink()
        size = (small_disk / "child.log").stat().st_size
        await until(lambda: (small_disk / "child.log").stat().st_size != size)
        fill(ballast)
        await asyncio.wait_for(child.stop(), 5.0)
        again = ChildProcess(python(small_disk, "print('no record of it')"))
        await again.start()
        assert (await asyncio.wait_for(again.wait(), 5.0)).code == 0

    asyncio.run(scenario())


def fill(path: pathlib.Path) -> None:
    """Takes all the room that a disk has."""
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
