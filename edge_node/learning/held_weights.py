"""The newest learned weights that a process holds: checked, kept as a file, announced in a store.

Owns the order of the checks and what stands when two weights meet: the greater rank, wherever they
come from. What is held can decide: its digest is as told, its shapes are those of its policy and it
has decided once (`store.published_weights`). Whether it may decide live is for the guard to say,
which has a verdict on this version first.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import numpy as np

from edge_node.clock import Clock
from edge_node.learned_weights import LearnedWeights
from edge_node.store.connection import StoreConnection
from edge_node.store.durable_file import write_durably
from edge_node.store.published_weights import (
    Published,
    PublishedWeights,
    UnusableWeights,
    load_published,
    prune,
    read_published,
)


class HeldWeights:
    """What is announced in one node's store.

    Args:
        connection: started and closed by its owner.
        node_id: whose announcement.
        folder: gets the files of weights that come from elsewhere.
        bytes_max: of a file.
        clock: dates what is announced.

    Attributes:
        newest: what is told of it; None before there are any.
        content: of its file.
    """

    def __init__(
        self,
        connection: StoreConnection,
        *,
        node_id: str,
        folder: Path,
        bytes_max: int,
        clock: Clock,
    ) -> None:
        self._announcement = PublishedWeights(connection, node_id=node_id)
        self._folder = folder
        self._bytes_max = bytes_max
        self._clock = clock
        self._published: Published | None = None
        self._seen: Published | None = None
        self.newest: LearnedWeights | None = None
        self.content = b""

    async def look(self) -> None:
        """Takes in what a learner has announced meanwhile, and announces again what is greater.

        Raises:
            StoreUnavailable: the store is away.
            UnusableWeights: what is announced cannot be used; what was held before still is.
        """
        announced = await self._announcement.current()
        if announced is None or announced == self._seen:
            return
        self._seen = announced  # complained of once
        content = await asyncio.to_thread(self._read, announced.path)
        load_published(announced, rng=np.random.default_rng(0))
        weights = LearnedWeights(
            policy=announced.policy,
            version=announced.version,
            generation=announced.generation,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
        )
        if self.newest is not None and weights.rank < self.newest.rank:
            assert self._published is not None
            await self._announce(self._published)
            return
        self._published, self.newest, self.content = announced, weights, content

    async def take(self, weights: LearnedWeights, content: bytes) -> bool:
        """Takes weights from elsewhere in; whether they are newer than those held.

        Raises:
            UnusableWeights: they are not what is told of them, or cannot decide.
            StoreUnavailable: they are not announced.
            OSError: the disk refuses.
        """
        if self.newest is not None and weights.rank <= self.newest.rank:
            return False
        if len(content) != weights.size_bytes or len(content) > self._bytes_max:
            raise UnusableWeights(
                f"{len(content)} bytes came of weights of {weights.size_bytes}; at most "
                f"{self._bytes_max} are taken"
            )
        digest = hashlib.sha256(content).hexdigest()
        if digest != weights.sha256:
            raise UnusableWeights(
                f"the digest of what came is {digest[:12]}, not {weights.sha256[:12]} as told"
            )
        name = f"lad_ts-{digest[:12]}-{weights.generation:08d}.safetensors"
        path = self._folder.absolute() / name
        await asyncio.to_thread(self._write, path, content)
        try:
            published = read_published(path, created_unix_s=self._clock.unix_s())
            told = (weights.policy, weights.version, weights.generation)
            if (published.policy, published.version, published.generation) != told:
                raise UnusableWeights(
                    f"the file is {published.version} of {published.policy}, generation "
                    f"{published.generation}; told of it was {weights.version} of "
                    f"{weights.policy}, generation {weights.generation}"
                )
            load_published(published, rng=np.random.default_rng(0))
        except UnusableWeights:
            path.unlink(missing_ok=True)
            raise
        await self._announce(published)
        self._published, self.newest, self.content = published, weights, content
        prune(self._folder, policy=published.policy, newest=published.generation)
        return True

    async def _announce(self, published: Published) -> None:
        await self._announcement.announce(published)
        self._seen = published

    def _read(self, path: Path) -> bytes:
        try:
            size = path.stat().st_size
            if size > self._bytes_max:
                raise UnusableWeights(f"{path} has {size} bytes; at most {self._bytes_max}")
            return path.read_bytes()
        except OSError as problem:
            raise UnusableWeights(f"{path}: {problem}") from problem

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, content, modified_unix_s=self._clock.unix_s())
