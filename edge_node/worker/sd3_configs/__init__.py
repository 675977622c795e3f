"""What Stable Diffusion 3 Medium's single files do not say: configs, and CLIP's vocabulary.

Owns the folder's place only; importing this package must not import torch. The folder is laid out
as a diffusers folder without weights. Its tokenizers hold no vocabulary of their own: both read
`clip_merges.txt.gz` (NOTICE names its source and licence).
"""

from __future__ import annotations

import pathlib


def config_folder() -> pathlib.Path:
    """The diffusers folder without weights."""
    return pathlib.Path(__file__).resolve().parent


def merges_path() -> pathlib.Path:
    """CLIP's 48894 byte-pair merges, one a line, best first."""
    return config_folder() / "clip_merges.txt.gz"
