"""What is measured of the way to one peer: round trip, throughput, and how late its reports come.

Pure estimators, fed by the cluster view. No clock of its own: durations and readings are passed
in, and a peer's clock is never compared with ours but for its differences.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

# Weight of a new value in a smoothed one.
ROUND_TRIP_WEIGHT = 0.2
DELAY_WEIGHT = 0.2
# Offloads smaller than the one are all round trip and worker; those larger than the other say
# something of throughput: 1e6 bits take 1 ms at 1 Gbit/s.
SMALL_BITS_MAX = 1e5
LARGE_BITS_MIN = 1e6
SAMPLES_MAX = 7
THROUGHPUT_BITS_S = (1e6, 1e11)
# Two clocks drift apart by at most that; CLOCK_MONOTONIC of a quartz stays well below.
CLOCK_DRIFT = 1e-4


@dataclass(kw_only=True)
class LinkEstimate:
    """Seconds to send a task: round trip + bits / throughput.

    A task's throughput shows in the time from the start of its offload to the first report on it.
    That time also holds what every offload waits for, whatever its size: the round trip and the
    executor's worker. Small offloads measure this part, and it is taken off. Medians, because a
    single hiccup of either process is longer than many transfers.

    Attributes:
        assumed_bits_s: throughput until a large offload has been measured.
        round_trip_s: smoothed; 0 until measured.
    """

    assumed_bits_s: float
    round_trip_s: float = 0.0
    _small_s: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))
    _s_per_bit: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))

    def round_trip_measured(self, seconds: float) -> None:
        """A small message went there and back."""
        former = self.round_trip_s or seconds
        self.round_trip_s = former + ROUND_TRIP_WEIGHT * (seconds - former)

    def offload_answered(self, bits: float, seconds: float) -> None:
        """The first report on an offload of `bits` came after `seconds`."""
        if bits <= SMALL_BITS_MAX:
            self._small_s.append(seconds)
        elif bits >= LARGE_BITS_MIN:
            waited_s = statistics.median(self._small_s) if self._small_s else self.round_trip_s
            self._s_per_bit.append((seconds - waited_s) / bits)

    @property
    def throughput_bits_s(self) -> float:
        """Measured, within THROUGHPUT_BITS_S, or the assumed one."""
        if not self._s_per_bit:
            return self.assumed_bits_s
        slowest, fastest = THROUGHPUT_BITS_S
        return 1.0 / min(max(statistics.median(self._s_per_bit), 1.0 / fastest), 1.0 / slowest)


@dataclass(kw_only=True)
class ReportDelay:
    """How long a change at a peer takes to be known here, from readings of two clocks.

    The offset of the peer's clock is the least difference of readings ever seen: of a message that
    nothing held up, which took half a round trip. What a message took beyond it is its delay. The
    difference is allowed to drift, so that it is found again after hours.

    Attributes:
        excess_s: smoothed time from a change to its arrival beyond the quickest message's.
    """

    excess_s: float = 0.0
    _offset_s: float = math.inf
    _offset_at_s: float = 0.0

    def ahead_s(self, round_trip_s: float) -> float | None:
        """By how much the peer's clock is ahead of ours; None before any of its messages came.

        Known to half a round trip.
        """
        return None if math.isinf(self._offset_s) else round_trip_s / 2 - self._offset_s

    def message_arrived(self, *, sent_s: float, changed_s: float | None, now_s: float) -> None:
        """A state came; readings of the peer's clock when it was sent, and when it had changed.

        `changed_s` is None for a heartbeat: nothing changed, so nothing was late but the message.
        """
        drifted_s = CLOCK_DRIFT * max(0.0, now_s - self._offset_at_s)
        self._offset_s = min(self._offset_s + drifted_s, now_s - sent_s)
        self._offset_at_s = now_s
        excess_s = now_s - (sent_s if changed_s is None else changed_s) - self._offset_s
        self.excess_s += DELAY_WEIGHT * (excess_s - self.excess_s)
