"""Callbacks: an end that is told to whoever asked for it, at an address that an operator allows.

Owns which addresses count, what is sent and how it is signed (Standard Webhooks 1.0), and when it
is tried again. A callback is on disk before its task's client hears yes, and comes at least once:
after a crash of the node perhaps twice, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import heapq
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge_node.api import schemas
from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.config_sources import InvalidConfig
from edge_node.domain import TaskId, TaskRecord
from edge_node.erasure import refuse_erased
from edge_node.errors import (
    AdmissionRefused,
    DEdgeAIError,
    InvalidRequest,
    TaskErased,
    TaskNotFound,
)
from edge_node.requests import Callback

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

URL_CHARS_MAX = 2000
# Not delivered yet, of all clients; each takes some 500 bytes.
OWED_MAX = 10_000
AT_ONCE_MAX = 8
ANSWER_S_MAX = 10.0
# Pauses before it is tried again; the last one for as long as callback_keep_s allows.
PAUSES_S = (5.0, 30.0, 120.0, 600.0, 3600.0)
SECRET_BYTES_MIN = 24
_SECRET_PREFIX = "whsec_"
_GONE = 410


class Owed(Protocol):
    """Keeps what is owed through a restart: store.owed_callbacks."""

    async def owe(self, task_ids: Sequence[TaskId], callback: Callback) -> None:
        """Durably; raises StoreUnavailable."""
        ...

    async def owed(self) -> dict[TaskId, Callback]:
        """All of it; raises StoreUnavailable."""
        ...

    async def settled(self, task_id: TaskId) -> None:
        """Nothing is owed of it any more; raises StoreUnavailable."""
        ...


@dataclass(frozen=True, kw_only=True)
class CallbackSettings:
    """What the operator says.

    Attributes:
        origins: where callbacks may go, as https://hooks.example.com; none: nowhere.
        secret: that signs them.
        keep_s: for how long one is tried that is not taken.
    """

    origins: Collection[str] = ()
    secret: bytes = b""
    keep_s: float = 86_400.0

    @classmethod
    def of(cls, config: NodeConfig) -> CallbackSettings:
        """From the node's settings; raises InvalidConfig where there is no secret to be read."""
        if config.callback_secret_file is None:
            raise InvalidConfig(
                [
                    "callback_origins needs callback_secret_file, by which receivers know who "
                    "sends: openssl rand -base64 32 makes a secret."
                ]
            )
        secret = secret_in(config.callback_secret_file)
        return cls(origins=config.callback_origins, secret=secret, keep_s=config.callback_keep_s)


def secret_in(path: Path) -> bytes:
    """The secret in a file: base64, perhaps behind whsec_.

    Raises:
        InvalidConfig: there is none that is long enough.
    """
    try:
        text = path.read_text(encoding="ascii").strip().removeprefix(_SECRET_PREFIX)
        secret = base64.b64decode(text, validate=True)
    except (OSError, ValueError) as error:
        raise InvalidConfig([f"callback_secret_file {path} has no secret: {error}."]) from None
    if len(secret) < SECRET_BYTES_MIN:
        raise InvalidConfig(
            [
                f"callback_secret_file {path} has {len(secret)} bytes in base64; at least "
                f"{SECRET_BYTES_MIN} are needed: openssl rand -base64 32 makes them."
            ]
        )
    return secret


def signature(secret: bytes, *, webhook_id: str, timestamp: int, body: bytes) -> str:
    """As Standard Webhooks 1.0 has it for a symmetric secret."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


class Callbacks:
    """Of tasks accepted here.

    Args:
        settings: the operator's.
        owed: what is not delivered yet, on disk.
        read_task: a task of this node.
        clock: when it is tried again, and what receivers are told of the time.
        on_over: told of each that is over: "delivered", "given_up" or "not_wanted".
    """

    def __init__(
        self,
        settings: CallbackSettings,
        *,
        owed: Owed,
        read_task: Callable[[TaskId], Awaitable[TaskRecord]],
        clock: Clock,
        on_over: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._store = owed
        self._read_task = read_task
        self._clock = clock
        self._on_over = on_over
        self._owed: dict[TaskId, Callback] = {}
        # When each whose task is over is tried next, and how often it was.
        self._due: list[tuple[float, TaskId, int]] = []
        self._more = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()

    @classmethod
    def of(
        cls,
        config: NodeConfig,
        owed: Owed,
        read_task: Callable[[TaskId], Awaitable[TaskRecord]],
        *,
        clock: Clock,
        on_over: Callable[[str], None],
    ) -> Callbacks | None:
        """As the node's settings have it; None where they allow none.

        Raises:
            InvalidConfig: there is no secret to be read.
        """
        if not config.callback_origins:
            return None
        settings = CallbackSettings.of(config)
        return cls(settings, owed=owed, read_task=read_task, clock=clock, on_over=on_over)

    def check(self, url: str) -> None:
        """Raises InvalidRequest where nobody allows this address."""
        import httpx  # not in nodes that are asked for none

        try:
            parts = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            parts = httpx.URL("")
        if len(url) > URL_CHARS_MAX or parts.scheme not in ("http", "https") or parts.userinfo:
            raise InvalidRequest(
                f"`callback_url` must be an http or https address of at most {URL_CHARS_MAX} "
                "characters, without a name and password.",
                param="callback_url",
            )
        if _origin(parts) not in {_origin(httpx.URL(one)) for one in self._settings.origins}:
            raise not_allowed()

    def refuse_beyond(self, tasks: int) -> None:
        """Before so many tasks are accepted, for afterwards nobody may be told that they were not.

        Raises:
            AdmissionRefused: too many are not delivered yet.
        """
        if len(self._owed) + tasks > OWED_MAX:
            raise AdmissionRefused(
                f"{len(self._owed)} callbacks of this node are not delivered, of at most "
                f"{OWED_MAX}: ask again without `callback_url` and follow these tasks yourself.",
                retry_after_s=60.0,
            )

    async def owe(self, records: Sequence[TaskRecord], callback: Callback) -> None:
        """Promises the ends of these tasks, on disk when this returns.

        Raises:
            StoreUnavailable: the promise may not hold.
        """
        task_ids = [record.task.id for record in records]
        await self._store.owe(task_ids, callback)
        self._owed |= dict.fromkeys(task_ids, callback)
        for task_id in task_ids:
            await self._look(task_id)  # it may have been quicker than the disk

    def ended(self, record: TaskRecord) -> None:
        """A task is over, and that is on disk."""
        if record.task.id in self._owed:
            self._try(record.task.id, after_s=0.0, tries=0)

    async def run(self) -> None:
        """Delivers what is owed, that of a former life first, for as long as the node runs."""
        import httpx

        for task_id, callback in (await self._store.owed()).items():
            self._owed.setdefault(task_id, callback)
        self._due.clear()
        for task_id in tuple(self._owed):
            await self._look(task_id)
        client = httpx.AsyncClient(
            timeout=ANSWER_S_MAX, trust_env=False, follow_redirects=False, headers=_HEADERS
        )
        try:
            async with client:
                await self._deliver(client)
        finally:
            for sending in self._sending:
                sending.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    async def _look(self, task_id: TaskId) -> None:
        """Tries at once what is over; forgets what there is no task of."""
        try:
            record = await self._read_task(task_id)
        except (TaskNotFound, TaskErased):
            await self._over(task_id, "not_wanted")
            return
        if record.status.is_final:
            self.ended(record)

    def _try(self, task_id: TaskId, *, after_s: float, tries: int) -> None:
        heapq.heappush(self._due, (self._clock.now_s() + after_s, task_id, tries))
        self._more.set()

    async def _deliver(self, client: httpx.AsyncClient) -> None:
        while True:
            self._more.clear()
            now_s = self._clock.now_s()
            while self._due and self._due[0][0] <= now_s and len(self._sending) < AT_ONCE_MAX:
                _, task_id, tries = heapq.heappop(self._due)
                sending = asyncio.create_task(self._send(client, task_id, tries))
                self._sending.add(sending)
                sending.add_done_callback(self._sent)
            wait_s = None
            if self._due and len(self._sending) < AT_ONCE_MAX:
                wait_s = max(0.0, self._due[0][0] - now_s)
            try:
                async with asyncio.timeout(wait_s):
                    await self._more.wait()
            except TimeoutError:
                continue

    def _sent(self, sending: asyncio.Task[None]) -> None:
        self._sending.discard(sending)
        self._more.set()

    async def _send(self, client: httpx.AsyncClient, task_id: TaskId, tries: int) -> None:
        """One try; whatever fails in it, a later one follows for as long as it is owed."""
        try:
            await self._send_once(client, task_id, tries)
        except Exception:
            log.exception("callback of task %s failed", task_id)
            self._again(task_id, tries, "it failed here", since_unix_s=self._clock.unix_s())

    async def _send_once(self, client: httpx.AsyncClient, task_id: TaskId, tries: int) -> None:
        callback = self._owed.get(task_id)
        if callback is None:
            return  # delivered meanwhile: it was due twice
        try:
            self.check(callback.url)  # an operator may have taken it out since
            record = await self._read_task(task_id)
            refuse_erased(record)
        except (TaskNotFound, TaskErased, InvalidRequest):
            await self._over(task_id, "not_wanted")
            return
        except DEdgeAIError as problem:
            self._again(task_id, tries, problem.message, since_unix_s=self._clock.unix_s())
            return
        problem_said = await self._post(client, callback, record)
        if problem_said is None:
            await self._over(task_id, "delivered")
        elif problem_said == _NOT_WANTED:
            await self._over(task_id, "not_wanted")
        else:
            ended_unix_s = record.finished_unix_s or self._clock.unix_s()
            if self._clock.unix_s() - ended_unix_s > self._settings.keep_s:
                log.warning("callback of task %s given up: %s", task_id, problem_said)
                await self._over(task_id, "given_up")
            else:
                self._again(task_id, tries, problem_said, since_unix_s=ended_unix_s)

    def _again(self, task_id: TaskId, tries: int, why: str, *, since_unix_s: float) -> None:
        pause_s = PAUSES_S[min(tries, len(PAUSES_S) - 1)]
        left_s = since_unix_s + self._settings.keep_s - self._clock.unix_s()
        log.info("callback of task %s is tried again in %g s: %s", task_id, pause_s, why)
        self._try(task_id, after_s=min(pause_s, max(1.0, left_s + 1.0)), tries=tries + 1)

    async def _post(
        self, client: httpx.AsyncClient, callback: Callback, record: TaskRecord
    ) -> str | None:
        """None where it was taken; else why not."""
        import httpx

        timestamp = int(self._clock.unix_s())
        body = body_of(record, base=callback.base)
        webhook_id = record.task.id
        headers = {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(
                self._settings.secret, webhook_id=webhook_id, timestamp=timestamp, body=body
            ),
        }
        try:
            # Of the whole: httpx's own bound is one of each byte that comes.
            async with (
                asyncio.timeout(ANSWER_S_MAX),
                client.stream("POST", callback.url, content=body, headers=headers) as answer,
            ):
                status = answer.status_code
        except (httpx.HTTPError, TimeoutError) as failed:
            return f"{type(failed).__name__}"
        if status == _GONE:
            return _NOT_WANTED
        return None if 200 <= status < 300 else f"status {status}"

    async def _over(self, task_id: TaskId, what: str) -> None:
        self._owed.pop(task_id, None)
        self._on_over(what)
        try:
            await self._store.settled(task_id)
        except DEdgeAIError as error:  # it comes once more after a restart
            log.warning("callback of task %s stays on disk: %s", task_id, error.message)


_HEADERS = {"Content-Type": "application/json", "User-Agent": "dedgeai"}
_NOT_WANTED = "status 410"


def not_allowed() -> InvalidRequest:
    """Of an address that no operator names."""
    return InvalidRequest(
        "`callback_url` is where this node does not call: have its operator name the origin in "
        "callback_origins, or follow the task's events.",
        param="callback_url",
    )


def body_of(record: TaskRecord, *, base: str) -> bytes:
    """What a receiver is sent: the end, when, and the task as GET /v1/tasks/{id} shows it."""
    ended = datetime.fromtimestamp(record.finished_unix_s or 0.0, UTC)
    told: dict[str, Any] = {
        "type": f"image.task.{record.status.value}",
        "timestamp": ended.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": schemas.task_object(record, prefix=base),
    }
    return json.dumps(told, ensure_ascii=False).encode()


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
