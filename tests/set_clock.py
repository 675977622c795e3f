"""A clock that stands where a test sets it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SetClock:
    """Both clocks of a node, and the machine's, at one time."""

    now: float = 1000.0

    def now_s(self) -> float:
        return self.now

    def unix_s(self) -> float:
        return self.now

    def wall_s(self) -> float:
        return self.now
