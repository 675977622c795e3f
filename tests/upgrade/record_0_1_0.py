"""What a version says and keeps, written down by that version itself: run it with its code.

    PYTHONPATH=<tree>:<tree>/proto python record_0_1_0.py FOLDER

writes `messages.json` (one message of every kind that crosses a process, serialised) and
`store.json` (a ledger as Valkey holds it) to FOLDER. `tests/golden/v0.1.0` is 0.1.0's answer;
test_rolling_upgrade.py asks it again. Everything in here is 0.1.0's own vocabulary: a later
version that has other words gets a script of its own, and this one stays as it is.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis
from dedgeai.v1 import node_pb2, worker_pb2

from edge_node import domain
from edge_node.clock import SystemClock
from edge_node.peering import codec, node_codec
from edge_node.requests import Idempotency
from edge_node.store.connection import StoreSettings
from edge_node.store.embedded_valkey import valkey_command, wait_until_ready
from edge_node.store.task_ledger import LedgerSettings, TaskLedger

PREFIX = "dedgeai:orin-1:ledger:"
JOB = domain.JobId("orin-1-01J00000000000000000000J0B")
# 1x1, so that it is really a PNG.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8"
    "cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
DRAWING = domain.Drawing(
    prompt="ein Fuchs, 狐",
    negative_prompt="dog",
    width_px=512,
    height_px=384,
    steps=15,
    guidance_scale=5.0,
    seed=2**64 - 1,
    model="sd3-medium",
    image_format="webp",
    image_quality=80,
    previews=2,
    init_image_sha256="ab" * 32,
    strength=0.5,
)
IMAGE = domain.Image(
    content=PNG, format="png", width_px=512, height_px=384, emulated_device="orin-64gb-30w x40"
)


def task_id(number: int) -> domain.TaskId:
    """Ids of one origin that sort by number."""
    return domain.TaskId(f"orin-1-01J{number:023d}")


def task(number: int, **changes: Any) -> domain.Task:
    """An accepted task with every field set."""
    values: dict[str, Any] = {
        "id": task_id(number),
        "job_id": None,
        "drawing": DRAWING,
        "work": 12.5,
        "input_bits": 8000,
        "created_unix_s": 1_795_000_000.25 + number,
        "deadline_unix_s": 4_000_000_000.0,
        "priority": -3,
        "durability": domain.Durability.DISK,
        "attempt_floor": 8,
    }
    return domain.Task(**{**values, **changes})


def records() -> dict[str, domain.TaskRecord]:
    """A task at every place in its life, by what is special about it."""
    placed = domain.TaskRecord(
        task=task(2),
        executor=domain.NodeId("orin-2"),
        attempt=9,
        queue_position=3,
        eta_s=4.5,
        policy="slow_server_aware",
        policy_reason="replay",
    )
    started = replace(
        placed,
        task=task(3),
        status=domain.TaskStatus.IN_PROGRESS,
        step=4,
        queue_position=0,
        started_unix_s=1_795_000_100.0,
    )
    completed = replace(
        started,
        task=task(4, job_id=JOB),
        status=domain.TaskStatus.COMPLETED,
        finished_unix_s=1_795_000_200.5,
        image_bytes=4096,
        emulated_device="orin-64gb-30w x40",
        queue_s=0.5,
        compute_s=2.25,
        eta_s=0.0,
    )
    error = domain.TaskError(code="attempts_exhausted", message="5 devices in turn failed.")
    return {
        "queued": domain.TaskRecord(task=task(1, deadline_unix_s=None, attempt_floor=0)),
        "placed": placed,
        "started": started,
        "completed": completed,
        "failed": replace(
            completed, task=task(5, job_id=JOB), status=domain.TaskStatus.FAILED, error=error
        ),
        "cancelled": replace(completed, task=task(6), status=domain.TaskStatus.CANCELLED),
        "journalled": replace(
            placed, task=task(7, durability=domain.Durability.JOURNALLED, attempt_floor=0)
        ),
    }


def state() -> domain.NodeState:
    """A node's queue as it tells others."""
    return domain.NodeState(
        node_id=domain.NodeId("orin-1"),
        incarnation=1_795_000_000,
        sequence=42,
        backlog=31.25,
        capacity=6.2,
        model="sd3-medium",
        model_fingerprint=domain.ModelFingerprint("f" * 64),
        accepting=True,
        queued=2,
        running=1,
        dispatches_seen={
            domain.NodeId("orin-2"): (1_795_000_001, 7),
            domain.NodeId("orin-3"): (1_795_000_002, 2**40),
        },
        rest_url="http://orin-1:8080",
        device="Jetson AGX Orin",
        emulated_device="orin-64gb-30w x40",
        grpc_address="orin-1:9080",
        accepted_work_s=1.5,
        changed_s=100.5,
        sent_s=101.25,
        cluster_name="attic",
    )


def node_messages() -> dict[str, Any]:
    """What nodes say to each other."""
    offload = domain.Offload(
        task_id=task_id(2),
        attempt=9,
        origin=domain.NodeId("orin-1"),
        incarnation=1_795_000_000,
        dispatch=7,
        drawing=DRAWING,
        work=12.5,
        priority=-3,
        deadline_s=300.5,
    )
    plain = replace(
        offload,
        drawing=replace(DRAWING, init_image_sha256="", strength=1.0),
        deadline_s=None,
        priority=0,
    )
    reports: dict[str, domain.AttemptReport] = {
        "queued": domain.AttemptQueued(position=3),
        "heartbeat": domain.AttemptHeartbeat(queue_position=2),
        "started": domain.AttemptStarted(),
        "step_finished": domain.StepFinished(step=4, steps=15, preview=PNG),
        "finished": domain.AttemptFinished(image=IMAGE, queue_s=0.5, compute_s=2.25),
        "failed": domain.AttemptFailed(code="worker_lost", message="It died.", retryable=True),
    }
    event = domain.TaskEvent(
        sequence=5,
        kind=domain.TaskEventKind.FAILED,
        unix_s=1_795_000_200.5,
        attempt=9,
        executor=domain.NodeId("orin-2"),
        step=4,
        steps=15,
        queue_position=1,
        error=domain.TaskError(code="deadline_exceeded", message="Late."),
        preview=PNG,
    )
    leaving = replace(state(), leaving=True, accepting=False, dispatches_seen={})
    to_request = node_codec.offload_to_proto
    return {
        "state": node_codec.state_to_proto(state()),
        "state_leaving": node_codec.state_to_proto(leaving),
        "offload_with_init_image": to_request(offload, init_image=PNG),
        "offload_plain": to_request(plain),
        "cancel_offload": node_pb2.CancelOffloadRequest(task_id=task_id(2), attempt=9),
        "describe": node_pb2.NodeServiceDescribeResponse(
            node_id="orin-1", version="0.1.0", model="sd3-medium", rest_url="http://orin-1:8080"
        ),
        "event": node_codec.event_to_proto(event),
        **{f"report_{name}": node_codec.report_to_proto(one) for name, one in reports.items()},
        **{f"task_{name}": node_codec.record_to_proto(one) for name, one in records().items()},
    }


def worker_messages() -> dict[str, Any]:
    """What a node and a worker beside it say to each other."""
    description = domain.WorkerDescription(
        state="ready",
        detail="compiled",
        engine="sd3",
        model="sd3-medium",
        model_fingerprint=domain.ModelFingerprint("f" * 64),
        capacity=6.2,
        work_model=domain.WorkModel(
            fixed_steps=0.7,
            unguided_ratio=0.55,
            reference_px=512,
            size_costs=((256, 256, 0.3), (512, 512, 1.0)),
            init_image_steps=0.4,
        ),
        size_px_min=256,
        size_px_max=1536,
        size_px_multiple=16,
        steps_max=200,
        rows_max=2,
        emulated_device="orin-64gb-30w x40",
        pace_s=0.1,
        device="Jetson AGX Orin",
        order="srpt",
    )
    load = domain.WorkerLoad(
        backlog=31.25, queued=2, running=1, capacity=6.2, steps_done=2**40, resident_bytes=2**33
    )
    reports: dict[str, codec.DrawReport] = {
        "queued": domain.AttemptQueued(position=3),
        "started": domain.AttemptStarted(),
        "step_finished": domain.StepFinished(step=4, steps=15, preview=PNG),
        "finished": domain.AttemptFinished(image=IMAGE, queue_s=0.5, compute_s=2.25),
        "failed": domain.AttemptFailed(code="draw_failed", message="NaN.", retryable=False),
    }
    return {
        "worker_description": codec.description_to_proto(description),
        "worker_load": codec.load_to_proto(load),
        "draw": worker_pb2.DrawRequest(
            task_id=task_id(2),
            attempt=9,
            drawing=codec.drawing_to_proto(DRAWING),
            priority=-3,
            init_image=PNG,
            deadline_s=300.5,
        ),
        **{f"drawn_{name}": codec.report_to_draw_response(one) for name, one in reports.items()},
    }


async def keep(url: str) -> None:
    """Leads a ledger through a life."""
    ledger = TaskLedger(
        LedgerSettings(
            store=StoreSettings(url=url), key_prefix=PREFIX, idempotency_age_s_max=10**9
        ),
        clock=SystemClock(),
    )
    await ledger.connect()
    await ledger.next_incarnation()
    by_name = records()
    jobs = [by_name["completed"].task, by_name["failed"].task]
    key = Idempotency(key="shop-order 7", request_digest="d1")
    await ledger.append_accepted(jobs, job_id=JOB, idempotency=None)
    await ledger.append_accepted([by_name["queued"].task], job_id=None, idempotency=key)
    for name in ("placed", "started", "cancelled"):
        await ledger.append_accepted([by_name[name].task], job_id=None, idempotency=None)
    ledger.journal_accepted([by_name["journalled"].task], job_id=None)
    for record in by_name.values():
        ledger.note(record)
    await ledger.flush()
    await ledger.close()


def content(client: Any) -> dict[str, Any]:
    """Every key of a store, by its type."""
    found: dict[str, Any] = {}
    for key in sorted(client.keys("*")):
        kind = client.type(key)
        if kind == "hash":
            found[key] = {"hash": dict(sorted(client.hgetall(key).items()))}
        elif kind == "set":
            found[key] = {"set": sorted(client.smembers(key))}
        elif kind == "zset":
            members = client.zrange(key, 0, -1, withscores=True)
            found[key] = {"zset": [list(pair) for pair in members]}
        else:
            found[key] = {"string": client.get(key)}
    return found


def recorded_store() -> dict[str, Any]:
    """What the ledger left in a Valkey of its own."""
    with tempfile.TemporaryDirectory(prefix="vk") as folder:
        socket = Path(folder) / "s"
        command = valkey_command(Path(folder), socket)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as store:
            try:
                asyncio.run(wait_until_ready(socket, 10.0))
                asyncio.run(keep(f"unix://{socket}"))
                found = content(redis.Redis.from_url(f"unix://{socket}", decode_responses=True))
            finally:
                store.terminate()
    # The time of day, and so another one in every recording.
    found[f"{PREFIX}incarnation"] = {"string": "1795000000"}
    return found


def main() -> None:
    """Writes both files."""
    folder = Path(sys.argv[1])
    messages = {
        name: {"type": message.DESCRIPTOR.full_name, "hex": message.SerializeToString().hex()}
        for name, message in {**node_messages(), **worker_messages()}.items()
    }
    for name, document in (("messages", messages), ("store", recorded_store())):
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
