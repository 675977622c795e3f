"""What a replay of live decisions says of a learned policy and of the rules: the shape passed on.

Owns the shape and its two questions; the replay is `scheduler.guard.live_replay`, and who acts
on it is the node's guard. Plain Python, so that the node can hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


def configured_version(policy: str, options: Mapping[str, object]) -> str:
    """Names the weights of a policy as an operator configured it: `lad_ts_plus:price=0.35`.

    Without options they are those that ship. Published weights have versions of their own.
    """
    items = ",".join(f"{key}={value}" for key, value in sorted(options.items()))
    return f"{policy}:{items}" if items else policy


@dataclass(frozen=True, kw_only=True)
class ReplayVerdict:
    """A learned policy against the best of several rules on the same live arrivals, replayed.

    Attributes:
        version: of the learned weights.
        rule: name of the rule: the best one for this cluster, as far as replays could tell.
        judged_unix_s: when.
        tasks: own decisions in the window that the two were compared on.
        failed: decisions in which the learned policy raised or chose what may not be chosen; the
            rule chose there, as live.
        learned_mean_s, rule_mean_s: mean service delay of all tasks replayed, seconds.
        worse_low, worse_high: one-sided 95 % bounds, each on its own, of learned over rule - 1.
        rule_means_s: mean service delay of every candidate on the decisions before those, on which
            the rule was chosen, seconds; empty while they are too few.
    """

    version: str
    rule: str
    judged_unix_s: float
    tasks: int
    failed: int
    learned_mean_s: float
    rule_mean_s: float
    worse_low: float
    worse_high: float
    rule_means_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def worse(self) -> float:
        """By which share the learned policy's mean delay is above the rule's."""
        return self.learned_mean_s / self.rule_mean_s - 1.0

    def surely_worse(self, margin: float) -> bool:
        """Whether "at most `margin` worse" is excluded at 95 %."""
        return self.worse_low > margin

    def surely_not_worse(self, margin: float) -> bool:
        """Whether "more than `margin` worse" is excluded at 95 %."""
        return self.worse_high < margin
