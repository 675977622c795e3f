"""The connection to the store: its bounds, its availability and what it promises about the disk.

Owns the mapping of every store failure to `StoreUnavailable`. Knows nothing of what is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from edge_node.errors import StoreUnavailable
from edge_node.lasting import Loops, cancellable

_log = logging.getLogger(__name__)

Command = tuple[str | bytes | int | float, ...]

# With these, and only with these, a reply says that the write is on disk. Under everysec WAITAOF
# is no substitute: Valkey (9.1, at least) and older Redis answer it before they have synced.
_SYNCED_BEFORE_REPLY = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
}


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Where the store is and how long to wait for it.

    Attributes:
        url: `unix:///path/to/socket` or `redis://host:port/0`.
        command_timeout_s: after which a store that does not answer counts as away.
        probe_interval_s: between two looks at the store, and between retries.
        retry_after_s: what clients are told while the store is away.
        connections_max: open at a time.
    """

    url: str
    command_timeout_s: float = 5.0
    probe_interval_s: float = 1.0
    retry_after_s: float = 2.0
    connections_max: int = 16


class _PackingInC:
    """Packs commands with hiredis, as redis does only for connections that are not asynchronous."""

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """As they are sent."""
        return [hiredis.pack_command(tuple(command)) for command in commands]


class StoreConnection:
    """Runs commands while the store is there, and says when it is not."""

    def __init__(
        self, settings: StoreSettings, *, loops: Loops | None = None, vital: bool = False
    ) -> None:
        """Connects nothing yet; `loops` keeps looking for the store, `vital` or not."""
        self._settings = settings
        self._loops = loops or Loops()
        self._vital = vital
        # Without retries: a command sent twice would meet the idempotency record of its first self.
        pool = redis.BlockingConnectionPool.from_url(
            settings.url,
            max_connections=settings.connections_max,
            timeout=settings.command_timeout_s,
            socket_timeout=settings.command_timeout_s,
            socket_connect_timeout=settings.command_timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        # The URL has said of which kind they are.
        pool.connection_class = type("Connection", (_PackingInC, pool.connection_class), {})
        self._client = redis.Redis(connection_pool=pool)
        self._there = asyncio.Event()
        self._away_because = "it has not been reached yet"
        # Whether the configuration says that a reply alone means that the write is on disk. Where
        # it is hidden, the store is asked each time, and its operator's word is taken for the rest.
        self._reply_is_durable = False
        self._probe_task: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether the store answered last time and can keep a promise."""
        return self._there.is_set()

    async def start(self) -> None:
        """Looks once, and then in the background; a store that is away is no error here."""
        await self._probe()
        self._probe_task = self._loops.start(
            "looking for the store", self._probe_forever, vital=self._vital
        )

    async def close(self) -> None:
        """Ends the background look and closes the sockets."""
        if self._probe_task is not None:
            self._probe_task.cancel()
            await asyncio.wait([self._probe_task])
        self._there.clear()
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def wait_until_available(self) -> None:
        """Returns when the store is there."""
        await self._there.wait()

    async def execute(self, commands: Sequence[Command], *, durable: bool) -> list[Any]:
        """Replies to `commands`, sent together; each is atomic, the sequence is not.

        Args:
            commands: name and arguments each.
            durable: return only when their writes are on disk.

        Raises:
            StoreUnavailable: nothing is known of the commands; they may have been carried out.
        """
        if not self.available:
            raise self.unavailable()
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        waits = durable and not self._reply_is_durable
        if waits:
            pipeline.execute_command("WAITAOF", 1, 0, self._disk_wait_ms)
        try:
            # redis-py may swallow a cancellation, and connect again.
            replies: list[Any] = await cancellable(pipeline.execute())
        except (RedisError, OSError, TimeoutError) as problem:
            self._went_away(f"{type(problem).__name__}: {problem}")
            raise self.unavailable() from problem
        if waits and replies.pop()[0] < 1:
            self._went_away(f"its disk did not confirm a write within {self._disk_wait_ms} ms")
            raise self.unavailable()
        return replies

    async def told(self, command: Command) -> str:
        """Runs a command that the store may refuse; its refusal, or empty.

        Raises:
            StoreUnavailable: nothing is known of it.
        """
        if not self.available:
            raise self.unavailable()
        pipeline = self._client.pipeline(transaction=False)
        pipeline.execute_command(*command)
        try:
            (reply,) = await cancellable(pipeline.execute(raise_on_error=False))
        except (RedisError, OSError, TimeoutError) as problem:
            self._went_away(f"{type(problem).__name__}: {problem}")
            raise self.unavailable() from problem
        return str(reply) if isinstance(reply, ResponseError) else ""

    def unavailable(self) -> StoreUnavailable:
        """The error to raise while the store is away."""
        return StoreUnavailable(
            f"The task store is not available: {self._away_because}.",
            retry_after_s=self._settings.retry_after_s,
        )

    @property
    def _disk_wait_ms(self) -> int:
        """Less than the socket's timeout, so that the store answers first."""
        return int(self._settings.command_timeout_s * 800)

    def _went_away(self, because: str) -> None:
        if self.available or because != self._away_because:
            _log.warning("task store is away: %s", because)
        self._away_because = because
        self._there.clear()

    async def _probe_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.probe_interval_s)
            await self._probe()

    async def _probe(self) -> None:
        try:
            unfit_because = await cancellable(self._unfit_because())
        except (RedisError, OSError, TimeoutError) as problem:
            self._went_away(f"{type(problem).__name__}: {problem}")
            return
        except Exception as problem:
            # Nothing is known of the store any more: it must not go on as available.
            self._went_away(f"looking for it failed with {problem!r}")
            raise
        if unfit_because:
            self._went_away(
                "it cannot confirm writes on disk; set `appendonly yes` and `appendfsync always` "
                f"in its configuration ({unfit_because})"
            )
            return
        if not self.available:
            _log.info("task store is there")
        self._there.set()

    async def _unfit_because(self) -> str:
        """Why the store cannot promise what the ledger does; empty if it can."""
        try:
            configured = await self._client.config_get("*append*")
        except ResponseError:  # an operator's access rules may hide the configuration
            self._reply_is_durable = False
            try:
                await self._client.waitaof(1, 0, 1)
            except ResponseError as problem:
                return str(problem)
            return ""
        self._reply_is_durable = True
        wrong = (
            f"{name} is {configured.get(name)}"
            for name, wanted in _SYNCED_BEFORE_REPLY.items()
            if configured.get(name) != wanted
        )
        return ", ".join(wrong)
