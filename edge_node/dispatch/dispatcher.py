"""How the parts of the shell fit together: who carries out which instruction, start and stop.

Owns nothing but that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ulid import ULID

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.dispatch.bulk_cancel import OwnCancel
from edge_node.dispatch.eraser import Eraser, EraserSettings, Holders
from edge_node.dispatch.executor import Executor
from edge_node.dispatch.helping import Helping, HelpingSettings
from edge_node.dispatch.inbox import Inbox
from edge_node.dispatch.journal import Journal
from edge_node.dispatch.known_models import KnownModels, KnownModelsSettings
from edge_node.dispatch.mover import Mover, MoverSettings
from edge_node.dispatch.offloads import Offloads
from edge_node.dispatch.own_node import DrawingDefaults, Identity, OwnNode
from edge_node.dispatch.own_tasks import OwnTasks, OwnTasksSettings
from edge_node.dispatch.placer import Placer
from edge_node.dispatch.task_lists import OwnList
from edge_node.dispatch.task_traces import TaskTraces
from edge_node.dispatch.timekeeper import Timekeeper, TimekeeperSettings
from edge_node.domain import AttemptFailed, NodeId, NodeState, Task, TaskRecord
from edge_node.lasting import Loops
from edge_node.ports import (
    Erasures,
    ExperiencePool,
    Images,
    InitImages,
    LatentStore,
    Ledger,
    Peers,
    Worker,
)
from edge_node.requests import NodeAction
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.hosting import Hosting
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.slots import SlotMemory
from edge_node.telemetry.metrics import NodeMetrics
from scheduler.policy import Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DispatcherSettings:
    """What can change while the node runs."""

    own_tasks: OwnTasksSettings
    time: TimekeeperSettings
    drawing: DrawingDefaults
    erasing: EraserSettings
    models: KnownModelsSettings = field(default_factory=KnownModelsSettings)
    moving: MoverSettings = field(default_factory=MoverSettings)
    helping: HelpingSettings = field(default_factory=HelpingSettings)
    checkpoint_steps: int | None = None

    @classmethod
    def of(cls, config: NodeConfig) -> DispatcherSettings:
        """From the node's settings."""
        return cls(
            own_tasks=OwnTasksSettings.of(config),
            time=TimekeeperSettings.of(config),
            drawing=DrawingDefaults.of(config),
            erasing=EraserSettings.of(config),
            models=KnownModelsSettings.of(config),
            moving=MoverSettings.of(config),
            helping=HelpingSettings.of(config),
            # What would not be kept is not asked for.
            checkpoint_steps=config.checkpoint_steps if config.checkpoint_bytes_max else 0,
        )


class Dispatcher:
    """Everything that a node does with tasks, for the REST surface and for peers.

    Args:
        identity: who this node is.
        settings: bounds and periods.
        lifecycle, hosting: the task machines; nobody else may change them from here on.
        view: what is known of the cluster.
        policy: decides placements.
        memory: its latents by slot.
        ledger, images, init_images: what outlives the node.
        erasures: the ledger's part in what must not.
        worker: draws.
        metrics, clock: of the node.
        latent_store: keeps latents across restarts, if any does.
        pool: keeps decisions and outcomes for a learner, if any does.
        loops: keeps the node's sense of time going.
        traces: hears what is done, if anybody wants to see it.
        new_ulid: names tasks and jobs.

    Attributes:
        on_ended: told of each task accepted here that is over, once that is on disk.
    """

    on_ended: Callable[[TaskRecord], None] = staticmethod(lambda record: None)

    def __init__(
        self,
        identity: Identity,
        settings: DispatcherSettings,
        *,
        lifecycle: Lifecycle,
        hosting: Hosting,
        view: ClusterView,
        policy: Policy,
        memory: SlotMemory,
        ledger: Ledger,
        images: Images,
        init_images: InitImages,
        erasures: Erasures,
        worker: Worker,
        metrics: NodeMetrics,
        clock: Clock,
        latent_store: LatentStore | None = None,
        pool: ExperiencePool | None = None,
        loops: Loops | None = None,
        traces: TaskTraces | None = None,
        new_ulid: Callable[[], str] = lambda: str(ULID()),
    ) -> None:
        self._hosting, self._view, self._clock, self._traces = hosting, view, clock, traces
        self._lifecycle = lifecycle
        self._loops, self._looking = loops or Loops(), list[asyncio.Task[None]]()
        self._inbox = inbox = Inbox(lifecycle=lifecycle, hosting=hosting, clock=clock)
        self.own_node = node = OwnNode(
            identity, settings.drawing, hosting=hosting, view=view, worker=worker, clock=clock
        )
        self.models = KnownModels(settings.models, node=node, view=view, clock=clock)
        self.placer = Placer(
            node=node,
            inbox=inbox,
            view=view,
            policy=policy,
            memory=memory,
            metrics=metrics,
            clock=clock,
            load=lifecycle.load,
            latent_store=latent_store,
            pool=pool,
            checkpoint_steps=settings.checkpoint_steps,
        )
        self.own_tasks = OwnTasks(
            settings.own_tasks,
            node=node,
            models=self.models,
            inbox=inbox,
            lifecycle=lifecycle,
            view=view,
            ledger=ledger,
            images=images,
            init_images=init_images,
            metrics=metrics,
            clock=clock,
            new_ulid=new_ulid,
        )
        self.own_list = OwnList(lifecycle, ledger, self.own_tasks.expected)
        self.journal = self._journal(identity, lifecycle)
        self.own_cancel = OwnCancel(lifecycle, self.own_tasks)
        self.executor = self._executor(worker, init_images)
        holders = Holders(ledger, erasures, images, init_images, pool)
        self.eraser = self._eraser(settings.erasing, holders, lifecycle)
        self._offloads = Offloads(
            node=node, inbox=inbox, view=view, init_images=init_images, clock=clock
        )
        self.mover = self._mover(settings.moving, lifecycle, metrics)
        self.helping = self._helping(settings.helping, worker, metrics)
        self._metrics = metrics
        self._timekeeper = self._timekeeper_of(settings.time, lifecycle, ledger, metrics)
        inbox.connect(obey=self._obey, hosting_changed=node.changed)

    def _executor(self, worker: Worker, init_images: InitImages) -> Executor:
        return Executor(
            node=self.own_node,
            inbox=self._inbox,
            hosting=self._hosting,
            worker=worker,
            init_images=init_images,
            clock=self._clock,
        )

    def _journal(self, identity: Identity, lifecycle: Lifecycle) -> Journal:
        expected = self.own_tasks.expected
        return Journal(term=identity.term, lifecycle=lifecycle, expected=expected)

    def _eraser(self, settings: EraserSettings, holders: Holders, lifecycle: Lifecycle) -> Eraser:
        return Eraser(
            settings,
            holders=holders,
            own_tasks=self.own_tasks,
            lifecycle=lifecycle,
            hosting=self._hosting,
            inbox=self._inbox,
            clock=self._clock,
        )

    def _helping(self, settings: HelpingSettings, worker: Worker, metrics: NodeMetrics) -> Helping:
        return Helping(
            settings,
            node=self.own_node,
            hosting=self._hosting,
            view=self._view,
            worker=worker,
            metrics=metrics,
            clock=self._clock,
        )

    def _mover(self, settings: MoverSettings, lifecycle: Lifecycle, metrics: NodeMetrics) -> Mover:
        return Mover(
            settings,
            node=self.own_node,
            inbox=self._inbox,
            lifecycle=lifecycle,
            hosting=self._hosting,
            view=self._view,
            metrics=metrics,
            clock=self._clock,
        )

    def _timekeeper_of(
        self,
        settings: TimekeeperSettings,
        lifecycle: Lifecycle,
        ledger: Ledger,
        metrics: NodeMetrics,
    ) -> Timekeeper:
        return Timekeeper(
            settings,
            node=self.own_node,
            inbox=self._inbox,
            lifecycle=lifecycle,
            view=self._view,
            placer=self.placer,
            mover=self.mover,
            ledger=ledger,
            metrics=metrics,
            clock=self._clock,
            loops=self._loops,
        )

    # Start, change and stop, called by node.py.

    def start(self, peers: Peers, recovered: Sequence[Task]) -> None:
        """Begins to work: takes up what a former life owed, and lets time pass."""
        self.models.start(peers)
        self._offloads.start(peers)
        self.mover.start(peers)
        self.helping.start(peers)
        self.eraser.start(peers)
        self.own_node.tell_peers_by(peers.push_state)
        self._inbox.apply(life.TasksRecovered(tasks=tuple(recovered)))
        self._looking.append(self._loops.start("the clock", self._timekeeper.run, vital=True))

    def still_s(self) -> float:
        """For how long nobody has looked at leases and deadlines; 0 while somebody does."""
        return self._timekeeper.still_s()

    def reconfigure(self, settings: DispatcherSettings) -> None:
        """Takes other bounds for what is to come."""
        self.own_node.reconfigure(settings.drawing)
        self.models.settings = settings.models
        self.own_tasks.settings = settings.own_tasks
        self._timekeeper.settings = settings.time
        self.eraser.settings = settings.erasing
        self.placer.checkpoint_steps = settings.checkpoint_steps
        self.mover.settings = settings.moving

    def operate(self, action: NodeAction) -> None:
        """Does what an operator says."""
        self.own_node.pause(action is not NodeAction.RESUME)
        if action is NodeAction.DRAIN:
            self._hand_over()

    async def drain(self, *, timeout_s: float) -> None:
        """Draws nothing new, hands over what others can draw, and waits for what it has by now.

        What clients ask for meanwhile others draw, while there are any. It takes `timeout_s` at
        most.
        """
        self.own_node.drain()
        before = self._lifecycle.open_ids()
        await self._hand_over_while(lambda: before & self._lifecycle.open_ids(), timeout_s)

    async def finish(self, *, timeout_s: float, closed: asyncio.Event) -> None:
        """Waits for all that is open, and for what may still be asked for until `closed`.

        After `timeout_s` it dismisses who waits.
        """
        if not await self._hand_over_while(
            lambda: self.own_tasks.in_flight or not closed.is_set(), timeout_s
        ):
            self.own_tasks.dismiss()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open that was accepted here, and nothing is drawn."""
        return not (self.own_tasks.in_flight or self._hosting.hosted() or self.executor.telling)

    async def _hand_over_while(self, waits: Callable[[], object], timeout_s: float) -> bool:
        """Whether that was over in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while waits() or self._hosting.hosted() or self.executor.telling:
                    self._hand_over()
                    await asyncio.sleep(self._timekeeper.settings.tick_s)
                return True
        return False

    def _hand_over(self) -> None:
        """Gives back what is drawn for others, where somebody else draws it."""
        now_s, own = self._clock.now_s(), self.own_node.id
        drawn = frozenset(
            model
            for model in self._hosting.models()
            if self._view.is_drawn_elsewhere(model, now_s=now_s)
        )
        if drawn:
            portable = self.own_node.described.portable
            self._inbox.apply(hosted.HandOverDue(own=own, portable=portable, models=drawn))

    async def stop(self) -> None:
        """Ends all that is under way; the ledger knows what is owed."""
        for looking in self._looking:
            looking.cancel()
            await asyncio.wait([looking])
        for part in (self.mover, self._offloads, self.executor, self.own_tasks):
            await part.stop()

    # What membership says.

    def peer_state_received(self, state: NodeState) -> None:
        """A peer pushed its state; Membership hears none of this node's own name."""
        self._view.state_received(state, now_s=self._clock.now_s())

    def peer_forgotten(self, node_id: NodeId) -> None:
        """A peer left, or is given up: its attempts are placed again."""
        self._timekeeper.peer_forgotten(node_id)

    def round_trip_measured(self, node_id: NodeId, round_trip_s: float) -> None:
        """A link was measured."""
        self._view.round_trip_measured(node_id, round_trip_s)

    # Who carries out what.

    def _obey(self, instruction: life.Instruction | hosted.Instruction) -> None:
        try:
            if self._traces is None:
                self._carry_out(instruction)
            else:
                with self._traces.around(instruction):
                    self._carry_out(instruction)
        except Exception:
            # A bug, or a part of the world that raises what it should not. What was to follow
            # from the same event still does, and no task waits for what will never come.
            log.exception("%s was not carried out", type(instruction).__name__)
            self._not_carried_out(instruction)

    def _carry_out(self, instruction: life.Instruction | hosted.Instruction) -> None:
        if isinstance(instruction, hosted.Instruction):
            self._obey_hosting(instruction)
        else:
            self._obey_lifecycle(instruction)

    def _not_carried_out(self, instruction: life.Instruction | hosted.Instruction) -> None:
        match instruction:
            case life.PlaceTask(task=task, fence=fence):
                self._inbox.apply(life.PlacementImpossible(task_id=task.id, fence=fence))
            case life.StartAttempt(executor=executor, offload=offload):
                failure = AttemptFailed(
                    code="internal_error", message="The attempt was not sent.", retryable=True
                )
                self._offloads.reported(executor, offload.task_id, offload.fence, failure)

    def _obey_lifecycle(self, instruction: life.Instruction) -> None:
        match instruction:
            case life.AppendTasks(tasks=tasks):
                self.own_tasks.append(tasks)
            case life.JournalTasks(tasks=tasks):
                self.own_tasks.journal(tasks)
            case life.AnswerAccepted(task_ids=task_ids):
                self.own_tasks.accepted(task_ids)
            case life.AnswerRefused(task_ids=task_ids):
                self.own_tasks.refused(task_ids)
            case life.PlaceTask():
                self.placer.place(instruction)
            case life.StartAttempt(executor=executor, offload=offload):
                self._offloads.start_attempt(executor, offload)
            case life.StopAttempt(executor=executor, task_id=task_id, fence=fence):
                self._offloads.stop_attempt(executor, task_id, fence)
            case life.HandOverAttempt(executor=executor, task_id=task_id, fence=fence):
                if executor == self.own_node.id:
                    self.executor.hand_over_hosted(task_id, fence)
                else:
                    self._offloads.hand_over(executor, task_id, fence)
            case life.StoreImage():
                self.own_tasks.store_image(instruction)
            case life.NoteRecord(record=record):
                self.own_tasks.note(record)
            case life.RecordFinal(record=record):
                self.own_tasks.record_final(record)
            case life.PublishEvent(task_id=task_id, event=event):
                self.own_tasks.wake_watchers(task_id)
                self.journal.note(task_id, event)
                if event.move is not None:
                    self._metrics.moved(event.move.reason)
            case life.AttemptEnded():
                self.placer.attempt_ended(instruction)
            case life.TaskEnded(record=record, fences=fences):
                self.own_tasks.ended(record)
                self.on_ended(record)
                self.placer.task_ended(record, fences)

    def _obey_hosting(self, instruction: hosted.Instruction) -> None:
        match instruction:
            case hosted.StartDrawing():
                self.executor.start_drawing(instruction)
            case hosted.StopDrawing(task_id=task_id, fence=fence):
                self.executor.stop_drawing(task_id, fence)
            case hosted.HandOverDrawing(task_id=task_id, fence=fence):
                self.executor.hand_over(task_id, fence)
            case hosted.ReportAttempt(origin=origin, task_id=task_id, fence=fence):
                if origin == self.own_node.id:
                    self._offloads.reported(origin, task_id, fence, instruction.report)
                else:
                    self.executor.report(task_id, fence, instruction.report)
