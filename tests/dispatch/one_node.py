"""One node's dispatcher between an own device and a peer, both in memory; its files are real."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_node.clock import Clock, SystemClock
from edge_node.dispatch.dispatcher import Dispatcher, DispatcherSettings
from edge_node.dispatch.entrance import EntranceSettings
from edge_node.dispatch.own_node import DrawingDefaults, Identity
from edge_node.dispatch.own_tasks import OwnTasksSettings
from edge_node.dispatch.timekeeper import TimekeeperSettings
from edge_node.domain import (
    AttemptFinished,
    AttemptReport,
    Drawing,
    Fence,
    Image,
    NodeId,
    NodeState,
    Offload,
    Task,
    TaskId,
    TaskRecord,
    WorkerDescription,
)
from edge_node.requests import Appended
from edge_node.shared_rows import RowGiven, RowWanted
from edge_node.store.init_images import InitImages
from edge_node.tasks.admission import AdmissionLimits
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.hosting import Hosting, HostingLimits
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.lifecycle_limits import LifecycleLimits
from edge_node.tasks.slots import LatentSnapshot, SlotMemory, SlotSettings
from edge_node.telemetry.metrics import NodeMetrics
from scheduler.experience import RecordedDecision
from scheduler.policy import Outcome
from scheduler.registry import create
from tests.dispatch.nothing_erased import FOR_EVER, NothingErased

OWN, PEER = NodeId("own"), NodeId("peer")
PNG = b"\x89PNG" + bytes(96)
SHA256 = hashlib.sha256(PNG).hexdigest()
DEFAULTS = DrawingDefaults(
    steps_default=28,
    guidance_scale_default=5.0,
    guidance_scale_max=10.0,
    strength_default=0.6,
    prompt_chars_max=1000,
)
DRAWING = Drawing(
    prompt="boat",
    width_px=64,
    height_px=64,
    steps=4,
    guidance_scale=5.0,
    seed=1,
    model="m",
    init_image_sha256=SHA256,
    strength=0.5,
)
OFFLOAD = Offload(
    task_id=TaskId("peer-1"),
    fence=Fence(1, 1),
    origin=PEER,
    incarnation=1,
    dispatch=1,
    drawing=DRAWING,
    work=3.0,
    deadline_s=60.0,
)
IMAGE = Image(content=b"drawn", format="png", width_px=64, height_px=64)
DONE = AttemptFinished(image=IMAGE, queue_s=0.0, compute_s=0.1)


class Stores:
    """Ledger and image files that say yes."""

    available = True

    async def append_accepted(self, tasks: Sequence[Task], **_: Any) -> Appended:
        return Appended(task_ids=tuple(task.id for task in tasks), job_id=None)

    async def append_final(self, record: TaskRecord) -> None:
        pass

    async def write(self, task_id: TaskId, image: Image) -> tuple[TaskId, ...]:
        return ()

    def note(self, record: TaskRecord) -> None:
        pass


class Device:
    """A worker, and a peer: remembers what it was asked to draw, and draws it."""

    description = WorkerDescription(state="ready", model="m", capacity=1.0)
    ready = True
    load = None

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.held = False

    async def draw(self, **asked: Any) -> AsyncGenerator[AttemptReport, None]:
        self.asked.append(asked)
        while self.held:
            await asyncio.sleep(0.01)
        yield DONE

    def hand_over(self, task_id: TaskId, fence: Fence) -> None:
        raise AssertionError("nothing is handed over here")

    def share_rows(self, ask: object) -> None:
        raise AssertionError("nothing is shared here")

    async def give_row(self, wanted: RowWanted) -> RowGiven:
        raise AssertionError("nothing is shared here")

    async def offload(
        self, offload: Offload, *, init_image: bytes
    ) -> AsyncGenerator[AttemptReport, None]:
        self.asked.append({"drawing": offload.drawing, "init_image": init_image})
        while self.held:
            await asyncio.sleep(0.01)
        yield DONE

    # As Peers.

    addresses: dict[str, NodeId | None] = {}  # noqa: RUF012

    def client(self, node_id: NodeId) -> Device:
        return self

    def is_away(self, node_id: NodeId) -> bool:
        return False

    def push_state(self) -> None:
        pass


class Pool:
    """Remembers what a learner would read."""

    def __init__(self) -> None:
        self.decisions: list[RecordedDecision] = []
        self.outcomes: list[Outcome] = []

    def note_decision(self, recorded: RecordedDecision) -> None:
        self.decisions.append(recorded)

    def note_outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    async def forget(self, task_id: str) -> None:
        self.decisions = [one for one in self.decisions if task_id not in one.decision_id]


class Snapshots(list[LatentSnapshot]):
    """A store of latents that only counts what it is given."""

    def note(self, snapshot: LatentSnapshot) -> None:
        self.append(snapshot)


class Node:
    """A dispatcher between an own worker and one peer, with `policy` to choose.

    Ledger, image files and clock are those given, or say yes and tell the time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        policy: str = "local",
        bytes_max: int = 1000,
        stores: Any = None,
        images: Any = None,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self.own_device, self.peer = Device(), Device()
        self.pool, self.snapshots = Pool(), Snapshots()
        self.metrics = NodeMetrics()
        self.init_images = InitImages(folder, bytes_max=bytes_max, keep_s_max=1000.0, clock=clock)
        stores = stores or Stores()
        self.settings = DispatcherSettings(
            own_tasks=OwnTasksSettings(
                entrance=EntranceSettings(admission=AdmissionLimits(tasks_in_flight_max=2)),
                deadline_s_default=100.0,
            ),
            time=TimekeeperSettings(tick_s=0.01, heartbeat_s=0.05, lease_s=5.0),
            drawing=DEFAULTS,
            erasing=FOR_EVER,
        )
        self.view = ClusterView(own_id=OWN, incarnation=1, began_s=clock.now_s())
        self.policy = create(policy, rng=np.random.default_rng(1))
        self.dispatcher = Dispatcher(
            Identity(node_id=OWN, incarnation=1, term=1, rest_url="", grpc_address=""),
            self.settings,
            lifecycle=Lifecycle(LifecycleLimits(), term=1),
            hosting=Hosting(HostingLimits()),
            view=self.view,
            policy=self.policy,
            memory=SlotMemory(SlotSettings(), now_s=clock.now_s()),
            ledger=stores,
            images=images or stores,
            init_images=self.init_images,
            erasures=NothingErased(),
            worker=self.own_device,
            metrics=self.metrics,
            clock=clock,
            latent_store=self.snapshots,
            pool=self.pool,
        )

    async def start(self, recovered: Sequence[Task] = ()) -> None:
        await self.init_images.start()
        self.dispatcher.own_node.worker_changed()
        fast = NodeState(
            node_id=PEER, incarnation=1, sequence=1, capacity=99.0, model="m", accepting=True
        )
        self.dispatcher.peer_state_received(fast)
        self.dispatcher.start(self.peer, recovered)  # type: ignore[arg-type]

    async def submit(self, drawing: Drawing = DRAWING, png: bytes = PNG) -> TaskId:
        submission = await self.dispatcher.own_tasks.submit([drawing], durable=True, init_image=png)
        return submission.records[0].task.id

    async def ended(self, task_id: TaskId) -> TaskRecord:
        async for event in self.dispatcher.own_tasks.watch(task_id, after=0):
            assert event.steps == 2, "half of four"
        return await self.dispatcher.own_tasks.read_task(task_id)


def run(node: Node, story: Callable[[], Awaitable[None]]) -> None:
    async def life() -> None:
        async with asyncio.timeout(5):
            try:
                await story()
            finally:
                await node.dispatcher.stop()

    asyncio.run(life())
