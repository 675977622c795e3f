"""The ledger of accepted tasks: which this node owes, and what became of them.

Owns the keys below and the order of writes. Two ways in: acceptances that are on disk before
they return, and a bounded write-behind for everything that a restart can do without. Steps,
queue positions and lease renewals are never written.

Keys, all under one prefix:

    incarnation        counter, raised at every start of the node
    term               counter, raised at every start: the first number of every fence
    task:<id>          hash: record (JSON), keyed (1 when an idempotency key came with it), job
    open               set of the ids of tasks that are not final
    dead               sorted set of the ids of tasks that were tried and given up, by their end
    finished           sorted set of the ids of final tasks, by the unix second of their end
    job:<id>           sorted set of the ids of a job's tasks, by their place in it
    key:<sha256>       JSON of an idempotency key's digest and ids; expires late, see `keys`
    keys               sorted set of these, by the unix second of their use: when they really expire
    prompted           sorted set of final tasks that still have their words, by their end
    erasing            hash: what still has to go of a task that was erased or lost its words
    callbacks          hash: where the end of a task is to be told, until it was
    rewrite, aged      counters of what was taken out, at once or by age, and is in the file yet
    refused:<id>       the acceptance that began with this task was taken back; expires
    redated            hash: jump of the clock for which times were moved last, and in which term

Those of the index of finished tasks: task_index.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge_node.attempt_codes import DEAD_LETTER_CODES
from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.domain import Durability, JobId, Task, TaskError, TaskId, TaskRecord, TaskStatus
from edge_node.errors import IdempotencyConflict, StoreUnavailable
from edge_node.json_text import parsed
from edge_node.lasting import Loops
from edge_node.listing import Place, TaskFilter, TaskPage
from edge_node.requests import AlreadyAccepted, Appended, Idempotency
from edge_node.store.background_writer import BackgroundWriter
from edge_node.store.connection import Command, StoreConnection, StoreSettings
from edge_node.store.erasures import Erasures
from edge_node.store.key_lives import FORGET_KEYS, KEY_LIVES, KEYS_AT_ONCE
from edge_node.store.ledger_scripts import ACCEPT, FORGET, KEEP, RETRACT
from edge_node.store.owed_callbacks import OwedCallbacks
from edge_node.store.pending_writes import Acceptance, PendingWrite, PendingWrites
from edge_node.store.record_codec import UnreadableRecord, decode_record, encode_record
from edge_node.store.redating import REDATE, Redating, redated
from edge_node.store.task_index import TaskIndex, lists_of
from edge_node.store.together import Together

_log = logging.getLogger(__name__)

# For how long an acceptance that was taken back is refused should it arrive yet: far longer than
# any socket holds what a closed connection had sent.
_REFUSED_S = 3600
# Between two writes that nobody waits for: a task that is quickly done is written once, and a round
# trip serves all that came meanwhile.
_WRITE_BEHIND_S = 0.05


@dataclass(frozen=True, kw_only=True)
class LedgerSettings:
    """Bounds of the ledger.

    Attributes:
        store: the connection.
        key_prefix: of every key; differs between nodes that share one store.
        pending_max: tasks in the write-behind; `pending_writes` says what is given up beyond.
        batch_max: tasks per write.
        idempotency_age_s_max: life of an idempotency key; at most as long as tasks are kept.
    """

    store: StoreSettings
    key_prefix: str = "dedgeai:ledger:"
    pending_max: int = 10_000
    batch_max: int = 64
    idempotency_age_s_max: int = 24 * 3600

    @classmethod
    def of(cls, config: NodeConfig, store_url: str) -> LedgerSettings:
        """From the node's settings, and where its store is."""
        return cls(
            store=StoreSettings(url=store_url),
            key_prefix=f"dedgeai:{config.node_id}:ledger:",
            idempotency_age_s_max=int(config.idempotency_keep_s),
        )


@dataclass(frozen=True, kw_only=True)
class _Retraction:
    """An acceptance whose fate is unknown and whose client was told no."""

    key_name: str
    key_value: str
    job_id: JobId | None
    task_ids: tuple[TaskId, ...]


class TaskLedger:
    """Durable memory of the tasks that this node accepted."""

    def __init__(
        self,
        settings: LedgerSettings,
        *,
        clock: Clock,
        on_pending_changed: Callable[[int], None] = lambda count: None,
        loops: Loops | None = None,
    ) -> None:
        """Connects nothing yet; `on_pending_changed` is told the write-behind's length."""
        self._settings = settings
        self._clock = clock
        self._on_pending_changed = on_pending_changed
        self._connection = StoreConnection(settings.store, loops=loops, vital=True)
        self._pending = PendingWrites(settings.pending_max)
        self._retractions: list[_Retraction] = []
        self._writer = BackgroundWriter(
            self._connection,
            self._write_batch,
            name="tasks",
            loops=loops,
            pause_s=_WRITE_BEHIND_S,
            vital=True,
        )
        self._together = Together(self._connection)
        self.erasures = Erasures(self._connection, key_prefix=settings.key_prefix, clock=clock)
        self.callbacks = OwedCallbacks(self._connection, key_prefix=settings.key_prefix)
        self._index = TaskIndex(self._connection, key_prefix=settings.key_prefix)

    @property
    def available(self) -> bool:
        """Whether a task could be accepted durably now."""
        return self._connection.available

    async def connect(self) -> None:
        """Starts the background work; a store that is away is no error, `available` tells."""
        await self._writer.start()

    async def close(self) -> None:
        """Stops the background work; what was not flushed is lost."""
        await self._writer.close()

    async def next_incarnation(self) -> int:
        """A number larger than in every earlier life of the node, durably.

        It counts from the seconds since 1970 at the first one: a device that takes the place of a
        dead one has an empty store and must not look like that one's past.

        Raises:
            StoreUnavailable: the store is away.
        """
        key = f"{self._settings.key_prefix}incarnation"
        first: Command = ("SET", key, int(self._clock.unix_s()), "NX")
        return int((await self._connection.execute([first, ("INCR", key)], durable=True))[1])

    async def append_accepted(
        self,
        tasks: Sequence[Task],
        *,
        job_id: JobId | None,
        idempotency: Idempotency | None,
    ) -> Appended | AlreadyAccepted:
        """Writes new tasks, all or none, and returns when they are on disk.

        Tasks that come with a key are recovered whatever their durability says: the client may
        ask again.

        Raises:
            IdempotencyConflict: the key was used with a different request.
            StoreUnavailable: the tasks are not accepted. Where the write's fate is unknown it is
                taken back before the ledger accepts anything else.
        """
        while self._retractions:
            await self._writer.write_once()
        task_ids = tuple(task.id for task in tasks)
        key_name, key_value = self._key_record(idempotency, task_ids=task_ids, job_id=job_id)
        prefix = self._settings.key_prefix
        refusal = self._refusal_key(task_ids)
        keys = (f"{prefix}open", key_name, self._job_key(job_id), refusal, f"{prefix}keys")
        arguments: list[str | int] = [
            key_value,
            KEY_LIVES * self._settings.idempotency_age_s_max,
            f"{prefix}task:",
            repr(self._clock.unix_s()),
        ]
        for task in tasks:
            arguments += [task.id, encode_record(TaskRecord(task=task))]
        try:
            accept: Command = ("EVAL", ACCEPT, len(keys), *keys, *arguments)
            earlier = await self._together.execute(accept)
        except (StoreUnavailable, asyncio.CancelledError):
            self._retractions.append(
                _Retraction(
                    key_name=key_name, key_value=key_value, job_id=job_id, task_ids=task_ids
                )
            )
            self._writer.wake()
            raise
        if earlier is None or idempotency is None:
            return Appended(task_ids=task_ids, job_id=job_id)
        return _already_accepted(earlier, idempotency)

    async def find_accepted(self, idempotency: Idempotency) -> AlreadyAccepted | None:
        """The tasks that a key brought in, if it did.

        Raises:
            IdempotencyConflict: the key was used with a different request.
            StoreUnavailable: the store is away.
        """
        while self._retractions:
            await self._writer.write_once()
        key_name, _ = self._key_record(idempotency, task_ids=(), job_id=None)
        earlier = (await self._connection.execute([("GET", key_name)], durable=False))[0]
        return None if earlier is None else _already_accepted(earlier, idempotency)

    def journal_accepted(self, tasks: Sequence[Task], *, job_id: JobId | None) -> None:
        """Hands the new tasks of one request to the write-behind, without waiting."""
        for index, task in enumerate(tasks):
            record = TaskRecord(task=replace(task, job_id=job_id))
            self._hold(record, acceptance=Acceptance(job_index=index))

    def note(self, record: TaskRecord) -> None:
        """Hands a placement or an end to the write-behind without waiting."""
        self._hold(record)

    async def append_final(self, record: TaskRecord) -> None:
        """Writes an end and returns when it is on disk.

        Raises:
            StoreUnavailable: it is held, and will be written when the store is back.
        """
        self._hold(record, durable=True)
        await self.written(record.task.id)

    async def written(self, task_id: TaskId) -> None:
        """Returns when what waits of a task now is written.

        Raises:
            StoreUnavailable: it is held, and will be written when the store is back.
        """
        held = self._pending.get(task_id)

        def is_held() -> bool:
            return held is not None and self._pending.get(task_id) is held

        while is_held():
            # Of all that wait for the write under way, the first writes for the others.
            await self._writer.write_once(while_needed=is_held)

    async def flush(self) -> None:
        """Returns when nothing waits to be written.

        Raises:
            StoreUnavailable: the store is away; everything is still held.
        """
        while self._pending or self._retractions:
            await self._writer.write_once()

    async def next_term(self) -> int:
        """Number of this life in fences: greater than in every earlier one, durably.

        Version 0.1.0 does not count terms, but what it numbers may reach into later ones; so the
        tasks that are open are asked, too.

        Raises:
            StoreUnavailable: the store is away.
        """
        key = f"{self._settings.key_prefix}term"
        task_ids = await self._open()
        reads: list[Command] = [("GET", key)]
        reads += [("HGET", self._task_key(task_id), "record") for task_id in task_ids]
        counted, *texts = await self._connection.execute(reads, durable=False)
        terms = [int(counted or 0)]
        for task_id, text in zip(task_ids, texts, strict=True):
            record = None if text is None else _readable(task_id, text)
            if record is not None:
                terms.append(record.task.term)
        term = max(terms) + 1
        await self._connection.execute([("SET", key, term)], durable=True)
        return term

    async def redate(self, shift_s: float, *, jump: str, term: int) -> Redating:
        """Moves the ends of all tasks by as much as the clock jumped since; durably, and once.

        Args:
            shift_s: to be added to stored times.
            jump: tells this jump from others.
            term: of this life; its tasks have the right times already.

        Raises:
            StoreUnavailable: the store is away.
        """
        prefix = self._settings.key_prefix
        dated = (f"{prefix}finished", self._dead, f"{prefix}keys", f"{prefix}prompted")
        keys = (f"{prefix}redated", *dated)
        move: Command = ("EVAL", REDATE, len(keys), *keys, jump, term, repr(shift_s))
        (since,) = await self._connection.execute([move], durable=True)
        return Redating(shift_s=shift_s, before_term=int(since))

    async def recover(self, *, term: int, redating: Redating | None = None) -> list[TaskRecord]:
        """The tasks of a former life that this one owes, oldest first, queued again.

        They are in `term` on disk before they are returned, so that no attempt of a former life can
        pass for one of this life. Tasks whose promise was their client's connection end as failed
        with `client_gone`. `redating` moves their times.

        Raises:
            StoreUnavailable: the store is away; nothing is recovered twice in one term.
        """
        await self._index.begin()
        task_ids = await self._open()
        recovered: list[TaskRecord] = []
        for start in range(0, len(task_ids), self._settings.batch_max):
            batch = task_ids[start : start + self._settings.batch_max]
            mended = await self._mend(batch, term=term, redating=redating)
            recovered += [record for record in mended if not record.status.is_final]
        return sorted(recovered, key=lambda record: record.task.created_unix_s)

    async def _open(self) -> list[TaskId]:
        open_key = f"{self._settings.key_prefix}open"
        members = (await self._connection.execute([("SMEMBERS", open_key)], durable=False))[0]
        return sorted(TaskId(member.decode()) for member in members)

    async def read(self, task_id: TaskId) -> TaskRecord | None:
        """What the ledger knows of a task, including what it has yet to write.

        Raises:
            StoreUnavailable: the store is away.
        """
        held = self._pending.get(task_id)
        if held is not None:
            return held.record
        command: Command = ("HGET", self._task_key(task_id), "record")
        text = (await self._connection.execute([command], durable=False))[0]
        return None if text is None else _readable(task_id, text)

    async def read_job(self, job_id: JobId) -> tuple[TaskId, ...] | None:
        """The tasks of a job in their order, without those that have expired.

        Raises:
            StoreUnavailable: the store is away.
        """
        command: Command = ("ZRANGE", self._job_key(job_id), 0, -1)
        members = (await self._connection.execute([command], durable=False))[0]
        return tuple(TaskId(member.decode()) for member in members) or None

    async def list_finished(
        self, wanted: TaskFilter, *, before: Place | None, count: int
    ) -> TaskPage:
        """Finished tasks, newest first; as TaskIndex.page.

        Raises:
            StoreUnavailable: the store is away.
        """
        return await self._index.page(wanted, before=before, count=count)

    async def info(self, *sections: str) -> list[dict[str, Any]]:
        """What the store says of itself.

        Raises:
            StoreUnavailable: the store is away.
        """
        commands: list[Command] = [("INFO", section) for section in sections]
        return await self._connection.execute(commands, durable=False)

    async def dead_letters(self, *, count_max: int) -> list[TaskRecord]:
        """The latest tasks that were tried and given up, and that nobody retried.

        Raises:
            StoreUnavailable: the store is away.
        """
        latest: Command = ("ZREVRANGE", self._dead, 0, count_max - 1)
        members = (await self._connection.execute([latest], durable=False))[0]
        records = [await self.read(TaskId(member.decode())) for member in members]
        return [record for record in records if record is not None]

    async def strike_dead_letter(self, task_id: TaskId) -> None:
        """Somebody retried it: it is listed no more.

        Raises:
            StoreUnavailable: the store is away.
        """
        await self._connection.execute([("ZREM", self._dead, task_id)], durable=False)

    async def expire(self, *, finished_before_unix_s: float, count_max: int) -> list[TaskId]:
        """Removes tasks that ended earlier, and jobs with their last task; oldest first.

        Raises:
            StoreUnavailable: the store is away.
        """
        finished = f"{self._settings.key_prefix}finished"
        until = f"({finished_before_unix_s!r}"
        oldest: Command = ("ZRANGEBYSCORE", finished, "-inf", until, "LIMIT", 0, count_max)
        members = (await self._connection.execute([oldest], durable=False))[0]
        task_ids = [TaskId(member.decode()) for member in members]
        if task_ids:
            prefix = self._settings.key_prefix
            indices = (self._dead, f"{prefix}prompted", f"{prefix}listed")
            forget: list[Command] = [
                ("EVAL", FORGET, 5, finished, self._task_key(task_id), *indices, task_id)
                for task_id in task_ids
            ]
            await self._connection.execute([*forget, ("INCR", f"{prefix}aged")], durable=False)
        return task_ids

    async def forget_keys(self) -> None:
        """Forgets idempotency keys that were used longer ago than they are kept.

        Raises:
            StoreUnavailable: the store is away.
        """
        used_before = repr(self._clock.unix_s() - self._settings.idempotency_age_s_max)
        keys = f"{self._settings.key_prefix}keys"
        forget: Command = ("EVAL", FORGET_KEYS, 1, keys, used_before, KEYS_AT_ONCE)
        while (await self._connection.execute([forget], durable=False))[0] == KEYS_AT_ONCE:
            pass

    async def _mend(
        self, task_ids: Iterable[TaskId], *, term: int, redating: Redating | None
    ) -> list[TaskRecord]:
        """Writes what a new life makes of open tasks, durably, and returns it."""
        reads: list[Command] = [
            ("HMGET", self._task_key(task_id), "record", "keyed") for task_id in task_ids
        ]
        mended: list[TaskRecord] = []
        replies = await self._connection.execute(reads, durable=False)
        for task_id, (text, keyed) in zip(task_ids, replies, strict=True):
            record = None if text is None else _readable(task_id, text)
            if record is not None:
                record = redated(record, redating)
                mended.append(self._in_new_life(record, keyed=bool(keyed), term=term))
        writes = [self._keep(record) for record in mended]
        if writes:
            await self._connection.execute(writes, durable=True)
        return mended

    def _in_new_life(self, record: TaskRecord, *, keyed: bool, term: int) -> TaskRecord:
        if record.task.durability is Durability.DISK or keyed:
            task = replace(record.task, term=term)
            return replace(
                record, task=task, status=TaskStatus.QUEUED, executor=None, started_unix_s=None
            )
        return replace(
            record,
            status=TaskStatus.FAILED,
            finished_unix_s=self._clock.unix_s(),
            error=TaskError(
                code="client_gone",
                message="The node restarted, which closed the connection that waited for it.",
            ),
        )

    def _hold(
        self, record: TaskRecord, *, acceptance: Acceptance | None = None, durable: bool = False
    ) -> None:
        write = PendingWrite(record=record, acceptance=acceptance, durable=durable)
        given_up = self._pending.put(write)
        if given_up is not None:
            level = logging.ERROR if given_up.record.status.is_final else logging.WARNING
            task, status = given_up.record.task, given_up.record.status
            _log.log(level, "write-behind is full: gave up %s of task %s", status, task.id)
        self._writer.wake()
        self._on_pending_changed(len(self._pending))

    async def _write_batch(self) -> bool:
        """Writes retractions and the next pending states, by the writer; whether more waits."""
        retractions = tuple(self._retractions)
        writes = self._pending.batch(self._settings.batch_max)
        commands = [self._retract(retraction) for retraction in retractions]
        commands += [self._keep(one.record, acceptance=one.acceptance) for one in writes]
        if commands:
            durable = bool(retractions) or any(write.durable for write in writes)
            await self._connection.execute(commands, durable=durable)
        del self._retractions[: len(retractions)]
        self._pending.confirm(writes)
        self._on_pending_changed(len(self._pending))
        return bool(self._pending or self._retractions)

    def _keep(self, record: TaskRecord, *, acceptance: Acceptance | None = None) -> Command:
        prefix, task = self._settings.key_prefix, record.task
        ended: str | float = ""
        if record.status.is_final:
            ended = record.finished_unix_s or 0.0
            if not 0.0 < ended < math.inf:
                ended = self._clock.unix_s()
        keys = (
            f"{prefix}open",
            f"{prefix}finished",
            self._task_key(task.id),
            self._job_key(task.job_id),
            self._dead,
            f"{prefix}prompted",
            *(f"{prefix}{name}" for name in lists_of(record)),
        )
        index = acceptance.job_index if acceptance else 0
        dead = record.error is not None and record.error.code in DEAD_LETTER_CODES
        text = encode_record(record)
        accepted = task.created_unix_s if math.isfinite(task.created_unix_s) else 0.0
        arguments = (task.id, text, ended, index, int(dead), repr(accepted))
        return ("EVAL", KEEP, len(keys), *keys, *arguments)

    @property
    def _dead(self) -> str:
        return f"{self._settings.key_prefix}dead"

    def _retract(self, retraction: _Retraction) -> Command:
        prefix = self._settings.key_prefix
        keys = (
            f"{prefix}open",
            retraction.key_name,
            self._job_key(retraction.job_id),
            self._refusal_key(retraction.task_ids),
            f"{prefix}keys",
        )
        head = (retraction.key_value, f"{prefix}task:", _REFUSED_S)
        return ("EVAL", RETRACT, len(keys), *keys, *head, *retraction.task_ids)

    def _key_record(
        self,
        idempotency: Idempotency | None,
        *,
        task_ids: Sequence[TaskId],
        job_id: JobId | None,
    ) -> tuple[str, str]:
        """Name and value of an idempotency key's record; empty without a key."""
        if idempotency is None:
            return "", ""
        # Hashed, because a client's key may be anything of any length.
        hashed = hashlib.sha256(idempotency.key.encode()).hexdigest()
        value = {
            "digest": idempotency.request_digest,
            "task_ids": list(task_ids),
            "job_id": job_id,
        }
        return f"{self._settings.key_prefix}key:{hashed}", json.dumps(value)

    def _task_key(self, task_id: TaskId) -> str:
        return f"{self._settings.key_prefix}task:{task_id}"

    def _refusal_key(self, task_ids: Sequence[TaskId]) -> str:
        return f"{self._settings.key_prefix}refused:{task_ids[0]}"

    def _job_key(self, job_id: JobId | None) -> str:
        return "" if job_id is None else f"{self._settings.key_prefix}job:{job_id}"


def _already_accepted(text: bytes, idempotency: Idempotency) -> AlreadyAccepted:
    earlier = parsed(text)
    if earlier["digest"] != idempotency.request_digest:
        raise IdempotencyConflict(
            "This Idempotency-Key was used before with a different request; use a new key."
        )
    job_id = earlier["job_id"]
    return AlreadyAccepted(
        task_ids=tuple(TaskId(task_id) for task_id in earlier["task_ids"]),
        job_id=None if job_id is None else JobId(job_id),
    )


def _readable(task_id: TaskId, text: bytes) -> TaskRecord | None:
    try:
        return decode_record(text)
    except UnreadableRecord as problem:
        _log.error("the ledger's record of task %s is unreadable: %s", task_id, problem)
        return None
