"""A list of tasks, newest first, in pages: which are wanted, where a page ends, how pages join.

Pure values, for the store that keeps an index, the nodes that ask each other and the surface that
shows it. A task's place is when it was accepted, and among those of one moment its id; it never
changes, so that who turns pages sees no task twice, whatever becomes of it meanwhile.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge_node.domain import NodeId, TaskId, TaskRecord, TaskStatus

# Most tasks of one page, and bytes of the prompts in it: of these a page holds fewer.
PAGE_TASKS_MAX = 200
PAGE_BYTES_MAX = 4 * 2**20


class Place(NamedTuple):
    """Where a task stands in the list; a newer one is greater. Unix seconds of its acceptance."""

    unix_s: float
    task_id: TaskId


@dataclass(frozen=True, kw_only=True)
class TaskFilter:
    """Which tasks are wanted.

    Attributes:
        statuses: any of these; empty for all.
        model: that is to draw them; empty for any.
        client: id of the API key that asked for them; empty for everybody's.
    """

    statuses: frozenset[TaskStatus] = frozenset()
    model: str = ""
    client: str = ""

    def wants(self, record: TaskRecord) -> bool:
        """Whether the task is one of them."""
        return (
            (not self.statuses or record.status in self.statuses)
            and (not self.model or record.task.drawing.model == self.model)
            and (not self.client or record.task.client == self.client)
        )


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A task and its place."""

    place: Place
    record: TaskRecord


@dataclass(frozen=True, kw_only=True)
class TaskPage:
    """Some of a list.

    Attributes:
        listed: newest first.
        until: of what was asked for, all that is not older than this is here; None where nothing
            older is left.
    """

    listed: tuple[Listed, ...] = ()
    until: Place | None = None


NO_TASKS = TaskPage()


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A node whose tasks a list lacks.

    Attributes:
        node_id: None of one that was never met.
        address: at which it is configured, where its name is not known.
        why: a sentence.
    """

    node_id: NodeId | None
    address: str = ""
    why: str


@dataclass(frozen=True, kw_only=True)
class ClusterPage:
    """A page of all nodes' tasks, and the nodes whose own it lacks."""

    page: TaskPage
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """How many tasks were cancelled, and the nodes of which that is not known."""

    count: int
    missing: tuple[Missing, ...] = ()


def place_of(record: TaskRecord) -> Place:
    """A task's place."""
    return Place(record.task.created_unix_s, record.task.id)


def newest(
    records: Iterable[TaskRecord], wanted: TaskFilter, *, before: Place | None, count: int
) -> TaskPage:
    """Of tasks in any order the newest `count` that are wanted and older than `before`."""
    found = (
        (place, record)
        for record in records
        if wanted.wants(record)
        for place in (place_of(record),)
        if before is None or place < before
    )
    first = heapq.nlargest(count + 1, found, key=lambda one: one[0])
    listed = tuple(Listed(place=place, record=record) for place, record in first[:count])
    return TaskPage(listed=listed, until=listed[-1].place if len(first) > count else None)


def joined(pages: Sequence[TaskPage], *, count: int) -> TaskPage:
    """The newest `count` of all pages; of a task that is in two the first one's word counts.

    Where a page ends there may be more of it, so that nothing older than that is known to be next.
    """
    ends = [page.until for page in pages if page.until is not None]
    until = max(ends, default=None)
    found: dict[Place, Listed] = {}
    for page in pages:
        for one in page.listed:
            if until is None or one.place >= until:
                found.setdefault(one.place, one)
    listed = tuple(found[place] for place in sorted(found, reverse=True))
    if len(listed) > count:
        listed = listed[:count]
        until = listed[-1].place
    return _within_bytes(TaskPage(listed=listed, until=until))


def _within_bytes(page: TaskPage) -> TaskPage:
    """As much of a page as may be sent at once, and one task at least."""
    held = 0
    for index, one in enumerate(page.listed):
        held += one.record.task.drawing.prompt_bytes
        if held > PAGE_BYTES_MAX and index:
            listed = page.listed[:index]
            return TaskPage(listed=listed, until=listed[-1].place)
    return page
