"""Time as a value that is passed in, so that pure modules and tests decide what it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Moment:
    """When something happened, on both clocks."""

    now_s: float
    unix_s: float


class Clock(Protocol):
    """Two readings of time."""

    def now_s(self) -> float:
        """Seconds that never jump; meaningless outside this process."""
        ...

    def unix_s(self) -> float:
        """Seconds since 1970, as clients and files want it."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_s(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()

    def unix_s(self) -> float:
        """CLOCK_REALTIME."""
        return time.time()


def moment(clock: Clock) -> Moment:
    """Now."""
    return Moment(now_s=clock.now_s(), unix_s=clock.unix_s())
