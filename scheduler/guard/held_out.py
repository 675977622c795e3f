"""Whether new weights may replace those that decide now, judged on transitions kept from training.

Pure but for the seeds given. Importance weights would need decisions that were drawn by chance,
and the rules that fill a young pool draw none; so it is a paired comparison under a critic:

- The held-out transitions fall into blocks of consecutive decisions, and the blocks into two
  halves by turns. On each half a critic Q is fitted to what the deciding policy pi makes of the
  other half's states: fitted Q evaluation, r + gamma sum_a' pi(a'|s') Q(s', a'). Policy pi is the
  published one; before anything is published, whoever decided (then a' is what was decided next).
- The gain of a transition is sum_a (new - pi)(a|s) Q(s, a) under the other half's critic: the
  advantage of deciding this once with the new weights (performance difference lemma, Kakade and
  Langford, ICML 2002), in seconds of discounted delay. Both policies draw the same noise.
- *Worse* means: even the upper one-sided 95 % bound of the mean gain is below minus WORSE_SHARE of
  the mean delay. The bound is Student's t over the means of blocks, for neighbours are alike.

The bound covers the chance of the sample, not an error that both critics share where nobody ever
decided so: whether the weights are any good in the live cluster is for the node's guard to say.
Arrays end in their dimension: N transitions, B candidates, S features, M those of one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scheduler.checkpoint import Checkpoint
from scheduler.features import SingleArray, StateScale, encode
from scheduler.learning.networks import MlpStack, move_towards
from scheduler.learning.transition_assembler import Transition
from scheduler.observation import FloatArray, Observation
from scheduler.policies.published_lad_ts import PublishedLadTsPolicy, open_chances
from scheduler.simulator.statistics import student_quantile

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Consecutive decisions that are held out, or learned from, together.
BLOCK = 16
BLOCKS_MIN = 6
WORSE_SHARE = 0.01
CONFIDENCE = 0.95
# Denoising chains whose chances are averaged for a policy's.
DRAWS = 4
_HIDDEN, _FITS, _LR, _TAU = 32, 250, 3e-3, 0.05


@dataclass(frozen=True, kw_only=True)
class HeldOutCheck:
    """What the comparison found.

    Attributes:
        transitions: that it was made on.
        gain_s: mean gain of the new weights, seconds of discounted delay saved by a decision.
        gain_low_s, gain_high_s: one-sided 95 % bounds, each on its own.
        mean_delay_s: of the held-out tasks.
        against: version of the published weights, or "decided" for whoever decided.
    """

    transitions: int
    gain_s: float
    gain_low_s: float
    gain_high_s: float
    mean_delay_s: float
    against: str

    @property
    def worse(self) -> bool:
        """Whether the new weights are significantly worse."""
        return self.gain_high_s < -WORSE_SHARE * self.mean_delay_s


def block_of(transition: Transition) -> tuple[str, int]:
    """Block of consecutive decisions that a transition belongs to."""
    return transition.life, transition.sequence // BLOCK


def policy_of(weights: Checkpoint, *, seed: int) -> PublishedLadTsPolicy:
    """The policy that a node would make of such weights."""
    rng = np.random.default_rng(seed)
    return PublishedLadTsPolicy(
        weights.info, weights.arrays, station=0, evaluation="sample", rng=rng
    )


def compare(
    transitions: Sequence[Transition],
    new: Checkpoint,
    published: Checkpoint | None,
    *,
    gamma: float,
    seed: int,
) -> HeldOutCheck:
    """Compares on held-out transitions of at least BLOCKS_MIN blocks.

    Args:
        transitions: all of the candidates that both weights are for.
        new: weights that would be published.
        published: those that are, or None.
        gamma: discount for each decision.
        seed: of noise and critics.

    Raises:
        ValueError: the new weights give a number that is not finite or are for other candidates,
            or there are too few blocks.
    """
    ordered = sorted(transitions, key=lambda one: (one.life, one.sequence))
    block_N = np.repeat(*_blocks(ordered))
    if block_N.max(initial=-1) + 1 < BLOCKS_MIN:
        raise ValueError(f"{block_N.max(initial=-1) + 1} held-out blocks; {BLOCKS_MIN} are needed")
    scale = StateScale.from_array(new.arrays["state_scale"])
    seen, following = ([_observation(one, at) for one in ordered] for at in (0, 1))
    delay_s_N = np.array([one.outcome.service_delay_s for one in ordered])
    action_N = np.array([one.decided.decision.choice for one in ordered])
    next_action_N = np.array([one.following.decision.choice for one in ordered])
    new_NB = _chances(policy_of(new, seed=seed), seen)
    if published is None:
        old_NB, next_old_NB = np.eye(new_NB.shape[1])[[action_N, next_action_N]]
    else:
        old_NB = _chances(policy_of(published, seed=seed), seen)
        next_old_NB = _chances(policy_of(published, seed=seed), following)
    spread_s = float(delay_s_N.std()) or 1.0
    fitted = _Fitted(
        state_NS=_states(seen, scale),
        next_state_NS=_states(following, scale),
        action_N=action_N,
        reward_N=-(delay_s_N - delay_s_N.mean()) / spread_s,
        next_chance_NB=next_old_NB,
    )
    gain_N = np.empty(len(ordered))
    for half in (0, 1):
        judged_N = block_N % 2 == half
        value_MB = fitted.critic(~judged_N, gamma=gamma, seed=seed + half)(judged_N) * spread_s
        gain_N[judged_N] = ((new_NB - old_NB)[judged_N] * value_MB).sum(1)
    means = np.array([gain_N[block_N == block].mean() for block in range(block_N[-1] + 1)])
    half_width_s = student_quantile(CONFIDENCE, len(means) - 1) * means.std(ddof=1)
    half_width_s /= np.sqrt(len(means))
    return HeldOutCheck(
        transitions=len(ordered),
        gain_s=float(means.mean()),
        gain_low_s=float(means.mean() - half_width_s),
        gain_high_s=float(means.mean() + half_width_s),
        mean_delay_s=float(delay_s_N.mean()),
        against="decided" if published is None else policy_of(published, seed=seed).version,
    )


class _Fitted:
    """The held-out transitions as arrays, on parts of which critics are fitted."""

    def __init__(
        self,
        *,
        state_NS: SingleArray,
        next_state_NS: SingleArray,
        action_N: IntArray,
        reward_N: FloatArray,
        next_chance_NB: FloatArray,
    ) -> None:
        self._state_NS, self._next_state_NS = map(torch.from_numpy, (state_NS, next_state_NS))
        self._action_N = torch.from_numpy(action_N)
        self._reward_N = torch.from_numpy(reward_N.astype(np.float32))
        self._next_chance_NB = torch.from_numpy(next_chance_NB.astype(np.float32))

    def critic(self, part_N: BoolArray, *, gamma: float, seed: int) -> _Critic:
        """Fitted Q evaluation on a part of the transitions."""
        part = torch.from_numpy(np.flatnonzero(part_N))
        state_1SM, next_1SM = (
            states[part].T[None].contiguous() for states in (self._state_NS, self._next_state_NS)
        )
        action_1M, reward_M = self._action_N[part][None], self._reward_N[part]
        next_chance_BM = self._next_chance_NB[part].T
        sizes = [state_1SM.shape[1], _HIDDEN, _HIDDEN, next_chance_BM.shape[0]]
        network, target = (MlpStack(1, sizes, _generator(seed)) for _ in range(2))
        target.requires_grad_(False)
        optimiser = torch.optim.Adam(network.parameters(), lr=_LR)
        for _ in range(_FITS):
            wanted_M = reward_M + gamma * (next_chance_BM * target(next_1SM)[0, 0]).sum(0)
            loss = (network(state_1SM)[0, 0].gather(0, action_1M)[0] - wanted_M).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            move_towards(target, network, _TAU)
        return _Critic(network, self._state_NS)


class _Critic:
    """Values of all actions in the states of a part, (M, B)."""

    def __init__(self, network: MlpStack, state_NS: Tensor) -> None:
        self._network, self._state_NS = network, state_NS

    @torch.no_grad()
    def __call__(self, part_N: BoolArray) -> FloatArray:
        state_1SM = self._state_NS[torch.from_numpy(np.flatnonzero(part_N))].T[None]
        value_MB: FloatArray = self._network(state_1SM.contiguous())[0, 0].T.double().numpy()
        return value_MB


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _blocks(ordered: Sequence[Transition]) -> tuple[IntArray, list[int]]:
    lengths = [len(list(group)) for _, group in groupby(ordered, key=block_of)]
    return np.arange(len(lengths)), lengths


def _observation(transition: Transition, at: int) -> Observation:
    return (transition.decided, transition.following)[at].observation


def _states(seen: Sequence[Observation], scale: StateScale) -> SingleArray:
    return np.concatenate([state_of(one, scale) for one in seen])


def state_of(seen: Observation, scale: StateScale) -> SingleArray:
    """An observation's state as `PublishedLadTsPolicy` encodes it, (1, S)."""
    input_mbit_N, work_N = np.array([seen.input_bits / 1e6]), np.array([seen.work])
    return encode(input_mbit_N, work_N, seen.load_B, scale)


def _chances(policy: PublishedLadTsPolicy, seen: Sequence[Observation]) -> FloatArray:
    """Chances with which a node running the policy chooses, (N, B)."""
    rows = []
    for one in seen:
        if policy.node_ids and one.node_ids != policy.node_ids:
            raise ValueError(f"weights {policy.version} are for other candidates")
        mean_B = np.mean([policy.chances(one) for _ in range(DRAWS)], axis=0)
        open_B = open_chances(mean_B, one.alive_B)
        rows.append(open_B / open_B.sum())
    return np.array(rows)
