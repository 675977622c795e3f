"""The order in which what clients wrote leaves a node and its peers, by values."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_node.dispatch.dead_letters import DeadLetterDesk
from edge_node.dispatch.eraser import Eraser, EraserSettings, Holders
from edge_node.domain import NodeId, TaskError, TaskId, TaskRecord, TaskStatus
from edge_node.erasure import COPY_MARGIN_S, Owed, has_words, owed_of, without_words
from edge_node.errors import OriginUnavailable, StoreUnavailable, TaskErased
from edge_node.store.init_images import JUST_NAMED_S, InitImages
from edge_node.tasks import lifecycle_protocol as life
from tests.dispatch.nothing_erased import NothingErased
from tests.dispatch.parts import Heard
from tests.dispatch.test_own_tasks import TASK
from tests.set_clock import SetClock

PNG = b"png"
SHA256 = hashlib.sha256(PNG).hexdigest()
FAR = NodeId("far")
ENDED = TaskRecord(
    task=replace(
        TASK,
        drawing=replace(TASK.drawing, init_image_sha256=SHA256),
        deadline_unix_s=2000.0,
    ),
    status=TaskStatus.COMPLETED,
    finished_unix_s=1000.0,
)
TASK_ID = ENDED.task.id


class Book(NothingErased):
    """Notes what is owed, as the store does."""

    def __init__(self) -> None:
        self.noted: dict[TaskId, Owed] = {}
        self.old: list[TaskId] = []
        self.begun = self.rewrites = 0

    async def begin(self) -> None:
        self.begun += 1

    async def erase(self, record: TaskRecord) -> Owed:
        owed = owed_of(record, whole=True, unix_s=1000.0)
        self.noted[record.task.id] = owed
        return owed

    async def take_words(self, *, finished_before_unix_s: float) -> list[TaskId]:
        taken, self.old = self.old, []
        return taken

    async def owed(self) -> list[Owed]:
        return list(self.noted.values())

    async def settled(self, task_ids: Any) -> None:
        for task_id in task_ids:
            del self.noted[task_id]

    async def rewrite_file(self) -> None:
        self.rewrites += 1


class World:
    """All else that the eraser asks: what is live, files, the pool, and one other node."""

    def __init__(self, folder: Path) -> None:
        self.clock = SetClock()
        self.book = Book()
        self.heard = Heard()
        self.needed = False
        self.removed: list[TaskId] = []
        self.bared: list[TaskId] = []
        self.unlearned: list[str] = []
        self.written_of: list[TaskId] = []
        self.addresses: dict[str, NodeId | None] = {"far:1": FAR}
        self.answers: list[bool | Exception] = []
        self.init_images = InitImages(folder, bytes_max=999, keep_s_max=9e9, clock=self.clock)
        world: Any = self
        self.eraser = Eraser(
            EraserSettings(prompt_keep_s=50.0, task_keep_s=100.0),
            holders=Holders(world, self.book, world, self.init_images, world),
            own_tasks=world,
            lifecycle=world,
            hosting=world,
            inbox=world.heard,
            clock=self.clock,
        )
        self.eraser.start(world)

    # Lifecycle and hosting.

    def needs(self, init_image_sha256: str) -> bool:
        return self.needed

    def hosted(self) -> tuple[Any, ...]:
        return ()

    # Own tasks, ledger, images, pool.

    async def cancel(self, task_id: TaskId) -> TaskRecord:
        return ENDED

    async def written(self, task_id: TaskId) -> None:
        self.written_of.append(task_id)

    async def remove(self, task_ids: Any) -> None:
        self.removed += task_ids

    async def forget_words(self, task_ids: Any) -> None:
        self.bared += task_ids

    async def forget(self, task_id: str) -> None:
        self.unlearned.append(task_id)

    # Peers, and the one that is reached.

    def client(self, node_id: NodeId) -> Any:
        return self

    async def forget_task(self, task_id: TaskId, *, init_image_sha256: str) -> bool:
        assert (task_id, init_image_sha256) == (TASK_ID, SHA256)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def with_image(world: World) -> None:
    await world.init_images.start()
    await world.init_images.write(SHA256, PNG, needed_until_unix_s=None)
    world.clock.now += JUST_NAMED_S


def test_all_that_is_held_goes_and_is_owed_no_more(world: World) -> None:
    async def story() -> None:
        await with_image(world)
        world.answers = [True]
        await world.eraser.erase(TASK_ID)
        assert world.written_of == world.removed == world.unlearned == [TASK_ID]
        assert world.heard == [life.TasksForgotten(task_ids=(TASK_ID,))]
        assert world.init_images.bytes_stored == 0
        assert world.book.noted == {}

    asyncio.run(story())


def test_who_does_not_answer_is_asked_again_until_he_has_nothing_any_more(world: World) -> None:
    async def story() -> None:
        await with_image(world)
        world.addresses["near:1"] = NodeId("near")
        world.answers = [OriginUnavailable("away"), True, False, True]
        await world.eraser.erase(TASK_ID)
        assert TASK_ID in world.book.noted
        await world.eraser.look()
        assert TASK_ID in world.book.noted, "another task needs it there"
        await world.eraser.look()
        assert world.answers == [], "who has nothing is not asked again"
        assert world.book.noted == {}
        assert world.unlearned == [TASK_ID], "once"

    asyncio.run(story())


def test_who_is_never_met_has_removed_it_by_the_deadline(world: World) -> None:
    async def story() -> None:
        world.addresses = {"far:1": None}
        await world.eraser.erase(TASK_ID)
        world.clock.now = 2000.0 + COPY_MARGIN_S
        await world.eraser.look()
        assert TASK_ID in world.book.noted
        world.clock.now += 1.0
        await world.eraser.look()
        assert world.book.noted == {}

    asyncio.run(story())


def test_an_image_that_another_task_starts_from_stays_until_that_is_over(world: World) -> None:
    async def story() -> None:
        await with_image(world)
        world.needed, world.answers = True, [True]
        await world.eraser.erase(TASK_ID)
        assert await world.init_images.read(SHA256) == PNG
        assert not await world.eraser.forget_hosted(TASK_ID, SHA256)
        world.needed = False
        await world.eraser.look()
        assert world.init_images.bytes_stored == 0
        assert world.book.noted == {}
        assert await world.eraser.forget_hosted(TASK_ID, SHA256)

    asyncio.run(story())


def test_a_disk_that_fails_is_tried_again_and_the_client_has_its_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(task_ids: Any) -> None:
        raise OSError("disk")

    async def story() -> None:
        world.addresses = {}
        with monkeypatch.context() as broken:
            broken.setattr(world, "remove", fails)
            await world.eraser.erase(TASK_ID)
            assert TASK_ID in world.book.noted
            with pytest.raises(OSError, match="disk"):
                await world.eraser.look()
        await world.eraser.look()
        assert world.book.noted == {}
        assert world.removed == [TASK_ID]

    asyncio.run(story())


def test_what_was_sent_counts_as_words_where_nothing_was_written() -> None:
    drawing = replace(ENDED.task.drawing, prompt="", negative_prompt="")
    variation = replace(ENDED, task=replace(ENDED.task, drawing=drawing))
    assert has_words(variation)
    assert not has_words(without_words(variation))


def test_one_that_cannot_be_removed_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = TaskId("own-0000000002")

    async def remove(task_ids: Any) -> None:
        if TASK_ID in task_ids:
            raise OSError("disk")
        world.removed += task_ids

    async def story() -> None:
        world.addresses = {}
        monkeypatch.setattr(world, "remove", remove)
        for one in (TASK_ID, other):
            record = replace(ENDED, task=replace(ENDED.task, id=one))
            await world.book.erase(record)
        with pytest.raises(OSError, match="disk"):
            await world.eraser.look()
        assert world.book.noted.keys() == {TASK_ID}
        assert world.removed == world.unlearned == [other]

    asyncio.run(story())


def test_a_store_that_is_away_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(record: TaskRecord) -> Owed:
        raise StoreUnavailable("away")

    async def story() -> None:
        monkeypatch.setattr(world.book, "erase", away)
        with pytest.raises(StoreUnavailable):
            await world.eraser.erase(TASK_ID)
        assert world.removed == [], "nothing goes before it is noted"
        assert world.heard == []

    asyncio.run(story())


def test_words_that_are_old_go_from_memory_and_from_the_store(world: World) -> None:
    async def story() -> None:
        world.book.old = [TASK_ID]
        world.book.noted[TASK_ID] = replace(
            owed_of(ENDED, whole=False, unix_s=0.0), init_image_sha256=""
        )
        await world.eraser.look()
        assert world.heard == [life.TasksForgotten(ended_before_unix_s=950.0)]
        assert world.book.old == []
        assert (world.bared, world.removed, world.unlearned) == ([TASK_ID], [], [])
        assert (world.book.begun, world.book.rewrites) == (1, 1)
        # Whole tasks are housekeeping's, where words are kept as long.
        world.eraser.settings = EraserSettings(prompt_keep_s=100.0, task_keep_s=100.0)
        world.book.old = [TASK_ID]
        world.clock.now += 99.0
        await world.eraser.look()
        assert world.book.old == [TASK_ID]
        assert world.book.begun == 1

    asyncio.run(story())


def test_a_dead_letter_that_has_lost_its_words_is_not_retried(world: World) -> None:
    error = TaskError(code="attempts_exhausted", message="no")
    given_up = without_words(replace(ENDED, status=TaskStatus.FAILED, error=error))

    async def read_task(task_id: TaskId) -> TaskRecord:
        return given_up

    async def story() -> None:
        own_tasks: Any = SimpleNamespace(read_task=read_task)
        letters: Any = None
        desk = DeadLetterDesk(letters, own_tasks=own_tasks, init_images=world.init_images)
        with pytest.raises(TaskErased, match="prompt_keep_s"):
            await desk.retry(TASK_ID)

    asyncio.run(story())
