"""What decides placements in a simulated run.

A dispatcher sees a whole episode but may use of it only what its docstring says that it knows;
compiled dispatchers run through it without coming back to Python for each task.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from scheduler.simulator.queueing import IntArray
from scheduler.simulator.workload import Episode


class Dispatcher(Protocol):
    """Places every task of an episode."""

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, in the episode's order, (N,)."""
        ...
