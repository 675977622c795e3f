from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from edge_node.domain import Image, TaskId
from edge_node.errors import ImageGone
from edge_node.store import image_files
from edge_node.store.durable_file import FolderSync
from edge_node.store.image_files import ImageFiles
from edge_node.worker.image_encoding import encode
from tests.set_clock import SetClock
from tests.store.records import task_id


def image(size_bytes: int, *, image_format: str = "png") -> Image:
    return Image(content=b"x" * size_bytes, format=image_format, width_px=64, height_px=64)


def run(
    folder: Path, story: Callable[[ImageFiles, SetClock], Awaitable[None]], *, bytes_max: int = 1000
) -> None:
    async def life() -> None:
        clock = SetClock(1_000_000.0)
        files = ImageFiles(folder, bytes_max=bytes_max, age_s_max=100.0, clock=clock)
        await files.start()
        await story(files, clock)

    asyncio.run(life())


def test_an_image_outlives_its_process_and_a_later_attempt_replaces_it(tmp_path: Path) -> None:
    async def write(files: ImageFiles, clock: SetClock) -> None:
        await files.write(task_id(1), image(10))
        await files.write(task_id(1), image(20, image_format="webp"))
        assert files.bytes_stored == 20

    async def read(files: ImageFiles, clock: SetClock) -> None:
        assert files.bytes_stored == 20
        assert await files.read(task_id(1)) == (b"x" * 20, "image/webp")
        assert [path.name for path in tmp_path.iterdir()] == [f"{task_id(1)}.webp"]

    run(tmp_path, write)
    run(tmp_path, read)


def test_the_oldest_go_beyond_the_byte_cap(tmp_path: Path) -> None:
    async def story(files: ImageFiles, clock: SetClock) -> None:
        for number in (1, 2, 3):
            clock.now += 1.0
            assert await files.write(task_id(number), image(300)) == ()
        assert await files.write(task_id(4), image(500)) == (task_id(1), task_id(2))
        assert files.bytes_stored == 800
        with pytest.raises(ImageGone):
            await files.read(task_id(1))
        assert await files.write(task_id(5), image(5000)) == (task_id(3), task_id(4))
        assert (await files.read(task_id(5)))[1] == "image/png"

    run(tmp_path, story)


def test_old_images_go_by_age_also_after_a_restart(tmp_path: Path) -> None:
    async def story(files: ImageFiles, clock: SetClock) -> None:
        await files.write(task_id(1), image(10))
        clock.now += 60.0
        await files.write(task_id(2), image(10))
        again = ImageFiles(tmp_path, bytes_max=1000, age_s_max=100.0, clock=clock)
        clock.now += 60.0
        assert await again.start() == (task_id(1),)
        clock.now += 60.0
        assert await again.evict() == (task_id(2),)
        assert again.bytes_stored == 0

    run(tmp_path, story)


@pytest.mark.parametrize("jump_s", [1e6, -9e5])
def test_images_are_as_old_as_they_were_when_the_clock_has_jumped(
    tmp_path: Path, jump_s: float
) -> None:
    async def story(files: ImageFiles, clock: SetClock) -> None:
        await files.write(task_id(1), image(10))
        clock.now += 60.0
        await files.write(task_id(2), image(10))
        clock.now += jump_s
        for shift_s in (jump_s, 0.0):  # a second start finds them dated anew
            again = ImageFiles(tmp_path, bytes_max=1000, age_s_max=100.0, clock=clock)
            assert await again.start(shift_s=shift_s) == ()
        clock.now += 60.0
        assert await again.evict() == (task_id(1),)

    run(tmp_path, story)


def test_an_image_that_was_dated_in_the_future_is_as_old_as_this_life(tmp_path: Path) -> None:
    async def story(files: ImageFiles, clock: SetClock) -> None:
        await files.write(task_id(1), image(10))
        clock.now -= 5000.0
        again = ImageFiles(tmp_path, bytes_max=1000, age_s_max=100.0, clock=clock)
        assert await again.start() == ()
        clock.now += 99.0
        assert await again.evict() == ()
        clock.now += 2.0
        assert await again.evict() == (task_id(1),)

    run(tmp_path, story)


def test_strangers_are_left_alone_and_torn_writes_removed(tmp_path: Path) -> None:
    strangers = {"holiday.png", "notes.txt", f"{task_id(1)}.gif", f"{task_id(1)}"}
    for name in strangers:
        (tmp_path / name).write_bytes(b"y" * 5000)
    for torn in (".png.partial", ".png.writing-0.partial", ".webp.writing-12.partial"):
        (tmp_path / f"{task_id(2)}{torn}").write_bytes(b"half")
    (tmp_path / f"{task_id(3)}.png").symlink_to(tmp_path / "holiday.png")

    async def story(files: ImageFiles, clock: SetClock) -> None:
        assert files.bytes_stored == 0
        await files.write(task_id(4), image(2000))

    run(tmp_path, story)
    kept = strangers | {f"{task_id(3)}.png", f"{task_id(4)}.png"}
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize(
    "hostile",
    ["", "..", "../orin-a-01J00000000000000000000001", "/etc/passwd", "a/../../b", "a\0b", "-x"],
)
def test_an_id_cannot_leave_the_folder(tmp_path: Path, hostile: str) -> None:
    async def story(files: ImageFiles, clock: SetClock) -> None:
        with pytest.raises(ValueError, match="is no task id"):
            await files.write(TaskId(hostile), image(10))
        with pytest.raises(ImageGone):
            await files.read(TaskId(hostile))

    run(tmp_path, story)


def test_attempts_of_one_task_at_once_leave_one_whole_image(tmp_path: Path) -> None:
    async def story(files: ImageFiles, clock: SetClock) -> None:
        await asyncio.gather(*(files.write(task_id(1), image(size)) for size in range(1, 30)))
        content, _ = await files.read(task_id(1))
        assert len(content) == files.bytes_stored

    run(tmp_path, story)


def test_writes_do_not_wait_for_each_others_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(4)
    synced = os.fsync

    def slow(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            together.wait(timeout=10.0)  # broken unless four are under way at once
        synced(descriptor)

    async def story(files: ImageFiles, clock: SetClock) -> None:
        monkeypatch.setattr(os, "fsync", slow)
        await asyncio.gather(*(files.write(task_id(number), image(10)) for number in range(4)))
        assert files.bytes_stored == 40

    run(tmp_path, story)


def test_what_was_written_last_is_read_from_memory_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "_RECENT_BYTES_MAX", 25)

    async def story(files: ImageFiles, clock: SetClock) -> None:
        for number in (1, 2, 3):
            await files.write(task_id(number), image(10))
        await files.write(task_id(3), image(5, image_format="webp"))
        for path in tmp_path.iterdir():
            path.unlink()
        assert await files.read(task_id(2)) == (b"x" * 10, "image/png")
        assert await files.read(task_id(3)) == (b"x" * 5, "image/webp")
        with pytest.raises(ImageGone):
            await files.read(task_id(1))
        await files.remove([task_id(2)])
        with pytest.raises(ImageGone):
            await files.read(task_id(2))

    run(tmp_path, story)


def test_a_name_is_on_disk_when_a_sync_that_began_later_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sync under way, which saw nothing of those that ask meanwhile: they share the next."""
    begun, go_on = threading.Event(), threading.Event()
    syncs = []
    synced = os.fsync

    def slow(descriptor: int) -> None:
        syncs.append(descriptor)
        begun.set()
        assert go_on.wait(10.0)
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    folder = FolderSync(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(folder.sync)
        assert begun.wait(10.0)
        others = [threads.submit(folder.sync) for _ in range(7)]
        time.sleep(0.1)
        assert not any(other.done() for other in others)
        go_on.set()
        for ended in (first, *others):
            ended.result(10.0)
    assert len(syncs) == 2


def test_the_oldest_make_room_but_for_those_just_stored(tmp_path: Path) -> None:
    async def story(files: ImageFiles, clock: SetClock) -> None:
        for number in range(4):
            await files.write(task_id(number), image(10))
            clock.now += 25.0
        assert await files.shed(15) == 20
        assert files.bytes_stored == 20
        for gone in (0, 1):
            with pytest.raises(ImageGone):
                await files.read(task_id(gone))
        assert await files.shed(1000) == 0  # the others are younger than a minute
        clock.now += 20.0
        assert await files.shed(1000) == 10

    run(tmp_path, story)


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_words_leave_an_image_that_is_as_old_as_before(tmp_path: Path, image_format: str) -> None:
    drawn = encode(
        PillowImage.new("RGB", (8, 8), "red"),
        image_format=image_format,
        texts={"parameters": "a boat"},
    )
    words = b"a boat" if image_format == "png" else "a boat".encode("utf-16-be")
    assert words in drawn
    told = Image(content=drawn, format=image_format, width_px=8, height_px=8)

    async def story(files: ImageFiles, clock: SetClock) -> None:
        await files.write(task_id(1), told)
        await files.write(task_id(2), image(20, image_format="webp"))
        clock.now += 60.0
        await files.forget_words([task_id(1), task_id(2), task_id(3)])
        content, _ = await files.read(task_id(1))
        assert words not in content
        assert (tmp_path / f"{task_id(1)}.{image_format}").read_bytes() == content
        assert len(list(tmp_path.iterdir())) == 2
        assert files.bytes_stored == len(content) + 20
        clock.now += 41.0
        assert await files.evict() == (task_id(1), task_id(2)), "in the order of their age"

    run(tmp_path, story)


def test_what_cannot_be_removed_while_the_folder_is_away_is_removed_when_asked_again(
    tmp_path: Path,
) -> None:
    folder, elsewhere = tmp_path / "images", tmp_path / "elsewhere"

    async def story(files: ImageFiles, clock: SetClock) -> None:
        await files.write(task_id(1), image(10))
        folder.rename(elsewhere)
        with pytest.raises(FileNotFoundError):
            await files.remove([task_id(1)])
        elsewhere.rename(folder)
        await files.remove([task_id(1)])
        assert list(folder.iterdir()) == []
        assert files.bytes_stored == 0

    run(folder, story)
