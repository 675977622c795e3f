"""A real node, parts of which raise what nobody expects while a file names them.

Run as `python -m tests.faults.planted FILE node ...`: the `dedgeai` command with its plants.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_node import lasting, node
from edge_node.cli import main
from edge_node.store import housekeeping

# What raises, by the loop that it ends: as the node names loops in its log and metrics.
PLANTS = {
    "the clock": "edge_node.dispatch.timekeeper.Timekeeper._let_time_pass",
    "looking for the store": "edge_node.store.connection.StoreConnection._unfit_because",
    "writing tasks": "edge_node.store.task_ledger.TaskLedger._write_batch",
    "keeping the store": "edge_node.supervision.child_process.ChildProcess.wait",
    "keeping the worker": "edge_node.supervision.worker_process.WorkerProcess._silence",
    "following the worker": "edge_node.supervision.worker_process.WorkerProcess._hear",
    "housekeeping": "edge_node.store.housekeeping.Housekeeper.clean",
    "watching the disk": "edge_node.store.disk_watch.DiskWatch.look",
    "bounding the store": "edge_node.store.space.StoreSpace.look",
    "closing connections": "edge_node.api.connections.BoundedHttp.is_late",
    "gRPC health": "edge_node.dispatch.front_desk.FrontDesk.readiness",
    "moving tasks that wait": "edge_node.dispatch.timekeeper.Timekeeper._move_waiting",
    "taking drawings": "edge_node.dispatch.mover.Mover.look",
    "keeping the clock": "edge_node.clock_record.write_record",
    "slots": "edge_node.dispatch.placer.Placer.let_slot_pass",
    "gauges": "edge_node.dispatch.timekeeper.Timekeeper._observe",
    "writing latents": "edge_node.store.stored_latents.StoredLatents._write",
    "writing experience": "edge_node.store.experience_pool.ExperiencePool._write_batch",
    "sharing what is learned": "edge_node.learning.sharing.LearningShare.look",
    "feeding the guard": "edge_node.guard.feed.GuardFeed.look",
    "the link to": "edge_node.peering.client.PeerClient.exchange_state",
    "measuring the link to": "edge_node.tasks.membership.Membership.node_at",
    "discovery": "edge_node.peering.discovery.reachable_address",
    "keeping the learner": "edge_node.supervision.child_process.ChildProcess.wait",
}


def plant(target: str, planted: Callable[[], bool]) -> None:
    """Makes the function or method at `target` raise while `planted` says so."""
    module_name, _, name = target.rpartition(".")
    owner: Any
    try:
        owner = importlib.import_module(module_name)
    except ModuleNotFoundError:
        module_name, _, class_name = module_name.rpartition(".")
        owner = getattr(importlib.import_module(module_name), class_name)
    original = getattr(owner, name)

    def check() -> None:
        if planted():
            raise RuntimeError(f"planted in {name}")

    @functools.wraps(original)
    async def raising_later(*arguments: Any, **options: Any) -> Any:
        check()
        return await original(*arguments, **options)

    @functools.wraps(original)
    def raising(*arguments: Any, **options: Any) -> Any:
        check()
        return original(*arguments, **options)

    setattr(owner, name, raising_later if inspect.iscoroutinefunction(original) else raising)


def said(named: Path) -> str:
    """The loop that is to fail now, if any is."""
    return named.read_text() if named.exists() else ""


def quicken() -> None:
    """Failures follow each other soon, so that a test need not wait."""
    begin = lasting.Loops.__init__

    @functools.wraps(begin)
    def begun(self: lasting.Loops, **options: Any) -> None:
        begin(self, **{"patience": lasting.Patience(pause_s=0.05, failures_max=4), **options})

    lasting.Loops.__init__ = begun  # type: ignore[method-assign]
    housekeeping.HOUSEKEEPING_S = 0.2
    node.GIVE_UP_S = 3.0


if __name__ == "__main__":
    named = Path(sys.argv[1])
    for target in set(PLANTS.values()):
        plant(target, lambda target=target: PLANTS.get(said(named)) == target)  # type: ignore[misc]
    quicken()
    sys.exit(main(sys.argv[2:]))
