"""Three nodes' real logic on a simulated network, store, worker and clock, all from one seed.

The shell here does what `edge_node.dispatcher` does with sockets and processes: it carries out
the instructions of Lifecycle and Hosting in order. Messages are lost, delayed, duplicated and cut
off by partitions; nodes crash and freeze; workers crash; stores refuse. Invariants are checked
after every event, and at the end, when all has healed, that no accepted task is left over.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from edge_node.domain import (
    AttemptFinished,
    AttemptReport,
    AttemptStarted,
    Drawing,
    Durability,
    Image,
    NodeId,
    NodeState,
    Offload,
    StepFinished,
    Task,
    TaskEvent,
    TaskEventKind,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle as life
from edge_node.tasks.cluster_view import ClusterView, ClusterViewLimits
from edge_node.tasks.hosting import Hosting, HostingLimits
from edge_node.tasks.lifecycle import Lifecycle, LifecycleLimits, Moment
from edge_node.tasks.moving import task_to_move
from edge_node.tasks.placement import place
from edge_node.tasks.slots import SlotMemory, SlotSettings
from scheduler.policy import Policy
from scheduler.registry import create

FAULTS_END_S = 25.0
HEALED_END_S = 120.0
TICK_S = 0.25
NODES = tuple(NodeId(f"n{i}") for i in range(3))
ATTEMPTS_MAX = 6


class InvariantBroken(AssertionError):
    """What must always hold did not."""


@dataclass
class Disk:
    """A node's store: what was fsynced survives a crash."""

    records: dict[TaskId, TaskRecord] = field(default_factory=dict)
    images: dict[TaskId, int] = field(default_factory=dict)
    init_images: set[str] = field(default_factory=set)
    incarnation: int = 0


@dataclass
class Client:
    """All that clients were ever told about one task."""

    accepted: bool = False
    cancelled: bool = False
    events: list[TaskEvent] = field(default_factory=list)
    final: TaskEventKind | None = None


class Worker:
    """Draws one attempt after another, a step at a time."""

    def __init__(self, node: Node, step_s: float) -> None:
        self._node = node
        self._step_s = step_s
        self._queue: list[hosted.StartDrawing] = []
        self._generation = 0

    def start(self, drawing: hosted.StartDrawing) -> None:
        self._queue.append(drawing)
        if len(self._queue) == 1:
            self._begin()

    def stop(self, task_id: TaskId, attempt: int) -> None:
        keep = [d for d in self._queue if (d.task_id, d.attempt) != (task_id, attempt)]
        first_stopped = bool(self._queue) and self._queue[0] not in keep
        self._queue = keep
        if first_stopped:
            self._begin()

    def crash(self) -> None:
        self._queue.clear()
        self._generation += 1

    @property
    def attempts(self) -> list[tuple[TaskId, int]]:
        return [(d.task_id, d.attempt) for d in self._queue]

    def _begin(self) -> None:
        self._generation += 1
        if self._queue:
            self._report(AttemptStarted())
            self._schedule_step(1)

    def _schedule_step(self, step: int) -> None:
        generation = self._generation
        self._node.later(self._step_s, lambda: self._step_done(generation, step))

    def _step_done(self, generation: int, step: int) -> None:
        if generation != self._generation:
            return
        drawing = self._queue[0]
        steps = drawing.drawing.denoising_steps
        self._report(StepFinished(step=step, steps=steps))
        if generation != self._generation:
            return  # its origin stopped it on hearing of it
        if step < steps:
            self._schedule_step(step + 1)
            return
        content = f"{drawing.task_id}/{drawing.attempt}/{self._node.id}".encode()
        image = Image(content=content, format="png", width_px=64, height_px=64)
        self._report(AttemptFinished(image=image, queue_s=0.0, compute_s=steps * self._step_s))
        self._queue.pop(0)
        self._begin()

    def _report(self, report: AttemptReport) -> None:
        drawing = self._queue[0]
        self._node.on_hosting(
            hosted.DrawingReported(task_id=drawing.task_id, attempt=drawing.attempt, report=report)
        )


class Node:
    """One life of a node, from start to crash."""

    def __init__(self, cluster: SimulatedCluster, node_id: NodeId, disk: Disk) -> None:
        self.cluster = cluster
        self.id = node_id
        self.disk = disk
        self.alive = True
        disk.incarnation += 1
        self.incarnation = disk.incarnation
        self.limits = LifecycleLimits(attempts_max=ATTEMPTS_MAX, lease_s=2.0)
        self.lifecycle = cluster.lifecycle_class(self.limits)
        self.hosting = cluster.hosting_class(HostingLimits(hosted_max=6))
        self.view = ClusterView(
            own_id=node_id,
            incarnation=self.incarnation,
            limits=ClusterViewLimits(suspect_s=1.5, heartbeat_s=TICK_S),
            began_s=cluster.now_s,
        )
        self.memory = SlotMemory(SlotSettings(), now_s=cluster.now_s)
        self.policy: Policy = create(cluster.policy, rng=cluster.rng)
        self.worker = Worker(self, step_s=0.1 * (1 + NODES.index(node_id)))
        self.sequence = 0
        self.changed_s = cluster.now_s
        self.was_alive: set[NodeId] = set()
        self.attempt_highest_offered: dict[TaskId, int] = {}
        self.begun: set[tuple[TaskId, int]] = set()

    def start(self) -> None:
        self._push_state()
        open_tasks = []
        for task_id, record in sorted(self.disk.records.items()):
            if not record.status.is_final:
                floor = record.task.attempt_floor + self.limits.attempt_numbers_max
                task = replace(record.task, attempt_floor=floor)
                self.disk.records[task_id] = TaskRecord(task=task)
                open_tasks.append(task)
        self.on_lifecycle(life.TasksRecovered(tasks=tuple(open_tasks)))
        self.later(TICK_S, self._tick)

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Runs `action` in this life only, and not before a freeze is over."""

        def guarded() -> None:
            if not self.alive:
                return
            thaw_s = self.cluster.frozen_until_s.get(self.id, 0.0)
            if self.cluster.now_s < thaw_s:
                self.cluster.schedule(thaw_s - self.cluster.now_s, guarded)
            else:
                action()

        self.cluster.schedule(delay_s, guarded)

    # The shell's two inlets.

    def on_lifecycle(self, event: life.Event) -> None:
        now = self.cluster.now_s
        for instruction in self.lifecycle.handle(event, Moment(now_s=now, unix_s=now)):
            self._obey_lifecycle(instruction)

    def on_hosting(self, event: hosted.Event) -> None:
        for instruction in self.hosting.handle(event):
            self._obey_hosting(instruction)
        self._push_state()

    def _obey_lifecycle(self, instruction: life.Instruction) -> None:
        match instruction:
            case life.AppendTasks(tasks=tasks):
                self.later(self.cluster.disk_delay_s(), lambda: self._append(tasks))
            case life.AnswerAccepted(task_ids=task_ids):
                for task_id in task_ids:
                    self.cluster.told_accepted(self, task_id)
                    work = self.disk.records[task_id].task.work
                    self.view.task_accepted(work, now_s=self.cluster.now_s)
            case life.PlaceTask():
                self._place(instruction)
            case life.StartAttempt(executor=executor, offload=offload):
                sha256 = offload.drawing.init_image_sha256
                sent = {sha256} & self.disk.init_images
                self.cluster.send(self.id, executor, lambda n: n.offload_arrived(offload, sent))
            case life.StopAttempt(executor=executor, task_id=task_id, attempt=attempt):
                event = hosted.OffloadCancelled(task_id=task_id, attempt=attempt)
                self.cluster.send(self.id, executor, lambda n: n.on_hosting(event))
            case life.StoreImage():
                self.later(self.cluster.disk_delay_s(), lambda: self._store(instruction))
            case life.RecordFinal(record=record):
                self.later(self.cluster.disk_delay_s(), lambda: self._record_final(record))
            case life.PublishEvent(task_id=task_id, event=event):
                self.cluster.told_event(self, task_id, event)
            case life.AttemptEnded(executor=executor, dispatch=dispatch):
                self.view.dispatch_ended(executor, dispatch)

    def _obey_hosting(self, instruction: hosted.Instruction) -> None:
        match instruction:
            case hosted.StartDrawing(task_id=task_id, attempt=attempt):
                if (task_id, attempt) in self.begun:
                    raise InvariantBroken(f"{self.id} draws {task_id}/{attempt} a second time")
                sha256 = instruction.drawing.init_image_sha256
                if sha256 and sha256 not in self.disk.init_images:
                    raise InvariantBroken(f"{self.id} draws {task_id} without its init image")
                self.begun.add((task_id, attempt))
                self.worker.start(instruction)
            case hosted.StopDrawing(task_id=task_id, attempt=attempt):
                self.worker.stop(task_id, attempt)
            case hosted.ReportAttempt(origin=origin):
                event = life.AttemptReported(
                    task_id=instruction.task_id,
                    attempt=instruction.attempt,
                    executor=self.id,
                    report=instruction.report,
                )
                self.cluster.send(self.id, origin, lambda n: n.on_lifecycle(event))

    # What the instructions mean here.

    def _append(self, tasks: tuple[Task, ...]) -> None:
        task_ids = tuple(task.id for task in tasks)
        if self.cluster.faulty and self.cluster.rng.random() < 0.05:
            self.on_lifecycle(life.AppendFailed(task_ids=task_ids))
            return
        for task in tasks:
            self.disk.records[task.id] = TaskRecord(task=task)
        self.on_lifecycle(life.TasksAppended(task_ids=task_ids))

    def _place(self, wanted: life.PlaceTask) -> None:
        now = self.cluster.now_s
        self.memory.advance(now_s=now, service_s=lambda: self.view.service_s(now_s=now))
        nth = self.memory.place()
        placement = place(
            wanted.task,
            avoided=wanted.avoided,
            view=self.view,
            policy=self.policy,
            now_s=now,
            recall=lambda node_ids: self.memory.recall(nth, node_ids),
        )
        task_id, attempt = wanted.task.id, wanted.attempt
        if placement is None:
            self.on_lifecycle(life.PlacementImpossible(task_id=task_id, attempt=attempt))
            return
        if placement.policy_failure is not None:
            raise InvariantBroken(f"{self.id}'s policy failed") from placement.policy_failure
        self.memory.decided(nth, placement.observation.node_ids, placement.decision)
        self.on_lifecycle(
            life.PlacementMade(
                task_id=task_id,
                attempt=attempt,
                executor=placement.executor,
                incarnation=self.incarnation,
                dispatch=placement.dispatch,
                policy=placement.decision.policy,
                eta_s=placement.eta_s,
            )
        )

    def _store(self, wanted: life.StoreImage) -> None:
        claimed = f"{wanted.task_id}/{wanted.attempt}/".encode()
        if not wanted.image.content.startswith(claimed):
            raise InvariantBroken(f"{wanted.image.content!r} stored as attempt {claimed!r}")
        self.disk.images[wanted.task_id] = wanted.attempt
        self.on_lifecycle(
            life.ImageStored(task_id=wanted.task_id, attempt=wanted.attempt, image_bytes=1)
        )

    def _record_final(self, record: TaskRecord) -> None:
        self.disk.records[record.task.id] = record
        self.on_lifecycle(life.FinalRecorded(task_id=record.task.id))

    def offload_arrived(self, offload: Offload, init_images: set[str]) -> None:
        self.disk.init_images |= init_images
        highest = self.attempt_highest_offered.get(offload.task_id, 0)
        self.attempt_highest_offered[offload.task_id] = max(highest, offload.attempt)
        self.on_hosting(hosted.OffloadReceived(offload=offload))

    def _tick(self) -> None:
        self._push_state(heartbeat=True)
        now = self.cluster.now_s
        alive = {n for n in self.view.node_ids() if self.view.is_alive(n, now_s=now)}
        for lost in sorted(self.was_alive - alive):
            self.on_lifecycle(life.PeerFailed(node_id=lost))
        self.was_alive = alive
        self.on_lifecycle(life.ClockAdvanced())
        self._move_waiting(now)
        self.on_hosting(hosted.HeartbeatDue())
        self.later(TICK_S, self._tick)

    def _move_waiting(self, now_s: float) -> None:
        """What a dispatcher would move in its turn, and now and then what it would not."""
        waiting = self.lifecycle.waiting()
        task_id = task_to_move(waiting, view=self.view, now_s=now_s)
        if waiting and self.cluster.rng.random() < 0.05:
            task_id = waiting[self.cluster.rng.integers(len(waiting))].task.id
        if task_id is not None:
            self.cluster.moves += 1
            self.on_lifecycle(life.MoveRequested(task_id=task_id))

    def _push_state(self, *, heartbeat: bool = False) -> None:
        if not heartbeat:
            self.sequence += 1
            self.changed_s = self.cluster.now_s
        state = NodeState(
            node_id=self.id,
            incarnation=self.incarnation,
            sequence=self.sequence,
            backlog=self.hosting.backlog,
            capacity=10.0 / (1 + NODES.index(self.id)),
            model="m",
            accepting=True,
            dispatches_seen=self.hosting.dispatches_seen,
            accepted_work_s=self.view.accepted_work_s(now_s=self.cluster.now_s),
            changed_s=self.changed_s,
            sent_s=self.cluster.now_s,
        )
        self.view.state_received(state, now_s=self.cluster.now_s)
        for other in NODES:
            if other != self.id:
                self.cluster.send(self.id, other, lambda n: n.state_arrived(state))

    def state_arrived(self, state: NodeState) -> None:
        self.view.state_received(state, now_s=self.cluster.now_s)

    def crash_worker(self) -> None:
        self.worker.crash()
        self.on_hosting(hosted.WorkerLost())


class SimulatedCluster:
    """The world: clock, network, faults, clients and the invariants."""

    def __init__(
        self,
        seed: int,
        *,
        policy: str = "power_of_two",
        lifecycle_class: type[Lifecycle] = Lifecycle,
        hosting_class: type[Hosting] = Hosting,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.now_s = 0.0
        self.policy = policy
        self.lifecycle_class = lifecycle_class
        self.hosting_class = hosting_class
        self.frozen_until_s: dict[NodeId, float] = {}
        self.clients: dict[TaskId, Client] = {}
        self.moves = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0
        self._cuts: dict[frozenset[NodeId], float] = {}
        self.loss = float(self.rng.uniform(0, 0.2))
        self.duplication = float(self.rng.uniform(0, 0.1))
        self.delay_s = float(self.rng.uniform(0.001, 0.3))
        self.disks = {node_id: Disk() for node_id in NODES}
        self.nodes = {n: Node(self, n, self.disks[n]) for n in NODES}

    @property
    def faulty(self) -> bool:
        return self.now_s < FAULTS_END_S

    def schedule(self, delay_s: float, action: Callable[[], None]) -> None:
        self._scheduled += 1
        heapq.heappush(self._events, (self.now_s + delay_s, self._scheduled, action))

    def disk_delay_s(self) -> float:
        return float(self.rng.uniform(0.001, 0.4 if self.faulty else 0.01))

    def send(self, source: NodeId, target: NodeId, deliver: Callable[[Node], None]) -> None:
        """Delivers to whichever life of `target` is there when the message arrives."""
        if source == target:
            deliver(self.nodes[target])
            return
        copies = 1
        delay_s = 0.001
        if self.faulty:
            cut = self._cuts.get(frozenset((source, target)), 0.0) > self.now_s
            lost = cut or self.rng.random() < self.loss
            copies = 0 if lost else 1 + (self.rng.random() < self.duplication)
            straggles = self.rng.random() < 0.03
            delay_s = float(self.rng.exponential(self.delay_s * (20 if straggles else 1)))
        for _ in range(copies):
            self.schedule(delay_s, lambda: self._deliver(target, deliver))
            delay_s += float(self.rng.exponential(self.delay_s))

    def _deliver(self, target: NodeId, deliver: Callable[[Node], None]) -> None:
        node = self.nodes[target]
        if node.alive:
            node.later(0.0, lambda: deliver(node))

    # Faults and requests, drawn before the run.

    def plan(self, *, tasks: int, faults: int) -> None:
        for node in self.nodes.values():
            self.schedule(0.0, node.start)
        for index in range(tasks):
            at_s = float(self.rng.uniform(0.5, 18))
            self.schedule(at_s, lambda index=index: self._submit(index))
        for _ in range(faults):
            at_s = float(self.rng.uniform(0.5, 20))
            victim = NODES[self.rng.integers(len(NODES))]
            kind = self.rng.choice(["crash", "freeze", "cut", "worker"], p=[0.4, 0.2, 0.2, 0.2])
            lasts_s = float(self.rng.uniform(0.2, 4))
            self.schedule(at_s, lambda v=victim, k=kind, d=lasts_s: getattr(self, f"_{k}")(v, d))

    def _submit(self, index: int) -> None:
        node = self.nodes[NODES[self.rng.integers(len(NODES))]]
        if not node.alive:
            return
        steps = int(self.rng.integers(1, 6))
        drawing = Drawing(
            prompt="p",
            width_px=64,
            height_px=64,
            steps=steps,
            guidance_scale=5.0,
            seed=index,
            model="m",
            init_image_sha256=f"{index:064x}" if index % 3 == 0 else "",
            strength=0.5,
        )
        if drawing.init_image_sha256:
            self.disks[node.id].init_images.add(drawing.init_image_sha256)
        task = Task(
            id=TaskId(f"{node.id}-{index:06d}"),
            job_id=None,
            drawing=drawing,
            work=float(drawing.denoising_steps + 1),
            input_bits=100,
            created_unix_s=self.now_s,
            durability=Durability.DISK,
        )
        self.clients[task.id] = Client()
        node.on_lifecycle(life.TasksSubmitted(tasks=(task,)))
        if self.rng.random() < 0.1:
            self.schedule(float(self.rng.uniform(0, 3)), lambda: self._cancel(task.id))

    def _cancel(self, task_id: TaskId) -> None:
        node = self.nodes[NodeId(task_id.split("-")[0])]
        if node.alive:
            self.clients[task_id].cancelled = True
            node.on_lifecycle(life.CancelRequested(task_id=task_id))

    def _crash(self, node_id: NodeId, lasts_s: float) -> None:
        node = self.nodes[node_id]
        if not node.alive:
            return
        node.alive = False
        self.schedule(lasts_s, lambda: self._restart(node_id))

    def _restart(self, node_id: NodeId) -> None:
        self.frozen_until_s.pop(node_id, None)
        self.nodes[node_id] = Node(self, node_id, self.disks[node_id])
        self.nodes[node_id].start()

    def _freeze(self, node_id: NodeId, lasts_s: float) -> None:
        self.frozen_until_s[node_id] = self.now_s + lasts_s

    def _cut(self, node_id: NodeId, lasts_s: float) -> None:
        for other in NODES:
            if other != node_id:
                self._cuts[frozenset((node_id, other))] = self.now_s + lasts_s

    def _worker(self, node_id: NodeId, lasts_s: float) -> None:
        if self.nodes[node_id].alive:
            self.nodes[node_id].crash_worker()

    # Invariants.

    def told_accepted(self, node: Node, task_id: TaskId) -> None:
        if task_id not in node.disk.records:
            raise InvariantBroken(f"{task_id} was accepted before it was on disk")
        self.clients[task_id].accepted = True

    def told_event(self, node: Node, task_id: TaskId, event: TaskEvent) -> None:
        client = self.clients[task_id]
        if client.final is not None:
            raise InvariantBroken(f"{task_id}: {event.kind} after {client.final}")
        before = max((e.attempt for e in client.events), default=0)
        if event.kind is not TaskEventKind.QUEUED and event.attempt < before:
            raise InvariantBroken(f"{task_id}: attempt {event.attempt} after {before}")
        if event.kind is TaskEventKind.FINISHED:
            placed = [e for e in client.events if e.kind is TaskEventKind.PLACED][-1]
            if (placed.attempt, placed.executor) != (event.attempt, event.executor):
                raise InvariantBroken(f"{task_id}: placed {placed}, finished {event}")
            if task_id not in node.disk.images:
                raise InvariantBroken(f"{task_id} is finished and has no image")
        if event.kind.is_final:
            client.final = event.kind
        client.events.append(event)

    def _check(self) -> None:
        for node in self.nodes.values():
            if not node.alive:
                continue
            for task_id, attempt in node.worker.attempts:
                if attempt < node.attempt_highest_offered.get(task_id, 0):
                    raise InvariantBroken(f"{node.id} draws the stale attempt {task_id}/{attempt}")
                if not node.hosting.is_hosted(task_id, attempt):
                    raise InvariantBroken(f"{node.id} draws {task_id}/{attempt} for nobody")

    def _check_end(self) -> None:
        for task_id, client in self.clients.items():
            record = self.disks[NodeId(task_id.split("-")[0])].records.get(task_id)
            if record is None:
                if client.accepted:
                    raise InvariantBroken(f"{task_id} was accepted and is lost")
                continue
            if not record.status.is_final:
                raise InvariantBroken(f"{task_id} is left over: {record}")
            allowed = {TaskStatus.COMPLETED}
            if client.cancelled:
                allowed.add(TaskStatus.CANCELLED)
            exhausted = record.error is not None and record.error.code == "attempts_exhausted"
            if record.status not in allowed and not exhausted:
                raise InvariantBroken(f"{task_id} ended as {record.status}: {record.error}")
        for node in self.nodes.values():
            for view in node.view.views(now_s=self.now_s):
                if view.own_unseen_work:
                    raise InvariantBroken(f"{node.id} still counts work at {view.state.node_id}")
            if node.hosting.hosted():
                raise InvariantBroken(f"{node.id} still hosts {node.hosting.hosted()}")

    def run(self) -> None:
        """Runs to the end; raises InvariantBroken."""
        while self._events and self._events[0][0] < HEALED_END_S:
            self.now_s, _, action = heapq.heappop(self._events)
            action()
            self._check()
            if self.now_s > FAULTS_END_S + 5 and self._settled():
                break
        self._check_end()

    def _settled(self) -> bool:
        return all(
            node.alive and node.lifecycle.in_flight == 0 and not node.hosting.hosted()
            for node in self.nodes.values()
        )
