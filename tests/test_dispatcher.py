"""What the dispatcher does with init images, on real state machines and a real store of files."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node.clock import SystemClock
from edge_node.dispatcher import Dispatcher, DispatcherSettings
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptReport,
    Drawing,
    Image,
    NodeId,
    NodeState,
    Offload,
    Task,
    TaskId,
    TaskRecord,
    WorkerDescription,
)
from edge_node.errors import AdmissionRefused, InitImagesFull
from edge_node.ports import Appended, LatentSnapshot
from edge_node.store.init_images import InitImages
from edge_node.tasks.admission import AdmissionLimits
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.hosting import Hosting, HostingLimits
from edge_node.tasks.lifecycle import Lifecycle, LifecycleLimits
from edge_node.tasks.slots import SlotMemory, SlotSettings
from edge_node.telemetry.metrics import NodeMetrics
from scheduler.experience import RecordedDecision
from scheduler.policy import Outcome
from scheduler.registry import create

OWN, PEER = NodeId("own"), NodeId("peer")
PNG = b"\x89PNG" + bytes(96)
SHA256 = hashlib.sha256(PNG).hexdigest()
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
    attempt=1,
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


class Snapshots(list[LatentSnapshot]):
    """A store of latents that only counts what it is given."""

    def note(self, snapshot: LatentSnapshot) -> None:
        self.append(snapshot)


class Node:
    """A dispatcher between an own worker and one peer, with `policy` to choose."""

    def __init__(self, folder: Path, *, policy: str = "local", bytes_max: int = 1000) -> None:
        clock = SystemClock()
        self.own_device, self.peer = Device(), Device()
        self.pool, self.snapshots = Pool(), Snapshots()
        self.metrics = NodeMetrics()
        self.init_images = InitImages(folder, bytes_max=bytes_max, keep_s_max=1000.0, clock=clock)
        stores: Any = Stores()
        self.dispatcher_settings = DispatcherSettings(
            node_id=OWN,
            incarnation=1,
            rest_url="",
            grpc_address="",
            admission=AdmissionLimits(tasks_in_flight_max=2),
            deadline_s_default=100.0,
            tick_s=0.01,
            heartbeat_s=0.05,
            lease_s=5.0,
        )
        self.dispatcher = Dispatcher(
            self.dispatcher_settings,
            lifecycle=Lifecycle(LifecycleLimits()),
            hosting=Hosting(HostingLimits()),
            view=ClusterView(own_id=OWN, incarnation=1),
            policy=create(policy, rng=np.random.default_rng(1)),
            memory=SlotMemory(SlotSettings(), now_s=clock.now_s()),
            ledger=stores,
            images=stores,
            init_images=self.init_images,
            worker=self.own_device,
            metrics=self.metrics,
            clock=clock,
            latent_store=self.snapshots,
            pool=self.pool,
        )

    async def start(self, recovered: Sequence[Task] = ()) -> None:
        await self.init_images.start()
        self.dispatcher.worker_changed()
        fast = NodeState(
            node_id=PEER, incarnation=1, sequence=1, capacity=99.0, model="m", accepting=True
        )
        self.dispatcher.peer_state_received(fast)
        self.dispatcher.start(self.peer, recovered)

    async def submit(self, drawing: Drawing = DRAWING, png: bytes = PNG) -> TaskId:
        submission = await self.dispatcher.submit([drawing], durable=True, init_image=png)
        return submission.records[0].task.id

    async def ended(self, task_id: TaskId) -> TaskRecord:
        async for event in self.dispatcher.watch_own_task(task_id, after=0):
            assert event.steps == 2, "half of four"
        return await self.dispatcher.read_own_task(task_id)


def run(node: Node, story: Callable[[], Awaitable[None]]) -> None:
    async def life() -> None:
        async with asyncio.timeout(10):
            try:
                await story()
            finally:
                await node.dispatcher.stop()

    asyncio.run(life())


@pytest.mark.parametrize("policy", ["local", "least_expected_delay"])
def test_whoever_draws_gets_the_init_image(tmp_path: Path, policy: str) -> None:
    node = Node(tmp_path, policy=policy)
    device, idle = (
        (node.own_device, node.peer) if policy == "local" else (node.peer, node.own_device)
    )

    async def story() -> None:
        await node.start()
        record = await node.ended(await node.submit())
        assert record.status.value == "completed"
        assert record.task.input_bits == 8 * (len("boat") + len(PNG))
        (asked,) = device.asked
        assert (asked["init_image"], asked["drawing"]) == (PNG, DRAWING)
        if policy == "local":
            assert 99.0 < asked["deadline_s"] <= 100.0
        assert idle.asked == []
        assert await node.init_images.read(SHA256) == PNG

    run(node, story)


def test_text_to_image_needs_no_store(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        task_id = await node.submit(replace(DRAWING, init_image_sha256="", steps=2), b"")
        assert (await node.ended(task_id)).status.value == "completed"
        assert node.own_device.asked[0]["init_image"] == b""
        assert list(tmp_path.iterdir()) == []

    run(node, story)


@pytest.mark.parametrize("policy", ["local", "least_expected_delay"])
def test_a_recovered_task_whose_image_is_gone_fails_and_says_so(
    tmp_path: Path, policy: str
) -> None:
    node = Node(tmp_path, policy=policy)
    owed = Task(
        id=TaskId("own-1"),
        job_id=None,
        drawing=DRAWING,
        work=3.0,
        input_bits=8,
        created_unix_s=0.0,
    )

    async def story() -> None:
        await node.start([owed])
        record = await node.ended(owed.id)
        assert record.error is not None
        assert record.error.code == "init_image_gone"
        assert "Submit the task again" in record.error.message
        assert record.attempt == 1
        assert node.own_device.asked == node.peer.asked == []

    run(node, story)


def test_what_a_peer_that_leaves_was_to_draw_is_placed_again(tmp_path: Path) -> None:
    node = Node(tmp_path, policy="least_expected_delay")
    node.peer.held = True

    async def story() -> None:
        await node.start()
        task_id = await node.submit()
        while not node.peer.asked:
            await asyncio.sleep(0.01)
        node.dispatcher.peer_forgotten(PEER)
        record = await node.ended(task_id)
        assert (record.status.value, record.executor, record.attempt) == ("completed", OWN, 2)

    run(node, story)


def test_other_bounds_count_from_the_next_request_on(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        node.dispatcher.reconfigure(
            replace(
                node.dispatcher_settings,
                admission=AdmissionLimits(tasks_in_flight_max=1),
                deadline_s_default=10.0,
            )
        )
        node.own_device.held = True
        task_id = await node.submit()
        record = await node.dispatcher.read_own_task(task_id)
        assert record.task.deadline_unix_s is not None
        assert record.task.deadline_unix_s - record.task.created_unix_s == pytest.approx(10.0)
        with pytest.raises(AdmissionRefused):
            await node.submit()

    run(node, story)


def test_a_full_store_refuses_before_anything_is_accepted(tmp_path: Path) -> None:
    node = Node(tmp_path, bytes_max=len(PNG))

    async def story() -> None:
        await node.start()
        await node.ended(await node.submit())
        await node.ended(await node.submit())  # the same image needs no room
        other = b"other" + PNG[5:]
        sha256 = hashlib.sha256(other).hexdigest()
        with pytest.raises(InitImagesFull) as refused:
            await node.submit(replace(DRAWING, init_image_sha256=sha256), other)
        assert refused.value.retry_after_s is not None
        assert 90.0 < refused.value.retry_after_s <= 100.0
        assert node.dispatcher.in_flight == 0

    run(node, story)


def test_requests_that_come_in_while_an_image_is_written_count(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        node.own_device.held = True
        outcomes = await asyncio.gather(*(node.submit() for _ in range(6)), return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, AdmissionRefused)]
        accepted = [one for one in outcomes if isinstance(one, str)]
        assert (len(accepted), len(refused)) == (2, 4)

    run(node, story)


async def hosted(node: Node, offload: Offload, init_image: bytes) -> AttemptReport:
    reports = await node.dispatcher.host(offload, init_image=init_image)
    return await reports.get()


def test_an_executor_keeps_what_it_is_sent_and_draws_from_it(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        assert await hosted(node, OFFLOAD, PNG) == DONE
        assert node.own_device.asked[0]["init_image"] == PNG
        assert node.own_device.asked[0]["deadline_s"] == 60.0
        # Kept by its content: a second attempt may come without it.
        again = replace(OFFLOAD, attempt=2)
        assert await hosted(node, again, b"") == DONE
        assert node.own_device.asked[1]["init_image"] == PNG

    run(node, story)


def test_what_an_executor_cannot_keep_or_find_may_be_drawn_elsewhere(tmp_path: Path) -> None:
    node = Node(tmp_path, bytes_max=10)

    async def story() -> None:
        await node.start()
        for init_image, code in (
            (PNG[:-1] + b"x", "invalid_request"),
            (PNG, "init_images_full"),
            (b"", "init_image_gone"),
        ):
            report = await hosted(node, OFFLOAD, init_image)
            assert isinstance(report, AttemptFailed)
            assert (report.code, report.retryable) == (code, True)
        assert node.own_device.asked == []

    run(node, story)


def test_decisions_and_outcomes_are_for_the_pool_and_latents_for_the_store(tmp_path: Path) -> None:
    node = Node(tmp_path, policy="lad_ts_plus")

    async def story() -> None:
        await node.start()
        first = await node.submit()
        await node.ended(first)
        # The slot ends by itself: nobody has to decide again for the latents to be written.
        while not node.snapshots:
            await asyncio.sleep(0.01)
        second = await node.submit()
        await node.ended(second)
        while len(node.pool.outcomes) < 2:
            await asyncio.sleep(0.01)
        cold, warm = node.pool.decisions
        assert (cold.decision_id, cold.steps, cold.index_in_slot) == (f"{first}/1", 2, 0)
        assert cold.observation.latent_B is None
        assert warm.slot > cold.slot
        kept = np.frombuffer(node.snapshots[0].latents[0], np.float32)
        assert warm.observation.latent_B is not None
        assert warm.observation.latent_B.tolist() == kept.tolist()
        assert kept.tolist() == pytest.approx(cold.decision.latent_B)
        assert [o.decision_id for o in node.pool.outcomes] == [f"{first}/1", f"{second}/1"]
        assert all(outcome.completed for outcome in node.pool.outcomes)
        assert warm.observation.traffic is not None
        assert warm.observation.traffic.mean_work == pytest.approx(warm.observation.work)
        shown = node.metrics.render().decode()
        assert 'dedgeai_latent_reads_total{found="no"} 1.0' in shown
        assert 'dedgeai_latent_reads_total{found="yes"} 1.0' in shown

    run(node, story)


def test_a_failing_policy_is_logged_once_and_costs_no_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path, policy="lad_ts_plus")

    def fail(observation: object) -> None:
        raise RuntimeError("out of weights")

    monkeypatch.setattr(node.dispatcher._policy, "decide", fail)

    async def story() -> None:
        await node.start()
        for _ in range(2):
            record = await node.ended(await node.submit())
            assert (record.status.value, record.policy) == ("completed", "slow_server_aware")

    run(node, story)
    assert [d.decision.reason for d in node.pool.decisions] == ["error", "error"]
    assert len([r for r in caplog.records if "the policy failed" in r.message]) == 1
