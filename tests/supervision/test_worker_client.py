"""What a drawing says on the worker's socket."""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from dedgeai.v1 import worker_pb2, worker_pb2_grpc

from edge_node.domain import AttemptReport, AttemptStarted, Drawing, Fence, TaskId
from edge_node.peering import codec
from edge_node.supervision.worker_client import WorkerClient

DRAWING = Drawing(
    prompt="p",
    width_px=64,
    height_px=64,
    steps=3,
    guidance_scale=5.0,
    seed=1,
    model="m",
    init_image_sha256="ab" * 32,
    strength=0.5,
)


class Listener(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self) -> None:
        self.heard: list[worker_pb2.DrawRequest] = []

    async def Draw(
        self, request: worker_pb2.DrawRequest, context: Any
    ) -> AsyncIterator[worker_pb2.DrawResponse]:
        self.heard.append(request)
        yield worker_pb2.DrawResponse(started=worker_pb2.DrawResponse.Started())


def said(run_dir: pathlib.Path, **changes: Any) -> worker_pb2.DrawRequest:
    listener = Listener()  # type: ignore[abstract]

    async def story() -> list[AttemptReport]:
        options = [("grpc.max_receive_message_length", codec.MESSAGE_BYTES_MAX)]
        server = grpc.aio.server(options=options)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(listener, server)
        server.add_insecure_port(f"unix:{run_dir / 'w.sock'}")
        await server.start()
        client = WorkerClient(run_dir / "w.sock")
        drawing = client.draw(task_id=TaskId("a-1"), fence=Fence(1, 2), drawing=DRAWING, **changes)
        try:
            return [report async for report in drawing]
        finally:
            await client.close()
            await server.stop(None)

    assert asyncio.run(story()) == [AttemptStarted()]
    (request,) = listener.heard
    assert codec.drawing_from_proto(request.drawing) == DRAWING
    return request


def test_a_large_init_image_arrives_whole(run_dir: pathlib.Path) -> None:
    init_image = os.urandom(20 * 2**20)
    assert said(run_dir, init_image=init_image).init_image == init_image


@pytest.mark.parametrize(
    ("deadline_s", "heard_s"), [(None, 0.0), (12.5, 12.5), (0.0, 0.001), (-3.0, 0.001)]
)
def test_a_deadline_that_has_passed_is_still_one(
    run_dir: pathlib.Path, deadline_s: float | None, heard_s: float
) -> None:
    assert said(run_dir, deadline_s=deadline_s).deadline_s == heard_s
