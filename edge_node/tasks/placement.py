"""Which node draws a task: cluster view to observation, policy to executor. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.domain import NodeId, Task
from edge_node.tasks.cluster_view import ClusterView
from scheduler.observation import Observation
from scheduler.policy import Decision, Policy


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A decision and what it was based on.

    Attributes:
        dispatch: number of this dispatch among all from this node to `executor`.
        eta_s: expected seconds until the image is back.
    """

    executor: NodeId
    dispatch: int
    eta_s: float
    observation: Observation
    decision: Decision


def place(
    task: Task,
    *,
    avoided: frozenset[NodeId],
    view: ClusterView,
    policy: Policy,
    now_s: float,
) -> Placement | None:
    """Chooses an executor and books the work there; None when no node can take the task."""
    observation = view.observation(task, avoided=avoided, now_s=now_s)
    if observation is None:
        return None
    decision = policy.decide(observation)
    choice = decision.choice
    if not observation.alive_B[choice]:
        raise AssertionError(f"policy {decision.policy} chose a node that may not be chosen")
    executor = NodeId(observation.node_ids[choice])
    ahead = observation.load_B[choice] + task.work
    return Placement(
        executor=executor,
        dispatch=view.dispatched(executor, task.work),
        eta_s=float(ahead / observation.capacity_B[choice] + observation.link_s_B[choice]),
        observation=observation,
        decision=decision,
    )
