"""Experience of clusters of any size, padded within a few classes of sizes.

Owns ring buffers and their sampling. Rows are kept in the order of decisions, so a decision's
successor is the next row. Arrays end in their dimension: N decisions, M samples, B servers,
V server features, C context features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scheduler.policies.lad_ts_features import CONTEXT, SERVER

# Most servers of a class: padding to the largest cluster would cost small ones ten times their own.
CLASSES = (8, 24, 64)


class SetReplay:
    """Decisions of the recent past.

    Args:
        rows: kept of each class of sizes; memory is taken when a class is first met.
        servers: a size that will be met, so that a pool restored from `state` has the same arrays.
    """

    @dataclass(frozen=True, kw_only=True)
    class Batch:
        """M sampled decisions; `follows_M` is 0 where nothing was decided after them."""

        server_MBV: Tensor
        context_MC: Tensor
        present_MB: Tensor
        latent_MB: Tensor
        action_M: Tensor
        reward_M: Tensor
        follows_M: Tensor
        _next: SetReplay.Batch | None = None

        def following(self) -> SetReplay.Batch:
            """The decisions after them; only of batches sampled with `following`."""
            assert self._next is not None
            return self._next

    def __init__(self, rows: int, *, servers: int | None = None) -> None:
        self._rows = rows
        self._rings: dict[int, _Ring] = {}
        if servers is not None:
            self._ring_for(servers)

    def __len__(self) -> int:
        return sum(ring.size for ring in self._rings.values())

    def add(
        self,
        *,
        server_NBV: NDArray[np.float32],
        context_NC: NDArray[np.float32],
        latent_NB: NDArray[np.float32],
        action_N: NDArray[np.int64],
        reward_N: NDArray[np.float64],
    ) -> None:
        """Decisions of one cluster, in order; the last has no successor."""
        self._ring_for(server_NBV.shape[1]).add(
            server_NBV, context_NC, latent_NB, action_N, reward_N
        )

    def state(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint from which a run goes on bit for bit."""
        return {
            f"{room}/{name}": torch.from_numpy(array)
            for room, ring in self._rings.items()
            for name, array in ring.arrays().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state` gave."""
        for room, ring in self._rings.items():
            for name, array in ring.arrays().items():
                array[...] = state[f"{room}/{name}"].numpy()

    def _ring_for(self, servers: int) -> _Ring:
        room = next((most for most in CLASSES if servers <= most), servers)
        if room not in self._rings:
            self._rings[room] = _Ring(self._rows, room)
        return self._rings[room]

    def sample(self, batch: int, rng: np.random.Generator, *, following: bool) -> Batch:
        """A batch of one class, which is drawn by how much it holds."""
        rings = list(self._rings.values())
        size_R = np.array([ring.size for ring in rings], np.float64)
        ring = rings[int(rng.choice(len(rings), p=size_R / size_R.sum()))]
        row_M = rng.integers(ring.size, size=batch)
        return ring.batch(row_M, following=following)


class _Ring:
    def __init__(self, rows: int, servers: int) -> None:
        self._server = np.zeros((rows, servers, len(SERVER)), np.float32)
        self._context = np.zeros((rows, len(CONTEXT)), np.float32)
        self._present = np.zeros((rows, servers), np.float32)
        self._latent = np.zeros((rows, servers), np.float32)
        self._action = np.zeros(rows, np.int64)
        self._reward = np.zeros(rows, np.float32)
        self._follows = np.zeros(rows, np.float32)
        # Where the next row goes, and how many there are.
        self._at_size = np.zeros(2, np.int64)

    @property
    def size(self) -> int:
        return int(self._at_size[1])

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {name.removeprefix("_"): array for name, array in vars(self).items()}

    def add(
        self,
        server_NBV: NDArray[np.float32],
        context_NC: NDArray[np.float32],
        latent_NB: NDArray[np.float32],
        action_N: NDArray[np.int64],
        reward_N: NDArray[np.float64],
    ) -> None:
        rows, count = len(self._reward), min(len(reward_N), len(self._reward))
        at, size = self._at_size.tolist()
        row_N = (at + np.arange(count)) % rows
        servers = server_NBV.shape[1]
        for kept, new in ((self._server, server_NBV), (self._latent, latent_NB)):
            kept[row_N] = 0.0
            kept[row_N, :servers] = new[-count:]
        self._present[row_N] = np.arange(self._present.shape[1]) < servers
        self._context[row_N], self._action[row_N] = context_NC[-count:], action_N[-count:]
        self._reward[row_N], self._follows[row_N] = reward_N[-count:], 1.0
        self._follows[row_N[-1]] = 0.0
        self._at_size[:] = [(at + count) % rows, min(size + count, rows)]

    def batch(self, row_M: NDArray[np.int64], *, following: bool) -> SetReplay.Batch:
        after = self.batch((row_M + 1) % len(self._reward), following=False) if following else None
        tensor = torch.from_numpy
        return SetReplay.Batch(
            server_MBV=tensor(self._server[row_M]),
            context_MC=tensor(self._context[row_M]),
            present_MB=tensor(self._present[row_M]),
            latent_MB=tensor(self._latent[row_M]),
            action_M=tensor(self._action[row_M]),
            reward_M=tensor(self._reward[row_M]),
            follows_M=tensor(self._follows[row_M]),
            _next=after,
        )
