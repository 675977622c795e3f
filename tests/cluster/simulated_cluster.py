"""A cluster of nodes that run the shell that ships, on one virtual clock, all from one seed.

Messages are late, lost, doubled, reordered and cut off; nodes crash, freeze, join, leave and come
back; workers crash and hang; disks are full, slow or refuse to sync, stores go away, and ports
raise what nobody expects. Invariants are checked whenever time advances, and at the end, when all
has healed, that every accepted task ended as an image or as an honest failure.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from edge_node.attempt_codes import HANDED_OVER
from edge_node.domain import NO_FENCE, AttemptFailed, NodeId, NodeState, TaskStatus
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks import membership_protocol as member
from edge_node.tasks.lifecycle import Lifecycle
from scheduler.registry import create
from tests.cluster.disk import Disk
from tests.cluster.network import Network
from tests.cluster.process import NodeProcess, Place
from tests.cluster.users import KINDS, InvariantBroken, Told, Users, origin_of
from tests.cluster.virtual_time import VirtualTime

# Of all tasks, read by somebody while all goes on.
LISTS = 8
FAULTS_END_S = 22.0
HEALED_END_S = 200.0
# Links that broke are tried again by then, and whoever was frozen is awake.
MEETING_S = 5.0
# Longer than messages take where nothing fails, and shorter than a heartbeat.
SOON_S = 0.05
# Longer than the time between two looks at it.
PROMPT_S = 1.0
MODELS = ("m", "other")
# What a node that is told to stop gives to what is under way, and how attempts may end meanwhile.
DRAIN_S = 12.0
EXPECTED = frozenset({"finished", "moved", "cancelled", "deadline_exceeded", HANDED_OVER})
# Of one with a deadline that waits for what was asked for before and came from a node that stops.
DRAINED = EXPECTED | {"not_accepting", "queue_full", "overdue"}
FAULTS = (
    *("crash", "freeze", "cut", "worker_crash", "worker_hang", "disk_full", "disk_slow"),
    *("no_sync", "store_away", "buggy_disk", "buggy_draw", "leave", "membership"),
)


class Latents:
    """What an origin keeps of a task before and after an event."""

    def __init__(self, lifecycle: Lifecycle, event: Any) -> None:
        self._reported = event if isinstance(event, life.AttemptReported) else None
        if self._reported is None:
            return
        self._lifecycle, task_id = lifecycle, self._reported.task_id
        fate = lifecycle._live.get(task_id)
        self._former = lifecycle.checkpoints.of(task_id)
        self._steps_done = 0 if fate is None else fate.steps_done
        self._current = (
            fate is not None
            and fate.is_drawn
            and (fate.fence, fate.record.executor)
            == (self._reported.fence, self._reported.executor)
        )

    def check(self) -> None:
        """Nothing of an old attempt is kept, and nothing that was handed over is lost."""
        if self._reported is None:
            return
        task_id, report = self._reported.task_id, self._reported.report
        kept = self._lifecycle.checkpoints.of(task_id)
        if not self._current and kept is not self._former:
            raise InvariantBroken(f"{task_id}: a latent of {self._reported.fence} is kept")
        handed_over = isinstance(report, AttemptFailed) and report.code == HANDED_OVER
        if handed_over and self._current and self._steps_done:
            step = 0 if kept is None else kept.step
            if step != self._steps_done:
                raise InvariantBroken(
                    f"{task_id} was handed over after {self._steps_done} and goes on after {step}"
                )


class SimulatedCluster:
    """The world and its invariants.

    Args:
        seed: decides everything.
        policy: of every node.
        quiet: whether nothing fails; then every task is drawn once, and states are fresh.
        models: that the nodes draw in turn, and users ask for.
        helping: whether idle devices compute rows for others.
    """

    def __init__(
        self,
        seed: int,
        *,
        policy: str = "power_of_two",
        quiet: bool = False,
        models: tuple[str, ...] = ("m",),
        helping: bool = False,
    ) -> None:
        self.models = models
        self.helping = helping
        self.seed = seed
        self.quiet = quiet
        self.rng = np.random.default_rng(seed)
        self.time = VirtualTime()
        self.policy = policy
        self.bugs: list[str] = []
        self.faults: list[str] = []
        self.seen: Counter[str] = Counter()
        # Since when something is otherwise than it should be soon.
        self._otherwise_s: dict[str, float] = {}
        self._running: dict[str, NodeProcess] = {}
        self._past: list[NodeProcess] = []
        self.network = Network(self.time, self.rng, at=self._at)
        self.network.faulty = not quiet
        self.places = self._lay_out(int(self.rng.integers(max(2, len(models)), 5)))
        addresses = [place.address for place in self.places]
        self.users = Users(self.time, self.network, self.rng, addresses, self._is_running)
        self.users.models = models

    def _lay_out(self, count: int) -> list[Place]:
        """Each node is told of those before it, which let it in when it says hello."""
        addresses = [f"10.0.0.{index}:9080" for index in range(count)]
        return [
            Place(
                node_id=NodeId(f"n{index}"),
                address=address,
                peers=tuple(addresses[:index]),
                step_s=0.1 * (1 + index),
                disk=Disk(),
                model=self.models[index % len(self.models)],
                helps=self.helping,
            )
            for index, address in enumerate(addresses)
        ]

    @property
    def nodes(self) -> list[NodeProcess]:
        """Those that run now."""
        return list(self._running.values())

    def _is_running(self, node_id: NodeId) -> bool:
        """Long enough for others to have met it."""
        before_s = self.time.now_s - MEETING_S
        return any(one.name == node_id and one.began_s < before_s for one in self.nodes)

    def _at(self, address: str) -> NodeProcess | None:
        return self._running.get(address)

    # The plan, drawn before the run.

    def plan(self, *, users: int, faults: int) -> None:
        """Who comes when, and what goes wrong."""
        for index, place in enumerate(self.places):
            self._later(0.0 if index < 3 else 5.0, self._begin, place)
        for index in range(users):
            kind = KINDS[index % len(KINDS)]
            self.users.come(kind, index, float(self.rng.uniform(1.0, 18.0)))
        for number in range(LISTS):
            self.users.look_over(4.0 + 4.0 * number, number)
        for _ in range(faults):
            kind = FAULTS[int(self.rng.integers(len(FAULTS)))]
            place = self.places[int(self.rng.integers(len(self.places)))]
            at_s, lasts_s = float(self.rng.uniform(2.0, 20.0)), float(self.rng.uniform(0.2, 4.0))
            self._later(at_s, self._strike, kind, place, lasts_s)
        self._later(FAULTS_END_S, self._heal)

    def drain_in_turn(self) -> None:
        """Every node is told to stop once, while users come."""
        for index, place in enumerate(self.places):
            self._later(6.0 + 5.0 * index, self._strike, "leave", place, DRAIN_S)

    @property
    def past(self) -> list[NodeProcess]:
        """Those that ran and ended."""
        return self._past

    def _later(self, delay_s: float, action: Any, *arguments: Any) -> None:
        self.users.loop.call_later(delay_s, action, *arguments)

    def _begin(self, place: Place) -> None:
        if place.address in self._running:
            return
        process = NodeProcess(
            place,
            time=self.time,
            network=self.network,
            rng=self.rng,
            policy=create(self.policy, rng=self.rng),
            note_bug=self.bugs.append,
        )
        self._listen_to(process)
        self._running[place.address] = process
        process.start()

    def _strike(self, kind: str, place: Place, lasts_s: float) -> None:
        self.faults.append(f"{self.time.now_s:6.2f} s: {kind} at {place.node_id}, {lasts_s:.2f} s")
        until_s = self.time.now_s + lasts_s
        process, disk = self._running.get(place.address), place.disk
        match kind:
            case "disk_full":
                disk.full_until_s = until_s
            case "disk_slow":
                disk.slow_until_s = until_s
            case "no_sync":
                disk.no_sync_until_s = until_s
            case "store_away":
                disk.store_away_until_s = until_s
            case "buggy_disk":
                disk.buggy_until_s = until_s
        if process is None:
            return
        match kind:
            case "crash":
                self._end(process)
                self._later(lasts_s, self._begin, place)
            case "leave":
                process.stop(drain_s=lasts_s, ended=lambda: self._left(process, restart_s=lasts_s))
            case "freeze":
                process.loop.freeze(lasts_s)
            case "cut":
                others = [other.node_id for other in self.places if other is not place]
                self.network.cut(place.node_id, list(others), lasts_s=lasts_s)
            case "worker_crash":
                process.loop.call_soon(process.worker.crash)
            case "worker_hang":
                process.loop.call_soon(process.worker.hang)
            case "buggy_draw":
                process.worker.buggy_draws += 2
            case "membership":
                self._confuse(process)

    def _confuse(self, process: NodeProcess) -> None:
        """Discovery says this and that, and the operator names a peer less for a while.

        He removes one that was never there, and one that is there and must be met again at once.
        """
        others = [place.address for place in self.places if place.address != process.address]
        links, settings = process.links, process.membership
        (met,) = [place.node_id for place in self.places if place.address == others[0]]

        def mistake() -> None:
            links.remove(met, removed=True)
            links.remove(met, removed=False)

        fewer = replace(settings, addresses=settings.addresses[1:])
        for index, told in enumerate(
            (
                lambda: links.found(others[0]),
                lambda: links.found("10.0.0.99:9080"),
                lambda: links.reconfigure(fewer),
                lambda: links.lost("10.0.0.99:9080"),
                lambda: links.remove(NodeId("n99"), removed=True),
                mistake,
                lambda: links.reconfigure(settings),
            )
        ):
            process.loop.call_later(0.4 * index, told)

    def _left(self, process: NodeProcess, *, restart_s: float) -> None:
        self._end(process)
        self._later(restart_s, self._begin, process.place)

    def _end(self, process: NodeProcess) -> None:
        if process.gone:
            return
        process.gone = True
        process.loop.end()
        # What clients heard while the store was away ends with the life that held it.
        for task_id in process.place.disk.held & self.users.told.keys():
            self.users.told[task_id].undone += 1
        process.place.disk.held.clear()
        del self._running[process.address]
        self._past.append(process)
        self.network.process_ended(process)

    def _heal(self) -> None:
        self.network.faulty = False
        for place in self.places:
            disk = place.disk
            disk.full_until_s = disk.slow_until_s = disk.no_sync_until_s = 0.0
            disk.store_away_until_s = disk.buggy_until_s = 0.0
            self._later(4.0, self._begin, place)

    # What is watched.

    def _listen_to(self, process: NodeProcess) -> None:
        """Counts every event and instruction, and validates the machine after each."""
        for name, machine in (
            ("life", process.lifecycle),
            ("hosted", process.hosting),
            ("member", process.links._membership),
        ):
            self._wrap(process, name, machine)

    def _wrap(self, process: NodeProcess, name: str, machine: Any) -> None:
        handle = machine.handle

        def counted(event: Any, *arguments: Any, **named: Any) -> Any:
            checkpoints = Latents(process.lifecycle, event)
            instructions = handle(event, *arguments, **named)
            self.seen[f"{name}.{type(event).__name__}"] += 1
            for instruction in instructions:
                self.seen[f"{name}.{type(instruction).__name__}"] += 1
                if isinstance(instruction, life.AttemptEnded):
                    process.reasons[instruction.reason] += 1
            if isinstance(event, hosted.OffloadReceived):
                process.offered(event.offload)
            machine.validate()
            checkpoints.check()
            return instructions

        machine.handle = counted

    # Invariants.

    def _check(self) -> bool:
        """Whenever time is about to advance; True ends the run."""
        wrong = [*self.time.unhandled, *self.bugs, *self.users.complaints]
        if wrong:
            raise InvariantBroken("; ".join(wrong))
        for node in self.nodes:
            if self.time.now_s >= node.loop.frozen_until_s:
                self._check_node(node)
        return self.time.now_s > FAULTS_END_S + 5 and self._settled()

    def _check_node(self, node: NodeProcess) -> None:
        if node.worker.complaints:
            raise InvariantBroken(f"{node.name}: {node.worker.complaints}")
        for (task_id, fence), drawing in node.worker.drawing.items():
            if drawing.model != node.worker.model:
                raise InvariantBroken(f"{node.name} draws {drawing.model} for {task_id}")
            if fence < node.highest.get(task_id, NO_FENCE):
                raise InvariantBroken(f"{node.name} draws the stale attempt {task_id}/{fence}")
            if not node.hosting.is_hosted(task_id, fence):
                raise InvariantBroken(f"{node.name} draws {task_id}/{fence} for nobody")
        if self.time.now_s >= node.loop.frozen_until_s + PROMPT_S:
            self._check_leases(node)
        if self.quiet:
            self._check_quiet(node)

    def check_no_step_was_drawn_again(self, node: NodeProcess) -> None:
        """Of what moved, and of what was handed over."""
        if node.lifecycle.checkpoints.steps_again:
            raise InvariantBroken(f"seed {self.seed}: steps of {node.name} were drawn again")

    def _check_leases(self, node: NodeProcess) -> None:
        late_s = node.clock.now_s() - PROMPT_S
        for task_id, fate in node.lifecycle._live.items():
            if fate.is_drawn and fate.lease_until_s < late_s:
                raise InvariantBroken(f"{node.name} waits for the silent {task_id}/{fate.fence}")

    def _check_quiet(self, node: NodeProcess) -> None:
        """A task leaves its executor for no fault, and what changes is known at once."""
        unexpected = node.reasons.keys() - EXPECTED
        if unexpected:
            raise InvariantBroken(f"{node.name} gave attempts up: {unexpected}")
        views = {view.state.node_id: view.state for view in node.view.views(now_s=0.0)}
        for other in self.nodes:
            seen = views.get(NodeId(other.name))
            met_s = max(node.began_s, other.began_s) + MEETING_S
            if seen is not None or other is node or self.time.now_s > met_s:
                self._check_fresh(node, seen, other)
        for task_id, fence in node.worker.drawing:
            (origin,) = [one for one in self.nodes if one.name == origin_of(task_id)]
            record = origin.lifecycle.record(task_id)
            wanted = record is not None and not record.status.is_final
            wanted = wanted and record is not None and record.fence == fence
            self._check_soon(f"{node.name} draws {task_id}/{fence}, unwanted", wanted)

    def _check_fresh(self, node: NodeProcess, seen: NodeState | None, other: NodeProcess) -> None:
        now = other.dispatcher.own_node.state()
        # What only shrinks as it is drawn is extrapolated, and not told step by step.
        known = seen is not None and (seen.sequence, seen.queued + seen.running) == (
            now.sequence,
            now.queued + now.running,
        )
        self._check_soon(f"{node.name} does not know of {other.name}", known)

    def _check_soon(self, what: str, is_so: bool) -> None:
        """It may be otherwise, but not for long."""
        if is_so:
            self._otherwise_s.pop(what, None)
        elif self.time.now_s - self._otherwise_s.setdefault(what, self.time.now_s) > SOON_S:
            raise InvariantBroken(f"{what} for more than {SOON_S} s")

    def _settled(self) -> bool:
        quiet = all(
            node.started
            and node.lifecycle.in_flight == 0
            and not node.hosting.hosted()
            and node.ledger.flushed
            for node in self.nodes
        )
        told = self.users.told.values()
        return quiet and len(self.nodes) == len(self.places) and all(map(_has_ended, told))

    def _check_end(self) -> None:
        for told in self.users.told.values():
            self._check_task(told)
        for node in self.nodes:
            for view in node.view.views(now_s=node.clock.now_s()):
                if view.own_unseen_work:
                    raise InvariantBroken(f"{node.name} still counts work at {view.state.node_id}")
            if node.hosting.hosted() or node.hosting.backlog:
                raise InvariantBroken(f"{node.name} still hosts {node.hosting.hosted()}")
            if node.lifecycle.in_flight:
                raise InvariantBroken(f"{node.name} still owes {node.lifecycle.in_flight} tasks")
            if self.quiet and (left := node.left_over()):
                raise InvariantBroken(f"{node.name} keeps {left} of what is over")

    def _check_task(self, told: Told) -> None:
        (disk,) = [p.disk for p in self.places if p.node_id == origin_of(told.task_id)]
        record = disk.records.get(told.task_id)
        if record is None:
            if told.kind != "synchronous":
                raise InvariantBroken(f"{told.task_id} was accepted and is lost")
            return
        buggy = any("buggy_disk" in fault for fault in self.faults)
        if not record.status.is_final and not (told.kind == "synchronous" and buggy):
            raise InvariantBroken(f"{told.task_id} is left over: {record}")
        code = "" if record.error is None else record.error.code
        if record.status is TaskStatus.FAILED and not self._may_fail(told, code):
            raise InvariantBroken(f"{told.task_id} failed as {code}: {record.error}")
        unwanted = told.cancelled or told.kind == "synchronous"
        if record.status is TaskStatus.CANCELLED and not unwanted:
            raise InvariantBroken(f"{told.task_id} was cancelled by nobody")
        late_s = 0.0
        if self.quiet and told.final is not None and told.deadline_unix_s is not None:
            late_s = told.final.unix_s - told.deadline_unix_s
        if late_s > 1.0:
            raise InvariantBroken(f"{told.task_id} ended {late_s:.3f} s after its deadline")
        if told.final is None:
            if told.kind != "synchronous":
                raise InvariantBroken(f"{told.task_id} ended, and its user heard nothing")
        elif told.final.kind.value == "finished":
            expected = f"{told.task_id}/"
            image = disk.images.get(told.task_id)
            if image is None or not image.content.decode().startswith(expected):
                raise InvariantBroken(f"{told.task_id} is finished and has no image")
            seen = not told.undone and not told.gave_up
            if seen and told.image != image.content:
                raise InvariantBroken(f"{told.task_id}: {told.image!r} shown for {image.content!r}")

    def _may_fail(self, told: Told, code: str) -> bool:
        struck = {fault.split()[2] for fault in self.faults}
        match code:
            case "attempts_exhausted" | "poisoned":
                return bool(self.faults)
            case "deadline_exceeded":
                return told.kind == "deadline"
            case "image_store_failed":
                return bool(struck & {"disk_full", "no_sync", "buggy_disk"})
            case "client_gone":
                return told.kind == "synchronous"
            case "init_image_gone":
                return False
        return False

    def run(self) -> None:
        """Runs to the end; raises InvariantBroken with the story so far."""
        logging.disable(logging.CRITICAL)
        try:
            self.time.run(until_s=HEALED_END_S, on_advance=self._check)
            self._check_end()
        except InvariantBroken as broken:
            story = "\n  ".join([str(broken), *self.faults, *self._stories(str(broken))])
            raise InvariantBroken(f"seed {self.seed}, {self.time.now_s:.3f} s: {story}") from None
        finally:
            self._bury()
            logging.disable(logging.NOTSET)

    def _stories(self, complaint: str) -> list[str]:
        """What every node remembers of the tasks that the complaint names."""
        lines = []
        for task_id in dict.fromkeys(re.findall(r"n\d-\d{10}", complaint)):
            for node in self.nodes:
                told = [*node.lifecycle.story(task_id), *node.hosting.story(task_id)]
                lines += [f"{task_id} at {node.name}: {line}" for line in told]
        return lines

    def _bury(self) -> None:
        """Unwinds every coroutine, so that none is left to the garbage collector."""
        for process in [*self.nodes, *self._past]:
            process.loop.bury()
        self.users.loop.bury()
        self.time.run(until_s=self.time.now_s, on_advance=lambda: False)


def run_faulty(seed: int, *, policy: str = "power_of_two") -> SimulatedCluster:
    """A cluster through its faults, to the end."""
    cluster = SimulatedCluster(seed, policy=policy)
    cluster.plan(users=14, faults=5)
    cluster.run()
    return cluster


def run_mixed(seed: int) -> SimulatedCluster:
    """The same with nodes of two models in turn."""
    cluster = SimulatedCluster(seed, models=MODELS)
    cluster.plan(users=14, faults=5)
    cluster.run()
    return cluster


def run_draining(seed: int) -> SimulatedCluster:
    """A busy cluster in which nothing fails, and one node after the other is told to stop.

    What each draws for others is handed over, so that no step is drawn twice.
    """
    cluster = SimulatedCluster(seed)
    cluster.network.faulty = False
    cluster.plan(users=28, faults=0)
    cluster.drain_in_turn()
    cluster.run()
    for node in [*cluster.nodes, *cluster.past]:
        cluster.check_no_step_was_drawn_again(node)
        unexpected = node.reasons.keys() - DRAINED
        if unexpected:
            raise InvariantBroken(f"seed {seed}: {node.name} gave attempts up: {unexpected}")
    return cluster


def run_helping(seed: int) -> SimulatedCluster:
    """A cluster through its faults, whose idle devices compute rows for others."""
    cluster = SimulatedCluster(seed, helping=True)
    # So that rows come while they are of use, if they come.
    cluster.network.delay_s /= 10.0
    cluster.plan(users=14, faults=5)
    cluster.run()
    return cluster


def run_quiet(
    seed: int, *, models: tuple[str, ...] = ("m",), helping: bool = False
) -> SimulatedCluster:
    """A cluster in which nothing fails, so that more must hold."""
    cluster = SimulatedCluster(seed, quiet=True, models=models, helping=helping)
    cluster.plan(users=21, faults=0)
    cluster.run()
    for node in cluster.nodes:
        cluster.check_no_step_was_drawn_again(node)
    return cluster


def _has_ended(told: Told) -> bool:
    """Whether its user waits for nothing more."""
    if told.gave_up or told.final is None:
        return told.gave_up or told.kind == "synchronous"
    return told.final.kind.value != "finished" or told.image is not None


def machines() -> dict[str, list[type]]:
    """Every event and instruction of the three machines."""
    return {
        name: [*module.Event.__args__, *module.Instruction.__args__]
        for name, module in (("life", life), ("hosted", hosted), ("member", member))
    }
