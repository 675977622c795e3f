"""Fills a node's store and image folder before it starts, as if it had drawn for days."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

from edge_node.clock import SystemClock
from edge_node.domain import Drawing, Task, TaskId, TaskRecord, TaskStatus
from edge_node.store.connection import StoreSettings
from edge_node.store.embedded_valkey import valkey_command, wait_until_ready
from edge_node.store.task_ledger import LedgerSettings, TaskLedger

# The ledger holds so many that are not written yet, and gives up what is above.
_CHUNK = 5000


def fill(folder: Path, *, node_id: str, count: int, image_bytes: int) -> None:
    """`count` finished tasks of `node_id`, each with an image, in a data folder that is not in use.

    What it leaves is what a node leaves: the same keys by the same code, the same files.
    """
    if not count:
        return
    socket_path = folder / "fill.sock"
    store = subprocess.Popen(
        valkey_command(folder / "store", socket_path), stdout=subprocess.DEVNULL
    )
    try:
        asyncio.run(_fill_store(socket_path, node_id=node_id, count=count))
    finally:
        store.terminate()
        store.wait(60)
    socket_path.unlink(missing_ok=True)
    images = folder / "images"
    images.mkdir(mode=0o700, parents=True)
    content = bytes(image_bytes)
    for number in range(count):
        (images / f"{_task_id(node_id, number)}.png").write_bytes(content)


def _task_id(node_id: str, number: int) -> TaskId:
    return TaskId(f"{node_id}-01J{number:023d}")


async def _fill_store(socket_path: Path, *, node_id: str, count: int) -> None:
    await wait_until_ready(socket_path, 30.0)
    settings = LedgerSettings(
        store=StoreSettings(url=f"unix://{socket_path}"),
        key_prefix=f"dedgeai:{node_id}:ledger:",
        batch_max=1000,
    )
    ledger = TaskLedger(settings, clock=SystemClock())
    await ledger.connect()
    for start in range(0, count, _CHUNK):
        for number in range(start, min(start + _CHUNK, count)):
            ledger.note(_finished(node_id, number))
        await ledger.flush()
    await ledger.close()


def _finished(node_id: str, number: int) -> TaskRecord:
    now_unix_s = time.time()
    drawing = Drawing(
        prompt=f"a small boat, number {number}, on a lake at dusk",
        width_px=256,
        height_px=256,
        steps=14,
        guidance_scale=5.0,
        seed=number,
        model="sd3-medium-emulated",
    )
    task = Task(
        id=_task_id(node_id, number),
        job_id=None,
        drawing=drawing,
        work=15.0,
        input_bits=800,
        created_unix_s=now_unix_s - 20.0,
    )
    return TaskRecord(
        task=task, status=TaskStatus.COMPLETED, finished_unix_s=now_unix_s, image_bytes=2000
    )
