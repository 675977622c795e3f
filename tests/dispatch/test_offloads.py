"""Attempts on their way to an executor and what comes back, by values."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_node.dispatch.offloads import Offloads
from edge_node.domain import AttemptFailed, AttemptQueued, AttemptReport, Fence, Offload, TaskId
from edge_node.errors import OriginUnavailable
from edge_node.store.init_images import InitImages
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from tests.dispatch.one_node import DONE, DRAWING, OFFLOAD, OWN, PEER, PNG, SHA256
from tests.dispatch.parts import (
    HandClock,
    Heard,
    SetPeers,
    SetWorker,
    a_view,
    own_node,
    peer_state,
    text,
    turns,
)

OFFERED = replace(OFFLOAD, task_id=TaskId("own-1"), origin=OWN, drawing=text())
QUEUED = AttemptQueued(position=1)
REFUSED = AttemptFailed(code="queue_full", message="full", retryable=True)


class Sent:
    """Offloads to PEER."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.heard, self.peers = HandClock(), Heard(), SetPeers()
        self.view = a_view(self.clock)
        self.view.state_received(peer_state(), now_s=100.0)
        self.init_images = InitImages(folder, bytes_max=1000, keep_s_max=1000.0, clock=self.clock)
        inbox: Any = self.heard
        self.offloads = Offloads(
            node=own_node(self.clock, SetWorker(), view=self.view),
            inbox=inbox,
            view=self.view,
            init_images=self.init_images,
            clock=self.clock,
        )

    def start(self, offload: Offload = OFFERED) -> None:
        peers: Any = self.peers
        self.offloads.start(peers)
        self.offloads.start_attempt(PEER, offload)

    def reports(self) -> list[AttemptReport]:
        for event in self.heard:
            assert isinstance(event, life.AttemptReported)
            assert (event.executor, event.task_id) == (PEER, OFFERED.task_id)
            assert event.fence == OFFERED.fence
        return [event.report for event in self.heard]


def run(sent: Sent, story: Callable[[], Awaitable[None]]) -> None:
    async def life_of_a_node() -> None:
        async with asyncio.timeout(5):
            await sent.init_images.start()
            await story()
            await sent.offloads.stop()

    asyncio.run(life_of_a_node())


def test_what_a_peer_reports_is_passed_on_to_its_end(tmp_path: Path) -> None:
    sent = Sent(tmp_path)
    sent.peers.reports = [QUEUED, DONE]

    async def story() -> None:
        sent.start()
        await turns()
        assert sent.reports() == [QUEUED, DONE]
        assert sent.peers.offloads == [(OFFERED, b"")]

    run(sent, story)


@pytest.mark.parametrize(
    ("reports", "there", "message"),
    [
        ([QUEUED], True, "node peer cannot be reached"),
        ([QUEUED, OriginUnavailable("its wire was cut")], True, "its wire was cut"),
        ([QUEUED, RuntimeError("a bug")], True, "node peer cannot be reached"),
        ([], False, "node peer cannot be reached"),
    ],
)
def test_a_stream_that_ends_without_an_end_is_a_failed_attempt_at_once(
    tmp_path: Path, reports: list[AttemptReport | Exception], there: bool, message: str
) -> None:
    sent = Sent(tmp_path)
    sent.peers.reports, sent.peers.there = reports, there

    async def story() -> None:
        sent.start()
        await turns()
        *before, failure = sent.reports()
        assert before == [one for one in reports if not isinstance(one, Exception)]
        assert failure == AttemptFailed(code="peer_unreachable", message=message, retryable=True)

    run(sent, story)


def test_before_there_are_peers_nobody_is_reached(tmp_path: Path) -> None:
    sent = Sent(tmp_path)

    async def story() -> None:
        sent.offloads.start_attempt(PEER, OFFERED)
        sent.offloads.stop_attempt(PEER, OFFERED.task_id, Fence(1, 9))
        await turns()
        (failure,) = sent.reports()
        assert isinstance(failure, AttemptFailed)
        assert failure.code == "peer_unreachable"

    run(sent, story)


def test_own_attempts_go_into_the_own_queue_and_out_of_it(tmp_path: Path) -> None:
    sent = Sent(tmp_path)

    async def story() -> None:
        sent.offloads.start_attempt(OWN, OFFERED)
        assert sent.heard == [hosted.OffloadReceived(offload=OFFERED, now_s=100.0)]
        sent.heard.clear()
        sent.offloads.stop_attempt(OWN, OFFERED.task_id, OFFERED.fence)
        assert sent.heard == [hosted.OffloadCancelled(task_id=OFFERED.task_id, fence=OFFERED.fence)]
        await turns()
        assert sent.peers.offloads == sent.peers.cancelled == []

    run(sent, story)


def test_an_attempt_that_is_stopped_is_cancelled_there_and_not_heard_any_more(
    tmp_path: Path,
) -> None:
    sent = Sent(tmp_path)
    sent.peers.reports, sent.peers.stays = [QUEUED], True

    async def story() -> None:
        sent.start()
        await turns()
        sent.offloads.stop_attempt(PEER, OFFERED.task_id, OFFERED.fence)
        await turns()
        assert sent.peers.cancelled == [(OFFERED.task_id, OFFERED.fence)]
        assert sent.reports() == [QUEUED]

    run(sent, story)


def test_a_peer_that_does_not_answer_a_cancel_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent = Sent(tmp_path)

    async def fail(*_: object) -> None:
        raise OriginUnavailable("no answer")

    sent.peers.cancel_offload = fail  # type: ignore[method-assign, assignment]

    async def story() -> None:
        sent.start()
        sent.offloads.stop_attempt(PEER, OFFERED.task_id, OFFERED.fence)
        await turns()

    run(sent, story)
    assert not caplog.records


def learned(sent: Sent) -> list[tuple[float, float]]:
    """What the view is told of links from here on, as (bits, seconds)."""
    told: list[tuple[float, float]] = []

    def note(node_id: object, *, input_bits: float, seconds: float) -> None:
        assert node_id == PEER
        told.append((input_bits, seconds))

    sent.view.offload_answered = note  # type: ignore[method-assign]
    return told


def test_the_first_answer_tells_how_fast_the_link_is(tmp_path: Path) -> None:
    sent = Sent(tmp_path)
    sent.peers.reports = [QUEUED, QUEUED, DONE]
    told = learned(sent)

    def later() -> None:
        sent.clock.time_s += 0.25

    sent.peers.before_report = later

    async def story() -> None:
        await sent.init_images.write(SHA256, PNG, needed_until_unix_s=None)
        sent.start(replace(OFFERED, drawing=DRAWING))
        async with asyncio.timeout(5):
            while len(sent.heard) < 3:
                await asyncio.sleep(0.001)
        assert sent.peers.offloads[0][1] == PNG
        assert told == [(8 * len(PNG), 0.25)]

    run(sent, story)


def test_a_refusal_says_nothing_of_the_link(tmp_path: Path) -> None:
    sent = Sent(tmp_path)
    sent.peers.reports = [REFUSED]
    told = learned(sent)

    async def story() -> None:
        sent.start()
        await turns()
        assert sent.reports() == [REFUSED]
        assert told == []

    run(sent, story)


def test_an_origin_that_lost_the_init_image_does_not_ask_anybody_else(tmp_path: Path) -> None:
    sent = Sent(tmp_path)

    async def story() -> None:
        sent.start(replace(OFFERED, drawing=DRAWING))
        async with asyncio.timeout(5):
            while not sent.heard:
                await asyncio.sleep(0.001)
        (failure,) = sent.reports()
        assert isinstance(failure, AttemptFailed)
        assert (failure.code, failure.retryable) == ("init_image_gone", False)
        assert sent.peers.offloads == []

    run(sent, story)
