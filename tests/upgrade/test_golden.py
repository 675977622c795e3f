"""What 0.1.0 said and kept, recorded by itself, is read by this version; and the other way round.

`tests/golden/v0.1.0` holds one message of every kind, a ledger, and the wire's description. No
version of git is needed here; test_rolling_upgrade.py runs 0.1.0 itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis
from dedgeai.v1 import node_pb2, worker_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from edge_node.clock import SystemClock
from edge_node.domain import Fence, TaskId, TaskStatus
from edge_node.errors import IdempotencyConflict
from edge_node.peering import codec, node_codec
from edge_node.requests import AlreadyAccepted, Idempotency
from edge_node.store.connection import StoreSettings
from edge_node.store.record_codec import decode_record, encode_record
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from tests.store.conftest import valkey as valkey
from tests.store.valkey_process import ValkeyProcess

GOLDEN = Path(__file__).parent.parent / "golden" / "v0.1.0"
MESSAGES: dict[str, dict[str, str]] = json.loads((GOLDEN / "messages.json").read_text("utf-8"))
STORE: dict[str, dict[str, Any]] = json.loads((GOLDEN / "store.json").read_text("utf-8"))
PREFIX = "dedgeai:orin-1:ledger:"
OPEN = {"queued": 1, "placed": 2, "started": 3}
FINAL = {"completed": 4, "failed": 5, "cancelled": 6}


def task_id(number: int) -> TaskId:
    return TaskId(f"orin-1-01J{number:023d}")


def former_class(name: str) -> Any:
    """A message of 0.1.0's description of the wire."""
    files = descriptor_pb2.FileDescriptorSet.FromString((GOLDEN / "wire.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def former_fields(name: str, serialised: bytes) -> dict[str, Any]:
    """What 0.1.0 reads in a message; what it does not know is left out."""
    message = former_class(name).FromString(serialised)
    fields: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return fields


def present_class(name: str) -> Any:
    short = name.removeprefix("dedgeai.v1.")
    holder = node_pb2 if hasattr(node_pb2, short.partition(".")[0]) else worker_pb2
    return getattr(holder, short)


def through_domain(name: str, message: Any) -> Any:
    """`message` as this version says it again, having understood it."""
    kind = name.partition("_")[0]
    if name.startswith("worker_description"):
        return codec.description_to_proto(codec.description_from_proto(message))
    if name.startswith("worker_load"):
        return codec.load_to_proto(codec.load_from_proto(message))
    if kind == "state":
        return node_codec.state_to_proto(node_codec.state_from_proto(message))
    if kind == "offload":
        offload = node_codec.offload_from_proto(message)
        return node_codec.offload_to_proto(offload, init_image=message.init_image)
    if kind == "report":
        report = node_codec.report_from_proto(message)
        assert report is not None
        return node_codec.report_to_proto(report)
    if kind == "task":
        return node_codec.record_to_proto(node_codec.record_from_proto(message))
    if kind == "event":
        return node_codec.event_to_proto(node_codec.event_from_proto(message))
    if kind == "drawn":
        drawn = codec.report_from_draw_response(message)
        assert drawn is not None
        return codec.report_to_draw_response(drawn)
    return message


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_0_1_0_is_understood_and_0_1_0_understands_it_said_again(name: str) -> None:
    kind, recorded = MESSAGES[name]["type"], bytes.fromhex(MESSAGES[name]["hex"])
    said = former_fields(kind, recorded)
    assert any(said.values()) or name.endswith("started"), "an empty message would prove nothing"
    again = through_domain(name, present_class(kind).FromString(recorded))
    assert former_fields(kind, again.SerializeToString()) == said


def test_every_field_of_0_1_0_is_recorded() -> None:
    """A field that no recorded message sets could be lost unseen."""
    seen: set[str] = set()

    def look(message: Any) -> None:
        for field, value in message.ListFields():
            seen.add(field.full_name)
            if field.type == field.TYPE_MESSAGE:
                for one in value if field.is_repeated else [value]:
                    look(one)

    for recorded in MESSAGES.values():
        look(former_class(recorded["type"]).FromString(bytes.fromhex(recorded["hex"])))
    kinds = (
        *("NodeState", "DispatchSeen", "OffloadRequest", "OffloadResponse", "TaskView"),
        *("WatchTaskResponse", "Drawing", "Image", "DrawRequest", "DrawResponse", "WorkModel"),
        *("DescribeResponse", "WatchLoadResponse", "CancelOffloadRequest"),
    )
    fields = {
        field.full_name
        for kind in kinds
        for field in former_class(f"dedgeai.v1.{kind}").DESCRIPTOR.fields
    }
    assert fields - seen == set()


def test_a_record_of_0_1_0_says_what_it_said_and_is_written_so_that_0_1_0_can_read_it() -> None:
    records = {
        key: json.loads(value["hash"]["record"])
        for key, value in STORE.items()
        if key.startswith(f"{PREFIX}task:")
    }
    assert len(records) == len(OPEN) + len(FINAL) + 1
    for key, former in records.items():
        written = json.loads(encode_record(decode_record(json.dumps(former))))
        assert written["format"] == former["format"] == 1, key
        # The fence of the term at hand as 0.1.0 reads it: a floor may rise, and never fall.
        assert written["task"]["attempt_floor"] >= former["task"].pop("attempt_floor"), key
        assert contained(former, written), key


def contained(former: Any, written: Any) -> bool:
    """Whether all that 0.1.0 reads is there and the same; more may be there."""
    if isinstance(former, dict):
        return isinstance(written, dict) and all(
            name in written and contained(value, written[name]) for name, value in former.items()
        )
    return bool(former == written)


def fill(client: Any) -> None:
    """A store as 0.1.0 left it."""
    for key, value in STORE.items():
        if "hash" in value:
            client.hset(key, mapping=value["hash"])
        elif "set" in value:
            client.sadd(key, *value["set"])
        elif "zset" in value:
            client.zadd(key, dict(value["zset"]))
        else:
            client.set(key, value["string"])


def with_ledger(valkey: ValkeyProcess, story: Callable[[TaskLedger], Awaitable[None]]) -> None:
    """A life of this version's ledger on 0.1.0's store."""

    async def life() -> None:
        ledger = TaskLedger(
            LedgerSettings(store=StoreSettings(url=valkey.url), key_prefix=PREFIX),
            clock=SystemClock(),
        )
        await ledger.connect()
        try:
            await story(ledger)
            await ledger.flush()
        finally:
            await ledger.close()

    asyncio.run(life())


@pytest.mark.system
def test_a_store_of_0_1_0_is_taken_over(valkey: ValkeyProcess) -> None:
    client: Any = redis.Redis.from_url(valkey.url, decode_responses=True)
    fill(client)

    async def story(ledger: TaskLedger) -> None:
        recovered = await ledger.recover(term=await ledger.next_term())
        assert [record.task.id for record in recovered] == [task_id(n) for n in OPEN.values()]
        for record in recovered:
            assert record.status is TaskStatus.QUEUED
            assert record.task.drawing.prompt == "ein Fuchs, 狐"
        gone = await ledger.read(task_id(7))
        assert gone is not None
        assert gone.error is not None
        assert gone.error.code == "client_gone"
        for name, number in FINAL.items():
            ended = await ledger.read(task_id(number))
            assert ended is not None
            assert ended.status.value == name
            assert (ended.executor, ended.attempt, ended.image_bytes) == ("orin-2", 9, 4096)
        job_id = decode_record(STORE[f"{PREFIX}task:{task_id(4)}"]["hash"]["record"]).task.job_id
        assert job_id is not None
        assert await ledger.read_job(job_id) == (task_id(4), task_id(5))
        key = Idempotency(key="shop-order 7", request_digest="d1")
        queued = recovered[0].task
        again = await ledger.append_accepted([queued], job_id=None, idempotency=key)
        assert again == AlreadyAccepted(task_ids=(task_id(1),), job_id=None)
        other = Idempotency(key="shop-order 7", request_digest="d2")
        with pytest.raises(IdempotencyConflict):
            await ledger.append_accepted([queued], job_id=None, idempotency=other)
        assert await ledger.next_incarnation() > 1_795_000_000

    with_ledger(valkey, story)
    assert client.smembers(f"{PREFIX}open") == {task_id(n) for n in OPEN.values()}


@pytest.mark.system
def test_a_term_stands_above_all_that_0_1_0_numbered(valkey: ValkeyProcess) -> None:
    """Hundreds of its lives raise a floor beyond the first terms' numbers."""
    client: Any = redis.Redis.from_url(valkey.url, decode_responses=True)
    fill(client)
    key = f"{PREFIX}task:{task_id(2)}"
    record = json.loads(client.hget(key, "record"))
    record["task"]["attempt_floor"] = 5040
    client.hset(key, "record", json.dumps(record))
    terms: list[int] = []

    async def story(ledger: TaskLedger) -> None:
        terms.append(await ledger.next_term())
        assert Fence.of_integer(5040 + 8) < Fence(terms[-1], 1)
        await ledger.recover(term=terms[-1])

    for _ in range(2):
        with_ledger(valkey, story)
    assert terms[1] > terms[0]


@pytest.mark.system
def test_no_attempt_of_a_former_life_passes_for_one_of_this_life(valkey: ValkeyProcess) -> None:
    """0.1.0's executors know one integer: it must grow with every life of the origin."""
    client: Any = redis.Redis.from_url(valkey.url, decode_responses=True)
    fill(client)
    floors: list[int] = []

    async def story(ledger: TaskLedger) -> None:
        await ledger.recover(term=await ledger.next_term())

    for _ in range(3):
        written = json.loads(client.hget(f"{PREFIX}task:{task_id(2)}", "record"))
        floors.append(written["task"]["attempt_floor"])
        with_ledger(valkey, story)
    # 0.1.0 numbered at most 8 attempts above its floor.
    assert all(after >= before + 8 for before, after in pairwise(floors))
