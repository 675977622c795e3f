"""Experience pools of all agents side by side: ring buffers of one capacity, allocated once.

Owns where a transition lies, what is overwritten (the agent's oldest) and how a batch is drawn.
A transition's fields are the algorithm's; a pool stores rows and gives rows back.

Tensors end in their dimensions: A agents, C capacity, N transitions of several agents together,
K samples of each agent, L transitions of one agent in sequence, F features of a field.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IntArray = NDArray[np.int64]


class ReplayStack:
    """One pool for every agent.

    Args:
        agents: A.
        capacity: C, transitions that each agent keeps.
        fields: name of each field, its number of features and their type.

    Attributes:
        size_A: transitions that each agent has at present.
    """

    def __init__(
        self, agents: int, capacity: int, fields: Mapping[str, tuple[int, torch.dtype]]
    ) -> None:
        self.agents = agents
        self.capacity = capacity
        self.size_A = np.zeros(agents, np.int64)
        self._next_A = np.zeros(agents, np.int64)
        self._fields = {
            name: torch.zeros(agents * capacity, features, dtype=dtype)
            for name, (features, dtype) in fields.items()
        }

    def add(self, agent_N: IntArray, order_N: IntArray, **fields: Tensor) -> None:
        """Stores transitions.

        Args:
            agent_N: whose each transition is.
            order_N: its place among those that this call brings for its agent: 0, 1, 2, ...
            fields: every field's values, (N, F) or (N,).
        """
        count_A = np.bincount(agent_N, minlength=self.agents)
        if count_A.max(initial=0) > self.capacity:
            raise ValueError(f"{count_A.max()} transitions at once; a pool holds {self.capacity}")
        row_N = agent_N * self.capacity + (self._next_A[agent_N] + order_N) % self.capacity
        rows = torch.from_numpy(row_N)
        for name, stored in self._fields.items():
            stored.index_copy_(0, rows, fields[name].view(len(row_N), -1))
        self._next_A = (self._next_A + count_A) % self.capacity
        self.size_A = np.minimum(self.size_A + count_A, self.capacity)

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """Rows of a uniform batch of each agent's transitions, (A * K,), agent by agent.

        differs: with replacement, where the authors draw without, because A permutations would
        cost more than the update; 64 of 1000 repeat 2 on average (docs/paper.md, "batches").
        """
        return self.sample_runs(batch, 1, generator).view(-1)

    def sample_runs(self, batch: int, length: int, generator: torch.Generator) -> Tensor:
        """Rows of runs of consecutive transitions, oldest first, (A * K, L).

        An agent with fewer than L transitions yields rows that were never written.
        """
        starts_A = torch.from_numpy(np.maximum(self.size_A - (length - 1), 1))
        oldest_A = torch.from_numpy((self._next_A - self.size_A) % self.capacity)
        drawn_AK = torch.rand((self.agents, batch), generator=generator, dtype=torch.float64)
        age_AK = (drawn_AK * starts_A[:, None]).long() + oldest_A[:, None]
        place_AKL = (age_AK[:, :, None] + torch.arange(length)) % self.capacity
        row_AKL = place_AKL + torch.arange(self.agents)[:, None, None] * self.capacity
        return row_AKL.view(-1, length)

    def field(self, name: str, rows: Tensor) -> Tensor:
        """Values of one field in these rows, (*rows, F)."""
        values = self._fields[name].index_select(0, rows.reshape(-1))
        return values.view(*rows.shape, -1)

    def state(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint from which a run goes on bit for bit."""
        counters = {
            "size": torch.from_numpy(self.size_A.copy()),
            "next": torch.from_numpy(self._next_A.copy()),
        }
        return counters | self._fields

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state` gave."""
        self.size_A = state["size"].numpy().copy()
        self._next_A = state["next"].numpy().copy()
        for name, stored in self._fields.items():
            stored.copy_(state[name])
