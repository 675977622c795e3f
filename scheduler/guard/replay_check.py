"""Whether new weights are better than those that decide now, judged before anybody follows them.

Pure but for the seeds given. New and present weights are played on the newest decisions of all
nodes (`live_replay`): the same arrivals and ages of state, every node under one policy. What tasks
take there is what such tasks really took (`service_times`), by medians; nothing that the learner
believes of a server counts.

*Better* means: even the lower one-sided 95 % bound of the gain in mean delay is above 0. *Worse*:
even the upper one is below minus WORSE_SHARE. Between them nothing is known.

What it cannot do: the arrivals are those that were learned from, and a task that nobody has tried
on a server is taken to last what its capacity says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scheduler.checkpoint import Checkpoint, version_of
from scheduler.experience import RecordedDecision
from scheduler.guard.candidates import PolicyFactory
from scheduler.guard.live_replay import TASKS_MIN, play, relative_bounds, window_of
from scheduler.guard.service_times import ServiceFactors
from scheduler.policies.lad_ts_policy import Chain, LadTs, weights_of
from scheduler.policy import Policy

WORSE_SHARE = 0.01
_NO_PATH = Path("weights")


@dataclass(frozen=True, kw_only=True)
class ReplayCheck:
    """What the comparison found.

    Attributes:
        decisions: that it was made on.
        gain_s: mean gain of the new weights, seconds of delay saved by a task.
        gain_low_s, gain_high_s: one-sided 95 % bounds, each on its own.
        mean_delay_s: under the present weights.
        against: version of those.
    """

    decisions: int
    gain_s: float
    gain_low_s: float
    gain_high_s: float
    mean_delay_s: float
    against: str

    @property
    def better(self) -> bool:
        """Whether the new weights are significantly better."""
        return self.gain_low_s > 0.0

    @property
    def worse(self) -> bool:
        """Whether the new weights are significantly worse."""
        return self.gain_high_s < -WORSE_SHARE * self.mean_delay_s


def compare(
    records: Sequence[RecordedDecision],
    new: Checkpoint,
    present: Checkpoint,
    *,
    factors: ServiceFactors,
    seed: int,
) -> ReplayCheck:
    """Plays both on the same decisions.

    Args:
        records: the newest decisions of all nodes, among one set of candidates.
        new: weights that would be published.
        present: those that decide.
        factors: what tasks really took.
        seed: of everything drawn.

    Raises:
        ValueError: the new weights are of other shapes or do not decide everywhere, or there are
            too few decisions.
    """
    if len(records) < TASKS_MIN:
        raise ValueError(f"{len(records)} decisions to compare on; {TASKS_MIN} are needed")
    window = window_of(records, np.random.default_rng((seed, 0)), factors=factors)
    former = _factory(present)
    ours = play(window, _factory(new), fallback=former, seed=seed + 1)
    if ours.failed:
        raise ValueError(f"weights {version_of(new)} do not decide {ours.failed} decisions")
    theirs = play(window, former, fallback=former, seed=seed + 2)
    mean_s = float(theirs.delay_s_N.mean())
    low, high = relative_bounds(ours.delay_s_N, theirs.delay_s_N)
    return ReplayCheck(
        decisions=window.recorded,
        gain_s=mean_s - float(ours.delay_s_N.mean()),
        gain_low_s=-high * mean_s,
        gain_high_s=-low * mean_s,
        mean_delay_s=mean_s,
        against=version_of(present),
    )


def _factory(weights: Checkpoint) -> PolicyFactory:
    """Makes the policy of a node with these weights; raises ValueError for other shapes."""
    loaded = weights_of(weights, _NO_PATH)

    def make(rng: np.random.Generator) -> Policy:
        return LadTs(rng=rng, weights=loaded, chain=Chain())

    return make
