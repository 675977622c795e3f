"""`eta_s` at every look: in reads, lists and events, by the course of the task and the view."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from edge_node.domain import (
    AttemptQueued,
    AttemptReport,
    AttemptStarted,
    Fence,
    StepFinished,
    TaskEventKind,
)
from edge_node.listing import TaskFilter
from edge_node.tasks import lifecycle_protocol as life
from tests.dispatch.one_node import OWN, run
from tests.dispatch.parts import text
from tests.dispatch.test_own_tasks import Origin


def test_what_is_expected_is_of_the_moment_at_which_it_is_told(tmp_path: Path) -> None:
    node = Origin(tmp_path)

    async def story() -> None:
        await node.start()
        node.own_device.held = True
        clock, tasks = node.clock, node.dispatcher.own_tasks
        task_id = await node.submit(text(), b"")

        async def told() -> float:
            """The same in a read, in a list and in an event."""
            read = (await tasks.read_task(task_id)).eta_s
            page = await node.dispatcher.own_list.page(TaskFilter(), before=None, count=1)
            assert page.listed[0].record.eta_s == read
            events = tasks.watch(task_id, after=0)
            assert (await anext(events)).eta_s == read
            await events.aclose()
            return read

        def reported(report: AttemptReport) -> None:
            node.dispatcher._inbox.apply(
                life.AttemptReported(
                    task_id=task_id, fence=Fence(1, 1), executor=OWN, report=report
                )
            )

        # Its place in the queue, which is known before the executor says so.
        assert (await tasks.read_task(task_id)).queue_position == 1
        # And of which more is known by now.
        reported(AttemptQueued(position=1))
        next_s = await told()
        reported(AttemptQueued(position=2))
        waiting_s = await told()
        assert waiting_s > next_s > 0.0
        described = node.dispatcher.own_node.described
        node.dispatcher.own_node._described = replace(described, capacity=described.capacity / 2)
        node.dispatcher.own_node.changed()
        assert await told() == 2 * waiting_s
        reported(AttemptStarted())
        clock.time_s += 1.0
        reported(StepFinished(step=1, steps=4))
        clock.time_s += 0.5
        # Three steps of a second and half of a step's decoding, half a second ago.
        assert await told() == 3.0
        await tasks.cancel(task_id)
        assert (await tasks.read_task(task_id)).eta_s == 0.0

    run(node, story)


def test_the_place_in_the_queue_is_known_from_the_first_answer_on(tmp_path: Path) -> None:
    node = Origin(tmp_path)

    async def story() -> None:
        await node.start()
        node.own_device.held = True
        node.admits(10)
        tasks = node.dispatcher.own_tasks

        async def sent(turns: str) -> int:
            submission = await tasks.submit([text()], durable=True, turns=turns)
            [record] = submission.records
            told = tasks.expected.of(record)
            events = tasks.watch(record.task.id, after=0)
            *_, placed = [await anext(events) for _ in range(2)]
            await events.aclose()
            assert placed.kind is TaskEventKind.PLACED
            assert placed.queue_position == told.queue_position
            return told.queue_position

        assert [await sent("") for _ in range(4)] == [1, 2, 3, 4]
        node.view.clients = partial(lambda count, model, now_s: count, 2)  # type: ignore[method-assign]
        assert [await sent("alice") for _ in range(3)] == [3, 4, 6]

    run(node, story)
