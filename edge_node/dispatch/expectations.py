"""When tasks of this node are expected to end and which place they have, at every look anew.

Owns what is looked at for it: the task's course here, its executor's queue in the view.
"""

from __future__ import annotations

from edge_node.changing import changed
from edge_node.clock import Clock
from edge_node.dispatch.own_node import OwnNode
from edge_node.domain import TaskEvent, TaskEventKind, TaskId, TaskRecord, TaskStatus
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.expectation import expected_s
from edge_node.tasks.lifecycle import Lifecycle


class Expectations:
    """Of tasks accepted here that are open.

    Args:
        node: says what encoding and decoding cost, of models that it draws.
        lifecycle: says how each task goes.
        view: says how busy executors are, and that of other models.
        clock: says how long ago things were.
    """

    def __init__(
        self, *, node: OwnNode, lifecycle: Lifecycle, view: ClusterView, clock: Clock
    ) -> None:
        self._node = node
        self._lifecycle = lifecycle
        self._view = view
        self._clock = clock

    def of(self, record: TaskRecord) -> TaskRecord:
        """The record with what is expected now."""
        if record.status.is_final:
            return record
        return changed(record, eta_s=self._eta_s(record), queue_position=self._position(record))

    def of_event(self, task_id: TaskId, event: TaskEvent) -> TaskEvent:
        """The event with what is expected now, whenever it happened."""
        record = None if event.kind.is_final else self._lifecycle.record(task_id)
        if record is None:
            return event
        position = event.queue_position
        if event.kind is TaskEventKind.PLACED:  # before the executor has said anything
            position = self._position(record)
        return changed(event, eta_s=self._eta_s(record), queue_position=position)

    def _position(self, record: TaskRecord) -> int:
        """Its place in the queue as the executor says, and until then as its queue is known here.

        Who takes turns waits for as many of each other client as for his own.
        """
        waits = record.status is TaskStatus.QUEUED and record.executor is not None
        if not waits or record.queue_position > 0:
            return record.queue_position
        now_s, task = self._clock.now_s(), record.task
        assert record.executor is not None
        queue = self._view.queue_of(record.executor, now_s=now_s)
        place = 1 if queue is None else max(1, queue.queued)
        own = self._lifecycle.load.of(task.turns).tasks
        others = self._view.clients(task.drawing.model, now_s=now_s) - (own > 1)
        return min(place, own * (1 + others)) if task.turns and own and others > 0 else place

    def _eta_s(self, record: TaskRecord) -> float:
        now_s, executor, model = self._clock.now_s(), record.executor, record.task.drawing.model
        served = self._node.served_as(model) or self._view.served(model, now_s=now_s)
        return expected_s(
            record,
            self._lifecycle.course(record.task.id),
            queue=None if executor is None else self._view.queue_of(executor, now_s=now_s),
            fixed_steps=0.0 if served is None else served.work_model.fixed_steps,
            now_s=now_s,
        )
