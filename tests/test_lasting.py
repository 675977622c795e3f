"""What becomes of a loop that fails or ends: begun again, counted, told, given up if it must."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import pytest

from edge_node.lasting import Loops, Patience, both

QUICK = Patience(pause_s=0.001, pause_s_max=0.004, failures_max=3, within_s=5.0, tell_again_s=0.05)


class Failing:
    """A loop that raises, or ends, as often as it is told to, and then goes on."""

    def __init__(self, times: int, error: Exception | None) -> None:
        self.times, self.error = times, error
        self.begun = 0

    async def run(self) -> None:
        self.begun += 1
        if self.begun <= self.times:
            if self.error is not None:
                raise self.error
            return
        await asyncio.Event().wait()


def kept(loop: Failing, *, vital: bool, patience: Patience = QUICK) -> tuple[Loops, list[str]]:
    """Runs it until it goes on, or for a moment."""
    told: list[str] = []

    async def story() -> Loops:
        loops = Loops(
            on_failed=told.append,
            give_up=lambda name: told.append(f"give up {name}"),
            patience=patience,
        )
        task = loops.start("it", loop.run, vital=vital)
        for _ in range(100):
            await asyncio.sleep(0.002)
            if loop.begun > loop.times:
                break
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        return loops

    return asyncio.run(story()), told


@pytest.mark.parametrize("error", [None, RuntimeError("planted"), ExceptionGroup("g", [OSError()])])
def test_a_loop_that_fails_or_ends_is_begun_again(error: Exception | None) -> None:
    loop = Failing(2, error)
    loops, told = kept(loop, vital=True)
    assert (loop.begun, told, loops.given_up) == (3, ["it", "it"], ())


def test_a_vital_loop_that_keeps_failing_is_given_up_once_and_tried_on() -> None:
    loop = Failing(5, RuntimeError("planted"))
    loops, told = kept(loop, vital=True)
    assert told == ["it", "it", "it", "give up it", "it", "it"]
    assert loops.given_up == ("it",)
    assert loop.begun == 6


def test_failures_long_ago_are_forgotten() -> None:
    seldom = Patience(pause_s=0.01, failures_max=3, within_s=0.005)
    loops, told = kept(Failing(5, RuntimeError("planted")), vital=True, patience=seldom)
    assert told == ["it"] * 5
    assert loops.given_up == ()


def test_what_is_not_vital_is_tried_for_ever_and_ever_less_often() -> None:
    loop = Failing(50, RuntimeError("planted"))
    began_s = time.monotonic()
    loops, told = kept(loop, vital=False, patience=Patience(pause_s=0.001, failures_max=6))
    took_s = time.monotonic() - began_s
    assert loops.given_up == ()
    # 1, 2, 4, 8, 16 and then 32 ms, in a fifth of a second or what a busy machine makes of it.
    assert 5 <= len(told) <= 8 + took_s / 0.032


def test_a_failure_that_comes_again_and_again_is_told_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[int] = []

    async def story() -> None:
        loops = Loops(patience=QUICK)

        def fails() -> None:
            raise RuntimeError("planted")

        for _ in range(10):
            loops.attempt("it", fails)
        loops.attempt("other", lambda: done.append(1))
        await asyncio.sleep(0.06)
        loops.attempt("it", fails)

    with caplog.at_level(logging.ERROR):
        asyncio.run(story())
    assert done == [1]
    assert caplog.messages == ["it failed", "it failed, 9 times more since it was told last"]


def test_a_loop_of_several_tasks_is_begun_again_when_one_of_them_fails() -> None:
    """A group of tasks cancels the task that it stands in, and never takes that back."""
    begun: list[int] = []

    async def fails() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("planted")

    async def run() -> None:
        begun.append(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait())
            group.create_task(fails())

    async def story() -> list[str]:
        told: list[str] = []
        task = Loops(on_failed=told.append, patience=QUICK).start("it", run, vital=True)
        async with asyncio.timeout(5):
            while len(begun) < 4:
                await asyncio.sleep(0.001)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task], timeout=2.0)
        assert task.cancelled()
        return told

    assert len(asyncio.run(story())) >= 3


def test_a_loop_that_swallows_its_cancellation_ends_all_the_same() -> None:
    async def swallowing() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def story() -> None:
        told: list[str] = []
        task = Loops(on_failed=told.append, patience=QUICK).start("it", swallowing, vital=True)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=2.0)
        assert (task.cancelled(), told) == (True, [])

    asyncio.run(story())


def test_two_things_go_on_at_the_same_time_and_of_a_failure_both_have_ended() -> None:
    story: list[str] = []
    other_goes_on = ""

    async def one(name: str, *, waits_for: asyncio.Event, tells: asyncio.Event, fails: bool) -> str:
        tells.set()
        try:
            await waits_for.wait()
            if fails:
                raise OSError(name)
            if name == other_goes_on:
                await asyncio.Event().wait()
        finally:
            story.append(name)
        return name

    async def both_of(*, fails: bool) -> tuple[str, str]:
        a, b = asyncio.Event(), asyncio.Event()
        first = one("a", waits_for=a, tells=b, fails=fails)
        return await both(first, one("b", waits_for=b, tells=a, fails=False))

    async def within_seconds(*, fails: bool) -> tuple[str, str]:
        async with asyncio.timeout(5.0):
            return await both_of(fails=fails)

    assert asyncio.run(within_seconds(fails=False)) == ("a", "b")
    story.clear()
    other_goes_on = "b"
    with pytest.raises(OSError, match="a"):
        asyncio.run(within_seconds(fails=True))
    assert sorted(story) == ["a", "b"]
