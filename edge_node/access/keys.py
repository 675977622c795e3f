"""API keys: what one is, what it allows, and the list of those that are known.

A key's secret is 256 random bits, so what is kept of it need not be slow to compute: an HMAC under
a secret of the list alone, from which nobody who reads the list can make a key. Looking one up
costs microseconds.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

FORMAT = 1
_PREFIX = "dedgeai"
_KEY = re.compile(rf"{_PREFIX}_([0-9a-f]{{12}})_([A-Za-z0-9_-]{{43}})")
_NAME_CHARS_MAX = 64
# In a list: all of them travel with every change. Those that were revoked first make room.
KEYS_MAX = 1000


class Scope(enum.StrEnum):
    """What a key allows.

    GENERATE: to have images drawn, and to cancel what the key has asked for.
    READ: what the key has asked for, with its images, and what the cluster serves.
    OPERATE: everything, of everybody.
    """

    GENERATE = "generate"
    READ = "read"
    OPERATE = "operate"


class KeysHeld(NamedTuple):
    """Which list of keys a node holds; of two the greater stands.

    Attributes:
        version: only grows; 0 without a list.
        sha256: of the list without its signature, in hex.
    """

    version: int
    sha256: str


NO_KEYS = KeysHeld(0, "")


class UnreadableKeys(ValueError):
    """The text is no list of keys."""


@dataclass(frozen=True, kw_only=True)
class KeyLimits:
    """How much a key may ask for; None is as much as there is room for.

    Attributes:
        requests_per_minute: of any kind, at each node; as many at once after a minute without.
        images_per_day: accepted at all nodes within a day of UTC.
        open_tasks_max: of all nodes that are not finished.
    """

    requests_per_minute: int | None = None
    images_per_day: int | None = None
    open_tasks_max: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what is no limit."""
        for name, value in vars(self).items():
            if value is not None and not 1 <= value <= LIMIT_MAX:
                raise ValueError(f"{name} is {value}: give 1 to {LIMIT_MAX}")


LIMIT_MAX = 10**9
NO_LIMITS = KeyLimits()


@dataclass(frozen=True, kw_only=True)
class Client:
    """Who asks.

    Attributes:
        id: of the key, which is on record with the tasks; empty where no keys are asked for.
        address: a name for the address that one without a key asks from, by which he takes turns.
    """

    id: str
    scopes: frozenset[Scope]
    limits: KeyLimits = NO_LIMITS
    address: str = ""

    def may(self, scope: Scope) -> bool:
        """Whether a scope is allowed."""
        return scope in self.scopes or Scope.OPERATE in self.scopes

    def owns(self, client_id: str) -> bool:
        """Whether what `client_id` has asked for is this client's to see and to cancel."""
        return Scope.OPERATE in self.scopes or self.id == client_id


# Where no keys are asked for.
ANYBODY = Client(id="", scopes=frozenset(Scope))


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """What is kept of a key.

    Attributes:
        id: part of the key's text, and no secret.
        name: for people.
        digest: HMAC-SHA-256 of its secret, in hex.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    digest: str
    created_unix_s: float
    revoked_unix_s: float | None = None
    limits: KeyLimits = NO_LIMITS


@dataclass(frozen=True, kw_only=True)
class KeyList:
    """All keys that were ever given out; the later of two lists has the larger version.

    Attributes:
        secret: under which digests are made, in hex.
        keys: in the order in which they were given out.
    """

    version: int
    secret: str
    keys: tuple[ApiKey, ...] = ()

    @classmethod
    def empty(cls) -> KeyList:
        """A list with a secret of its own."""
        return cls(version=0, secret=secrets.token_hex(32))

    def with_new(
        self,
        name: str,
        *,
        scopes: Collection[Scope],
        now_unix_s: float,
        limits: KeyLimits = NO_LIMITS,
    ) -> tuple[KeyList, str]:
        """The list with one more key, and the text of it, which is nowhere else.

        Raises:
            ValueError: the name is empty, too long, or in use, or nothing is allowed; or there are
                KEYS_MAX in force.
        """
        if not name.strip() or len(name) > _NAME_CHARS_MAX or not name.isprintable():
            raise ValueError(f"a key's name has 1 to {_NAME_CHARS_MAX} printable characters")
        if any(key.name == name and key.revoked_unix_s is None for key in self.keys):
            raise ValueError(f"there is a key named {name!r} already: revoke it first")
        if not scopes:
            raise ValueError("a key allows something: generate, read or operate")
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        key = ApiKey(
            id=key_id,
            name=name,
            scopes=frozenset(scopes),
            digest=self._digest(secret),
            created_unix_s=now_unix_s,
            limits=limits,
        )
        longer = replace(self, version=self.version + 1, keys=(*self._with_room(), key))
        return longer, f"{_PREFIX}_{key_id}_{secret}"

    def _with_room(self) -> tuple[ApiKey, ...]:
        """The keys but those revoked longest ago, as far as one more needs their places."""
        over = len(self.keys) + 1 - KEYS_MAX
        if over <= 0:
            return self.keys
        revoked = [key for key in self.keys if key.revoked_unix_s is not None]
        if len(revoked) < over:
            raise ValueError(f"{KEYS_MAX} keys are in force, and no more fit: revoke one first")
        revoked.sort(key=lambda key: key.revoked_unix_s or 0.0)
        gone = {key.id for key in revoked[:over]}
        return tuple(key for key in self.keys if key.id not in gone)

    def without(self, which: str, *, now_unix_s: float) -> KeyList:
        """The list with a key revoked, by its id or name.

        Raises:
            ValueError: there is none that is in force.
        """
        return self._with_changed(which, revoked_unix_s=now_unix_s)

    def with_limits(self, which: str, limits: KeyLimits) -> KeyList:
        """The list with other limits for a key, by its id or name.

        Raises:
            ValueError: there is none that is in force.
        """
        return self._with_changed(which, limits=limits)

    def _with_changed(self, which: str, **fields: Any) -> KeyList:
        found = [
            key for key in self.keys if which in (key.id, key.name) and key.revoked_unix_s is None
        ]
        if not found:
            raise ValueError(f"no key in force has the id or name {which!r}")
        keys = tuple(replace(key, **fields) if key is found[0] else key for key in self.keys)
        return replace(self, version=self.version + 1, keys=keys)

    def client(self, text: str) -> Client | None:
        """Whose key this is; None for no key of the list, or one that is revoked."""
        parts = _KEY.fullmatch(text)
        if parts is None:
            return None
        key = self._by_id.get(parts[1])
        if key is None or key.revoked_unix_s is not None:
            return None
        if not hmac.compare_digest(key.digest, self._digest(parts[2])):
            return None
        return Client(id=key.id, scopes=key.scopes, limits=key.limits)

    @cached_property
    def _by_id(self) -> dict[str, ApiKey]:
        return {key.id: key for key in self.keys}

    def encode(self) -> bytes:
        """JSON of the list."""
        document = {
            "format": FORMAT,
            "version": self.version,
            "secret": self.secret,
            "keys": [
                {**vars(key), "scopes": sorted(key.scopes), "limits": vars(key.limits)}
                for key in self.keys
            ],
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def decode(cls, text: bytes) -> KeyList:
        """The list that `encode` wrote.

        Raises:
            UnreadableKeys: it is damaged, or of a later version of this code.
        """
        try:
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise UnreadableKeys(f"it is of format {document['format']}, and not of {FORMAT}")
            return cls(
                version=int(document["version"]),
                secret=bytes.fromhex(document["secret"]).hex(),
                keys=tuple(_key(one) for one in document["keys"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise UnreadableKeys(f"{type(problem).__name__}: {problem}") from problem

    def _digest(self, secret: str) -> str:
        return hmac.new(bytes.fromhex(self.secret), secret.encode(), hashlib.sha256).hexdigest()


def _key(document: dict[str, Any]) -> ApiKey:
    revoked = document["revoked_unix_s"]
    return ApiKey(
        id=str(document["id"]),
        name=str(document["name"]),
        scopes=frozenset(Scope(one) for one in document["scopes"]),
        digest=str(document["digest"]),
        created_unix_s=float(document["created_unix_s"]),
        revoked_unix_s=None if revoked is None else float(revoked),
        limits=KeyLimits(**document.get("limits", {})),
    )
