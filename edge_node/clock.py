"""Time as a value that is passed in, so that pure modules and tests decide what it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Moment:
    """When something happened, on both clocks."""

    now_s: float
    unix_s: float


class Clock(Protocol):
    """Readings of time."""

    def now_s(self) -> float:
        """Seconds that never jump; meaningless outside this process."""
        ...

    def unix_s(self) -> float:
        """Seconds since 1970, as clients and files want it."""
        ...

    def wall_s(self) -> float:
        """What the machine's clock of the day says, steps and all: to be compared and told."""
        ...


class SystemClock:
    """The machine's clocks as they were when this process began.

    A step of the wall clock moves neither: deadlines, ages and expiry go on as before until the
    next life; what that makes of it is `clock_record`'s for a node. Both clocks are slewed alike,
    so that nothing but a step sets them apart.
    """

    def __init__(self, *, unix_s: float | None = None) -> None:
        """Begins with what the wall clock says, or with `unix_s`."""
        self._began_unix_s = (time.time() if unix_s is None else unix_s) - time.monotonic()

    @property
    def began_unix_s(self) -> float:
        """What `unix_s` was when CLOCK_MONOTONIC was 0, for other processes of the machine."""
        return self._began_unix_s

    def step_s(self) -> float:
        """By how much the wall clock is ahead: it was set, or was not believed at the start."""
        return self.wall_s() - self.unix_s()

    def wall_s(self) -> float:
        """CLOCK_REALTIME."""
        return time.time()

    def now_s(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()

    def unix_s(self) -> float:
        """CLOCK_REALTIME without its steps."""
        return self._began_unix_s + time.monotonic()


class FollowingClock(SystemClock):
    """The clock of a process beside a node: it goes by the node's from when it hears of it."""

    def follow(self, began_unix_s: float) -> None:
        """Takes the node's `began_unix_s`."""
        self._began_unix_s = began_unix_s


def boot_id() -> str:
    """Tells this boot of the machine from others; empty where the kernel does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def moment(clock: Clock) -> Moment:
    """Now."""
    return Moment(now_s=clock.now_s(), unix_s=clock.unix_s())
