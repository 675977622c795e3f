"""What is promised to whoever asks for a callback, and when nothing may be promised."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from edge_node.api import callbacks as told
from edge_node.api.callbacks import Callbacks, CallbackSettings
from edge_node.clock import SystemClock
from edge_node.domain import TaskId
from edge_node.errors import StoreUnavailable
from edge_node.requests import Callback
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import served

ORIGIN = "http://127.0.0.1:9"
WANTED = {"prompt": "a red circle", "callback_url": f"{ORIGIN}/hook"}


class Promises:
    """A disk that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.kept: dict[TaskId, Callback] = {}

    async def owe(self, task_ids: Sequence[TaskId], callback: Callback) -> None:
        if self.away:
            raise StoreUnavailable("The store is away.", retry_after_s=1.0)
        self.kept |= dict.fromkeys(task_ids, callback)

    async def owed(self) -> dict[TaskId, Callback]:
        return dict(self.kept)

    async def settled(self, task_id: TaskId) -> None:
        self.kept.pop(task_id, None)


def callbacks_of(front_desk: MemoryFrontDesk, promises: Promises) -> Callbacks:
    return Callbacks(
        CallbackSettings(origins=[ORIGIN], secret=b"x" * 32),
        owed=promises,
        read_task=front_desk.read_task,
        clock=SystemClock(),
        on_over=lambda _: None,
    )


def test_a_request_that_comes_again_makes_good_what_was_not_promised() -> None:
    """Its task was accepted, and then the store was away or the node killed."""

    async def run() -> None:
        front_desk, promises = MemoryFrontDesk(held=True), Promises()
        callbacks, key = callbacks_of(front_desk, promises), {"Idempotency-Key": "once"}
        async with served(front_desk, callbacks=callbacks) as site:
            promises.away = True
            answer = await site.http.post("/v1/tasks", json=WANTED, headers=key)
            assert answer.status_code == 503
            promises.away = False
            answer = await site.http.post("/v1/tasks", json=WANTED, headers=key)
            assert answer.status_code == 202
            assert answer.headers["Idempotent-Replayed"] == "true"
            assert list(promises.kept) == [answer.json()["id"]]
            assert len(front_desk.submitted) == 1

    asyncio.run(run())


def test_what_cannot_be_promised_is_refused_before_it_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        front_desk = MemoryFrontDesk(held=True)
        async with served(front_desk, callbacks=callbacks_of(front_desk, Promises())) as site:
            assert (await site.http.post("/v1/tasks", json=WANTED)).status_code == 202
            refused = await site.http.post("/v1/tasks", json={**WANTED, "n": 2})
            assert refused.status_code == 429
            assert "without `callback_url`" in refused.json()["error"]["message"]
            assert len(front_desk.submitted) == 1, "a client that is refused asks again"

    monkeypatch.setattr(told, "OWED_MAX", 2)
    asyncio.run(run())
