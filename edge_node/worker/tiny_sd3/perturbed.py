"""Copies of the tiny SD3 with other weights, for clusters that draw several models.

A copy is no model that anybody trained: its transformer's matrices have noise added, drawn from a
seed, and its name says so. It draws as fast as the original, and something else.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from edge_node.worker.tiny_sd3 import model_folder

# Standard deviation of the noise over that of a matrix's entries: pictures are others, and still
# pictures.
NOISE_SHARE = 0.05


def perturbed_name(seed: int) -> str:
    """What a copy is called."""
    return f"tiny-sd3-perturbed-{seed}"


def write_perturbed(folder: Path, *, seed: int) -> Path:
    """Makes the copy with that seed below `folder`; returns its diffusers folder."""
    from safetensors.numpy import load_file, save_file

    copy = folder / perturbed_name(seed)
    shutil.copytree(model_folder(), copy, dirs_exist_ok=True)
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    rng = np.random.default_rng(seed)
    changed = {}
    for name, value in sorted(load_file(weights).items()):
        noise = rng.standard_normal(value.shape) * NOISE_SHARE * float(value.std())
        changed[name] = (value + (noise if value.ndim > 1 else 0.0)).astype(value.dtype)
    save_file(changed, weights)
    return copy


def model_settings(number: int, *, folder: Path) -> dict[str, str]:
    """Settings of a node that draws the `number`-th tiny model: none for 0, the shipped one.

    Others are made below `folder`, once.
    """
    if number == 0:
        return {}
    name = perturbed_name(number)
    if not (folder / name).exists():
        write_perturbed(folder, seed=number)
    return {"model": str((folder / name).resolve()), "model_name": name}
