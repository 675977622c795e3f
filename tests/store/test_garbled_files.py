"""A real store's files, garbled in many ways: mended, or a sentence; what was lost is named."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_node.clock import SystemClock
from edge_node.domain import TaskRecord, TaskStatus
from edge_node.errors import StoreUnavailable
from edge_node.store.append_only import FOLDER
from edge_node.store.connection import StoreSettings
from edge_node.store.repair import mend_store
from edge_node.store.task_ledger import LedgerSettings, TaskLedger
from tests.store.records import task, task_id
from tests.store.valkey_process import ValkeyProcess

TASKS = 12
INCREMENTAL = "appendonly.aof.1.incr.aof"
BASE = "appendonly.aof.1.base.rdb"
MANIFEST = "appendonly.aof.manifest"


@pytest.fixture
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node's data folder; its store kept twelve tasks and was killed."""
    folder = tmp_path_factory.mktemp("g")
    (folder / "store").mkdir()
    process = ValkeyProcess(folder / "store")
    process.start()
    try:
        asyncio.run(with_ledger(process, fill))
    finally:
        process.kill()
    return folder


async def with_ledger(process: ValkeyProcess, do: Callable[[TaskLedger], object]) -> object:
    settings = LedgerSettings(store=StoreSettings(url=process.url))
    ledger = TaskLedger(settings, clock=SystemClock())
    await ledger.connect()
    try:
        return await do(ledger)  # type: ignore[misc]
    finally:
        await ledger.close()


async def fill(ledger: TaskLedger) -> None:
    for number in range(TASKS):
        one = task(number)
        await ledger.append_accepted([one], job_id=None, idempotency=None)
        await ledger.append_final(
            TaskRecord(task=one, status=TaskStatus.COMPLETED, finished_unix_s=1000.0 + number)
        )


def kept_tasks(folder: Path) -> list[int]:
    """Starts the store again on what is there; which tasks it knows."""
    process = ValkeyProcess(folder / "store")
    process.start()

    async def read(ledger: TaskLedger) -> list[int]:
        return [number for number in range(TASKS) if await ledger.read(task_id(number))]

    try:
        found = asyncio.run(with_ledger(process, read))
    finally:
        process.kill()
    assert isinstance(found, list)
    return found


def file(folder: Path, name: str = INCREMENTAL) -> Path:
    return folder / "store" / FOLDER / name


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as opened:
        opened.seek(at)
        opened.write(content)


def appended(content: bytes) -> Callable[[Path], None]:
    def garble(folder: Path) -> None:
        with file(folder).open("ab") as opened:
            opened.write(content)

    return garble


def cut(count: int) -> Callable[[Path], None]:
    def garble(folder: Path) -> None:
        path = file(folder)
        os.truncate(path, path.stat().st_size - count)

    return garble


def tail_overwritten(folder: Path) -> None:
    path = file(folder)
    overwrite(path, path.stat().st_size - 300, bytes(300))


def manifest_lost(folder: Path) -> None:
    file(folder, MANIFEST).unlink()


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def garble(folder: Path) -> None:
        file(folder, name).write_bytes(content)

    return garble


def manifest_renamed(folder: Path) -> None:
    file(folder, MANIFEST).rename(file(folder, "appendonly.manifest"))


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: file(folder, name).unlink()


def a_folder(name: str) -> Callable[[Path], None]:
    def garble(folder: Path) -> None:
        file(folder, name).unlink()
        file(folder, name).mkdir()

    return garble


def halved(folder: Path) -> None:
    os.truncate(file(folder, BASE), 44)


def zeros_within(folder: Path) -> None:
    overwrite(file(folder, BASE), 30, bytes(20))


HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 40
WRONG_NAMES = b"""file appendonly.aof.9.base.rdb seq 9 type b
file appendonly.aof.9.incr.aof seq 9 type i
"""


ALL = list(range(TASKS))


@pytest.mark.parametrize(
    ("garble", "kept", "lost"),
    [
        (appended(bytes(4096)), ALL, []),
        (appended(b"\xff\xfe garbage \r\n" * 30), ALL, []),
        (appended(b"*5\r\n$4\r\nHSET\r\n$40\r\ndedgeai:ledger:ta"), ALL, []),
        (cut(3), ALL, [TASKS - 1]),
        (cut(200), ALL, [TASKS - 1]),
        (tail_overwritten, ALL, [TASKS - 1]),
        (manifest_lost, ALL, []),
        (written(MANIFEST, bytes(100)), ALL, []),
        (written(MANIFEST, b""), ALL, []),
        (written(MANIFEST, HTML), ALL, []),
        (manifest_renamed, ALL, []),
        (a_folder(MANIFEST), ALL, []),
        (written(INCREMENTAL, HTML), [], []),
        (written(INCREMENTAL, bytes(2000)), [], []),
    ],
    ids=[
        *("zeros", "garbage", "half", "cut 3", "cut 200", "zeroed", "no manifest"),
        *("zeros as manifest", "empty manifest", "HTML as manifest", "manifest of another name"),
        *("folder as manifest", "HTML as commands", "zeros as commands"),
    ],
)
def test_what_a_power_cut_leaves_is_mended_at_the_start(
    node_folder: Path, garble: Callable[[Path], None], kept: list[int], lost: list[int]
) -> None:
    garble(node_folder)
    is_there = file(node_folder, MANIFEST).is_file()
    began_s = time.monotonic()
    mended = mend_store(node_folder)
    assert time.monotonic() - began_s < 5.0
    assert len(mended.sentences) == 1
    assert list(mended.lost_task_ids) == [task_id(number) for number in lost]
    aside = node_folder / "store" / "damaged"
    assert aside.exists() is is_there
    assert kept_tasks(node_folder) == kept
    assert mend_store(node_folder).sentences == ()


def test_a_whole_store_is_left_alone(node_folder: Path) -> None:
    before = file(node_folder).read_bytes()
    assert mend_store(node_folder).sentences == ()
    assert file(node_folder).read_bytes() == before
    assert mend_store(node_folder / "elsewhere").sentences == ()


def in_the_middle(folder: Path, content: bytes) -> list[int]:
    """Overwrites where the fifth task was accepted; whose records that hits."""
    path = file(folder)
    at = path.read_bytes().index(str(task_id(5)).encode())
    overwrite(path, at - 10, content)
    return [5]


@pytest.mark.parametrize(
    "content",
    [os.urandom(64), bytes(64), b"\r\n*1\r\n$4\r\nEXEC\r\n" * 3],
    ids=["random", "zeros", "like commands"],
)
def test_damage_in_the_middle_is_a_sentence_and_mended_by_word(
    node_folder: Path, content: bytes
) -> None:
    in_the_middle(node_folder, content)
    with pytest.raises(StoreUnavailable, match=r"is damaged at byte \d+.*dedgeai store-repair"):
        mend_store(node_folder)
    mended = mend_store(node_folder, everything=True)
    assert set(mended.lost_task_ids) <= {task_id(4), task_id(5), task_id(6)}
    assert task_id(5) in mended.lost_task_ids
    known = kept_tasks(node_folder)
    assert set(ALL) - set(known) <= {5}
    assert mend_store(node_folder).sentences == ()


@pytest.mark.parametrize(
    ("garble", "said", "kept"),
    [
        (gone(BASE), f"lacks {BASE}", ALL),
        (a_folder(BASE), f"lacks {BASE}", ALL),
        (written(BASE, bytes(88)), r"is no database file: it begins with b'\\x00", ALL),
        (written(BASE, HTML), "is no database file: it begins with b'<!DOCT'", ALL),
        (written(BASE, b""), "is no database file: it begins with b''", ALL),
        (written(MANIFEST, WRONG_NAMES), "lacks appendonly.aof.9.base.rdb, appendonly", ALL),
        (gone(INCREMENTAL), f"lacks {INCREMENTAL}", []),
        (a_folder(INCREMENTAL), f"lacks {INCREMENTAL}", []),
    ],
    ids=[
        *("no base", "folder as base", "zeros as base", "HTML as base", "empty base"),
        *("wrong names", "no commands", "folder as commands"),
    ],
)
def test_what_is_gone_or_cannot_be_read_is_a_sentence_and_mended_by_word(
    node_folder: Path, garble: Callable[[Path], None], said: str, kept: list[int]
) -> None:
    garble(node_folder)
    began_s = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"{said}.*dedgeai store-repair"):
        mend_store(node_folder)
    assert time.monotonic() - began_s < 5.0
    assert len(mend_store(node_folder, everything=True).sentences) == 1
    assert kept_tasks(node_folder) == kept
    assert mend_store(node_folder, everything=True).sentences == ()


@pytest.mark.parametrize("garble", [halved, zeros_within])
def test_a_base_that_only_begins_as_one_is_found_by_the_stores_own_check(
    node_folder: Path, garble: Callable[[Path], None]
) -> None:
    garble(node_folder)
    mended = mend_store(node_folder, everything=True)
    assert re.search(r"is empty now; as it was: \S+damaged", mended.sentences[0])
    assert kept_tasks(node_folder) == ALL  # which were in the other file
    assert mend_store(node_folder, everything=True).sentences == ()


@pytest.mark.parametrize("emptied", [True, False])
def test_a_store_that_was_emptied_is_told_where_the_node_has_lived(
    node_folder: Path, emptied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    mend_store(node_folder, lived=True)
    assert caplog.text == ""
    for path in (node_folder / "store" / FOLDER).iterdir():
        if not emptied:
            path.unlink()
        elif path.name == INCREMENTAL:
            os.truncate(path, 0)
    mend_store(node_folder)
    assert caplog.text == ""
    mend_store(node_folder, lived=True)
    assert "holds nothing, though this node has lived" in caplog.text
    assert kept_tasks(node_folder) == []
