"""What somebody who reaches the nodes' port could do once, each tried over a real channel."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from dedgeai.v1 import node_pb2, worker_pb2
from PIL import Image as PillowImage

from edge_node.domain import (
    AttemptReport,
    Drawing,
    Fence,
    NodeId,
    Offload,
    TaskId,
)
from edge_node.errors import DEdgeAIError, MalformedMessage, SetAside
from edge_node.peering import node_codec
from edge_node.peering.caller import PeerConduct
from edge_node.peering.client import PeerClient
from tests.security.attacker import Attacked, Liar, offload_message, refused
from tests.set_clock import SetClock

DRAWING = Drawing(
    prompt="p", width_px=64, height_px=48, steps=3, guidance_scale=5.0, seed=1, model="m"
)
TASK = TaskId("own-01ARZ3NDEKTSV4RRFFQ69G5FAV")
OFFLOAD = Offload(
    task_id=TASK,
    fence=Fence(1, 1),
    origin=NodeId("own"),
    incarnation=1,
    dispatch=1,
    drawing=DRAWING,
    work=4.0,
)
INVALID = grpc.StatusCode.INVALID_ARGUMENT
DENIED = grpc.StatusCode.PERMISSION_DENIED


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(20):
            await story()

    asyncio.run(in_time())


def picture(image_format: str = "png", *, size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    PillowImage.new("RGB", size).save(buffer, image_format.upper())
    return buffer.getvalue()


def finished(content: bytes, **fields: Any) -> node_pb2.OffloadResponse:
    image = worker_pb2.Image(content=content, format="png", width_px=64, height_px=48)
    done = worker_pb2.DrawResponse.Finished(image=image, queue_s=0.5, compute_s=1.5)
    for name, value in fields.items():
        setattr(done if hasattr(done, name) else done.image, name, value)
    return node_pb2.OffloadResponse(finished=done)


# Callers.


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"work": math.nan}, INVALID),
        ({"work": math.inf}, INVALID),
        ({"work": 1e300}, INVALID),
        ({"work": 0.0}, INVALID),
        ({"deadline_s": math.nan}, INVALID),
        ({"init_image": b"#!/bin/sh"}, INVALID),
        ({"task_id": "../../victim"}, INVALID),
        # This node's own task, to be drawn by somebody's prompt.
        ({"task_id": TASK, "origin": "own"}, DENIED),
        ({"task_id": TASK, "origin": "victim"}, DENIED),
        # Another's task, placed by a third.
        ({"origin": "evil"}, DENIED),
    ],
)
def test_an_attempt_that_no_origin_sends_is_refused(
    fields: dict[str, Any], status: grpc.StatusCode
) -> None:
    attacked = Attacked()

    async def story() -> None:
        async with attacked.listening() as stub:
            with refused(status):
                async for _ in stub.Offload(offload_message(**fields)):
                    pass

    run(story)
    assert attacked.hosted == []
    assert attacked.broken == ["Offload"]


@pytest.mark.parametrize("attempt", [2**32 - 1, 4095, 2**31])
@pytest.mark.parametrize("rpc", ["Offload", "CancelOffload"])
def test_a_fence_that_no_owner_reaches_ends_no_task(attempt: int, rpc: str) -> None:
    attacked = Attacked()
    message: Any = offload_message(attempt=attempt)
    if rpc == "CancelOffload":
        message = node_pb2.CancelOffloadRequest(task_id=message.task_id, attempt=attempt)
    message.fence.attempt, message.fence.term = attempt, 1

    async def story() -> None:
        async with attacked.listening() as stub:
            with refused(INVALID):
                called: Any = getattr(stub, rpc)(message)
                if rpc == "Offload":
                    await anext(aiter(called))
                await called

    run(story)
    assert attacked.hosted == attacked.cancelled == []


def test_attempts_of_this_nodes_tasks_are_taken_back_by_nobody_else() -> None:
    attacked = Attacked()
    request = node_pb2.CancelOffloadRequest(task_id=TASK, attempt=4097)
    elsewhere = node_pb2.HandOverRequest(task_id=TASK)

    async def story() -> None:
        async with attacked.listening() as stub:
            with refused(DENIED):
                await stub.CancelOffload(request)
            with refused(DENIED):
                await stub.HandOver(elsewhere)

    run(story)
    assert attacked.cancelled == []


@pytest.mark.parametrize(
    "fields",
    [
        {"task_id": "../../victim"},
        {"taker": ""},
        {"reason": "because"},
        {"gain_s": math.nan},
    ],
)
def test_a_task_is_given_to_nobody_who_asks_for_it_as_no_node_does(fields: dict[str, Any]) -> None:
    attacked = Attacked()
    asked: dict[str, Any] = {"task_id": TASK, "taker": "evil", "reason": "idle", "gain_s": 1.0}

    async def story() -> None:
        async with attacked.listening() as stub:
            with refused(INVALID):
                await stub.TakeTask(node_pb2.TakeTaskRequest(**(asked | fields)))

    run(story)
    assert attacked.broken == ["TakeTask"]


@pytest.mark.parametrize(
    "fields",
    [
        {"capacity": 1e300},
        {"capacity": math.nan},
        {"backlog": 1e300},
        {"backlog": -1.0},
        {"sequence": 2**63},
        {"incarnation": 2**63},
        {"accepted_work_s": math.inf},
        {"sent_s": math.nan},
        {"node_id": "<script>"},
        {"rest_url": "javascript:alert(1)"},
        {"model": "m" * 1000},
        {"dispatches_seen": [node_pb2.DispatchSeen(origin=f"n{i}") for i in range(3000)]},
    ],
    ids=str,
)
def test_a_state_that_means_nothing_is_not_heard(fields: dict[str, Any]) -> None:
    attacked = Attacked()
    said = node_pb2.NodeState(node_id="victim", incarnation=1, sequence=1)
    said.MergeFrom(node_pb2.NodeState(**fields))

    async def says() -> AsyncIterator[node_pb2.ExchangeStateRequest]:
        yield node_pb2.ExchangeStateRequest(state=said)
        await asyncio.Event().wait()

    async def story() -> None:
        async with attacked.listening() as stub:
            with refused(INVALID):
                async for _ in stub.ExchangeState(says()):
                    pass

    run(story)
    assert attacked.heard == []


def test_who_goes_on_breaking_rules_is_not_asked_and_not_heard_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, broken = SetClock(), list[str]()
    conduct = PeerConduct(clock, on_broken=broken.append)
    caplog.set_level("WARNING", "edge_node.peering.caller")

    async def story() -> None:
        async with Liar(node_pb2.OffloadResponse(), finished(b"<script>")).listening() as address:
            client = PeerClient(address, conduct=conduct)
            for _ in range(5):
                with pytest.raises(MalformedMessage):
                    await reports_of(client)
            with pytest.raises(SetAside, match=f"the node at {address}"):
                await reports_of(client)
            with pytest.raises(SetAside):
                await client.read_task(TASK)
            assert conduct.count_aside == 1
            clock.now += 301.0
            assert conduct.count_aside == 0
            with pytest.raises(MalformedMessage):
                await reports_of(client)
            await client.close()

    run(story)
    assert broken == ["Offload"] * 6
    aside = [one for one in caplog.messages if "set aside" in one]
    assert len(aside) == 1
    assert len(caplog.messages) == 3  # the first, that it is set aside, and one of the new begin


# Peers that answer.


async def reports_of(client: PeerClient) -> list[AttemptReport]:
    return [one async for one in client.offload(OFFLOAD)]


@pytest.mark.parametrize(
    "message",
    [
        finished(b"<script>alert(1)</script>"),
        finished(picture(), format="webp"),
        finished(picture("jpeg")),
        finished(picture(), width_px=65),
        finished(picture(size=(4096, 48)), width_px=4096),
        finished(picture(), compute_s=math.nan),
        finished(picture(), queue_s=math.inf),
        finished(picture(), compute_s=-1.0),
        node_pb2.OffloadResponse(
            step_finished=worker_pb2.DrawResponse.StepFinished(step=9, steps=3)
        ),
        node_pb2.OffloadResponse(
            step_finished=worker_pb2.DrawResponse.StepFinished(step=1, steps=9)
        ),
        node_pb2.OffloadResponse(
            step_finished=worker_pb2.DrawResponse.StepFinished(step=1, steps=3, preview=b"<html>")
        ),
        node_pb2.OffloadResponse(
            failed=worker_pb2.DrawResponse.Failed(code='x"} 1\nevil{a="', message="m")
        ),
    ],
)
def test_a_report_that_was_not_asked_for_ends_the_attempt(
    message: node_pb2.OffloadResponse,
) -> None:
    async def story() -> None:
        async with Liar(message).listening() as address:
            client = PeerClient(address)
            with pytest.raises(MalformedMessage):
                await reports_of(client)
            await client.close()

    run(story)


def test_what_was_asked_for_passes() -> None:
    async def story() -> None:
        async with Liar(finished(picture())).listening() as address:
            client = PeerClient(address)
            (report,) = await reports_of(client)
            assert node_codec.report_to_proto(report) == finished(picture())
            await client.close()

    run(story)


@pytest.mark.parametrize(
    ("said", "content"),
    [("image/png", b"<script>"), ("text/html", picture()), ("", picture("webp"))],
)
def test_the_type_of_an_image_is_that_of_its_bytes(said: str, content: bytes) -> None:
    liar = Liar(node_pb2.FetchImageResponse(media_type=said, chunk=content))

    async def story() -> None:
        async with liar.listening() as address:
            client = PeerClient(address)
            if content.startswith(b"<"):
                with pytest.raises(MalformedMessage):
                    await client.fetch_image(TASK)
            else:
                media_type = "image/webp" if b"WEBP" in content[:16] else "image/png"
                assert await client.fetch_image(TASK) == (content, media_type)
            await client.close()

    run(story)


@pytest.mark.parametrize(
    "fields",
    [
        {"compute_s": math.nan},
        {"status": "<b>"},
        {"durability": "for ever"},
        {"task_id": "own-00000000000000000000000000"},
        {"created_at": math.inf},
        {"error_code": "<b>"},
    ],
    ids=str,
)
def test_a_record_that_could_not_be_shown_is_an_error_once_and_not_for_ever(
    fields: dict[str, Any],
) -> None:
    view = node_pb2.TaskView(task_id=TASK, status="queued", durability="disk", origin="own")
    view.drawing.image_format = "png"
    view.MergeFrom(node_pb2.TaskView(**fields))

    async def story() -> None:
        async with Liar(node_pb2.GetTaskResponse(task=view)).listening() as address:
            client = PeerClient(address)
            with pytest.raises(DEdgeAIError) as caught:
                await client.read_task(TASK)
            assert caught.value.http_status == 502
            await client.close()

    run(story)
