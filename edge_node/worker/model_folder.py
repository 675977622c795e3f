"""A diffusers folder as files: whether it is a whole SD3, and which one.

Owns what can be said before torch is imported, so that a wrong path is told at once.
"""

from __future__ import annotations

import hashlib
import json
import pathlib

from edge_node.domain import ModelFingerprint
from edge_node.worker.step_engine import ModelUnusable

WEIGHED_PARTS = ("text_encoder", "text_encoder_2", "transformer", "vae")
# What makes a model the same model; the T5 encoder is not part of what is served.
PARTS = ("scheduler", "tokenizer", "tokenizer_2", *WEIGHED_PARTS)
_FINGERPRINTED = (".json", ".txt", ".safetensors")


def check_folder(folder: pathlib.Path) -> None:
    """Raises ModelUnusable, with what to do, unless `folder` looks like a whole SD3."""
    index_path = folder / "model_index.json"
    if not index_path.is_file():
        state = "has no model_index.json" if folder.is_dir() else "does not exist"
        raise ModelUnusable(
            f"the model folder {folder} {state}: point --model at a diffusers folder of "
            "Stable Diffusion 3, the one that holds model_index.json"
        )
    pipeline = json.loads(index_path.read_text(encoding="utf-8")).get("_class_name")
    if pipeline != "StableDiffusion3Pipeline":
        raise ModelUnusable(
            f"{folder} holds a {pipeline}, not a StableDiffusion3Pipeline: point --model at a "
            "diffusers folder of Stable Diffusion 3"
        )
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelUnusable(
            f"the model folder {folder} lacks {', '.join(missing)}: copy it again, whole"
        )
    for part in WEIGHED_PARTS:
        weights_paths = sorted((folder / part).glob("*.safetensors"))
        if not weights_paths:
            raise ModelUnusable(
                f"there are no weights (*.safetensors) in {folder / part}: copy the model again, "
                "whole"
            )
        for weights_path in weights_paths:
            _check_weights(weights_path)


def _check_weights(path: pathlib.Path) -> None:
    """A copy that was cut short is told by the length which its own header promises."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        promised_bytes = 8 + header_bytes
        if promised_bytes <= size_bytes:
            header = json.loads(file.read(header_bytes))
            promised_bytes += max(
                (entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"),
                default=0,
            )
    if size_bytes != promised_bytes:
        raise ModelUnusable(
            f"{path} is {size_bytes} bytes long where its header promises {promised_bytes}: "
            "the copy is damaged or incomplete, copy it again"
        )


def fingerprint(folder: pathlib.Path) -> ModelFingerprint:
    """sha256 over names and contents of all configs and weights that are served."""
    digest = hashlib.sha256()
    for part in PARTS:
        for path in sorted((folder / part).iterdir()):
            if path.suffix not in _FINGERPRINTED:
                continue
            digest.update(f"{part}/{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(2**20):
                    digest.update(chunk)
    return ModelFingerprint(digest.hexdigest())
