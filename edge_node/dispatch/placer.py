"""Decisions: asked of the policy, recorded for guard and learner, joined with what became of them.

Owns the policy's slots and the tasks' decision records; which node is chosen is the policy's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial

from edge_node.attempt_codes import PEER_UNREACHABLE
from edge_node.clock import Clock, moment
from edge_node.dispatch.inbox import Inbox
from edge_node.dispatch.own_node import OwnNode
from edge_node.domain import Fence, Task, TaskRecord, TaskStatus
from edge_node.ports import ExperiencePool, LatentStore
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.checkpoints import steps_between
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.in_flight import InFlight, work_ahead
from edge_node.tasks.placement import TAKEN, Placement, place
from edge_node.tasks.slots import Place, SlotMemory
from edge_node.telemetry.metrics import NodeMetrics
from scheduler.experience import RecordedDecision
from scheduler.guard.guard import Guard, reason_word
from scheduler.guard.status import GuardStatus
from scheduler.observation import FloatArray
from scheduler.policy import Outcome, Policy

log = logging.getLogger(__name__)

# What a failed task counts as when its delay is reported to the policy, in seconds.
FAILURE_PENALTY_S = 60.0
# Ends of attempts that an executor had taken, and did not draw for as long as it was waited for.
HELD_IN_VAIN = frozenset({"overdue", "lease_lapsed"})


class Placer:
    """Places attempts.

    Args:
        node: this node.
        inbox: hears which executor was chosen.
        view: what is known of the cluster.
        policy: chooses.
        memory: latents by slot.
        metrics: counts decisions.
        clock: times them.
        load: what each client has in flight.
        latent_store: keeps latents across restarts, if any does.
        pool: keeps decisions and outcomes for a learner, if any does.
        checkpoint_steps: the operator's; None for as often as it costs next to nothing.
    """

    def __init__(
        self,
        *,
        node: OwnNode,
        inbox: Inbox,
        view: ClusterView,
        policy: Policy,
        memory: SlotMemory,
        metrics: NodeMetrics,
        clock: Clock,
        load: InFlight,
        latent_store: LatentStore | None = None,
        pool: ExperiencePool | None = None,
        checkpoint_steps: int | None = None,
    ) -> None:
        self.checkpoint_steps = checkpoint_steps
        self._node = node
        self._inbox = inbox
        self._view = view
        self._policy = policy
        self._memory = memory
        self._metrics = metrics
        self._clock = clock
        self._load = load
        self._latent_store = latent_store
        self._pool = pool
        # Kinds of failure that were logged; a failing policy fails for every task.
        self._policy_failures: set[str] = set()

    def guard_status(self) -> GuardStatus | None:
        """Who decides placements and why; None where a rule is wanted, which needs no guard."""
        return self._policy.status() if isinstance(self._policy, Guard) else None

    def place(self, wanted: life.PlaceTask) -> None:
        """Chooses an executor; the lifecycle hears of it."""
        task, fence = wanted.task, wanted.fence
        start_s = self._clock.now_s()
        self._node.look()
        nth = self._nth(start_s)
        placement = place(
            task,
            avoided=wanted.avoided,
            view=self._view,
            policy=self._policy,
            now_s=start_s,
            recall=None if nth is None else partial(self._recall, nth),
            wanted_by=wanted.wanted_by,
        )
        if placement is None:
            self._inbox.apply(life.PlacementImpossible(task_id=task.id, fence=fence))
            return
        seconds = self._clock.now_s() - start_s
        if nth is not None and placement.decision.policy != TAKEN:
            try:
                self._memory.decided(nth, placement.observation.node_ids, placement.decision)
                self._note(wanted, placement, nth, seconds=seconds)
            except Exception:
                log.exception("the decision about %s was not recorded", task.id)
        self._inbox.apply(
            life.PlacementMade(
                task_id=task.id,
                fence=fence,
                executor=placement.executor,
                incarnation=self._node.identity.incarnation,
                dispatch=placement.dispatch,
                policy=placement.decision.policy,
                policy_reason=placement.decision.reason,
                eta_s=self._eta_s(task, placement),
                checkpoint_steps=self._checkpoint_steps(wanted, placement),
                others=bool(wanted.avoided) or int(placement.observation.alive_B.sum()) > 1,
            )
        )

    def _checkpoint_steps(self, wanted: life.PlaceTask, placement: Placement) -> int:
        """As often as the operator wants, or as it costs next to nothing at this executor."""
        here = placement.executor == self._node.id
        capacity = float(placement.observation.capacity_B[placement.decision.choice])
        return steps_between(
            self.checkpoint_steps,
            drawing=wanted.task.drawing,
            step_s=wanted.task.work / (wanted.steps_left + 1) / capacity,
            throughput_bits_s=None if here else self._view.throughput_bits_s(placement.executor),
        )

    def _eta_s(self, task: Task, placement: Placement) -> float:
        """What is expected of the queue, and no more than turns take where others wait, too.

        Who is alone waits for all of his: what he sent to other nodes is not known here.
        """
        if not task.turns:
            return placement.eta_s
        model, now_s = task.drawing.model, self._clock.now_s()
        load = self._load.of(task.turns, self._view.models_beside(model, now_s=now_s))
        others = self._view.clients(model, now_s=now_s) - (load.tasks > 1)
        if others <= 0:
            return placement.eta_s
        own = max(task.work, load.work)
        seen = placement.observation
        choice = placement.decision.choice
        in_turns_s = work_ahead(math.inf, own=own, others=others) / seen.capacity_B[choice]
        return min(placement.eta_s, float(in_turns_s + seen.link_s_B[choice]))

    def _nth(self, now_s: float) -> Place | None:
        """The decision's place in its slot; None where no account of slots can be kept."""
        try:
            self.let_slot_pass(now_s)
            return self._memory.place()
        except Exception:
            log.exception("a task is placed without a slot")
            return None

    def _recall(self, nth: Place, node_ids: tuple[str, ...]) -> FloatArray | None:
        try:
            return self._memory.recall(nth, node_ids)
        except Exception:
            log.exception("a task is placed without a latent")
            return None

    def attempt_ended(self, ended: life.AttemptEnded) -> None:
        """The executor no longer works on a dispatch: its work is not counted there any more."""
        drawn = ended.reason == "finished"
        if drawn or ended.reason in HELD_IN_VAIN:
            now_s = self._clock.now_s()
            self._view.work_shown(ended.executor, ended.dispatch, drawn=drawn, now_s=now_s)
        self._view.dispatch_ended(ended.executor, ended.dispatch)
        if ended.reason == PEER_UNREACHABLE:
            self._view.unreachable(ended.executor)
        remote = ended.executor != self._node.id
        self._metrics.attempt_ended(remote=remote, reason=ended.reason)

    def task_ended(self, record: TaskRecord, fences: Sequence[Fence]) -> None:
        """The delay of a task that is final is what its decisions led to."""
        if record.status is TaskStatus.CANCELLED:
            return
        completed = record.status is TaskStatus.COMPLETED
        for fence in fences:
            outcome = Outcome(
                decision_id=f"{record.task.id}/{fence}",
                service_delay_s=record.service_delay_s if completed else FAILURE_PENALTY_S,
                completed=completed,
            )
            self._policy.record(outcome)
            if self._pool is not None:
                self._pool.note_outcome(outcome)

    def let_slot_pass(self, now_s: float) -> None:
        """Begins a new slot when it is time, and hands what the last one left to the store."""
        former = self._memory.slot
        service_s = partial(self._view.service_s, now_s=now_s)
        left_latents = self._memory.advance(now_s=now_s, service_s=service_s)
        self._metrics.slots_passed(self._memory.slot - former)
        if left_latents and self._latent_store is not None:
            snapshot = self._memory.snapshot(moment(self._clock))
            if snapshot is not None:
                self._latent_store.note(snapshot)

    def _note(
        self, wanted: life.PlaceTask, placement: Placement, nth: Place, *, seconds: float
    ) -> None:
        """Everything about a decision that the task does not wait for."""
        seen, decision = placement.observation, placement.decision
        failure = placement.policy_failure
        if failure is not None and type(failure).__name__ not in self._policy_failures:
            self._policy_failures.add(type(failure).__name__)
            log.error("the policy failed; %s decides", decision.policy, exc_info=failure)
        self._metrics.decided(
            policy=decision.policy,
            seconds=seconds,
            staleness_s=float(seen.staleness_s_B[seen.alive_B].max()),
            reason=reason_word(decision.reason),
        )
        if decision.latent_B is not None:
            self._metrics.latent_read(found=seen.latent_B is not None)
        recorded = RecordedDecision(
            decision_id=f"{wanted.task.id}/{wanted.fence}",
            node_id=self._node.id,
            decided_unix_s=self._clock.unix_s(),
            slot=nth.slot,
            index_in_slot=nth.index,
            steps=wanted.task.drawing.denoising_steps,
            observation=seen,
            decision=decision,
            model=wanted.task.drawing.model,
        )
        if isinstance(self._policy, Guard):
            self._policy.note_decision(recorded)
        if self._pool is not None:
            self._pool.note_decision(recorded)
