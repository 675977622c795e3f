"""Everything that a training run needs to go on, as named arrays, and back.

Owns how each kind of part is taken apart; knows no algorithm. A run that is resumed from such
arrays goes on bit for bit as if it had not been interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from scheduler.checkpoint import Array
from scheduler.learning.latent_memory import LatentMemory
from scheduler.learning.noise import NoiseSource
from scheduler.learning.replay import ReplayStack
from scheduler.learning.set_replay import SetReplay

Part = (
    nn.Module
    | torch.optim.Optimizer
    | torch.Generator
    | ReplayStack
    | SetReplay
    | LatentMemory
    | NoiseSource
    | Tensor
)


def snapshot(parts: Mapping[str, Part]) -> dict[str, Array]:
    """Copies of everything the parts hold; an array's name begins with its part's."""
    return {
        f"{name}/{key}": np.array(value.detach().numpy())
        for name, part in parts.items()
        for key, value in _tensors(part).items()
    }


def restore(parts: Mapping[str, Part], arrays: Mapping[str, Array]) -> None:
    """Gives the parts what `snapshot` took of parts of the same names and sizes."""
    for name, part in parts.items():
        own = {
            key.removeprefix(f"{name}/"): torch.from_numpy(np.array(value))
            for key, value in arrays.items()
            if key.startswith(f"{name}/")
        }
        _restore(part, own)


def _tensors(part: Part) -> dict[str, Tensor]:
    match part:
        case nn.Module():
            return dict(part.state_dict())
        case torch.optim.Optimizer():
            return {
                f"{index}/{key}": value
                for index, kept in part.state_dict()["state"].items()
                for key, value in kept.items()
            }
        case torch.Generator():
            return {"state": part.get_state()}
        case ReplayStack() | SetReplay():
            return part.state()
        case LatentMemory():
            return {"value": part.value_TANB}
        case NoiseSource():
            return {"position": torch.tensor(part.position)}
        case _:
            return {"value": part}


def _restore(part: Part, own: dict[str, Tensor]) -> None:
    match part:
        case nn.Module():
            part.load_state_dict(own)
        case torch.optim.Optimizer():
            kept: dict[int, dict[str, Tensor]] = {}
            for key, value in own.items():
                index, _, field = key.partition("/")
                kept.setdefault(int(index), {})[field] = value
            part.load_state_dict({"state": kept, "param_groups": part.state_dict()["param_groups"]})
        case torch.Generator():
            part.set_state(own["state"])
        case ReplayStack() | SetReplay():
            part.load_state(own)
        case LatentMemory():
            part.value_TANB.copy_(own["value"])
        case NoiseSource():
            part.position = int(own["position"])
        case _:
            with torch.no_grad():
                part.copy_(own["value"])
