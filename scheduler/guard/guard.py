"""The learned policy decides only while it is not worse than the best of several rules.

Owns who decides each placement and why. Pure: the clock is passed in, verdicts and outcomes are
told. Whatever goes wrong with the learned policy, the rule decides at once: no placement waits for
it and none fails.

The rule is the one that verdicts name, for they say which is best on this cluster
(`scheduler.guard.live_replay`); the first of the settings' until there is a verdict. It stands in
and decides in the rule's windows; when it changes, the test by windows starts anew.

Every decision of the rule carries the rule's name and the reason, a word of `REASONS` and perhaps
a detail after it, which names the rule where it is about a comparison:

| reason | lasts until |
|---|---|
| no weights | weights are swapped in |
| error, not finite, over budget | the next slot begins; then the learned policy is tried again |
| unknown membership | the candidates are others, or other weights come |
| no verdict yet | a replay shows this version to be not worse; versions that shipped need none, nor
  those that were found better than what decided here until now |
| replay | a later replay shows this version to be not worse |
| live | 200 windows have passed; then the test starts anew. Or other weights come |
| window | the rule's window ends |

An empty reason is the learned policy's own; "pinned" is the learned policy's as well, when the
operator wants it whatever verdicts and windows say. It still gives way to the first four.

Not worse. A replay's verdict bounds how much longer the learned policy's mean delay is. It loses
its turn when "at most `margin` worse" is excluded at 95 %, and gets it, at first or back, when
"more than `margin` worse" is excluded at 95 %. Between the two everything stays as it is, and so
weights that nobody has vouched for begin with the rule. A verdict counts for the version that it
names and for no other.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from scheduler.experience import RecordedDecision
from scheduler.guard.alternation import WINDOWS_PER_CYCLE, Alternation
from scheduler.guard.status import GuardStatus
from scheduler.guard.verdict import ReplayVerdict
from scheduler.observation import Observation
from scheduler.policy import Decision, Outcome, Policy, UnknownMembership

PINNED = "pinned"
NO_WEIGHTS = "no weights"
ERROR = "error"
NOT_FINITE = "not finite"
OVER_BUDGET = "over budget"
UNKNOWN_MEMBERSHIP = "unknown membership"
NO_VERDICT = "no verdict yet"
REPLAY = "replay"
LIVE = "live"
WINDOW = "window"
REASONS = (
    *("", PINNED, NO_WEIGHTS, ERROR, NOT_FINITE, OVER_BUDGET),
    *(UNKNOWN_MEMBERSHIP, NO_VERDICT, REPLAY, LIVE, WINDOW),
)

# Slow decisions that are tolerated: caches are cold at times.
OVERRUNS_MAX = 3
OVERRUNS_OF = 20
# How long a live finding stands, in windows.
LIVE_TRIP_WINDOWS = 10 * WINDOWS_PER_CYCLE
DETAIL_CHARS_MAX = 120


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """When the learned policy may decide.

    Attributes:
        wanted: name of the learned policy.
        rules: names of the rules that may stand in; the first does until a verdict names another.
        pinned: the learned policy decides whatever verdicts and windows say.
        margin: share by which its mean delay may be above the rule's.
        decision_budget_s: CPU time that one decision may take. Not wall time: where cores are
            shared, a pause says nothing about the policy, and the rule would have it, too.
        slot_s: the scheduler's period.
        window_s: length of the windows in which learned policy and rule alternate.
        window_tasks: over how many decisions the learned share is counted.
        trusted_versions: weights that were validated before they shipped.
    """

    wanted: str
    rules: tuple[str, ...]
    pinned: bool = False
    margin: float = 0.01
    decision_budget_s: float = 0.002
    slot_s: float = 3.5
    window_s: float = 60.0
    window_tasks: int = 2000
    trusted_versions: frozenset[str] = frozenset()


def reason_word(reason: str) -> str:
    """The reason without its detail: one of `REASONS`, fit for a metric's label."""
    return reason.partition(":")[0]


class Guard:
    """A policy that is the learned one while it is not worse, and the rule otherwise.

    Args:
        settings: when.
        learned: None until weights are there.
        version: of its weights.
        rules: those of the settings by name; they must not fail for a valid observation.
        now_s: a clock that never jumps, which measures slots.
        shared_s: a reading that the cluster's nodes agree on, which windows follow.
        cpu_s: CPU time of the deciding thread, which measures decisions.
    """

    def __init__(
        self,
        settings: GuardSettings,
        *,
        learned: Policy | None,
        version: str | None,
        rules: Mapping[str, Policy],
        now_s: Callable[[], float],
        shared_s: Callable[[], float],
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        assert set(rules) == set(settings.rules)
        self._settings = settings
        self._rules = dict(rules)
        # Name and policy change together: whoever reads the pair has a rule under its own name.
        self._standing_in = (settings.rules[0], rules[settings.rules[0]])
        self._now_s = now_s
        self._shared_s = shared_s
        self._cpu_s = cpu_s
        self._alternation = Alternation(window_s=settings.window_s, margin=settings.margin)
        # Whether the latest decisions were the learned policy's, and how many of all were.
        self._lately: deque[bool] = deque(maxlen=settings.window_tasks)
        self._decisions = self._learned_decisions = 0
        # A learner may publish the verdict before the node has read the weights.
        self._verdict_kept: ReplayVerdict | None = None
        # Name of the weights that made the last learned decision.
        self._decided: str | None = None
        self._judgement = NO_WEIGHTS
        self._live_trip, self._live_trip_until_s = "", -math.inf
        self.swap_learned(learned, version)

    # What happens to it.

    def swap_learned(
        self, policy: Policy | None, version: str | None, *, better_than: str | None = None
    ) -> None:
        """Puts other weights in place; what was found of former ones does not count for them.

        Args:
            policy: with the weights; None for none.
            version: of them.
            better_than: version that a replay found them to be better than. If that has
                decided here and may still do so, they go on in its place.
        """
        goes_on = better_than is not None and better_than == self._decided and not self._judgement
        self._decided = None
        self._learned = policy
        self._version = version
        self._verdict: ReplayVerdict | None = None
        trusted = goes_on or version in self._settings.trusted_versions
        self._judgement = "" if trusted else NO_VERDICT
        self._overruns: deque[bool] = deque(maxlen=OVERRUNS_OF)
        self._tripped, self._tripped_slot = "", -1
        self._unknown_ids: tuple[str, ...] | None = None
        if not goes_on:
            self._live_trip, self._live_trip_until_s = "", -math.inf
        self._alternation.restart()
        if self._verdict_kept is not None:
            self.judged(self._verdict_kept)

    def reconfigure(self, settings: GuardSettings) -> None:
        """Takes other settings; under another margin, the live test starts anew."""
        former, self._settings = self._settings, settings
        if settings.margin != former.margin:
            self._alternation = Alternation(window_s=settings.window_s, margin=settings.margin)
            self._verdict = None
            if self._verdict_kept is not None:
                self.judged(self._verdict_kept)

    def judged(self, verdict: ReplayVerdict) -> None:
        """Takes in what a replay found; the same verdict may come again.

        What is told last is the newest: learners on several devices judge, one after the other,
        and their clocks of the day need not agree. Which rule is best does not depend on the
        weights: that is taken from every verdict.
        """
        if verdict.rule not in self._rules:
            return  # of a time when other rules were configured
        self._verdict_kept = verdict
        self._stand_in(verdict.rule)
        if verdict.version != self._version:
            return
        if verdict == self._verdict:
            return
        self._verdict = verdict
        if verdict.surely_worse(self._settings.margin):
            self._judgement = f"{REPLAY}: worse than {verdict.rule} by {verdict.worse:.1%}"
        elif verdict.surely_not_worse(self._settings.margin):
            self._judgement = ""
        elif self._judgement == NO_VERDICT:
            worst = f"{verdict.worse_high:.1%}"
            self._judgement = f"{REPLAY}: may be worse than {verdict.rule} by {worst}"

    def note_decision(self, recorded: RecordedDecision) -> None:
        """A decision of this guard went out under this id."""
        word = reason_word(recorded.decision.reason)
        if word in ("", WINDOW) and not self._settings.pinned:
            self._alternation.decided(
                recorded.decision_id,
                recorded.observation,
                by_rule=word == WINDOW,
                shared_s=self._shared_s(),
            )
            self._judge_live()

    def record(self, outcome: Outcome) -> None:
        """Tells both policies, and the test, what became of a decision."""
        self._alternation.ended(outcome.decision_id, delay_s=outcome.service_delay_s)
        for rule in self._rules.values():
            rule.record(outcome)
        if self._learned is not None:
            self._learned.record(outcome)

    # What it answers.

    @property
    def rule(self) -> str:
        """Name of the rule that stands in."""
        return self._standing_in[0]

    def decide(self, observation: Observation) -> Decision:
        """The learned policy's choice, or the rule's with the reason."""
        now_s = self._now_s()
        refusal = self._refusal(now_s=now_s)
        if not refusal and observation.node_ids == self._unknown_ids:
            refusal = UNKNOWN_MEMBERSHIP
        decision = None
        if not refusal:
            decision, refusal = self._try_learned(observation, now_s)
        learned = decision is not None
        if decision is None:
            _, rule = self._standing_in
            decision = replace(rule.decide(observation), reason=refusal)
        elif self._settings.pinned:
            decision = replace(decision, reason=PINNED)
        self._lately.append(learned)
        self._decisions += 1
        self._learned_decisions += learned
        return decision

    def status(self) -> GuardStatus:
        """As things stand."""
        reason = self._refusal(now_s=self._now_s())
        if not reason and self._unknown_ids is not None:
            reason = UNKNOWN_MEMBERSHIP
        decisions, live = self._decisions, self._alternation.finding()
        return GuardStatus(
            wanted=self._settings.wanted,
            rule=self.rule,
            rules=self._settings.rules,
            deciding=self.rule if reason else self._settings.wanted,
            reason=reason,
            version=self._version,
            pinned=self._settings.pinned,
            decisions=decisions,
            learned_share=sum(self._lately) / len(self._lately) if self._lately else None,
            learned_share_total=self._learned_decisions / decisions if decisions else None,
            verdict=self._verdict,
            live_cycles=live.cycles,
            live_worse=live.worse,
        )

    # Small parts.

    def _stand_in(self, name: str) -> None:
        if name != self.rule:
            self._standing_in = (name, self._rules[name])
            self._alternation.restart()

    def _refusal(self, *, now_s: float) -> str:
        """Why the rule decides now, whatever the task; empty if it does not."""
        if self._learned is None:
            return NO_WEIGHTS
        if self._tripped and self._slot(now_s) == self._tripped_slot:
            return self._tripped
        if self._settings.pinned:
            return ""
        if self._judgement:
            return self._judgement
        if now_s < self._live_trip_until_s:
            return self._live_trip
        return WINDOW if self._alternation.rules_turn(shared_s=self._shared_s()) else ""

    def _try_learned(self, observation: Observation, now_s: float) -> tuple[Decision | None, str]:
        """Its decision, or None and the reason, which then stands until the next slot."""
        assert self._learned is not None
        start_s = self._cpu_s()
        try:
            decision = self._learned.decide(observation)
        except UnknownMembership:
            self._unknown_ids = observation.node_ids
            return None, UNKNOWN_MEMBERSHIP
        # A learned policy is weights that nobody has read: any error of it is the rule's task.
        except Exception as error:
            return None, self._trip(f"{ERROR}: {type(error).__name__}: {error}", now_s)
        latent_B = decision.latent_B
        if latent_B is not None and not (
            latent_B.shape == observation.alive_B.shape and np.isfinite(latent_B).all()
        ):
            return None, self._trip(NOT_FINITE, now_s)
        if not (
            0 <= decision.choice < len(observation.node_ids)
            and observation.alive_B[decision.choice]
        ):
            return None, self._trip(f"{ERROR}: chose what may not be chosen", now_s)
        over = self._cpu_s() - start_s > self._settings.decision_budget_s
        self._overruns.append(over)
        if over and sum(self._overruns) >= OVERRUNS_MAX:
            return None, self._trip(OVER_BUDGET, now_s)
        self._unknown_ids = None
        self._decided = decision.weights_version
        return decision, ""

    def _trip(self, reason: str, now_s: float) -> str:
        self._tripped = reason[:DETAIL_CHARS_MAX]
        self._tripped_slot = self._slot(now_s)
        return self._tripped

    def _judge_live(self) -> None:
        finding = self._alternation.finding()
        if finding.surely_worse:
            self._live_trip = f"{LIVE}: worse than {self.rule} by {finding.worse:.1%}"
            standing_s = LIVE_TRIP_WINDOWS * self._settings.window_s
            self._live_trip_until_s = self._now_s() + standing_s
            self._alternation.restart()

    def _slot(self, now_s: float) -> int:
        return math.floor(now_s / self._settings.slot_s)
