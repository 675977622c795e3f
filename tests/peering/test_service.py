"""How calls of peers end, without a transport: what a simulated one relies on, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from edge_node.dispatch.told_reports import ToldReports
from edge_node.domain import (
    AttemptFailed,
    AttemptHeartbeat,
    Drawing,
    Fence,
    JobId,
    NodeId,
    NodeState,
    Offload,
    TaskId,
)
from edge_node.errors import InitImagesFull, NotTheCaller
from edge_node.moves import WantedTask
from edge_node.peering.caller import Caller
from edge_node.peering.service import PeerService
from tests.peering.nothing_learned import NothingLearned

OFFLOAD = Offload(
    task_id=TaskId("a-1"),
    fence=Fence(1, 2),
    origin=NodeId("a"),
    incarnation=3,
    dispatch=4,
    drawing=Drawing(
        prompt="p", width_px=64, height_px=64, steps=3, guidance_scale=5.0, seed=1, model="m"
    ),
    work=3.5,
)
STATE = NodeState(node_id=NodeId("a"), incarnation=1, sequence=1)
END = AttemptFailed(code="seen", message="That is all.", retryable=False)


class Named:
    """An own node that has a name."""

    id = NodeId("own")


@dataclass
class Rest:
    """The dispatcher and the links, as far as they are asked."""

    reports: ToldReports = field(default_factory=ToldReports)
    unhosted: list[tuple[TaskId, Fence, object]] = field(default_factory=list)
    greeted: list[tuple[NodeState, str | None]] = field(default_factory=list)
    known: dict[NodeId, str] = field(default_factory=dict)
    answered: list[NodeId] = field(default_factory=list)
    streams: int = 0
    refusal: Exception | None = None

    @property
    def executor(self) -> Rest:
        return self

    @property
    def own_node(self) -> Named:
        return Named()

    async def host(self, offload: Offload, *, init_image: bytes) -> ToldReports:
        assert (offload, init_image) == (OFFLOAD, b"png")
        if self.refusal is not None:
            raise self.refusal
        return self.reports

    def unhost(self, task_id: TaskId, fence: Fence, reports: object) -> None:
        self.unhosted.append((task_id, fence, reports))

    def hello(self, state: NodeState, *, host: str | None, proven: bool) -> None:
        assert not proven
        self.greeted.append((state, host))

    def speaks_for(self, node_id: NodeId, host: str | None) -> bool:
        return self.known.get(node_id) == host

    @contextmanager
    def answering(self, node_id: NodeId) -> Iterator[None]:
        self.answered.append(node_id)
        try:
            yield
        finally:
            self.answered.remove(node_id)

    async def own_states(self) -> AsyncGenerator[NodeState, None]:
        self.streams += 1
        try:
            while True:
                yield STATE
                await asyncio.sleep(0.001)
        finally:
            self.streams -= 1


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(10):
            await story()

    asyncio.run(in_time())


def service(rest: Rest) -> PeerService:
    parts: Any = rest
    return PeerService(parts, parts, NothingLearned())


def test_an_attempt_is_followed_to_its_end_and_given_back() -> None:
    async def story() -> None:
        rest = Rest()
        for report in (AttemptHeartbeat(queue_position=1), END, END):
            rest.reports.put_nowait(report)
        told = [r async for r in service(rest).offload(OFFLOAD, init_image=b"png")]
        assert told == [AttemptHeartbeat(queue_position=1), END]
        assert rest.unhosted == [(TaskId("a-1"), Fence(1, 2), rest.reports)]

    run(story)


@pytest.mark.parametrize("how", ["closes", "is cancelled"])
def test_an_origin_that_hangs_up_gives_its_attempt_back(how: str) -> None:
    async def story() -> None:
        rest = Rest()
        rest.reports.put_nowait(AttemptHeartbeat(queue_position=1))

        async def follow() -> None:
            async with aclosing(service(rest).offload(OFFLOAD, init_image=b"png")) as reports:
                async for _ in reports:
                    if how == "closes":
                        return

        following = asyncio.create_task(follow())
        while rest.reports.qsize():
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        if how == "is cancelled":
            assert rest.unhosted == []
            following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert rest.unhosted == [(TaskId("a-1"), Fence(1, 2), rest.reports)]

    run(story)


def test_what_was_never_hosted_is_not_given_back() -> None:
    async def story() -> None:
        rest = Rest(refusal=InitImagesFull("No room.", retry_after_s=1.0))
        with pytest.raises(InitImagesFull):
            await anext(service(rest).offload(OFFLOAD, init_image=b"png"))
        assert rest.unhosted == []

    run(story)


def test_states_flow_both_ways_until_the_caller_falls_silent() -> None:
    async def story() -> None:
        rest = Rest()
        said = [NodeState(node_id=NodeId("b"), incarnation=1, sequence=n) for n in (1, 2)]

        async def caller() -> AsyncGenerator[NodeState, None]:
            for state in said:
                yield state
                await asyncio.sleep(0.01)

        exchange = service(rest).exchange_state(caller(), caller=Caller(host="10.0.0.2"))
        told = [state async for state in exchange]
        assert rest.greeted == [(said[0], "10.0.0.2"), (said[1], "10.0.0.2")]
        assert len(told) > 2
        assert set(map(id, told)) == {id(STATE)}
        assert rest.streams == 0

    run(story)


@pytest.mark.parametrize(("host", "answered"), [("10.0.0.2", ["b"]), ("10.0.0.9", [])])
def test_only_who_is_met_where_he_calls_from_counts_as_answered(
    host: str, answered: list[str]
) -> None:
    async def story() -> None:
        rest = Rest(known={NodeId("b"): "10.0.0.2"})

        async def caller() -> AsyncGenerator[NodeState, None]:
            yield NodeState(node_id=NodeId("b"), incarnation=1, sequence=1)
            await asyncio.sleep(1000)

        exchange = service(rest).exchange_state(caller(), caller=Caller(host=host))
        async with aclosing(exchange) as states:
            async for _ in states:
                if rest.greeted:
                    break
            assert rest.answered == answered
        assert rest.answered == []

    run(story)


def test_a_caller_whose_stream_breaks_is_listened_to_no_longer() -> None:
    async def story() -> None:
        rest = Rest()

        async def caller() -> AsyncGenerator[NodeState, None]:
            raise ConnectionResetError
            yield STATE

        told = [s async for s in service(rest).exchange_state(caller(), caller=Caller())]
        assert len(told) <= 2
        assert (rest.greeted, rest.streams) == ([], 0)

    run(story)


def test_a_caller_that_closes_the_exchange_is_listened_to_no_longer() -> None:
    async def story() -> None:
        rest = Rest()
        listening = 0

        async def caller() -> AsyncGenerator[NodeState, None]:
            nonlocal listening
            listening += 1
            try:
                await asyncio.sleep(1000)
                yield STATE
            finally:
                listening -= 1

        async with aclosing(service(rest).exchange_state(caller(), caller=Caller())) as states:
            async for _ in states:
                if listening:
                    break
        assert (listening, rest.streams) == (0, 0)

    run(story)


class Answers:
    """Own tasks and an own node that answer with what they were asked."""

    def __init__(self) -> None:
        self.own_tasks = self.own_node = self.executor = self.mover = self
        self.id = NodeId("own")
        self.cancelled: list[Any] = []
        self.handed_over: list[Any] = []
        self.given: list[WantedTask] = []

    def state(self) -> NodeState:
        return STATE

    async def read_task(self, task_id: TaskId) -> str:
        return f"task {task_id}"

    async def read_job(self, job_id: JobId) -> str:
        return f"job {job_id}"

    async def cancel(self, task_id: TaskId) -> str:
        return f"cancelled {task_id}"

    async def read_image(self, task_id: TaskId) -> str:
        return f"image of {task_id}"

    def watch(self, task_id: TaskId, *, after: int) -> str:
        return f"{task_id} after {after}"

    def cancel_hosted(self, *attempt: Any) -> None:
        self.cancelled.append(attempt)

    def hand_over_hosted(self, *attempt: Any) -> None:
        self.handed_over.append(attempt)

    def give(self, wanted: WantedTask) -> bool:
        self.given.append(wanted)
        return True


def test_what_peers_ask_of_this_nodes_tasks_is_answered_by_them() -> None:
    answers: Any = Answers()
    peers = PeerService(answers, answers, NothingLearned())
    told: list[Any] = []

    async def story() -> None:
        told.append(await peers.read_task(OFFLOAD.task_id))
        told.append(await peers.read_job(JobId("a-2")))
        told.append(await peers.cancel_task(OFFLOAD.task_id))
        told.append(await peers.fetch_image(OFFLOAD.task_id))

    run(story)
    told.append(peers.watch_task(OFFLOAD.task_id, after=3))
    assert told == ["task a-1", "job a-2", "cancelled a-1", "image of a-1", "a-1 after 3"]
    peers.cancel_offload(OFFLOAD.task_id, OFFLOAD.fence)
    peers.hand_over(OFFLOAD.task_id, OFFLOAD.fence)
    assert answers.cancelled == [(OFFLOAD.task_id, OFFLOAD.fence)]
    assert answers.handed_over == [(OFFLOAD.task_id, OFFLOAD.fence)]
    wanted = WantedTask(task_id="own-1", fence=(1, 1), taker="b", reason="idle", gain_s=1.0)
    assert peers.take_task(wanted, caller=Caller(node_id=NodeId("b")))
    with pytest.raises(NotTheCaller):
        peers.take_task(wanted, caller=Caller(node_id=NodeId("c")))
    assert answers.given == [wanted]
    assert peers.own_state() is STATE
