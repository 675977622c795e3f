"""What has been asked of this node lately: work accepted per second, and work of a mean task.

Pure: told what was accepted and when, of which model. The cluster's load is put together from every
node's rate by the cluster view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Models of which this node has accepted tasks; the one that was asked for longest ago goes.
MODELS_MAX = 64
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

    def tasks(self, *, now_s: float) -> float:
        """Tasks that the average rests on."""
        return self._faded(now_s) * self._tasks

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


class AcceptedByModel:
    """The same for each model that was asked for: a work unit of one says nothing of another's.

    Args:
        constant_s: the averages' time constant.
        began_s: when counting began.
    """

    def __init__(self, *, constant_s: float, began_s: float) -> None:
        self._constant_s = constant_s
        self._began_s = began_s
        # In the order in which they were asked for last.
        self._models: dict[str, AcceptedWork] = {}

    def accepted(self, work: float, *, model: str, now_s: float) -> None:
        """A task of `work` work units of `model` was accepted."""
        one = self._models.pop(model, None)
        if one is None:
            one = AcceptedWork(constant_s=self._constant_s, began_s=self._began_s)
            if len(self._models) >= MODELS_MAX:
                del self._models[next(iter(self._models))]
        self._models[model] = one
        one.accepted(work, now_s=now_s)

    def work_s(self, *, now_s: float) -> dict[str, float]:
        """Work units accepted per second, by model."""
        return {model: one.work_s(now_s=now_s) for model, one in self._models.items()}

    def mean_work(self, model: str) -> float | None:
        """Work units of a mean task of the model; None before the first."""
        one = self._models.get(model)
        return None if one is None else one.mean_work()

    def tasks(self, *, now_s: float) -> dict[str, float]:
        """Tasks that the averages rest on, by model."""
        return {model: one.tasks(now_s=now_s) for model, one in self._models.items()}
