from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edge_node.errors import InitImageGone, InitImagesFull, InvalidRequest, StoreUnavailable
from edge_node.store.durable_file import write_durably
from edge_node.store.init_images import JUST_NAMED_S, InitImages
from tests.set_clock import SetClock

KEEP_S_MAX = 1000.0


def content(number: int, size_bytes: int = 300) -> tuple[str, bytes]:
    """Sha256 and bytes."""
    made = bytes([number]) * size_bytes
    return hashlib.sha256(made).hexdigest(), made


def run(
    folder: Path, story: Callable[[InitImages, SetClock], Awaitable[None]], *, bytes_max: int = 1000
) -> None:
    async def life() -> None:
        clock = SetClock(1_000_000.0)
        images = InitImages(folder, bytes_max=bytes_max, keep_s_max=KEEP_S_MAX, clock=clock)
        await images.start()
        await story(images, clock)
        assert images.bytes_stored == sum(path.stat().st_size for path in folder.glob("*.png"))
        assert images.bytes_stored <= bytes_max

    asyncio.run(life())


def test_an_image_outlives_its_process_until_its_deadline(tmp_path: Path) -> None:
    sha256, made = content(1)

    async def write(images: InitImages, clock: SetClock) -> None:
        await images.write(sha256, made, needed_until_unix_s=clock.unix_s() + 50)
        assert await images.read(sha256) == made

    async def read(images: InitImages, clock: SetClock) -> None:
        assert await images.read(sha256) == made
        clock.now += 49
        await images.evict()
        assert await images.read(sha256) == made
        clock.now += 2
        await images.evict()
        with pytest.raises(InitImageGone, match="Submit the task again"):
            await images.read(sha256)
        assert list(tmp_path.iterdir()) == []

    run(tmp_path, write)
    run(tmp_path, read)


def test_an_image_is_needed_as_much_later_as_the_clock_has_jumped(tmp_path: Path) -> None:
    sha256, made = content(1)

    async def story(images: InitImages, clock: SetClock) -> None:
        await images.write(sha256, made, needed_until_unix_s=clock.unix_s() + 50)
        clock.now += 1e6
        again = InitImages(tmp_path, bytes_max=1000, keep_s_max=KEEP_S_MAX, clock=clock)
        await again.start(shift_s=1e6)
        clock.now += 49
        await again.evict()
        assert await again.read(sha256) == made
        # Of which the next life knows without being told.
        third = InitImages(tmp_path, bytes_max=1000, keep_s_max=KEEP_S_MAX, clock=clock)
        await third.start()
        assert await third.read(sha256) == made
        clock.now += 2
        await third.evict()
        with pytest.raises(InitImageGone):
            await third.read(sha256)
        await images.evict()

    run(tmp_path, story)


def test_the_same_image_is_written_once_and_kept_for_the_latest_deadline(tmp_path: Path) -> None:
    sha256, made = content(1)

    async def story(images: InitImages, clock: SetClock) -> None:
        await images.write(sha256, made, needed_until_unix_s=clock.unix_s() + 200)
        written = (tmp_path / f"{sha256}.png").stat()
        for deadline_s in (10, 300, 20):
            await images.write(sha256, made, needed_until_unix_s=clock.unix_s() + deadline_s)
        again = (tmp_path / f"{sha256}.png").stat()
        assert again.st_ino == written.st_ino
        assert again.st_mtime == clock.unix_s() + 300
        clock.now += 299
        await images.evict()
        assert await images.read(sha256) == made

    run(tmp_path, story)


def test_a_full_store_refuses_until_a_deadline_makes_room(tmp_path: Path) -> None:
    async def story(images: InitImages, clock: SetClock) -> None:
        for number, deadline_s in ((1, 100), (2, 30), (3, 200)):
            await images.write(*content(number), needed_until_unix_s=clock.unix_s() + deadline_s)
        with pytest.raises(InitImagesFull, match="at most 1000") as refused:
            await images.write(*content(4), needed_until_unix_s=None)
        assert refused.value.retry_after_s == 30
        with pytest.raises(InitImagesFull) as refused:
            await images.write(*content(4, 500), needed_until_unix_s=None)
        assert refused.value.retry_after_s == 100
        # What is there already needs no room.
        await images.write(*content(3), needed_until_unix_s=clock.unix_s() + 300)
        clock.now += 30.5
        await images.write(*content(4), needed_until_unix_s=None)
        with pytest.raises(InitImageGone):
            await images.read(content(2)[0])
        for number in (1, 3, 4):
            assert await images.read(content(number)[0]) == content(number)[1]

    run(tmp_path, story)


def test_nobody_can_have_one_kept_longer_than_a_task_may_last(tmp_path: Path) -> None:
    async def story(images: InitImages, clock: SetClock) -> None:
        await images.write(*content(1), needed_until_unix_s=clock.unix_s() + 1e12)
        await images.write(*content(2), needed_until_unix_s=None)
        clock.now += KEEP_S_MAX + 1
        await images.evict()
        assert images.bytes_stored == 0

    run(tmp_path, story)


def test_bytes_with_another_hash_are_refused(tmp_path: Path) -> None:
    async def story(images: InitImages, clock: SetClock) -> None:
        for name in (content(2)[0], "", "../" + content(1)[0]):
            with pytest.raises(InvalidRequest, match="sha256"):
                await images.write(name, content(1)[1], needed_until_unix_s=None)
        assert list(tmp_path.iterdir()) == []

    run(tmp_path, story)


def test_a_name_cannot_lead_out_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.png").write_bytes(b"s")
    opened: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or b"")  # type: ignore[func-returns-value]

    async def story(images: InitImages, clock: SetClock) -> None:
        with pytest.raises(InitImageGone):
            await images.read("../secret")
        assert opened == []

    run(tmp_path / "init_images", story)


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_one_that_is_lost_on_disk_is_gone_and_can_come_again(tmp_path: Path, damage: str) -> None:
    sha256, made = content(1)
    path = tmp_path / f"{sha256}.png"

    async def story(images: InitImages, clock: SetClock) -> None:
        await images.write(sha256, made, needed_until_unix_s=None)
        if damage == "removed":
            path.unlink()
        else:
            path.write_bytes(b"x" + made[1:])
        with pytest.raises(InitImageGone):
            await images.read(sha256)
        await images.write(sha256, made, needed_until_unix_s=None)
        assert await images.read(sha256) == made

    run(tmp_path, story)


def test_strangers_are_left_alone_and_torn_writes_removed(tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(b"y" * 5000)
    (tmp_path / f"{content(1)[0]}.png.partial").write_bytes(b"half")
    (tmp_path / f"{content(2)[0]}.png").symlink_to(tmp_path / "holiday.png")

    async def story(images: InitImages, clock: SetClock) -> None:
        assert images.bytes_stored == 0
        assert {path.name for path in tmp_path.iterdir()} == {
            "holiday.png",
            f"{content(2)[0]}.png",
        }
        (tmp_path / "holiday.png").unlink()
        (tmp_path / f"{content(2)[0]}.png").unlink()

    run(tmp_path, story)


def test_many_at_once_are_counted_once_each(tmp_path: Path) -> None:
    async def story(images: InitImages, clock: SetClock) -> None:
        numbers = [number % 3 for number in range(30)]
        writes = [images.write(*content(n), needed_until_unix_s=None) for n in numbers]
        await asyncio.gather(*writes)
        assert images.bytes_stored == 900

    run(tmp_path, story)


def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def story(images: InitImages, clock: SetClock) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreUnavailable, match="Free space in") as refused:
                await images.write(*content(1), needed_until_unix_s=None)
        assert refused.value.retry_after_s == 5
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(InitImageGone):
            await images.read(content(1)[0])

    run(tmp_path, story)


def test_a_write_that_fails_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_durably(path, b"old", modified_unix_s=5.0)

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        write_durably(path, b"new", modified_unix_s=6.0)
    assert (path.read_bytes(), path.stat().st_mtime) == (b"old", 5.0)
    assert list(tmp_path.iterdir()) == [path]


def test_one_is_forgotten_before_its_time_but_not_while_somebody_takes_it_up(
    tmp_path: Path,
) -> None:
    sha256, made = content(1)

    async def story(images: InitImages, clock: SetClock) -> None:
        assert await images.forget(sha256), "it is not here"
        await images.write(sha256, made, needed_until_unix_s=None)
        assert not await images.forget(sha256)
        clock.now += JUST_NAMED_S
        await images.write(sha256, made, needed_until_unix_s=None)
        assert not await images.forget(sha256), "named again"
        clock.now += JUST_NAMED_S
        assert await images.forget(sha256)
        with pytest.raises(InitImageGone):
            await images.read(sha256)
        assert not list(tmp_path.iterdir())

    run(tmp_path, story)
