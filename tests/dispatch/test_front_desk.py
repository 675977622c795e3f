"""What clients of any node are told: bounds, forwarding, the cluster, readiness, by values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_node.dispatch import front_desk
from edge_node.dispatch.dead_letters import DeadLetterDesk
from edge_node.dispatch.front_desk import FrontDesk, FrontDeskSettings
from edge_node.domain import JobId, NodeId, TaskId, TaskRecord, TaskStatus, WorkerDescription
from edge_node.errors import (
    DEdgeAIError,
    InvalidRequest,
    NodeAlive,
    NodeNotFound,
    NodeNotReady,
    OriginUnavailable,
    StoreUnavailable,
    TaskNotFound,
)
from edge_node.requests import DrawingLimits, Idempotency
from edge_node.snapshot import PeerView
from tests.dispatch.one_node import OWN, PEER, PNG, run
from tests.dispatch.parts import READY, SetPeers, peer_state, text
from tests.dispatch.test_own_tasks import TASK, Origin

SETTINGS = FrontDeskSettings(
    node_id=OWN,
    policy_name="local",
    images_per_request_max=3,
    deadline_s_max=900.0,
)
THEIRS = TaskId("peer-1")


class Desk:
    """A front desk of a node beside PEER."""

    def __init__(self, folder: Path) -> None:
        self.node = Origin(folder)
        self.worker: Any = self.node.own_device
        self.peers = SetPeers()
        peers: Any = self.peers
        stores: Any = self.node.stores
        self.desk = FrontDesk(
            SETTINGS,
            dispatcher=self.node.dispatcher,
            view=self.node.view,
            peers=peers,
            worker=self.worker,
            ledger=stores,
            dead_letters=DeadLetterDesk(
                stores,
                own_tasks=self.node.dispatcher.own_tasks,
                init_images=self.node.dispatcher.own_tasks._init_images,
            ),
            clock=self.node.clock,
        )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_bounds_are_of_the_worker_and_of_the_operator(desk: Desk) -> None:
    with pytest.raises(NodeNotReady) as refused:
        desk.desk.limits()
    assert refused.value.retry_after_s == 2.0
    desk.node.dispatcher.own_node.worker_changed()
    assert desk.desk.limits() == DrawingLimits(
        model="m",
        fingerprint="f",
        size_px_min=32,
        size_px_max=128,
        size_px_multiple=16,
        size_px_default=64,
        steps_max=20,
        steps_default=20,
        guidance_scale_max=10.0,
        guidance_scale_default=5.0,
        strength_default=0.6,
        prompt_chars_max=1000,
        images_per_request_max=3,
        deadline_s_max=900.0,
    )
    desk.desk.reconfigure(replace(SETTINGS, images_per_request_max=2))
    settings = desk.node.settings
    desk.node.dispatcher.reconfigure(
        replace(settings, drawing=replace(settings.drawing, steps_default=4))
    )
    limits = desk.desk.limits()
    assert (limits.images_per_request_max, limits.steps_default) == (2, 4)


def test_a_request_is_handed_on_whole(desk: Desk) -> None:
    async def story() -> None:
        await desk.node.start()
        desk.node.own_device.held = True
        key = Idempotency(key="k", request_digest="d")
        submission = await desk.desk.submit(
            [text()], durable=True, deadline_s=30.0, priority=4, idempotency=key
        )
        (record,) = submission.records
        assert (record.task.priority, record.task.deadline_unix_s) == (4, 5130.0)
        assert desk.node.stores.appended == [((record.task,), None, key)]
        await desk.desk.client_gone([record.task.id])
        await desk.node.until(record.task.id, TaskStatus.CANCELLED)
        first = replace(text(), init_image_sha256="no such digest")
        with pytest.raises(Exception, match="init image"):
            await desk.desk.submit([first], durable=True, init_image=PNG)
        submission = await desk.desk.submit([text()], durable=False)
        assert submission.records[0].task.deadline_unix_s == 5200.0

    run(desk.node, story)


class Answers(SetPeers):
    """A peer that answers for its tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    async def read_task(self, task_id: TaskId) -> str:
        return f"task {task_id}"

    async def read_job(self, job_id: JobId) -> str:
        return f"job {job_id}"

    async def cancel_task(self, task_id: TaskId) -> str:
        return f"cancelled {task_id}"

    async def fetch_image(self, task_id: TaskId) -> str:
        return f"image of {task_id}"

    async def watch_task(self, task_id: TaskId, *, after: int) -> AsyncGenerator[str, None]:
        try:
            yield f"{task_id} after {after}"
            await asyncio.sleep(60)
        finally:
            self.asked.append("closed")


def test_what_another_node_owns_is_asked_of_it(desk: Desk) -> None:
    peers = Answers()
    desk.desk._peers = peers

    async def story() -> None:
        told: list[Any] = [
            await desk.desk.read_task(THEIRS),
            await desk.desk.read_job(JobId(THEIRS)),
            await desk.desk.cancel_task(THEIRS),
            await desk.desk.read_image(THEIRS),
        ]
        assert told == [
            *("task peer-1", "job peer-1", "cancelled peer-1", "image of peer-1"),
        ]
        events = desk.desk.watch_task(THEIRS, after=7)
        seen: Any = await anext(events)
        assert seen == "peer-1 after 7"
        await events.aclose()
        assert peers.asked == ["closed"]

    run(desk.node, story)


def test_what_this_node_owns_is_answered_here(desk: Desk) -> None:
    done = TaskRecord(task=TASK, status=TaskStatus.COMPLETED, finished_unix_s=1.0)
    desk.node.stores.records[TASK.id] = done
    desk.node.stores.jobs[JobId("own-8")] = (TASK.id,)

    async def story() -> None:
        assert await desk.desk.read_task(TASK.id) is done
        assert await desk.desk.read_job(JobId("own-8")) == (done,)
        assert await desk.desk.cancel_task(TASK.id) is done
        assert [e.kind.value async for e in desk.desk.watch_task(TASK.id)] == ["finished"]
        desk.node.images.kept[TASK.id] = b"drawn"
        assert await desk.desk.read_image(TASK.id) == (b"drawn", "image/png")

    run(desk.node, story)


def refusal(desk: Desk, task_id: str) -> DEdgeAIError:
    with pytest.raises((OriginUnavailable, TaskNotFound)) as refused:
        asyncio.run(desk.desk.read_task(TaskId(task_id)))
    return refused.value


def test_a_task_of_a_node_that_was_not_met_yet_may_be_asked_for_again_soon(desk: Desk) -> None:
    desk.node.clock.time_s = 101.99
    early = refusal(desk, "other-1")
    assert isinstance(early, OriginUnavailable)
    assert early.retry_after_s == 2.0
    desk.node.clock.time_s = 102.0
    assert isinstance(refusal(desk, "other-1"), TaskNotFound)
    # As long as somebody was never met, it may be that one's.
    desk.peers.addresses["10.0.0.3:9080"] = None
    late = refusal(desk, "other-1")
    assert (type(late), getattr(late, "retry_after_s", None)) == (OriginUnavailable, 2.0)


def test_a_task_of_a_node_that_left_may_be_asked_for_when_it_is_back(desk: Desk) -> None:
    desk.node.clock.time_s = 110.0
    desk.peers.away.add(NodeId("other"))
    gone = refusal(desk, "other-1")
    assert isinstance(gone, OriginUnavailable)
    assert gone.retry_after_s == 30.0
    assert "other" in gone.message


def test_a_task_of_a_removed_node_is_gone_though_it_left_or_others_were_never_met(
    desk: Desk,
) -> None:
    desk.node.clock.time_s = 110.0
    desk.peers.addresses["10.0.0.3:9080"] = None
    desk.peers.away.add(NodeId("other"))
    asyncio.run(desk.desk.remove(NodeId("other")))
    gone = refusal(desk, "other-1")
    assert isinstance(gone, TaskNotFound)
    assert "an operator removed" in gone.message
    assert [one.node_id for one in desk.desk.cluster().removed] == ["other"]
    asyncio.run(desk.desk.readmit(NodeId("other")))
    assert isinstance(refusal(desk, "other-1"), OriginUnavailable)
    assert desk.desk.cluster().removed == ()


def test_only_a_node_that_was_met_and_is_silent_is_removed(desk: Desk) -> None:
    async def story() -> None:
        await desk.node.start()
        with pytest.raises(InvalidRequest, match="is this node"):
            await desk.desk.remove(OWN)
        with pytest.raises(NodeAlive, match="Drain it, stop it"):
            await desk.desk.remove(PEER)
        with pytest.raises(NodeNotFound):
            await desk.desk.remove(NodeId("nobody"))
        with pytest.raises(NodeNotFound):
            await desk.desk.readmit(PEER)
        # Its word would reach nobody, and its own note would be gone.
        with pytest.raises(InvalidRequest, match="do not hear"):
            await desk.desk.readmit(OWN)
        desk.node.clock.time_s += 1e3
        await desk.desk.remove(PEER)
        assert desk.peers.removal_of(PEER) is not None
        await desk.desk.remove(PEER)  # as often as it is asked for
        # So it is told to the node itself, should it be back.
        desk.peers.remove(OWN, removed=True)
        assert any("removed from the cluster" in note for note in desk.desk.notes())

    asyncio.run(story())


def test_a_removal_that_cannot_be_written_down_is_not_promised(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(front_desk, "KEPT_S_MAX", 0.05)
    monkeypatch.setattr(desk.desk, "_removals_kept", never)
    desk.peers.away.add(NodeId("other"))
    with pytest.raises(StoreUnavailable, match="cannot write it down"):
        asyncio.run(desk.desk.remove(NodeId("other")))


def test_the_cluster_is_told_as_this_node_sees_it(desk: Desk) -> None:
    async def story() -> None:
        await desk.node.start()
        desk.node.own_device.held = True
        await desk.node.submit(text(), b"")
        desk.peers.addresses["10.0.0.3:9080"] = None
        desk.peers.addresses["10.0.0.4:9080"] = NodeId("unheard")
        desk.node.view.round_trip_measured(PEER, 0.5)
        desk.node.clock.time_s += 1.0
        seen = desk.desk.cluster()
        assert (seen.node_id, seen.policy, seen.tasks_in_flight) == (OWN, "local", 1)
        assert seen.own == desk.node.dispatcher.own_node.state()
        assert seen.guard is None
        (view,) = [v for v in desk.node.view.views(now_s=101.0) if v.state.node_id == PEER]
        known = PeerView(
            address="10.0.0.2:9080",
            state=view.state,
            alive=True,
            staleness_s=view.staleness_s,
            link_s=0.5,
        )
        unknown = [
            PeerView(address=address, state=None, alive=False, staleness_s=0.0, link_s=0.0)
            for address in ("10.0.0.3:9080", "10.0.0.4:9080")
        ]
        assert seen.peers == (known, *unknown)
        assert known.staleness_s > 0.0
        desk.node.clock.time_s += 9.0
        assert not desk.desk.cluster().peers[0].alive
        assert desk.desk.models() == ("m",)

    run(desk.node, story)


def test_models_are_those_that_a_live_node_serves(desk: Desk) -> None:
    desk.node.view.state_received(peer_state(model="other"), now_s=100.0)
    desk.node.dispatcher.own_node.worker_changed()
    assert desk.desk.models() == ("m", "other")
    desk.node.clock.time_s = 103.0
    assert desk.desk.models() == ("m",)


def test_clocks_that_differ_are_noted_and_shown_and_keep_no_request_away(desk: Desk) -> None:
    now_s, wall_s = desk.node.clock.now_s(), desk.node.clock.wall_s()
    for sequence, ahead_s in ((1, 1.9), (2, 61.0), (3, -90.0)):
        said = replace(peer_state(), sequence=sequence, sent_s=77.0, sent_unix_s=wall_s + ahead_s)
        desk.node.view.state_received(said, now_s=now_s)
        (peer, *_) = [peer for peer in desk.desk.cluster().peers if peer.state is not None]
        assert peer.clock_ahead_s == pytest.approx(ahead_s)
        name, size = peer_state().node_id, f"{abs(ahead_s):.0f} s"
        where = "ahead of" if ahead_s > 0 else "behind"
        noted = (f"the clock of {name} is {size} {where} this node's",)
        assert desk.desk.notes() == (noted if abs(ahead_s) > 2.0 else ())
        assert desk.desk.readiness() == ()


def test_readiness_names_every_reason(desk: Desk) -> None:
    assert desk.desk.readiness() == ()
    desk.node.stores.available = False
    desk.worker.ready = False
    assert desk.desk.readiness() == ("the worker is ready", "the store is away")
    desk.worker.description = WorkerDescription(state="warming_up")
    assert desk.desk.readiness()[0] == "the worker is warming up"
    desk.worker.description = None
    assert desk.desk.readiness()[0] == "the worker is starting"
    desk.worker.description = WorkerDescription(state="failed", detail="no memory")
    desk.node.dispatcher.own_node.drain()
    assert desk.desk.readiness() == (
        *("the node is draining", "the worker failed: no memory", "the store is away"),
    )
    desk.worker.ready = True
    assert "the worker failed: no memory" in desk.desk.readiness()
    desk.worker.description = READY
    assert desk.desk.readiness() == ("the node is draining", "the store is away")


def test_a_gateway_is_ready_while_a_node_that_draws_is_heard(desk: Desk) -> None:
    desk.worker.ready, desk.worker.description = False, WorkerDescription(state="none")
    assert desk.desk.readiness() == ("no node that draws is heard",)
    desk.node.view.state_received(peer_state(model="other"), now_s=100.0)
    assert desk.desk.readiness() == ()
    desk.node.clock.time_s = 103.0
    assert desk.desk.readiness() == ("no node that draws is heard",)


def test_a_model_that_cannot_be_served_is_told_with_its_reason(desk: Desk) -> None:
    detail = "/m is under the Stability AI Community License"
    desk.worker.description = WorkerDescription(state="failed", detail=detail)
    with pytest.raises(NodeNotReady, match="until its operator has mended it: /m is under") as told:
        desk.desk.limits()
    assert told.value.retry_after_s == 60.0


def test_a_task_of_a_silent_node_is_answered_at_once_with_what_is_known(desk: Desk) -> None:
    clock = desk.node.clock
    desk.node.view.state_received(peer_state(), now_s=clock.now_s())
    desk.peers.answers["read_task"] = "theirs"
    clock.time_s += 2.0
    assert desk.desk._owner(THEIRS) is not None
    clock.time_s += 40.0
    with pytest.raises(OriginUnavailable, match="node peer, which has not been heard for 42 s"):
        desk.desk._owner(THEIRS)
    desk.node.view.state_received(peer_state(sequence=2), now_s=clock.now_s())
    assert desk.desk._owner(THEIRS) is not None
