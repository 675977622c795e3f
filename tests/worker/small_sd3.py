"""A Stable Diffusion 3 of a few thousand weights: its size, configs, vocabulary and files."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from benchmarks import sd3_checkpoint_layout as layout
from edge_node.worker.clip_vocabulary import END_TOKEN, START_TOKEN, Vocabulary, write

LETTERS = [chr(code) for code in range(33, 127)]
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "re</w>", START_TOKEN, END_TOKEN]

SIZE = layout.Sd3Size(
    layers=3,
    width=32,
    channels=4,
    joint_width=48,
    pooled_width=40,
    positions_side=12,
    vae_channels=(8, 16, 16),
    vae_blocks=1,
    # Of unlike widths: diffusers tells the two in one file by them.
    clip_l=layout.ClipSize(layers=2, width=16, hidden=32, tokens=len(VOCABULARY)),
    clip_g=layout.ClipSize(layers=3, width=24, hidden=48, tokens=len(VOCABULARY)),
)
# The two features of Stable Diffusion 3.5 that its checkpoints add.
SIZE_35 = dataclasses.replace(SIZE, dual_layers=2, qk_norm_width=8)


def configs(size: layout.Sd3Size) -> dict[str, dict[str, object]]:
    """Content of the folder's config files by path."""
    levels = len(size.vae_channels)
    written: dict[str, dict[str, object]] = {
        "model_index.json": {
            "_class_name": "StableDiffusion3Pipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "transformer": ["diffusers", "SD3Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "shift": 3.0,
        },
        "transformer/config.json": {
            "_class_name": "SD3Transformer2DModel",
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": size.channels,
            "out_channels": size.channels,
            "num_layers": size.layers,
            "attention_head_dim": 8,
            "num_attention_heads": size.width // 8,
            "joint_attention_dim": size.joint_width,
            "caption_projection_dim": size.width,
            "pooled_projection_dim": size.pooled_width,
            "pos_embed_max_size": size.positions_side,
            "dual_attention_layers": list(range(size.dual_layers)),
            "qk_norm": "rms_norm" if size.qk_norm_width else None,
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "block_out_channels": list(size.vae_channels),
            "layers_per_block": size.vae_blocks,
            "latent_channels": size.channels,
            "norm_num_groups": 4,
            "sample_size": 32,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    }
    for part, clip, activation in (
        ("text_encoder", size.clip_l, "quick_gelu"),
        ("text_encoder_2", size.clip_g, "gelu"),
    ):
        written[f"{part}/config.json"] = {
            "architectures": ["CLIPTextModelWithProjection"],
            "model_type": "clip_text_model",
            "vocab_size": clip.tokens,
            "hidden_size": clip.width,
            "intermediate_size": clip.hidden,
            "num_hidden_layers": clip.layers,
            "num_attention_heads": 2,
            "projection_dim": clip.width,
            "hidden_act": activation,
            "bos_token_id": clip.tokens - 2,
            "eos_token_id": clip.tokens - 1,
            "pad_token_id": clip.tokens - 1,
        }
    return written


def write_config_folder(folder: pathlib.Path, size: layout.Sd3Size = SIZE) -> pathlib.Path:
    """A diffusers folder without weights."""
    for name, content in configs(size).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    for name, pad_token in (("tokenizer", END_TOKEN), ("tokenizer_2", "!")):
        (folder / name).mkdir(exist_ok=True)
        write(Vocabulary(token_ids=ids, merges=["r e</w>"]), folder / name)
        (folder / name / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "tokenizer_class": "CLIPTokenizer",
                    "model_max_length": 77,
                    "bos_token": START_TOKEN,
                    "eos_token": END_TOKEN,
                    "unk_token": END_TOKEN,
                    "pad_token": pad_token,
                }
            )
        )
    return folder


def write_single_file(
    path: pathlib.Path,
    *,
    size: layout.Sd3Size = SIZE,
    dtype: str = "F16",
    t5: bool = False,
    seed: int = 0,
    extra: Mapping[str, tuple[int, ...]] | None = None,
) -> pathlib.Path:
    """A checkpoint with CLIPs; its T5, 10 GB of fp8, is told of by the header and takes no disk."""
    shapes = layout.single_file(size, clips=True, t5=t5) | dict(extra or {})
    layout.write(path, shapes, dtype=dtype, seed=seed, hole={layout.T5: "F8_E4M3"})
    return path


def write_apart(
    folder: pathlib.Path, *, size: layout.Sd3Size = SIZE, subfolder: str = "text_encoders"
) -> pathlib.Path:
    """`sd3_medium.safetensors` and the two CLIPs in files of their own; returns the first."""
    folder.mkdir(exist_ok=True)
    (folder / subfolder).mkdir(exist_ok=True)
    path = folder / "sd3_medium.safetensors"
    layout.write(path, layout.single_file(size, clips=False, t5=False), dtype="F16")
    for name, shapes in lone_clips(size).items():
        layout.write(folder / subfolder / name, shapes, dtype="F16", seed=1)
    return path


def lone_clips(size: layout.Sd3Size) -> Mapping[str, layout.Shapes]:
    """The CLIP files' tensors, with what such files hold beside weights."""
    unused: layout.Shapes = {"text_model.embeddings.position_ids": (1, 77), "logit_scale": ()}
    return {
        "clip_l.safetensors": layout.clip(size.clip_l, projection=False) | unused,
        "clip_g.safetensors": layout.clip(size.clip_g, projection=True) | unused,
    }
