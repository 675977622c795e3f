"""The tiny SD3: a small StableDiffusion3 model folder that ships with the node.

Owns the folder's place only; importing this package must not import torch.
"""

from __future__ import annotations

import pathlib


def model_folder() -> pathlib.Path:
    """Returns the diffusers folder that ``StableDiffusion3Pipeline.from_pretrained`` loads."""
    return pathlib.Path(__file__).resolve().parent / "model"
