"""LAD-TS learning from what one node really decided and how long it really took.

The paper's agent for a single station, this node, and the candidates it has met (section V,
algorithm 1): the same networks, pool and update as in the simulator, see
`scheduler.algorithms.published_lad_ts`. Owns what a live pool needs besides: units found in the
data, transitions held out for the check of new weights, and the agents of several memberships.

differs (docs/paper.md, "who decides while it learns"): the agent learns off-policy, for others (a
rule, earlier weights) decide meanwhile; SAC allows for it. Rewards are divided so that the mean
delay is the paper's, for its temperature and learning rates belong to delays of some seconds, while
a task takes .1 s here and 100 s there.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scheduler.algorithms.published_lad_ts import PublishedLadTs
from scheduler.checkpoint import Checkpoint, CheckpointInfo, require_shapes
from scheduler.experience import PooledDecision
from scheduler.features import StateScale
from scheduler.guard.held_out import HeldOutCheck, block_of, compare, state_of
from scheduler.learning import learners
from scheduler.learning.choice import Diverged
from scheduler.learning.station_slots import PENALTY_S
from scheduler.learning.transition_assembler import Transition, TransitionAssembler
from scheduler.policy import Outcome
from scheduler.simulator.scenario import Scenario

# What a live agent has other than the paper's code; any option may be given instead.
LIVE_OPTIONS: Mapping[str, str | float | bool] = {
    "memory": "slot",
    "pool_latents": "copied",
    "next_state": "fixed",
}
# Of the paper's default scenario under Opt-TS; what rewards are divided by makes delays so long.
MEAN_DELAY_S = 7.5
# One block of decisions in so many is held out.
HELD_OUT_EVERY = 4
HELD_OUT_MAX = 1000
MEMBERSHIPS_MAX = 4
# Updates that may be due at once, after a restart or a pause.
DUE_MAX = 2000


@dataclass(frozen=True, kw_only=True)
class _Units:
    """What states and rewards are divided by."""

    scale: StateScale
    reward_s: float


class LiveLearner:
    """Learns for one membership, the candidates `node_ids` in their order.

    Args:
        node_ids: B candidates, this node among them or not.
        options: of `PublishedLadTsConfig`; those of LIVE_OPTIONS where not given.
        seed: of networks, noise and batches.

    Attributes:
        updates: made so far.
        held_out: transitions for the check of new weights; never learned from.
    """

    def __init__(
        self, node_ids: tuple[str, ...], options: Mapping[str, str | float | bool], *, seed: int
    ) -> None:
        self.node_ids = node_ids
        scenario = Scenario(name="live", servers=len(node_ids), dispatchers="first")
        agent = learners.create(
            "lad_ts_published", scenario, {**LIVE_OPTIONS, **options}, seed=seed
        )
        assert isinstance(agent, PublishedLadTs)
        if agent.config.pool_latents != "copied":
            raise ValueError("a live pool keeps the latents that were decided with")
        self._agent, self._seed = agent, seed
        self._units: _Units | None = None
        self._first: list[Transition] = []
        self.held_out: deque[Transition] = deque(maxlen=HELD_OUT_MAX)
        self.updates = 0

    @property
    def can_update(self) -> bool:
        """Whether the pool is full enough to learn from."""
        return bool(self._agent.pool.size_A[0] > self._agent.config.pool_min)

    @property
    def gamma(self) -> float:
        """Discount for each decision."""
        return self._agent.config.gamma

    def add(self, transition: Transition) -> None:
        """Takes one transition in, to learn from or to be checked on."""
        if block_of(transition)[1] % HELD_OUT_EVERY == HELD_OUT_EVERY - 1:
            self.held_out.append(transition)
            return
        if self._units is not None:
            self._keep(transition, self._units)
            return
        self._first.append(transition)
        if len(self._first) > self._agent.config.pool_min:
            self._settle(_units_of(self._first))

    def resume(self, published: Checkpoint) -> None:
        """Goes on from an actor that was published for the same candidates; critics begin anew.

        Raises:
            InvalidCheckpoint: it has other shapes.
        """
        own = self._agent.export()
        shapes = {name: array.shape for name, array in own.items() if name != "state_scale"}
        require_shapes(_NO_PATH, published.arrays, shapes)
        state = {
            name: torch.from_numpy(np.array(published.arrays[name]))
            for name in self._agent.actor.state_dict()
        }
        self._agent.actor.load_state_dict(state)
        scale = StateScale.from_array(published.arrays["state_scale"])
        self._settle(_Units(scale=scale, reward_s=published.info.metrics["reward_s"]))

    def update(self) -> None:
        """One update of all networks.

        Raises:
            Diverged: a loss is not finite; this learner is of no more use.
        """
        losses = self._agent.learn()
        self.updates += 1
        if not torch.isfinite(losses).all():
            raise Diverged(f"losses {losses.tolist()} after {self.updates} updates")

    def checkpoint(self, *, generation: int, metrics: Mapping[str, float]) -> Checkpoint:
        """The actor as a node loads it.

        Args:
            generation: number of the publication; becomes part of the version.
            metrics: of the check.
        """
        assert self._units is not None, "there is nothing to publish before the first update"
        info = CheckpointInfo(
            kind="policy",
            policy=PublishedLadTs.name,
            scenario={
                "name": "live",
                "servers": len(self.node_ids),
                "node_ids": list(self.node_ids),
            },
            config=dataclasses.asdict(self._agent.config),
            seed=self._seed,
            episodes=generation,
            code_version=importlib.metadata.version("dedgeai"),
            metrics={"reward_s": self._units.reward_s, "updates": float(self.updates), **metrics},
        )
        arrays = {name: np.array(array) for name, array in self._agent.export().items()}
        return Checkpoint(info=info, arrays=arrays)

    def check(self, new: Checkpoint, published: Checkpoint | None) -> HeldOutCheck:
        """Compares new weights with the published ones, see `held_out`.

        Raises:
            ValueError: the weights cannot decide here, or too little is held out.
        """
        return compare(list(self.held_out), new, published, gamma=self.gamma, seed=self._seed)

    def _settle(self, units: _Units) -> None:
        """From here on states and rewards have their units."""
        self._units = units
        self._agent.scale = units.scale
        for transition in self._first:
            self._keep(transition, units)
        self._first.clear()

    def _keep(self, transition: Transition, units: _Units) -> None:
        seen, following = transition.decided.observation, transition.following.observation
        delay_s = min(transition.outcome.service_delay_s, PENALTY_S)
        unsaid_B = np.full(len(self.node_ids), 1.0 / len(self.node_ids))  # as the policy starts
        latents = [unsaid_B if one.latent_B is None else one.latent_B for one in (seen, following)]
        latent, next_latent = (torch.from_numpy(row.astype(np.float32)[None]) for row in latents)
        self._agent.pool.add(
            np.zeros(1, np.int64),
            np.zeros(1, np.int64),
            state=torch.from_numpy(state_of(seen, units.scale)),
            next_state=torch.from_numpy(state_of(following, units.scale)),
            action=torch.tensor([transition.decided.decision.choice]),
            reward=torch.tensor([-delay_s / units.reward_s]),
            latent=latent,
            next_latent=next_latent,
        )


_NO_PATH = Path("published weights")


def _units_of(transitions: list[Transition]) -> _Units:
    """Units in which features lie in about 0..1 and delays are the paper's.

    Inputs and works by their largest; each backlog by what its server works off in the time that
    99 % of all backlogs take, as `station_slots.state_scale` does with its twenty seconds.
    """
    seen = [transition.decided.observation for transition in transitions]
    capacity_B = np.maximum(np.mean([one.capacity_B for one in seen], axis=0), 1e-9)
    backlog_s_NB = np.array([one.load_B for one in seen]) / capacity_B
    work = max(one.work for one in seen)
    # No queue at all in the data: the largest task is the unit.
    backlog_s = float(np.quantile(backlog_s_NB, 0.99)) or work / float(capacity_B.mean())
    delays_s = [min(one.outcome.service_delay_s, PENALTY_S) for one in transitions]
    scale = StateScale(
        input_mbit=max(max(one.input_bits for one in seen) / 1e6, 1e-9),
        work=max(work, 1e-9),
        backlog_B=tuple((max(backlog_s, 1e-9) * capacity_B).tolist()),
    )
    return _Units(scale=scale, reward_s=max(float(np.mean(delays_s)), 1e-9) / MEAN_DELAY_S)


class PoolTrainer:
    """From a pool's entries to learners, one for each membership met lately.

    Args:
        options: of `PublishedLadTsConfig`.
        seed: of the learners.
        assembler: joins the entries.

    Attributes:
        due: updates that the paper's "once per slot" asks for and that were not made yet.
    """

    def __init__(
        self,
        options: Mapping[str, str | float | bool],
        *,
        seed: int,
        assembler: TransitionAssembler,
    ) -> None:
        self._options, self._seed = options, seed
        self.assembler = assembler
        self._learners: OrderedDict[tuple[str, ...], LiveLearner] = OrderedDict()
        self._slot: tuple[str, int] | None = None
        self._now_s = 0.0
        self.due = 0

    @property
    def current(self) -> LiveLearner | None:
        """The learner of the membership that transitions were last seen of."""
        return next(reversed(self._learners.values()), None)

    def add(self, entry: PooledDecision | Outcome) -> None:
        """Takes one entry of the pool in; time is what the decisions say."""
        if isinstance(entry, PooledDecision):
            self._now_s = max(self._now_s, entry.recorded.decided_unix_s)
        self.assembler.add(entry, now_s=self._now_s)
        for transition in self.assembler.take():
            node_ids = transition.decided.observation.node_ids
            if len(node_ids) == 1:
                continue  # nothing was decided
            learner = self.learner(node_ids)
            learner.add(transition)
            slot = (transition.life, transition.decided.slot)
            if slot != self._slot and learner.can_update:
                self.due = min(self.due + 1, DUE_MAX)
            self._slot = slot

    def learner(self, node_ids: tuple[str, ...]) -> LiveLearner:
        """The membership's learner, which becomes the current one."""
        learner = self._learners.get(node_ids)
        if learner is None:
            learner = LiveLearner(node_ids, self._options, seed=self._seed)
            self._learners[node_ids] = learner
            if len(self._learners) > MEMBERSHIPS_MAX:
                self._learners.popitem(last=False)
        self._learners.move_to_end(node_ids)
        return learner

    def update(self) -> bool:
        """Makes one update that is due; returns whether there was one.

        Raises:
            Diverged: the current learner is given up; the next transition begins a new one.
        """
        learner = self.current
        if learner is None or not learner.can_update or self.due == 0:
            return False
        self.due -= 1
        try:
            learner.update()
        except Diverged:
            del self._learners[learner.node_ids]
            raise
        return True
