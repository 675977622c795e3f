"""Stable Diffusion 3's modules, filled straight from the disk.

Owns building the modules without memory, allocating every parameter once, on the device and in
the dtype wanted, filling it from the file, and the model's fingerprint, which is computed from the
same bytes as they pass. With sd3.py the only module that imports diffusers. No second copy of the
weights ever exists on the host: it must not hand a file to a loader that would make one.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers

from edge_node.domain import ModelFingerprint
from edge_node.worker import clip_vocabulary
from edge_node.worker.denoiser import ModelUnusable
from edge_node.worker.lora import LoraFile
from edge_node.worker.lora_fusing import FusedParts, fused
from edge_node.worker.model_files import CLIP_PARTS, WEIGHED_PARTS, ModelFiles, TokenizerFiles
from edge_node.worker.safetensors_file import StoredTensor, TensorReader, chunks, zeros_at_the_end
from edge_node.worker.sd3_checkpoint import IdentityMatrix, Source

# Read at once. Divisible by every element's size; small enough to be hashed while it is in the
# processor's cache.
CHUNK_BYTES = 4 * 2**20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# Settings that change pictures and that neither names nor shapes of the weights tell. Only these
# are part of the fingerprint: which others a config spells out depends on who wrote it.
_TELLING_SETTINGS = {
    "transformer": ("sample_size", "num_attention_heads"),
    "vae": ("act_fn", "norm_num_groups", "scaling_factor", "shift_factor"),
    "text_encoder": ("hidden_act", "layer_norm_eps", "num_attention_heads"),
    "text_encoder_2": ("hidden_act", "layer_norm_eps", "num_attention_heads"),
    "scheduler": ("num_train_timesteps", "shift"),
}
# Names told in an error about many of them.
_NAMES_TOLD = 3
_AGAIN = (
    "the copy is damaged or was aborted, copy it again and compare its sha256 (dedgeai weights "
    "verify)"
)
# Dimensions from which on a parameter is a matrix, which training never leaves at zero.
_MATRIX = 2


@dataclass(frozen=True, kw_only=True)
class Sd3Parts:
    """A whole model on its device, in evaluation mode, without gradients.

    Attributes:
        transformer: diffusers.SD3Transformer2DModel.
        vae: diffusers.AutoencoderKL with its encoder, which image-to-image needs.
        clips: (CLIPTokenizer, CLIPTextModelWithProjection) of CLIP-L and CLIP-bigG.
        scheduler_config: of FlowMatchEulerDiscreteScheduler, with defaults filled in.
        fingerprint: the same for the same weights, vocabularies and settings in any layout.
        weight_bytes: of all parameters and stored buffers, on the device.
        variants: the same with a LoRA in them.
    """

    transformer: Any
    vae: Any
    clips: tuple[tuple[Any, Any], ...]
    scheduler_config: Mapping[str, object]
    fingerprint: ModelFingerprint
    weight_bytes: int
    variants: tuple[FusedParts, ...] = ()


def load_parts(
    files: ModelFiles,
    *,
    device: torch.device,
    dtype: torch.dtype,
    loras: Sequence[LoraFile] = (),
) -> Sd3Parts:
    """Reads every weight once from the disk into its place on `device`, in `dtype`.

    Raises:
        ModelUnusable: weights and configs disagree, a file is damaged, or a LoRA is not for this
            model; says what to do.
    """
    scheduler_config = _scheduler_config(files)
    modules = {part: _skeleton(files, part, dtype=dtype) for part in WEIGHED_PARTS}
    for part, module in modules.items():
        _check_sources(files, part, module)
    _check_tails(files)
    facts = [_settings_fact("scheduler", scheduler_config)]
    facts += [_settings_fact(part, module.config) for part, module in modules.items()]
    facts += [
        _vocabulary_fact(tokenizer, tokens_max=modules[part].config.vocab_size)
        for tokenizer, part in zip(files.tokenizers, CLIP_PARTS, strict=True)
    ]
    staging = torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=device.type == "cuda")
    weight_bytes = 0
    with TensorReader() as reader:
        for part, module in modules.items():
            module.to_empty(device=device).requires_grad_(False).eval()
            _compute_unstored(part, module)
            for name, source, target in _by_place(files, part, module):
                weight_bytes += target.nbytes
                digest = _fill(target, source, reader=reader, staging=staging)
                _check_values(part, name, source, target)
                facts.append(f"{part} {name} {source.dtype} {list(source.shape)} {digest}")
    clips = tuple(
        (_tokenizer(tokenizer), modules[part])
        for tokenizer, part in zip(files.tokenizers, CLIP_PARTS, strict=True)
    )
    transformer, fingerprint = modules["transformer"], _fingerprint(facts)
    return Sd3Parts(
        transformer=transformer,
        vae=modules["vae"],
        clips=clips,
        scheduler_config=scheduler_config,
        fingerprint=fingerprint,
        weight_bytes=weight_bytes,
        variants=tuple(
            fused(lora, transformer=transformer, clips=clips, fingerprint=fingerprint)
            for lora in loras
        ),
    )


def check_headers(files: ModelFiles) -> None:
    """All that `load_parts` checks before it reads the weights: headers, and how files end.

    Raises:
        ModelUnusable: as `load_parts`.
    """
    _scheduler_config(files)
    for part in WEIGHED_PARTS:
        module = _skeleton(files, part, dtype=torch.float32)
        _check_sources(files, part, module)
        if part in CLIP_PARTS:
            tokenizer = files.tokenizers[CLIP_PARTS.index(part)]
            _vocabulary_fact(tokenizer, tokens_max=module.config.vocab_size)
    _check_tails(files)


def tiny_decoder(folder: pathlib.Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """An AutoencoderTiny for SD3's latents (TAESD3), which decodes in place of the VAE.

    Raises:
        ModelUnusable: there is none at `folder`.
    """
    try:
        decoder = diffusers.AutoencoderTiny.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ModelUnusable(
            f"there is no AutoencoderTiny at {folder} ({error}): point --taesd3 at a diffusers "
            "folder of TAESD3"
        ) from error
    return decoder.to(device).eval().requires_grad_(False)


def quantize_linears(transformer: torch.nn.Module) -> None:
    """Turns the weights of all linear layers into int8, each row with its own scale, in place.

    Raises:
        ModelUnusable: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ModelUnusable(
            "int8 weights need torchao, which is not installed: pip install torchao, or leave "
            "--int8-weights out"
        ) from error
    quantize_(transformer, Int8WeightOnlyConfig())


# Modules without memory.


def _skeleton(files: ModelFiles, part: str, *, dtype: torch.dtype) -> Any:
    """The module on the meta device: names, shapes and code, but no memory."""
    config = dict(files.parts[part].config)
    try:
        with torch.device("meta"):
            if part == "transformer":
                module = diffusers.SD3Transformer2DModel.from_config(config)
            elif part == "vae":
                module = diffusers.AutoencoderKL.from_config(config)
            else:
                module = transformers.CLIPTextModelWithProjection(
                    transformers.CLIPTextConfig.from_dict(config)
                )
        # Not diffusers' own `to`, which warns that modules should stay in float32 and names none.
        return torch.nn.Module.to(module, dtype)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnusable(
            f"the {part} of {files.path} cannot be built from its config ({error}): use the config "
            "that was published with the weights"
        ) from error


def _check_sources(files: ModelFiles, part: str, module: torch.nn.Module) -> None:
    """The files must hold what the module has, no less, no more, and in its shapes."""
    wanted = module.state_dict()
    sources = files.parts[part].sources
    lost = sorted(wanted.keys() - sources.keys())
    strange = sorted(sources.keys() - wanted.keys())
    if lost or strange:
        told = [f"lacks {_some(lost)}"] if lost else []
        told += [f"has {_some(strange)} too much"] if strange else []
        raise ModelUnusable(
            f"the {part} of {files.path} does not fit its config: it {' and '.join(told)}; give "
            "the config that belongs to these weights (--model-config for a single file), or copy "
            "the model again, whole"
        )
    for name, source in sources.items():
        stored_as = source.key if isinstance(source, StoredTensor) else "computed"
        if source.shape != tuple(wanted[name].shape):
            raise ModelUnusable(
                f"{name} of the {part} ({stored_as} in {files.path}) is of shape "
                f"{list(source.shape)} where the config wants {list(wanted[name].shape)}: give the "
                "config that belongs to these weights (--model-config for a single file)"
            )
        if source.dtype not in _DTYPES:
            raise ModelUnusable(
                f"{name} of the {part} ({stored_as} in {files.path}) is stored as {source.dtype}, "
                f"which this worker does not read: use weights in one of {', '.join(_DTYPES)}"
            )


def _check_tails(files: ModelFiles) -> None:
    """Refuses files whose end was never written, which headers do not tell."""
    stored: dict[pathlib.Path, list[StoredTensor]] = {}
    for part in files.parts.values():
        for source in part.sources.values():
            if isinstance(source, StoredTensor):
                stored.setdefault(source.path, []).append(source)
    for path, tensors in stored.items():
        empty = zeros_at_the_end(path, tensors)
        if empty is not None:
            raise ModelUnusable(f"{empty.key} in {path} ends in zeros, as the file does: {_AGAIN}")


def _some(names: list[str]) -> str:
    told = ", ".join(names[:_NAMES_TOLD])
    return told if len(names) <= _NAMES_TOLD else f"{told} and {len(names) - _NAMES_TOLD} more"


def _compute_unstored(part: str, module: torch.nn.Module) -> None:
    """Buffers that no file holds are garbage after allocation, unless they are computed here."""
    stored = module.state_dict().keys()
    for name, buffer in module.named_buffers():
        if name in stored:
            continue
        if not name.endswith("position_ids"):
            raise ModelUnusable(
                f"this version of transformers or diffusers computes {name} of the {part} itself, "
                "which this worker does not know: use the versions of constraints-cpu.txt"
            )
        buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))


# Weights.


def _by_place(
    files: ModelFiles, part: str, module: torch.nn.Module
) -> Iterable[tuple[str, Source, torch.Tensor]]:
    """Name, source and target of each parameter, in the order of the disk."""
    targets = module.state_dict()

    def place(item: tuple[str, Source]) -> tuple[str, int]:
        source = item[1]
        if isinstance(source, IdentityMatrix):
            return "", 0
        return str(source.path), min(start for start, _ in source.ranges)

    for name, source in sorted(files.parts[part].sources.items(), key=place):
        yield name, source, targets[name]


def _fill(
    target: torch.Tensor,
    source: Source,
    *,
    reader: TensorReader,
    staging: torch.Tensor,
) -> str:
    """Fills `target` and returns the sha256 of the source's bytes, in the source's dtype."""
    if isinstance(source, IdentityMatrix):
        identity = torch.eye(source.width, dtype=_DTYPES[source.dtype])
        target.copy_(identity)
        return hashlib.sha256(_bytes_of(identity)).hexdigest()
    digest = hashlib.sha256()
    source_dtype = _DTYPES[source.dtype]
    target_N = target.view(-1)
    # In the file's own dtype and on the host, the parameter's memory is the buffer.
    direct = target.device.type == "cpu" and target.dtype == source_dtype
    target_bytes = _bytes_of(target_N) if direct else memoryview(b"")
    staging_bytes = _bytes_of(staging)
    staging_N = staging.view(source_dtype)
    done_bytes = 0
    for start, count in chunks(source, chunk_bytes=CHUNK_BYTES):
        buffer = target_bytes[done_bytes : done_bytes + count] if direct else staging_bytes[:count]
        reader.read_into(buffer, source.path, start=start)
        digest.update(buffer)
        if not direct:
            first, items = done_bytes // source_dtype.itemsize, count // source_dtype.itemsize
            # Blocks until the copy is done, so the buffer may be filled again.
            target_N[first : first + items].copy_(staging_N[:items])
        done_bytes += count
    return digest.hexdigest()


def _check_values(part: str, name: str, source: Source, target: torch.Tensor) -> None:
    """Refuses weights that an aborted or a damaged copy leaves where all bytes are there.

    Raises:
        ModelUnusable: numbers that are not finite, or zeros where none can be.
    """
    if not isinstance(source, StoredTensor):
        return
    where = f"{name} of the {part} ({source.key} in {source.path})"
    if not bool(torch.isfinite(target).all()):
        narrow = f" in {target.dtype}" if source.dtype != "F16" else ""
        raise ModelUnusable(f"{where} holds numbers that are not finite{narrow}: {_AGAIN}")
    if target.dim() < _MATRIX:
        return
    if not bool(target.any()):
        raise ModelUnusable(f"{where} holds zeros alone: {_AGAIN}")


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the host."""
    return tensor.view(-1).view(torch.uint8).numpy().data


# Tokenizers, settings, fingerprint.


def _tokenizer(files: TokenizerFiles) -> Any:
    if (files.folder / "vocab.json").is_file():
        return transformers.CLIPTokenizer.from_pretrained(files.folder, local_files_only=True)
    # The shipped vocabulary, or a lone tokenizer.json, which transformers 4 does not read.
    with tempfile.TemporaryDirectory(prefix="clip-vocabulary-") as folder:
        complete = pathlib.Path(folder)
        shutil.copytree(files.folder, complete, dirs_exist_ok=True)
        clip_vocabulary.write(clip_vocabulary.read(files.folder), complete)
        return transformers.CLIPTokenizer.from_pretrained(complete, local_files_only=True)


def _scheduler_config(files: ModelFiles) -> dict[str, object]:
    config = dict(files.scheduler_config)
    name = config.get("_class_name", "FlowMatchEulerDiscreteScheduler")
    if name != "FlowMatchEulerDiscreteScheduler":
        raise ModelUnusable(
            f"the scheduler of {files.path} is a {name}, which this worker does not follow: use a "
            "model with a FlowMatchEulerDiscreteScheduler"
        )
    try:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelUnusable(
            f"the scheduler of {files.path} cannot be built from its config ({error}): use the "
            "config that was published with the weights"
        ) from error
    return dict(scheduler.config)


def _settings_fact(part: str, config: Any) -> str:
    known = config.to_dict() if isinstance(config, transformers.PretrainedConfig) else config
    settings = {name: known[name] for name in _TELLING_SETTINGS[part]}
    return f"{part} settings {json.dumps(settings, sort_keys=True)}"


def _vocabulary_fact(files: TokenizerFiles, *, tokens_max: int) -> str:
    vocabulary = clip_vocabulary.read(files.folder)
    if max(vocabulary.token_ids.values()) >= tokens_max:
        raise ModelUnusable(
            f"the vocabulary of {files.folder} has tokens beyond the {tokens_max} that its text "
            "encoder knows: put the tokenizer's own vocab.json and merges.txt into that folder"
        )
    digest = vocabulary.digest(pad_token=files.pad_token, length_max=files.length_max)
    # The folder's name says which of the two tokenizers it is.
    return f"{files.folder.name} {digest}"


def _fingerprint(facts: Iterable[str]) -> ModelFingerprint:
    return ModelFingerprint(hashlib.sha256("\n".join(sorted(facts)).encode()).hexdigest())
