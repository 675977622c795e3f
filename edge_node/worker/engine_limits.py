"""What the operator sets of a worker's queue and loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_node.worker import image_encoding, queue_order

# A parked row of SD3-medium holds its latent, its prompts and the modulations of all its steps, in
# all some 30 MB. So many interruptions within each other are rare, as each must be the shorter.
PARKED_MAX = 8


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """What the operator sets.

    Attributes:
        queue_max: drawings that may wait.
        pace_s: least duration of a work unit; 0 is off.
        told: what images tell beside what is seen.
        order: who is drawn next.
        parked_max: drawings that may hold a latent beside the active ones.
        memory_floor_bytes: left to everything else on the device when rows are admitted.
    """

    queue_max: int = 64
    pace_s: float = 0.0
    told: image_encoding.Metadata = field(default_factory=image_encoding.Metadata)
    order: queue_order.Order = field(default_factory=queue_order.Order)
    parked_max: int = PARKED_MAX
    memory_floor_bytes: int = 2**30
