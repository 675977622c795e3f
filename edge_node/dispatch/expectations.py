"""When tasks of this node are expected to end, at every look anew.

Owns what is looked at for it: the task's course here, its executor's queue in the view.
"""

from __future__ import annotations

from edge_node.changing import changed
from edge_node.clock import Clock
from edge_node.dispatch.own_node import OwnNode
from edge_node.domain import TaskEvent, TaskId, TaskRecord
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
        return record if record.status.is_final else changed(record, eta_s=self._eta_s(record))

    def of_event(self, task_id: TaskId, event: TaskEvent) -> TaskEvent:
        """The event with what is expected now, whenever it happened."""
        record = None if event.kind.is_final else self._lifecycle.record(task_id)
        return event if record is None else changed(event, eta_s=self._eta_s(record))

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
