"""Pages of a list: what one holds, and how those of several nodes join to one."""

from __future__ import annotations

import random
from dataclasses import replace

from edge_node import listing
from edge_node.domain import TaskId, TaskRecord, TaskStatus
from edge_node.listing import Listed, Place, TaskFilter, TaskPage, joined, newest, place_of
from tests.store.records import task

EVERY = TaskFilter()


def record(number: int, *, at_s: float | None = None, **changes: object) -> TaskRecord:
    made = task(number)
    if at_s is not None:
        made = replace(made, created_unix_s=at_s)
    return replace(TaskRecord(task=made), **changes)  # type: ignore[arg-type]


def listed(*records: TaskRecord) -> tuple[Listed, ...]:
    return tuple(Listed(place=place_of(one), record=one) for one in records)


def test_what_is_wanted() -> None:
    done = record(1, status=TaskStatus.COMPLETED)
    hers = replace(done, task=replace(done.task, client="ab12"))
    both = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED})
    for wanted, of_nobody, of_hers in (
        (EVERY, True, True),
        (TaskFilter(client="ab12"), False, True),
        (TaskFilter(client="ab1"), False, False),
        (TaskFilter(statuses=both, model="tiny"), True, True),
        (TaskFilter(statuses=frozenset({TaskStatus.QUEUED})), False, False),
        (TaskFilter(model="tin"), False, False),
    ):
        assert (wanted.wants(done), wanted.wants(hers)) == (of_nobody, of_hers)


def test_the_newest_of_many_end_a_page_where_older_ones_are_left() -> None:
    records = [record(number) for number in (2, 5, 1, 4, 3)]
    page = newest(records, EVERY, before=None, count=2)
    assert page == TaskPage(listed=listed(record(5), record(4)), until=place_of(record(4)))
    rest = newest(records, EVERY, before=page.until, count=3)
    assert rest == TaskPage(listed=listed(record(3), record(2), record(1)), until=None)


def test_a_joined_page_ends_where_one_of_its_parts_may_go_on() -> None:
    some = TaskPage(listed=listed(record(9), record(4)), until=place_of(record(4)))
    all_of_it = TaskPage(listed=listed(record(8), record(3)))
    assert joined([some, all_of_it], count=9) == TaskPage(
        listed=listed(record(9), record(8), record(4)), until=place_of(record(4))
    )
    assert joined([some, all_of_it], count=2) == TaskPage(
        listed=listed(record(9), record(8)), until=place_of(record(8))
    )
    nothing_yet = TaskPage(until=Place(1006.0, TaskId("orin-a-01J")))
    assert joined([nothing_yet, all_of_it], count=9) == TaskPage(
        listed=listed(record(8)), until=nothing_yet.until
    )
    assert joined([], count=9) == TaskPage()


def test_of_a_task_in_two_pages_the_first_ones_word_counts() -> None:
    done, open_yet = record(1, status=TaskStatus.COMPLETED), record(1)
    pages = [TaskPage(listed=listed(open_yet)), TaskPage(listed=listed(done, record(0)))]
    assert joined(pages, count=9).listed == listed(open_yet, record(0))


def test_a_page_is_bounded_in_bytes_and_holds_one_task_at_least() -> None:
    half = "x" * (listing.PAGE_BYTES_MAX // 2)
    large = [replace(record(n), task=task(n, prompt=half)) for n in (3, 2, 1)]
    page = joined([TaskPage(listed=listed(*large))], count=9)
    assert page == TaskPage(listed=listed(large[0]), until=place_of(large[0]))
    huge = replace(record(1), task=task(1, prompt=3 * half))
    assert joined([TaskPage(listed=listed(huge))], count=9) == TaskPage(listed=listed(huge))


def test_pages_of_many_nodes_are_turned_to_the_end_without_loss_or_repetition() -> None:
    rng = random.Random(7)
    for _ in range(200):
        nodes: list[list[TaskRecord]] = [[] for _ in range(rng.randint(1, 5))]
        for number in range(rng.randint(0, 40)):
            rng.choice(nodes).append(record(number, at_s=float(rng.randint(0, 8))))
        count, before, seen = rng.randint(1, 7), None, []
        while True:
            parts = [newest(one, EVERY, before=before, count=count + 1) for one in nodes]
            page = joined(parts, count=count)
            seen += [one.record.task.id for one in page.listed]
            if page.until is None:
                break
            assert page.listed
            before = page.until
        every = sorted((one for node in nodes for one in node), key=place_of, reverse=True)
        assert seen == [one.task.id for one in every]
