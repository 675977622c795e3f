"""Which learned weights are published for this node, and how they become a policy.

Owns the hash `<prefix>published`, through which the learner tells the node, and the refusal of
whatever is not exactly what was announced: a node that cannot use the weights keeps what it has.
The weights themselves are a file that appears whole; see `scheduler.checkpoint`. No torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_node.errors import StoreUnavailable
from edge_node.json_text import parsed
from edge_node.store.connection import Command, StoreConnection
from scheduler import checkpoint
from scheduler.checkpoint import BETTER_THAN, version_of
from scheduler.observation import Observation
from scheduler.policies.lad_ts_policy import NAME, Chain, LadTs, weights_of

# Keeps a policy that decides nothing in a dry run from being swapped in.
_DRY_RUN_SEED = 0
_DRY_RUN_SERVERS = (2, 5)
# Publications whose files stay: a node may be about to read the last ones.
FILES_KEPT = 3


class UnusableWeights(Exception):
    """An announcement or its file cannot be used; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights that passed the learner's checks.

    Attributes:
        policy: name of the algorithm.
        path: of the checkpoint.
        version: that the policy's decisions will carry.
        generation: number of the publication, from 1 on; later ones replace earlier ones.
        created_unix_s: when.
        checks: figures of the check by name, see `scheduler.guard.replay_check`.
        better_than: version that the check was made against; None before 0.2.0.
    """

    policy: str
    path: Path
    version: str
    generation: int
    created_unix_s: float
    checks: dict[str, float]
    better_than: str | None = None


class PublishedWeights:
    """Announces and reads; over a connection that the caller starts and closes."""

    def __init__(self, connection: StoreConnection, *, node_id: str) -> None:
        self._connection = connection
        self._key = f"dedgeai:{node_id}:published"

    async def announce(self, published: Published) -> None:
        """Tells the node of new weights, whose file must be whole by now.

        Raises:
            StoreUnavailable: the store is away; nothing is known of the announcement.
        """
        fields: dict[str, str | int | float] = {
            "policy": published.policy,
            "path": str(published.path),
            "version": published.version,
            "generation": published.generation,
            "created": published.created_unix_s,
            # What 0.1.0 reads; its weights were for certain candidates.
            "node_ids": "[]",
            "checks": json.dumps(published.checks),
            "better_than": published.better_than or "",
        }
        parts = [part for pair in fields.items() for part in pair]
        write: Command = ("HSET", self._key, *parts)
        await self._connection.execute([write], durable=False)

    async def current(self) -> Published | None:
        """What was announced last; None before anything was, and while the store is away.

        Raises:
            UnusableWeights: the announcement is damaged.
        """
        read: Command = ("HGETALL", self._key)
        try:
            found = (await self._connection.execute([read], durable=False))[0]
        except StoreUnavailable:
            return None
        return _published(found) if found else None


def load_published(published: Published, *, rng: np.random.Generator) -> LadTs:
    """The policy of published weights, tried once.

    Args:
        published: what `current` gave.
        rng: of the policy's guesses.

    Raises:
        UnusableWeights: the file is absent, damaged, of another policy or version, or does not
            decide.
    """
    if published.policy != NAME:
        raise UnusableWeights(f"weights of {published.policy!r}; a node loads {NAME} only")
    path = published.path
    # A file put together wrongly shows in whichever of these meets it first.
    try:
        kept = checkpoint.load(path, kind="policy")
        weights = weights_of(kept, path)
        if weights.version != published.version:
            raise UnusableWeights(
                f"{path} holds {weights.version}, not the announced {published.version}"
            )
        trial_rng = np.random.default_rng(_DRY_RUN_SEED)
        trial = LadTs(rng=trial_rng, weights=weights, chain=Chain())
        for servers in _DRY_RUN_SERVERS:
            trial.decide(_observation(servers))
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
        raise UnusableWeights(f"{path}: {problem}") from problem
    return LadTs(rng=rng, weights=weights, chain=Chain())


def read_published(path: Path, *, created_unix_s: float) -> Published:
    """What a weights file says that it is; it still has to be loaded.

    Raises:
        UnusableWeights: it is no checkpoint of a policy.
    """
    try:
        kept = checkpoint.load(path, kind="policy")
        return Published(
            policy=kept.info.policy,
            path=path,
            version=version_of(kept),
            generation=int(kept.info.episodes),
            created_unix_s=created_unix_s,
            checks={str(name): float(value) for name, value in kept.info.metrics.items()},
            better_than=_text(kept.info.scenario.get(BETTER_THAN)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise UnusableWeights(f"{path}: {problem}") from problem


def generation_of(path: Path) -> int:
    """Number of the publication that a weights file is of; 0 for a file that is none."""
    number = path.stem.rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def prune(folder: Path, *, policy: str, newest: int) -> None:
    """Removes the files of publications that nobody is about to read any more."""
    for path in sorted(folder.glob(f"{policy}-*.safetensors")):
        if generation_of(path) <= newest - FILES_KEPT:
            path.unlink(missing_ok=True)


def _published(found: dict[bytes, bytes]) -> Published:
    try:
        fields: dict[str, Any] = {key.decode(): value.decode() for key, value in found.items()}
        published = Published(
            policy=fields["policy"],
            path=Path(fields["path"]),
            version=fields["version"],
            generation=int(fields["generation"]),
            created_unix_s=float(fields["created"]),
            checks={str(k): float(v) for k, v in parsed(fields["checks"]).items()},
            better_than=_text(fields.get("better_than")),
        )
    except (KeyError, OverflowError, ValueError, TypeError, AttributeError) as problem:
        raise UnusableWeights(f"the announcement is damaged: {problem!r}") from problem
    if not (published.generation >= 1 and math.isfinite(published.created_unix_s)):
        raise UnusableWeights(f"an announcement of generation {published.generation}")
    return published


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _observation(servers: int) -> Observation:
    one_B = np.ones(servers)
    return Observation(
        node_ids=tuple(f"node-{index}" for index in range(servers)),
        local=0,
        work=1.0,
        input_bits=1,
        backlog_B=one_B,
        own_B=one_B,
        capacity_B=one_B,
        link_s_B=one_B,
        staleness_s_B=one_B,
        alive_B=one_B > 0.0,
    )
