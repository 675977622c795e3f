"""What has been asked of this node lately: work accepted per second, and work of a mean task.

Pure: told what was accepted and when. The cluster's load is put together from every node's rate
by the cluster view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# A rate over less than this share of the time constant would be that of a single task.
SEEN_SHARE_MIN = 0.1


@dataclass(kw_only=True)
class AcceptedWork:
    """Exponentially averaged over `constant_s` seconds: what is older counts e-fold less.

    Attributes:
        constant_s: the average's time constant.
        began_s: when counting began.
    """

    constant_s: float
    began_s: float
    _work: float = 0.0
    _tasks: float = 0.0
    _at_s: float = 0.0

    def accepted(self, work: float, *, now_s: float) -> None:
        """A task of `work` work units was accepted."""
        faded = self._faded(now_s)
        self._work = faded * self._work + work
        self._tasks = faded * self._tasks + 1.0
        self._at_s = now_s

    def work_s(self, *, now_s: float) -> float:
        """Work units accepted per second."""
        return self._faded(now_s) * self._work / self.seen_s(now_s=now_s)

    def mean_work(self) -> float | None:
        """Work units of a mean task; None before the first."""
        return self._work / self._tasks if self._tasks else None

    def seen_s(self, *, now_s: float) -> float:
        """Seconds that the average rests on, so that a young node's rate is not too low."""
        age_s = max(0.0, now_s - self.began_s)
        share = -math.expm1(-age_s / self.constant_s)
        return self.constant_s * max(SEEN_SHARE_MIN, share)

    def _faded(self, now_s: float) -> float:
        return math.exp(-max(0.0, now_s - self._at_s) / self.constant_s)
