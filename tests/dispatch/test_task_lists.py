"""Lists of one node and of the cluster, by values: what is where, and who does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_node.dispatch import task_lists
from edge_node.dispatch.bulk_cancel import ClusterCancel
from edge_node.dispatch.entrance import EntranceSettings
from edge_node.dispatch.other_nodes import OtherNodes
from edge_node.dispatch.task_lists import ClusterList
from edge_node.domain import NodeId, TaskId, TaskRecord, TaskStatus
from edge_node.errors import DEdgeAIError, SetAside
from edge_node.listing import (
    Cancelled,
    ClusterPage,
    Listed,
    Missing,
    Place,
    TaskFilter,
    TaskPage,
    newest,
    place_of,
)
from edge_node.tasks.admission import AdmissionLimits
from tests.dispatch.one_node import OWN, PEER, run
from tests.dispatch.parts import SetPeers, peer_state, text
from tests.dispatch.test_own_tasks import TASK, Origin

EVERY = TaskFilter()


def over(name: str, at_s: float, **changes: Any) -> TaskRecord:
    task = replace(TASK, id=TaskId(name), created_unix_s=at_s)
    done = TaskRecord(task=task, status=TaskStatus.COMPLETED, finished_unix_s=at_s + 1.0)
    return replace(done, **changes)


class Theirs(SetPeers):
    """A peer with tasks of its own, which answers, fails or is silent."""

    def __init__(self) -> None:
        super().__init__()
        self.records = [over(f"peer-{number}", 10.0 * number) for number in range(1, 6)]
        self.problem: DEdgeAIError | None = None
        self.silent = False
        self.cancels: list[TaskFilter] = []
        self.asked: list[tuple[TaskFilter, Place | None, int, NodeId]] = []

    async def cancel_tasks(self, wanted: TaskFilter) -> int:
        self.cancels.append(wanted)
        if self.problem is not None:
            raise self.problem
        return 3

    async def list_tasks(
        self, wanted: TaskFilter, *, before: Place | None, count: int, owner: NodeId
    ) -> TaskPage:
        self.asked.append((wanted, before, count, owner))
        if self.problem is not None:
            raise self.problem
        if self.silent:
            await asyncio.Event().wait()
        return newest(self.records, wanted, before=before, count=count)


class Desk:
    def __init__(self, folder: Path) -> None:
        self.node = Origin(folder)
        self.peers = Theirs()
        self.others = OtherNodes(view=self.node.view, peers=self.peers, clock=self.node.clock)
        self.cluster = ClusterList(self.node.dispatcher.own_list, own_id=OWN, others=self.others)

    async def page(self, *, count: int = 9, **wanted: Any) -> ClusterPage:
        return await self.cluster.page(TaskFilter(**wanted), before=None, count=count)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def ids(page: TaskPage) -> list[str]:
    return [one.record.task.id for one in page.listed]


def on(desk: Desk, story: Callable[[], Awaitable[None]]) -> None:
    run(desk.node, story)


def test_a_nodes_own_are_open_ones_in_memory_and_those_that_are_over(desk: Desk) -> None:
    async def story() -> None:
        await desk.node.start()
        desk.node.own_device.held = True
        open_one = await desk.node.submit(text(), b"")
        for name in ("own-1", "own-2"):
            desk.node.stores.records[TaskId(name)] = over(name, float(name[-1]))
        # What memory knows of a task is newer than what is written.
        stale = replace(await desk.node.dispatcher.own_tasks.read_task(open_one))
        desk.node.stores.records[open_one] = replace(stale, queue_s=77.0)
        own = desk.node.dispatcher.own_list
        page = await own.page(EVERY, before=None, count=9)
        assert ids(page) == [open_one, "own-2", "own-1"]
        assert page.listed[0].record.queue_s == 0.0
        assert page.until is None
        first = await own.page(EVERY, before=None, count=1)
        assert (ids(first), first.until) == ([open_one], page.listed[0].place)
        queued = TaskFilter(statuses=frozenset({TaskStatus.COMPLETED}))
        assert ids(await own.page(queued, before=None, count=9)) == ["own-2", "own-1"]

    on(desk, story)


def test_pages_of_all_nodes_are_one_list_and_the_last_is_known(desk: Desk) -> None:
    for number in range(1, 5):
        name = f"own-{number}"
        desk.node.stores.records[TaskId(name)] = over(name, 10.0 * number + 5.0)

    async def story() -> None:
        before, seen, pages = None, [], 0
        while True:
            found = await desk.cluster.page(EVERY, before=before, count=3)
            assert found.missing == ()
            seen += ids(found.page)
            pages += 1
            if found.page.until is None:
                break
            before = found.page.until
        assert seen == [
            *("peer-5", "own-4", "peer-4", "own-3", "peer-3", "own-2", "peer-2", "own-1", "peer-1")
        ]
        assert pages == 3
        assert [count for _, _, count, _ in desk.peers.asked] == [4, 4, 4]
        assert {owner for *_, owner in desk.peers.asked} == {PEER}

    on(desk, story)


def test_what_is_wanted_is_asked_of_everyone(desk: Desk) -> None:
    desk.peers.records[0] = over("peer-1", 3.0, status=TaskStatus.FAILED)

    async def story() -> None:
        failed = frozenset({TaskStatus.FAILED})
        assert ids((await desk.page(statuses=failed)).page) == ["peer-1"]
        assert desk.peers.asked[0][0] == TaskFilter(statuses=failed)

    on(desk, story)


def test_who_does_not_answer_is_named_and_the_others_are_listed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_lists, "ANSWER_S_MAX", 0.05)
    desk.node.stores.records[TaskId("own-1")] = over("own-1", 1.0)

    async def missing(*expected: Missing) -> None:
        found = await desk.page()
        assert (ids(found.page), found.missing) == (["own-1"], expected)

    async def story() -> None:
        desk.peers.silent = True
        await missing(Missing(node_id=PEER, why="It did not answer within 0.05 s."))
        desk.peers.problem = SetAside("node peer broke the rules of the wire too often.")
        await missing(Missing(node_id=PEER, why=desk.peers.problem.message))
        desk.peers.there = False
        await missing(Missing(node_id=PEER, why="Nothing leads to it at present."))
        desk.peers.addresses = {"10.0.0.3:9080": None}
        desk.peers.away.add(NodeId("gone"))
        await missing(
            Missing(node_id=None, address="10.0.0.3:9080", why="No node has been met there."),
            Missing(node_id=NodeId("gone"), why="It has left the cluster."),
        )

    on(desk, story)


def test_a_silent_node_is_not_waited_for(desk: Desk) -> None:
    clock = desk.node.clock

    async def story() -> None:
        desk.node.view.state_received(peer_state(), now_s=clock.now_s())
        clock.time_s += 42.0
        found = await desk.page()
        assert found.missing == (Missing(node_id=PEER, why="It has not been heard for 42 s."),)
        assert desk.peers.asked == []

    on(desk, story)


def test_without_its_store_a_node_lists_what_it_has_in_memory_and_says_so(desk: Desk) -> None:
    async def story() -> None:
        await desk.node.start()
        desk.peers.addresses = {}
        desk.node.own_device.held = True
        open_one = await desk.node.submit(text(), b"")
        desk.node.stores.available = False
        found = await desk.page()
        assert ids(found.page) == [open_one]
        assert found.missing == (Missing(node_id=OWN, why="The store is away."),)

    on(desk, story)


def test_what_is_not_accepted_yet_is_in_no_list(desk: Desk) -> None:
    async def story() -> None:
        await desk.node.start()
        desk.peers.addresses = {}
        desk.node.stores.may_append.clear()
        submitting = asyncio.create_task(desk.node.submit(text(), b""))
        async with asyncio.timeout(5):
            while not desk.node.stores.appended:
                await asyncio.sleep(0)
        assert ids((await desk.page()).page) == []
        desk.node.stores.may_append.set()
        accepted = await submitting
        listed = (await desk.page()).page.listed
        assert [one.record.task.id for one in listed] == [accepted]
        assert listed == (Listed(place=place_of(listed[0].record), record=listed[0].record),)

    on(desk, story)


def test_what_is_meant_is_cancelled_everywhere_before_anybody_is_told(desk: Desk) -> None:
    cancelling = ClusterCancel(desk.node.dispatcher.own_cancel, others=desk.others)

    async def story() -> None:
        await desk.node.start()
        desk.node.own_device.held = True
        submit = desk.node.dispatcher.own_tasks.submit
        limits = desk.node.settings
        roomy = EntranceSettings(admission=AdmissionLimits(tasks_in_flight_max=50))
        many = replace(limits.own_tasks, entrance=roomy)
        desk.node.dispatcher.reconfigure(replace(limits, own_tasks=many))
        made = {}
        for client in ("ab12", "cd34"):
            done = await submit([text()] * 3, durable=True, client=client)
            made[client] = [record.task.id for record in done.records]
        wanted = TaskFilter(client="ab12")
        assert await cancelling.cancel(wanted) == Cancelled(count=6)
        assert desk.peers.cancels == [wanted]
        for client, is_over in (("ab12", True), ("cd34", False)):
            for task_id in made[client]:
                record = await desk.node.dispatcher.own_tasks.read_task(task_id)
                assert (record.status is TaskStatus.CANCELLED) == is_over
        # Nothing of them is left to cancel; and who does not answer is named.
        desk.peers.problem = SetAside("node peer broke the rules of the wire too often.")
        gap = Missing(node_id=PEER, why=desk.peers.problem.message)
        assert await cancelling.cancel(wanted) == Cancelled(count=0, missing=(gap,))
        assert (await cancelling.cancel(EVERY)).count == 3

    on(desk, story)


def test_twice_its_share_is_asked_of_each_and_the_rest_of_who_ends_first(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_lists, "SHARE_MORE", 0)
    desk.peers.records = [over(f"peer-{number}", float(number)) for number in range(100, 140)]
    for number in range(90, 99):
        desk.node.stores.records[TaskId(f"own-{number}")] = over(f"own-{number}", float(number))

    async def story() -> None:
        desk.peers.addresses["10.0.0.3:9080"] = NodeId("third")
        desk.peers.addresses["10.0.0.4:9080"] = NodeId("fourth")
        found = await desk.page(count=20)
        assert ids(found.page) == [f"peer-{number}" for number in range(139, 119, -1)]
        assert found.page.until == found.page.listed[-1].place
        assert [count for _, _, count, _ in desk.peers.asked] == [10, 11]
        assert {one.node_id for one in found.missing} == {"third", "fourth"}
        assert len(found.missing) == 2
        rest = await desk.cluster.page(EVERY, before=found.page.until, count=25)
        assert ids(rest.page) == [
            *(f"peer-{number}" for number in range(119, 99, -1)),
            *(f"own-{number}" for number in range(98, 93, -1)),
        ]
        # Who falls silent meanwhile is missing, and the page ends where his part does.
        desk.peers.asked.clear()
        list_tasks = desk.peers.list_tasks

        async def once(*given: Any, **asked: Any) -> TaskPage:
            if desk.peers.asked:
                raise SetAside("node peer broke the rules of the wire too often.")
            return await list_tasks(*given, **asked)

        with monkeypatch.context() as patched:
            patched.setattr(desk.peers, "list_tasks", once)
            short = await desk.page(count=20)
        assert ids(short.page) == [f"peer-{number}" for number in range(139, 129, -1)]
        assert short.page.until == short.page.listed[-1].place
        assert PEER in {one.node_id for one in short.missing}
        # What is looked for and not found is not looked for twice.
        desk.peers.asked.clear()
        nothing_yet = TaskPage(until=place_of(desk.peers.records[5]))

        async def looked_some_way(*_: Any, **__: Any) -> TaskPage:
            desk.peers.asked.append((EVERY, None, 0, PEER))
            return nothing_yet

        monkeypatch.setattr(desk.peers, "list_tasks", looked_some_way)
        assert (await desk.page(count=20)).page == nothing_yet
        assert len(desk.peers.asked) == 1

    on(desk, story)
