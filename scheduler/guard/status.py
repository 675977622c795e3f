"""What a guard shows of itself: who decides placements, and why.

Owns the shape and its one question. Plain Python, so that the REST surface can hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.guard.verdict import ReplayVerdict

# Below this share of learned decisions a run is the rule's as much as the learned policy's, and is
# not called by its name.
LEARNED_SHARE_MIN = 0.9


@dataclass(frozen=True, kw_only=True)
class GuardStatus:
    """Who decides placements, and why.

    Attributes:
        wanted: the policy that the operator asked for.
        rule: the one of the rules that stands in and is compared with.
        rules: the candidates.
        deciding: the policy whose turn it is.
        reason: why it is not the wanted one; empty if it is.
        version: of the learned weights; None before there are any.
        pinned: as configured.
        decisions: since the node started.
        learned_share: of the last `window_tasks` decisions; None before the first.
        learned_share_total: of all decisions.
        verdict: the last replay of this version.
        live_cycles, live_worse: how often learned policy and rule were compared in turn on live
            tasks, and by which share the learned one's delay was above; None before the first.
    """

    wanted: str
    rule: str
    rules: tuple[str, ...]
    deciding: str
    reason: str
    version: str | None
    pinned: bool
    decisions: int
    learned_share: float | None
    learned_share_total: float | None
    verdict: ReplayVerdict | None
    live_cycles: int
    live_worse: float | None

    @property
    def counts_as_learned(self) -> bool:
        """Whether results so far may be reported under the learned policy's name."""
        total = self.learned_share_total
        return total is not None and total >= LEARNED_SHARE_MIN
