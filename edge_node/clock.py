"""Time as a value that is passed in, so that pure modules and tests decide what it is."""

from __future__ import annotations

import time
from typing import Protocol


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
