"""Standard normal numbers by the hundred thousand, for denoising chains.

A slot of twenty agents takes 300,000 normals, which torch's generator would make the largest
single cost of training (6 ns each; here about 1 ns). Sixteen random bits choose one of 2^16
equally likely quantiles of the normal distribution (mean 0 by symmetry, variance .9999, none above
4.3 in size), and a counter is hashed for the bits, so the whole state is one integer.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

SingleArray = NDArray[np.float32]
_QUANTILES = 1 << 16


class NoiseSource:
    """Normal noise from a seed and a position.

    Args:
        seed: sources of different seeds are unrelated.

    Attributes:
        start: what the seed makes of the counter's first value.
        position: blocks of four normals taken so far; setting it goes there.
    """

    def __init__(self, seed: int) -> None:
        self.start = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
        self.position = 0

    def normal(self, *shape: int) -> Tensor:
        """The next normals, float32; each row of the last dimension begins a block."""
        values = np.zeros(shape, np.float32)
        rows_RM = values.reshape(-1, shape[-1])
        first = self.take(len(rows_RM), shape[-1])
        add_noise(rows_RM, np.float32(1.0), TABLE, self.start, first, shape[-1])
        return torch.from_numpy(values)

    def take(self, rows: int, samples: int) -> np.uint64:
        """Reserves normals for a kernel that draws them itself; returns their position."""
        first = np.uint64(self.position)
        self.position += rows * blocks(samples)
        return first


def blocks(samples: int) -> int:
    """Blocks of four that a row of `samples` takes."""
    return (samples + 3) // 4


def _quantiles() -> SingleArray:
    middle = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    table: SingleArray = torch.special.ndtri(middle).float().numpy()
    return table


TABLE = _quantiles()


@njit(cache=True)
def add_noise(
    x_FM: SingleArray,
    factor: np.float32,
    table: SingleArray,
    start: np.uint64,
    position: np.uint64,
    count: int,
) -> None:
    """Adds factor z to x for the first `count` samples of each row, from `position` on.

    SplitMix64 of the counter (Steele, Lea and Flood, OOPSLA 2014); four normals from each number.
    """
    features, samples = x_FM.shape
    row_blocks = np.uint64((samples + 3) // 4)
    mask = np.uint64(0xFFFF)
    for f in range(features):
        for block in range((count + 3) // 4):
            at = position + np.uint64(f) * row_blocks + np.uint64(block + 1)
            bits = start + np.uint64(0x9E3779B97F4A7C15) * at
            bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            bits ^= bits >> np.uint64(31)
            for m in range(4 * block, min(4 * block + 4, count)):
                x_FM[f, m] += factor * table[bits & mask]
                bits >>= np.uint64(16)
