"""Where a model's weights, configs and vocabularies are: a diffusers folder or a single file.

Owns recognising the layout of a Stable Diffusion 3 without its T5 encoder, from headers alone and
before torch is imported, so that a wrong path is told at once. It reads no weights and must not
import torch. Sources map a parameter of a module to the bytes that fill it; whether the modules
want just these is for `sd3_parts` to say.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_node.json_text import parsed
from edge_node.model_names import name_of
from edge_node.worker import clip_vocabulary, sd3_checkpoint, sd3_configs
from edge_node.worker.denoiser import ModelUnusable
from edge_node.worker.safetensors_file import StoredTensor, read_header
from edge_node.worker.sd3_checkpoint import Source

CLIP_PARTS = ("text_encoder", "text_encoder_2")
WEIGHED_PARTS = ("transformer", "vae", *CLIP_PARTS)
TOKENIZERS = ("tokenizer", "tokenizer_2")
# The T5 encoder is not part of what is served.
PARTS = ("scheduler", *TOKENIZERS, *WEIGHED_PARTS)
CLIP_FILES = ("clip_l.safetensors", "clip_g.safetensors")
# Where the SD3-medium repository lays its CLIPs, seen from the checkpoint.
_CLIP_FOLDERS = (".", "text_encoders")

# What a part's config must say that it is; transformers lists names, diffusers has one.
_CLASSES = {
    "transformer": "SD3Transformer2DModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModelWithProjection",
    "text_encoder_2": "CLIPTextModelWithProjection",
}
_WEIGHTS_STEM = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_SHARD = re.compile(r"-\d{5}-of-\d{5}\b")
# Every published SD3 has this width of context; the smallest of them has this many layers.
_LICENSED_JOINT_WIDTH = 4096
_LICENSED_LAYERS_MIN = 24
_LICENCE_NAME = re.compile(r"stability\s+ai\s+[\w\s-]{0,40}community\s+licen[cs]e", re.IGNORECASE)
_LICENCE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class PartFiles:
    """One module: the config it is built from, and the source of each of its parameters."""

    config: Mapping[str, Any]
    sources: Mapping[str, Source]


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """A tokenizer's folder; without a vocabulary in it, CLIP's own is meant."""

    folder: pathlib.Path
    pad_token: str
    length_max: int


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A whole Stable Diffusion 3 as it lies on the disk.

    Attributes:
        path: what the operator pointed at.
        parts: by name, those of `WEIGHED_PARTS`.
        scheduler_config: as written in its file.
        tokenizers: of CLIP-L and CLIP-bigG.
        needs_licence: whether the operator must state that Stability AI's licence is accepted.
    """

    path: pathlib.Path
    parts: Mapping[str, PartFiles]
    scheduler_config: Mapping[str, Any]
    tokenizers: tuple[TokenizerFiles, TokenizerFiles]
    needs_licence: bool

    @property
    def name(self) -> str:
        """What to serve the model as, unless the operator names it."""
        return name_of(self.path)


def find(
    path: pathlib.Path,
    clip_paths: Sequence[pathlib.Path] = (),
    *,
    config_folder: pathlib.Path | None = None,
) -> ModelFiles:
    """Recognises the model at `path`, a diffusers folder or a single .safetensors file.

    Args:
        path: what the operator points --model at.
        clip_paths: CLIP-L's and CLIP-bigG's files, in this order, for a single file without them;
            left empty, they are looked for beside it.
        config_folder: a diffusers folder whose configs and tokenizers go with a single file;
            without it, those of SD3-medium.

    Raises:
        ModelUnusable: something is missing, damaged or of another architecture; says what to do.
    """
    if path.is_file():
        files = _single_file(path, tuple(clip_paths), config_folder or sd3_configs.config_folder())
    else:
        if path.exists() and (clip_paths or config_folder):
            raise ModelUnusable(
                f"{path} is no single file: a diffusers folder brings its own CLIPs and configs, "
                "so give neither CLIP files nor a config folder with it"
            )
        files = _folder(path)
    return files


def check_licence(files: ModelFiles, *, accepted: bool) -> None:
    """Raises ModelUnusable when the weights are Stability AI's and acceptance was not stated."""
    if files.needs_licence and not accepted:
        raise ModelUnusable(
            f"{files.path} is under the Stability AI Community License: read it at "
            "https://stability.ai/license, and if you accept it, set "
            "`stability_license_accepted = true` in the config or give the worker "
            "--stability-license-accepted"
        )


# Folders.


def _folder(folder: pathlib.Path) -> ModelFiles:
    _check_index(folder)
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelUnusable(
            f"the model folder {folder} lacks {', '.join(missing)}: copy it again, whole"
        )
    for tokenizer in TOKENIZERS:
        if not clip_vocabulary.has_own(folder / tokenizer):
            raise ModelUnusable(
                f"there is no vocabulary ({' or '.join(clip_vocabulary.VOCABULARY_NAMES)}) in "
                f"{folder / tokenizer}: copy the model again, whole"
            )
    return _model_files(
        folder,
        config_folder=folder,
        sources={part: _folder_sources(folder / part, part=part) for part in WEIGHED_PARTS},
    )


def _check_index(folder: pathlib.Path) -> None:
    index_path = folder / "model_index.json"
    if not index_path.is_file():
        state = "has no model_index.json" if folder.is_dir() else "does not exist"
        raise ModelUnusable(
            f"the model folder {folder} {state}: point --model at a diffusers folder of "
            "Stable Diffusion 3, the one that holds model_index.json, or at a single "
            ".safetensors file of it"
        )
    pipeline = _read_json(index_path).get("_class_name")
    if pipeline != "StableDiffusion3Pipeline":
        raise ModelUnusable(
            f"{folder} holds a {pipeline}, not a StableDiffusion3Pipeline: point --model at a "
            "diffusers folder of Stable Diffusion 3"
        )


def _folder_sources(folder: pathlib.Path, *, part: str) -> dict[str, Source]:
    stored: dict[str, StoredTensor] = {}
    for path in _weights_paths(folder, stem=_WEIGHTS_STEM[part]):
        stored |= read_header(path)
    return {key: tensor for key, tensor in stored.items() if not sd3_checkpoint.is_unused(key)}


def _weights_paths(folder: pathlib.Path, *, stem: str) -> list[pathlib.Path]:
    """The plain weights, whole or in shards; else those of a variant, such as fp16."""
    whole = f"{stem}.safetensors"
    indices = [f"{whole}.index.json", *_names(folder, f"{whole}.index.*.json")]
    wholes = [whole, *_names(folder, f"{stem}.*.safetensors")]
    # The plain ones of both kinds come before any variant.
    for name in (wholes[0], indices[0], *wholes[1:], *indices[1:]):
        path = folder / name
        if not path.is_file() or _SHARD.search(name):
            continue
        return [path] if name in wholes else _shard_paths(path)
    raise ModelUnusable(
        f"there are no weights ({whole}) in {folder}: copy the model again, whole, with its "
        "weights as safetensors"
    )


def _shard_paths(index_path: pathlib.Path) -> list[pathlib.Path]:
    weight_map = _read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) for name in weight_map.values()
    ):
        raise ModelUnusable(
            f"{index_path} names no files (weight_map): copy the model again, whole"
        )
    names = sorted(set(weight_map.values()))
    paths = [index_path.parent / name for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ModelUnusable(
            f"{index_path} names {', '.join(missing)}, which is not there: copy the model again, "
            "whole"
        )
    return paths


def _names(folder: pathlib.Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


# Single files.


def _single_file(
    path: pathlib.Path, clip_paths: tuple[pathlib.Path, ...], config_folder: pathlib.Path
) -> ModelFiles:
    stored = read_header(path)
    if not sd3_checkpoint.is_sd3(stored):
        raise ModelUnusable(
            f"{path} looks like {sd3_checkpoint.kind(stored)}, not like a checkpoint of Stable "
            "Diffusion 3: point --model at sd3_medium.safetensors, "
            "sd3_medium_incl_clips.safetensors or a diffusers folder"
        )
    if sd3_checkpoint.is_sd35(stored) and not _config(config_folder, "transformer").get("qk_norm"):
        raise ModelUnusable(
            f"{path} is a Stable Diffusion 3.5, whose configs do not come with this package: set "
            "single_file_configs (--model-config) to its diffusers folder, of which no weights "
            "are needed, or point --model at the folder itself"
        )
    unknown = sd3_checkpoint.unknown(stored)
    if unknown:
        raise ModelUnusable(
            f"{path} holds {len(unknown)} tensors that are no part of Stable Diffusion 3, such as "
            f"{unknown[0]}: use a checkpoint in the published layout"
        )
    sources = {
        "transformer": sd3_checkpoint.transformer(stored),
        "vae": sd3_checkpoint.vae(stored),
        **{part: sd3_checkpoint.clip(stored, part=part) for part in CLIP_PARTS},
    }
    if not sources["vae"]:
        raise ModelUnusable(
            f"{path} holds no VAE ({sd3_checkpoint.VAE_PREFIX}*): use the published checkpoint, "
            "which has one"
        )
    absent = [part for part in CLIP_PARTS if clip_paths or not sources[part]]
    found = _clip_paths(path, clip_paths, absent) if absent else {}
    for part, clip_path in found.items():
        sources[part] = _lone_clip(clip_path, part=part)
    return _model_files(path, config_folder=config_folder, sources=sources)


def _clip_paths(
    path: pathlib.Path, given: tuple[pathlib.Path, ...], absent: Sequence[str]
) -> dict[str, pathlib.Path]:
    """File of each CLIP that the checkpoint lacks: the given ones, else those beside it."""
    if given:
        if len(given) != len(CLIP_PARTS):
            raise ModelUnusable(
                f"{len(given)} CLIP files were given: give two, CLIP-L's and then CLIP-bigG's"
            )
        lost = [str(clip_path) for clip_path in given if not clip_path.is_file()]
        if lost:
            raise ModelUnusable(f"there is no CLIP file {' and no '.join(lost)}: mend the path")
        return dict(zip(CLIP_PARTS, given, strict=True))
    folders = [path.parent / folder for folder in _CLIP_FOLDERS]
    wanted = dict(zip(CLIP_PARTS, CLIP_FILES, strict=True))
    found = {
        part: next((f / wanted[part] for f in folders if (f / wanted[part]).is_file()), None)
        for part in absent
    }
    here = {part: clip_path for part, clip_path in found.items() if clip_path is not None}
    if len(here) < len(absent):
        names = " and ".join(wanted[part] for part in absent if part not in here)
        raise ModelUnusable(
            f"{path} holds no CLIP text encoders of its own, and {names} was found neither in "
            f"{' nor in '.join(str(folder) for folder in folders)}: put both {CLIP_FILES[0]} and "
            f"{CLIP_FILES[1]} there, or point --model at sd3_medium_incl_clips.safetensors"
        )
    return here


def _lone_clip(path: pathlib.Path, *, part: str) -> dict[str, Source]:
    stored = read_header(path)
    sources = sd3_checkpoint.lone_clip(stored, part=part)
    if not sources:
        raise ModelUnusable(
            f"{path} looks like {sd3_checkpoint.kind(stored)}, not like the CLIP text encoder of "
            f"Stable Diffusion 3's {part}: use the clip_l.safetensors and clip_g.safetensors that "
            "are published with it"
        )
    return sources


# Both.


def _model_files(
    path: pathlib.Path,
    *,
    config_folder: pathlib.Path,
    sources: Mapping[str, Mapping[str, Source]],
) -> ModelFiles:
    parts = {
        part: PartFiles(config=_config(config_folder, part), sources=sources[part])
        for part in WEIGHED_PARTS
    }
    return ModelFiles(
        path=path,
        parts=parts,
        scheduler_config=_read_json(config_folder / "scheduler" / "scheduler_config.json"),
        tokenizers=(
            _tokenizer(config_folder / TOKENIZERS[0]),
            _tokenizer(config_folder / TOKENIZERS[1]),
        ),
        needs_licence=_is_licensed_size(parts["transformer"].config) or _has_licence(path),
    )


def _config(config_folder: pathlib.Path, part: str) -> dict[str, Any]:
    config_path = config_folder / part / "config.json"
    config = _read_json(config_path)
    names = config.get("architectures") or [config.get("_class_name", _CLASSES[part])]
    if _CLASSES[part] not in names:
        raise ModelUnusable(
            f"{config_path} describes a {names[0]}, not a {_CLASSES[part]}: use the folder of a "
            "Stable Diffusion 3"
        )
    return config


def _tokenizer(folder: pathlib.Path) -> TokenizerFiles:
    config = _read_json(folder / "tokenizer_config.json")
    if "pad_token" not in config and (folder / "special_tokens_map.json").is_file():
        config = _read_json(folder / "special_tokens_map.json") | config
    pad_token = config.get("pad_token", clip_vocabulary.END_TOKEN)
    return TokenizerFiles(
        folder=folder,
        # Older versions of transformers write a token with its properties.
        pad_token=pad_token["content"] if isinstance(pad_token, dict) else pad_token,
        length_max=config.get("model_max_length", 77),
    )


def _is_licensed_size(transformer_config: Mapping[str, Any]) -> bool:
    return (
        transformer_config.get("joint_attention_dim") == _LICENSED_JOINT_WIDTH
        and transformer_config.get("num_layers", 0) >= _LICENSED_LAYERS_MIN
    )


def _has_licence(path: pathlib.Path) -> bool:
    folder = path.parent if path.is_file() else path
    for licence_path in sorted(folder.glob("LICENSE*")):
        with licence_path.open("rb") as file:
            text = file.read(_LICENCE_BYTES_MAX).decode(errors="replace")
        if _LICENCE_NAME.search(text):
            return True
    return False


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelUnusable(f"there is no {path}: copy the model's folder again, whole") from None
    except ValueError as error:
        raise ModelUnusable(f"{path} is damaged ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise ModelUnusable(f"{path} holds no settings by name: copy it again")
    return content
