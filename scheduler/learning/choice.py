"""From what a network says of each server to the server: drawn, or the best.

Owns the refusal to act on what is no number: a diverged network must stop its run, and NaN would
otherwise quietly mean server 0. Tensors end in their dimensions: N tasks, B servers.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Diverged(ArithmeticError):
    """A network's output is not finite; its run cannot go on."""


def drawn(chance_NB: Tensor, generator: torch.Generator) -> Tensor:
    """A server for each task by its chances, which need not sum to 1, (N,)."""
    bound_NB = _finite(chance_NB).cumsum(1)
    drawn_N1 = torch.rand((len(chance_NB), 1), generator=generator) * bound_NB[:, -1:]
    return (bound_NB < drawn_N1).sum(1)


def best(value_NB: Tensor) -> Tensor:
    """The server of the highest value for each task, (N,); the first of equals."""
    return _finite(value_NB).argmax(1)


def explored(value_NB: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The best server, but any one with probability `share` (epsilon-greedy), (N,)."""
    tasks, servers = value_NB.shape
    anyone_N = torch.randint(servers, (tasks,), generator=generator)
    explores_N = torch.rand(tasks, generator=generator) < share
    return torch.where(explores_N, anyone_N, best(value_NB))


def _finite(value_NB: Tensor) -> Tensor:
    if not torch.isfinite(value_NB.sum()):
        task, server = torch.nonzero(~torch.isfinite(value_NB))[0].tolist()
        raise Diverged(f"output {value_NB[task, server]} for server {server}, task {task}")
    return value_NB
