"""Whom a node asks for a row of a step, what it makes of the answer, and whom it helps itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edge_node.checkpoint import Latents
from edge_node.dispatch.helping import (
    BUSY_S,
    EXCHANGE_S,
    FAILED_S,
    NEVER_S,
    Helping,
    HelpingSettings,
)
from edge_node.domain import Fence, ModelFingerprint, NodeId, ServedModel, TaskId, WorkModel
from edge_node.errors import OriginUnavailable, WorkerUnavailable
from edge_node.shared_rows import (
    ANOTHER_MODEL,
    BUSY,
    LEASED,
    NO_ANSWER,
    NOBODY_IDLE,
    SWITCHED_OFF,
    UNUSABLE,
    RowGiven,
    RowWanted,
)
from edge_node.tasks.hosting import Hosting, HostingLimits, OffloadReceived
from edge_node.telemetry.metrics import NodeMetrics
from tests.dispatch.one_node import OWN, PEER
from tests.dispatch.parts import (
    READY,
    HandClock,
    SetWorker,
    a_view,
    own_node,
    peer_state,
    text,
)
from tests.tasks.test_hosting import offload

NUMBERS = Latents(dtype="float16", shape_CHW=(1, 1, 1), latent=bytes(2))
WANTED = RowWanted(
    task_id=TaskId("own-1"),
    fence=Fence(1, 1),
    drawing=text(),
    fingerprint=ModelFingerprint("f"),
    step=2,
    latents=NUMBERS,
    pair_s=1.0,
    row_s=0.5,
)
SERVED = ServedModel(
    name="m",
    fingerprint=ModelFingerprint("f"),
    work_model=WorkModel(fixed_steps=1.0, unguided_ratio=0.5, reference_px=64),
    size_px_min=16,
    size_px_max=64,
    size_px_multiple=16,
    steps_max=50,
    steps_default=4,
    guidance_scale_default=5.0,
    guidance_scale_max=10.0,
    strength_default=0.5,
    prompt_chars_max=1000,
)
Answer = Callable[[RowWanted], RowGiven]


class Helper:
    """In place of PEER, which answers as it is set."""

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self.asked: list[RowWanted] = []
        self.answer: Answer | Exception = lambda wanted: wanted.computed(NUMBERS, took_s=0.4)
        self.takes_s = 0.4 + EXCHANGE_S

        self.others: dict[str, Helper] = {}

    def client(self, node_id: str) -> Any:
        return self if node_id == PEER else self.others.get(node_id)

    async def compute_row(self, wanted: RowWanted, *, timeout_s: float) -> RowGiven:
        self.asked.append(wanted)
        self._clock.time_s += self.takes_s
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(wanted)


class RowWorker(SetWorker):
    """A worker that computes rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[RowWanted] = []
        self.broken = False

    async def give_row(self, wanted: RowWanted) -> RowGiven:
        if self.broken:
            raise WorkerUnavailable("it is away")
        self.rows.append(wanted)
        return wanted.computed(NUMBERS, took_s=0.4)


class Made:
    """This node draws, and PEER idles."""

    def __init__(self, helping: Any = "guidance", **state: Any) -> None:
        self.clock, self.worker = HandClock(), RowWorker()
        self.worker.description = READY
        self.view, self.hosting = a_view(self.clock), Hosting(HostingLimits())
        self.metrics, self.peer = NodeMetrics(), Helper(self.clock)
        self.node = own_node(self.clock, self.worker, view=self.view, hosting=self.hosting)
        self.served = replace(SERVED, fingerprint=READY.model_fingerprint)
        self.state = peer_state(
            capacity=1.0,
            serves=(self.served,),
            model_fingerprint=READY.model_fingerprint,
            **state,
        )
        self.heard()
        self.helping = Helping(
            HelpingSettings(helping=helping),
            node=self.node,
            hosting=self.hosting,
            view=self.view,
            worker=self.worker,
            metrics=self.metrics,
            clock=self.clock,
        )
        peers: Any = self.peer
        self.helping.start(peers)

    def heard(self) -> None:
        self.state = replace(self.state, sequence=self.state.sequence + 1)
        self.view.state_received(self.state, now_s=self.clock.time_s)

    def ask(self, wanted: RowWanted = WANTED) -> str:
        self.heard()
        given = asyncio.run(self.helping.ask(wanted))
        assert (given.velocity is None) == bool(given.refused)
        return given.refused

    def give(self, wanted: RowWanted = WANTED, *, leader: str = "peer") -> str:
        asked = replace(wanted, leader=NodeId(leader))
        return asyncio.run(self.helping.give(asked)).refused

    def counted(self, name: str, outcome: str) -> float:
        value = self.metrics.registry.get_sample_value(name, {"outcome": outcome})
        return value or 0.0


def test_one_that_idles_is_asked_and_what_an_exchange_takes_is_learned() -> None:
    made = Made()
    assert made.ask() == ""
    assert made.peer.asked == [replace(WANTED, leader=OWN)]
    assert made.counted("dedgeai_rows_asked_total", "given") == 1.0
    # One from whom an exchange takes too long does not help any more.
    made.peer.takes_s = 0.4 + 3.0
    assert made.ask() == ""
    assert made.ask() == NOBODY_IDLE
    assert len(made.peer.asked) == 2


@pytest.mark.parametrize(
    "state",
    [
        {"accepting": False},
        {"queued": 1, "backlog": 5.0},
        {"running": 1, "backlog": 5.0},
        {"capacity": 0.5},
    ],
)
def test_who_has_work_or_takes_none_or_is_too_slow_is_not_asked(state: dict[str, Any]) -> None:
    made = Made()
    made.state = replace(made.state, **state)
    assert made.ask() == NOBODY_IDLE
    assert not made.peer.asked


def test_who_serves_other_weights_is_not_asked() -> None:
    made = Made()
    other = replace(made.served, fingerprint=ModelFingerprint("another"))
    made.state = replace(made.state, serves=(other,), model_fingerprint=ModelFingerprint("another"))
    assert made.ask() == NOBODY_IDLE


def refusing(why: str) -> Answer:
    return lambda wanted: wanted.refused(why)


@pytest.mark.parametrize("why", [BUSY, LEASED, SWITCHED_OFF, ANOTHER_MODEL])
def test_where_one_says_no_the_next_is_asked_for_the_same_row(why: str) -> None:
    made, third = Made(), NodeId("third")
    made.peer.others = {third: Helper(made.clock)}
    slower = replace(made.state, node_id=third, capacity=0.9, grpc_address="third:9080")
    made.view.state_received(slower, now_s=made.clock.time_s)
    made.peer.answer = refusing(why)
    assert made.ask() == ""
    assert len(made.peer.asked) == len(made.peer.others[third].asked) == 1
    assert made.counted("dedgeai_rows_asked_total", "given") == 1.0
    made.peer.others[third].answer = refusing(why)
    assert made.ask() == why, "nobody is asked twice, however long an answer takes"
    assert len(made.peer.others[third].asked) == 2


@pytest.mark.parametrize(
    ("answer", "told", "aside_s"),
    [
        (refusing(BUSY), BUSY, BUSY_S),
        (refusing(LEASED), LEASED, BUSY_S),
        (refusing(SWITCHED_OFF), SWITCHED_OFF, NEVER_S),
        (refusing(ANOTHER_MODEL), ANOTHER_MODEL, NEVER_S),
        (OriginUnavailable("gone"), NO_ANSWER, FAILED_S),
        (lambda _: replace(WANTED, step=1).computed(NUMBERS, took_s=0.4), UNUSABLE, FAILED_S),
    ],
)
def test_who_gave_nothing_is_left_alone_for_a_while(
    answer: Answer | Exception, told: str, aside_s: float
) -> None:
    made = Made()
    made.peer.answer = answer
    assert made.ask() == told
    since_s = made.clock.time_s
    made.clock.time_s = since_s + 0.9 * aside_s
    assert made.ask() == NOBODY_IDLE
    made.clock.time_s = since_s + 1.01 * aside_s
    made.ask()
    assert len(made.peer.asked) == 2


def test_one_that_never_answers_is_given_up() -> None:
    made = Made()

    class Frozen(Helper):
        async def compute_row(self, wanted: RowWanted, *, timeout_s: float) -> RowGiven:
            await asyncio.sleep(60.0)
            raise AssertionError("nobody waits so long")

    peers: Any = Frozen(made.clock)
    made.helping.start(peers)
    quick = replace(WANTED, pair_s=0.05, row_s=0.025)
    made.state = replace(made.state, capacity=100.0)
    assert made.ask(quick) == NO_ANSWER


def test_its_state_says_who_helps_what_is_drawn_here() -> None:
    made = Made()
    hosted = offload(1, attempt=1)
    made.hosting.handle(OffloadReceived(offload=hosted, now_s=100.0))
    wanted = replace(WANTED, task_id=hosted.task_id, fence=hosted.fence)
    assert made.node.state().helped_by is None
    before = made.node.state().sequence
    made.ask(wanted)
    assert (made.node.state().helped_by, made.node.state().sequence) == (PEER, before + 1)
    made.ask(replace(wanted, step=3))
    assert made.node.state().sequence == before + 1, "told when it changes"
    made.peer.answer = refusing(BUSY)
    made.ask(replace(wanted, step=4))
    assert (made.node.state().helped_by, made.node.state().sequence) == (None, before + 2)
    made.peer.answer = lambda asked: asked.computed(NUMBERS, took_s=0.4)
    made.clock.time_s += 2 * BUSY_S
    made.ask(replace(wanted, step=5))
    assert made.node.state().helped_by == PEER
    made.hosting._drop(hosted.task_id)
    assert made.node.state().helped_by is None, "it is not drawn here any more"


def test_it_helps_one_node_at_a_time() -> None:
    made = Made()
    assert made.give() == ""
    assert made.give(leader="other") == LEASED
    # The next drawing of who is helped is helped, too.
    assert made.give(replace(WANTED, task_id=TaskId("peer-2"))) == ""
    assert made.give(leader="other") == LEASED
    made.clock.time_s += 60.0
    assert made.give(leader="other") == ""
    assert [row.leader for row in made.worker.rows] == ["peer", "peer", "other"]
    assert made.counted("dedgeai_rows_computed_total", "given") == 3.0
    seconds = made.metrics.registry.get_sample_value("dedgeai_rows_computed_seconds_total")
    assert seconds == pytest.approx(1.2)


def test_own_work_comes_first() -> None:
    made = Made()
    assert made.give() == ""
    made.hosting.handle(OffloadReceived(offload=offload(1, attempt=1), now_s=100.0))
    assert made.give() == BUSY
    assert len(made.worker.rows) == 1


def test_a_worker_that_is_away_computes_nothing() -> None:
    made = Made()
    made.worker.broken = True
    assert made.give() == BUSY


def test_where_it_is_switched_off_nobody_helps_nor_asks() -> None:
    made = Made(helping="none")
    assert not hasattr(made.worker, "shares")
    assert made.give() == SWITCHED_OFF
    assert hasattr(Made().worker, "shares")
