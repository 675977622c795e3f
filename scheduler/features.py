"""The state of the paper's agents as numbers: the same live and in the simulator.

Owns the order of the features and their scaling (paper section IV: the task's input, its work and
the backlog of every server). Arrays end in their dimension: N tasks, B servers, S = 2 + B features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
SingleArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class StateScale:
    """What each feature is divided by; all ones are raw values, as the authors' code has.

    Attributes:
        input_mbit: divides the upload, Mbit.
        work: divides the task's work, work units.
        backlog_B: divides each server's backlog, work units; a single one divides them all.
    """

    input_mbit: float = 1.0
    work: float = 1.0
    backlog_B: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Refuses what no feature can be divided by."""
        for value in (self.input_mbit, self.work, *self.backlog_B):
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"a feature cannot be divided by {value!r}; it must be positive")

    @classmethod
    def from_array(cls, values: NDArray[np.floating]) -> StateScale:
        """The scale that `array` gave."""
        input_mbit, work, *backlog_B = (float(value) for value in values)
        return cls(input_mbit=input_mbit, work=work, backlog_B=tuple(backlog_B))

    def array(self) -> FloatArray:
        """All divisors in the order of the features, for a checkpoint."""
        return np.array([self.input_mbit, self.work, *self.backlog_B])


def encode(
    input_mbit_N: FloatArray, work_N: FloatArray, backlog_B: FloatArray, scale: StateScale
) -> SingleArray:
    """States [d_n, rho z, q_1..q_B] of tasks that see the same backlogs, (N, S).

    Raises:
        ValueError: a feature is not finite, which no agent may learn from or act on, or the scale
            is for another number of servers.
    """
    if len(scale.backlog_B) not in (1, len(backlog_B)):
        raise ValueError(f"{len(backlog_B)} servers; the scale is for {len(scale.backlog_B)}")
    state_NS = np.empty((len(input_mbit_N), 2 + len(backlog_B)), np.float32)
    state_NS[:, 0] = input_mbit_N / scale.input_mbit
    state_NS[:, 1] = work_N / scale.work
    state_NS[:, 2:] = backlog_B / np.array(scale.backlog_B)
    if not np.isfinite(state_NS).all():
        task, feature = np.argwhere(~np.isfinite(state_NS))[0]
        name = ("input", "work")[feature] if feature < 2 else f"backlog of server {feature - 2}"
        raise ValueError(f"{name} of task {task} is {state_NS[task, feature]}; it must be finite")
    return state_NS
