"""A model with a LoRA in its weights: a copy of what changes, and the rest shared.

Owns the sums. They are computed in float32 at least and rounded once to the model's dtype, as
diffusers' `fuse_lora` leaves them; drawing then costs what it costs without. A variant takes the
memory of the weights that it changes.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from edge_node.domain import ModelFingerprint
from edge_node.worker.denoiser import ModelUnusable
from edge_node.worker.lora import LoraFile, LowRank
from edge_node.worker.safetensors_file import StoredTensor, TensorReader

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True, kw_only=True)
class FusedParts:
    """What a LoRA makes of a model's transformer and text encoders, with its own fingerprint."""

    name: str
    transformer: Any
    clips: tuple[tuple[Any, Any], ...]
    fingerprint: ModelFingerprint


def fused(
    lora: LoraFile,
    *,
    transformer: Any,
    clips: tuple[tuple[Any, Any], ...],
    fingerprint: ModelFingerprint,
) -> FusedParts:
    """The model with a LoRA in it; the one that is handed in stays as it is.

    Raises:
        ModelUnusable: the LoRA has weights that this model has not, or in other shapes; or its
            numbers are not finite.
    """
    with lora.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    told = "\0".join((fingerprint, "lora", digest, repr(lora.strength)))
    modules = {
        "transformer": transformer,
        "text_encoder": clips[0][1],
        "text_encoder_2": clips[1][1],
    }
    with TensorReader() as reader:
        changed = {
            part: _changed(lora, part, module, lora.changes.get(part, {}), reader)
            for part, module in modules.items()
        }
    return FusedParts(
        name=lora.name,
        transformer=changed["transformer"],
        clips=(
            (clips[0][0], changed["text_encoder"]),
            (clips[1][0], changed["text_encoder_2"]),
        ),
        fingerprint=ModelFingerprint(hashlib.sha256(told.encode()).hexdigest()),
    )


def _changed(
    lora: LoraFile,
    part: str,
    module: torch.nn.Module,
    changes: Mapping[str, LowRank],
    reader: TensorReader,
) -> torch.nn.Module:
    if not changes:
        return module
    weights = dict(module.named_parameters())
    for name, change in changes.items():
        _check_fits(lora, part, name, change, weights.get(name))
    shared = (
        tensor
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if name not in changes
    )
    # What deepcopy takes for copied already is not copied.
    known = {id(tensor): tensor for tensor in shared}
    variant = copy.deepcopy(module, known)
    for name, change in changes.items():
        weight = variant.get_parameter(name)
        exact = torch.promote_types(weight.dtype, torch.float32)
        down_RI, up_OR = (
            _read(tensor, reader).to(weight.device, exact) for tensor in (change.down, change.up)
        )
        added_OI = (lora.strength * change.scale) * (up_OR @ down_RI)
        summed_OI = (weight.to(exact) + added_OI).to(weight.dtype)
        if not bool(torch.isfinite(summed_OI).all()):
            raise ModelUnusable(
                f"{change.up.key} in {lora.path} makes numbers of {name} that are not finite in "
                f"{weight.dtype}: copy the file again, or lower its strength (lora_strengths)"
            )
        weight.copy_(summed_OI)
    return variant


def _check_fits(
    lora: LoraFile, part: str, name: str, change: LowRank, weight: torch.Tensor | None
) -> None:
    if weight is None:
        raise ModelUnusable(
            f"{change.up.key} in {lora.path} changes {name} of the {part}, which this model has "
            "not: the LoRA is for another model, take it out of lora_folder"
        )
    shape = [change.up.shape[0], change.down.shape[1]]
    if shape != list(weight.shape):
        raise ModelUnusable(
            f"{change.up.key} in {lora.path} changes a weight of shape {shape}, where {name} of "
            f"the {part} is {list(weight.shape)}: the LoRA is for another model, take it out of "
            "lora_folder"
        )
    for tensor in (change.down, change.up):
        if tensor.dtype not in _DTYPES:
            raise ModelUnusable(
                f"{tensor.key} in {lora.path} is stored as {tensor.dtype}, which this worker does "
                f"not read: save it in one of {', '.join(_DTYPES)}"
            )


def _read(stored: StoredTensor, reader: TensorReader) -> torch.Tensor:
    content = bytearray(stored.size_bytes)
    done = 0
    for start, stop in stored.ranges:
        with memoryview(content)[done : done + stop - start] as place:
            reader.read_into(place, stored.path, start=start)
        done += stop - start
    return torch.frombuffer(content, dtype=_DTYPES[stored.dtype]).reshape(stored.shape)
