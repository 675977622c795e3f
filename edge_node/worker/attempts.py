"""The drawings that a worker holds: what each has done and which of them exist.

Owns their stages (waiting, begun, finishing), fencing and the account of work
left. It decides nothing, draws nothing and knows no threads: the engine guards it with its lock.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from edge_node.checkpoint import Checkpoint
from edge_node.domain import (
    NO_FENCE,
    AttemptFailed,
    AttemptFinished,
    AttemptQueued,
    AttemptStarted,
    Drawing,
    Fence,
    StepFinished,
    TaskId,
    WorkModel,
)
from edge_node.prompt_tokens import NOT_COUNTED
from edge_node.worker.queue_order import Entry

# Tasks whose highest fence is remembered; far more than can be in flight at once.
FENCED_TASKS_MAX = 10_000

Report = AttemptQueued | AttemptStarted | StepFinished | AttemptFinished | AttemptFailed
Row = TypeVar("Row")


class Attempt(Generic[Row]):
    """One drawing in the worker, from submission to its last report.

    Attributes:
        row: what the denoiser steps; None before it has begun and after it was decoded.
        entry: what the order sees; renewed by `recount`.
        turn: number of the last step it was part of, or of the one before it joined, and whether
            it was part of it. Who has the least has waited longest for a step.
        checkpoint: to go on from, until it has begun.
        asked_s: when it was asked for, wherever that was, by the clock of this worker.
        leaving: it is to go on elsewhere after the step under way.
        over: nobody waits for it any more, or its last report is on the way.
        out_of_memory: it ran out of memory alone and was not stepped since.
    """

    def __init__(
        self,
        *,
        task_id: TaskId,
        fence: Fence,
        arrival: int,
        drawing: Drawing,
        init_image: bytes,
        priority: int,
        submitted_s: float,
        deadline_s: float | None,
        client: str,
        work_model: WorkModel,
        unit_s: float,
        on_report: Callable[[Report], None],
        checkpoint_steps: int = 0,
        checkpoint: Checkpoint | None = None,
        asked_s: float | None = None,
    ) -> None:
        self.task_id = task_id
        self.fence = fence
        self.arrival = arrival
        self.drawing = drawing
        self.init_image = init_image
        self.priority = priority
        self.submitted_s = submitted_s
        self.asked_s = submitted_s if asked_s is None else asked_s
        self.deadline_s = deadline_s
        self.client = client
        self.on_report = on_report
        self.started_s: float | None = None
        self.begin_s = 0.0
        self.row: Row | None = None
        self.steps = drawing.denoising_steps
        self.checkpoint_steps = checkpoint_steps
        self.checkpoint = checkpoint
        self.leaving = False
        self.steps_done = 0 if checkpoint is None else checkpoint.step
        self.prompt_tokens = NOT_COUNTED
        self.decoded = False
        self.position = 0
        self.turn = (0, False)
        self.over = False
        self.out_of_memory = False
        self.preview_steps = preview_steps(steps=self.steps, previews=drawing.previews)
        # A step's cost is its size's times its row's: half-ish for an unguided one.
        self.size_cost = work_model.rho(width_px=drawing.width_px, height_px=drawing.height_px)
        self.row_cost = 1.0 if drawing.guidance_scale > 1.0 else work_model.unguided_ratio
        self.work = work_model.work(drawing)
        self.recount(unit_s)

    @property
    def work_left(self) -> float:
        """Work units still to be done."""
        if self.decoded:
            return 0.0
        return self.work - self.size_cost * self.row_cost * self.steps_done

    @property
    def checkpoint_due(self) -> bool:
        """Whether one is to be sent after the step that was done last."""
        left = self.steps_done < self.steps
        return left and self.checkpoint_steps > 0 and self.steps_done % self.checkpoint_steps == 0

    def from_the_beginning(self, unit_s: float) -> None:
        """It cannot go on from its checkpoint here."""
        self.checkpoint, self.steps_done = None, 0
        self.recount(unit_s)

    def recount(self, unit_s: float) -> None:
        """Renews what the order sees; `unit_s` is what a row's work unit takes at present."""
        self.entry = Entry(
            arrival=self.arrival,
            priority=self.priority,
            size_px=(self.drawing.width_px, self.drawing.height_px),
            asked_s=self.asked_s,
            service_s=self.work * unit_s,
            left_s=self.work_left * unit_s,
            deadline_s=self.deadline_s,
            started=self.started_s is not None,
            resumes=self.checkpoint is not None,
            client=self.client,
        )

    def is_late(self, now_s: float) -> bool:
        """Whether its deadline has passed."""
        return self.deadline_s is not None and self.deadline_s <= now_s


def preview_steps(*, steps: int, previews: int) -> frozenset[int]:
    """Steps, counted from 1, after which a preview is sent: evenly spaced, never the last."""
    wanted = min(previews, steps - 1)
    return frozenset(k * steps // (wanted + 1) for k in range(1, wanted + 1))


class AttemptBook(Generic[Row]):
    """All drawings that the worker holds, by arrival number and stage.

    Attributes:
        waiting: not begun.
        begun: their rows are active or parked.
        finishing: after the last step, until the image is on its way.
    """

    def __init__(self) -> None:
        self.waiting: dict[int, Attempt[Row]] = {}
        self.begun: dict[int, Attempt[Row]] = {}
        self.finishing: dict[int, Attempt[Row]] = {}
        self._fences_seen: OrderedDict[TaskId, Fence] = OrderedDict()

    def held(self) -> Iterator[Attempt[Row]]:
        """All of every stage."""
        return itertools.chain(self.waiting.values(), self.begun.values(), self.finishing.values())

    def to_draw(self) -> Iterator[Attempt[Row]]:
        """All that have steps to do."""
        return itertools.chain(self.waiting.values(), self.begun.values())

    def backlog(self) -> float:
        """Work units of all that is still wanted."""
        return sum(attempt.work_left for attempt in self.held() if not attempt.over)

    def is_stale(self, task_id: TaskId, fence: Fence) -> bool:
        """Whether a later attempt of the task was seen."""
        return fence < self._fences_seen.get(task_id, NO_FENCE)

    def add(self, attempt: Attempt[Row]) -> None:
        """Takes in a drawing, and fences what comes from earlier attempts of its task."""
        self._fences_seen[attempt.task_id] = attempt.fence
        self._fences_seen.move_to_end(attempt.task_id)
        if len(self._fences_seen) > FENCED_TASKS_MAX:
            self._fences_seen.popitem(last=False)
        self.waiting[attempt.arrival] = attempt

    def attempts_of(self, task_id: TaskId) -> list[Attempt[Row]]:
        """Those of a task that are still wanted."""
        return [one for one in self.held() if one.task_id == task_id and not one.over]

    def begin(self, attempt: Attempt[Row], *, now_s: float) -> None:
        """It waits no longer."""
        self.begun[attempt.arrival] = self.waiting.pop(attempt.arrival)
        attempt.started_s = now_s
        attempt.entry = dataclasses.replace(attempt.entry, started=True)

    def finish(self, attempt: Attempt[Row]) -> None:
        """Its steps are done; its row is free for another."""
        self.finishing[attempt.arrival] = self.begun.pop(attempt.arrival)

    def end(self, attempt: Attempt[Row]) -> None:
        """Nobody waits for it any more; one whose row may be in use is kept until `release`."""
        attempt.over = True
        self.waiting.pop(attempt.arrival, None)

    def release(self, attempt: Attempt[Row]) -> None:
        """Forgets a drawing whose row is not in use."""
        for stage in (self.waiting, self.begun, self.finishing):
            stage.pop(attempt.arrival, None)
        attempt.row = None

    def find(self, arrival: int) -> Attempt[Row] | None:
        """The drawing of that arrival number, if it is held."""
        for stage in (self.waiting, self.begun, self.finishing):
            if arrival in stage:
                return stage[arrival]
        return None

    @property
    def is_drawing(self) -> bool:
        """Whether there is anything to draw, or to decode."""
        return bool(self.waiting or self.begun or self.finishing)

    def to_be_drawn(self, arrival: int) -> Attempt[Row]:
        """The drawing of that arrival number, which has steps to do."""
        return self.begun[arrival] if arrival in self.begun else self.waiting[arrival]
