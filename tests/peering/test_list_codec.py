"""Lists between nodes: what goes over the wire comes back whole, and is of what was asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_node.domain import NodeId, Task, TaskId, TaskRecord, TaskStatus
from edge_node.errors import MalformedMessage
from edge_node.listing import PAGE_TASKS_MAX, Listed, Place, TaskFilter, TaskPage
from edge_node.peering import list_codec
from tests.filled import filled
from tests.peering.test_round_trips import NOT_SHOWN, sent

OWNER = NodeId("orin-a")
WANTED = filled(TaskFilter, statuses=frozenset({TaskStatus.QUEUED, TaskStatus.FAILED}))


def listed(number: int, at_s: float) -> Listed:
    task = replace(filled(Task, id=TaskId(f"orin-a-{number}")), **NOT_SHOWN, client=WANTED.client)
    task = replace(task, drawing=replace(task.drawing, model=WANTED.model))
    record = filled(TaskRecord, task=task, status=TaskStatus.FAILED)
    return Listed(place=Place(at_s, task.id), record=record)


NEWER, OLDER = listed(2, 9.5), listed(1, 8.0)
PAGE = TaskPage(listed=(NEWER, OLDER), until=OLDER.place)


def read(page: TaskPage, **asked: Any) -> TaskPage:
    given: dict[str, Any] = {"wanted": WANTED, "before": None, "count": 9, "of": OWNER, **asked}
    return list_codec.page_from_proto(sent(list_codec.page_to_proto(page)), **given)


def test_what_is_asked_for_comes_back_whole() -> None:
    before = Place(5.25, TaskId("orin-b-1"))
    for place in (before, None):
        message = list_codec.request_to_proto(WANTED, before=place, count=7)
        assert list_codec.request_from_proto(sent(message)) == (WANTED, place, 7)
    nothing = list_codec.request_to_proto(TaskFilter(), before=None, count=10**6)
    assert list_codec.request_from_proto(sent(nothing)) == (TaskFilter(), None, PAGE_TASKS_MAX + 1)


def test_a_page_comes_back_whole() -> None:
    for page in (PAGE, TaskPage(), TaskPage(until=OLDER.place), replace(PAGE, until=None)):
        assert read(page) == page
    assert read(PAGE, before=Place(9.5, TaskId("orin-a-3")), count=2) == PAGE


@pytest.mark.parametrize(
    ("page", "asked"),
    [
        (PAGE, {"count": 1}),
        (PAGE, {"of": NodeId("orin-b")}),
        (PAGE, {"wanted": replace(WANTED, client="another")}),
        (PAGE, {"wanted": replace(WANTED, statuses=frozenset({TaskStatus.QUEUED}))}),
        (PAGE, {"before": NEWER.place}),
        (replace(PAGE, listed=(OLDER, NEWER)), {}),
        (replace(PAGE, listed=(NEWER, NEWER)), {}),
        (replace(PAGE, until=NEWER.place), {}),
        (TaskPage(until=NEWER.place), {"before": NEWER.place}),
    ],
)
def test_what_was_not_asked_for_is_refused(page: TaskPage, asked: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        read(page, **asked)


def test_a_page_of_no_size_or_of_an_unknown_status_is_refused() -> None:
    message = list_codec.request_to_proto(WANTED, before=None, count=1)
    message.filter.statuses.append("lost")
    with pytest.raises(MalformedMessage):
        list_codec.request_from_proto(message)
    for before in (Place(float("nan"), TaskId("orin-a-1")), Place(1.0, TaskId("none"))):
        message = list_codec.request_to_proto(WANTED, before=before, count=1)
        with pytest.raises(MalformedMessage):
            list_codec.request_from_proto(message)
