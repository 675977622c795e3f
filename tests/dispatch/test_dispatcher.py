"""How the parts of the shell fit together: instructions, start, drain and stop."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_node.attempt_codes import HANDED_OVER
from edge_node.dispatch.background import Background
from edge_node.dispatch.inbox import Inbox
from edge_node.domain import AttemptFailed, AttemptStarted, NodeState, TaskStatus
from edge_node.errors import NodeNotReady
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.hosting import Hosting, HostingLimits
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.lifecycle_limits import LifecycleLimits
from tests.dispatch.one_node import DONE, OFFLOAD, OWN, PEER, PNG, Node, run
from tests.dispatch.parts import HandClock, text


def fails_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[int]:
    """The first call raises what nobody expects; returns where calls are counted."""
    called: list[int] = []
    real = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        called.append(1)
        if len(called) == 1:
            raise RuntimeError("a bug")
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, call)
    return called


def test_a_placement_that_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    called = fails_once(monkeypatch, node.dispatcher.placer, "place")

    async def story() -> None:
        await node.start()
        record = await node.ended(await node.submit())
        # Nobody was asked, so that it is the first attempt still.
        assert (record.status, record.attempt) == (TaskStatus.COMPLETED, 1)
        assert len(called) == 2

    run(node, story)


@pytest.mark.parametrize("policy", ["local", "least_expected_delay"])
def test_an_attempt_that_cannot_be_sent_is_a_failed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    node = Node(tmp_path, policy=policy)
    fails_once(monkeypatch, node.dispatcher._offloads, "start_attempt")

    async def story() -> None:
        await node.start()
        record = await node.ended(await node.submit())
        assert (record.status, record.attempt) == (TaskStatus.COMPLETED, 2)
        # Whoever could not be reached is not asked first.
        assert record.executor == (PEER if policy == "local" else OWN)

    run(node, story)
    shown = node.metrics.registry.get_sample_value(
        "dedgeai_replacements_total", {"reason": "internal_error"}
    )
    assert shown == 1.0


@pytest.mark.parametrize(
    ("part", "name"),
    [("placer", "attempt_ended"), ("placer", "task_ended"), ("own_tasks", "note")],
)
def test_an_instruction_that_is_not_carried_out_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, name: str
) -> None:
    node = Node(tmp_path)
    called = fails_once(monkeypatch, getattr(node.dispatcher, part), name)

    async def story() -> None:
        await node.start()
        assert (await node.ended(await node.submit())).status is TaskStatus.COMPLETED
        await asyncio.sleep(0.01)
        assert called

    run(node, story)


def test_draining_refuses_where_nobody_else_draws_and_waits_for_what_is_under_way(
    tmp_path: Path,
) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        node.view.forget(PEER)
        node.own_device.held = True
        task_id = await node.submit()
        draining = asyncio.create_task(node.dispatcher.drain(timeout_s=5.0))
        await asyncio.sleep(0.03)
        assert not draining.done()
        with pytest.raises(NodeNotReady):
            await node.submit()
        node.own_device.held = False
        await node.ended(task_id)
        async with asyncio.timeout(1.0):
            await draining
        assert node.dispatcher.own_node.draining

    run(node, story)


def test_who_asks_a_node_that_is_stopped_has_it_drawn_by_another(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        node.own_device.held = node.peer.held = True
        before = await node.submit()
        draining = asyncio.create_task(node.dispatcher.drain(timeout_s=5.0))
        await asyncio.sleep(0.03)
        late = await node.submit()
        while not node.peer.asked:
            await asyncio.sleep(0.01)
        assert len(node.own_device.asked) == 1
        node.own_device.held = False
        await node.ended(before)
        async with asyncio.timeout(1.0):
            await draining  # what came meanwhile it does not wait for: more may come for ever
        closed = asyncio.Event()
        finishing = asyncio.create_task(node.dispatcher.finish(timeout_s=5.0, closed=closed))
        waiting = asyncio.create_task(node.dispatcher.own_tasks.until_final(late))
        await asyncio.sleep(0.03)
        node.peer.held = False
        assert (await waiting).executor == PEER
        await asyncio.sleep(0.03)
        assert not finishing.done()  # a connection is there that may ask for more
        assert (await node.ended(await node.submit())).executor == PEER
        closed.set()
        async with asyncio.timeout(1.0):
            await finishing

    run(node, story)


def test_who_still_waits_when_a_node_must_end_is_told_when_to_ask_again(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        node.own_device.held = True
        task_id = await node.submit()
        own_tasks = node.dispatcher.own_tasks
        waiting = [
            asyncio.create_task(own_tasks.until_final(task_id)),
            asyncio.create_task(node.ended(task_id)),
        ]
        await asyncio.sleep(0)
        await node.dispatcher.drain(timeout_s=0.02)
        assert not any(one.done() for one in waiting)
        await node.dispatcher.finish(timeout_s=0.02, closed=asyncio.Event())
        async with asyncio.timeout(1.0):
            for told in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(told, NodeNotReady)
                assert told.retry_after_s == 5.0
        for refused in (own_tasks.until_final(task_id), node.submit()):
            with pytest.raises(NodeNotReady):
                await refused

    run(node, story)


def test_draining_waits_for_attempts_of_other_origins_too(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        node.view.forget(PEER)  # nobody else could take it
        node.own_device.held = True
        reports = await node.dispatcher.executor.host(OFFLOAD, init_image=PNG)
        draining = asyncio.create_task(node.dispatcher.drain(timeout_s=5.0))
        await asyncio.sleep(0.03)
        assert not draining.done()
        node.own_device.held = False
        assert await reports.get() == DONE
        node.dispatcher.executor.unhost(OFFLOAD.task_id, OFFLOAD.fence, reports)
        async with asyncio.timeout(1.0):
            await draining

    run(node, story)


def test_draining_gives_back_what_waits_for_another_who_can_have_it_drawn(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        node.own_device.held = True
        reports = await node.dispatcher.executor.host(OFFLOAD, init_image=PNG)
        draining = asyncio.create_task(node.dispatcher.drain(timeout_s=5.0))
        told = await reports.get()
        assert isinstance(told, AttemptFailed)
        assert (told.code, told.retryable) == (HANDED_OVER, True)
        await asyncio.sleep(0.03)
        assert not draining.done()  # until its origin has heard it
        node.dispatcher.executor.unhost(OFFLOAD.task_id, OFFLOAD.fence, reports)
        async with asyncio.timeout(1.0):
            await draining

    run(node, story)


def test_draining_ends_at_its_time(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        node.own_device.held = True
        await node.submit()
        begun_s = time.monotonic()
        await node.dispatcher.drain(timeout_s=0.05)
        assert time.monotonic() - begun_s >= 0.05
        assert node.dispatcher.own_tasks.in_flight == 1

    run(node, story)


def test_nothing_goes_on_after_a_stop(tmp_path: Path) -> None:
    node = Node(tmp_path, policy="least_expected_delay")

    async def story() -> None:
        await node.start()
        node.own_device.held = node.peer.held = True
        await node.submit()
        await node.dispatcher.executor.host(OFFLOAD, init_image=PNG)
        while not (node.own_device.asked and node.peer.asked):
            await asyncio.sleep(0.001)
        await node.dispatcher.stop()
        running = asyncio.all_tasks() - {asyncio.current_task()}
        assert not running

    run(node, story)


def test_settings_count_from_the_next_look_on(tmp_path: Path) -> None:
    node = Node(tmp_path)
    own_tasks = replace(node.settings.own_tasks, deadline_s_default=9.0)
    settings = replace(
        node.settings, own_tasks=own_tasks, time=replace(node.settings.time, tick_s=7.0)
    )
    node.dispatcher.reconfigure(settings)
    assert node.dispatcher.own_tasks.settings is own_tasks
    assert node.dispatcher._timekeeper.settings is settings.time


def test_what_membership_says_reaches_the_view(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.dispatcher.peer_state_received(NodeState(node_id=PEER, incarnation=9, sequence=9))
    node.dispatcher.round_trip_measured(PEER, 0.25)
    (view,) = node.view.views(now_s=0.0)
    assert (view.state.incarnation, view.round_trip_s) == (9, 0.25)
    node.dispatcher.peer_forgotten(PEER)
    assert node.view.views(now_s=0.0) == ()


# The inbox.


def an_inbox() -> tuple[Inbox, list[Any], list[int]]:
    """One whose instructions are kept, and how often it said that attempts come or go."""
    inbox = Inbox(
        lifecycle=Lifecycle(LifecycleLimits(), term=1),
        hosting=Hosting(HostingLimits()),
        clock=HandClock(),
    )
    obeyed: list[Any] = []
    changes: list[int] = []
    inbox.connect(obey=obeyed.append, hosting_changed=lambda: changes.append(1))
    return inbox, obeyed, changes


RECEIVED = hosted.OffloadReceived(offload=replace(OFFLOAD, drawing=text()))


def started(share: object) -> hosted.DrawingReported:
    return hosted.DrawingReported(
        task_id=OFFLOAD.task_id,
        fence=OFFLOAD.fence,
        report=share,  # type: ignore[arg-type]
    )


def test_others_are_told_when_attempts_come_or_go_and_not_of_each_step() -> None:
    inbox, obeyed, changes = an_inbox()
    inbox.apply(RECEIVED)
    assert [type(one) for one in obeyed] == [hosted.StartDrawing]
    assert len(changes) == 1
    inbox.apply(started(AttemptStarted()))
    assert len(changes) == 1
    inbox.apply(started(DONE))
    assert len(changes) == 2
    inbox.apply(life.ClockAdvanced())
    assert len(changes) == 2


def test_an_event_waits_until_the_one_before_is_through() -> None:
    inbox, _, _ = an_inbox()
    order: list[str] = []

    def obey(instruction: object) -> None:
        order.append(f"begin {type(instruction).__name__}")
        if isinstance(instruction, hosted.StartDrawing):
            inbox.apply(started(AttemptStarted()))
        order.append(f"end {type(instruction).__name__}")

    inbox.connect(obey=obey, hosting_changed=lambda: order.append("changed"))
    inbox.apply(RECEIVED)
    assert order == [
        *("begin StartDrawing", "end StartDrawing", "changed"),
        *("begin ReportAttempt", "end ReportAttempt"),
    ]


def test_an_event_that_cannot_be_applied_does_not_stop_the_inbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inbox, obeyed, _ = an_inbox()
    fails_once(monkeypatch, inbox._hosting, "handle")
    with pytest.raises(RuntimeError):
        inbox.apply(RECEIVED)
    inbox.apply(RECEIVED)
    assert len(obeyed) == 1


# What runs beside it.


def test_background_work_is_found_by_its_key_until_it_has_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    background: Background[str] = Background()
    ended: list[str] = []

    async def work(name: str, seconds: float = 60.0) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append(name)

    async def story() -> None:
        background.start(work("first"), key="k")
        background.start(work("second"), key="k")
        background.start(work("nameless"))
        await asyncio.sleep(0)
        background.cancel("unknown")
        background.cancel("k")
        await asyncio.sleep(0.01)
        assert ended == ["second"]
        background.start(work("third", seconds=0.0), key="k")
        await asyncio.sleep(0.01)
        assert ended == ["second", "third"]
        assert not background._keyed
        await background.stop()
        assert ended == ["second", "third", "first", "nameless"]
        await asyncio.sleep(0)
        assert not background._running

    asyncio.run(story())
    assert not caplog.records


def test_of_background_work_that_fails_the_operator_hears(
    caplog: pytest.LogCaptureFixture,
) -> None:
    background: Background[str] = Background()

    async def fail() -> None:
        raise RuntimeError("a bug")

    async def story() -> None:
        background.start(fail(), key="k")
        await asyncio.sleep(0.01)
        assert not background._keyed

    asyncio.run(story())
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a bug"


def test_nothing_is_written_once_it_has_stopped(tmp_path: Path) -> None:
    node = Node(tmp_path)
    ended = asyncio.Event()

    async def story() -> None:
        async def write() -> None:
            try:
                await asyncio.sleep(60.0)
            finally:
                ended.set()

        node.dispatcher.own_tasks._writing.start(write())
        await asyncio.sleep(0)
        await node.dispatcher.stop()
        assert ended.is_set()

    asyncio.run(story())
