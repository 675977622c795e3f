"""Joins what was decided, what became of it and what was decided next into transitions.

Pure: entries go in as the pool gives them, in any order, twice or never; the clock's reading is
given. Owns which entries belong together and how long one waits for another. What follows from
that:

- A decision is joined with its outcome by the decision's id, the first outcome counts.
- s' is what the same node saw at its very next decision (paper section IV: the next task's state;
  a slot's last task is followed by the first of the next slot). The pool numbers decisions, so a
  lost one breaks the chain instead of being skipped.
- Both decisions must have had the same candidates, for else the actions mean something else.
- Each decision yields one transition at most: what is forgotten can never come back.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields

from scheduler.experience import PooledDecision, RecordedDecision
from scheduler.policy import Outcome

# Lives of the node that are told apart; entries of the ones before are late.
LIVES_MAX = 8


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One step of the decision problem: (s, x_I, x_0, action, reward, s').

    Attributes:
        life, sequence: number of the decision, see `PooledDecision`.
        decided: s, x_I, the action and x_0.
        outcome: gives the reward, minus the service delay or the penalty in seconds.
        following: the node's next decision; its observation is s' and brings the next x_I.
    """

    life: str
    sequence: int
    decided: RecordedDecision
    outcome: Outcome
    following: RecordedDecision


@dataclass(kw_only=True)
class AssemblyCounts:
    """What was seen, in entries.

    Attributes:
        decisions: taken in.
        outcomes: taken in, or kept for a decision that may still come.
        joined: decisions that have their outcome.
        transitions: handed out.
        duplicate_decisions, duplicate_outcomes: came again and were ignored.
        late_decisions: came after their place was forgotten.
        late_outcomes: came after their decision was given up.
        expired_decisions: given up without an outcome.
        expired_outcomes: given up without a decision.
        unfollowed: joined, but the next decision was lost or is of another life.
        other_candidates: joined, but the next decision had other candidates.
    """

    decisions: int = 0
    outcomes: int = 0
    joined: int = 0
    transitions: int = 0
    duplicate_decisions: int = 0
    duplicate_outcomes: int = 0
    late_decisions: int = 0
    late_outcomes: int = 0
    expired_decisions: int = 0
    expired_outcomes: int = 0
    unfollowed: int = 0
    other_candidates: int = 0

    def by_name(self) -> dict[str, int]:
        """All counts."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(kw_only=True)
class _Waiting:
    """A decision until nobody needs it: itself done, and its predecessor too."""

    entry: PooledDecision
    since_s: float
    outcome: Outcome | None = None
    done: bool = False


class TransitionAssembler:
    """Takes entries and hands out transitions.

    Args:
        outcome_wait_s: how long a decision waits for its outcome and successor, and an outcome for
            its decision; longer than a task may take.
        waiting_max: decisions, and outcomes, that wait at once; the oldest are given up beyond.
    """

    def __init__(self, *, outcome_wait_s: float, waiting_max: int) -> None:
        self._wait_s, self._waiting_max = outcome_wait_s, waiting_max
        # In the order of arrival, which is the order in which they expire.
        self._decisions: OrderedDict[tuple[str, int], _Waiting] = OrderedDict()
        self._key_of: dict[str, tuple[str, int]] = {}
        self._early: OrderedDict[str, tuple[float, Outcome]] = OrderedDict()
        self._given_up: OrderedDict[str, None] = OrderedDict()
        # Of each life the highest number forgotten; lower ones are refused.
        self._forgotten: dict[str, int] = {}
        self._ready: list[Transition] = []
        self._now_s = 0.0
        self.counts = AssemblyCounts()

    def add(self, entry: PooledDecision | Outcome, *, now_s: float) -> None:
        """Takes one entry in; `now_s` may be any clock, but always the same."""
        self._pass_time(now_s)
        if isinstance(entry, Outcome):
            self._add_outcome(entry)
        else:
            self._add_decision(entry)

    def take(self) -> list[Transition]:
        """The transitions that became whole since the last call."""
        ready, self._ready = self._ready, []
        return ready

    @property
    def waiting(self) -> int:
        """Entries kept at present."""
        return len(self._decisions) + len(self._early)

    def _add_decision(self, entry: PooledDecision) -> None:
        key, decision_id = (entry.life, entry.sequence), entry.recorded.decision_id
        if key in self._decisions or decision_id in self._key_of:
            self.counts.duplicate_decisions += 1
            return
        if self._is_forgotten(entry):
            self.counts.late_decisions += 1
            return
        self.counts.decisions += 1
        self._decisions[key] = _Waiting(entry=entry, since_s=self._now_s)
        self._key_of[decision_id] = key
        early = self._early.pop(decision_id, None)
        if early is not None:
            self._join(key, early[1])
        self._complete((entry.life, entry.sequence - 1))
        if len(self._decisions) > self._waiting_max:
            self._forget_oldest_decision()

    def _add_outcome(self, outcome: Outcome) -> None:
        decision_id = outcome.decision_id
        key = self._key_of.get(decision_id)
        if decision_id in self._given_up:
            self.counts.late_outcomes += 1
        elif decision_id in self._early or (key and self._decisions[key].outcome is not None):
            self.counts.duplicate_outcomes += 1
        else:
            self.counts.outcomes += 1
            if key is not None:
                self._join(key, outcome)
                return
            self._early[decision_id] = (self._now_s, outcome)
            if len(self._early) > self._waiting_max:
                self._early.popitem(last=False)
                self.counts.expired_outcomes += 1

    def _join(self, key: tuple[str, int], outcome: Outcome) -> None:
        self._decisions[key].outcome = outcome
        self.counts.joined += 1
        self._complete(key)

    def _complete(self, key: tuple[str, int]) -> None:
        """Hands out the decision's transition once its outcome and its successor are there."""
        life, sequence = key
        this, following = self._decisions.get(key), self._decisions.get((life, sequence + 1))
        if this is None or this.done or this.outcome is None or following is None:
            return
        this.done = True
        decided, next_decided = this.entry.recorded, following.entry.recorded
        if decided.observation.node_ids != next_decided.observation.node_ids:
            self.counts.other_candidates += 1
            return
        self.counts.transitions += 1
        self._ready.append(
            Transition(
                life=life,
                sequence=sequence,
                decided=decided,
                outcome=this.outcome,
                following=next_decided,
            )
        )

    def _pass_time(self, now_s: float) -> None:
        self._now_s = max(self._now_s, now_s)  # a clock set back must not stretch the waits
        until_s = self._now_s - self._wait_s
        while self._decisions and next(iter(self._decisions.values())).since_s < until_s:
            self._forget_oldest_decision()
        while self._early and next(iter(self._early.values()))[0] < until_s:
            self._early.popitem(last=False)
            self.counts.expired_outcomes += 1

    def _forget_oldest_decision(self) -> None:
        (life, sequence), waiting = self._decisions.popitem(last=False)
        decision_id = waiting.entry.recorded.decision_id
        del self._key_of[decision_id]
        self._forgotten[life] = max(sequence, self._forgotten.get(life, -1))
        if waiting.outcome is None:
            self.counts.expired_decisions += 1
        elif not waiting.done:
            self.counts.unfollowed += 1
        self._given_up[decision_id] = None
        if len(self._given_up) > self._waiting_max:
            self._given_up.popitem(last=False)
        while len(self._forgotten) > LIVES_MAX:
            del self._forgotten[min(self._forgotten)]

    def _is_forgotten(self, entry: PooledDecision) -> bool:
        if len(self._forgotten) == LIVES_MAX and entry.life < min(self._forgotten):
            return True
        return entry.sequence <= self._forgotten.get(entry.life, -1)
