"""The latent memory X_b[n] of a node: what each place in a slot last settled on (paper, V-A).

Owns the slot's clock, the count of decisions within a slot and the latents. Pure: readings of the
clock are passed in; `store.stored_latents` writes the snapshots down.

The n-th decision of a slot reads x_I: what the n-th decision left in the latest earlier slot that
had one (docs/paper.md, "latent of the n-th task"). It leaves x_0, which is read from the next slot
on. n counts decisions of all tasks of this node and wraps at `latents_max`.

Which latents go together. Those of one version of weights: a decision of other weights begins a
fresh memory. Of the membership the key is every latent's own: it is kept with the ids of its
candidates and is read by id, so that a node that comes or goes costs the others nothing; throwing
all away (the paper's servers never change) would forget B - 1 right values for one that is new. A
node that a latent does not know gets `NEUTRAL`, one that is gone is left out.

Latents are rounded to single precision when they are kept, not when they are written, so that a
restart changes no decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_node.clock import Moment
from edge_node.config import NodeConfig
from scheduler.observation import FloatArray
from scheduler.policy import Decision

# "Never chosen": what a node is to LAD-TS and LAD-TS+ that joined after the latent was kept.
NEUTRAL = 0.0
SLOT_S_MIN, SLOT_S_MAX = 0.1, 60.0


@dataclass(frozen=True, kw_only=True)
class LatentSnapshot:
    """X_b[n] of one node as it is written down.

    Attributes:
        node_ids: the candidates, in the order of a latent's values.
        version: of the weights that left the latents.
        slot: number of the slot at hand.
        slot_s: how long it lasts.
        began_unix_s: when it began.
        decided: decisions made in it.
        latents: by n, float32 bytes in the machine's order, of slots that are over.
        open_latents: by n, of the slot at hand; they are read from the next one on.
    """

    node_ids: tuple[str, ...]
    version: str
    slot: int
    slot_s: float
    began_unix_s: float
    decided: int
    latents: dict[int, bytes]
    open_latents: dict[int, bytes]


@dataclass(frozen=True, kw_only=True)
class SlotSettings:
    """How long slots are and how much is kept.

    Attributes:
        slot_s: of a slot; None for one mean service time as measured when the slot begins.
        latents_max: n wraps there.
    """

    slot_s: float | None = None
    latents_max: int = 64

    @classmethod
    def of(cls, config: NodeConfig) -> SlotSettings:
        """From the node's settings."""
        return cls(slot_s=config.slot_s, latents_max=config.latent_slots_max)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a decision stands: the n-th of a slot; `row` is n wrapped."""

    slot: int
    index: int
    row: int


@dataclass(frozen=True)
class _Latent:
    node_ids: tuple[str, ...]
    value_B: NDArray[np.float32]

    def seen_by(self, node_ids: tuple[str, ...]) -> NDArray[np.float32]:
        """The values of these nodes."""
        if node_ids == self.node_ids:
            return self.value_B
        known = dict(zip(self.node_ids, self.value_B.tolist(), strict=True))
        return np.array([known.get(node_id, NEUTRAL) for node_id in node_ids], np.float32)


@dataclass(kw_only=True)
class _Slot:
    """The slot at hand; `began_s` is a reading of the clock that never jumps."""

    number: int
    began_s: float
    slot_s: float
    decided: int = 0
    latents: dict[int, _Latent] = field(default_factory=dict)


class SlotMemory:
    """X_b[n] and the slot's clock, which starts at `now_s`."""

    def __init__(self, settings: SlotSettings, *, now_s: float) -> None:
        self._settings = settings
        slot_s = settings.slot_s or SLOT_S_MIN
        self._slot = _Slot(number=0, began_s=now_s, slot_s=slot_s)
        self._latents: dict[int, _Latent] = {}
        self._version: str | None = None
        self._node_ids: tuple[str, ...] = ()

    @property
    def slot(self) -> int:
        """Number of the slot at hand."""
        return self._slot.number

    def advance(self, *, now_s: float, service_s: Callable[[], float | None]) -> bool:
        """Lets time pass; True when a slot ended that has left latents to be written.

        Args:
            now_s: the clock that never jumps.
            service_s: gives one mean service time, or None where it is not known.
        """
        slot = self._slot
        passed = math.floor((now_s - slot.began_s) / slot.slot_s)
        if passed < 1:
            return False
        self._latents.update(slot.latents)
        self._slot = _Slot(
            number=slot.number + passed,
            began_s=slot.began_s + passed * slot.slot_s,
            slot_s=self._next_slot_s(service_s()),
        )
        return bool(slot.latents)

    def place(self) -> Place:
        """Of the next decision."""
        index = self._slot.decided
        return Place(slot=self.slot, index=index, row=index % self._settings.latents_max)

    def recall(self, place: Place, node_ids: tuple[str, ...]) -> FloatArray | None:
        """x_I over `node_ids`, (B,); None where no earlier slot had so many decisions."""
        latent = self._latents.get(place.row)
        return None if latent is None else latent.seen_by(node_ids).astype(np.float64)

    def decided(self, place: Place, node_ids: tuple[str, ...], decision: Decision) -> None:
        """Counts the decision and keeps its x_0, if it has one."""
        self._slot.decided += 1
        if decision.latent_B is None:
            return
        version = decision.weights_version or ""
        if version != self._version:
            self._latents.clear()
            self._slot.latents.clear()
            self._version = version
        self._node_ids = node_ids
        self._slot.latents[place.row] = _Latent(node_ids, decision.latent_B.astype(np.float32))

    def snapshot(self, at: Moment) -> LatentSnapshot | None:
        """All that a later life needs; None while no latent was kept."""
        if self._version is None:
            return None
        slot = self._slot
        kept = (*self._latents.values(), *slot.latents.values())
        node_ids = self._node_ids
        if any(latent.node_ids != node_ids for latent in kept):
            # Of several models, or of a membership that changed: all nodes that anything is of.
            node_ids = tuple(sorted({n for latent in kept for n in latent.node_ids}))
        return LatentSnapshot(
            node_ids=node_ids,
            version=self._version,
            slot=slot.number,
            slot_s=slot.slot_s,
            began_unix_s=at.unix_s - (at.now_s - slot.began_s),
            decided=slot.decided,
            latents=_bytes(self._latents, node_ids),
            open_latents=_bytes(slot.latents, node_ids),
        )

    def restore(self, snapshot: LatentSnapshot, at: Moment) -> None:
        """Goes on where a former life was when it wrote the snapshot.

        If the slot that was at hand then still lasts, it goes on; if not, `advance` ends it.
        """
        age_s = max(0.0, at.unix_s - snapshot.began_unix_s)
        self._version = snapshot.version
        self._node_ids = snapshot.node_ids
        self._latents = self._latents_of(snapshot.latents)
        self._slot = _Slot(
            number=snapshot.slot,
            began_s=at.now_s - age_s,
            slot_s=self._settings.slot_s or snapshot.slot_s,
            decided=snapshot.decided,
            latents=self._latents_of(snapshot.open_latents),
        )

    # Small parts.

    def _next_slot_s(self, service_s: float | None) -> float:
        if self._settings.slot_s is not None:
            return self._settings.slot_s
        if service_s is None:
            return self._slot.slot_s
        return min(max(service_s, SLOT_S_MIN), SLOT_S_MAX)

    def _latents_of(self, rows: dict[int, bytes]) -> dict[int, _Latent]:
        return {
            row: _Latent(self._node_ids, np.frombuffer(content, np.float32))
            for row, content in rows.items()
            if row < self._settings.latents_max
        }


def _bytes(latents: dict[int, _Latent], node_ids: tuple[str, ...]) -> dict[int, bytes]:
    return {row: latent.seen_by(node_ids).tobytes() for row, latent in latents.items()}
