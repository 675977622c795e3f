"""How full a part of the store is, as the part itself says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PartFill:
    """How full one part of the store is: `share` of its own bound, and the memory that it takes."""

    part: str
    used_bytes: int
    share: float
