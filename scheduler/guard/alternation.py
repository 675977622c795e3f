"""Learned policy against rule on live tasks: in one time window of twenty the rule decides.

Owns whose turn it is, what a window's delays were, and the test that says that the learned policy
is worse. Pure: told of decisions and outcomes, with a reading that the cluster's nodes share.

Turns follow that reading, so that all nodes of a cluster alternate together: a policy's effect is
on everybody's queues, and one node alone would measure what the others do. Where it jumps, as it
does when nodes find another one to go by, windows begin anew.

One observation is one cycle of 20 windows: the logarithm of the rule's window is taken from the
mean logarithm of the two windows on either side, so that a load that drifts cancels. A window's
value is the sum of its delays over the sum of what an evenly loaded cluster would have needed at
the same decisions (`even_delay_s`). Differs from dividing by the least expected delay of the
observation: that forgives whatever a policy does to the queues and punishes it for sparing the fast
nodes. On emulated Orins it found a policy worse that has the lower mean delay by 16 %.

What a window leaves in the queues is partly the next one's delay, so the difference found is
somewhat too small: this confirms, the replay of `scheduler.guard.live_replay` decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.observation import Observation

# One in 20: with the rule's window amidst the cycle, its share stays under 10 % from the eleventh
# window of a cycle on.
WINDOWS_PER_CYCLE = 20
RULE_WINDOW = 10
COMPARED_WINDOWS = (8, 9, 11, 12)
# Chance at most that equal policies are called worse in a test of CYCLES_MAX cycles; then it
# starts anew, so that it does not rest for ever on what was once measured.
FALSE_TRIP_CHANCE = 0.05
CYCLES_MAX = 128
# With fewer the variance is a guess.
CYCLES_MIN = 10
# What the bound is made for: it holds in the limit, and the rest is for few and skewed cycles.
BOUND_CHANCE = 0.01
# The bound is tightest for about this many cycles.
CYCLES_TYPICAL = 30
# A cycle in which more outcomes than this share are missing tells of the short delays only.
MISSING_SHARE_MAX = 0.1
# Decisions of compared windows whose outcomes are awaited; beyond, a window is incomplete.
AWAITED_MAX = 20_000


def even_delay_s(observation: Observation) -> float | None:
    """Delay in an evenly loaded cluster of nodes of mean speed, seconds; None without capacity.

    All unfinished work counts, wherever it is, so that moving it about changes nothing.
    """
    alive_B = observation.alive_B
    capacity = float(observation.capacity_B[alive_B].sum())
    if not capacity > 0.0:
        return None
    ahead = float(observation.load_B[alive_B].sum())
    return (ahead + observation.work * int(alive_B.sum())) / capacity


@dataclass(kw_only=True)
class _Window:
    decided: int = 0
    ended: int = 0
    delay_s: float = 0.0
    even_s: float = 0.0

    def log_delay(self) -> float | None:
        """None if nothing or too little is known."""
        if self.delay_s <= 0.0 or self.ended < (1.0 - MISSING_SHARE_MAX) * self.decided:
            return None
        return math.log(self.delay_s / self.even_s)


@dataclass(frozen=True, kw_only=True)
class LiveFinding:
    """What alternation has found so far.

    Attributes:
        cycles: counted in the present test.
        worse: by which share the learned policy's delay is above the rule's, as measured; None
            before the first cycle.
        surely_worse: at least the margin is exceeded, with `FALSE_TRIP_CHANCE` for the whole test.
    """

    cycles: int
    worse: float | None
    surely_worse: bool


@dataclass(kw_only=True)
class Alternation:
    """The running test of one version of the learned weights.

    Attributes:
        window_s: length of a window; several times the usual service delay.
        margin: share by which the learned policy may be worse.
    """

    window_s: float
    margin: float
    _windows: dict[int, _Window] = field(default_factory=dict)
    # decision id -> its window and what an even cluster would have needed, seconds
    _awaited: dict[str, tuple[int, float]] = field(default_factory=dict)
    _differences: list[float] = field(default_factory=list)

    def rules_turn(self, *, shared_s: float) -> bool:
        """Whether the rule decides now."""
        return self._number(shared_s) % WINDOWS_PER_CYCLE == RULE_WINDOW

    def decided(
        self, decision_id: str, observation: Observation, *, by_rule: bool, shared_s: float
    ) -> None:
        """A decision was made by whose turn it was."""
        number = self._number(shared_s)
        self._close(before=number)
        turn = number % WINDOWS_PER_CYCLE
        if turn not in ((RULE_WINDOW,) if by_rule else COMPARED_WINDOWS):
            return
        even_s = even_delay_s(observation)
        if even_s is None or even_s <= 0.0:
            return
        self._windows.setdefault(number, _Window()).decided += 1
        if len(self._awaited) < AWAITED_MAX:
            self._awaited[decision_id] = (number, even_s)

    def ended(self, decision_id: str, *, delay_s: float) -> None:
        """The outcome of a decision; of most, nothing was kept."""
        number, even_s = self._awaited.pop(decision_id, (-1, 0.0))
        window = self._windows.get(number)
        if window is not None:
            window.ended += 1
            window.delay_s += delay_s
            window.even_s += even_s

    def finding(self) -> LiveFinding:
        """What the closed cycles say."""
        cycles = len(self._differences)
        if cycles == 0:
            return LiveFinding(cycles=0, worse=None, surely_worse=False)
        mean = sum(self._differences) / cycles
        low = mean - half_width(self._differences)
        return LiveFinding(
            cycles=cycles, worse=math.expm1(mean), surely_worse=low > math.log1p(self.margin)
        )

    def restart(self) -> None:
        """Forgets everything: other weights, or a new trial of the same."""
        self._windows.clear()
        self._awaited.clear()
        self._differences.clear()

    def _number(self, shared_s: float) -> int:
        return math.floor(shared_s / self.window_s)

    def _close(self, *, before: int) -> None:
        """Takes in the cycles that ended before this window; late outcomes had until then.

        Those far ahead are of another clock, which the nodes go by no more: they are dropped.
        """
        present = before // WINDOWS_PER_CYCLE
        cycles = {number // WINDOWS_PER_CYCLE for number in self._windows}
        past = sorted(cycle for cycle in cycles if cycle < present)
        if not past and max(cycles, default=present) <= present + 1:
            return
        for cycle in past:
            first = cycle * WINDOWS_PER_CYCLE
            around = self._values(first + turn for turn in COMPARED_WINDOWS)
            amidst = self._values([first + RULE_WINDOW])
            if around is not None and amidst is not None:
                if len(self._differences) == CYCLES_MAX:
                    self._differences.clear()
                self._differences.append(sum(around) / len(around) - amidst[0])
        self._windows = {
            number: window
            for number, window in self._windows.items()
            if present <= number // WINDOWS_PER_CYCLE <= present + 1
        }
        self._awaited = {
            decision_id: awaited
            for decision_id, awaited in self._awaited.items()
            if awaited[0] in self._windows
        }

    def _values(self, numbers: Iterable[int]) -> list[float] | None:
        values = []
        for number in numbers:
            window = self._windows.get(number)
            value = None if window is None else window.log_delay()
            if value is None:
                return None
            values.append(value)
        return values


def half_width(values: list[float]) -> float:
    """One-sided bound of a mean that may be looked at after every value; infinite for too few.

    The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-
    uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 2024,
    one-sided (proposition B.1): the chance that the mean ever seems further off is `BOUND_CHANCE`
    in the limit, and in simulations of few and skewed values at most `FALSE_TRIP_CHANCE`.
    """
    count = len(values)
    if count < CYCLES_MIN:
        return math.inf
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    doubled = -2.0 * math.log(2.0 * BOUND_CHANCE)
    rho2 = (doubled + math.log(doubled + 1.0)) / CYCLES_TYPICAL
    grown = count * rho2 + 1.0
    bound = math.log(1.0 + math.sqrt(grown) / (2.0 * BOUND_CHANCE))
    return math.sqrt(variance * 2.0 * grown / (count**2 * rho2) * bound)
