"""Messages of every kind with extremes in every field, and what they may not do.

`judge` takes one in as a node does, and raises AssertionError where something of it is left in a
view, a record or an answer that could not be worked with.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from dedgeai.v1 import node_pb2, worker_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from edge_node.api import cluster_events, schemas
from edge_node.api.cluster_object import node_object
from edge_node.api.task_lists import page_object
from edge_node.clock import Moment
from edge_node.domain import Drawing, Fence, NodeId, NodeState, Task, TaskId
from edge_node.errors import MalformedMessage
from edge_node.happenings import ClusterEvent
from edge_node.listing import ClusterPage, TaskFilter
from edge_node.peering import (
    event_codec,
    learning_codec,
    list_codec,
    message_rules,
    node_codec,
    rows_codec,
)
from edge_node.shared_rows import REFUSALS
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.hosting import Hosting, HostingLimits
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.lifecycle_limits import LifecycleLimits
from edge_node.tasks.row_lease import LEASE_S_MAX, RowLease

OWN, PEER = NodeId("own"), NodeId("peer")
DRAWING = Drawing(
    prompt="p", width_px=64, height_px=64, steps=4, guidance_scale=5.0, seed=1, model="m"
)
TASK = Task(
    id=TaskId("own-01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    job_id=None,
    drawing=DRAWING,
    work=4.0,
    input_bits=100,
    created_unix_s=1000.0,
    deadline_unix_s=2000.0,
)
# What a state, an attempt or an answer may leave behind, in bytes as it is sent on.
STATE_BYTES_MAX = 200_000
SHOWN_BYTES_MAX = 4 * 2**20

FLOATS = (math.nan, math.inf, -math.inf, -1.0, -0.0, 5e-324, 1e300, -1e300, 1e18, 0.5)
UINT64 = (0, 1, 2**31, 2**32, 2**53, 2**53 + 1, 2**63, 2**64 - 1)
INT32 = (0, -1, 1, 2**31 - 1, -(2**31))
TEXTS = ("", "\0", "x" * 10_000, "../../etc", "<script>", "nan", "é\u202e", "a" * 63, "own", "peer")
BYTES = (b"", b"\0", b"<html>", b"\x89PNG\r\n\x1a\n", bytes(3 * 2**20))


def _extremes(field: Any) -> tuple[Any, ...]:
    kinds = {
        FieldDescriptor.TYPE_DOUBLE: FLOATS,
        FieldDescriptor.TYPE_UINT64: UINT64,
        FieldDescriptor.TYPE_UINT32: tuple(n for n in UINT64 if n < 2**32),
        FieldDescriptor.TYPE_INT32: INT32,
        FieldDescriptor.TYPE_BOOL: (False, True),
        FieldDescriptor.TYPE_STRING: TEXTS,
        FieldDescriptor.TYPE_BYTES: BYTES,
    }
    return kinds[field.type]


def _bases() -> dict[str, Message]:
    """One message of each kind that enters a node, in order."""
    drawing = worker_pb2.Drawing(
        prompt="p", width_px=64, height_px=64, steps=4, guidance_scale=5.0, model="m"
    )
    drawing.image_format, drawing.strength = "png", 1.0
    served = node_pb2.ServedModel(name="m", fingerprint="f", steps_max=50)
    served.work_model.size_costs.add(width_px=64, height_px=64, rho=1.0)
    state = node_pb2.NodeState(node_id=PEER, incarnation=1, sequence=1, capacity=2.0, model="m")
    state.model_fingerprint, state.accepting = "f", True
    state.dispatches_seen.add(origin=OWN, dispatch=1, incarnation=1)
    state.serves.append(served)
    state.learning.policy = "lad_ts"
    state.learning.weights.generation = 3
    state.keys.version, state.keys.sha256 = 3, "ab" * 32
    state.key_use.add(client="ab12", day=20_000, images=1, open_tasks=1)
    offload = node_pb2.OffloadRequest(
        task_id="peer-01ARZ3NDEKTSV4RRFFQ69G5FAV", origin=PEER, dispatch=1, work=4.0
    )
    offload.drawing.CopyFrom(drawing)
    offload.fence.term, offload.fence.attempt = 1, 1
    reports = worker_pb2.DrawResponse
    checkpoint = worker_pb2.Checkpoint(
        drawing_sha256=DRAWING_TOLD.sha256, model_fingerprint="f", step=1, dtype="float16"
    )
    checkpoint.shape.extend((1, 2, 3))
    checkpoint.latent, checkpoint.velocity, checkpoint.change = bytes(12), bytes(12), 0.5
    resumed = node_pb2.OffloadRequest()
    resumed.CopyFrom(offload)
    resumed.checkpoint.CopyFrom(checkpoint)
    resumed.checkpoint_steps = 2
    image = worker_pb2.Image(content=b"png", format="png", width_px=64, height_px=64)
    view = node_pb2.TaskView(task_id=TASK.id, status="queued", durability="disk", origin=OWN)
    view.drawing.CopyFrom(drawing)
    listed = node_pb2.ListTasksResponse()
    listed.tasks.add(accepted_at=5.0).task.CopyFrom(view)
    listed.until.accepted_at, listed.until.task_id = 5.0, TASK.id
    asked = node_pb2.ListTasksRequest(count=2)
    asked.filter.statuses.append("queued")
    asked.filter.client = "ab12"
    asked.before.accepted_at, asked.before.task_id = 9.0, TASK.id
    event = node_pb2.WatchTaskResponse(sequence=1, kind="step", step=1, steps=4)
    happened = node_pb2.WatchEventsResponse(number=7, task_id=TASK.id, event=event)
    page = node_pb2.ReadExperienceResponse(last="1-1")
    page.entries.add(fields={"format": b"1"})
    told = node_pb2.OffloadResponse
    return {
        "state": state,
        "offload": offload,
        "resumed": resumed,
        "started": told(started=reports.Started(step=1)),
        "kept": told(step_finished=reports.StepFinished(step=1, steps=4, checkpoint=checkpoint)),
        "queued": told(queued=told.Queued(position=1)),
        "heartbeat": told(heartbeat=told.Heartbeat(queue_position=1)),
        "step": told(step_finished=reports.StepFinished(step=1, steps=4)),
        "finished": told(finished=reports.Finished(image=image, queue_s=0.5, compute_s=0.5)),
        "failed": told(failed=reports.Failed(code="seen", message="m", retryable=True)),
        "record": view,
        "event": event,
        "page": page,
        "asked": asked,
        "listed": listed,
        "happened": happened,
        **_rows(drawing),
        **_plain(view),
    }


def _rows(drawing: worker_pb2.Drawing) -> dict[str, Message]:
    """A row of a step that is asked for, and one that is given."""
    numbers = worker_pb2.Numbers(dtype="float16", shape=(1, 2, 3), content=bytes(12))
    wanted = node_pb2.ComputeRowRequest()
    wanted.wanted.drawing.CopyFrom(drawing)
    wanted.wanted.latent.CopyFrom(numbers)
    wanted.wanted.fence.term, wanted.wanted.fence.attempt = 1, 1
    wanted.wanted.pair_s, wanted.wanted.row_s, wanted.wanted.step = 1.0, 0.5, 1
    wanted.wanted.task_id, wanted.wanted.model_fingerprint = TASK.id, "f"
    wanted.wanted.leader = PEER
    given = node_pb2.ComputeRowResponse()
    given.given.velocity.CopyFrom(numbers)
    given.given.fence.CopyFrom(wanted.wanted.fence)
    given.given.task_id, given.given.took_s, given.given.refused = TASK.id, 0.5, "busy"
    given.given.drawing_sha256, given.given.step = "ab" * 32, 1
    return {"row wanted": wanted, "row given": given}


def _plain(view: node_pb2.TaskView) -> dict[str, Message]:
    """What is done as it says, and leaves nothing that could be shown: the rules say it all."""
    wanted = node_pb2.TaskFilter(statuses=["queued"], model="m", client="ab12")
    job = node_pb2.GetJobResponse(job_id="own-01ARZ3NDEKTSV4RRFFQ69G5FAV")
    job.tasks.add().CopyFrom(view)
    task = {"task_id": TASK.id}
    messages = (
        *(node_pb2.GetTaskRequest(**task), node_pb2.CancelTaskRequest(**task)),
        *(node_pb2.EraseTaskRequest(**task), node_pb2.FetchImageRequest(**task)),
        node_pb2.ForgetTaskRequest(init_image_sha256="ab" * 32, **task),
        node_pb2.ForgetTaskResponse(forgotten=True),
        node_pb2.WatchTaskRequest(after=3, **task),
        *(node_pb2.GetJobRequest(job_id=job.job_id), job),
        node_pb2.CancelTasksRequest(filter=wanted),
        node_pb2.CancelTasksResponse(cancelled=3),
        node_pb2.WatchEventsRequest(after=3, client="ab12"),
        node_pb2.FetchKeysResponse(signed_list=b"{}"),
    )
    return {f"plain {type(one).__name__}": one for one in messages}


# The drawing of the messages, as it is read.
DRAWING_TOLD = replace(DRAWING, seed=0)
BASES = _bases()


def _places(message: Message) -> Iterator[tuple[Message, Any]]:
    """Every field of a message and of those within that are set."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            yield message, field
        elif not field.message_type.GetOptions().map_entry:
            value = getattr(message, field.name)
            inner = value if field.is_repeated else [value] * message.HasField(field.name)
            for one in inner:
                yield from _places(one)


def messages(count: int, *, seed: int = 0) -> Iterator[tuple[str, Message]]:
    """First each extreme alone, then several at once; `count` of them."""
    yield from itertools.islice(itertools.chain(_single(), _several(seed)), count)


def _single() -> Iterator[tuple[str, Message]]:
    for kind, base in BASES.items():
        for place, (_, field) in enumerate(_places(base)):
            for value in _extremes(field):
                message = _copy(base)
                _set(message, place, value)
                yield kind, message


def _several(seed: int) -> Iterator[tuple[str, Message]]:
    rng = random.Random(seed)
    kinds = list(BASES)
    while True:
        kind = rng.choice(kinds)
        message = _copy(BASES[kind])
        places = list(_places(message))
        for place in rng.sample(range(len(places)), min(len(places), rng.randint(2, 4))):
            _set(message, place, rng.choice(_extremes(places[place][1])))
        if kind == "state" and rng.random() < 0.05:
            for number in range(3000):
                message.dispatches_seen.add(origin=f"n{number}")  # type: ignore[attr-defined]
        yield kind, message


def _copy(base: Message) -> Message:
    message = type(base)()
    message.CopyFrom(base)
    return message


def _set(message: Message, place: int, value: Any) -> None:
    holder, field = list(_places(message))[place]
    if field.is_repeated:
        # A latent has three sides; of texts one is enough.
        getattr(holder, field.name)[:] = [value] if isinstance(value, str) else [value, 2, 3]
    else:
        setattr(holder, field.name, value)


class Judge:
    """One node that takes in whatever comes, and is looked at after each."""

    def __init__(self) -> None:
        self.refused = self.taken = 0
        self._hosting = Hosting(HostingLimits())
        self._view = ClusterView(own_id=OWN, incarnation=1)
        self._now_s = 100.0
        self._hear(NodeState(node_id=OWN, incarnation=1, sequence=1, capacity=2.0, model="m"))

    def judge(self, kind: str, message: Message) -> None:
        """Raises AssertionError, or what a node would have failed with."""
        takes: dict[str, Callable[[Any], None]] = {
            "state": self._state,
            "offload": self._offload,
            "resumed": self._offload,
            "record": self._record,
            "event": self._event,
            "asked": lambda asked: _sane(list_codec.request_from_proto(asked)[2]),
            "listed": self._listed,
            "happened": self._happened,
            "row wanted": self._row_wanted,
            "row given": self._row_given,
            "page": lambda page: _sane(learning_codec.page_from_proto(page).read_unix_s),
        }
        takes |= dict.fromkeys((name for name in BASES if name.startswith("plain ")), _ruled)
        try:
            takes.get(kind, self._report)(message)
        except MalformedMessage as error:
            self.refused += 1
            refusal = error.message
        else:
            self.taken += 1
            refusal = ""
        assert len(refusal) < 500, "an attacker writes the log"

    def _hear(self, state: NodeState) -> None:
        self._now_s += 0.01
        self._view.state_received(state, now_s=self._now_s)

    def _state(self, message: node_pb2.NodeState) -> None:
        state = node_codec.state_from_proto(message)
        self._view.forget(state.node_id)
        self._hear(state)
        now_s = self._now_s
        _sane(*self._view.backlog_and_capacity("m", now_s=now_s))
        _sane(*self._view.clocks(now_s=now_s, wall_s=now_s).values())
        seen = self._view.observation(TASK, avoided=frozenset(), now_s=now_s)
        if seen is not None:
            assert seen.traffic is not None
            traffic = seen.traffic
            _sane(traffic.load, traffic.mean_work, traffic.report_period_s)
            columns = (seen.backlog_B, seen.capacity_B, seen.link_s_B, seen.staleness_s_B)
            _sane(*itertools.chain.from_iterable(column.tolist() for column in columns))
        _shown(node_object(state))
        if state.node_id != OWN:
            self._view.forget(state.node_id)

    def _offload(self, message: node_pb2.OffloadRequest) -> None:
        offload = node_codec.offload_from_proto(message)
        told = self._hosting.handle(hosted.OffloadReceived(offload=offload))
        _sane(self._hosting.backlog)
        state = NodeState(
            node_id=OWN,
            incarnation=1,
            sequence=1,
            backlog=self._hosting.backlog,
            dispatches_seen=self._hosting.dispatches_seen,
        )
        sent = node_codec.state_to_proto(state)
        assert sent.ByteSize() < STATE_BYTES_MAX, "every state carries what strangers said"
        assert node_codec.state_from_proto(sent), "the other nodes refuse this node's state"
        ended = hosted.OffloadCancelled(task_id=offload.task_id, fence=offload.fence)
        self._hosting.handle(ended)
        self._hosting.validate()
        assert told

    def _row_wanted(self, message: node_pb2.ComputeRowRequest) -> None:
        message_rules.check(message)
        wanted = rows_codec.wanted_from_proto(message.wanted)
        _sane(wanted.pair_s, wanted.row_s)
        assert not wanted.latents.what_is_wrong()
        lease = RowLease()
        lease.ask(wanted.leader, idle=True, pair_s=wanted.pair_s, now_s=0.0)
        assert lease.holder(now_s=LEASE_S_MAX) is None, "a stranger keeps a device"

    def _row_given(self, message: node_pb2.ComputeRowResponse) -> None:
        message_rules.check(message)
        given = rows_codec.given_from_proto(message.given)
        _sane(given.took_s)
        assert given.refused in ("", *REFUSALS), "strangers name what is counted"
        assert (given.velocity is None) == bool(given.refused)

    def _report(self, message: node_pb2.OffloadResponse) -> None:
        report = node_codec.report_from_proto(message)
        if report is None:
            return
        machine = Lifecycle(LifecycleLimits(), term=1)
        at = Moment(now_s=0.0, unix_s=1000.0)
        machine.handle(life.TasksSubmitted(tasks=(TASK,)), at)
        machine.handle(life.TasksAppended(task_ids=(TASK.id,)), at)
        placed = life.PlacementMade(
            task_id=TASK.id,
            fence=Fence(1, 1),
            executor=PEER,
            incarnation=1,
            dispatch=1,
            policy="local",
            eta_s=1.0,
        )
        machine.handle(placed, at)
        event = life.AttemptReported(
            task_id=TASK.id, fence=Fence(1, 1), executor=PEER, report=report
        )
        machine.handle(event, at)
        machine.validate()
        record = machine.record(TASK.id)
        assert record is not None
        _shown(schemas.task_object(record))
        for told in machine.events(TASK.id) or []:
            _shown(schemas.task_event(told))

    def _record(self, message: node_pb2.TaskView) -> None:
        _shown(schemas.task_object(node_codec.record_from_proto(message)))

    def _listed(self, message: node_pb2.ListTasksResponse) -> None:
        page = list_codec.page_from_proto(
            message, wanted=TaskFilter(), before=None, count=2, of=OWN
        )
        _sane(*(one.place.unix_s for one in page.listed))
        _shown(page_object(ClusterPage(page=page), prefix=""))

    def _happened(self, message: node_pb2.WatchEventsResponse) -> None:
        happened = event_codec.happened_from_proto(message, client="", of=OWN)
        told = cluster_events._one(ClusterEvent(node_id=OWN, what=happened), {})
        assert len(told) < SHOWN_BYTES_MAX

    def _event(self, message: node_pb2.WatchTaskResponse) -> None:
        _shown(schemas.task_event(node_codec.event_from_proto(message)))


def _ruled(message: Message) -> None:
    """By the rules alone; what they let pass has no number that is none."""
    message_rules.check(message)
    for holder, field in _places(message):
        if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE and not field.is_repeated:
            _sane(getattr(holder, field.name))


def _sane(*numbers: float) -> None:
    assert all(math.isfinite(number) for number in numbers), numbers


def _shown(document: object) -> None:
    """As it is shown to clients: JSON has no NaN, and readers take 53 bits of an integer."""
    said = json.dumps(document, allow_nan=False)
    assert len(said) < SHOWN_BYTES_MAX
