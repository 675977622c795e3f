"""The learner process's other task: which rule is best here, and is the learned policy worse?

Owns which weights are judged, when, on which decisions, and the rule in force between two
judgements; the replay is the simulator's, which is loaded with the first judgement.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edge_node.store.published_weights import Published, load_published
from edge_node.store.verdicts import UnreadableVerdict, VerdictStore
from scheduler import registry
from scheduler.experience import PooledDecision
from scheduler.guard.candidates import rule_factories
from scheduler.guard.service_times import TAKEN_SHARE_MAX, ServiceTimes
from scheduler.guard.verdict import ReplayVerdict, configured_version
from scheduler.policy import Outcome, Policy

log = logging.getLogger("learner")


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """What is compared with what.

    Attributes:
        policy: the learned policy that the operator wants.
        rules: the candidates for the best rule; the first is in force until another is better.
        policy_options: of the learned policy.
        window_tasks: newest own decisions that are replayed.
        every_s: between two judgements of the same weights; what each costs is in
            benchmarks/results/guard_verdicts.json.
        seed: of everything that is drawn; each judgement draws anew, or a policy with a coin would
            have the same luck in all of them.
    """

    policy: str
    rules: tuple[str, ...]
    policy_options: Mapping[str, str | float] = field(default_factory=dict)
    window_tasks: int = 2000
    every_s: float = 30.0
    seed: int = 0


class Judge:
    """Remembers the newest decisions and judges the weights that decide or want to.

    Raises:
        ValueError: a rule of the settings cannot be had.
    """

    def __init__(self, settings: JudgeSettings, verdicts: VerdictStore) -> None:
        self._settings = settings
        self._verdicts = verdicts
        self._rules = rule_factories(settings.rules)
        # None until the verdict of a former life has been looked for.
        self._in_force: str | None = None
        self._newest: deque[PooledDecision] = deque(maxlen=settings.window_tasks)
        self._times = ServiceTimes(tasks_max=settings.window_tasks)
        self._judged_version = ""
        self._judgements = 0
        self._due_s = 0.0
        self._fresh = False
        self._taken_told = False

    def add(self, entry: PooledDecision | Outcome) -> None:
        """Takes an entry of a pool in."""
        self._times.add(entry)
        if isinstance(entry, Outcome):
            return
        self._newest.append(entry)
        self._fresh = True

    async def look(self, published: Published | None, *, now_s: float, unix_s: float) -> None:
        """Judges when it is time, and tells the node.

        Args:
            published: weights that were announced for the wanted policy, or None for the
                configured ones.
            now_s: of the clock that never jumps.
            unix_s: time of day for the verdict.

        Raises:
            StoreUnavailable: the verdict could not be written.
            UnusableWeights: the published weights cannot be loaded.
        """
        version = self._version(published)
        if not self._fresh or (version == self._judged_version and now_s < self._due_s):
            return
        self._judged_version, self._due_s = version, now_s + self._settings.every_s
        self._fresh = False
        self._judgements += 1
        if self._in_force is None:
            self._in_force = await self._rule_of_former_life()
        verdict = self.judge(published, in_force=self._in_force, unix_s=unix_s)
        if verdict is not None:
            if verdict.rule != self._in_force:
                log.info("the best rule is %s now, and was %s", verdict.rule, self._in_force)
            log.info(
                "replayed %d tasks: %s worse than %s by %.2f %%; rules on those before: %s",
                verdict.tasks,
                version,
                verdict.rule,
                100.0 * verdict.worse,
                ", ".join(f"{rule} {mean_s:.3g} s" for rule, mean_s in verdict.rule_means_s.items())
                or "too few",
            )
            await self._verdicts.write(verdict)
            self._in_force = verdict.rule

    async def _rule_of_former_life(self) -> str:
        """What the last verdict compared with, so that a restart forgets no choice."""
        with contextlib.suppress(UnreadableVerdict):
            former = await self._verdicts.read()
            if former is not None and former.rule in self._rules:
                return former.rule
        return self._settings.rules[0]

    def judge(
        self, published: Published | None, *, in_force: str, unix_s: float
    ) -> ReplayVerdict | None:
        """The verdict on the newest decisions; None while there are too few.

        None, too, where devices take half-drawn tasks from each other: a replay leaves every task
        where it was placed, so it would compare what does not happen.
        """
        from scheduler.guard import live_replay

        settings = self._settings
        taken = self._times.taken_share
        if taken > TAKEN_SHARE_MAX:
            if not self._taken_told:
                log.info("no replays: %.0f %% of tasks went on elsewhere half drawn", 100.0 * taken)
            self._taken_told = True
            return None
        self._taken_told = False

        def learned(rng: np.random.Generator) -> Policy:
            if published is not None:
                return load_published(published, rng=rng)
            return registry.create(settings.policy, rng=rng, **settings.policy_options)

        return live_replay.judge(
            self._newest,
            window_tasks=settings.window_tasks,
            version=self._version(published),
            learned=learned,
            rules=self._rules,
            in_force=in_force,
            judged_unix_s=unix_s,
            factors=self._times.factors(),
            seed=10 * (settings.seed + self._judgements),
        )

    def _version(self, published: Published | None) -> str:
        if published is not None:
            return published.version
        return configured_version(self._settings.policy, self._settings.policy_options)
