"""What was promised outlives a power cut, on a disk that loses whatever was not synced."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator

import pytest
import redis

from edge_node.clock import SystemClock
from edge_node.domain import TaskRecord
from edge_node.errors import StoreUnavailable
from edge_node.store.connection import StoreSettings
from edge_node.store.image_files import ImageFiles
from edge_node.store.init_images import InitImages
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from tests.set_clock import SetClock
from tests.store.forgetful_disk import ForgetfulDisk
from tests.store.records import finished, task, task_id
from tests.store.valkey_process import ValkeyProcess

pytestmark = pytest.mark.system

# Long beside what the store and the test do between two syncs.
SYNC_S = 0.1


class Store:
    """A Valkey on the disk, and one life of a node after the other."""

    def __init__(self, disk: ForgetfulDisk) -> None:
        self._disk = disk
        self._valkey = ValkeyProcess(disk.folder)
        self.socket_path = self._valkey.socket_path
        self.start()

    def start(self, *options: str, sync_s: float = SYNC_S) -> None:
        self._disk.slow_down(0.0)
        self._valkey.start(*options, environment=self._disk.environment())
        self._disk.slow_down(sync_s)

    def run(
        self, story: Callable[[TaskLedger], Awaitable[None]], *, command_timeout_s: float = 5.0
    ) -> None:
        async def life() -> None:
            settings = StoreSettings(url=self._valkey.url, command_timeout_s=command_timeout_s)
            ledger = TaskLedger(LedgerSettings(store=settings), clock=SetClock(1_000_000.0))
            await ledger.connect()
            try:
                await story(ledger)
            finally:
                self.kill()
                await ledger.close()

        asyncio.run(life())

    def kill(self) -> None:
        self._valkey.kill()

    def come_back(self) -> None:
        """After a power cut."""
        self.kill()
        self._disk.cut_power()
        self.start()


@pytest.fixture
def store(forgetful_disk: ForgetfulDisk) -> Iterator[Store]:
    made = Store(forgetful_disk)
    yield made
    made.kill()


def test_an_accepted_task_outlives_a_power_cut(store: Store) -> None:
    recovered: list[TaskRecord] = []

    async def accept(ledger: TaskLedger) -> None:
        await ledger.append_accepted([task(1)], job_id=None, idempotency=None)

    async def recover(ledger: TaskLedger) -> None:
        recovered.extend(await ledger.recover(term=2))

    store.run(accept)
    store.come_back()
    store.run(recover)
    assert [record.task.id for record in recovered] == [task_id(1)]


def test_an_end_that_was_told_outlives_a_power_cut(store: Store) -> None:
    read: list[TaskRecord | None] = []

    async def end(ledger: TaskLedger) -> None:
        await ledger.append_final(finished(task(1)))

    async def look(ledger: TaskLedger) -> None:
        read.append(await ledger.read(task_id(1)))

    store.run(end)
    store.come_back()
    store.run(look)
    assert read == [finished(task(1))]


def test_an_incarnation_is_never_given_out_again_after_a_power_cut(store: Store) -> None:
    given: list[int] = []

    async def begin(ledger: TaskLedger) -> None:
        given.append(await ledger.next_incarnation())

    store.run(begin)
    store.come_back()
    store.run(begin)
    # By a clock that stands still, which would else hide the loss of the counter.
    assert given[1] > given[0]


def test_what_a_store_said_yes_to_before_it_synced_is_lost(store: Store) -> None:
    """The loss that all the others are spared: else they would show nothing."""
    store.kill()
    store.start("--appendfsync", "everysec", sync_s=5.0)
    with redis.Redis(unix_socket_path=str(store.socket_path)) as client:
        assert client.set("a", "yes")
    store.come_back()
    with redis.Redis(unix_socket_path=str(store.socket_path)) as client:
        assert client.get("a") is None


def test_a_disk_that_does_not_sync_in_time_is_no_yes(store: Store) -> None:
    async def accept(ledger: TaskLedger) -> None:
        with pytest.raises(StoreUnavailable):
            await ledger.append_accepted([task(1)], job_id=None, idempotency=None)

    store.kill()
    store.start(sync_s=5.0)
    store.run(accept, command_timeout_s=0.5)


# Files.

WRITE_IMAGE = """
from edge_node.domain import Image
from edge_node.store.image_files import ImageFiles
files = ImageFiles(folder, bytes_max=1000, age_s_max=1e9, clock=SystemClock())
image = Image(content=b"the image", format="png", width_px=64, height_px=64)
asyncio.run(files.write(sys.argv[2], image))
"""

WRITE_INIT_IMAGE = """
from edge_node.store.init_images import InitImages
images = InitImages(folder, bytes_max=1000, keep_s_max=1e9, clock=SystemClock())
for until_unix_s in sys.argv[3:]:
    asyncio.run(images.write(sys.argv[2], b"it", needed_until_unix_s=float(until_unix_s)))
"""


def written_by_a_process(disk: ForgetfulDisk, source: str, *arguments: str) -> None:
    """Runs it until it has written, and cuts the power."""
    begin = "import asyncio, pathlib, sys\nfrom edge_node.clock import SystemClock\n"
    begin += "folder = pathlib.Path(sys.argv[1])\n"
    command = [sys.executable, "-c", begin + source, str(disk.folder), *arguments]
    subprocess.run(command, env={**os.environ, **disk.environment()}, check=True)
    disk.cut_power()


def test_a_stored_image_outlives_a_power_cut(forgetful_disk: ForgetfulDisk) -> None:
    written_by_a_process(forgetful_disk, WRITE_IMAGE, task_id(1))

    async def look() -> None:
        files = ImageFiles(
            forgetful_disk.folder, bytes_max=1000, age_s_max=1e9, clock=SetClock(1_000_000.0)
        )
        await files.start()
        assert await files.read(task_id(1)) == (b"the image", "image/png")

    asyncio.run(look())


@pytest.mark.parametrize("longer", [False, True])
def test_an_init_image_and_its_deadline_outlive_a_power_cut(
    forgetful_disk: ForgetfulDisk, longer: bool
) -> None:
    sha256 = hashlib.sha256(b"it").hexdigest()
    until_unix_s = SystemClock().unix_s() + 1000.0
    untils_unix_s = [until_unix_s, until_unix_s + 1000.0][: 1 + longer]
    written_by_a_process(forgetful_disk, WRITE_INIT_IMAGE, sha256, *map(str, untils_unix_s))

    async def look() -> None:
        clock = SetClock(1_000_000.0)
        images = InitImages(forgetful_disk.folder, bytes_max=1000, keep_s_max=1.0, clock=clock)
        await images.start()
        clock.now = untils_unix_s[-1] - 1.0
        await images.evict()
        assert await images.read(sha256) == b"it"

    asyncio.run(look())


def test_a_file_that_was_not_synced_is_lost_with_its_name(forgetful_disk: ForgetfulDisk) -> None:
    """The losses that all the others are spared."""
    source = """
import os
(folder / "a").write_bytes(b"never synced")
with (folder / "b").open("wb") as file:
    file.write(b"synced")
    file.flush()
    os.fsync(file.fileno())
    file.write(b", and more")
(folder / "c").write_bytes(b"not synced")
folder_descriptor = os.open(folder, os.O_RDONLY)
os.fsync(folder_descriptor)
(folder / "b").rename(folder / "d")
"""
    written_by_a_process(forgetful_disk, source)
    found = {path.name: path.read_bytes() for path in forgetful_disk.folder.iterdir()}
    assert found == {"a": b"", "b": b"synced", "c": b""}
