"""What happens at a node in one order, and in the cluster as one stream: by values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_node.dispatch import cluster_events, journal
from edge_node.dispatch.cluster_events import ClusterEvents
from edge_node.dispatch.journal import NUMBERS_OF_A_LIFE
from edge_node.domain import NodeId, TaskEvent, TaskEventKind, TaskId
from edge_node.errors import OriginUnavailable
from edge_node.happenings import ClusterEvent, Happened, NodeSeen
from tests.dispatch.one_node import OWN, PEER, run
from tests.dispatch.parts import SetPeers, peer_state, text
from tests.dispatch.test_own_tasks import Origin

FIRST = NUMBERS_OF_A_LIFE + 1


@pytest.fixture
def node(tmp_path: Path) -> Origin:
    return Origin(tmp_path)


async def submitted(node: Origin, client: str = "") -> TaskId:
    node.admits(50)
    done = await node.dispatcher.own_tasks.submit([text()], durable=True, client=client)
    return done.records[0].task.id


async def some(source: AsyncGenerator[Any, None], count: int) -> list[Any]:
    async with aclosing(source) as items:
        return [await anext(items) for _ in range(count)]


def kinds(happenings: list[Happened]) -> list[tuple[int, str]]:
    return [(one.number, one.event.kind.value) for one in happenings if one.event is not None]


def test_all_tasks_are_told_in_one_order_with_numbers_of_this_life(node: Origin) -> None:
    async def story() -> None:
        await node.start()
        book = node.dispatcher.journal
        reading = asyncio.create_task(some(book.read(after=None, client=""), 7))
        await asyncio.sleep(0)
        first, second = await submitted(node, "ab12"), await submitted(node, "cd34")
        here, *happenings = await reading
        assert here == Happened(number=NUMBERS_OF_A_LIFE)
        assert [one.number for one in happenings] == list(range(FIRST, FIRST + 6))
        assert {one.task_id for one in happenings} == {first, second}
        of_first = [one.event.kind.value for one in happenings if one.task_id == first]
        assert of_first == ["queued", "placed", "finished"]
        # One client's alone, and from where he was.
        hers = await some(book.read(after=FIRST, client="ab12"), 3)
        assert [one.client for one in hers[1:]] == ["ab12", "ab12"]
        assert hers[0] == Happened(number=FIRST)
        assert [one.event.kind.value for one in hers[1:]] == ["placed", "finished"]

    run(node, story)


def test_who_missed_something_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEPT_MAX", 4)
    small = Origin(tmp_path)

    async def story() -> None:
        await small.start()
        book = small.dispatcher.journal
        for _ in range(3):  # nine events
            task_id = await submitted(small)
            await small.dispatcher.own_tasks.until_final(task_id)
        last = NUMBERS_OF_A_LIFE + 9
        for after, is_missed in (
            (last, False),
            (last - 4, False),
            (last - 5, True),
            (NUMBERS_OF_A_LIFE, True),
            (57, True),  # of a former life
            (last + 1, True),  # of none
        ):
            (here,) = await some(book.read(after=after, client=""), 1)
            expected = last - 4 if is_missed else after
            assert here == Happened(number=expected, missed=is_missed), after
        told = await some(book.read(after=57, client=""), 5)
        assert [one.number for one in told] == list(range(last - 4, last + 1))

    run(small, story)


def test_previews_are_for_who_asks_for_them_and_the_latest_are_kept(
    node: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PICTURES_BYTES_MAX", 7)

    async def story() -> None:
        await node.start()
        book = node.dispatcher.journal
        task_id = await submitted(node)
        await node.dispatcher.own_tasks.until_final(task_id)
        event = TaskEvent(sequence=9, kind=TaskEventKind.STEP, unix_s=1.0, preview=b"png")
        book.note(task_id, event)
        book.note(TaskId("own-unknown"), event)
        *_, told = await some(book.read(after=NUMBERS_OF_A_LIFE, client=""), 5)
        assert told.event == replace(event, preview=b"", eta_s=told.event.eta_s)
        for step in (1, 2):
            book.note(task_id, replace(event, step=step))
        shown = book.read(after=told.number - 1, client="", previews=True)
        _, *latest = await some(shown, 4)
        assert [one.event.preview for one in latest] == [b"", b"png", b"png"]

    run(node, story)


def test_who_is_told_of_none_of_many_is_told_how_far_he_is(
    node: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "QUIET_MAX", 3)

    async def story() -> None:
        await node.start()
        book = node.dispatcher.journal
        task_id = await submitted(node, "ab12")
        await node.dispatcher.own_tasks.until_final(task_id)
        told = await some(book.read(after=NUMBERS_OF_A_LIFE, client="cd34"), 2)
        assert told == [Happened(number=NUMBERS_OF_A_LIFE), Happened(number=FIRST + 2)]

    run(node, story)


class Talking(SetPeers):
    """A peer at which things happen, over connections that break."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int | None, str, NodeId]] = []
        self.says: list[list[Happened]] = []

    async def watch_events(
        self, *, after: int | None, client: str, previews: bool, owner: NodeId
    ) -> AsyncGenerator[Happened, None]:
        self.asked.append((after, client, owner))
        if not self.says:
            await asyncio.Event().wait()
        assert previews
        for one in self.says.pop(0):
            yield one
        raise OriginUnavailable("the connection broke")


def test_the_cluster_is_one_stream_that_goes_on_where_a_connection_broke(
    node: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_events, "LOOK_S", 0.01)
    peers = Talking()
    event = TaskEvent(sequence=1, kind=TaskEventKind.QUEUED, unix_s=1.0)
    happened = [Happened(number=number, task_id=TaskId("peer-1"), event=event) for number in (6, 7)]
    peers.says = [[Happened(number=5), happened[0]], [Happened(number=6), happened[1]]]
    peers.addresses = {}

    async def story() -> None:
        await node.start()
        parts: Any = {"view": node.view, "peers": peers, "clock": node.clock}
        stream = ClusterEvents(node.dispatcher.journal, own_id=OWN, **parts)
        following = stream.follow(after={PEER: 4}, client="ab12", previews=True)
        seen: list[ClusterEvent] = []

        async def until(what: Any) -> None:
            async with asyncio.timeout(5):
                while what not in [one.what for one in seen]:
                    seen.append(await anext(following))

        await until(NodeSeen(alive=True, accepting=True))
        peers.addresses = {"10.0.0.2:9080": PEER}  # met only now
        await until(happened[1])
        assert peers.asked[:2] == [(4, "ab12", PEER), (6, "ab12", PEER)]
        node.view.state_received(
            replace(peer_state(), sequence=9, accepting=False), now_s=node.clock.now_s()
        )
        await until(NodeSeen(alive=True, accepting=False))
        node.clock.time_s += 60.0
        await until(NodeSeen(alive=False, accepting=False))
        await following.aclose()
        assert not node.dispatcher.journal._readers

    run(node, story)


def test_who_reads_slowly_is_told_of_steps_without_their_pictures(
    node: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_events, "PICTURES_WAITING_MAX", 3)
    peers = Talking()
    peers.addresses = {}

    async def story() -> None:
        await node.start()
        task_id = await submitted(node)
        await node.dispatcher.own_tasks.until_final(task_id)
        parts: Any = {"view": node.view, "peers": peers, "clock": node.clock}
        stream = ClusterEvents(node.dispatcher.journal, own_id=OWN, **parts)
        following = stream.follow(after={}, client="", previews=True)
        here = await anext(following)
        event = TaskEvent(sequence=9, kind=TaskEventKind.STEP, unix_s=1.0, preview=b"png")
        for step in range(1, 9):
            node.dispatcher.journal.note(task_id, replace(event, step=step))
        told: list[bytes] = []
        async with asyncio.timeout(5):
            while len(told) < 8:
                what = (await anext(following)).what
                if isinstance(what, Happened) and what.event is not None:
                    told.append(what.event.preview)
        assert isinstance(here, ClusterEvent)
        assert told[0] == b"png"
        assert b"" in told
        await following.aclose()

    run(node, story)
