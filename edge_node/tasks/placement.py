"""Which node draws a task: cluster view to observation, policy to executor. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edge_node.domain import NodeId, Task
from edge_node.tasks.cluster_view import ClusterView, Recall
from scheduler.observation import Observation
from scheduler.policies.heuristics import slow_server_aware
from scheduler.policy import Decision, Policy

# In place of the policy's name where the executor asked for the task.
TAKEN = "taken"
# Decides where the policy does not; it draws no random number.
_FALLBACK = slow_server_aware(rng=np.random.default_rng(0))


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A decision and what it was based on.

    Attributes:
        dispatch: number of this dispatch among all from this node to `executor`.
        eta_s: expected seconds until the image is back.
        policy_failure: why the policy's own decision was not taken; None where it was.
    """

    executor: NodeId
    dispatch: int
    eta_s: float
    observation: Observation
    decision: Decision
    policy_failure: Exception | None


def place(
    task: Task,
    *,
    avoided: frozenset[NodeId],
    view: ClusterView,
    policy: Policy,
    now_s: float,
    recall: Recall | None = None,
    wanted_by: NodeId | None = None,
) -> Placement | None:
    """Chooses an executor and books the work there; None when no node can take the task.

    The node that asked for the task has it if it may be chosen; the policy is not asked then.

    A policy that raises, or chooses what may not be chosen, loses its say, not the task; so does
    the rule that decides in its place.
    """
    observation = view.observation(task, avoided=avoided, now_s=now_s, recall=recall)
    if observation is None:
        return None
    failure: Exception | None = None
    try:
        decision = _given(wanted_by, observation) or policy.decide(observation)
        _check(decision, observation)
    except Exception as error:
        failure = error
        decision = _without_policy(observation)
    choice = decision.choice
    executor = NodeId(observation.node_ids[choice])
    ahead = float(observation.backlog_B[choice] + observation.own_B[choice]) + task.work
    eta_s = ahead / float(observation.capacity_B[choice]) + float(observation.link_s_B[choice])
    return Placement(
        executor=executor,
        dispatch=view.dispatched(executor, task.work, now_s=now_s),
        eta_s=eta_s,
        observation=observation,
        decision=decision,
        policy_failure=failure,
    )


def _given(wanted_by: NodeId | None, observation: Observation) -> Decision | None:
    if wanted_by not in observation.node_ids:
        return None
    choice = observation.node_ids.index(wanted_by)
    return Decision(choice=choice, policy=TAKEN) if observation.alive_B[choice] else None


def _without_policy(observation: Observation) -> Decision:
    """By a rule; where that fails, too, by this node or the first that may be chosen."""
    try:
        decision = _FALLBACK.decide(observation)
        _check(decision, observation)
    except Exception:
        alive, own = np.flatnonzero(observation.alive_B), observation.local
        choice = own if own is not None and own in alive else int(alive[0])
        decision = Decision(choice=choice, policy="first_alive")
    return replace(decision, reason="error")


def _check(decision: Decision, observation: Observation) -> None:
    choice, alive_B = decision.choice, observation.alive_B
    if not (0 <= choice < len(alive_B) and alive_B[choice]):
        raise ValueError(f"policy {decision.policy} chose a node that may not be chosen")
    latent_B = decision.latent_B
    if latent_B is None:
        return
    if latent_B.shape != alive_B.shape or not np.isfinite(latent_B).all():
        raise ValueError(f"policy {decision.policy} left the latent {latent_B}")
