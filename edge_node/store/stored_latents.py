"""Where X_b[n] outlives its node: read once at the start, written behind, one command a slot.

Owns the keys below and when they are written. Nobody waits for it: a snapshot that could not be
written is replaced by the next, so that a store that comes back gets the newest and no queue.
Of a snapshot only what the store does not have yet is sent, and a snapshot of other candidates or
weights replaces the former one, so that there is one at any time.

Keys, all under one prefix, which names the node; each expires `keep_s` after the last write:

    <membership>:<version>   hash: node_ids (JSON), slot, slot_s, began_unix_s, decided, version;
                             n:<n> and open:<n>, a latent each (float32 in the order of node_ids)
    latest                   the key that was written last

`membership` is a digest of the candidates' ids. A node that starts does not know yet whom it will
meet, so it reads the latest; the memory finds the values of the nodes that it does meet by id.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from edge_node.config import NodeConfig
from edge_node.json_text import parsed
from edge_node.lasting import Loops
from edge_node.store.background_writer import BackgroundWriter
from edge_node.store.connection import Command, StoreConnection, StoreSettings
from edge_node.store.fill import PartFill
from edge_node.tasks.slots import LatentSnapshot

_log = logging.getLogger(__name__)

_FLOAT_BYTES = 4
_SLOT_S_MIN = 1e-3
# Between two writes, each of which replaces what was not written yet: slots may be shorter.
_WRITE_BEHIND_S = 0.05

# KEYS: the memory, latest. ARGV: life in ms, '1' to begin anew, number of fields to remove, these,
# then fields with their values.
_WRITE = """
local former = redis.call('GET', KEYS[2])
if former and former ~= KEYS[1] then redis.call('DEL', former) end
if ARGV[2] == '1' then redis.call('DEL', KEYS[1]) end
local first = 4 + tonumber(ARGV[3])
for i = 4, first - 1 do redis.call('HDEL', KEYS[1], ARGV[i]) end
for i = first, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], KEYS[1], 'PX', ARGV[1])
return 1
"""


@dataclass(frozen=True, kw_only=True)
class StoredLatentsSettings:
    """Bounds of what is kept.

    Attributes:
        store: the connection.
        key_prefix: of every key; differs between nodes that share one store.
        latents_max: of a snapshot, of slots that are over and as many of the slot at hand.
        keep_s: after the last write.
    """

    store: StoreSettings
    key_prefix: str
    latents_max: int = 64
    keep_s: float = 86_400.0

    @classmethod
    def of(cls, config: NodeConfig, store_url: str) -> StoredLatentsSettings:
        """From the node's settings, and where its store is."""
        return cls(
            store=StoreSettings(url=store_url, connections_max=2),
            key_prefix=f"dedgeai:{config.node_id}:latents:",
            latents_max=config.latent_slots_max,
            keep_s=config.latent_keep_s,
        )


class StoredLatents:
    """The latest snapshot of one node's latents, on its way to the store."""

    def __init__(
        self,
        settings: StoredLatentsSettings,
        *,
        on_behind_changed: Callable[[int], None] = lambda slots: None,
        loops: Loops | None = None,
    ) -> None:
        """Connects nothing yet; `on_behind_changed` is told how many slots the store lacks."""
        self._settings = settings
        self._on_behind_changed = on_behind_changed
        self._connection = StoreConnection(settings.store, loops=loops)
        self._wanted: LatentSnapshot | None = None
        self._written: LatentSnapshot | None = None
        self._behind = 0
        self._flushing = False
        self._writer = BackgroundWriter(
            self._connection, self._write, name="latents", loops=loops, pause_s=_WRITE_BEHIND_S
        )

    @property
    def behind_slots(self) -> int:
        """Slots that left latents which the store does not have."""
        return self._behind

    async def connect(self) -> None:
        """Starts the background work; a store that is away is no error."""
        await self._writer.start()

    async def close(self) -> None:
        """Stops the background work; what was not flushed is lost."""
        await self._writer.close()

    async def read(self) -> LatentSnapshot | None:
        """What a former life of the node wrote last; None if there is nothing usable.

        Raises:
            StoreUnavailable: the store is away.
        """
        latest: Command = ("GET", self._latest_key)
        key = (await self._connection.execute([latest], durable=False))[0]
        if key is None:
            return None
        fields = (await self._connection.execute([("HGETALL", key)], durable=False))[0]
        try:
            snapshot = _decode(fields, latents_max=self._settings.latents_max)
        except (ValueError, KeyError, TypeError) as problem:
            _log.warning("the latents kept under %s are unusable: %r", key.decode(), problem)
            return None
        self._written = snapshot
        return snapshot

    async def fill(self) -> PartFill:
        """How full the latest snapshot is; nothing of it is there before the first.

        Raises:
            StoreUnavailable: the store is away.
        """
        latest: Command = ("GET", self._latest_key)
        key = (await self._connection.execute([latest], durable=False))[0] or self._latest_key
        reads: list[Command] = [("HKEYS", key), ("MEMORY", "USAGE", key)]
        fields, used_bytes = await self._connection.execute(reads, durable=False)
        latents = sum(field.startswith((b"n:", b"open:")) for field in fields)
        share = latents / (2 * self._settings.latents_max)
        return PartFill(part="latents", used_bytes=used_bytes or 0, share=share)

    def note(self, snapshot: LatentSnapshot) -> None:
        """Hands a snapshot to the write-behind without waiting."""
        self._wanted = snapshot
        self._behind += 1
        self._writer.wake()
        self._on_behind_changed(self._behind)

    async def flush(self) -> None:
        """Returns when the latest snapshot is on disk.

        Raises:
            StoreUnavailable: the store is away; it is still held.
        """
        self._flushing = True
        try:
            while self._wanted is not None:
                await self._writer.write_once()
        finally:
            self._flushing = False

    async def _write(self) -> bool:
        """Writes what the store lacks of the latest snapshot, by the writer; whether more waits."""
        wanted, behind = self._wanted, self._behind
        if wanted is not None:
            await self._connection.execute([self._command(wanted)], durable=self._flushing)
            self._written = wanted
            self._behind -= behind
            self._on_behind_changed(self._behind)
        if self._wanted is wanted:
            self._wanted = None
        return self._wanted is not None

    def _command(self, wanted: LatentSnapshot) -> Command:
        key, fields = self._key(wanted), _encode(wanted)
        known: dict[str, bytes] = {}
        if self._written is not None and self._key(self._written) == key:
            known = _encode(self._written)
        removed = [field for field in known if field not in fields]
        changed = [
            part
            for field, value in fields.items()
            if known.get(field) != value
            for part in (field, value)
        ]
        keep_ms = max(1, math.ceil(self._settings.keep_s * 1000))
        anew = "0" if known else "1"
        arguments = (keep_ms, anew, len(removed), *removed, *changed)
        return ("EVAL", _WRITE, 2, key, self._latest_key, *arguments)

    @property
    def _latest_key(self) -> str:
        return f"{self._settings.key_prefix}latest"

    def _key(self, snapshot: LatentSnapshot) -> str:
        membership = hashlib.sha256("\n".join(sorted(snapshot.node_ids)).encode()).hexdigest()
        return f"{self._settings.key_prefix}{membership[:16]}:{snapshot.version}"


def _encode(snapshot: LatentSnapshot) -> dict[str, bytes]:
    return {
        "node_ids": json.dumps(snapshot.node_ids).encode(),
        "version": snapshot.version.encode(),
        "slot": str(snapshot.slot).encode(),
        "slot_s": repr(snapshot.slot_s).encode(),
        "began_unix_s": repr(snapshot.began_unix_s).encode(),
        "decided": str(snapshot.decided).encode(),
        **{f"n:{row}": latent for row, latent in snapshot.latents.items()},
        **{f"open:{row}": latent for row, latent in snapshot.open_latents.items()},
    }


def _decode(fields: dict[bytes, bytes], *, latents_max: int) -> LatentSnapshot:
    """The snapshot; raises ValueError, KeyError or TypeError for anything that is none."""
    node_ids = tuple(str(node_id) for node_id in parsed(fields[b"node_ids"]))
    latents: dict[bytes, dict[int, bytes]] = {b"n": {}, b"open": {}}
    for field, value in fields.items():
        kind, _, row = field.partition(b":")
        if kind in latents and int(row) < latents_max:
            if len(value) != _FLOAT_BYTES * len(node_ids):
                raise ValueError(f"{field!r} has {len(value)} bytes for {len(node_ids)} nodes")
            if not all(map(math.isfinite, array("f", value))):
                raise ValueError(f"{field!r} holds a value that is not finite")
            latents[kind][int(row)] = value
    slot_s = float(fields[b"slot_s"])
    began_unix_s = float(fields[b"began_unix_s"])
    if not (_SLOT_S_MIN <= slot_s < math.inf and math.isfinite(began_unix_s)):
        raise ValueError(f"slots of {slot_s} s since {began_unix_s}")
    return LatentSnapshot(
        node_ids=node_ids,
        version=fields[b"version"].decode(),
        slot=int(fields[b"slot"]),
        slot_s=slot_s,
        began_unix_s=began_unix_s,
        decided=int(fields[b"decided"]),
        latents=latents[b"n"],
        open_latents=latents[b"open"],
    )
