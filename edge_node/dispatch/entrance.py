"""Who is let in: bounds of what this node holds, asked before a task is accepted.

Owns the questions and their order; the arithmetic is `edge_node/tasks/admission.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.domain import Task
from edge_node.errors import AdmissionRefused, DEdgeAIError
from edge_node.tasks.admission import AdmissionLimits, TurnTaker, admit
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.telemetry.metrics import NodeMetrics


@dataclass(frozen=True, kw_only=True)
class EntranceSettings:
    """What is let in."""

    admission: AdmissionLimits
    in_flight_bytes_max: int = 64 * 2**20

    @classmethod
    def of(cls, config: NodeConfig) -> EntranceSettings:
        """From the node's settings."""
        return cls(
            admission=AdmissionLimits.of(config),
            in_flight_bytes_max=config.tasks_in_flight_bytes_max,
        )


class Entrance:
    """Refuses what has no place, and counts it.

    Args:
        lifecycle: holds what was let in.
        view: tells how busy the nodes are that draw a task's model.
        metrics: counts refusals.
        clock: the time.
    """

    def __init__(
        self, *, lifecycle: Lifecycle, view: ClusterView, metrics: NodeMetrics, clock: Clock
    ) -> None:
        self._lifecycle = lifecycle
        self._view = view
        self._metrics = metrics
        self._clock = clock

    def refuse(self, count: int, refusal: DEdgeAIError | None) -> None:
        """Raises what keeps the node from taking any task, if anything does."""
        if refusal is not None:
            self._metrics.tasks_refused(count, code=refusal.code)
            raise refusal

    def admit(self, tasks: tuple[Task, ...], settings: EntranceSettings) -> None:
        """Lets tasks of one request in; raises AdmissionRefused."""
        model, now_s = tasks[0].drawing.model, self._clock.now_s()
        backlog, capacity = self._view.backlog_and_capacity(model, now_s=now_s)
        refusal = admit(
            turns=self._turns_of(tasks[0], model),
            works=tuple(task.work for task in tasks),
            in_flight=self._lifecycle.in_flight,
            backlog=backlog,
            capacity=capacity,
            limits=settings.admission,
        )
        if refusal is not None:
            self._metrics.tasks_refused(len(tasks))
            raise AdmissionRefused(refusal.message, retry_after_s=refusal.retry_after_s)
        more_bytes = sum(task.drawing.prompt_bytes for task in tasks)
        bound = settings.in_flight_bytes_max
        if self._lifecycle.load.prompt_bytes + more_bytes > bound:
            self._metrics.tasks_refused(len(tasks))
            raise AdmissionRefused(
                f"The prompts of tasks that are not finished would take more than {bound} bytes "
                "(tasks_in_flight_bytes_max). Come back after the time in Retry-After.",
                retry_after_s=max(1.0, backlog / capacity if capacity > 0.0 else 1.0),
            )

    def _turns_of(self, task: Task, model: str) -> TurnTaker | None:
        """Places are counted over all models, work of those alone that its nodes draw."""
        if not task.turns:
            return None
        now_s = self._clock.now_s()
        load = self._lifecycle.load.of(task.turns, self._view.models_beside(model, now_s=now_s))
        clients = self._view.clients(model, now_s=now_s)
        others = max(0, clients - (load.tasks > 0))
        return TurnTaker(load=load, others=others, has_key=bool(task.client))
