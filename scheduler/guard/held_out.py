"""Whether new weights may replace those that decide now, judged on decisions kept from training.

Pure but for the seeds given. Importance weights would need decisions that were drawn by chance,
and rules and learned policies alike draw none; so it is a paired comparison under a critic:

- The held-out decisions fall into blocks of consecutive decisions of a node, and the blocks into
  two halves by turns. On each half critics are fitted to what the other half's decisions led to:
  the delay of each, and that which it caused to others (`scheduler.learning.hindsight`). They start
  from the expected delay of each server, so that little data moves them little.
- The gain of a decision is Q(what new weights choose) - Q(what the present ones choose) under the
  other half's critics, the mean of two. Both see the same features, drawn once.
- *Worse* means: even the upper one-sided 95 % bound of the mean gain is below minus WORSE_SHARE of
  the mean delay. The bound is Student's t over the means of blocks, for neighbours are alike.

The bound covers the chance of the sample, not an error that both critics share where nobody ever
decided so: whether the weights are any good in the live cluster is for the nodes' guards to say.
Arrays end in their dimension: N decisions, M those of one half, B servers (padded), V server
features, C context features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scheduler.checkpoint import Checkpoint, version_of
from scheduler.learning.equivariant import TwinCritic, encoded
from scheduler.learning.hindsight import Judged
from scheduler.observation import FloatArray
from scheduler.policies.lad_ts_features import CONTEXT, SERVER, inputs
from scheduler.policies.lad_ts_policy import Chain, weights_of
from scheduler.simulator.statistics import student_quantile

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

BLOCKS_MIN = 4
WORSE_SHARE = 0.01
CONFIDENCE = 0.95
_HIDDEN, _FITS, _LR = 16, 150, 3e-3
_NO_PATH = Path("weights")


@dataclass(frozen=True, kw_only=True)
class HeldOutCheck:
    """What the comparison found.

    Attributes:
        decisions: that it was made on.
        gain_s: mean gain of the new weights, seconds of delay saved by a decision.
        gain_low_s, gain_high_s: one-sided 95 % bounds, each on its own.
        mean_delay_s: of the held-out tasks.
        against: version of the weights compared with.
    """

    decisions: int
    gain_s: float
    gain_low_s: float
    gain_high_s: float
    mean_delay_s: float
    against: str

    @property
    def worse(self) -> bool:
        """Whether the new weights are significantly worse."""
        return self.gain_high_s < -WORSE_SHARE * self.mean_delay_s


def compare(
    judged: Sequence[Judged], new: Checkpoint, present: Checkpoint, *, seed: int
) -> HeldOutCheck:
    """Compares on held-out decisions of at least BLOCKS_MIN blocks.

    Args:
        judged: decisions of any clusters, with what they led to.
        new: weights that would be published.
        present: those that decide.
        seed: of critics.

    Raises:
        ValueError: the new weights give a number that is not finite or are of other shapes, or
            there are too few blocks.
    """
    blocks = sorted({one.lived.block for one in judged})
    if len(blocks) < BLOCKS_MIN:
        raise ValueError(f"{len(blocks)} held-out blocks; {BLOCKS_MIN} are needed")
    number = {block: index for index, block in enumerate(blocks)}
    block_N = np.array([number[one.lived.block] for one in judged])
    new_N, present_N = (_choices(weights, judged) for weights in (new, present))
    table = _Table.of(judged)
    gain_N = np.empty(len(judged))
    rows_N = np.arange(len(judged))
    for half in (0, 1):
        judged_N = block_N % 2 == half
        value_NB = table.fitted_values(~judged_N, seed=seed + half)
        rows_M = rows_N[judged_N]
        gain_N[rows_M] = value_NB[rows_M, new_N[rows_M]] - value_NB[rows_M, present_N[rows_M]]
    gain_s_N = gain_N * np.array([one.lived.seen.unit_s for one in judged])
    means_s = np.array([gain_s_N[block_N == block].mean() for block in range(len(blocks))])
    half_width_s = student_quantile(CONFIDENCE, len(means_s) - 1) * means_s.std(ddof=1)
    half_width_s /= np.sqrt(len(means_s))
    return HeldOutCheck(
        decisions=len(judged),
        gain_s=float(means_s.mean()),
        gain_low_s=float(means_s.mean() - half_width_s),
        gain_high_s=float(means_s.mean() + half_width_s),
        mean_delay_s=float(np.mean([one.delay_s for one in judged])),
        against=version_of(present),
    )


def _choices(weights: Checkpoint, judged: Sequence[Judged]) -> IntArray:
    """What a node with these weights chooses, (N,).

    Raises:
        ValueError: they are of other shapes, or give a number that is not finite.
    """
    loaded = weights_of(weights, _NO_PATH)
    schedule, rng = Chain().schedule(loaded.actor.steps), np.random.default_rng(0)
    chosen = []
    for one in judged:
        x_B = loaded.actor.denoised(inputs(one.lived.seen), one.lived.latent_B, schedule, rng)
        if not np.isfinite(x_B).all():
            raise ValueError(f"weights {version_of(weights)} give {x_B}, which is not finite")
        chosen.append(int(x_B.argmax()))
    return np.array(chosen)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The decisions, padded to the largest number of servers."""

    server_NBV: Tensor
    context_NC: Tensor
    present_NB: Tensor
    action_N: Tensor
    cost_N: Tensor

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> _Table:
        seen = [one.lived.seen for one in judged]
        most = max(len(one.server_BS) for one in seen)
        server_NBV = np.zeros((len(seen), most, len(SERVER)), np.float32)
        present_NB = np.zeros((len(seen), most), np.float32)
        context_NC = np.zeros((len(seen), len(CONTEXT)), np.float32)
        for row, one in enumerate(seen):
            servers = len(one.server_BS)
            server_NBV[row, :servers] = one.server_BS
            present_NB[row, :servers] = 1.0
            context_NC[row] = one.context_C
        return cls(
            server_NBV=torch.from_numpy(server_NBV),
            context_NC=torch.from_numpy(context_NC),
            present_NB=torch.from_numpy(present_NB),
            action_N=torch.tensor([one.lived.action for one in judged]),
            cost_N=torch.tensor([one.cost for one in judged], dtype=torch.float32),
        )

    def fitted_values(self, part_N: BoolArray, *, seed: int) -> FloatArray:
        """Values of every server for all decisions by critics fitted to a part, (N, B)."""
        part = torch.from_numpy(np.flatnonzero(part_N))
        server_MBV, context_MC = self.server_NBV[part], self.context_NC[part]
        present_MB, action_M1 = self.present_NB[part], self.action_N[part][:, None]
        input_MBF = encoded(server_MBV, context_MC, present_MB)
        critic = TwinCritic(_HIDDEN, torch.Generator().manual_seed(seed))
        optimiser = torch.optim.Adam(critic.parameters(), lr=_LR)
        for _ in range(_FITS):
            losses = [
                torch.nn.functional.smooth_l1_loss(
                    value_MB.gather(1, action_M1)[:, 0], -self.cost_N[part]
                )
                for value_MB in critic(server_MBV, input_MBF, present_MB)
            ]
            optimiser.zero_grad()
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            every_NBF = encoded(self.server_NBV, self.context_NC, self.present_NB)
            first_NB, second_NB = critic(self.server_NBV, every_NBF, self.present_NB)
        value_NB: FloatArray = ((first_NB + second_NB) / 2.0).double().numpy()
        return value_NB
