"""Calls to one peer: domain types in, domain types out, transport failures as our errors.

Owns the channel. It retries nothing: whoever asked decides what a failure means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from dedgeai.v1 import node_pb2, node_pb2_grpc

from edge_node import trace_context
from edge_node.clock import SystemClock
from edge_node.domain import (
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
from edge_node.errors import DEdgeAIError, MalformedMessage, NotTheCaller, OriginUnavailable
from edge_node.experience_page import ExperiencePage
from edge_node.happenings import Happened
from edge_node.image_header import image_header
from edge_node.learned_weights import LearnedWeights
from edge_node.listing import Place, TaskFilter, TaskPage
from edge_node.moves import WantedTask
from edge_node.peering import (
    codec,
    event_codec,
    learning_codec,
    list_codec,
    message_rules,
    moves_codec,
    node_codec,
    rows_codec,
)
from edge_node.peering.caller import PeerConduct, who_is_at
from edge_node.peering.status import error_of
from edge_node.peering.tls import ANY_NODE, Material, NodeTls, server_name
from edge_node.peering.tls import channel as tls_channel
from edge_node.requests import NodeAction
from edge_node.shared_rows import RowGiven, RowWanted

if TYPE_CHECKING:
    from dedgeai.v1.node_pb2_grpc import NodeServiceAsyncStub as Stub

# Both sides of every link: notice a dead machine in 13 s where no heartbeat runs; docs/wire.md.
KEEPALIVE_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)
OPTIONS: list[tuple[str, object]] = [
    *KEEPALIVE_OPTIONS,
    ("grpc.max_receive_message_length", codec.MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A proxy set for the outside world is not for the LAN.
    ("grpc.enable_http_proxy", 0),
]
CALL_S_MAX = 5.0


class _Line:
    """One channel, who proved to be at its end, with what, and the calls under way."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        node_id: NodeId | None = None,
        material: Material | None = None,
    ) -> None:
        self.channel = channel
        self.stub: Stub = node_pb2_grpc.NodeServiceStub(channel)
        self.node_id = node_id
        self.material = material
        self.calls = 0


class PeerClient:
    """The node listening at `address` (host:port).

    What it says is checked where it enters; `conduct` hears of what it may not say, and says when
    nothing is to be asked of it. With `tls`, whoever listens there has to prove which node he is
    before anything else is asked, and every later call is to him.
    """

    def __init__(
        self, address: str, *, conduct: PeerConduct | None = None, tls: NodeTls | None = None
    ) -> None:
        self.address = address
        self._conduct = conduct or PeerConduct(SystemClock())
        self._tls = tls
        self._line: _Line | None = None
        self._closed = False
        self._proving = asyncio.Lock()

    async def close(self) -> None:
        """Ends every call and the connection."""
        self._closed = True
        if self._line is not None:
            await self._line.channel.close(None)

    @property
    def proven_id(self) -> NodeId | None:
        """Who listens there by his certificate; None without TLS, and before he has shown it."""
        return None if self._line is None else self._line.node_id

    async def ping(self) -> None:
        """One small round trip."""
        request = node_pb2.NodeServiceDescribeRequest()
        async with self._heard("Describe") as stub:
            await stub.Describe(request, timeout=2.0)

    async def exchange_state(
        self, own_states: AsyncIterator[NodeState]
    ) -> AsyncGenerator[NodeState, None]:
        """Sends every state of `own_states`; yields those of the peer until the link breaks.

        Raises:
            OriginUnavailable: when it does.
        """

        async def requests() -> AsyncIterator[node_pb2.ExchangeStateRequest]:
            async for state in own_states:
                yield node_pb2.ExchangeStateRequest(state=node_codec.state_to_proto(state))

        async with self._heard("ExchangeState") as stub:
            call = stub.ExchangeState(requests())
            try:
                async for response in call:
                    state = node_codec.state_from_proto(response.state)
                    if self.proven_id not in (None, state.node_id):
                        raise NotTheCaller(f"It is {self.proven_id}, and spoke as {state.node_id}.")
                    yield state
            finally:
                call.cancel()

    async def offload(
        self, offload: Offload, *, init_image: bytes = b""
    ) -> AsyncGenerator[AttemptReport, None]:
        """Places an attempt at the peer and yields what it reports, to the end.

        Closing the iterator early cancels the attempt there.

        Raises:
            OriginUnavailable: the link broke; the attempt's fate is unknown.
        """
        # No deadline on the call itself: the lease decides, and it is renewed by reports.
        async with self._heard("Offload") as stub:
            call = stub.Offload(
                node_codec.offload_to_proto(offload, init_image=init_image),
                metadata=trace_context.current.get().carrier or None,
            )
            del init_image  # the call keeps its request to its end: one copy is enough
            try:
                async for response in call:
                    report = node_codec.report_from_proto(response)
                    if report is not None:
                        node_codec.check_as_asked(report, offload.drawing)
                        yield report
            finally:
                call.cancel()

    async def cancel_offload(self, task_id: TaskId, fence: Fence) -> None:
        """Ends an attempt at the peer, also when its stream is gone."""
        request = node_pb2.CancelOffloadRequest(
            task_id=task_id, attempt=fence.integer, fence=codec.fence_to_proto(fence)
        )
        async with self._heard("CancelOffload") as stub:
            await stub.CancelOffload(request, timeout=CALL_S_MAX)

    async def hand_over(self, task_id: TaskId, fence: Fence) -> None:
        """Has the peer end an attempt after the step under way, to go on elsewhere."""
        request = node_pb2.HandOverRequest(task_id=task_id, fence=codec.fence_to_proto(fence))
        async with self._heard("HandOver") as stub:
            await stub.HandOver(request, timeout=CALL_S_MAX)

    async def compute_row(self, wanted: RowWanted, *, timeout_s: float) -> RowGiven:
        """Has the peer compute a row of a step that is drawn here; it may refuse."""
        request = node_pb2.ComputeRowRequest(wanted=rows_codec.wanted_to_proto(wanted))
        async with self._heard("ComputeRow") as stub:
            answer = await stub.ComputeRow(request, timeout=timeout_s)
            message_rules.check(answer)
            return rows_codec.given_from_proto(answer.given)

    async def take_task(self, wanted: WantedTask) -> bool:
        """Asks the peer for a task of its own, to go on with it here; whether it comes."""
        request = moves_codec.wanted_to_proto(wanted)
        async with self._heard("TakeTask") as stub:
            response = await stub.TakeTask(request, timeout=CALL_S_MAX)
            message_rules.check(response)
            return response.granted

    async def read_task(self, task_id: TaskId) -> TaskRecord:
        """The task as its origin shows it."""
        request = node_pb2.GetTaskRequest(task_id=task_id)
        async with self._heard("GetTask") as stub:
            response = await stub.GetTask(request, timeout=CALL_S_MAX)
            return _record_of(response.task, task_id)

    async def read_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        """The tasks of a job as their origin shows them."""
        request = node_pb2.GetJobRequest(job_id=job_id)
        async with self._heard("GetJob") as stub:
            response = await stub.GetJob(request, timeout=CALL_S_MAX)
            message_rules.check(response)
            return tuple(_record_of(task, job_id) for task in response.tasks)

    async def list_tasks(
        self, wanted: TaskFilter, *, before: Place | None, count: int, owner: NodeId
    ) -> TaskPage:
        """Tasks of the peer, which is `owner`, newest first."""
        request = list_codec.request_to_proto(wanted, before=before, count=count)
        async with self._heard("ListTasks") as stub:
            response = await stub.ListTasks(request, timeout=CALL_S_MAX)
            return list_codec.page_from_proto(
                response, wanted=wanted, before=before, count=count, of=owner
            )

    async def cancel_tasks(self, wanted: TaskFilter) -> int:
        """Cancels what is open and wanted of the peer; how many tasks that were."""
        request = node_pb2.CancelTasksRequest(filter=list_codec.filter_to_proto(wanted))
        async with self._heard("CancelTasks") as stub:
            response = await stub.CancelTasks(request, timeout=4 * CALL_S_MAX)
            message_rules.check(response)
            return response.cancelled

    async def operate(self, action: NodeAction) -> None:
        """Has the peer do what an operator says."""
        async with self._heard("Operate") as stub:
            await stub.Operate(node_pb2.OperateRequest(action=action), timeout=CALL_S_MAX)

    async def cancel_task(self, task_id: TaskId) -> TaskRecord:
        """Cancels a task at its origin."""
        request = node_pb2.CancelTaskRequest(task_id=task_id)
        async with self._heard("CancelTask") as stub:
            response = await stub.CancelTask(request, timeout=CALL_S_MAX)
            return _record_of(response.task, task_id)

    async def erase_task(self, task_id: TaskId) -> None:
        """Erases a task at its origin."""
        request = node_pb2.EraseTaskRequest(task_id=task_id)
        async with self._heard("EraseTask") as stub:
            await stub.EraseTask(request, timeout=4 * CALL_S_MAX)

    async def forget_task(self, task_id: TaskId, *, init_image_sha256: str) -> bool:
        """Has the peer forget what it drew an own task from; whether nothing is left there."""
        request = node_pb2.ForgetTaskRequest(task_id=task_id, init_image_sha256=init_image_sha256)
        async with self._heard("ForgetTask") as stub:
            answer = await stub.ForgetTask(request, timeout=CALL_S_MAX)
            message_rules.check(answer)
            return answer.forgotten

    async def watch_task(self, task_id: TaskId, *, after: int) -> AsyncGenerator[TaskEvent, None]:
        """Events of a task at its origin, to the final one."""
        async with self._heard("WatchTask") as stub:
            call = stub.WatchTask(node_pb2.WatchTaskRequest(task_id=task_id, after=after))
            try:
                async for response in call:
                    event = node_codec.event_from_proto(response)
                    if event.sequence <= after:
                        raise MalformedMessage(f"Event {event.sequence} came after {after}.")
                    after = event.sequence
                    yield event
            finally:
                call.cancel()

    async def watch_events(
        self, *, after: int | None, client: str, previews: bool, owner: NodeId
    ) -> AsyncGenerator[Happened, None]:
        """What happens to tasks of the peer, which is `owner`, for as long as it is read."""
        request = node_pb2.WatchEventsRequest(after=after, client=client, previews=previews)
        async with self._heard("WatchEvents") as stub:
            call = stub.WatchEvents(request)
            try:
                async for response in call:
                    yield event_codec.happened_from_proto(response, client=client, of=owner)
            finally:
                call.cancel()

    async def fetch_image(self, task_id: TaskId) -> tuple[bytes, str]:
        """The image of a task at its origin, with the media type that its bytes have.

        Raises:
            MalformedMessage: it is none, or too large.
        """
        content = bytearray()
        request = node_pb2.FetchImageRequest(task_id=task_id)
        async with self._heard("FetchImage") as stub:
            call = stub.FetchImage(request, timeout=4 * CALL_S_MAX)
            try:
                async for response in call:
                    message_rules.check(response)
                    content += response.chunk
                    if len(content) > codec.MESSAGE_BYTES_MAX:
                        raise MalformedMessage(f"The image of {task_id} does not end.")
            finally:
                call.cancel()
            header = image_header(bytes(content[: node_codec.HEADER_BYTES]))
            if header is None:
                raise MalformedMessage(f"What came as the image of {task_id} is none.")
            return bytes(content), f"image/{header.format}"

    async def read_experience(
        self, after: str, *, entries_max: int
    ) -> AsyncGenerator[ExperiencePage, None]:
        """The peer's pool from a cursor on, in pages."""
        request = node_pb2.ReadExperienceRequest(after=after, entries_max=entries_max)
        async with self._heard("ReadExperience") as stub:
            call = stub.ReadExperience(request, timeout=4 * CALL_S_MAX)
            count = 0
            try:
                async for response in call:
                    page = learning_codec.page_from_proto(response)
                    count += len(page.entries)
                    if count > entries_max:
                        raise MalformedMessage(f"More than {entries_max} entries came.")
                    yield page
            finally:
                call.cancel()

    async def fetch_weights(self, sha256: str, *, bytes_max: int) -> tuple[LearnedWeights, bytes]:
        """Learned weights that the peer holds; any if `sha256` is empty.

        Raises:
            WeightsGone: it does not hold these.
            InvalidRequest: there are more than `bytes_max`.
        """
        request = node_pb2.FetchWeightsRequest(sha256=sha256)
        async with self._heard("FetchWeights") as stub:
            call = stub.FetchWeights(request, timeout=4 * CALL_S_MAX)
            try:
                return await learning_codec.gathered(call, bytes_max=bytes_max)
            finally:
                call.cancel()

    async def offer_weights(self, weights: LearnedWeights, content: bytes) -> None:
        """Brings weights to the peer; raises InvalidRequest with its reason if it refuses them."""

        async def requests() -> AsyncIterator[node_pb2.OfferWeightsRequest]:
            yield node_pb2.OfferWeightsRequest(weights=learning_codec.weights_to_proto(weights))
            for chunk in learning_codec.chunks(content):
                yield node_pb2.OfferWeightsRequest(chunk=chunk)

        async with self._heard("OfferWeights") as stub:
            await stub.OfferWeights(requests(), timeout=4 * CALL_S_MAX)

    async def offer_verdict(self, form: str, verdict: bytes) -> None:
        """Brings a replay of the peer's own decisions; raises InvalidRequest if it is refused."""
        request = node_pb2.OfferVerdictRequest(format=form, verdict=verdict)
        async with self._heard("OfferVerdict") as stub:
            await stub.OfferVerdict(request, timeout=CALL_S_MAX)

    async def fetch_keys(self) -> bytes:
        """The signed list of API keys that the peer holds, not looked into; empty without one."""
        async with self._heard("FetchKeys") as stub:
            response = await stub.FetchKeys(node_pb2.FetchKeysRequest(), timeout=CALL_S_MAX)
            message_rules.check(response)
            return response.signed_list

    @asynccontextmanager
    async def _heard(self, rpc: str) -> AsyncIterator[Stub]:
        """A call whose failures are ours; one that breaks a rule is told of.

        Raises:
            SetAside: nothing is asked of this node at present.
        """
        self._conduct.refuse_aside(self._who)
        line = None
        try:
            line = await self._reached()
            line.calls += 1
            self._conduct.refuse_aside(self._who)
            yield line.stub
        except grpc.aio.AioRpcError as error:
            ours = error_of(error)
            if ours is None and error.code() is grpc.StatusCode.UNAVAILABLE:
                self._give_up(line)  # another node may listen there now
            raise ours or self._away(error) from None
        except (MalformedMessage, NotTheCaller) as error:
            self._conduct.broke(self._who, rpc, error)
            raise
        finally:
            if line is not None:
                line.calls -= 1
                await self._close_former(line)

    @property
    def _who(self) -> str:
        return who_is_at(self.address) if self.proven_id is None else f"node {self.proven_id}"

    async def _reached(self) -> _Line:
        """The line to the node, over TLS to the one that proved who it is, by what is current."""
        async with self._proving:
            former = self._line
            if self._closed:
                raise self._away(None)
            if self._tls is None:
                if former is None:
                    self._line = former = _Line(grpc.aio.insecure_channel(self.address, OPTIONS))
                return former
            material = self._tls.material()
            if former is not None and former.material is material:
                return former
            node_id = await self._asked(material) if former is None else former.node_id
            assert node_id is not None, "a line over TLS is to somebody"
            named = server_name(node_id)
            proving = tls_channel(self.address, material, name=named, options=OPTIONS)
            self._line = _Line(proving, node_id=node_id, material=material)
        if former is not None:
            await self._close_former(former)
        return self._line

    async def _asked(self, material: Material) -> NodeId:
        """Who a node of the cluster there says to be; what is asked of him next will prove it."""
        asking = tls_channel(self.address, material, name=ANY_NODE, options=OPTIONS)
        try:
            stub: Stub = node_pb2_grpc.NodeServiceStub(asking)
            answer = await stub.Describe(node_pb2.NodeServiceDescribeRequest(), timeout=2.0)
            message_rules.check(answer)
            return NodeId(answer.node_id)
        finally:
            await asking.close(None)

    def _give_up(self, line: _Line | None) -> None:
        if self._tls is not None and line is not None and line is self._line:
            self._line = None

    async def _close_former(self, line: _Line) -> None:
        """Closes a line that is no longer the one, once its last call is over."""
        if line is not self._line and line.calls == 0:
            await line.channel.close(None)

    def _away(self, error: grpc.aio.AioRpcError | None) -> DEdgeAIError:
        why = "the connection is closed" if error is None else error.code().name
        return OriginUnavailable(
            f"The node at {self.address} does not answer ({why}). Try again when it is back, or "
            "ask another node.",
            retry_after_s=2.0,
        )


def _record_of(message: node_pb2.TaskView, identifier: TaskId | JobId) -> TaskRecord:
    """The record that was asked for, by its own name or its job's."""
    record = node_codec.record_from_proto(message)
    if identifier not in (record.task.id, record.task.job_id):
        raise MalformedMessage(f"{record.task.id} came for {identifier}.")
    return record
