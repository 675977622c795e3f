"""Callbacks: their secret, the signature that Standard Webhooks has as an example, what fails."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edge_node.api import callbacks
from edge_node.api.callbacks import CallbackSettings, secret_in, signature
from edge_node.clock import SystemClock
from edge_node.config import NodeConfig
from edge_node.config_sources import InvalidConfig
from edge_node.domain import Task, TaskId, TaskRecord
from edge_node.errors import TaskErased
from edge_node.requests import Callback
from tests.filled import filled


def test_the_signature_is_the_one_of_the_specification() -> None:
    """Secret, id, time, body and signature as in its reference libraries' tests."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature(
        secret,
        webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 bytes"),
        ("c2hvcnQ=", "has 5 bytes"),
        ("not base64!", "has no secret"),
        ("schlüssel", "has no secret"),
    ],
)
def test_a_secret_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidConfig, match=said):
        secret_in(path)


def test_origins_need_a_secret(tmp_path: Path) -> None:
    config = NodeConfig(callback_origins=("https://hooks.example.com",))
    with pytest.raises(InvalidConfig, match="openssl rand -base64 32"):
        CallbackSettings.of(config)
    with pytest.raises(InvalidConfig, match="No such file"):
        CallbackSettings.of(config.model_copy(update={"callback_secret_file": tmp_path / "no"}))


class Memory:
    """What is owed, in memory."""

    def __init__(self, *task_ids: TaskId) -> None:
        self.left = dict.fromkeys(task_ids, Callback(url="http://127.0.0.1:9/", base=""))

    async def owe(self, task_ids: Sequence[TaskId], callback: Callback) -> None:
        self.left |= dict.fromkeys(task_ids, callback)

    async def owed(self) -> dict[TaskId, Callback]:
        return dict(self.left)

    async def settled(self, task_id: TaskId) -> None:
        del self.left[task_id]


def test_a_callback_that_meets_a_bug_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first read finds the end, the second is a bug, the third finds that it was erased."""
    monkeypatch.setattr(callbacks, "PAUSES_S", (0.01,))
    task_id = TaskId("a-1")
    over = asyncio.Event()
    reads = 0

    async def read(asked: TaskId) -> TaskRecord:
        nonlocal reads
        reads += 1
        if reads == 1:
            return replace(filled(TaskRecord), task=replace(filled(Task), id=asked))
        if reads == 2:
            raise RuntimeError("a bug")
        raise TaskErased("gone")

    async def story() -> None:
        memory = Memory(task_id)
        settings = CallbackSettings(origins=("http://127.0.0.1:9",), secret=bytes(32))
        told = callbacks.Callbacks(
            settings,
            owed=memory,
            read_task=read,
            clock=SystemClock(),
            on_over=lambda what: over.set(),
        )
        running = asyncio.create_task(told.run())
        async with asyncio.timeout(20):
            await over.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert (reads, memory.left) == (3, {})

    asyncio.run(story())
