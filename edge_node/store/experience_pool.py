"""The experience pool: a bounded stream of decisions and outcomes, written behind, read in order.

Owns the stream `<prefix>experience` and what waits to be written to it. Nothing that decides
waits for the store: notes go into a bounded buffer and leave it in batches. While the store is
away the buffer keeps the newest and counts what it gives up; numbers that the pool gives to
decisions show a reader the gap. A batch whose fate is unknown is written again, so an entry may
come twice. Joining entries is the learner's.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.experience_page import ExperiencePage
from edge_node.lasting import Loops
from edge_node.store.background_writer import BackgroundWriter
from edge_node.store.connection import Command, StoreConnection, StoreSettings
from edge_node.store.fill import PartFill
from scheduler.experience import PooledDecision, RecordedDecision
from scheduler.experience_codec import UnreadableExperience, decode, encode
from scheduler.policy import Outcome

_log = logging.getLogger(__name__)

FIRST_ID = "0-0"
# Two clocks of the day that differ by less are one.
CLOCK_NEAR_S = 2.0


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """Bounds of the pool.

    Attributes:
        store: the connection.
        node_id: whose pool; part of the key, for nodes may share a store.
        entries_max: of the stream, decisions and outcomes together; the store trims whole nodes of
            its stream, so that some hundred more may be there.
        waiting_max: entries in the write-behind.
        batch_max: entries per write.
        write_every_s: pause after a write, for every write is an fsync of the store.
    """

    store: StoreSettings
    node_id: str
    entries_max: int = 20_000
    waiting_max: int = 4_000
    batch_max: int = 256
    write_every_s: float = 0.2

    @classmethod
    def of(cls, config: NodeConfig, store_url: str) -> PoolSettings:
        """From the node's settings, and where its store is."""
        return cls(
            store=StoreSettings(url=store_url, connections_max=2),
            node_id=config.node_id,
            entries_max=config.experience_max,
        )

    @property
    def key(self) -> str:
        """Of the stream."""
        return f"dedgeai:{self.node_id}:experience"


class ExperiencePool:
    """Writes what this node decided and what became of it."""

    def __init__(
        self,
        settings: PoolSettings,
        *,
        clock: Clock,
        on_dropped: Callable[[int], None] = lambda count: None,
        loops: Loops | None = None,
    ) -> None:
        """Connects nothing yet; `on_dropped` is told how many entries were given up."""
        self._settings = settings
        self._on_dropped = on_dropped
        self._connection = StoreConnection(settings.store, loops=loops)
        self._waiting: deque[PooledDecision | Outcome] = deque()
        self._life = f"{int(clock.unix_s() * 1000):014d}-{secrets.token_hex(4)}"
        self._decisions = 0
        self._writer = BackgroundWriter(
            self._connection,
            self._write_batch,
            name="experience",
            loops=loops,
            pause_s=settings.write_every_s,
        )
        self.dropped = 0

    async def start(self) -> None:
        """Starts the background work; a store that is away is no error."""
        await self._writer.start()

    async def close(self) -> None:
        """Stops the background work; what was not flushed is lost."""
        await self._writer.close()

    def note_decision(self, recorded: RecordedDecision) -> None:
        """Takes a decision that was just made; the order of calls is the order of decisions."""
        pooled = PooledDecision(life=self._life, sequence=self._decisions, recorded=recorded)
        self._decisions += 1
        self._take(pooled)

    def note_outcome(self, outcome: Outcome) -> None:
        """Takes what became of an earlier decision."""
        self._take(outcome)

    async def flush(self) -> None:
        """Returns when nothing waits to be written.

        Raises:
            StoreUnavailable: the store is away; everything still waits.
        """
        while self._waiting:
            await self._writer.write_once()

    async def forget(self, task_id: str) -> None:
        """Removes what names a task: a reader sees a gap.

        Raises:
            StoreUnavailable: the store is away.
        """
        await self.flush()
        of_task, last_id = f"{task_id}/".encode(), FIRST_ID
        while True:
            read: Command = ("XRANGE", self._settings.key, f"({last_id}", "+", "COUNT", 1000)
            found = (await self._connection.execute([read], durable=False))[0]
            if not found:
                return
            last_id = found[-1][0].decode()
            named = [one for one, fields in found if fields.get(b"id", b"").startswith(of_task)]
            if named:
                forget: Command = ("XDEL", self._settings.key, *named)
                await self._connection.execute([forget], durable=False)

    async def fill(self) -> PartFill:
        """How full the stream is.

        Raises:
            StoreUnavailable: the store is away.
        """
        key = self._settings.key
        reads: list[Command] = [("XLEN", key), ("MEMORY", "USAGE", key)]
        entries, used_bytes = await self._connection.execute(reads, durable=False)
        share = entries / self._settings.entries_max
        return PartFill(part="experience", used_bytes=used_bytes or 0, share=share)

    def _take(self, entry: PooledDecision | Outcome) -> None:
        if len(self._waiting) >= self._settings.waiting_max:
            self._waiting.popleft()
            self.dropped += 1
            self._on_dropped(1)
        self._waiting.append(entry)
        self._writer.wake()

    async def _write_batch(self) -> bool:
        """Writes the oldest that wait, by the writer; whether more waits."""
        batch = list(islice(self._waiting, self._settings.batch_max))
        commands = [command for entry in batch if (command := self._add(entry))]
        if commands:
            await self._connection.execute(commands, durable=False)
        # While the write was under way, the buffer may have given up some of its oldest.
        for entry in batch:
            if self._waiting and self._waiting[0] is entry:
                self._waiting.popleft()
        return bool(self._waiting)

    def _add(self, entry: PooledDecision | Outcome) -> Command | None:
        """The command that writes an entry; None for what no entry can hold."""
        try:
            fields = [part for pair in encode(entry).items() for part in pair]
        except (TypeError, ValueError):
            # One odd decision must not end the writing of all others.
            _log.exception("an entry cannot be kept")
            self.dropped += 1
            self._on_dropped(1)
            return None
        bound = self._settings.entries_max
        return ("XADD", self._settings.key, "MAXLEN", "~", bound, "*", *fields)


@dataclass(frozen=True, kw_only=True)
class PoolPart:
    """Some entries of a pool, in the order of writing.

    Attributes:
        entries: those that could be read.
        last_id: where to go on.
        count: entries that were there, damaged ones included.
        damaged: entries that could not be read; they are skipped.
    """

    entries: tuple[PooledDecision | Outcome, ...]
    last_id: str
    count: int
    damaged: int


class PoolReader:
    """Reads a pool from outside of the node that writes it."""

    def __init__(self, settings: PoolSettings, connection: StoreConnection) -> None:
        """Reads over a connection that the caller starts and closes."""
        self._key = settings.key
        self._connection = connection

    async def read_since(self, last_id: str, count: int) -> PoolPart:
        """At most `count` entries after `last_id` (FIRST_ID for the oldest).

        Raises:
            StoreUnavailable: the store is away.
        """
        return decoded(await self.read_page(last_id, count))

    async def read_page(self, last_id: str, count: int) -> ExperiencePage:
        """The same, undecoded: as a learner on another device reads them.

        Raises:
            StoreUnavailable: the store is away.
        """
        read: Command = ("XRANGE", self._key, f"({last_id}", "+", "COUNT", count)
        found = (await self._connection.execute([read], durable=False))[0]
        return ExperiencePage(
            last=found[-1][0].decode() if found else last_id,
            entries=tuple(fields for _, fields in found),
        )


def decoded(page: ExperiencePage, *, unix_s: float | None = None) -> PoolPart:
    """What can be read of a page, dated by the reader's clock, which says `unix_s` now.

    Pools of several nodes are put in one order. Where another's clock is near ours it is left
    alone: what it is off is less than what the page took to come.
    """
    ahead_s = page.read_unix_s - unix_s if page.read_unix_s and unix_s is not None else 0.0
    if abs(ahead_s) <= CLOCK_NEAR_S:
        ahead_s = 0.0
    entries: list[PooledDecision | Outcome] = []
    for fields in page.entries:
        with contextlib.suppress(UnreadableExperience):
            entries.append(_dated(decode(fields), ahead_s))
    return PoolPart(
        entries=tuple(entries),
        last_id=page.last,
        count=len(page.entries),
        damaged=len(page.entries) - len(entries),
    )


def _dated(entry: PooledDecision | Outcome, ahead_s: float) -> PooledDecision | Outcome:
    if isinstance(entry, Outcome) or not ahead_s:
        return entry
    recorded = entry.recorded
    moved = replace(recorded, decided_unix_s=recorded.decided_unix_s - ahead_s)
    return replace(entry, recorded=moved)
