"""Who keeps the rules of the wire, and who is not heard for a while because he broke them. Pure.

One message that breaks a rule may be a bug, or of a version to come: it is refused, and that is
all. Who goes on is set aside: nothing is asked of him and nothing of his is heard until the time is
over, and then he begins anew. The memory is bounded, for names of strangers cost nothing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ConductLimits:
    """When it is enough.

    Attributes:
        broken_max: rules broken within `within_s` at which one is set aside.
        within_s: see above.
        aside_s: for how long.
        remembered_max: of those who broke a rule lately.
    """

    broken_max: int = 5
    within_s: float = 60.0
    aside_s: float = 300.0
    remembered_max: int = 256


@dataclass(kw_only=True)
class _Record:
    broken_s: list[float] = field(default_factory=list)
    aside_until_s: float = -math.inf


class Conduct:
    """Of everyone who was heard; `who` is a name, and the same one means the same node."""

    def __init__(self, limits: ConductLimits | None = None) -> None:
        self._limits = limits or ConductLimits()
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def broke(self, who: str, *, now_s: float) -> bool:
        """Notes that a rule was broken; returns whether that was once too often."""
        limits = self._limits
        record = self._records.setdefault(who, _Record())
        self._records.move_to_end(who)
        while len(self._records) > limits.remembered_max:
            self._records.popitem(last=False)
        if now_s < record.aside_until_s:
            return False  # what was on its way already
        recent = [at_s for at_s in record.broken_s if now_s - at_s < limits.within_s]
        record.broken_s = [*recent, now_s]
        if len(record.broken_s) < limits.broken_max:
            return False
        record.broken_s = []
        record.aside_until_s = now_s + limits.aside_s
        return True

    def aside_s(self, who: str, *, now_s: float) -> float:
        """For how much longer one is not heard; 0 where he is."""
        record = self._records.get(who)
        return 0.0 if record is None else max(0.0, record.aside_until_s - now_s)

    def count_aside(self, *, now_s: float) -> int:
        """How many are not heard now."""
        return sum(now_s < record.aside_until_s for record in self._records.values())
