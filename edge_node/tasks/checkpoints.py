"""The newest checkpoint of each task of this origin, and how often one is worth its cost. Pure.

Owns what is kept, within bytes, and the account of steps that were spared and drawn twice. They are
in memory alone: a node that dies draws its tasks from their beginnings.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from edge_node.changing import changed
from edge_node.checkpoint import Checkpoint, share_done
from edge_node.domain import Drawing, Task, TaskId

# Of the time that a step takes, and of the link that a checkpoint travels over.
STEP_SHARE_MAX = 0.01
LINK_SHARE_MAX = 0.02
# Of the processes' time that one takes from the row to the origin's memory; above what was measured
# on the CPU of a small server: benchmarks/results/checkpoints.json.
COST_S = 0.002
# Of SD3's latent in float32, the largest precision that is drawn in but for tests.
BYTES_PER_PX = 1.0


def steps_between(
    wanted: int | None, *, drawing: Drawing, step_s: float, throughput_bits_s: float | None
) -> int:
    """Steps after which an executor sends a checkpoint; 0 for never.

    Args:
        wanted: as the operator says; None for as often as it costs next to nothing.
        drawing: its steps and size.
        step_s: that one takes at the executor.
        throughput_bits_s: of the link to it; None where it is this node.
    """
    if wanted is None:
        rare = [1.0, COST_S / (STEP_SHARE_MAX * step_s) if step_s > 0.0 else math.inf]
        if throughput_bits_s is not None and step_s > 0.0:
            sent_s = 8.0 * BYTES_PER_PX * drawing.width_px * drawing.height_px / throughput_bits_s
            rare.append(sent_s / (LINK_SHARE_MAX * step_s))
        wanted = math.ceil(min(max(rare), drawing.denoising_steps))
    # After the last step there is nothing left to go on with.
    return wanted if wanted < drawing.denoising_steps else 0


class Checkpoints:
    """Of the tasks that are not over.

    Attributes:
        kept_bytes: of all that are kept.
        bytes_taken: of all that ever were.
        steps_resumed: that attempts began after, and so did not do.
        steps_again: that were done though an earlier attempt had done them.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[TaskId, Checkpoint] = OrderedDict()
        self.kept_bytes = 0
        self.bytes_taken = 0
        self.steps_resumed = 0
        self.steps_again = 0

    def of(self, task_id: TaskId) -> Checkpoint | None:
        """The newest of a task."""
        return self._kept.get(task_id)

    def step(self, task_id: TaskId) -> int:
        """Steps that the next attempt is spared."""
        checkpoint = self._kept.get(task_id)
        return 0 if checkpoint is None else checkpoint.step

    def left(self, task: Task) -> tuple[Task, int]:
        """The task, with the work that its next attempt has to do, and the steps that it has."""
        step, steps = self.step(task.id), task.drawing.denoising_steps
        if not step:
            return task, steps
        left = task.work * (1.0 - share_done(step, steps=steps))
        return changed(task, work=left), steps - step

    def keep(self, task: Task, checkpoint: Checkpoint) -> None:
        """Keeps it in an older one's place; those of other drawings, and older ones, are refused.

        Where there is no room, those go that were renewed longest ago.
        """
        wrong = checkpoint.what_is_wrong(
            drawing_sha256=task.drawing.sha256, steps=task.drawing.denoising_steps
        )
        if wrong or checkpoint.step <= self.step(task.id):
            return
        self.forget(task.id)
        self.bytes_taken += checkpoint.size_bytes
        if checkpoint.size_bytes > self._bytes_max:
            return
        self._kept[task.id] = checkpoint
        self.kept_bytes += checkpoint.size_bytes
        while self.kept_bytes > self._bytes_max:
            self.forget(next(iter(self._kept)))

    def forget(self, task_id: TaskId) -> None:
        """It is of no use any more."""
        dropped = self._kept.pop(task_id, None)
        if dropped is not None:
            self.kept_bytes -= dropped.size_bytes

    def task_ids(self) -> tuple[TaskId, ...]:
        """Tasks of which one is kept."""
        return tuple(self._kept)
