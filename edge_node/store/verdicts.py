"""What the learner's replays found, for the node's guard: one value, the newest.

Owns its key and its format. The node asks about once a second and loses nothing if it misses a
verdict: a later one says more.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from edge_node.json_text import parsed
from edge_node.store.connection import StoreConnection
from scheduler.guard.verdict import ReplayVerdict

FORMAT = 2
# Of 0.1.0: a verdict against the one rule that there was.
FORMAT_OF_ONE_RULE = 1
_TYPES: dict[str, type] = {
    "version": str,
    "rule": str,
    "judged_unix_s": float,
    "tasks": int,
    "failed": int,
    "learned_mean_s": float,
    "rule_mean_s": float,
    "worse_low": float,
    "worse_high": float,
    "rule_means_s": dict,
}


class UnreadableVerdict(ValueError):
    """What is stored is no verdict that this code can act on; the message says why."""


class VerdictStore:
    """The verdict on one node's decisions.

    Args:
        connection: started and closed by its owner.
        node_id: whose; part of the key, for nodes may share a store.
    """

    def __init__(self, connection: StoreConnection, *, node_id: str) -> None:
        self._connection = connection
        self._key = f"dedgeai:{node_id}:verdict"

    async def write(self, verdict: ReplayVerdict) -> None:
        """Puts the verdict in place of the one before; raises StoreUnavailable."""
        await self._put(encode(verdict))

    async def _put(self, text: str) -> None:
        command = ("HSET", self._key, "format", FORMAT, "verdict", text)
        await self._connection.execute([command], durable=False)

    async def read(self) -> ReplayVerdict | None:
        """The newest verdict, if there is one.

        Raises:
            StoreUnavailable: the store is away.
            UnreadableVerdict: another format, or damaged.
        """
        command = ("HMGET", self._key, "format", "verdict")
        ((found, text),) = await self._connection.execute([command], durable=False)
        if found is None:
            return None
        return _read(found, text or b"")

    async def write_raw(self, form: bytes, text: bytes) -> None:
        """The same with a verdict as another store keeps it; raises what `read` raises."""
        await self._put(encode(_read(form, text)))

    async def read_raw(self) -> tuple[bytes, bytes] | None:
        """Format and text of the newest verdict, to be kept in another store."""
        command = ("HMGET", self._key, "format", "verdict")
        ((found, text),) = await self._connection.execute([command], durable=False)
        return None if found is None else (found, text or b"")


def _read(form: bytes, text: bytes) -> ReplayVerdict:
    if form == str(FORMAT_OF_ONE_RULE).encode():
        return decode(text, besides={"rule_means_s": {}})
    if form != str(FORMAT).encode():
        raise UnreadableVerdict(
            f"format {form!r}; this code reads {FORMAT_OF_ONE_RULE} and {FORMAT}"
        )
    return decode(text)


def encode(verdict: ReplayVerdict) -> str:
    """JSON of a verdict."""
    return json.dumps(dataclasses.asdict(verdict), allow_nan=False)


def decode(text: bytes, *, besides: Mapping[str, object] | None = None) -> ReplayVerdict:
    """The verdict that `encode` wrote; `besides` is what its format did not have.

    Raises:
        UnreadableVerdict: a field is missing, unknown, of another type or not finite.
    """
    try:
        document: dict[str, Any] = parsed(text)
    except ValueError as problem:
        raise UnreadableVerdict(f"no JSON: {problem}") from problem
    if isinstance(document, dict):
        document |= besides or {}
    if not isinstance(document, dict) or document.keys() != _TYPES.keys():
        raise UnreadableVerdict(f"a verdict has the fields {', '.join(_TYPES)}, not {text!r}")
    for name, kind in _TYPES.items():
        value = document[name]
        if type(value) is not kind or not _is_finite(value):
            raise UnreadableVerdict(f"{name} is {value!r}")
    if not document["rule_mean_s"] > 0.0:
        raise UnreadableVerdict(f"rule_mean_s is {document['rule_mean_s']!r}")
    for rule, mean_s in document["rule_means_s"].items():
        if type(mean_s) is not float or not math.isfinite(mean_s):
            raise UnreadableVerdict(f"rule_means_s has {mean_s!r} for {rule}")
    return ReplayVerdict(**document)


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
