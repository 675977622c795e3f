"""Who was taken out of the cluster, in a file: so that a restart does not let anybody back in."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_node.clock import Clock
from edge_node.errors import InvalidRequest
from edge_node.json_text import parsed
from edge_node.removal import Removal
from edge_node.store.durable_file import write_durably

log = logging.getLogger(__name__)

AGAIN_S = 5.0


class RemovalFile:
    """What is in it, and what is to be.

    Args:
        path: of the file; none is there as long as nobody was removed.
        clock: dates it.

    Raises:
        InvalidRequest: it cannot be read; whoever is removed would be let in.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self.removals = _read(path)
        self._kept = self.removals
        self._changed = asyncio.Condition()
        self._wanted = asyncio.Event()

    def keep(self, removals: tuple[Removal, ...]) -> None:
        """These from now on; `kept` says when they are on disk."""
        self.removals = removals
        self._wanted.set()

    async def kept(self) -> None:
        """Waits until the last ones that were to be kept are on disk."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._kept == self.removals)

    async def run(self) -> None:
        """Writes until it is cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            removals = self.removals
            try:
                await asyncio.to_thread(self._write, removals)
            except OSError as problem:
                log.error("who was removed cannot be kept in %s: %s", self._path, problem)
                await asyncio.sleep(AGAIN_S)
                self._wanted.set()
                continue
            async with self._changed:
                self._kept = removals
                self._changed.notify_all()

    def _write(self, removals: tuple[Removal, ...]) -> None:
        text = json.dumps([asdict(one) for one in removals], indent=1)
        write_durably(self._path, text.encode(), modified_unix_s=self._clock.unix_s())


def _read(path: Path) -> tuple[Removal, ...]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as problem:
        raise InvalidRequest(f"{path} cannot be read: {problem}.") from None
    try:
        return tuple(map(_removal, parsed(content)))
    except (ValueError, TypeError, KeyError) as problem:
        raise InvalidRequest(
            f"{path} cannot be read ({problem}), so that this node does not know who was removed "
            "from the cluster. Delete it and remove them again, or let the others tell."
        ) from None


def _removal(said: Any) -> Removal:
    one = Removal(**said)
    texts = isinstance(one.node_id, str) and isinstance(one.address, str)
    if not (texts and isinstance(one.removed, bool) and isinstance(one.at_unix_s, float)):
        raise ValueError("it says something else")
    return one
