"""Housekeeping removes what is too old, and outlives a round that fails."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any, cast

import pytest

from edge_node.domain import Image, TaskId
from edge_node.errors import StoreUnavailable
from edge_node.lasting import Loops, Patience
from edge_node.store import housekeeping
from edge_node.store.housekeeping import EXPIRED_AT_ONCE, Housekeeper
from edge_node.store.image_files import ImageFiles
from edge_node.store.init_images import InitImages
from tests.set_clock import SetClock

A1, A2 = (TaskId(f"a-01ARZ3NDEKTSV4RRFFQ69G5FA{n}") for n in "VW")
IMAGE = Image(content=b"png", format="png", width_px=64, height_px=64)


class Ledger:
    """Says which tasks it let go."""

    def __init__(self) -> None:
        self.expired: list[TaskId] = []
        self.failure: Exception | None = None
        self.asked: list[tuple[float, int]] = []
        self.keys_forgotten = 0

    async def expire(self, *, finished_before_unix_s: float, count_max: int) -> list[TaskId]:
        self.asked.append((finished_before_unix_s, count_max))
        if self.failure is not None:
            raise self.failure
        gone, self.expired = self.expired[:count_max], self.expired[count_max:]
        return gone

    async def forget_keys(self) -> None:
        self.keys_forgotten += 1


class House:
    def __init__(self, folder: Path) -> None:
        self.clock = SetClock()
        self.ledger = cast(Any, Ledger())
        self.images = ImageFiles(
            folder / "images", bytes_max=1000, age_s_max=50.0, clock=self.clock
        )
        self.init_images = InitImages(
            folder / "init_images", bytes_max=1000, keep_s_max=50.0, clock=self.clock
        )
        self.stored: list[int] = []
        self.keep_s = 100.0
        self.housekeeper = Housekeeper(
            ledger=self.ledger,
            images=self.images,
            init_images=self.init_images,
            task_keep_s=lambda: self.keep_s,
            on_stored=self.stored.append,
            clock=self.clock,
        )

    async def fill(self) -> None:
        await self.images.start()
        await self.init_images.start()
        for task_id in (A1, A2):
            await self.images.write(task_id, IMAGE)
        await self.init_images.write(
            hashlib.sha256(b"png").hexdigest(), b"png", needed_until_unix_s=1010.0
        )


def test_a_round_removes_the_images_of_tasks_that_are_gone_and_what_is_too_old(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        house = House(tmp_path)
        await house.fill()
        # However many have become too old since the round before.
        others = [TaskId(f"other-{number}") for number in range(EXPIRED_AT_ONCE)]
        house.ledger.expired = [*others, A1]
        await house.housekeeper.clean()
        assert set(house.ledger.asked) == {(900.0, EXPIRED_AT_ONCE)}
        assert house.ledger.keys_forgotten == 1
        assert house.stored == [3]
        assert await house.images.read(A2)
        house.clock.now = 1100.0
        house.ledger.failure = StoreUnavailable("away")
        house.keep_s = 7.0
        await house.housekeeper.clean()
        assert house.ledger.asked[-1][0] == 1093.0, "as configured now"
        assert house.stored == [3, 0], "files go, though the store is away"
        assert house.init_images.bytes_stored == 0

    asyncio.run(story())


def test_a_round_that_fails_is_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(housekeeping, "HOUSEKEEPING_S", 0.01)

    async def story() -> None:
        house = House(tmp_path)
        await house.fill()
        house.ledger.failure = OSError("disk")
        loops = Loops(patience=Patience(pause_s=0.01))
        keeping = loops.start("housekeeping", house.housekeeper.run, vital=True)
        async with asyncio.timeout(10):
            while len(house.ledger.asked) < 2:
                await asyncio.sleep(0.01)
            house.ledger.failure = None
            while not house.stored:
                await asyncio.sleep(0.01)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        assert house.stored[0] == 6

    asyncio.run(story())
    assert "housekeeping failed" in caplog.text
