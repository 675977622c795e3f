"""When a task's image is expected, by what is known now. Pure.

What was expected at its placement holds only until more is known: the executor tells its place in
the queue and each step, and its backlog and capacity come with its state. A task that is drawn goes
on at the pace of its own steps; one that waits is behind as many tasks as its place says, each of
the executor's mean work. Nobody is told less than a moment while something is still to be done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from edge_node.checkpoint import share_done
from edge_node.domain import TaskRecord, TaskStatus

# Of a task that should be done by now, and is not.
MOMENT_S = 0.05
# Of what the executor runs now, which is done by half on average.
RUNNING_LEFT = 0.5
# Of the cost of encoding and decoding, what comes after the last step.
DECODING = 0.5


class Course(NamedTuple):
    """How the attempt at hand has gone, in seconds of the clock that no step moves.

    Attributes:
        due_s: when its end was expected at its placement.
        began_s: its first step began; infinite before.
        stepped_s: its last step was done; infinite before.
        went_on_from: steps that an earlier attempt had done, and this one does not do again.
        step: steps that are done, those included.
    """

    due_s: float = math.inf
    began_s: float = math.inf
    stepped_s: float = math.inf
    went_on_from: int = 0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A node's queue as it is believed to be now.

    Attributes:
        backlog: in work units.
        capacity: work units per second; above 0.
        queued, running: tasks.
    """

    backlog: float
    capacity: float
    queued: int
    running: int


NOT_PLACED = Course()


def expected_s(
    record: TaskRecord, course: Course, *, queue: Queue | None, fixed_steps: float, now_s: float
) -> float:
    """Seconds until the image is expected; 0 for a task that is over.

    Args:
        record: the task as it stands.
        course: how its attempt has gone so far.
        queue: of its executor; None where nothing is known of it, or nobody has the task.
        fixed_steps: c, cost of encoding and decoding in steps.
        now_s: the clock that no step moves.
    """
    if record.status.is_final:
        return 0.0
    if record.executor is None:
        return max(record.eta_s, MOMENT_S)
    if record.status is TaskStatus.IN_PROGRESS:
        left_s = _drawn_s(record, course, queue, fixed_steps=fixed_steps, now_s=now_s)
    elif queue is None or record.queue_position == 0:
        left_s = course.due_s - now_s
    else:
        left_s = _waiting_s(record, course, queue)
    return max(left_s, MOMENT_S)


def _drawn_s(
    record: TaskRecord, course: Course, queue: Queue | None, *, fixed_steps: float, now_s: float
) -> float:
    """At the pace of its own steps, once there are any; before, as the executor's capacity says."""
    steps, drawn = record.task.drawing.denoising_steps, course.step - course.went_on_from
    if drawn <= 0 or not course.began_s < course.stepped_s < math.inf:
        if queue is None or course.began_s == math.inf:
            return course.due_s - now_s
        return _work_left(record, course) / queue.capacity - (now_s - course.began_s)
    step_s = (course.stepped_s - course.began_s) / drawn
    left = steps - course.step + DECODING * fixed_steps
    return left * step_s - (now_s - course.stepped_s)


def _work_left(record: TaskRecord, course: Course) -> float:
    """Of an attempt that has done no step of its own yet."""
    steps = record.task.drawing.denoising_steps
    return record.task.work * (1.0 - share_done(course.went_on_from, steps=steps))


def _waiting_s(record: TaskRecord, course: Course, queue: Queue) -> float:
    """Behind as many tasks of the queue's mean work as its place says, and its own."""
    queued = max(queue.queued, record.queue_position)
    running = RUNNING_LEFT * queue.running
    mean_work = queue.backlog / (queued + running)
    ahead = (record.queue_position - 1 + running) * mean_work
    return (ahead + _work_left(record, course)) / queue.capacity
