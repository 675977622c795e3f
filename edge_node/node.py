"""The composition root: builds every part of a node, starts them in order and stops them in order.

Owns no behaviour of its own beyond that order:
store, ledger, images, worker, dispatcher, peering, REST; and back. Each part that takes other
settings while it runs is told of them by the reloader.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.metadata
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from edge_node.api.app import create_app
from edge_node.api.uploads import UploadLimits
from edge_node.child_options import learner_command
from edge_node.clock import Moment, SystemClock, moment
from edge_node.config import NodeConfig
from edge_node.dispatch.dispatcher import Dispatcher, DispatcherSettings
from edge_node.dispatch.front_desk import FrontDesk, FrontDeskSettings
from edge_node.dispatch.own_node import Identity
from edge_node.dispatch.own_tasks import OwnTasksSettings
from edge_node.dispatch.timekeeper import TimekeeperSettings
from edge_node.domain import NodeId
from edge_node.errors import InvalidRequest, StoreUnavailable
from edge_node.guard.deciding import (
    guard_settings,
    policy_coin,
    policy_of,
    takes_published_weights,
)
from edge_node.guard.feed import GuardFeed
from edge_node.peering.client import PeerClient
from edge_node.peering.discovery import Discovery, DiscoverySettings, require_zeroconf
from edge_node.peering.peer_links import PeerLinks
from edge_node.peering.server import NodeServicer, PeerServer
from edge_node.peering.service import PeerService
from edge_node.reloading import Reloader
from edge_node.socket_path import socket_folder
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.embedded_valkey import valkey_command, wait_until_ready
from edge_node.store.experience_pool import ExperiencePool, PoolSettings
from edge_node.store.image_files import ImageFiles
from edge_node.store.init_images import InitImages
from edge_node.store.latent_memory import LatentMemory, LatentMemorySettings
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from edge_node.supervision.child_process import (
    Backoff,
    ChildCommand,
    ChildExit,
    ChildProcess,
    supervise,
)
from edge_node.supervision.worker_process import WorkerProcess, WorkerSettings, worker_command
from edge_node.tasks.admission import AdmissionLimits
from edge_node.tasks.cluster_view import ClusterView, ClusterViewLimits
from edge_node.tasks.hosting import Hosting, HostingLimits
from edge_node.tasks.lifecycle import Lifecycle, LifecycleLimits
from edge_node.tasks.membership import MembershipSettings
from edge_node.tasks.slots import SlotMemory, SlotSettings
from edge_node.telemetry.jetson import DeviceCollector
from edge_node.telemetry.metrics import NodeMetrics
from edge_node.worker_options import WorkerOptions
from scheduler.guard.guard import Guard

log = logging.getLogger(__name__)

STORE_START_S_MAX = 30.0
HOUSEKEEPING_S = 60.0
EXPIRED_TASKS_MAX = 1000
# Idle connections are the client's to close: one that the server closes may just be in use again.
# Clients keep theirs for seconds (httpx, and so OpenAI's SDK: 5), proxies for a minute.
KEEP_ALIVE_S = 75
STOP_GRACE_S = 1.0
FLUSH_S_MAX = 5.0


async def run_node(read_config: Callable[[], NodeConfig]) -> int:
    """Runs a node until SIGTERM or SIGINT; returns the exit code.

    Args:
        read_config: gives the settings, now and again at every SIGHUP.

    Raises:
        InvalidRequest: a setting cannot be honoured.
        StoreUnavailable: the store did not answer in time.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    reloader = Reloader(read_config)
    loop.add_signal_handler(signal.SIGHUP, reloader.reload)
    set_log_level(reloader.config)
    reloader.tell(set_log_level)
    async with contextlib.AsyncExitStack() as stack:
        await _Node(reloader, stack).run(stopping)
    return 0


def set_log_level(config: NodeConfig) -> None:
    """Of everything in this process that does not have its own."""
    logging.getLogger().setLevel(config.log_level.upper())


class _Node:
    """The parts of one node; everything it starts is stopped by `stack`, last first."""

    def __init__(self, reloader: Reloader, stack: contextlib.AsyncExitStack) -> None:
        self._reloader = reloader
        config = reloader.config
        self._stack = stack
        self._clock = SystemClock()
        self._metrics = NodeMetrics()
        self._metrics.registry.register(DeviceCollector(clock=self._clock))
        config.data_folder.mkdir(parents=True, exist_ok=True)
        self._folder = config.data_folder.resolve()
        self._sockets = socket_folder(self._folder)
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._init_images = InitImages(
            self._folder / "init_images", **init_image_bounds(config), clock=self._clock
        )
        reloader.tell(lambda new: self._init_images.set_bounds(**init_image_bounds(new)))
        self._policy = policy_of(config, clock=self._clock)
        if isinstance(guard := self._policy, Guard):
            reloader.tell(lambda new: guard.reconfigure(guard_settings(new)))
        self._worker_starts = 1
        # The worker is built before the dispatcher that listens to it.
        self._worker_changed: Callable[[], None] = lambda: None

    @property
    def _config(self) -> NodeConfig:
        return self._reloader.config

    async def run(self, stopping: asyncio.Event) -> None:
        self._stack.enter_context(sole_owner(self._folder))
        store_url = self._config.redis_url or await self._start_embedded_store()
        ledger = await self._start_ledger(store_url)
        images = ImageFiles(
            self._folder / "images", **image_bounds(self._config), clock=self._clock
        )
        self._reloader.tell(lambda new: images.set_bounds(**image_bounds(new)))
        await images.start()
        await self._init_images.start()
        me = identity(
            self._config, incarnation=await ledger.next_incarnation(), term=await ledger.next_term()
        )
        recovered = await ledger.recover(term=me.term)
        worker = self._worker()
        view = ClusterView(
            own_id=NodeId(self._config.node_id),
            incarnation=me.incarnation,
            limits=ClusterViewLimits(
                suspect_s=self._config.suspect_s, heartbeat_s=self._config.heartbeat_s
            ),
            began_s=self._clock.now_s(),
        )
        memory = self._memory()
        latents = await self._start_latents(store_url, memory)
        await self._start_guard_feed(store_url)
        pool = await self._start_pool(store_url)
        dispatcher = self._dispatcher(
            ledger, images, worker, view, me, memory=memory, latents=latents, pool=pool
        )
        self._reloader.tell(lambda new: dispatcher.reconfigure(dispatcher_settings(new)))
        self._worker_changed = lambda: self._tell_worker_changed(worker, dispatcher)
        await worker.start()
        self._stack.push_async_callback(worker.stop)
        links = await self._start_peering(dispatcher)
        dispatcher.start(links, [record.task for record in recovered])
        self._stack.push_async_callback(dispatcher.stop)
        self._stack.push_async_callback(links.say_goodbye)
        self._discover(links)
        self._background(self._keep_house(ledger, images))
        front_desk = FrontDesk(
            front_desk_settings(self._config),
            dispatcher=dispatcher,
            view=view,
            peers=links,
            worker=worker,
            ledger=ledger,
            clock=self._clock,
        )
        self._reloader.tell(lambda new: front_desk.reconfigure(front_desk_settings(new)))
        await self._serve(front_desk, dispatcher, stopping)

    # The parts.

    async def _start_ledger(self, url: str) -> TaskLedger:
        ledger = TaskLedger(
            LedgerSettings(
                store=StoreSettings(url=url),
                key_prefix=f"dedgeai:{self._config.node_id}:ledger:",
                idempotency_age_s_max=int(self._config.idempotency_keep_s),
            ),
            clock=self._clock,
            on_pending_changed=self._metrics.write_behind_changed,
        )
        await ledger.connect()
        self._stack.push_async_callback(self._close_ledger, ledger)
        if not ledger.available:
            raise StoreUnavailable(
                f"The store at {url} does not answer, or cannot promise to write to disk. Start "
                "it, or leave redis_url out to use the embedded one."
            )
        return ledger

    async def _close_ledger(self, ledger: TaskLedger) -> None:
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(FLUSH_S_MAX):
                await ledger.flush()
        await ledger.close()

    def _memory(self) -> SlotMemory:
        settings = SlotSettings(
            slot_s=self._config.slot_s, latents_max=self._config.latent_slots_max
        )
        return SlotMemory(settings, now_s=self._clock.now_s())

    async def _start_latents(self, url: str, memory: SlotMemory) -> LatentMemory:
        latents = LatentMemory(
            latent_memory_settings(self._config, url),
            on_behind_changed=self._metrics.latent_memory_changed,
        )
        await latents.connect()
        self._stack.push_async_callback(self._close_latents, latents, memory)
        # Latents are worth less than a start: without the store's, decisions begin cold.
        with contextlib.suppress(StoreUnavailable):
            snapshot = await latents.read()
            if snapshot is not None:
                memory.restore(snapshot, self._moment())
        return latents

    async def _start_guard_feed(self, url: str) -> None:
        if not isinstance(self._policy, Guard):
            return
        connection = StoreConnection(StoreSettings(url=url, connections_max=2))
        await connection.start()
        self._stack.push_async_callback(connection.close)
        feed = GuardFeed(
            self._policy,
            connection,
            node_id=self._config.node_id,
            takes_weights=takes_published_weights(self._config),
            rng=policy_coin(self._config),
        )
        self._background(feed.run())

    async def _start_pool(self, url: str) -> ExperiencePool:
        settings = PoolSettings(
            store=StoreSettings(url=url, connections_max=2),
            node_id=self._config.node_id,
            entries_max=self._config.experience_max,
        )
        pool = ExperiencePool(
            settings, clock=self._clock, on_dropped=self._metrics.experience_dropped
        )
        await pool.start()
        self._stack.push_async_callback(self._close_pool, pool)
        if self._config.learner:
            command = ChildCommand(
                name="learner",
                arguments=tuple(learner_command(self._config, url)),
                pid_path=self._folder / "run" / "learner.pid",
                log_path=self._folder / "run" / "learner.log",
            )
            self._background(self._keep_learner(ChildProcess(command)))
        return pool

    async def _close_pool(self, pool: ExperiencePool) -> None:
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(FLUSH_S_MAX):
                await pool.flush()
        await pool.close()

    async def _keep_learner(self, child: ChildProcess) -> None:
        async def started(pid: int) -> None:
            log.info("learner runs as process %d", pid)

        async def exited(ended: ChildExit) -> None:
            log.warning("learner ended with code %d: %s", ended.code, " | ".join(ended.last_lines))

        # A learner that cannot work here is tried again seldom, and nothing waits for it.
        backoff = Backoff(first_s=1.0, max_s=300.0, healthy_s=60.0)
        await supervise(child, backoff=backoff, on_started=started, on_exited=exited)

    async def _close_latents(self, latents: LatentMemory, memory: SlotMemory) -> None:
        snapshot = memory.snapshot(self._moment())
        if snapshot is not None:
            latents.note(snapshot)
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(FLUSH_S_MAX):
                await latents.flush()
        await latents.close()

    def _moment(self) -> Moment:
        return moment(self._clock)

    async def _start_embedded_store(self) -> str:
        path = self._sockets / "store.sock"
        command = ChildCommand(
            name="store",
            arguments=tuple(valkey_command(self._folder / "store", path)),
            pid_path=self._folder / "run" / "store.pid",
            log_path=self._folder / "run" / "store.log",
        )
        self._background(self._keep_store(ChildProcess(command)))
        await wait_until_ready(path, STORE_START_S_MAX)
        return f"unix://{path}"

    async def _keep_store(self, child: ChildProcess) -> None:
        async def started(pid: int) -> None:
            log.info("store runs as process %d", pid)

        async def exited(ended: object) -> None:
            log.error("store ended: %s", ended)

        backoff = Backoff(first_s=0.1, max_s=5.0)
        await supervise(child, backoff=backoff, on_started=started, on_exited=exited)

    def _worker(self) -> WorkerProcess:
        config = self._config
        if config.worker_socket is not None:
            settings = WorkerSettings(socket_path=config.worker_socket, command=None)
            return WorkerProcess(settings, on_change=lambda: self._worker_changed())
        path = self._sockets / "worker.sock"
        command = worker_command(
            socket_path=path, run_dir=self._folder / "run", options=WorkerOptions.of(config)
        )
        settings = WorkerSettings(socket_path=path, command=command)
        return WorkerProcess(settings, on_change=lambda: self._worker_changed())

    def _tell_worker_changed(self, worker: WorkerProcess, dispatcher: Dispatcher) -> None:
        while self._worker_starts < worker.starts:
            self._worker_starts += 1
            self._metrics.worker_restarted()
        dispatcher.own_node.worker_changed()

    def _dispatcher(
        self,
        ledger: TaskLedger,
        images: ImageFiles,
        worker: WorkerProcess,
        view: ClusterView,
        me: Identity,
        *,
        memory: SlotMemory,
        latents: LatentMemory,
        pool: ExperiencePool,
    ) -> Dispatcher:
        config = self._config
        return Dispatcher(
            me,
            dispatcher_settings(config),
            lifecycle=Lifecycle(lifecycle_limits(config), term=me.term),
            hosting=Hosting(HostingLimits(hosted_max=config.hosted_tasks_max)),
            view=view,
            policy=self._policy,
            memory=memory,
            latent_store=latents,
            pool=pool,
            ledger=ledger,
            images=images,
            init_images=self._init_images,
            worker=worker,
            metrics=self._metrics,
            clock=self._clock,
        )

    async def _start_peering(self, dispatcher: Dispatcher) -> PeerLinks:
        config = self._config
        links = PeerLinks(
            membership_settings(config),
            own_id=NodeId(config.node_id),
            own_state=dispatcher.own_node.state,
            state_received=dispatcher.peer_state_received,
            round_trip_measured=dispatcher.round_trip_measured,
            node_forgotten=dispatcher.peer_forgotten,
            connect=PeerClient,
            clock=self._clock,
        )
        self._reloader.tell(lambda new: links.reconfigure(membership_settings(new)))
        servicer = NodeServicer(
            PeerService(dispatcher, links), version=importlib.metadata.version("dedgeai")
        )
        server = PeerServer(servicer, host=config.grpc_host, port=config.grpc_port)
        await server.start()
        await server.set_serving(True)
        self._stack.push_async_callback(server.stop, grace_s=STOP_GRACE_S)
        await links.start()
        self._stack.push_async_callback(links.stop)
        return links

    def _discover(self, links: PeerLinks) -> None:
        config = self._config
        if config.discovery == "mdns":
            require_zeroconf()
            settings = DiscoverySettings(
                node_id=config.node_id,
                cluster_name=config.cluster_name,
                host=config.grpc_host,
                port=config.grpc_port,
            )
            self._background(Discovery(settings, found=links.found, lost=links.lost).run())

    async def _serve(
        self, front_desk: FrontDesk, dispatcher: Dispatcher, stopping: asyncio.Event
    ) -> None:
        config = self._config
        app = create_app(
            front_desk,
            metrics=self._metrics,
            request_bytes_max=config.request_bytes_max,
            upload_limits=upload_limits(config),
        )
        server = _RestServer(
            uvicorn.Config(
                app,
                host=config.rest_host,
                port=config.rest_port,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(config.drain_s) + 1,
            )
        )
        serving = asyncio.create_task(server.serve())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            log.info("stopping: no new tasks, %g s for those under way", config.drain_s)
            await dispatcher.drain(timeout_s=config.drain_s)
        server.should_exit = True
        stopped.cancel()
        await serving

    async def _keep_house(self, ledger: TaskLedger, images: ImageFiles) -> None:
        """Removes what is older than the operator wants to keep."""
        while True:
            await images.evict()
            await self._init_images.evict()
            finished_before = self._clock.unix_s() - self._config.task_keep_s
            with contextlib.suppress(StoreUnavailable):
                for task_id in await ledger.expire(
                    finished_before_unix_s=finished_before, count_max=EXPIRED_TASKS_MAX
                ):
                    await images.remove(task_id)
            self._metrics.images_stored(images.bytes_stored)
            await asyncio.sleep(HOUSEKEEPING_S)

    def _background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs `coroutine` until the node stops, then cancels it and waits for its end."""
        task = asyncio.create_task(coroutine)

        async def end() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(end)


class _RestServer(uvicorn.Server):
    """Leaves the signals to run_node, which drains before it stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


@contextlib.contextmanager
def sole_owner(data_folder: Path) -> Iterator[None]:
    """Holds a data folder; a second node on it would end the first one's children.

    Raises:
        InvalidRequest: another node holds it.
    """
    with (data_folder / "node.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRequest(
                f"Another node uses {data_folder}. Stop it, or give this one its own data_folder.",
                param="data_folder",
            ) from None
        yield


def membership_settings(config: NodeConfig) -> MembershipSettings:
    """What membership takes from the configuration."""
    return MembershipSettings(
        addresses=config.peers,
        cluster_name=config.cluster_name,
        heartbeat_s=config.heartbeat_s,
        accept_new_peers=config.accept_new_peers,
        forget_s=config.forget_s,
    )


def image_bounds(config: NodeConfig) -> dict[str, Any]:
    """What is kept of finished images."""
    return {"bytes_max": config.image_bytes_total_max, "age_s_max": config.image_keep_s}


def init_image_bounds(config: NodeConfig) -> dict[str, Any]:
    """What is kept of init images; no task lasts longer than either deadline."""
    return {
        "bytes_max": config.init_image_bytes_total_max,
        "keep_s_max": max(config.deadline_s_max, config.deadline_s_default),
    }


def identity(config: NodeConfig, *, incarnation: int, term: int) -> Identity:
    """Who the node is in this life."""
    return Identity(
        node_id=NodeId(config.node_id),
        incarnation=incarnation,
        term=term,
        rest_url=f"http://{advertised(config.rest_host)}:{config.rest_port}",
        grpc_address=f"{advertised(config.grpc_host)}:{config.grpc_port}",
    )


def dispatcher_settings(config: NodeConfig) -> DispatcherSettings:
    """What the dispatcher takes from the configuration."""
    return DispatcherSettings(
        own_tasks=OwnTasksSettings(
            admission=AdmissionLimits(
                tasks_in_flight_max=config.tasks_in_flight_max, wait_s_max=config.queue_wait_s_max
            ),
            deadline_s_default=config.deadline_s_default,
        ),
        time=TimekeeperSettings.of(config),
    )


def lifecycle_limits(config: NodeConfig) -> LifecycleLimits:
    """What the fate of tasks takes from the configuration."""
    return LifecycleLimits(attempts_max=config.attempts_max, lease_s=config.lease_s)


def latent_memory_settings(config: NodeConfig, store_url: str) -> LatentMemorySettings:
    """What the latent memory takes from the configuration."""
    return LatentMemorySettings(
        store=StoreSettings(url=store_url, connections_max=2),
        key_prefix=f"dedgeai:{config.node_id}:latents:",
        latents_max=config.latent_slots_max,
        keep_s=config.latent_keep_s,
    )


def front_desk_settings(config: NodeConfig) -> FrontDeskSettings:
    """What the front desk takes from the configuration."""
    return FrontDeskSettings(
        node_id=NodeId(config.node_id),
        policy_name=config.policy,
        prompt_chars_max=config.prompt_chars_max,
        steps_default=config.steps_default,
        guidance_scale_default=config.guidance_scale_default,
        guidance_scale_max=config.guidance_scale_max,
        strength_default=config.strength_default,
        images_per_request_max=config.images_per_request_max,
        deadline_s_max=config.deadline_s_max,
    )


def upload_limits(config: NodeConfig) -> UploadLimits:
    """What the REST surface takes from the configuration for init images."""
    return UploadLimits(
        bytes_max=config.init_image_upload_bytes_max,
        pixels_max=config.init_image_pixels_max,
        at_once_max=config.init_image_uploads_max,
        arrival_s_max=config.init_image_upload_s_max,
    )


def advertised(host: str) -> str:
    """The name under which others reach a listener on `host`."""
    return socket.getfqdn() if host in ("0.0.0.0", "::") else host
