"""LoRA files for Stable Diffusion 3: what is in them, and which weights of the model it changes.

Owns the names: diffusers' and PEFT's (`transformer....lora_A.weight`), and those of kohya's
scripts (`lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight`), which go by the layout of
the single files. A LoRA is W + strength (alpha / rank) B A for each weight W that it changes (Hu et
al. 2021, arXiv 2106.09685). Reads headers and a few numbers only, imports no torch and holds no
weights.
"""

from __future__ import annotations

import pathlib
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edge_node.json_text import parsed
from edge_node.worker import sd3_checkpoint
from edge_node.worker.denoiser import ModelUnusable
from edge_node.worker.safetensors_file import StoredTensor, TensorReader, read_header, read_metadata

# What a variant may be called: it stands in addresses, metadata and logs.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Of a folder: each takes memory for what it changes.
LORAS_MAX = 32
# How the two matrices of a weight are called: (A, the one that is applied first, and B).
_PAIRS = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora_down.weight", ".lora_up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
)
_ALPHA = ".alpha"
_NAMES_TOLD = 3

# Kohya's names have no dots; these have theirs again. In the layout of the single files.
_KOHYA_TRANSFORMER = (
    (r"joint_blocks_(\d+)_(x_block|context_block)_", r"joint_blocks.\1.\2."),
    (r"\.(attn2?|mlp)_", r".\1."),
    (r"adaLN_modulation_1$", "adaLN_modulation.1"),
    (r"^([txy]_embedder)_(mlp|proj)", r"\1.\2"),
    (r"\.mlp_([02])$", r".mlp.\1"),
    (r"^final_layer_", "final_layer."),
)
_KOHYA_CLIP = re.compile(
    r"text_model_encoder_layers_(\d+)_(self_attn|mlp)_(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
)
_KOHYA_PARTS = {
    "lora_unet_": "transformer",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
_PARTS = ("transformer", "text_encoder", "text_encoder_2")


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """What is added to one weight: scale x up x down.

    Attributes:
        down: A, of rank rows.
        up: B, of rank columns.
        scale: alpha over rank.
    """

    down: StoredTensor
    up: StoredTensor
    scale: float


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A file and its variant.

    Attributes:
        name: of the variant, after the model's own and a plus sign: the file's, without its ending.
        strength: by which all of it is multiplied.
        changes: by part of the model, by the weight's name there.
    """

    path: pathlib.Path
    name: str
    strength: float
    changes: Mapping[str, Mapping[str, LowRank]]


def find(
    folder: pathlib.Path, *, strengths: Mapping[str, float], last_block: int
) -> tuple[LoraFile, ...]:
    """All LoRAs of a folder, by name.

    Args:
        folder: its *.safetensors files count.
        strengths: of those that are not to count in full, by name.
        last_block: number of the transformer's last block.

    Raises:
        ModelUnusable: the folder is not there, a file is no LoRA for Stable Diffusion 3, or a
            strength is given for none.
    """
    if not folder.is_dir():
        raise ModelUnusable(
            f"lora_folder is {folder}, and there is no such folder: make it, or leave it out"
        )
    paths = sorted(folder.glob("*.safetensors"))
    if len(paths) > LORAS_MAX:
        raise ModelUnusable(
            f"lora_folder {folder} holds {len(paths)} LoRAs: keep at most {LORAS_MAX} there"
        )
    names = {path.stem for path in paths}
    strange = sorted(strengths.keys() - names)
    if strange:
        raise ModelUnusable(
            f"lora_strengths names {', '.join(strange)}, and {folder} has {_some(sorted(names))}: "
            "name files without their ending"
        )
    return tuple(
        _read(path, strength=strengths.get(path.stem, 1.0), last_block=last_block) for path in paths
    )


def _read(path: pathlib.Path, *, strength: float, last_block: int) -> LoraFile:
    if not _NAME.fullmatch(path.stem):
        raise ModelUnusable(
            f"{path} cannot name a variant: call it by letters, digits, dots, dashes and "
            "underscores, 64 at most"
        )
    if not path.is_file():
        raise ModelUnusable(f"{path} is no file: take it out of lora_folder")
    stored = read_header(path)
    pairs, rest = _paired(stored)
    if rest or not pairs:
        what = sd3_checkpoint.kind(stored)
        told = f"holds {_some(sorted(rest))}" if pairs else f"looks like {what}"
        raise ModelUnusable(
            f"{path} {told}, which no LoRA of plain low-rank matrices has: give one in the form of "
            "diffusers or of kohya's scripts, or take it out of lora_folder"
        )
    alphas = _alphas(path, stored)
    changes: dict[str, dict[str, LowRank]] = {}
    for module, (down, up) in pairs.items():
        _check_shapes(path, module, down, up)
        rank = down.shape[0]
        scale = alphas(module, rank) / rank
        for part, name, rows in _targets(path, module, up, last_block=last_block):
            if name in changes.setdefault(part, {}):
                raise ModelUnusable(
                    f"{path} changes {name} of the {part} twice, under two names: save it with one "
                    "of them, or take it out of lora_folder"
                )
            changes[part][name] = LowRank(down=down, up=rows, scale=scale)
    return LoraFile(path=path, name=path.stem, strength=strength, changes=changes)


def _paired(
    stored: Mapping[str, StoredTensor],
) -> tuple[dict[str, tuple[StoredTensor, StoredTensor]], set[str]]:
    """Matrices by the module that they change, and the names of all that is none of them."""
    pairs, used = {}, set()
    for key in stored:
        for first, second in _PAIRS:
            module = key.removesuffix(first)
            if module != key and module + second in stored:
                pairs[module] = (stored[key], stored[module + second])
                used |= {key, module + second, module + _ALPHA}
    return pairs, stored.keys() - used


def _alphas(path: pathlib.Path, stored: Mapping[str, StoredTensor]) -> Callable[[str, int], float]:
    """What says the alpha of a module of some rank: a number beside it, metadata, or its rank."""
    beside = {
        key.removesuffix(_ALPHA): _number(tensor)
        for key, tensor in stored.items()
        if key.endswith(_ALPHA)
    }
    told = _adapter_metadata(path)
    others = {"alpha_pattern", "use_dora", "use_rslora"}
    if any(told.get(f"{part}.{other}") for part in _PARTS for other in others):
        raise ModelUnusable(
            f"{path} gives its weights alphas of their own, or is a DoRA or a rank-stabilised "
            "LoRA, which this worker does not read: save it as a plain one, or take it out of "
            "lora_folder"
        )
    whole: dict[str, float] = {}
    for part in _PARTS:
        number = told.get(f"{part}.lora_alpha")
        if isinstance(number, int | float):
            whole[part] = float(number)
        elif number is not None:
            raise ModelUnusable(
                f"the lora_alpha of the {part} in {path} is no number: save it again"
            )

    def alpha(module: str, rank: int) -> float:
        return beside.get(module, whole.get(module.partition(".")[0], float(rank)))

    return alpha


def _adapter_metadata(path: pathlib.Path) -> Mapping[str, object]:
    """PEFT's settings as diffusers writes them since 0.34; empty where there are none."""
    text = read_metadata(path).get("lora_adapter_metadata", "{}")
    try:
        told = parsed(text.encode())
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise ModelUnusable(f"the adapter's settings in {path} are no JSON object: save it again")
    return told


def _check_shapes(path: pathlib.Path, module: str, down: StoredTensor, up: StoredTensor) -> None:
    flat = len(down.shape) == len(up.shape) == 2
    if not flat or down.shape[0] != up.shape[1] or 0 in (*down.shape, *up.shape):
        raise ModelUnusable(
            f"the matrices of {module} in {path} are {list(down.shape)} and {list(up.shape)}, "
            "which do not belong together: copy the file again"
        )


def _targets(
    path: pathlib.Path, module: str, up: StoredTensor, *, last_block: int
) -> Iterable[tuple[str, str, StoredTensor]]:
    """Part, weight and rows of B of each weight that a module of the file means."""
    for prefix, part in _KOHYA_PARTS.items():
        if module.startswith(prefix):
            return _of_kohya(path, part, module.removeprefix(prefix), up, last_block=last_block)
    for part in _PARTS:
        if module.startswith(f"{part}."):
            return [(part, f"{module.removeprefix(f'{part}.')}.weight", up)]
    raise _does_not_fit(path, module)


def _of_kohya(
    path: pathlib.Path, part: str, module: str, up: StoredTensor, *, last_block: int
) -> Iterable[tuple[str, str, StoredTensor]]:
    if part != "transformer":
        found = _KOHYA_CLIP.fullmatch(module)
        if found is None:
            raise _does_not_fit(path, module)
        layer, group, name = found.groups()
        return [(part, f"text_model.encoder.layers.{layer}.{group}.{name}.weight", up)]
    for pattern, dotted in _KOHYA_TRANSFORMER:
        module = re.sub(pattern, dotted, module)
    stored = {f"{sd3_checkpoint.TRANSFORMER_PREFIX}{module}.weight": up}
    named = sd3_checkpoint.transformer(stored, last_block=last_block)
    shares = [(part, name, rows) for name, rows in named.items() if isinstance(rows, StoredTensor)]
    if sum(rows.shape[0] for _, _, rows in shares) != up.shape[0]:
        raise ModelUnusable(
            f"{up.key} in {path} has {up.shape[0]} rows, which the {len(shares)} weights that it "
            "changes cannot share: the LoRA is for another model, take it out of lora_folder"
        )
    return shares


def _number(tensor: StoredTensor) -> float:
    """The number of a tensor that holds one."""
    kinds = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i"}
    kind = kinds.get(tensor.dtype)
    content = bytearray(tensor.size_bytes)
    with TensorReader() as reader:
        reader.read_into(memoryview(content), tensor.path, start=tensor.ranges[0][0])
    if tensor.dtype == "BF16" and len(content) == 2:  # the upper half of a float32
        kind, content = "<f", bytearray(2) + content
    if kind is None or len(content) != struct.calcsize(kind):
        raise ModelUnusable(f"{tensor.key} in {tensor.path} is no number: copy the file again")
    return float(struct.unpack(kind, content)[0])


def _does_not_fit(path: pathlib.Path, module: str) -> ModelUnusable:
    return ModelUnusable(
        f"{module} in {path} is nothing that Stable Diffusion 3 has: the LoRA is for another "
        "model, take it out of lora_folder"
    )


def _some(names: list[str]) -> str:
    told = ", ".join(names[:_NAMES_TOLD]) or "none"
    return told if len(names) <= _NAMES_TOLD else f"{told} and {len(names) - _NAMES_TOLD} more"
