"""What each station's diffusion last settled on for the n-th task of a slot: the latent x_I.

Owns the table X_b[n] (paper section V-A) and which of its rows a task reads, writes and is
followed by. Tensors end in their dimensions: T slots that are told apart, A agents, N most tasks
of a slot, B actions, M tasks of one agent in the slot at hand, K tasks of the slot together.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from scheduler.learning.station_slots import StationSlot, agents
from scheduler.simulator.scenario import Scenario

Period = Literal["episode", "slot"]


class LatentMemory:
    """One distribution over the servers for each (slot, agent, index in the slot).

    Args:
        scenario: gives the sizes.
        period: "episode": a task reads what the same slot of the previous episode left (the
            authors' code); "slot": what the previous slot left (their paper;
            docs/paper.md, "latent of the n-th task").
        generator: of the first content, N(0, 1) as in the code.

    Attributes:
        value_TANB: the table.
    """

    def __init__(self, scenario: Scenario, period: Period, generator: torch.Generator) -> None:
        slots = scenario.slots + 1 if period == "episode" else 1
        shape = (slots, agents(scenario), scenario.tasks_per_slot_max, scenario.servers)
        self.value_TANB = torch.randn(shape, generator=generator)

    def table(self, slot: StationSlot) -> Tensor:
        """Latents of a slot's tasks by agent, (A, B, M)."""
        most = slot.state_ASM.shape[2]
        kept_ANB = self.value_TANB[slot.index % len(self.value_TANB)]
        return kept_ANB[:, :most].transpose(1, 2)

    def rows(self, slot: StationSlot) -> Tensor:
        """Row of each task in `flat`, (K,)."""
        return self._first(slot, slot.index) + torch.from_numpy(slot.order_N)

    def following_rows(self, slot: StationSlot) -> Tensor:
        """Row that each task's successor reads: the station's next task, (K,)."""
        last = torch.from_numpy(slot.last_N)
        return torch.where(last, self._first(slot, slot.index + 1), self.rows(slot) + 1)

    @property
    def flat(self) -> Tensor:
        """The table's rows, (T * A * N, B); writing to them writes to the table."""
        return self.value_TANB.view(-1, self.value_TANB.shape[3])

    def copy(self) -> LatentMemory:
        """A memory with the same content that can be written to apart."""
        other = copy.copy(self)
        other.value_TANB = self.value_TANB.clone()
        return other

    def _first(self, slot: StationSlot, index: int) -> Tensor:
        slots, stations, most, _ = self.value_TANB.shape
        return ((index % slots) * stations + torch.from_numpy(slot.agent_N)) * most
