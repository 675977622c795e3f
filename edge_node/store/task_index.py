"""The index of tasks that are over, by when they were accepted: for whoever lists them.

Owns the keys below, and reading them a page at a time. Entries come with a task's end and leave
with the task, in the scripts that write and remove it. Open tasks are in no index: they are in
memory.

Keys, under the ledger's prefix:

    listed                    sorted set of the ids of final tasks, by when they were accepted
    listed:client:<client>    the same of one API key's
    listed:status:<status>    the same of the failed and of the cancelled, which are few

When is in unix seconds. Which of them a task is in is in its hash, under `lists`, unless it is in
the first alone.
"""

from __future__ import annotations

from edge_node.domain import TaskId, TaskRecord, TaskStatus
from edge_node.listing import Listed, Place, TaskFilter, TaskPage, joined
from edge_node.store.connection import Command, StoreConnection
from edge_node.store.record_codec import UnreadableRecord, decode_record

# Records read at once where not all of them are wanted, and most that are looked at for one page:
# where few are wanted, a page may be short, or empty, and more follow.
AT_ONCE = 250
LOOKED_AT_MAX = 500
EVERY = "listed"
RARE = frozenset({TaskStatus.FAILED, TaskStatus.CANCELLED})


def lists_of(record: TaskRecord) -> list[str]:
    """Names of the lists that a task is in once it is over."""
    lists = [EVERY]
    if record.task.client:
        lists.append(f"{EVERY}:client:{record.task.client}")
    if record.status in RARE:
        lists.append(f"{EVERY}:status:{record.status}")
    return lists


def lists_for(wanted: TaskFilter) -> list[str]:
    """Names of the lists that together have all that is wanted, and as little else as may be."""
    over = {status for status in wanted.statuses if status.is_final}
    if wanted.statuses and over <= RARE:
        return [f"{EVERY}:status:{status}" for status in sorted(over)]
    return [f"{EVERY}:client:{wanted.client}" if wanted.client else EVERY]


class TaskIndex:
    """Of one ledger; its keys are those of task_ledger.py.

    Args:
        connection: the ledger's own.
        key_prefix: of every key.
    """

    def __init__(self, connection: StoreConnection, *, key_prefix: str) -> None:
        self._connection = connection
        self._prefix = key_prefix

    async def begin(self) -> None:
        """Takes in what a version without an index finished, by its end; lets go what it removed.

        Raises:
            StoreUnavailable: the store is away.
        """
        listed, finished = f"{self._prefix}{EVERY}", f"{self._prefix}finished"
        counts: list[Command] = [("ZCARD", listed), ("ZCARD", finished)]
        of_index, of_tasks = await self._connection.execute(counts, durable=False)
        if of_index == of_tasks:
            return
        take_in: Command = ("ZUNIONSTORE", listed, 2, listed, finished, "AGGREGATE", "MIN")
        let_go: Command = ("ZINTERSTORE", listed, 2, listed, finished, "WEIGHTS", 1, 0)
        await self._connection.execute([take_in, let_go], durable=False)

    async def page(self, wanted: TaskFilter, *, before: Place | None, count: int) -> TaskPage:
        """The newest `count` that are wanted and older than `before`; fewer where they are rare.

        Raises:
            StoreUnavailable: the store is away.
        """
        pages = [
            await self._page_of(f"{self._prefix}{name}", wanted, before=before, count=count)
            for name in lists_for(wanted)
        ]
        return joined(pages, count=count)

    async def _page_of(
        self, key: str, wanted: TaskFilter, *, before: Place | None, count: int
    ) -> TaskPage:
        at_once = AT_ONCE if wanted.statuses or wanted.model else count
        found: list[Listed] = []
        looked_at = 0
        while True:
            places = await self._places(key, before, at_once)
            for one in await self._records(places):
                if wanted.wants(one.record):
                    found.append(one)
                    if len(found) == count:
                        return TaskPage(listed=tuple(found), until=one.place)
            if len(places) < at_once:
                return TaskPage(listed=tuple(found))
            before = places[-1]
            looked_at += len(places)
            if looked_at >= LOOKED_AT_MAX:
                return TaskPage(listed=tuple(found), until=before)

    async def _places(self, key: str, before: Place | None, count: int) -> list[Place]:
        """The newest places before one; those of one moment are in the order of their ids."""
        below: str | float = "+inf" if before is None else f"({before.unix_s!r}"
        commands: list[Command] = [
            ("ZREVRANGEBYSCORE", key, below, "-inf", "WITHSCORES", "LIMIT", 0, count)
        ]
        if before is not None:  # a request's tasks are of one moment
            same = repr(before.unix_s)
            commands.append(("ZREVRANGEBYSCORE", key, same, same, "WITHSCORES"))
        older, *moment = await self._connection.execute(commands, durable=False)
        places = [] if before is None else [p for p in _as_places(moment[0]) if p < before]
        return [*places, *_as_places(older)][:count]

    async def _records(self, places: list[Place]) -> list[Listed]:
        reads: list[Command] = [
            ("HGET", f"{self._prefix}task:{place.task_id}", "record") for place in places
        ]
        texts = await self._connection.execute(reads, durable=False) if reads else []
        found = []
        for place, text in zip(places, texts, strict=True):
            try:
                if text is not None:
                    found.append(Listed(place=place, record=decode_record(text)))
            except UnreadableRecord:
                continue  # whoever reads the task is told
        return found


def _as_places(pairs: list[tuple[bytes, float]]) -> list[Place]:
    return [Place(float(score), TaskId(member.decode())) for member, score in pairs]
