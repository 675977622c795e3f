"""People who use a simulated cluster through any of its nodes, and what each was told.

They ask as clients of the REST surface do: submit and watch, come back after a broken connection,
give up, cancel, ask twice under one Idempotency-Key. What they were told is compared with what is
true at the end.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from edge_node.domain import (
    Drawing,
    NodeId,
    TaskEvent,
    TaskEventKind,
    TaskId,
    TaskRecord,
)
from edge_node.errors import (
    AdmissionRefused,
    DEdgeAIError,
    IdempotencyConflict,
    ImageNotReady,
    ModelAway,
    ModelNotFound,
    NodeNotReady,
    OriginUnavailable,
    StoreUnavailable,
    TaskNotFound,
)
from edge_node.listing import ClusterPage, Place, TaskFilter
from edge_node.requests import Idempotency, Submission
from edge_node.tasks.lifecycle_limits import EVENTS_OF_A_LIFE_MAX
from tests.cluster.network import Broken, Network, Unanswered
from tests.cluster.virtual_time import VirtualTime, process_loop

T = TypeVar("T")
KINDS = ("durable", "synchronous", "job", "keyed", "deadline", "init_image", "cancelling")
RETRY_S = 0.5


class InvariantBroken(AssertionError):
    """What must always hold did not."""


@dataclass
class Told:
    """All that was ever said of one task."""

    task_id: TaskId
    kind: str
    accepted: bool = False
    cancelled: bool = False
    gave_up: bool = False
    deadline_unix_s: float | None = None
    events: list[TaskEvent] = field(default_factory=list)
    final: TaskEvent | None = None
    image: bytes | None = None
    # The last part of the story has to be told anew when a store came back without the end.
    undone: int = 0


@dataclass
class Users:
    """Everyone who asks; on a machine of their own that never fails.

    Attributes:
        time: the clock.
        network: leads to the nodes.
        rng: what they want, and when.
        addresses: of all nodes.
        is_running: whether the node of that name has run for a while.
        told: by task.
        conflicts: how often another request under a known key was told so.
        models: that they ask for in turn.
        complaints: what should not have been.
        refused: how often a request was refused at once, by the code of the error.
        lists_read: how often a list of all tasks was read to its end.
    """

    time: VirtualTime
    network: Network
    rng: np.random.Generator
    addresses: list[str]
    is_running: Callable[[NodeId], bool]
    told: dict[TaskId, Told] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    conflicts: int = 0
    complaints: list[str] = field(default_factory=list)
    lists_read: int = 0
    name: str = "clients"
    models: tuple[str, ...] = ("m",)

    def __post_init__(self) -> None:
        self.loop = process_loop(self.time, "clients")

    def bug(self, error: Exception) -> None:
        """Nobody calls users."""

    def come(self, kind: str, index: int, at_s: float) -> None:
        """A user of that kind comes at that time."""
        wait_s = at_s - self.time.now_s
        self.loop.call_later(wait_s, lambda: self._begin(self._use(kind, index)))

    def _begin(self, doing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def watched() -> None:
            try:
                await doing
            except Exception as problem:
                self.complaints.append(repr(problem))

        return self.loop.create_task(watched())

    # What they do.

    async def _use(self, kind: str, index: int) -> None:
        address = self._any()
        steps = int(self.rng.integers(1, 6)) if self.rng.random() < 0.8 else 14
        drawing = self._drawing(kind, index, steps=steps)
        key = Idempotency(key=f"k{index}", request_digest="d") if kind == "keyed" else None
        content = f"png{index % 4}".encode() if kind == "init_image" else b""
        wanted = [drawing] * (3 if kind == "job" else 1)
        deadline_s = float(self.rng.uniform(0.3, 6.0)) if kind == "deadline" else None
        durable = kind != "synchronous"

        async def submit(node: Any) -> Submission:
            submission: Submission = await node.front_desk.submit(
                wanted,
                durable=durable,
                init_image=content,
                deadline_s=deadline_s,
                priority=int(self.rng.integers(-1, 2)),
                idempotency=key,
                client=client_of(drawing),
            )
            return submission

        submission = await self._submit(address, submit, again=key is not None)
        if submission is None:
            return
        if key is not None:
            await self._ask_again(address, submission, submit)
        watchers = []
        for record in submission.records:
            told = self._accepted(record, kind)
            watchers.append(self._begin(self._follow(told, address)))
        if kind == "cancelling":
            await asyncio.sleep(float(self.rng.uniform(0, 4)))
            await self._cancel(submission.records[0].task.id)
        await asyncio.gather(*watchers)

    async def _submit(
        self, address: str, submit: Callable[[Any], Awaitable[Submission]], *, again: bool
    ) -> Submission | None:
        while True:
            try:
                return await self.network.once(self, address, submit, timeout_s=20.0)
            except DEdgeAIError as error:
                self.refused[error.code] = self.refused.get(error.code, 0) + 1
                known: tuple[type[DEdgeAIError], ...]
                known = (AdmissionRefused, NodeNotReady, StoreUnavailable)
                if len(self.models) > 1:  # the nodes of one may all be away, or have left
                    known += (ModelAway, ModelNotFound)
                if not isinstance(error, known) and error.code != "internal_error":
                    raise InvariantBroken(f"refused for no reason: {error!r}") from error
            except Unanswered:
                raise InvariantBroken(f"{address} left a client without an answer") from None
            except Broken:
                pass
            if not again or self.time.now_s > 60.0:
                return None
            await asyncio.sleep(RETRY_S)

    async def _ask_again(
        self, address: str, first: Submission, submit: Callable[[Any], Awaitable[Submission]]
    ) -> None:
        """The same key: the same tasks; with another request: a conflict."""
        second = await self._submit(address, submit, again=False)
        if second is None:
            return
        ids = [record.task.id for record in first.records]
        if [record.task.id for record in second.records] != ids:
            raise InvariantBroken(f"one key, two tasks: {ids} and {second}")

        async def other(node: Any) -> Submission:
            submission: Submission = await node.front_desk.submit(
                [self._drawing("keyed", 999, steps=1)],
                durable=True,
                idempotency=Idempotency(
                    key=f"k{first.records[0].task.drawing.seed}", request_digest="other"
                ),
                client=client_of(first.records[0].task.drawing),
            )
            return submission

        try:
            await self.network.once(self, address, other)
        except IdempotencyConflict:
            self.conflicts += 1
            return
        except (DEdgeAIError, Broken):
            return
        raise InvariantBroken(f"another request got the key of {ids}")

    def _accepted(self, record: TaskRecord, kind: str) -> Told:
        told = Told(task_id=record.task.id, kind=kind, accepted=True)
        told.deadline_unix_s = record.task.deadline_unix_s if kind == "deadline" else None
        return self.told.setdefault(record.task.id, told)

    async def _follow(self, told: Told, address: str) -> None:
        """Watches to the end, through whichever node answers, and fetches the image."""
        while told.final is None:
            try:
                await self._watch(told, address)
            except (Broken, NodeNotReady, OriginUnavailable, StoreUnavailable):
                if told.kind == "synchronous":
                    return  # its connection was its promise
                address = self._any()
            if told.gave_up:
                return
            await asyncio.sleep(RETRY_S)
        if told.final.kind is TaskEventKind.FINISHED:
            await self._fetch(told, address)

    async def _watch(self, told: Told, address: str) -> None:
        after = told.events[-1].sequence if told.events else 0
        patience_s = float(self.rng.uniform(0.2, 3.0))
        if told.kind != "synchronous" or self.rng.random() < 0.7:
            patience_s = 1000.0

        def watch(node: Any) -> AsyncGenerator[TaskEvent, None]:
            events: AsyncGenerator[TaskEvent, None] = node.front_desk.watch_task(
                told.task_id, after=after
            )
            return events

        try:
            async with asyncio.timeout(patience_s):
                async with aclosing(self.network.stream(self, address, watch)) as events:
                    async for event in events:
                        self._take(told, event)
        except TimeoutError:
            told.gave_up = True

            async def hang_up(node: Any) -> None:
                await node.front_desk.client_gone([told.task_id])

            try:
                await self.network.once(self, address, hang_up)
            except (Broken, DEdgeAIError):
                return
        except TaskNotFound:
            if told.kind == "synchronous":
                told.gave_up = True  # only journalled, and its node died
            else:
                self._miss(told.task_id)

    def _take(self, told: Told, event: TaskEvent) -> None:
        if told.final is not None:
            raise InvariantBroken(f"{told.task_id}: {event.kind} after {told.final.kind}")
        before = told.events[-1] if told.events else None
        if before is not None:
            if event.sequence <= before.sequence:
                raise InvariantBroken(f"{told.task_id}: {event} after {before}")
            queued = event.kind is TaskEventKind.QUEUED  # again, after a restart of its node
            if event.attempt < before.attempt and not queued:
                raise InvariantBroken(f"{told.task_id}: attempt {event.attempt} after {before}")
            one_life = _life_of(event) == _life_of(before)
            if one_life and event.step < before.step:
                raise InvariantBroken(f"{told.task_id}: step {event.step} after {before.step}")
        told.events.append(event)
        if event.kind.is_final:
            told.final = event

    async def _fetch(self, told: Told, address: str) -> None:
        async def fetch(node: Any) -> tuple[bytes, str]:
            image: tuple[bytes, str] = await node.front_desk.read_image(told.task_id)
            return image

        while told.image is None:
            try:
                told.image, _ = await self.network.once(self, address, fetch)
            except (Broken, NodeNotReady, OriginUnavailable, StoreUnavailable):
                address = self._any()
            except TaskNotFound:
                if told.kind == "synchronous":
                    told.gave_up = True  # as above, between its end and its image
                    return
                self._miss(told.task_id)
                address = self._any()
            except ImageNotReady:
                told.undone += 1  # its end was held while the store was away, and a crash undid it
            await asyncio.sleep(RETRY_S)

    async def _cancel(self, task_id: TaskId) -> None:
        async def cancel(node: Any) -> TaskRecord:
            record: TaskRecord = await node.front_desk.cancel_task(task_id)
            return record

        self.told[task_id].cancelled = True
        try:
            await self.network.once(self, self._any(), cancel)
        except (Broken, DEdgeAIError):
            return

    def look_over(self, at_s: float, number: int) -> None:
        """Somebody turns the pages of the list of all tasks, from that time on."""
        address = self.addresses[number % len(self.addresses)]
        self.loop.call_later(at_s - self.time.now_s, lambda: self._begin(self._turn_pages(address)))

    async def _turn_pages(self, address: str) -> None:
        """No task is shown twice, and none is lost of a node that nobody says is missing."""
        due = {
            told.task_id
            for told in self.told.values()
            if told.kind != "synchronous" and self.is_running(origin_of(told.task_id))
        }
        shown: list[TaskId] = []
        known: list[set[NodeId]] = []
        before: Place | None = None

        async def turn(node: Any) -> tuple[ClusterPage, set[NodeId]]:
            met = {node.place.node_id, *node.links.addresses.values()}
            found = await node.front_desk.list_tasks(TaskFilter(), before=before, count=3)
            missing = {one.node_id for one in found.missing}
            return found, set() if None in missing else met - missing

        while True:
            try:
                found, there = await self.network.once(self, address, turn)
            except (Broken, DEdgeAIError):
                return
            shown += [one.record.task.id for one in found.page.listed]
            known.append(there)
            before = found.page.until
            if before is None:
                break
        if len(set(shown)) < len(shown):
            raise InvariantBroken(f"tasks are listed twice: {shown}")
        answered = set.intersection(*known)
        lost = [one for one in due - set(shown) if origin_of(one) in answered]
        if any(self.is_running(origin_of(one)) for one in lost):
            raise InvariantBroken(f"{lost} are not listed, and nobody is missing")
        self.lists_read += 1

    def _miss(self, task_id: TaskId) -> None:
        """A node that began while the origin was away cannot know that there is such a node."""
        if self.is_running(origin_of(task_id)):
            raise InvariantBroken(f"{task_id} was accepted and is not found")

    # Small parts.

    def _any(self) -> str:
        return self.addresses[int(self.rng.integers(len(self.addresses)))]

    def _drawing(self, kind: str, index: int, *, steps: int) -> Drawing:
        content = f"png{index % 4}".encode()
        return Drawing(
            prompt="p",
            width_px=64,
            height_px=64,
            steps=steps,
            guidance_scale=5.0,
            seed=index,
            model=self.models[index % len(self.models)],
            init_image_sha256=hashlib.sha256(content).hexdigest() if kind == "init_image" else "",
            strength=0.5,
        )


def client_of(drawing: Drawing) -> str:
    """Whose drawing it is: whoever draws it has to be told the same."""
    return f"client-{drawing.seed % 3}"


def origin_of(task_id: TaskId) -> NodeId:
    """The node that a task was submitted to."""
    return NodeId(task_id.rpartition("-")[0])


def _life_of(event: TaskEvent) -> int:
    """Which life of the origin it is of; steps are not remembered from one to the next."""
    return event.sequence // EVENTS_OF_A_LIFE_MAX
