"""One life of a simulated node: the shell that ships, on a simulated network, disk and worker."""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from edge_node import listing
from edge_node.clock import Clock
from edge_node.dispatch.dead_letters import DeadLetterDesk
from edge_node.dispatch.dispatcher import Dispatcher, DispatcherSettings
from edge_node.dispatch.entrance import EntranceSettings
from edge_node.dispatch.front_desk import FrontDesk, FrontDeskSettings
from edge_node.dispatch.helping import HelpingSettings
from edge_node.dispatch.leaving import Leaving
from edge_node.dispatch.mover import MoverSettings
from edge_node.dispatch.own_node import DrawingDefaults, Identity
from edge_node.dispatch.own_tasks import OwnTasksSettings
from edge_node.dispatch.timekeeper import TimekeeperSettings
from edge_node.domain import (
    NO_FENCE,
    AttemptReport,
    Fence,
    JobId,
    NodeId,
    NodeState,
    Offload,
    TaskEvent,
    TaskId,
    TaskRecord,
)
from edge_node.errors import OriginUnavailable
from edge_node.happenings import Happened
from edge_node.learned_weights import LearnedWeights
from edge_node.moves import WantedTask
from edge_node.peering.caller import Caller
from edge_node.peering.peer_links import PeerLinks
from edge_node.peering.service import PeerService
from edge_node.requests import NodeAction
from edge_node.shared_rows import RowGiven, RowWanted
from edge_node.tasks.admission import AdmissionLimits
from edge_node.tasks.cluster_view import ClusterView, ClusterViewLimits
from edge_node.tasks.hosting import Hosting, HostingLimits
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.lifecycle_limits import LifecycleLimits
from edge_node.tasks.membership_protocol import MembershipSettings
from edge_node.tasks.slots import SlotMemory, SlotSettings
from edge_node.telemetry.metrics import NodeMetrics
from scheduler.policy import Policy
from tests.cluster.disk import (
    Disk,
    Mount,
    PlantedBug,
    SimulatedImages,
    SimulatedInitImages,
    SimulatedLedger,
)
from tests.cluster.network import Broken, Network
from tests.cluster.virtual_time import VirtualTime, process_loop
from tests.cluster.worker import SimulatedWorker
from tests.dispatch.nothing_erased import FOR_EVER, NothingErased
from tests.peering.nothing_learned import NothingLearned

TICK_S = 0.25
# Most that a machine's clock of the day is off, in all its lives.
DAYS_OFF_S = 1e6
LEASE_S = 2.0
CHECKPOINT_STEPS = 2
LIMITS = LifecycleLimits(attempts_max=6, lease_s=LEASE_S, takeable=True, export_s=LEASE_S)
T = TypeVar("T")


@dataclass(frozen=True)
class Skewed(Clock):
    """A machine's clocks: its own beginning, and a day that is days off everybody's."""

    time: VirtualTime
    began_s: float
    skew_s: float

    def now_s(self) -> float:
        return self.time.now_s + self.began_s

    def unix_s(self) -> float:
        return 1e9 + self.time.now_s + self.skew_s

    def wall_s(self) -> float:
        return self.unix_s()


@dataclass(frozen=True, kw_only=True)
class Place:
    """A machine: where a node runs, life after life."""

    node_id: NodeId
    address: str
    peers: tuple[str, ...]
    step_s: float
    disk: Disk
    model: str = "m"
    helps: bool = False


class Connection:
    """A PeerConnection over the simulated network."""

    def __init__(self, source: NodeProcess, address: str, network: Network) -> None:
        self._source = source
        self._address = address
        self._network = network
        self._caller = Caller(host=source.place.address.partition(":")[0])

    async def close(self) -> None:
        """Calls end with whoever makes them."""

    proven_id = None

    async def ping(self) -> None:
        async def pong(process: NodeProcess) -> None:
            process.service.own_state()

        await self._once(pong, timeout_s=2.0)

    async def exchange_state(
        self, own_states: AsyncIterator[NodeState]
    ) -> AsyncGenerator[NodeState, None]:
        number = next(self._source.numbers)
        key = (self._source.place.address, number)

        async def serve(process: NodeProcess) -> AsyncGenerator[NodeState, None]:
            heard = process.heard.setdefault(key, asyncio.Queue())
            try:
                states = process.service.exchange_state(_drain(heard), caller=self._caller)
                async with aclosing(states):
                    async for state in states:
                        yield state
            finally:
                process.heard.pop(key, None)

        async def speak() -> None:
            async for state in own_states:

                def hear(process: NodeProcess, state: NodeState = state) -> None:
                    process.heard.setdefault(key, asyncio.Queue()).put_nowait(state)

                self._network.send(self._source, self._address, hear)

        speaking = asyncio.create_task(speak())
        try:
            async with aclosing(self._stream(serve, wild=True)) as states:
                async for state in states:
                    yield state
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    def offload(
        self, offload: Offload, *, init_image: bytes
    ) -> AsyncGenerator[AttemptReport, None]:
        return self._stream(
            lambda p: p.service.offload(offload, init_image=init_image, caller=self._caller),
            wild=True,
        )

    async def cancel_offload(self, task_id: TaskId, fence: Fence) -> None:
        async def cancel(process: NodeProcess) -> None:
            process.service.cancel_offload(task_id, fence, caller=self._caller)

        await self._once(cancel)

    async def hand_over(self, task_id: TaskId, fence: Fence) -> None:
        async def hand_over(process: NodeProcess) -> None:
            process.service.hand_over(task_id, fence, caller=self._caller)

        await self._once(hand_over)

    async def compute_row(self, wanted: RowWanted, *, timeout_s: float) -> RowGiven:
        return await self._once(
            lambda p: p.service.compute_row(wanted, caller=self._caller), timeout_s=timeout_s
        )

    async def take_task(self, wanted: WantedTask) -> bool:
        async def take(process: NodeProcess) -> bool:
            return process.service.take_task(wanted, caller=self._caller)

        return await self._once(take)

    async def read_task(self, task_id: TaskId) -> TaskRecord:
        return await self._once(lambda p: p.service.read_task(task_id))

    async def read_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        return await self._once(lambda p: p.service.read_job(job_id))

    async def cancel_task(self, task_id: TaskId) -> TaskRecord:
        return await self._once(lambda p: p.service.cancel_task(task_id))

    async def list_tasks(
        self, wanted: listing.TaskFilter, *, before: listing.Place | None, count: int, owner: NodeId
    ) -> listing.TaskPage:
        return await self._once(lambda p: p.service.list_tasks(wanted, before=before, count=count))

    async def cancel_tasks(self, wanted: listing.TaskFilter) -> int:
        return await self._once(lambda p: p.service.cancel_tasks(wanted))

    async def operate(self, action: NodeAction) -> None:
        async def tell(process: NodeProcess) -> None:
            process.service.operate(action)

        await self._once(tell)

    async def erase_task(self, task_id: TaskId) -> None:
        await self._once(lambda p: p.service.erase_task(task_id))

    async def forget_task(self, task_id: TaskId, *, init_image_sha256: str) -> bool:
        def forget(process: NodeProcess) -> Awaitable[bool]:
            return process.service.forget_task(
                task_id, init_image_sha256=init_image_sha256, caller=self._caller
            )

        return await self._once(forget)

    def watch_task(self, task_id: TaskId, *, after: int) -> AsyncGenerator[TaskEvent, None]:
        return self._stream(lambda p: p.service.watch_task(task_id, after=after))

    def watch_events(
        self, *, after: int | None, client: str, previews: bool, owner: NodeId
    ) -> AsyncGenerator[Happened, None]:
        return self._stream(
            lambda p: p.service.watch_events(after=after, client=client, previews=previews)
        )

    async def fetch_image(self, task_id: TaskId) -> tuple[bytes, str]:
        return await self._once(lambda p: p.service.fetch_image(task_id))

    async def fetch_weights(self, sha256: str, *, bytes_max: int) -> tuple[LearnedWeights, bytes]:
        async def fetch(process: NodeProcess) -> tuple[LearnedWeights, bytes]:
            return process.service.weights(sha256)

        return await self._once(fetch)

    async def fetch_keys(self) -> bytes:
        async def fetch(process: NodeProcess) -> bytes:
            return process.service.signed_keys()

        return await self._once(fetch)

    async def _stream(
        self, serve: Callable[[NodeProcess], AsyncGenerator[T, None]], *, wild: bool = False
    ) -> AsyncGenerator[T, None]:
        stream = self._network.stream(self._source, self._address, serve, wild=wild)
        try:
            async with aclosing(stream) as items:
                async for item in items:
                    yield item
        except Broken as error:
            raise OriginUnavailable(f"{self._address}: {error}") from None

    async def _once(
        self, serve: Callable[[NodeProcess], Awaitable[T]], *, timeout_s: float = 5.0
    ) -> T:
        try:
            return await self._network.once(self._source, self._address, serve, timeout_s=timeout_s)
        except Broken as error:
            raise OriginUnavailable(f"{self._address}: {error}") from None


async def _drain(queue: asyncio.Queue[T]) -> AsyncGenerator[T, None]:
    while True:
        yield await queue.get()


class NodeProcess:
    """A node from its start to its crash or stop."""

    def __init__(
        self,
        place: Place,
        *,
        time: VirtualTime,
        network: Network,
        rng: np.random.Generator,
        policy: Policy,
        note_bug: Callable[[str], None],
    ) -> None:
        self.place = place
        self.name: str = place.node_id
        self.address = place.address
        self.loop = process_loop(time, place.node_id)
        self.heard: dict[tuple[str, int], asyncio.Queue[NodeState]] = {}
        self.numbers = itertools.count(1)
        self.note_bug = note_bug
        self.began_s = time.now_s
        self.started = False
        self.gone = False
        # Why attempts of this origin ended.
        self.reasons: Counter[str] = Counter()
        # The highest fence of each task that was ever offered here.
        self.highest: dict[TaskId, Fence] = {}
        began_s, skew_s = 1000.0 * float(rng.integers(1, 9)), float(rng.uniform(-0.2, 0.2))
        skew_s += DAYS_OFF_S * (zlib.crc32(place.node_id.encode()) / 2**31 - 1.0)
        self.clock = Skewed(time, began_s=began_s, skew_s=skew_s)
        place.disk.incarnation += 1
        self.incarnation = place.disk.incarnation
        mount = Mount(place.disk, clock=self.clock, now_s=lambda: time.now_s, rng=rng)
        self.ledger = SimulatedLedger(mount)
        self.worker = SimulatedWorker(
            place.node_id,
            model=place.model,
            step_s=place.step_s,
            honest=not network.faulty,
            on_change=lambda: self._worker_changed(),
        )
        self.lifecycle = Lifecycle(LIMITS, term=self.incarnation)
        self.hosting = Hosting(HostingLimits(hosted_max=8))
        self.view = ClusterView(
            own_id=place.node_id,
            incarnation=self.incarnation,
            limits=ClusterViewLimits(suspect_s=1.5, heartbeat_s=TICK_S),
            began_s=self.clock.now_s(),
        )
        self.memory = SlotMemory(SlotSettings(), now_s=self.clock.now_s())
        self.dispatcher = self._dispatcher(mount, policy)
        self.membership = MembershipSettings(
            addresses=place.peers,
            cluster_name="simulated",
            heartbeat_s=TICK_S,
            accept_new_peers=True,
            forget_s=20.0,
        )
        self.links = PeerLinks(
            self.membership,
            own_id=place.node_id,
            own_state=self.dispatcher.own_node.state,
            state_received=self.dispatcher.peer_state_received,
            round_trip_measured=self.dispatcher.round_trip_measured,
            node_forgotten=self.dispatcher.peer_forgotten,
            connect=lambda address: Connection(self, address, network),
            clock=self.clock,
        )
        self.service = PeerService(self.dispatcher, self.links, NothingLearned())
        self.front_desk = self._front_desk()

    def _dispatcher(self, mount: Mount, policy: Policy) -> Dispatcher:
        return Dispatcher(
            Identity(
                node_id=self.place.node_id,
                incarnation=self.incarnation,
                term=self.incarnation,
                rest_url=f"http://{self.address}",
                grpc_address=self.address,
            ),
            DispatcherSettings(
                own_tasks=OwnTasksSettings(
                    entrance=EntranceSettings(
                        admission=AdmissionLimits(tasks_in_flight_max=30, wait_s_max=1000.0)
                    ),
                    deadline_s_default=1000.0,
                ),
                time=TimekeeperSettings(
                    tick_s=TICK_S, heartbeat_s=TICK_S, lease_s=LEASE_S, move_waiting=True
                ),
                drawing=DrawingDefaults(
                    prompt_chars_max=1000,
                    steps_default=4,
                    guidance_scale_default=5.0,
                    guidance_scale_max=10.0,
                    strength_default=0.5,
                ),
                erasing=FOR_EVER,
                moving=MoverSettings(moving="running", coming_s=2 * LEASE_S),
                helping=HelpingSettings(helping="guidance" if self.place.helps else "none"),
                checkpoint_steps=CHECKPOINT_STEPS,
            ),
            lifecycle=self.lifecycle,
            hosting=self.hosting,
            view=self.view,
            policy=policy,
            memory=self.memory,
            ledger=self.ledger,
            images=SimulatedImages(mount),
            init_images=SimulatedInitImages(mount),
            erasures=NothingErased(),
            worker=self.worker,
            metrics=NodeMetrics(),
            clock=self.clock,
            new_ulid=lambda: f"{self.incarnation:04d}{next(self.numbers):06d}",
        )

    def _front_desk(self) -> FrontDesk:
        return FrontDesk(
            FrontDeskSettings(
                node_id=self.place.node_id,
                policy_name="simulated",
                images_per_request_max=4,
                deadline_s_max=1000.0,
            ),
            dispatcher=self.dispatcher,
            view=self.view,
            peers=self.links,
            worker=self.worker,
            ledger=self.ledger,
            dead_letters=DeadLetterDesk(
                self.ledger,
                own_tasks=self.dispatcher.own_tasks,
                init_images=self.dispatcher.own_tasks._init_images,
            ),
            clock=self.clock,
        )

    def _worker_changed(self) -> None:
        self.dispatcher.own_node.worker_changed()

    def left_over(self) -> dict[str, int]:
        """What the shell still holds of tasks and calls, where it holds anything."""
        own, parts = self.dispatcher.own_tasks, self.dispatcher
        held = {
            "streams": len(parts._offloads._streams._running),
            "reports": len(parts.executor._reports),
            "drawings": len(parts.executor._drawings._running),
            "answers": len(own._answers),
            "refusals": len(own._refusals),
            "keys": len(own._idempotency),
            "watchers": len(own._watchers),
        }
        return {what: count for what, count in held.items() if count}

    def offered(self, offload: Offload) -> None:
        """An attempt came in, to be taken or refused."""
        highest = self.highest.get(offload.task_id, NO_FENCE)
        self.highest[offload.task_id] = max(highest, offload.fence)

    def bug(self, error: Exception) -> None:
        """What is none of our errors came out of a call."""
        if isinstance(error, PlantedBug):
            return
        self.note_bug(f"{self.name}: {error!r}")

    def start(self) -> None:
        """Begins, in the order of edge_node.node."""

        async def run() -> None:
            self._writing = asyncio.create_task(self.ledger.write_behind())
            recovered = self.ledger.recover(term=self.incarnation)
            self.worker.start()
            await self.links.start()
            self.dispatcher.start(self.links, [record.task for record in recovered])
            self._erasing = asyncio.create_task(self.dispatcher.eraser.run())
            self.started = True

        self.spawn(run())

    def stop(self, *, drain_s: float, ended: Callable[[], None]) -> None:
        """Ends as SIGTERM does it: drains, says goodbye, stops."""

        async def run() -> None:
            leaving = Leaving(
                self.dispatcher,
                drain_s=drain_s,
                at_once=lambda: False,
                clock=self.clock,
                said=lambda: None,
            )
            await leaving.drain()
            closed = asyncio.Event()
            closed.set()
            await leaving.finish(closed)
            await self.links.say_goodbye()
            await self.dispatcher.stop()
            await self.links.stop()
            ended()

        self.spawn(run())

    def spawn(self, coroutine: Any) -> None:
        """Runs a coroutine in this process."""

        def begin() -> None:
            task = self.loop.create_task(coroutine)
            self._held = task

        self.loop.call_soon(begin)
