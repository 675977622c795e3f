"""What has to leave the store and what is still owed elsewhere, through every crash.

Owns the ledger's keys for it. A task's record loses its content and what is owed beside it is noted
in one step, on disk before the answer; whoever carries it out reads it from there, and again after
a restart. Old values stay in the append-only file until it is written anew: see file_rewrite.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from edge_node.clock import Clock
from edge_node.domain import TaskId, TaskRecord
from edge_node.erasure import Owed, erased, has_words, owed_of, without_words
from edge_node.json_text import parsed
from edge_node.store.connection import Command, StoreConnection
from edge_node.store.file_rewrite import FileRewrite
from edge_node.store.ledger_scripts import ERASE, UNPROMPT
from edge_node.store.record_codec import UnreadableRecord, decode_record, encode_record
from edge_node.store.task_index import lists_of

_log = logging.getLogger(__name__)

# Records that are looked through together.
AT_ONCE = 200


class Erasures:
    """Of one ledger; its keys are those of task_ledger.py.

    Args:
        connection: the ledger's own.
        key_prefix: of every key.
        clock: says what age is.
    """

    def __init__(self, connection: StoreConnection, *, key_prefix: str, clock: Clock) -> None:
        self._connection = connection
        self._prefix = key_prefix
        self._clock = clock
        self._file = FileRewrite(connection, key_prefix=key_prefix, now_s=clock.now_s)

    async def begin(self) -> None:
        """Takes in the finished tasks of a version that did not note which still have words.

        Raises:
            StoreUnavailable: the store is away.
        """
        prompted, finished = f"{self._prefix}prompted", f"{self._prefix}finished"
        union: Command = ("ZUNIONSTORE", prompted, 2, prompted, finished, "AGGREGATE", "MAX")
        await self._connection.execute([union], durable=False)

    async def erase(self, record: TaskRecord) -> Owed:
        """Leaves of a task that is over only that it was there, durably; what is owed beside.

        Raises:
            StoreUnavailable: it may have been erased.
        """
        task_id, ended = record.task.id, record.finished_unix_s or self._clock.unix_s()
        owed = owed_of(record, whole=True, unix_s=self._clock.unix_s())
        names = ("open", "finished", f"task:{task_id}", "dead", "prompted", "erasing", "rewrite")
        keys = [f"{self._prefix}{name}" for name in (*names, *lists_of(record))]
        text, accepted = encode_record(erased(record)), record.task.created_unix_s
        arguments = (task_id, text, ended, repr(accepted), _encode(owed))
        script: Command = ("EVAL", ERASE, len(keys), *keys, *arguments)
        await self._connection.execute([script], durable=True)
        return owed

    async def take_words(self, *, finished_before_unix_s: float) -> list[TaskId]:
        """Takes the words out of the oldest records that ended earlier; those that lost theirs.

        Some of them: more may be there where any are returned.

        Raises:
            StoreUnavailable: the store is away.
        """
        until = f"({finished_before_unix_s!r}"
        prompted = f"{self._prefix}prompted"
        oldest: Command = ("ZRANGEBYSCORE", prompted, "-inf", until, "LIMIT", 0, AT_ONCE)
        members = (await self._connection.execute([oldest], durable=False))[0]
        task_ids = [TaskId(member.decode()) for member in members]
        reads: list[Command] = [("HGET", f"{self._prefix}task:{one}", "record") for one in task_ids]
        if not reads:
            return []
        texts = await self._connection.execute(reads, durable=False)
        writes = [self._take_words(*pair) for pair in zip(task_ids, texts, strict=True)]
        taken = await self._connection.execute(writes, durable=True)
        return [one for one, was_taken in zip(task_ids, taken, strict=True) if was_taken]

    async def owed(self) -> list[Owed]:
        """All that is still owed.

        Raises:
            StoreUnavailable: the store is away.
        """
        found = (
            await self._connection.execute([("HGETALL", f"{self._prefix}erasing")], durable=False)
        )[0]
        return [_decode(TaskId(task_id.decode()), text) for task_id, text in found.items()]

    async def settled(self, task_ids: Sequence[TaskId]) -> None:
        """Nothing is owed of these any more.

        Raises:
            StoreUnavailable: the store is away.
        """
        forget: Command = ("HDEL", f"{self._prefix}erasing", *task_ids)
        await self._connection.execute([forget], durable=False)

    async def rewrite_file(self) -> None:
        """Sees to it that what was taken out leaves the store's file, too, when it is time.

        Raises:
            StoreUnavailable: the store is away.
        """
        await self._file.look()

    def _take_words(self, task_id: TaskId, text: bytes | None) -> Command:
        words = ("dead", "prompted", "erasing", "aged")
        keys = [f"{self._prefix}{name}" for name in (f"task:{task_id}", *words)]
        without, owed = self._without(task_id, text)
        return ("EVAL", UNPROMPT, len(keys), *keys, task_id, text or b"", without, owed)

    def _without(self, task_id: TaskId, text: bytes | None) -> tuple[str, str]:
        """The record without words, and what is owed then; empty where there is nothing to do."""
        if text is None:
            return "", ""
        try:
            record = decode_record(text)
        except UnreadableRecord as problem:
            _log.error("the record of task %s stays as it is, unreadable: %s", task_id, problem)
            return "", ""
        if not has_words(record):
            return "", ""
        owed = owed_of(record, whole=False, unix_s=self._clock.unix_s())
        return encode_record(without_words(record)), _encode(owed)


def _encode(owed: Owed) -> str:
    return json.dumps([owed.init_image_sha256, owed.until_unix_s, owed.whole])


def _decode(task_id: TaskId, text: bytes) -> Owed:
    sha256, until_unix_s, whole = parsed(text)
    return Owed(
        task_id=task_id,
        init_image_sha256=str(sha256),
        until_unix_s=float(until_unix_s),
        whole=bool(whole),
    )
