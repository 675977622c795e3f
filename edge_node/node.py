"""The composition root: builds every part of a node, starts them in order and stops them in order.

Owns no behaviour of its own beyond that order:
store, ledger, images, worker, dispatcher, peering, REST; and back. Each part that takes other
settings while it runs is told of them by the reloader.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from edge_node import log_lines
from edge_node.access.key_sharing import KeySharing
from edge_node.access.key_use import KeyUse
from edge_node.api.addressing import Addresses
from edge_node.api.app import create_app
from edge_node.api.callbacks import Callbacks
from edge_node.api.listener import listen
from edge_node.api.openai_request import Habits
from edge_node.api.request_body import BodyLimits
from edge_node.api.uploads import UploadLimits
from edge_node.child_options import learner_command
from edge_node.children import keep_learner, keep_store
from edge_node.clock import moment
from edge_node.clock_record import NodeClock, begin_clock, keep_record
from edge_node.config import NodeConfig
from edge_node.data_folder import clock_path, needed_parts, removals_path, watched_parts
from edge_node.dispatch.dead_letters import DeadLetterDesk
from edge_node.dispatch.dispatcher import Dispatcher, DispatcherSettings
from edge_node.dispatch.front_desk import FrontDesk, FrontDeskSettings
from edge_node.dispatch.leaving import Leaving
from edge_node.dispatch.own_node import Identity
from edge_node.dispatch.task_traces import TaskTraces
from edge_node.domain import NodeId, NodeState, TaskRecord
from edge_node.errors import MalformedMessage, StoreUnavailable
from edge_node.garbage import collect_seldom, return_large_blocks
from edge_node.guard.deciding import guard_settings, policy_of
from edge_node.guard.feed import keep_up_to_date
from edge_node.lasting import Loops, Run, both
from edge_node.learning.sharing import LearningShare, SharingSettings
from edge_node.mcp.opening import open_endpoint
from edge_node.moderation.opening import open_moderator
from edge_node.node_keys import open_key_use, open_keys
from edge_node.peering.caller import Caller, PeerConduct
from edge_node.peering.client import PeerClient
from edge_node.peering.discovery import Discovery, DiscoverySettings, require_zeroconf
from edge_node.peering.peer_links import PeerLinks
from edge_node.peering.server import NodeServicer, PeerServer
from edge_node.peering.service import PeerService
from edge_node.peering.tls import NodeTls
from edge_node.reloading import Reloader
from edge_node.rest_tls import RestTls
from edge_node.socket_path import cleared, socket_folder
from edge_node.sole_owner import make_data_folder, sole_owner
from edge_node.store.disk_watch import DiskWatch
from edge_node.store.embedded_valkey import STARTS_MAX, wait_until_ready
from edge_node.store.experience_pool import ExperiencePool, PoolSettings
from edge_node.store.fill import PartFill
from edge_node.store.housekeeping import Housekeeper
from edge_node.store.image_files import ImageFiles, image_bounds
from edge_node.store.init_images import InitImages, init_image_bounds
from edge_node.store.opening import open_latents, open_ledger, open_pool
from edge_node.store.removal_file import RemovalFile
from edge_node.store.repair import mend_store
from edge_node.store.space import StoreSpace
from edge_node.store.stored_latents import StoredLatents, StoredLatentsSettings
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from edge_node.supervision.child_process import ChildExit
from edge_node.supervision.no_worker import NoWorker
from edge_node.supervision.worker_process import WorkerProcess, WorkerSettings
from edge_node.tasks.cluster_view import ClusterView, ClusterViewLimits
from edge_node.tasks.hosting import Hosting, HostingLimits
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.lifecycle_limits import LifecycleLimits
from edge_node.tasks.membership_protocol import MembershipSettings
from edge_node.tasks.slots import SlotMemory, SlotSettings
from edge_node.telemetry import device_watch
from edge_node.telemetry.jetson import DeviceCollector, is_jetson
from edge_node.telemetry.metrics import NodeMetrics
from edge_node.telemetry.tracing import open_tracing
from scheduler.guard.guard import Guard

log = logging.getLogger(__name__)

STORE_START_S_MAX = 30.0
STOP_GRACE_S = 1.0
# That the others have to answer before REST listens.
MEETING_S = 1.0
# Of a node that gives itself up: it ends within `GIVE_UP_S`, whatever still hangs, to be restarted.
EXIT_GIVEN_UP = 70
GIVE_UP_S = 10.0


async def run_node(read_config: Callable[[], NodeConfig]) -> int:
    """Runs a node until SIGTERM or SIGINT; returns the exit code.

    Args:
        read_config: gives the settings, now and again at every SIGHUP.

    Raises:
        InvalidRequest: a setting cannot be honoured.
        StoreUnavailable: the store did not answer in time.
    """
    return_large_blocks()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    reloader = Reloader(read_config)
    loop.add_signal_handler(signal.SIGHUP, reloader.reload)
    config = reloader.config
    log_lines.set_format(config.log_format, node_id=config.node_id)
    log_lines.set_level(config.log_level)
    reloader.tell(lambda new: log_lines.set_level(new.log_level))
    clock = await begin_clock(
        clock_path(config),
        jump_s_max=config.clock_jump_s_max,
        wait_s_max=config.clock_wait_s_max,
        stopping=stopping,
    )
    if stopping.is_set():
        return 0
    async with contextlib.AsyncExitStack() as stack:
        node = _Node(reloader, stack, stopping, clock)
        await node.run()
    return EXIT_GIVEN_UP if node.given_up else 0


class _Node:
    """The parts of one node; everything it starts is stopped by `stack`, last first."""

    def __init__(
        self,
        reloader: Reloader,
        stack: contextlib.AsyncExitStack,
        stopping: asyncio.Event,
        clock: NodeClock,
    ) -> None:
        self._reloader = reloader
        self._stopping = stopping
        self.given_up = False
        config = reloader.config
        self._stack = stack
        self._clock = clock
        self._metrics = NodeMetrics()
        self._metrics.watch_clock(self._clock.step_s)
        self._loops = Loops(on_failed=self._metrics.loop_failed, give_up=self._give_up)
        self._device = DeviceCollector(clock=self._clock)
        self._metrics.registry.register(self._device)
        self._folder = make_data_folder(config.data_folder, parts=needed_parts(config))
        self._sockets = socket_folder(self._folder)
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._removals = RemovalFile(removals_path(config), clock=self._clock)
        self._tls = NodeTls.of(config)
        self._keys = open_keys(config, self._tls)
        self._tracing = open_tracing(config)
        self._policy = policy_of(config, clock=self._clock, shared_s=self._shared_s)
        if isinstance(guard := self._policy, Guard):
            reloader.tell(lambda new: guard.reconfigure(guard_settings(new)))
        self._view: ClusterView | None = None
        self._worker_starts = 1
        # The worker is built before the dispatcher that listens to it.
        self._worker_changed: Callable[[], None] = lambda: None

    def _shared_s(self) -> float:
        now_s = self._clock.now_s()
        return now_s if self._view is None else self._view.shared_s(now_s=now_s)

    @property
    def _config(self) -> NodeConfig:
        return self._reloader.config

    async def run(self) -> None:
        self._stack.enter_context(sole_owner(self._folder))
        if self._tracing is not None:
            self._stack.push_async_callback(self._tracing.close)
        # Both may have much to read, and neither waits for the other.
        store_url, (images, init_images) = await both(self._start_store(), self._start_files())
        ledger = await self._stack.enter_async_context(
            open_ledger(
                LedgerSettings.of(self._config, store_url),
                clock=self._clock,
                on_pending_changed=self._metrics.write_behind_changed,
                loops=self._loops,
            )
        )
        me = Identity.of(
            self._config, incarnation=await ledger.next_incarnation(), term=await ledger.next_term()
        )
        recovered = await self._recover(ledger, term=me.term)
        worker = self._worker()
        self._metrics.watch_worker(lambda: worker.load)
        view = ClusterView(
            own_id=NodeId(self._config.node_id),
            incarnation=me.incarnation,
            limits=ClusterViewLimits.of(self._config),
            began_s=self._clock.now_s(),
        )
        self._view = view
        memory = SlotMemory(SlotSettings.of(self._config), now_s=self._clock.now_s())
        latents = await self._start_latents(store_url, memory)
        pool = await self._start_learning(store_url)
        dispatcher = Dispatcher(
            me,
            DispatcherSettings.of(self._config),
            lifecycle=Lifecycle(LifecycleLimits.of(self._config), term=me.term),
            hosting=Hosting(HostingLimits.of(self._config)),
            view=view,
            policy=self._policy,
            memory=memory,
            latent_store=latents,
            pool=pool,
            ledger=ledger,
            images=images,
            init_images=init_images,
            erasures=ledger.erasures,
            worker=worker,
            metrics=self._metrics,
            clock=self._clock,
            loops=self._loops,
            traces=TaskTraces.of(self._tracing, own_id=me.node_id),
        )
        self._reloader.tell(lambda new: dispatcher.reconfigure(DispatcherSettings.of(new)))
        self._worker_changed = lambda: self._tell_worker_changed(worker, dispatcher)
        await worker.start()
        self._stack.push_async_callback(worker.stop)
        share = await self._start_sharing(store_url, dispatcher, view)
        links, server = await self._start_peering(dispatcher, share)
        await self._open_moderator(dispatcher)
        dispatcher.start(links, [record.task for record in recovered])
        self._stack.push_async_callback(dispatcher.stop)
        self._stack.push_async_callback(links.say_goodbye)
        self._discover(links)
        self._keep_house(ledger, images, init_images, dispatcher)
        if is_jetson():
            told = dispatcher.own_node.device_read
            self._background(
                "the device's readings", partial(device_watch.watch, self._device, told)
            )
        self._watch_space(ledger, images, dispatcher, parts=(pool.fill, latents.fill))
        letters = DeadLetterDesk(ledger, own_tasks=dispatcher.own_tasks, init_images=init_images)
        front_desk = self._front_desk(dispatcher, view, links, worker, ledger, letters, share)
        self._reloader.tell(lambda new: front_desk.reconfigure(FrontDeskSettings.of(new)))
        self._background("gRPC health", partial(server.follow, front_desk.readiness), vital=True)
        # Who asks at once is told of what others draw while this node loads its model.
        await links.meet(within_s=MEETING_S)
        await self._serve(front_desk, dispatcher, ledger)

    # The parts.

    def _front_desk(
        self,
        dispatcher: Dispatcher,
        view: ClusterView,
        links: PeerLinks,
        worker: WorkerProcess | NoWorker,
        ledger: TaskLedger,
        letters: DeadLetterDesk,
        share: LearningShare,
    ) -> FrontDesk:
        return FrontDesk(
            FrontDeskSettings.of(self._config),
            dispatcher=dispatcher,
            view=view,
            peers=links,
            worker=worker,
            ledger=ledger,
            dead_letters=letters,
            clock=self._clock,
            learner=lambda: share.progress,
            given_up=lambda: self._loops.given_up,
            clock_notes=self._clock.notes,
            removals_kept=self._removals.kept,
        )

    async def _start_store(self) -> str:
        return self._config.redis_url or await self._start_embedded_store()

    async def _recover(self, ledger: TaskLedger, *, term: int) -> list[TaskRecord]:
        """What a former life owed, with times that a jump of the clock between did not move."""
        beginning = self._clock.beginning
        redating = None
        if beginning.shift_s:
            redating = await ledger.redate(
                beginning.shift_s, jump=repr(beginning.former), term=term
            )
        recovered = await ledger.recover(term=term, redating=redating)
        keep = partial(keep_record, clock_path(self._config), self._clock)
        self._background("keeping the clock", keep)
        return recovered

    async def _start_embedded_store(self) -> str:
        path = cleared(self._sockets / "store.sock")
        lived = clock_path(self._config).exists()
        mended = await asyncio.to_thread(mend_store, self._folder, lived=lived)
        self._metrics.store_mended(tasks=len(mended.lost_task_ids))
        ends: list[str] = []

        def ended(exited: ChildExit) -> None:
            if len(ends) < STARTS_MAX:
                said = [line for line in exited.last_lines if "# WARNING" not in line]  # advice
                ends.append(" | ".join(said[-2:]))

        keep = partial(keep_store, self._folder, socket_path=path, on_exited=ended)
        self._background("keeping the store", keep, vital=True)
        await wait_until_ready(path, STORE_START_S_MAX, ends=lambda: ends)
        return f"unix://{path}"

    async def _start_files(self) -> tuple[ImageFiles, InitImages]:
        clock, config = self._clock, self._config
        images = ImageFiles(self._folder / "images", **image_bounds(config), clock=clock)
        self._reloader.tell(lambda new: images.set_bounds(**image_bounds(new)))
        init_images = InitImages(
            self._folder / "init_images", **init_image_bounds(config), clock=clock
        )
        self._reloader.tell(lambda new: init_images.set_bounds(**init_image_bounds(new)))
        await images.start(shift_s=clock.beginning.shift_s)
        await init_images.start(shift_s=clock.beginning.shift_s)
        return images, init_images

    def _keep_house(
        self,
        ledger: TaskLedger,
        images: ImageFiles,
        init_images: InitImages,
        dispatcher: Dispatcher,
    ) -> None:
        self._background("erasing", dispatcher.eraser.run)
        housekeeper = Housekeeper(
            ledger=ledger,
            images=images,
            init_images=init_images,
            task_keep_s=lambda: self._config.task_keep_s,
            on_stored=self._metrics.images_stored,
            clock=self._clock,
        )
        self._background("housekeeping", housekeeper.run, vital=True)

    def _watch_space(
        self,
        ledger: TaskLedger,
        images: ImageFiles,
        dispatcher: Dispatcher,
        *,
        parts: Sequence[Callable[[], Awaitable[PartFill]]],
    ) -> None:
        disk = DiskWatch(
            self._folder,
            parts=tuple(self._folder / one for one in watched_parts(self._config)),
            free_bytes_min=lambda: self._config.disk_free_bytes_min,
            make_room=images.shed,
            on_looked=self._metrics.disk_looked_at,
        )
        space = StoreSpace(
            ledger,
            forget_images=images.remove,
            bytes_max=lambda: self._config.store_bytes_max,
            parts=parts,
            on_looked=self._metrics.store_looked_at,
        )
        dispatcher.own_tasks.refusal = lambda: disk.refusal() or space.refusal()
        self._background("watching the disk", disk.run, vital=True)
        self._background("bounding the store", space.run, vital=True)

    async def _start_latents(self, url: str, memory: SlotMemory) -> StoredLatents:
        latents = await self._stack.enter_async_context(
            open_latents(
                StoredLatentsSettings.of(self._config, url),
                last=lambda: memory.snapshot(moment(self._clock)),
                on_behind_changed=self._metrics.latent_memory_changed,
                loops=self._loops,
            )
        )
        # Latents are worth less than a start: without the store's, decisions begin cold.
        with contextlib.suppress(StoreUnavailable):
            snapshot = await latents.read()
            if snapshot is not None:
                memory.restore(snapshot, moment(self._clock))
        return latents

    async def _start_learning(self, url: str) -> ExperiencePool:
        """The learner's way to the node and the node's way to the learner, and the learner."""
        if isinstance(guard := self._policy, Guard):
            feed = partial(keep_up_to_date, guard, self._config, store_url=url, loops=self._loops)
            self._background("feeding the guard", feed)
        pool = await self._stack.enter_async_context(
            open_pool(
                PoolSettings.of(self._config, url),
                clock=self._clock,
                on_dropped=self._metrics.experience_dropped,
                loops=self._loops,
            )
        )
        if self._config.learner:
            command = learner_command(self._config, url)
            keep = partial(keep_learner, command, folder=self._folder)
            self._background("keeping the learner", keep)
        return pool

    async def _open_moderator(self, dispatcher: Dispatcher) -> None:
        opened = open_moderator(self._config, on_judged=self._metrics.moderated)
        dispatcher.own_tasks.moderator = await self._stack.enter_async_context(opened)

    def _worker(self) -> WorkerProcess | NoWorker:
        if self._config.engine == "none":
            return NoWorker()
        settings = WorkerSettings.of(
            self._config,
            socket_path=cleared(self._sockets / "worker.sock"),
            run_dir=self._folder / "run",
        )
        return WorkerProcess(settings, on_change=lambda: self._worker_changed(), loops=self._loops)

    def _tell_worker_changed(
        self, worker: WorkerProcess | NoWorker, dispatcher: Dispatcher
    ) -> None:
        while self._worker_starts < worker.starts:
            self._worker_starts += 1
            self._metrics.worker_restarted()
        dispatcher.own_node.worker_changed()

    async def _start_sharing(
        self, url: str, dispatcher: Dispatcher, view: ClusterView
    ) -> LearningShare:
        share = LearningShare(
            SharingSettings.of(self._config),
            store_url=url,
            node=dispatcher.own_node,
            view=view,
            metrics=self._metrics,
            clock=self._clock,
            loops=self._loops,
        )
        await share.start()
        self._stack.push_async_callback(share.close)
        return share

    async def _start_peering(
        self, dispatcher: Dispatcher, share: LearningShare
    ) -> tuple[PeerLinks, PeerServer]:
        config = self._config
        conduct = PeerConduct(self._clock, on_broken=self._metrics.rule_broken)
        self._metrics.watch_conduct(lambda: conduct.count_aside)
        tls, keys = self._tls, self._keys
        keys.tell(dispatcher.own_node.keys_changed)
        self._background("reading the keys", keys.run)
        if tls is not None:
            self._metrics.watch_certificate(lambda: tls.expires_unix_s() - self._clock.wall_s())
        links = PeerLinks(
            MembershipSettings.of(config),
            own_id=NodeId(config.node_id),
            own_state=dispatcher.own_node.state,
            state_received=dispatcher.peer_state_received,
            round_trip_measured=dispatcher.round_trip_measured,
            node_forgotten=dispatcher.peer_forgotten,
            connect=partial(PeerClient, conduct=conduct, tls=tls),
            clock=self._clock,
            loops=self._loops,
            removals=self._removals.removals,
            keep_removals=self._removals.keep,
        )
        self._background("keeping who was removed", self._removals.run)
        self._reloader.tell(lambda new: links.reconfigure(MembershipSettings.of(new)))
        servicer = NodeServicer(
            PeerService(dispatcher, links, share, signed_keys=keys.signed),
            version=importlib.metadata.version("dedgeai"),
            conduct=conduct,
            tls=tls,
        )
        server = PeerServer(servicer, host=config.grpc_host, port=config.grpc_port, tls=tls)
        await server.start()
        self._stack.push_async_callback(server.stop, grace_s=STOP_GRACE_S)
        await links.start()
        self._stack.push_async_callback(links.stop)
        self._background("sharing what is learned", partial(share.run, links))
        if tls is not None:
            self._share_keys(tls, links, conduct)
        return links, server

    def _states(self) -> list[NodeState]:
        """What all nodes said last."""
        view = self._view
        return [] if view is None else [v.state for v in view.views(now_s=self._clock.now_s())]

    def _count_use(self, dispatcher: Dispatcher) -> KeyUse:
        use = open_key_use(
            self._config,
            self._folder,
            clock=self._clock,
            in_flight_of=dispatcher.own_tasks.in_flight_of,
            states=self._states,
        )
        dispatcher.own_node.key_use = use.told
        self._background("keeping what keys have used", use.run)
        return use

    def _share_keys(self, tls: NodeTls, links: PeerLinks, conduct: PeerConduct) -> None:
        def broken(node_id: NodeId, error: MalformedMessage) -> None:
            conduct.broke(Caller(node_id=node_id).who, "FetchKeys", error)

        sharing = KeySharing(
            self._keys, states=self._states, on_broken=broken, material=tls.material
        )
        self._background("sharing the keys", partial(sharing.run, links))

    def _discover(self, links: PeerLinks) -> None:
        if self._config.discovery == "mdns":
            require_zeroconf()
            discovery = Discovery(
                DiscoverySettings.of(self._config), found=links.found, lost=links.lost
            )
            self._background("discovery", discovery.run)

    async def _serve(
        self, front_desk: FrontDesk, dispatcher: Dispatcher, ledger: TaskLedger
    ) -> None:
        config, agents = self._config, open_endpoint(self._config)
        read, over = dispatcher.own_tasks.read_task, self._metrics.callback_over
        callbacks = Callbacks.of(config, ledger.callbacks, read, clock=self._clock, on_over=over)
        app = create_app(
            front_desk,
            metrics=self._metrics,
            body_limits=BodyLimits.of(config),
            upload_limits=UploadLimits.of(config),
            hosts=config.rest_hosts,
            addresses=Addresses.of(config),
            origins=config.cors_origins,
            image_origins=config.image_url_origins,
            habits=lambda: Habits.of(self._config),
            client_of_key=self._keys.client,
            keys=self._keys,
            key_use=self._count_use(dispatcher),
            mcp=agents,
            callbacks=callbacks,
            tracing=self._tracing,
        )
        if agents is not None:
            agents.rest = app
            self._background("answering agents", agents.run)
        if callbacks is not None:
            dispatcher.on_ended = callbacks.ended
            self._background("telling of ends", callbacks.run)

        leaving = Leaving(
            dispatcher,
            drain_s=config.drain_s,
            at_once=lambda: self.given_up,
            clock=self._clock,
            said=app.state.surface.leaving.set,
        )
        collect_seldom()
        await listen(
            app,
            config,
            stopping=self._stopping,
            drain=leaving.drain,
            finish=leaving.finish,
            loops=self._loops,
            tls=RestTls.of(config),
        )

    def _give_up(self, name: str) -> None:
        """The node cannot do without what keeps failing: it ends, and a new life may do better."""
        log.critical("the node ends itself, because %s keeps failing", name)
        self.given_up = True
        self._stopping.set()
        last_resort = threading.Timer(GIVE_UP_S, os._exit, (EXIT_GIVEN_UP,))
        last_resort.daemon = True
        last_resort.start()

    def _background(self, name: str, run: Run, *, vital: bool = False) -> None:
        """Keeps `run` going until the node stops, then cancels it and waits for its end."""
        task = self._loops.start(name, run, vital=vital)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)
