"""Attempts that this node draws, whoever their origin: events in, instructions out.

The executor's half of the offload protocol. Owns the fence on this side (a fence lower than
one already seen is refused) and the account of the backlog that peers are told. A node's own
tasks come through here too: the local case is the remote case without the wire.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from edge_node.attempt_codes import HANDED_OVER
from edge_node.changing import changed
from edge_node.checkpoint import Checkpoint, share_done
from edge_node.config import NodeConfig
from edge_node.domain import (
    NO_FENCE,
    AttemptFailed,
    AttemptFinished,
    AttemptHeartbeat,
    AttemptQueued,
    AttemptReport,
    AttemptStarted,
    Drawing,
    Fence,
    NodeId,
    Offload,
    StepFinished,
    TaskId,
)
from edge_node.moves import HELD_TOLD, HeldDrawing
from edge_node.places import place_now

# Attempts among which those are found that others are told of.
LOOKED_AT_MAX = 64
# Tasks whose story is kept, and its latest lines.
STORIES_MAX = 1000
STORY_LINES_MAX = 40


@dataclass(frozen=True, kw_only=True)
class HostingLimits:
    """Bounds of what a node takes in.

    Attributes:
        hosted_max: attempts queued and running at once.
        fences_remembered_max: tasks whose highest fence is remembered.
        checkpoint_bytes_max: of the checkpoints that attempts here go on from.
        origins_remembered_max: whose last dispatch is remembered; more than a cluster has nodes.
    """

    hosted_max: int = 2000
    fences_remembered_max: int = 50_000
    origins_remembered_max: int = 1000
    checkpoint_bytes_max: int = 64 * 2**20

    @classmethod
    def of(cls, config: NodeConfig) -> HostingLimits:
        """From the node's settings."""
        return cls(
            hosted_max=config.hosted_tasks_max, checkpoint_bytes_max=config.checkpoint_bytes_max
        )


# Events.


@dataclass(frozen=True, kw_only=True)
class OffloadReceived:
    """An origin sent an attempt; `now_s` is when it came, by this node's clock."""

    offload: Offload
    now_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OffloadCancelled:
    """The origin does not want the attempt any more, or its stream broke."""

    task_id: TaskId
    fence: Fence


@dataclass(frozen=True, kw_only=True)
class DrawingReported:
    """The worker reported on an attempt."""

    task_id: TaskId
    fence: Fence
    report: AttemptReport


@dataclass(frozen=True, kw_only=True)
class HeartbeatDue:
    """Time to tell the origins that their attempts are still held."""


@dataclass(frozen=True, kw_only=True)
class HandOverDue:
    """This node is about to stop, and others may take what it draws for them.

    What it has accepted itself stays: nobody else could end that without it.

    Attributes:
        own: this node.
        portable: whether the worker hands over what it has begun.
        models: that others draw; what nobody else could go on with stays.
    """

    own: NodeId
    portable: bool
    models: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class HandOverWanted:
    """The origin wants the attempt to go on elsewhere; `portable` as in HandOverDue."""

    task_id: TaskId
    fence: Fence
    portable: bool


Event = (
    OffloadReceived
    | OffloadCancelled
    | DrawingReported
    | HeartbeatDue
    | HandOverDue
    | HandOverWanted
)


# Instructions.


@dataclass(frozen=True, kw_only=True)
class StartDrawing:
    """Hand the attempt to the worker; answer with DrawingReported. `deadline_s` is seconds left."""

    task_id: TaskId
    fence: Fence
    drawing: Drawing
    priority: int
    deadline_s: float | None
    client: str = ""
    checkpoint_steps: int = 0
    checkpoint: Checkpoint | None = None
    age_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StopDrawing:
    """Take the attempt back from the worker."""

    task_id: TaskId
    fence: Fence


@dataclass(frozen=True, kw_only=True)
class HandOverDrawing:
    """Have the worker end the drawing after the step under way; answer with DrawingReported."""

    task_id: TaskId
    fence: Fence


@dataclass(frozen=True, kw_only=True)
class ReportAttempt:
    """Tell the origin."""

    origin: NodeId
    task_id: TaskId
    fence: Fence
    report: AttemptReport


Instruction = StartDrawing | StopDrawing | HandOverDrawing | ReportAttempt


class HostedLine(NamedTuple):
    """What happened to an attempt here, and which share of its work was done then."""

    event: str
    fence: Fence
    share_done: float


@dataclass(kw_only=True)
class _Hosted:
    """One attempt in the queue or on the device."""

    offload: Offload
    # When its task was accepted, by this node's clock.
    asked_s: float
    started: bool = False
    leaving: bool = False
    share_done: float = 0.0
    # As the worker said last; 0 before.
    place_told: int = 0

    @property
    def work_left(self) -> float:
        return self.offload.work * (1.0 - self.share_done)

    def place(self) -> tuple[bool, int, float]:
        """In the order in which what is held is drawn, as far as that is known here."""
        return not self.started, -self.offload.priority, self.asked_s

    def told(self, *, now_s: float, portable: bool) -> HeldDrawing:
        """What others are told of it."""
        offload = self.offload
        stays = self.leaving or (self.started and not (portable and offload.checkpoint_steps))
        return HeldDrawing(
            task_id=offload.task_id,
            fence=offload.fence,
            model=offload.drawing.model,
            age_s=max(0.0, now_s - self.asked_s),
            work_left=self.work_left,
            step_work=offload.work / (offload.drawing.denoising_steps + 1),
            begun=self.started,
            moves_left=0 if stays else offload.moves_left,
        )

    def share_after(self, step: int) -> float:
        """Share of its work that is done after so many steps."""
        return share_done(step, steps=self.offload.drawing.denoising_steps)


class Hosting:
    """All attempts this node draws. `handle` is the one way to change them."""

    def __init__(self, limits: HostingLimits) -> None:
        self._limits = limits
        self._hosted: dict[TaskId, _Hosted] = {}
        # Sums over `_hosted`, as they are told to every peer after every step.
        self._backlog = 0.0
        self._started = 0
        self._clients: Counter[str] = Counter()
        self._fence_highest: OrderedDict[TaskId, Fence] = OrderedDict()
        self._dispatches_seen: OrderedDict[NodeId, tuple[int, int]] = OrderedDict()
        self._stories: OrderedDict[TaskId, deque[HostedLine]] = OrderedDict()
        self._changes = 0

    # What can be read.

    @property
    def changes(self) -> int:
        """Grows whenever an attempt comes or goes: peers should be told."""
        return self._changes

    @property
    def backlog(self) -> float:
        """Work units queued and running, not done."""
        return self._backlog

    @property
    def queued(self) -> int:
        """Attempts whose first step has not begun."""
        return len(self._hosted) - self._started

    @property
    def running(self) -> int:
        """Attempts on the device."""
        return self._started

    @property
    def clients(self) -> int:
        """Clients whose attempts are queued or running."""
        return len(self._clients)

    @property
    def dispatches_seen(self) -> dict[NodeId, tuple[int, int]]:
        """Per origin: its incarnation and its last dispatch included in the backlog."""
        return dict(self._dispatches_seen)

    def is_hosted(self, task_id: TaskId, fence: Fence) -> bool:
        """Whether this very attempt is queued or running."""
        hosted = self._hosted.get(task_id)
        return hosted is not None and hosted.offload.fence == fence

    def needs(self, init_image_sha256: str) -> bool:
        """Whether an attempt that is queued or running starts from that image."""
        drawings = (one.offload.drawing for one in self._hosted.values())
        return any(one.init_image_sha256 == init_image_sha256 for one in drawings)

    def came_after(self, task_id: TaskId, fence: Fence) -> bool:
        """Whether a later attempt of the task came here, whatever became of it."""
        return self._fence_highest.get(task_id, NO_FENCE) > fence

    def told(self, *, now_s: float, portable: bool) -> tuple[HeldDrawing, ...]:
        """What others are told of what is held here: the first few, and nothing if none may move.

        `portable` is whether the worker hands over what it has begun.
        """
        # States are told after every change: of a deep queue those are looked at that came first.
        looked_at = list(islice(self._hosted.values(), LOOKED_AT_MAX))
        if not any(one.offload.moves_left for one in looked_at):
            return ()
        first = heapq.nsmallest(HELD_TOLD, looked_at, key=_Hosted.place)
        return tuple(one.told(now_s=now_s, portable=portable) for one in first)

    def hosted(self) -> tuple[tuple[TaskId, Fence], ...]:
        """Every (task, attempt) queued or running."""
        return tuple((task_id, h.offload.fence) for task_id, h in self._hosted.items())

    def models(self) -> frozenset[str]:
        """Of all that is queued or running."""
        return frozenset(one.offload.drawing.model for one in self._hosted.values())

    def story(self, task_id: TaskId) -> tuple[HostedLine, ...]:
        """The latest lines of a task's story here, oldest first; kept of recent tasks."""
        return tuple(self._stories.get(task_id, ()))

    def validate(self) -> None:
        """Asserts what holds after every event; for tests, because it looks at every attempt."""
        hosted = self._hosted.values()
        assert len(hosted) <= self._limits.hosted_max, "too many attempts are hosted"
        assert self._started == sum(one.started for one in hosted), "the running are miscounted"
        backlog = sum(one.work_left for one in hosted)
        assert abs(self._backlog - backlog) < 1e-6, f"{self._backlog} is not the work of {backlog}"
        assert hosted or self._backlog == 0.0, "work of nobody"
        clients = Counter(one.offload.client for one in hosted)
        assert self._clients == clients, "clients are miscounted"
        for task_id, one in self._hosted.items():
            assert one.offload.task_id == task_id, f"{task_id} is another task"
            stale = one.offload.fence != self._fence_highest.get(task_id)
            wrong = stale or not 0.0 <= one.share_done <= 1.0
            assert not wrong, "\n  ".join([f"{task_id}: {one}", *map(str, self.story(task_id))])

    # What can happen.

    def handle(self, event: Event) -> list[Instruction]:
        """Applies one event; returns what is to be done about it, in order."""
        self._tell(event)
        match event:
            case OffloadReceived():
                return self._received(event.offload, event.now_s)
            case OffloadCancelled():
                return self._cancelled(event.task_id, event.fence)
            case DrawingReported():
                return self._reported(event)
            case HeartbeatDue():
                return self._heartbeats()
            case HandOverDue():
                return self._handing_over(event)
            case HandOverWanted():
                return self._handing_over_one(event)

    def _tell(self, event: Event) -> None:
        match event:
            case OffloadReceived(offload=offload):
                task_id, fence, what = offload.task_id, offload.fence, "OffloadReceived"
            case OffloadCancelled(task_id=task_id, fence=fence):
                what = "OffloadCancelled"
            case DrawingReported(task_id=task_id, fence=fence, report=report):
                what = type(report).__name__
            case HeartbeatDue() | HandOverDue():
                return
            case HandOverWanted(task_id=task_id, fence=fence):
                what = "HandOverWanted"
        hosted = self._hosted.get(task_id)
        story = self._stories.get(task_id)
        if story is None:
            story = self._stories[task_id] = deque(maxlen=STORY_LINES_MAX)
            if len(self._stories) > STORIES_MAX:
                self._stories.popitem(last=False)
        story.append(HostedLine(what, fence, 0.0 if hosted is None else hosted.share_done))
        self._stories.move_to_end(task_id)

    def _is_stale(self, offload: Offload) -> bool:
        """The fence: whether this attempt, or a later one of the task, was seen before."""
        return offload.fence <= self._fence_highest.get(offload.task_id, NO_FENCE)

    def _received(self, offload: Offload, now_s: float) -> list[Instruction]:
        self._see_dispatch(offload)
        if self._is_stale(offload):
            if self.is_hosted(offload.task_id, offload.fence):
                return []  # the same message twice
            message = "A later attempt of this task was seen here."
            return [self._refusal(offload, "stale_attempt", message)]
        instructions: list[Instruction] = []
        former = self._drop(offload.task_id)
        if former is not None:
            instructions.append(StopDrawing(task_id=offload.task_id, fence=former.offload.fence))
        self._remember_fence(offload)
        if len(self._hosted) >= self._limits.hosted_max:
            message = f"The queue holds {self._limits.hosted_max} tasks."
            return [*instructions, self._refusal(offload, "queue_full", message)]
        offload = self._with_room(offload)
        hosted = _Hosted(offload=offload, asked_s=now_s - offload.age_s)
        if offload.checkpoint is not None:
            hosted.share_done = hosted.share_after(offload.checkpoint.step)
        self._hosted[offload.task_id] = hosted
        self._clients[offload.client] += 1
        self._backlog += hosted.work_left
        self._changes += 1
        start = StartDrawing(
            task_id=offload.task_id,
            fence=offload.fence,
            drawing=offload.drawing,
            priority=offload.priority,
            deadline_s=offload.deadline_s,
            client=offload.client,
            checkpoint_steps=offload.checkpoint_steps,
            checkpoint=offload.checkpoint,
            age_s=offload.age_s,
        )
        return [*instructions, start]

    def _with_room(self, offload: Offload) -> Offload:
        """The attempt, without its checkpoint where others take all room: it begins anew then."""
        if offload.checkpoint is None:
            return offload
        held = [one.offload.checkpoint for one in self._hosted.values()]
        taken = sum(one.size_bytes for one in (offload.checkpoint, *held) if one is not None)
        fits = taken <= self._limits.checkpoint_bytes_max
        return offload if fits else changed(offload, checkpoint=None)

    def _drop(self, task_id: TaskId) -> _Hosted | None:
        self._changes += 1
        dropped = self._hosted.pop(task_id, None)
        if dropped is not None:
            self._started -= dropped.started
            client = dropped.offload.client
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]
            # Nothing hosted is exactly no work, whatever the sums were rounded to.
            self._backlog = self._backlog - dropped.work_left if self._hosted else 0.0
        return dropped

    def _progressed(self, hosted: _Hosted, share_done: float) -> None:
        before = hosted.work_left
        self._started += not hosted.started
        hosted.started, hosted.share_done = True, share_done
        self._backlog += hosted.work_left - before

    def _see_dispatch(self, offload: Offload) -> None:
        seen = self._dispatches_seen.get(offload.origin, (0, 0))
        self._dispatches_seen[offload.origin] = max(seen, (offload.incarnation, offload.dispatch))
        self._dispatches_seen.move_to_end(offload.origin)
        if len(self._dispatches_seen) > self._limits.origins_remembered_max:
            self._dispatches_seen.popitem(last=False)

    def _remember_fence(self, offload: Offload) -> None:
        self._fence_highest[offload.task_id] = offload.fence
        self._fence_highest.move_to_end(offload.task_id)
        while len(self._fence_highest) > self._limits.fences_remembered_max:
            self._fence_highest.popitem(last=False)

    def _refusal(self, offload: Offload, code: str, message: str) -> ReportAttempt:
        report = AttemptFailed(code=code, message=message, retryable=True)
        return ReportAttempt(
            origin=offload.origin,
            task_id=offload.task_id,
            fence=offload.fence,
            report=report,
        )

    def _cancelled(self, task_id: TaskId, fence: Fence) -> list[Instruction]:
        if not self.is_hosted(task_id, fence):
            return []
        self._drop(task_id)
        return [StopDrawing(task_id=task_id, fence=fence)]

    def _reported(self, event: DrawingReported) -> list[Instruction]:
        if not self.is_hosted(event.task_id, event.fence):
            return []
        hosted = self._hosted[event.task_id]
        match event.report:
            case AttemptQueued(position=position):
                hosted.place_told = position
            case AttemptStarted(step=step):
                if not hosted.started:  # a checkpoint that the worker did not take spares nothing
                    self._progressed(hosted, hosted.share_after(step))
            case StepFinished(step=step):
                self._progressed(hosted, hosted.share_after(step))
            case AttemptFinished() | AttemptFailed():
                self._drop(event.task_id)
        return [
            ReportAttempt(
                origin=hosted.offload.origin,
                task_id=event.task_id,
                fence=event.fence,
                report=event.report,
            )
        ]

    def _handing_over(self, event: HandOverDue) -> list[Instruction]:
        """What waits goes back; what is drawn too, where its origin takes what has been done."""
        instructions: list[Instruction] = []
        for one in list(self._hosted.values()):
            # To an origin of 0.1.0, which has no terms, it would be a failure of this node.
            stays = one.offload.origin == event.own or one.offload.fence.term == 0
            if not stays and one.offload.drawing.model in event.models:
                message = "This node is about to stop."
                instructions += self._given_back(one, portable=event.portable, message=message)
        return instructions

    def _handing_over_one(self, event: HandOverWanted) -> list[Instruction]:
        if not self.is_hosted(event.task_id, event.fence):
            return []
        one = self._hosted[event.task_id]
        return self._given_back(one, portable=event.portable, message="It goes on elsewhere.")

    def _given_back(self, one: _Hosted, *, portable: bool, message: str) -> list[Instruction]:
        """What waits at once, and what is drawn after the step under way."""
        task_id, fence = one.offload.task_id, one.offload.fence
        if one.leaving:
            return []
        if one.started:
            one.leaving = portable and one.offload.checkpoint_steps > 0
            return [HandOverDrawing(task_id=task_id, fence=fence)] if one.leaving else []
        self._drop(task_id)
        return [
            StopDrawing(task_id=task_id, fence=fence),
            self._refusal(one.offload, HANDED_OVER, message),
        ]

    def _heartbeats(self) -> list[Instruction]:
        instructions: list[Instruction] = []
        position = 0
        for task_id, hosted in self._hosted.items():
            position += not hosted.started
            place = place_now(told=hosted.place_told, counted=position)
            report = AttemptHeartbeat(queue_position=0 if hosted.started else place)
            instructions.append(
                ReportAttempt(
                    origin=hosted.offload.origin,
                    task_id=task_id,
                    fence=hosted.offload.fence,
                    report=report,
                )
            )
        return instructions
