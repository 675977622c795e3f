"""What decisions of a whole cluster led to: joined with their outcomes and with who came later.

Pure: entries of all nodes' pools go in, in any order between pools, twice or never. Owns which
entries belong together, what is learned of a decision and when that is known.

- A decision is joined with its outcome by its id; the first outcome counts. A decision whose task
  was placed again decided nothing: the later attempt is what is learned from, by the delay from
  then on.
- A task of work w delays every task that joins its server before it idles by w / f. With the
  decisions of all nodes those are known: their number, each counted less the later it came, is the
  algorithm's `later_on_server`. So nothing has to be bootstrapped from a next decision.
- What a decision led to is known a little after its own end; those who join later still while the
  server goes on are added when rewards are computed anew.

The window is bounded: the oldest decisions are given up. Arrays end in their dimension: N
decisions, B usable servers.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields

import numpy as np

from scheduler.algorithms.equivariant_lad_ts import later_on_server
from scheduler.experience import PooledDecision, task_of
from scheduler.observation import FloatArray
from scheduler.policies.lad_ts_features import Seen, look
from scheduler.policy import Outcome

# Seconds after a decision's end until which entries of all pools have been read.
SETTLED_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Lived:
    """One decision as it is learned from.

    Attributes:
        decided_unix_s: when, by its node's clock.
        seen: features of the servers that could be chosen.
        latent_B: x_I.
        action: which of them was chosen.
        server: its name.
        service_s: what the task was expected to take there.
        link_s: of it, for the way.
    """

    decided_unix_s: float
    seen: Seen
    latent_B: FloatArray
    action: int
    server: str
    service_s: float
    link_s: float


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A decision and what it led to.

    Attributes:
        lived: the decision.
        delay_s: of its task, from then on.
        cost: own delay and delay caused to others, in mean services.
    """

    lived: Lived
    delay_s: float
    cost: float


@dataclass(kw_only=True)
class HindsightCounts:
    """What was seen, in entries.

    Attributes:
        decisions: taken in.
        outcomes: that joined a decision.
        duplicates: decisions and outcomes that came again.
        strays: outcomes without a decision: it was given up, or lost before it was written.
        undecided: decisions with less than two servers to choose from.
        expired: decisions given up without an outcome.
    """

    decisions: int = 0
    outcomes: int = 0
    duplicates: int = 0
    strays: int = 0
    undecided: int = 0
    expired: int = 0

    def by_name(self) -> dict[str, int]:
        """All counts."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(kw_only=True)
class _Kept:
    lived: Lived
    task: str
    # Seconds of delay from the decision on; None until the outcome is there.
    delay_s: float | None = None
    superseded: bool = False


class Hindsight:
    """A window of the cluster's decisions.

    Args:
        decisions_max: kept; some 1 kB each with 5 nodes.
        outcome_wait_s: after which a task without an outcome is taken to have left its server.
        harm: weight of the delay caused to others.
        rng: of what features draw.
    """

    def __init__(
        self,
        *,
        decisions_max: int,
        outcome_wait_s: float,
        harm: float,
        rng: np.random.Generator,
    ) -> None:
        self._max, self._wait_s, self._harm, self._rng = decisions_max, outcome_wait_s, harm, rng
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        # Of each task its first decision's time and its latest decision.
        self._first_s: dict[str, float] = {}
        self._latest: dict[str, str] = {}
        self._now_s = 0.0
        self.counts = HindsightCounts()

    def add(self, entry: PooledDecision | Outcome) -> bool:
        """Takes one entry in; whether it is an outcome that there is something to learn from."""
        if isinstance(entry, Outcome):
            return self._add_outcome(entry)
        self._add_decision(entry)
        return False

    def judged(self) -> list[Judged]:
        """Every decision of which it is known what it led to, in the order of time."""
        kept = sorted(
            (one for one in self._kept.values() if not one.superseded),
            key=lambda one: one.lived.decided_unix_s,
        )
        if not kept:
            return []
        servers = {name: i for i, name in enumerate(sorted({one.lived.server for one in kept}))}
        decided_s_N = np.array([one.lived.decided_unix_s for one in kept])
        later_N = later_on_server(
            decided_s_N - decided_s_N[0],
            np.array([servers[one.lived.server] for one in kept]),
            np.array([self._served_s(one) for one in kept]),
            np.array([one.lived.seen.unit_s for one in kept]),
        )
        found = []
        for one, later in zip(kept, later_N, strict=True):
            lived = one.lived
            if one.delay_s is None or lived.decided_unix_s + one.delay_s > self._now_s - SETTLED_S:
                continue
            cost_s = one.delay_s + self._harm * lived.service_s * float(later)
            found.append(Judged(lived=lived, delay_s=one.delay_s, cost=cost_s / lived.seen.unit_s))
        return found

    # Small parts.

    def _add_decision(self, entry: PooledDecision) -> None:
        recorded = entry.recorded
        seen, choice = recorded.observation, recorded.decision.choice
        self._now_s = max(self._now_s, recorded.decided_unix_s)
        if recorded.decision_id in self._kept:
            self.counts.duplicates += 1
            return
        usable_B = np.flatnonzero(seen.alive_B & (seen.capacity_B > 0.0))
        at = np.flatnonzero(usable_B == choice)
        if len(usable_B) < 2 or len(at) == 0:
            self.counts.undecided += 1
            return
        latent_B = (
            np.full(len(usable_B), 1.0 / len(seen.node_ids))
            if seen.latent_B is None
            else seen.latent_B[usable_B]
        )
        task = task_of(recorded.decision_id)
        kept = _Kept(
            lived=Lived(
                decided_unix_s=recorded.decided_unix_s,
                seen=look(seen, usable_B, self._rng),
                latent_B=latent_B,
                action=int(at[0]),
                server=seen.node_ids[choice],
                service_s=seen.work / float(seen.capacity_B[choice]),
                link_s=float(seen.link_s_B[choice]),
            ),
            task=task,
        )
        self.counts.decisions += 1
        self._kept[recorded.decision_id] = kept
        self._supersede(task, recorded.decision_id)
        if len(self._kept) > self._max:
            self._give_up_oldest()

    def _supersede(self, task: str, decision_id: str) -> None:
        """A task's latest attempt is the one that counts."""
        this = self._kept[decision_id]
        self._first_s[task] = min(
            self._first_s.get(task, this.lived.decided_unix_s), this.lived.decided_unix_s
        )
        former = self._kept.get(self._latest.get(task, ""))
        if former is None or former.lived.decided_unix_s <= this.lived.decided_unix_s:
            self._latest[task] = decision_id
            if former is not None:
                former.superseded = True
        else:
            this.superseded = True

    def _add_outcome(self, outcome: Outcome) -> bool:
        kept = self._kept.get(outcome.decision_id)
        if kept is None:
            self.counts.strays += 1
            return False
        if kept.delay_s is not None:
            self.counts.duplicates += 1
            return False
        self.counts.outcomes += 1
        waited_s = kept.lived.decided_unix_s - self._first_s[kept.task]
        kept.delay_s = max(outcome.service_delay_s - waited_s, 0.0)
        self._now_s = max(self._now_s, kept.lived.decided_unix_s + kept.delay_s)
        return not kept.superseded

    def _served_s(self, one: _Kept) -> float:
        """From its decision until its server was done with it."""
        if one.delay_s is not None:
            return max(one.delay_s - one.lived.link_s, 0.0)
        waiting = self._now_s - one.lived.decided_unix_s < self._wait_s
        return float("inf") if waiting else 0.0

    def _give_up_oldest(self) -> None:
        decision_id, kept = self._kept.popitem(last=False)
        if kept.delay_s is None:
            self.counts.expired += 1
        if self._latest.get(kept.task) == decision_id:
            del self._latest[kept.task], self._first_s[kept.task]
