"""LAD-TS learning from what the nodes of a cluster really decided and how long it really took.

One learner for all nodes and any membership: the networks are over sets of servers, and their
features are in mean services, so a decision of one cluster size says something of every other. The
networks and the update are the simulator's, see `scheduler.algorithms.equivariant_lad_ts`; what a
decision led to is `hindsight`'s. Owns what a live pool needs besides: from which weights it starts,
when updates are due, and what new weights are checked on.

It never starts from nothing: the actor goes on from weights that decide already, those that ship or
those that were published last. Critics begin anew, knowing the expected delay of each server; so
that the actor does not follow them there, they learn alone at first.

Updates are due by the number of decisions learned from, wherever they were made, because what
limits learning is what there is to learn from: five nodes at load .8 decide some .23 times a
second. A slot's update, as the paper has it, would leave most of what they see unused for an hour.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from scheduler import checkpoint
from scheduler.algorithms.equivariant_lad_ts import EquivariantLadTs, EquivariantLadTsConfig
from scheduler.checkpoint import Checkpoint, CheckpointInfo
from scheduler.experience import PooledDecision
from scheduler.guard.live_replay import newest_of_last_lives
from scheduler.guard.replay_check import ReplayCheck, compare
from scheduler.guard.service_times import TAKEN_SHARE_MAX, ServiceTimes
from scheduler.learning.choice import Diverged
from scheduler.learning.hindsight import Hindsight, Judged
from scheduler.learning.set_replay import SetReplay
from scheduler.policies.lad_ts_policy import PRETRAINED, Actor, weights_of
from scheduler.policy import Outcome

# What a live learner has other than the simulator's; any option may be given instead.
LIVE_OPTIONS: Mapping[str, str | float | bool] = {
    "harm": 1.0,
    "pool_min": 60,
    "batch": 256,
    "actor_lr": 5e-4,
    "critic_lr": 4e-3,
}
# Decisions of the window: some six hours of five nodes at load .8.
DECISIONS_MAX = 5000
# Updates that a decision asks for. A decision is seen batch x this = 256 times, on the average.
UPDATES_PER_DECISION = 1.0
# What is published is the mean of the actor over about so many updates: single ones swing.
AVERAGED_OVER = 50
# Newest decisions that a check is made on: it plays them twice.
CHECKED_MAX = 2000
# Updates after which an actor that is still worse than what decides will not find the way. At first
# all are: the critics know the servers that were chosen, and not yet the others.
PATIENCE = 400
# Updates in which the critics learn alone.
CRITICS_FIRST = 40
# Updates between two computations of what decisions led to: who came later changes it.
UPDATES_PER_POOL = 20
# Updates that may be due at once, after a restart or a pause.
DUE_MAX = 1000


class LiveLearner:
    """Takes entries of all pools in, learns, and exports what may be published.

    Args:
        options: of `EquivariantLadTsConfig`; those of LIVE_OPTIONS where not given.
        start: weights that the actor goes on from.
        outcome_wait_s: how long an outcome is waited for.
        seed: of networks, noise and batches.

    Attributes:
        updates: made so far.
        due: updates that decisions ask for and that were not made yet.
        hindsight: what was taken in.

    Raises:
        ValueError: an option is unknown or of the wrong kind.
        InvalidCheckpoint: the weights to start from are not this network's.
    """

    def __init__(
        self,
        options: Mapping[str, str | float | bool],
        *,
        start: Checkpoint,
        outcome_wait_s: float,
        seed: int,
    ) -> None:
        self._start, self._seed = start, seed
        steps, hidden = _sizes(start)
        config = _config({**LIVE_OPTIONS, "hidden": hidden, "steps": steps, **options})
        self.config = config
        self._rng = np.random.default_rng([seed, 2])
        self.hindsight = Hindsight(
            decisions_max=DECISIONS_MAX,
            outcome_wait_s=outcome_wait_s,
            harm=config.harm,
            rng=self._rng,
        )
        self._newest: deque[PooledDecision] = deque(maxlen=CHECKED_MAX)
        self._times = ServiceTimes(tasks_max=DECISIONS_MAX)
        self.due = 0.0
        self._begin()

    def _begin(self) -> None:
        self._agent = EquivariantLadTs(None, self.config, seed=self._seed)
        self.updates = 0
        self.go_back(self._start)
        self._pooled_at: int | None = None

    def go_back(self, weights: Checkpoint) -> None:
        """The actor goes on from these weights; the critics keep what they know."""
        self._agent.resume(dict(weights.arrays))
        self._left_at = self.updates
        self._mean = {name: np.array(array) for name, array in weights.arrays.items()}

    def add(self, entry: PooledDecision | Outcome) -> None:
        """Takes one entry of a pool in."""
        self._times.add(entry)
        if isinstance(entry, PooledDecision):
            self._newest.append(entry)
        if self.hindsight.add(entry):
            self.due = min(self.due + UPDATES_PER_DECISION, DUE_MAX)

    def update(self) -> bool:
        """Makes one update that is due; whether there was one.

        Raises:
            Diverged: the networks are given up, and learning begins anew from where it started.
        """
        if self.due < 1.0 or not self._pool_is_full():
            return False
        self.due -= 1.0
        alone = self.updates < CRITICS_FIRST
        for group in self._agent.actor_optimiser.param_groups:
            group["lr"] = 0.0 if alone else self.config.actor_lr
        try:
            self._agent.update()
        except Diverged:
            self._begin()
            raise
        self.updates += 1
        if not alone:
            for name, array in self._agent.export().items():
                self._mean[name] += (array - self._mean[name]) / AVERAGED_OVER
        return True

    def checkpoint(self, *, generation: int) -> Checkpoint:
        """The actor as a node loads it; the generation becomes part of the version."""
        info = CheckpointInfo(
            kind="policy",
            policy=EquivariantLadTs.name,
            scenario={"name": "live"},
            config=dataclasses.asdict(self.config),
            seed=self._seed,
            episodes=generation,
            code_version=importlib.metadata.version("dedgeai"),
            metrics={"updates": float(self.updates)},
        )
        return Checkpoint(info=info, arrays=dict(self._mean))

    def check(self, new: Checkpoint, published: Checkpoint | None) -> ReplayCheck:
        """Compares new weights with the published ones, or those that it started from.

        The actor goes back to those where PATIENCE updates have left it significantly worse: it
        would not find the way from there.

        Raises:
            ValueError: the weights cannot decide here, or too little is known.
        """
        present = published or self._start
        taken = self._times.taken_share
        if taken > TAKEN_SHARE_MAX:
            raise ValueError(
                f"{taken:.0%} of the tasks went on half drawn at devices that took them "
                "(move = running), which no replay has, so nothing is compared"
            )
        check = compare(
            newest_of_last_lives(self._newest, CHECKED_MAX),
            new,
            present,
            factors=self._times.factors(),
            seed=self._seed + 10 * self.updates,
        )
        if check.worse and self.updates - self._left_at >= PATIENCE:
            self.go_back(present)
        return check

    @property
    def actor_updates(self) -> int:
        """Updates in which the actor took part: without one there is nothing to publish."""
        return max(0, self.updates - CRITICS_FIRST)

    # Small parts.

    @property
    def can_update(self) -> bool:
        """Whether there is enough to learn from."""
        return self._pool_is_full()

    def _pool_is_full(self) -> bool:
        aged = self._pooled_at is None or self.updates - self._pooled_at >= UPDATES_PER_POOL
        if aged or not self._agent.can_update:
            self._refill()
        return self._agent.can_update

    def _refill(self) -> None:
        """Computes anew what decisions led to, and fills the pool with it."""
        judged = self.hindsight.judged()
        pool = SetReplay(DECISIONS_MAX)
        sizes = sorted({len(one.lived.seen.server_BS) for one in judged})
        for size in sizes:
            _pour([one for one in judged if len(one.lived.seen.server_BS) == size], pool)
        self._agent.pool = pool
        self._pooled_at = self.updates


_NO_PATH = Path("weights to start from")


def shipped() -> Checkpoint:
    """The weights of this package, from which a learner starts where nothing was published."""
    return checkpoint.load(PRETRAINED, kind="policy")


def _pour(judged: Sequence[Judged], pool: SetReplay) -> None:
    lived = [one.lived for one in judged]
    pool.add(
        server_NBV=np.stack([one.seen.server_BS for one in lived]).astype(np.float32),
        context_NC=np.stack([one.seen.context_C for one in lived]).astype(np.float32),
        latent_NB=np.stack([one.latent_B for one in lived]).astype(np.float32),
        action_N=np.array([one.action for one in lived]),
        reward_N=-np.array([one.cost for one in judged]),
    )


def _sizes(start: Checkpoint) -> tuple[int, int]:
    """Denoising steps and hidden units of weights."""
    weights_of(start, _NO_PATH)
    actor = Actor.of_arrays(start.arrays, _NO_PATH)
    return actor.steps, len(actor.out_H)


def _config(options: Mapping[str, str | float | bool]) -> EquivariantLadTsConfig:
    known = dataclasses.asdict(EquivariantLadTsConfig())
    given = {}
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"lad_ts has no option {key}; its options: {', '.join(sorted(known))}")
        try:
            given[key] = type(known[key])(value)  # text, as command lines give it
        except ValueError:
            raise ValueError(f"{key} is {value!r}; it must be a number") from None
    return EquivariantLadTsConfig(**given)
