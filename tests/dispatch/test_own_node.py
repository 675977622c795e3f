"""This node as its peers count on it, by values."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from edge_node.config import NodeConfig
from edge_node.dispatch.own_node import Identity
from edge_node.domain import (
    AttemptStarted,
    Fence,
    ModelFingerprint,
    NodeId,
    NodeState,
    ServedModel,
    TaskId,
    WorkerDescription,
    WorkerLoad,
)
from edge_node.tasks import hosting as hosted
from edge_node.tasks.hosting import Hosting, HostingLimits
from tests.dispatch.one_node import DEFAULTS, OFFLOAD, OWN, PEER
from tests.dispatch.parts import READY, HandClock, SetWorker, a_view, own_node, peer_state


def load(capacity: float) -> WorkerLoad:
    return WorkerLoad(
        backlog=0.0, queued=0, running=0, capacity=capacity, steps_done=0, resident_bytes=0
    )


def test_its_state_says_all_that_others_count_on() -> None:
    clock, worker, hosting = HandClock(), SetWorker(), Hosting(HostingLimits())
    view = a_view(clock)
    view.state_received(peer_state(), now_s=100.0)
    for number in (1, 2):
        offload = replace(OFFLOAD, task_id=TaskId(f"peer-{number}"), dispatch=number)
        hosting.handle(hosted.OffloadReceived(offload=offload))
    stranger = replace(OFFLOAD, task_id=TaskId("invented-1"), origin=NodeId("invented"), work=0.0)
    hosting.handle(hosted.OffloadReceived(offload=stranger))  # whom nobody told of
    hosting.handle(hosted.OffloadCancelled(task_id=stranger.task_id, fence=stranger.fence))
    started = hosted.DrawingReported(
        task_id=TaskId("peer-1"), fence=Fence(1, 1), report=AttemptStarted()
    )
    hosting.handle(started)
    clock.time_s = 107.0
    view.task_accepted(6.0, model="m", now_s=107.0)
    node = own_node(clock, worker, hosting=hosting, view=view)
    clock.time_s = 108.0
    assert node.state() == NodeState(
        node_id=OWN,
        incarnation=7,
        sequence=1,
        backlog=6.0,
        capacity=10.0,
        model="m",
        model_fingerprint=ModelFingerprint("f"),
        accepting=True,
        queued=1,
        running=1,
        clients=1,
        dispatches_seen={PEER: (1, 2)},
        rest_url="http://own",
        grpc_address="own:9080",
        device="orin",
        emulated_device="nano",
        accepted_work_s=view.accepted_work_s(now_s=108.0)["m"],
        changed_s=107.0,
        sent_s=108.0,
        sent_unix_s=5108.0,
        serves=(
            ServedModel(
                name="m",
                fingerprint=ModelFingerprint("f"),
                work_model=READY.work_model,
                size_px_min=READY.size_px_min,
                size_px_max=READY.size_px_max,
                size_px_multiple=READY.size_px_multiple,
                steps_max=READY.steps_max,
                steps_default=min(28, READY.steps_max),
                guidance_scale_default=5.0,
                guidance_scale_max=10.0,
                strength_default=0.6,
                prompt_chars_max=1000,
            ),
        ),
    )
    assert node.state().accepted_work_s > 0.0


def test_peers_hear_of_other_defaults_and_of_nothing_before_there_is_a_model() -> None:
    clock, worker = HandClock(), SetWorker()
    node = own_node(clock, worker)
    pushed: list[NodeState] = []
    node.tell_peers_by(lambda: pushed.append(node.state()))
    pushed.clear()
    node.reconfigure(DEFAULTS)
    assert pushed == []
    node.reconfigure(replace(DEFAULTS, steps_default=3, guidance_scale_default=2.0))
    ((served,),) = [state.serves for state in pushed]
    assert (served.steps_default, served.guidance_scale_default) == (3, 2.0)
    node.reconfigure(replace(DEFAULTS, steps_default=10_000))
    assert node.state().serves[0].steps_default == READY.steps_max
    loading = SetWorker()
    loading.description = WorkerDescription(state="loading")
    assert own_node(clock, loading).state().serves == ()


def test_a_change_is_numbered_seen_here_and_pushed() -> None:
    clock, worker = HandClock(), SetWorker()
    view = a_view(clock)
    node = own_node(clock, worker, view=view)
    pushed: list[int] = []
    # The view knows of a change before anyone else does.
    node.tell_peers_by(lambda: pushed.append(view.views(now_s=0.0)[0].state.sequence))
    assert pushed == [2]
    clock.time_s = 101.5
    node.changed()
    assert pushed == [2, 3]
    assert (node.state().sequence, node.state().changed_s) == (3, 101.5)


@pytest.mark.parametrize(
    ("capacity", "told"), [(10.0, 0), (10.2, 0), (9.8, 0), (10.21, 1), (9.79, 1)]
)
def test_a_pace_that_changes_by_more_than_two_per_cent_is_told(capacity: float, told: int) -> None:
    worker = SetWorker()
    node = own_node(HandClock(), worker)
    before = node.state().sequence
    worker.load = load(capacity)
    node.worker_changed()
    assert node.state().sequence == before + told
    assert node.capacity == capacity
    # Small changes add up: what was shown last counts.
    worker.load = load(capacity * 1.05)
    node.worker_changed()
    assert node.state().sequence == before + told + 1


def test_a_worker_that_comes_goes_or_serves_something_else_is_told() -> None:
    worker = SetWorker()
    worker.ready, worker.description = False, WorkerDescription(state="loading")
    node = own_node(HandClock(), worker)
    assert (node.state().sequence, node.state().model, node.accepting) == (0, "", False)
    assert node.state().changed_s == 0.0
    assert not node.worker_ready
    worker.description = None
    node.worker_changed()
    assert node.state().sequence == 0
    worker.ready, worker.description = True, READY
    node.worker_changed()
    assert (node.state().sequence, node.state().model, node.accepting) == (1, "m", True)
    assert node.worker_ready
    node.worker_changed()
    assert node.state().sequence == 1
    worker.description = replace(READY, model_fingerprint=ModelFingerprint("g"))
    node.worker_changed()
    assert (node.state().sequence, node.state().model_fingerprint) == (2, "g")
    # While it loads again, what it last served is known.
    worker.ready, worker.description = False, WorkerDescription(state="loading")
    node.worker_changed()
    assert (node.state().sequence, node.state().accepting, node.state().model) == (3, False, "m")


def test_a_worker_that_dropped_a_drawing_is_doubted_for_half_a_second() -> None:
    clock = HandClock()
    node = own_node(clock, SetWorker())
    node.doubt_worker()
    assert not node.accepting
    clock.time_s = 100.499
    assert not node.accepting
    clock.time_s = 100.5
    assert node.accepting


def test_a_node_whose_clock_has_just_begun_doubts_nobody() -> None:
    clock = HandClock()
    clock.time_s = 0.0
    assert own_node(clock, SetWorker()).accepting


def test_a_node_that_drains_takes_nothing_and_says_so() -> None:
    node = own_node(HandClock(), SetWorker())
    assert not node.draining
    before = node.state().sequence
    node.drain()
    assert node.draining
    assert (node.state().sequence, node.state().accepting) == (before + 1, False)


def test_a_look_brings_the_view_up_to_date_without_a_change() -> None:
    clock, worker = HandClock(), SetWorker()
    view = a_view(clock)
    node = own_node(clock, worker, view=view)
    worker.ready = False
    node.look()
    (own,) = view.views(now_s=clock.now_s())
    assert (own.state.accepting, own.state.sequence) == (False, 1)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_listener_on_all_interfaces_is_reached_by_the_machines_name(host: str) -> None:
    config = NodeConfig(
        node_id="own",
        rest_host=host,
        grpc_host=host,
        rest_port=81,
        grpc_port=82,
        allow_insecure_peering=True,
    )
    identity = Identity.of(config, incarnation=3, term=2)
    name = socket.getfqdn()
    assert (identity.rest_url, identity.grpc_address) == (f"http://{name}:81", f"{name}:82")
    assert (identity.incarnation, identity.term) == (3, 2)
    bound = config.model_copy(update={"rest_host": "10.0.0.7", "grpc_host": "10.0.0.8"})
    identity = Identity.of(bound, incarnation=3, term=2)
    assert identity.rest_url == "http://10.0.0.7:81"
    assert identity.grpc_address == "10.0.0.8:82"
