"""Whether a learner's weights may be published: every check that needs no live cluster.

Owns the list of checks and the words of a refusal. Weights pass when they are finite, have the
shapes that a node expects, decide everywhere, and are significantly better than those that decide
(`replay_check`). Every publication costs the nodes what they know of the former weights, so one
that gains nothing is none; and what passes names the weights that it was shown to be better than.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from scheduler import checkpoint
from scheduler.checkpoint import BETTER_THAN, Checkpoint, InvalidCheckpoint
from scheduler.guard.replay_check import ReplayCheck
from scheduler.learning.live_learner import LiveLearner
from scheduler.policies.lad_ts_policy import weights_of


class Refused(Exception):
    """Weights may not be published; the message says why."""


def consider(learner: LiveLearner, *, published: Path | None, generation: int) -> Checkpoint:
    """The learner's weights with the figures of their check.

    Args:
        learner: with an update made at least.
        published: checkpoint that decides now; None for the one that it started from.
        generation: number of the publication; later than any before.

    Raises:
        Refused: a check failed.
    """
    new = learner.checkpoint(generation=generation)
    for name, array in new.arrays.items():
        if not np.isfinite(array).all():
            raise Refused(f"{name} is not finite")
    try:
        check = learner.check(new, _former(published))
    except ValueError as problem:
        raise Refused(str(problem)) from problem
    if check.worse:
        raise Refused(
            f"significantly worse than {check.against}: a task loses {-check.gain_s:.3g} s "
            f"(95 %: at least {-check.gain_high_s:.3g}) of {check.mean_delay_s:.3g} s"
        )
    if not check.better:
        raise Refused(
            f"not significantly better than {check.against}: a task gains {check.gain_s:.3g} s "
            f"(95 %: at least {check.gain_low_s:.3g}) of {check.mean_delay_s:.3g} s"
        )
    return replace(
        new,
        info=replace(
            new.info,
            scenario=new.info.scenario | {BETTER_THAN: check.against},
            metrics=new.info.metrics | figures(check),
        ),
    )


def figures(check: ReplayCheck) -> dict[str, float]:
    """The check's figures by name, for a checkpoint and an announcement."""
    return {
        "checked_decisions": float(check.decisions),
        "gain_s": check.gain_s,
        "gain_low_s": check.gain_low_s,
        "gain_high_s": check.gain_high_s,
        "mean_delay_s": check.mean_delay_s,
    }


def _former(path: Path | None) -> Checkpoint | None:
    """The published weights, where they are this network's and can be read."""
    if path is None:
        return None
    try:
        former = checkpoint.load(path, kind="policy")
        weights_of(former, path)
    except (InvalidCheckpoint, OSError):
        return None  # a node cannot load them either
    return former
